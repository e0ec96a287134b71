//! One inode of v6, in either of its two forms, and where its data lies (spec/rafs-v6.md §7).

use super::chunks;
use super::layout::{
    ADDRESS_ALIGN, CHUNKED, ChunkAddress, CompactInode, ExtendedInode, INLINE, NID_UNIT, PLAIN,
};
use super::reader::Tree;
use super::xattr::area_size;
use crate::error::Result;
use crate::inode::{Attributes, FileType, Ino};

/// Bytes of the longest symlink target.
const SYMLINK_MAX: u64 = 4096;

/// Where the data of an inode lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No data: devices, fifos and sockets.
    Nowhere,
    /// Directories and symlinks: `whole` bytes at `blocks`, then `tail` bytes at `tail_at`.
    Blocks {
        /// Offset of the whole blocks.
        blocks: u64,
        /// Bytes of them.
        whole: u64,
        /// Offset of the rest, behind the blocks or behind the inode.
        tail_at: u64,
        /// Bytes of the rest, less than a block.
        tail: u64,
    },
    /// Regular files: `count` chunk addresses at `offset`.
    Chunks {
        /// Offset of the addresses.
        offset: u64,
        /// How many.
        count: u64,
    },
}

/// An inode, all parts of which lie in the file.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    pub(crate) nid: u64,
    /// Of the inode in the bootstrap.
    pub(crate) offset: u64,
    pub(crate) file_type: FileType,
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    /// Bytes of a file, of directory entries, of a symlink's target.
    pub(crate) size: u64,
    union: u32,
    mtime: i64,
    mtime_nsec: u32,
    /// Offset and bytes of the area of extended attributes.
    pub(crate) xattrs: (u64, u64),
    pub(crate) place: Place,
}

impl Node {
    /// Reads the inode of `nid`, at `offset`.
    pub(super) fn read(tree: &Tree, nid: u64, offset: u64) -> Result<Self> {
        let image = tree.image();
        let short: &CompactInode = image.view(offset, "inode")?;
        let format = short.format.get();
        if format & !0xf != 0 {
            let found = format!("{format:#x}");
            return Err(image.corrupt(offset, "inode format", "bits 0 to 3 only", found));
        }
        let xattr_size = area_size(short.xattr_count.get());
        let mode = short.mode.get();
        let Some(file_type) = FileType::from_mode(mode.into()) else {
            return Err(image.corrupt(offset + 4, "mode", "a known file type", format!("{mode:#o}")));
        };
        let head = if format & 1 == 0 { size_of::<CompactInode>() } else { size_of::<ExtendedInode>() };
        let xattr_offset = offset + head as u64;
        let mut node = if format & 1 == 0 {
            let (mtime, mtime_nsec) = tree.build_time();
            Self {
                nid,
                offset,
                file_type,
                mode,
                uid: short.uid.get().into(),
                gid: short.gid.get().into(),
                nlink: short.nlink.get().into(),
                size: short.size.get().into(),
                union: short.union.get(),
                mtime,
                mtime_nsec,
                xattrs: (xattr_offset, xattr_size),
                place: Place::Nowhere,
            }
        } else {
            let long: &ExtendedInode = image.view(offset, "inode")?;
            Self {
                nid,
                offset,
                file_type,
                mode,
                uid: long.uid.get(),
                gid: long.gid.get(),
                nlink: long.nlink.get(),
                size: long.size.get(),
                union: long.union.get(),
                mtime: long.mtime.get() as i64,
                mtime_nsec: long.mtime_nsec.get(),
                xattrs: (xattr_offset, xattr_size),
                place: Place::Nowhere,
            }
        };
        if node.nlink == 0 {
            return Err(image.corrupt(offset, "link count", "1 or more", 0));
        }
        if node.mtime_nsec >= 1_000_000_000 {
            return Err(image.corrupt(offset, "nanoseconds", "under 10^9", node.mtime_nsec));
        }
        if xattr_size != 0 {
            image.range(xattr_offset, xattr_size, "extended attributes")?;
        }
        node.place = node.find_data(tree, format >> 1, xattr_offset + xattr_size)?;
        Ok(node)
    }

    /// Finds the data; `end` is where inode and extended attributes end, inside the file or at its end.
    fn find_data(&self, tree: &Tree, layout: u16, end: u64) -> Result<Place> {
        let (image, block) = (tree.image(), tree.block_size());
        let layout_ok = match self.file_type {
            FileType::Regular => layout == CHUNKED,
            FileType::Directory | FileType::Symlink => layout == PLAIN || layout == INLINE,
            // The format has nothing there that could be read wrongly.
            _ => layout == PLAIN,
        };
        if !layout_ok {
            let expected = format!("a data layout for a {}", self.file_type);
            return Err(image.corrupt(self.offset, "inode format", expected, layout));
        }
        match self.file_type {
            FileType::Regular => {
                // Inodes and attributes are multiples of 4, so this may step over the end of the file by 4.
                let offset = end.next_multiple_of(ADDRESS_ALIGN);
                let count = self.size.div_ceil(tree.chunk_size().into());
                if self.size > i64::MAX as u64 {
                    return Err(image.corrupt(self.offset + 8, "size", "under 2^63", self.size));
                }
                chunks::check_format(image, self.offset + 16, self.union)?;
                if count != 0 {
                    image.array::<ChunkAddress>(offset, count, "chunk addresses")?;
                }
                Ok(Place::Chunks { offset, count })
            }
            FileType::Directory | FileType::Symlink => {
                let limit = match self.file_type {
                    FileType::Symlink => SYMLINK_MAX,
                    _ => image.len(),
                };
                if self.size == 0 || self.size > limit {
                    let expected = format!("1 to {limit}");
                    return Err(image.corrupt(self.offset + 8, "size", expected, self.size));
                }
                let tail = self.size % block;
                let whole = self.size - tail;
                let blocks = u64::from(self.union) * block;
                let tail_at = if layout == INLINE { end } else { blocks + whole };
                if layout == INLINE && tail != 0 && tail_at % block + tail > block {
                    let found = format!("{tail} bytes at {tail_at}");
                    return Err(image.corrupt(self.offset, "inline data", "data inside one block", found));
                }
                if whole != 0 {
                    image.range(blocks, whole, "data blocks")?;
                }
                if tail != 0 {
                    image.range(tail_at, tail, "last data block")?;
                }
                Ok(Place::Blocks { blocks, whole, tail_at, tail })
            }
            _ => Ok(Place::Nowhere),
        }
    }

    pub(crate) fn ino(&self) -> Ino {
        Ino(self.nid)
    }

    /// Bytes of the bootstrap that belong to this inode alone.
    pub(crate) fn footprint(&self) -> u64 {
        let own = self.xattrs.0 + self.xattrs.1 - self.offset;
        own + match self.place {
            Place::Nowhere => 0,
            Place::Blocks { whole, tail, .. } => whole + tail,
            Place::Chunks { count, .. } => count * size_of::<ChunkAddress>() as u64,
        }
    }

    /// Device number as stored, which fifos and sockets have too; 0 for what has content.
    pub(crate) fn rdev(&self) -> u32 {
        if self.place == Place::Nowhere { self.union } else { 0 }
    }

    pub(crate) fn attributes(&self) -> Attributes {
        Attributes {
            file_type: self.file_type,
            mode: self.mode.into(),
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            blocks: self.size.div_ceil(512),
            rdev: if self.file_type.is_device() { self.union } else { 0 },
            mtime: self.mtime,
            mtime_nsec: self.mtime_nsec,
        }
    }
}

const _: () = assert!(NID_UNIT as usize == size_of::<CompactInode>());
