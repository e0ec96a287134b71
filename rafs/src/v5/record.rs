//! One inode record: its head, and the parts behind it (spec/rafs-v5.md §6).

use std::collections::BTreeMap;
use std::ops::Range;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::Xattrs;
use super::layout::{ALIGN, Inode, InodeFlags};
use super::reader::{ROOT, Tree};
use crate::chunk_record::ChunkRecord;
use crate::directory::is_name;
use crate::error::Result;
use crate::image::{Image, shown};
use crate::inode::{Attributes, FileType, Ino};

/// An inode record whose parts lie in the file and whose numbers allow the arithmetic done with them.
pub(crate) struct Record<'a> {
    pub(crate) index: u32,
    /// Of the head in the bootstrap.
    pub(crate) offset: u64,
    /// Bytes of the whole record.
    pub(crate) len: u64,
    pub(crate) head: &'a Inode,
    pub(crate) file_type: FileType,
    pub(crate) name: &'a [u8],
    pub(crate) symlink: &'a [u8],
    /// Offset of the pairs, and the pairs.
    xattrs: Option<(u64, &'a [u8])>,
    pub(crate) chunks: &'a [ChunkRecord],
    pub(crate) chunks_offset: u64,
}

impl<'a> Record<'a> {
    /// Reads the record at `index`.
    pub(super) fn read(tree: &'a Tree, index: u32) -> Result<Self> {
        let image = tree.image();
        let offset = tree.record_offset(index)?;
        let head: &Inode = image.view(offset, "inode")?;
        let mode = head.mode.get();
        let Some(file_type) = FileType::from_mode(mode) else {
            return Err(image.corrupt(offset + 60, "mode", "a known file type", format!("{mode:#o}")));
        };

        // Each length is at most 64 KiB or 2^32 records: no overflow at these offsets.
        let mut at = offset + size_of::<Inode>() as u64;
        let mut part = |len: u64, what| {
            let bytes = image.range(at, len, what);
            at += len.next_multiple_of(ALIGN);
            bytes
        };
        let name = part(head.name_size.get().into(), "name")?;
        let symlink = part(head.symlink_size.get().into(), "symlink target")?;
        let mut xattrs = None;
        if InodeFlags::from_bits_truncate(head.flags.get()).contains(InodeFlags::XATTR) {
            let size = image.view::<U64>(at, "size of the extended attributes")?.get();
            at += ALIGN;
            // Bounded by the file before anything is added to it.
            let pairs = image.range(at, size, "extended attributes")?;
            xattrs = Some((at, pairs));
            at += size.next_multiple_of(ALIGN);
        }
        let chunks_offset = at;
        let mut chunks: &[ChunkRecord] = &[];
        if file_type == FileType::Regular && head.child_count != 0 {
            chunks = image.array(at, head.child_count.get().into(), "chunk records")?;
            at += size_of_val(chunks) as u64;
        }
        let len = at - offset;
        let record =
            Self { index, offset, len, head, file_type, name, symlink, xattrs, chunks, chunks_offset };
        record.check(tree)?;
        Ok(record)
    }

