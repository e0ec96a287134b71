//! An opened v5 bootstrap: the superblock, validated, and the way from numbers to inode records.

use std::cmp::Ordering;
use std::sync::Arc;

use storage::blob::{BlobDescription, Compressor};
use storage::digest::Digester;
use zerocopy::little_endian::U32;

use super::blobs::{self, Common};
use super::layout::{ALIGN, ExtendedBlob, Inode, MAGIC, SUPERBLOCK_SIZE, Superblock, VERSION};
use super::record::Record;
use super::{Entries, Extents, Xattrs};
use crate::blob_limits;
use crate::check::Inspection;
use crate::error::{Error, Result};
use crate::extent::clip;
use crate::flags::ImageFlags;
use crate::image::{Image, shown};
use crate::inode::{Attributes, FileType, Ino, expect_type};
use crate::merkle::Verified;
use crate::prefetch_table;
use crate::tables::Tables;

/// Index, and so inode number, of the root.
pub(crate) const ROOT: u32 = 1;

/// A v5 bootstrap.
pub(crate) struct Tree {
    image: Image,
    flags: ImageFlags,
    chunk_size: u32,
    compressor: Compressor,
    digester: Digester,
    inode_count: u64,
    /// Entries of the inode table: the largest index and inode number.
    entries: u32,
    inode_table: u64,
    prefetch_table: (u64, u32),
    tables: Tables,
    blobs: Vec<Arc<BlobDescription>>,
    blob_prefetch_sizes: Vec<u32>,
    verified: Option<Verified>,
}

impl Tree {
    /// True if the bytes claim to be v5.
    pub(crate) fn detect(image: &Image) -> bool {
        image
            .view::<[U32; 2]>(0, "magic")
            .is_ok_and(|[magic, version]| *magic == MAGIC && *version == VERSION)
    }

    /// Validates superblock and tables. With `verify`, inodes are checked against their digests when touched.
    pub(crate) fn open(image: Image, verify: bool) -> Result<Self> {
        let superblock: &Superblock = image.view(0, "superblock")?;
        if superblock.size != u32::try_from(SUPERBLOCK_SIZE).unwrap_or(0) {
            return Err(image.corrupt(8, "superblock size", SUPERBLOCK_SIZE.to_string(), superblock.size));
        }
        if image.len() <= SUPERBLOCK_SIZE {
            let expected = format!("more than {SUPERBLOCK_SIZE} bytes");
            return Err(image.corrupt(0, "bootstrap", expected, image.len()));
        }
        let chunk_size = blob_limits::chunk_size(&image, 12, superblock.chunk_size.get())?;

        let bits = superblock.flags.get();
        let flags = ImageFlags::from_bits(bits)
            .ok_or_else(|| image.unsupported(format!("superblock flags {bits:#x}")))?;
        if flags.intersects(ImageFlags::TARFS | ImageFlags::ENCRYPT_AES_128_XTS) {
            return Err(image.unsupported("tarfs or encryption in a v5 image"));
        }
        let (Some(compressor), Some(digester)) = (flags.compressor(), flags.digester()) else {
            let found = format!("{bits:#x}");
            return Err(image.corrupt(16, "superblock flags", "one compressor and one digester", found));
        };

        let entries = superblock.inode_table_entries.get();
        let inode_count = superblock.inode_count.get();
        if entries == 0 || inode_count > entries.into() {
            let expected = format!("1 to {entries} inodes, as the inode table has entries");
            return Err(image.corrupt(24, "inode count", expected, inode_count));
        }

        let inode_table = superblock.inode_table_offset.get();
        let blob_table = (superblock.blob_table_offset.get(), u64::from(superblock.blob_table_size.get()));
        let extended =
            (superblock.extended_blob_table_offset.get(), superblock.extended_blob_table_entries.get());
        let prefetch_table =
            (superblock.prefetch_table_offset.get(), superblock.prefetch_table_entries.get());
        let mut tables = Tables::behind(SUPERBLOCK_SIZE);
        tables.add(&image, "inode table", inode_table, u64::from(entries) * 4, ALIGN)?;
        tables.add(&image, "prefetch table", prefetch_table.0, u64::from(prefetch_table.1) * 4, ALIGN)?;
        tables.add(&image, "blob table", blob_table.0, blob_table.1, ALIGN)?;
        tables.add(&image, "extended blob table", extended.0, u64::from(extended.1) * 64, ALIGN)?;

        let extended: &[ExtendedBlob] = match extended.1 {
            0 => &[],
            count => image.array(extended.0, count.into(), "extended blob table")?,
        };
        let common = Common { chunk_size, compressor, digester };
        let (blobs, blob_prefetch_sizes) = blobs::read(&image, &common, blob_table, extended)?;
        let verified = verify.then(|| Verified::none_of(entries));
        let tree = Self {
            image,
            flags,
            chunk_size,
            compressor,
            digester,
            inode_count,
            entries,
            inode_table,
            prefetch_table,
            tables,
            blobs,
            blob_prefetch_sizes,
            verified,
        };
        tree.directory(Ino(ROOT.into()))?;
        Ok(tree)
    }

    pub(crate) fn into_image(self) -> Image {
        self.image
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    pub(crate) fn flags(&self) -> ImageFlags {
        self.flags
    }

    pub(crate) fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    pub(crate) fn compressor(&self) -> Compressor {
        self.compressor
    }

    pub(crate) fn digester(&self) -> Digester {
        self.digester
    }

    pub(crate) fn inode_count(&self) -> u64 {
        self.inode_count
    }

    /// Entries of the inode table.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(crate) fn blobs(&self) -> &[Arc<BlobDescription>] {
        &self.blobs
    }

    pub(crate) fn root(&self) -> Ino {
        Ino(ROOT.into())
    }

    /// Offset of the record of `index`.
    pub(super) fn record_offset(&self, index: u32) -> Result<u64> {
        if index == 0 || index > self.entries {
            let expected = format!("an index from 1 to {}", self.entries);
            return Err(self.image.corrupt(self.inode_table, "inode table", expected, index));
        }
        let slot = self.inode_table + u64::from(index - 1) * 4;
        let word: &U32 = self.image.view(slot, "inode table")?;
        let offset = u64::from(word.get()) * ALIGN;
        // The record lies behind the superblock; the upper bound is that of the format, the file's comes later.
        if offset <= SUPERBLOCK_SIZE || word.get() >= 1 << 29 {
            let expected = "an offset between the superblock and 4 GiB";
            return Err(self.image.corrupt(slot, "offset of an inode", expected, offset));
        }
        Ok(offset)
    }