    fn check(&self, tree: &Tree) -> Result<()> {
        let (image, head, at) = (tree.image(), self.head, self.offset);
        if tree.tables().overlap(at, self.len) {
            let found = format!("{} bytes over a table", self.len);
            return Err(image.corrupt(at, "inode", "a place of its own", found));
        }
        let (ino, nlink) = (head.ino.get(), head.nlink.get());
        if nlink == 0 {
            return Err(image.corrupt(at + 88, "link count", "1 or more", nlink));
        }
        // Only regular files are hard-linked; a member of a group carries the index of the first one.
        let linked = self.file_type == FileType::Regular && nlink > 1;
        let number_ok =
            ino == u64::from(self.index) || linked && (1..=u64::from(tree.entries())).contains(&ino);
        if !number_ok {
            let expected = format!("{}, the index", self.index);
            return Err(image.corrupt(at + 40, "inode number", expected, ino));
        }
        // Parents come first: with `child_index` behind the directory this makes loops impossible.
        let parent = head.parent.get();
        let parent_ok = match self.index {
            ROOT => parent == 0,
            _ => parent != 0 && (parent < ino || linked && parent <= tree.entries().into()),
        };
        if !parent_ok {
            return Err(image.corrupt(at + 32, "parent of an inode", "an earlier inode", parent));
        }
        if self.index != ROOT && !is_name(self.name) {
            return Err(image.corrupt(at + 128, "name", "a file name", shown(self.name)));
        }
        if head.mtime_nsec.get() >= 1_000_000_000 {
            return Err(image.corrupt(at + 108, "nanoseconds", "under 10^9", head.mtime_nsec));
        }
        match self.file_type {
            FileType::Directory => {
                let (first, count, entries) =
                    (head.child_index.get(), head.child_count.get(), u64::from(tree.entries()));
                let end = u64::from(first) + u64::from(count);
                if count > 0 && (first <= self.index || end > entries + 1) {
                    let expected = format!("children between {} and {entries}", self.index);
                    let found = format!("{count} from {first}");
                    return Err(image.corrupt(at + 92, "children", expected, found));
                }
            }
            FileType::Symlink if self.symlink.is_empty() => {
                return Err(image.corrupt(at + 102, "symlink target", "1 byte or more", 0));
            }
            FileType::Regular => {
                let size = head.size.get();
                let (expected, found) = (size.div_ceil(tree.chunk_size().into()), self.chunks.len() as u64);
                if size > i64::MAX as u64 {
                    return Err(image.corrupt(at + 64, "size", "under 2^63", size));
                }
                if found != expected && !(self.has_hole() && found < expected) {
                    let expected = format!("{expected} for {size} bytes");
                    return Err(image.corrupt(at + 96, "chunk count", expected, found));
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn ino(&self) -> Ino {
        Ino(self.head.ino.get())
    }

    pub(crate) fn parent(&self) -> Ino {
        Ino(self.head.parent.get())
    }

    pub(crate) fn nlink(&self) -> u32 {
        self.head.nlink.get()
    }

    /// Bytes of a file.
    pub(crate) fn size(&self) -> u64 {
        self.head.size.get()
    }

    /// True if chunks may be missing, and be zeros.
    pub(crate) fn has_hole(&self) -> bool {
        InodeFlags::from_bits_truncate(self.head.flags.get()).contains(InodeFlags::HAS_HOLE)
    }

    /// Indexes of a directory's children; empty for everything else.
    pub(crate) fn children(&self) -> Range<u32> {
        match (self.file_type, self.head.child_count.get()) {
            (FileType::Directory, 1..) => {
                let first = self.head.child_index.get();
                // The end is at most one more than the entries of the inode table, which are 32 bit.
                first..first.saturating_add(self.head.child_count.get())
            }
            _ => 0..0,
        }
    }

    /// True if the two differ in nothing but name, parent and the order of extended attributes, which the
    /// reference implementation stores as they come out of a hash map.
    pub(super) fn is_same_file(&self, other: &Record<'_>, image: &Image) -> Result<bool> {
        let xattrs = |record: &Record<'_>| -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
            let pairs = record.xattrs.map(|(offset, pairs)| Xattrs::new(image, offset, pairs));
            let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
            pairs.into_iter().flatten().map(|pair| pair.map(owned)).collect()
        };
        Ok(self.head.digest == other.head.digest
            && self.ino() == other.ino()
            && self.attributes() == other.attributes()
            && self.chunks.as_bytes() == other.chunks.as_bytes()
            && xattrs(self)? == xattrs(other)?)
    }

    pub(crate) fn xattrs(&self, image: &'a Image) -> Option<Xattrs<'a>> {
        self.xattrs.map(|(offset, pairs)| Xattrs::new(image, offset, pairs))
    }

    pub(crate) fn attributes(&self) -> Attributes {
        let head = self.head;
        Attributes {
            file_type: self.file_type,
            mode: head.mode.get(),
            uid: head.uid.get(),
            gid: head.gid.get(),
            nlink: head.nlink.get(),
            size: match self.file_type {
                FileType::Symlink => self.symlink.len() as u64,
                _ => head.size.get(),
            },
            blocks: head.blocks.get(),
            rdev: if self.file_type.is_device() { head.rdev.get() } else { 0 },
            mtime: head.mtime.get() as i64,
            mtime_nsec: head.mtime_nsec.get(),
        }
    }
}