    /// The record at `index`, checked.
    pub(crate) fn record(&self, index: u32) -> Result<Record<'_>> {
        Record::read(self, index)
    }

    /// The name of the record at `index`, unchecked but for lying in the file: enough to search by.
    fn name(&self, index: u32) -> Result<&[u8]> {
        let offset = self.record_offset(index)?;
        let head: &Inode = self.image.view(offset, "inode")?;
        self.image.range(offset + size_of::<Inode>() as u64, head.name_size.get().into(), "name")
    }

    /// The recorded digest of the inode at `index`.
    pub(crate) fn inode_digest(&self, index: u32) -> Result<&[u8; 32]> {
        let head: &Inode = self.image.view(self.record_offset(index)?, "inode")?;
        Ok(&head.digest)
    }

    /// The record of an inode number: the first member of a group of hard links, else the only one. With
    /// verification on, its digest and those on the way to the root have been checked.
    fn inode(&self, ino: Ino) -> Result<Record<'_>> {
        let index = u32::try_from(ino.0).ok().filter(|index| (1..=self.entries).contains(index));
        let index = index.ok_or(Error::NoSuchInode { ino })?;
        let record = self.record(index)?;
        if record.ino() != ino {
            return Err(Error::NoSuchInode { ino });
        }
        if let Some(verified) = &self.verified {
            verified.check(self, index)?;
        }
        Ok(record)
    }

    /// The record of a directory.
    pub(super) fn directory(&self, ino: Ino) -> Result<Record<'_>> {
        let record = self.inode(ino)?;
        expect_type(ino, FileType::Directory, record.file_type)?;
        Ok(record)
    }

    /// Checks that the record is an entry of `directory`, and finds the inode that the entry names.
    pub(super) fn resolve(&self, directory: Ino, record: &Record<'_>) -> Result<Ino> {
        if record.parent() != directory {
            let at = record.offset + 32;
            return Err(self.image.corrupt(at, "parent of an inode", directory.to_string(), record.parent()));
        }
        let ino = record.ino();
        if ino.0 != u64::from(record.index) {
            // A later member of a group of hard links; both are regular files, see `Record::read`.
            let first = self.record(ino.0 as u32)?;
            if first.ino() != ino || first.file_type != FileType::Regular || first.nlink() < 2 {
                let expected = "the first member of a group of hard links";
                return Err(self.image.corrupt(record.offset + 40, "inode number", expected, ino));
            }
        }
        Ok(ino)
    }

    pub(crate) fn attributes(&self, ino: Ino) -> Result<Attributes> {
        Ok(self.inode(ino)?.attributes())
    }

    pub(crate) fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Ino>> {
        let mut children = self.directory(directory)?.children();
        while !children.is_empty() {
            let middle = children.start + (children.end - children.start) / 2;
            match self.name(middle)?.cmp(name) {
                Ordering::Less => children.start = middle + 1,
                Ordering::Greater => children.end = middle,
                Ordering::Equal => return self.resolve(directory, &self.record(middle)?).map(Some),
            }
        }
        Ok(None)
    }

    pub(crate) fn parent(&self, directory: Ino) -> Result<Ino> {
        let record = self.directory(directory)?;
        if record.index == ROOT {
            return Ok(directory);
        }
        let parent = self.directory(record.parent())?;
        if !parent.children().contains(&record.index) {
            let expected = "a directory that holds the inode";
            let at = record.offset + 32;
            return Err(self.image.corrupt(at, "parent of an inode", expected, parent.ino()));
        }
        Ok(parent.ino())
    }

    pub(crate) fn read_dir(&self, directory: Ino, position: u64) -> Result<Entries<'_>> {
        Entries::new(self, &self.directory(directory)?, position)
    }

    /// The record of the child at `place` of a directory.
    pub(crate) fn child(&self, directory: Ino, place: u32) -> Result<Record<'_>> {
        self.record(self.directory(directory)?.children().start.saturating_add(place))
    }

    /// Stored bytes of each blob that are to be prefetched.
    pub(crate) fn blob_prefetch_sizes(&self) -> &[u32] {
        &self.blob_prefetch_sizes
    }

    pub(crate) fn read_link(&self, ino: Ino) -> Result<&[u8]> {
        let record = self.inode(ino)?;
        expect_type(ino, FileType::Symlink, record.file_type)?;
        if record.symlink.contains(&0) {
            let found = shown(record.symlink);
            return Err(self.image.corrupt(record.offset, "symlink target", "no NUL", found));
        }
        Ok(record.symlink)
    }

    pub(crate) fn xattrs(&self, ino: Ino) -> Result<Option<Xattrs<'_>>> {
        Ok(self.inode(ino)?.xattrs(&self.image))
    }

    pub(crate) fn extents(&self, ino: Ino, offset: u64, len: u32) -> Result<Extents<'_>> {
        let record = self.inode(ino)?;
        expect_type(ino, FileType::Regular, record.file_type)?;
        let (from, to) = clip(record.size(), offset, len);
        Ok(Extents::new(self, &record, from, to))
    }

    pub(crate) fn prefetch_inodes(&self) -> Result<Vec<Ino>> {
        let (offset, count) = self.prefetch_table;
        if count == 0 {
            return Ok(Vec::new());
        }
        let table = self.image.array(offset, count.into(), "prefetch table")?;
        Ok(prefetch_table::known(table, |ino| {
            u32::try_from(ino.0).is_ok_and(|index| self.record(index).is_ok_and(|it| it.ino() == ino))
        }))
    }

    /// Looks at all parts of an inode.
    pub(crate) fn inspect(&self, ino: Ino) -> Result<Inspection> {
        let record = self.inode(ino)?;
        let mut xattrs = record.xattrs(&self.image).into_iter().flatten();
        Ok(Inspection {
            footprint: record.len,
            size: record.size(),
            xattrs: xattrs.try_fold(0, |count, xattr| xattr.map(|_| count + 1))?,
            chunks: match record.file_type {
                FileType::Regular => Extents::new(self, &record, 0, record.size()).check_all()?,
                _ => 0,
            },
        })
    }

    /// Checks that each of the `entries` of the tree has an inode record of its own, and that the members of a
    /// group of hard links differ in name and parent only.
    pub(crate) fn check_records(&self, entries: u64) -> Result<()> {
        if entries != u64::from(self.entries) {
            let expected = format!("{entries} entries, as the tree");
            return Err(self.image.corrupt(56, "inode table", expected, self.entries));
        }
        // Records that do not overlap fit the file together: where they do not, the loop need not go on.
        let mut ranges = Vec::new();
        let mut left = self.image.len();
        for index in ROOT..=self.entries {
            let record = self.record(index)?;
            let ino = record.ino();
            if ino.0 != u64::from(index) && !record.is_same_file(&self.record(ino.0 as u32)?, &self.image)? {
                let expected = format!("the content of inode {ino}");
                return Err(self.image.corrupt(record.offset, "hard link", expected, "another"));
            }
            ranges.push((record.offset, record.len));
            let fits = left.checked_sub(record.len);
            left = fits.ok_or_else(|| {
                self.image.corrupt(record.offset, "inode", "a place of its own", "one shared with others")
            })?;
        }
        ranges.sort_unstable();
        match ranges.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            None => Ok(()),
            Some(pair) => {
                let found = format!("{} bytes over the inode at {}", pair[0].1, pair[1].0);
                Err(self.image.corrupt(pair[0].0, "inode", "a place of its own", found))
            }
        }
    }
}
