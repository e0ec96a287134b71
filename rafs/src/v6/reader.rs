//! An opened v6 bootstrap: the superblocks, validated, and the way from nids to inodes.

use std::borrow::Cow;
use std::sync::Arc;

use storage::blob::{BlobDescription, Compressor};
use storage::digest::Digester;
use zerocopy::little_endian::U32;

use super::directory::Directory;
use super::layout::{
    COMPAT_RAFS, CompactInode, DeviceSlot, EXTENSION_OFFSET, Extension, INCOMPAT, MAGIC, NID_UNIT, SLOT_SIZE,
    SLOTS_OFFSET, SUPERBLOCK_OFFSET, Superblock, TABLE_ALIGN,
};
use super::node::{Node, Place};
use super::{Entries, Extents, Xattrs, blobs, chunks};
use crate::blob_limits;
use crate::check::Inspection;
use crate::chunk_record::ChunkRecord;
use crate::error::{Error, Result};
use crate::extent::clip;
use crate::flags::ImageFlags;
use crate::image::{Image, shown};
use crate::inode::{Attributes, FileType, Ino, expect_type};
use crate::prefetch_table;
use crate::tables::Tables;

/// A v6 bootstrap.
pub(crate) struct Tree {
    image: Image,
    flags: ImageFlags,
    chunk_size: u32,
    block_size: u64,
    compressor: Compressor,
    digester: Digester,
    inode_count: u64,
    build_time: (i64, u32),
    /// Where nid 0 would be.
    meta: u64,
    root: u64,
    /// Offset and records.
    chunk_table: (u64, u64),
    /// Offset and entries.
    prefetch_table: (u64, u64),
    blobs: Vec<Arc<BlobDescription>>,
}

impl Tree {
    /// True if the bytes claim to be EROFS, whoever made them.
    pub(crate) fn detect_erofs(image: &Image) -> bool {
        image.view::<U32>(SUPERBLOCK_OFFSET, "magic").is_ok_and(|magic| *magic == MAGIC)
    }

    /// True if the bytes claim to be v6.
    pub(crate) fn detect(image: &Image) -> bool {
        let compatible = image.view::<U32>(SUPERBLOCK_OFFSET + 8, "features");
        Self::detect_erofs(image) && compatible.is_ok_and(|bits| bits.get() & COMPAT_RAFS != 0)
    }

    /// Validates superblocks and tables, and that the root is a directory.
    pub(crate) fn open(image: Image) -> Result<Self> {
        let superblock: &Superblock = image.view(SUPERBLOCK_OFFSET, "superblock")?;
        let extension: &Extension = image.view(EXTENSION_OFFSET, "RAFS superblock")?;
        check_superblock(&image, superblock)?;
        let chunk_size = blob_limits::chunk_size(&image, EXTENSION_OFFSET + 20, extension.chunk_size.get())?;

        let bits = extension.flags.get();
        let flags = ImageFlags::from_bits(bits)
            .ok_or_else(|| image.unsupported(format!("superblock flags {bits:#x}")))?;
        let (Some(compressor), Some(digester)) = (flags.compressor(), flags.digester()) else {
            let expected = "one compressor and one digester";
            return Err(image.corrupt(EXTENSION_OFFSET, "superblock flags", expected, format!("{bits:#x}")));
        };
        let block_size = match (superblock.block_bits, flags.contains(ImageFlags::TARFS)) {
            (12, _) => 4096,
            (9, true) => 512,
            (bits, _) => {
                let expected = "12, or 9 in tarfs images";
                return Err(image.corrupt(SUPERBLOCK_OFFSET + 12, "block size bits", expected, bits));
            }
        };

        // Each entry takes 13 bytes of some directory, so this bounds what walks a sane tree.
        let inode_count = superblock.inode_count.get();
        if inode_count == 0 || inode_count > image.len() / 13 {
            let expected = format!("1 to {}", image.len() / 13);
            return Err(image.corrupt(SUPERBLOCK_OFFSET + 16, "inode count", expected, inode_count));
        }
        let meta = u64::from(superblock.meta_block.get()) * block_size;
        if meta > image.len() {
            let expected = format!("up to {}", image.len());
            return Err(image.corrupt(SUPERBLOCK_OFFSET + 40, "offset of the inodes", expected, meta));
        }

        let devices = superblock.extra_devices.get();
        let blob_table = (extension.blob_table_offset.get(), extension.blob_table_size.get().into());
        let chunk_table = (extension.chunk_table_offset.get(), extension.chunk_table_size.get());
        // Some empty images have a size without an offset: no table.
        let prefetch_table = match extension.prefetch_table_offset.get() {
            0 => (0, 0),
            offset => (offset, extension.prefetch_table_size.get().into()),
        };
        if !chunk_table.1.is_multiple_of(size_of::<ChunkRecord>() as u64) {
            let at = EXTENSION_OFFSET + 32;
            return Err(image.corrupt(at, "chunk table size", "a multiple of 80", chunk_table.1));
        }
        let mut tables = Tables::behind(SLOTS_OFFSET + u64::from(devices) * SLOT_SIZE);
        tables.add(&image, "blob table", blob_table.0, blob_table.1, TABLE_ALIGN)?;
        tables.add(&image, "chunk table", chunk_table.0, chunk_table.1, TABLE_ALIGN)?;
        tables.add(&image, "prefetch table", prefetch_table.0, prefetch_table.1, 4)?;

        let blobs = blobs::read(&image, devices, blob_table, chunk_size, block_size, flags)?;
        let tree = Self {
            flags,
            chunk_size,
            block_size,
            compressor,
            digester,
            inode_count,
            build_time: (superblock.build_time.get() as i64, superblock.build_time_nsec.get()),
            meta,
            root: superblock.root_nid.get().into(),
            chunk_table: (chunk_table.0, chunk_table.1 / size_of::<ChunkRecord>() as u64),
            prefetch_table: (prefetch_table.0, prefetch_table.1 / 4),
            blobs,
            image,
        };
        tree.directory(Ino(tree.root))?.check_links(tree.root)?;
        Ok(tree)
    }

    /// Where the device slots have the blobs, on one disk with the bootstrap.
    pub(crate) fn disk_layout(&self) -> Result<Vec<(u64, u64)>> {
        let slots: &[DeviceSlot] = self.image.array(SLOTS_OFFSET, self.blobs.len() as u64, "device slots")?;
        let mut free = self.image.len();
        let mut layout = Vec::with_capacity(slots.len());
        for (number, (slot, blob)) in (0..).zip(slots.iter().zip(&self.blobs)) {
            // Block numbers have 32 bits, and blocks at most 4096 bytes.
            let start = u64::from(slot.mapped_block.get()) * self.block_size;
            let len = u64::from(slot.blocks.get()) * self.block_size;
            if start < free || len < blob.uncompressed_size {
                let expected = format!("{} bytes from {free} on, or later", blob.uncompressed_size);
                let at = SLOTS_OFFSET + SLOT_SIZE * number;
                let found = format!("{len} bytes from {start} on");
                return Err(self.image.corrupt(at, "place of a blob on a disk", expected, found));
            }
            free = start + len;
            layout.push((start, len));
        }
        Ok(layout)
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

    /// Of blocks of directories, and of addresses in blobs.
    pub(crate) fn block_size(&self) -> u64 {
        self.block_size
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

    /// The time of compact inodes, in seconds and nanoseconds.
    pub(super) fn build_time(&self) -> (i64, u32) {
        self.build_time
    }

    pub(crate) fn blobs(&self) -> &[Arc<BlobDescription>] {
        &self.blobs
    }

    /// The records of the chunk table.
    pub(super) fn chunk_table(&self) -> &[ChunkRecord] {
        let (offset, count) = self.chunk_table;
        match count {
            0 => &[],
            // It was found to be inside the file at open.
            count => self.image.array(offset, count, "chunk table").unwrap_or(&[]),
        }
    }

    /// Where the chunk table is, or would be.
    pub(super) fn chunk_table_offset(&self) -> u64 {
        self.chunk_table.0
    }

    /// Checks every record of the chunk table.
    pub(crate) fn check_chunk_table(&self) -> Result<()> {
        for (number, record) in (0..).zip(self.chunk_table()) {
            chunks::check_record(self, self.chunk_table.0 + 80 * number, record)?;
        }
        Ok(())
    }

    /// Looks at all parts of an inode.
    pub(crate) fn inspect(&self, ino: Ino) -> Result<Inspection> {
        let node = self.node(ino)?;
        let mut xattrs = self.xattrs_of(&node)?.into_iter().flatten();
        Ok(Inspection {
            footprint: node.footprint(),
            size: node.size,
            xattrs: xattrs.try_fold(0, |count, xattr| xattr.map(|_| count + 1))?,
            chunks: match node.file_type {
                FileType::Regular => Extents::new(self, &node, 0, node.size)?
                    .try_fold(0, |count, extent| extent.map(|_| count + 1))?,
                _ => 0,
            },
        })
    }

    pub(crate) fn root(&self) -> Ino {
        Ino(self.root)
    }

    /// One more than the largest nid that fits the file.
    pub(crate) fn nid_limit(&self) -> u64 {
        (self.image.len() - self.meta) / NID_UNIT
    }

    /// Offset of a nid whose inode may be in the file.
    pub(super) fn nid_offset(&self, nid: u64) -> Option<u64> {
        let offset = nid.checked_mul(NID_UNIT)?.checked_add(self.meta)?;
        let end = offset.checked_add(size_of::<CompactInode>() as u64)?;
        (nid != 0 && end <= self.image.len()).then_some(offset)
    }

    /// The inode that the entry at `entry` in the bootstrap names.
    pub(super) fn node_at(&self, nid: u64, entry: u64) -> Result<Node> {
        let offset = self.nid_offset(nid);
        let offset = offset.ok_or_else(|| {
            let expected = format!("1 to {}", self.nid_limit().saturating_sub(1));
            self.image.corrupt(entry, "nid of an entry", expected, nid)
        })?;
        Node::read(self, nid, offset)
    }

    /// The inode that a caller asks for.
    pub(crate) fn node(&self, ino: Ino) -> Result<Node> {
        let offset = self.nid_offset(ino.0).ok_or(Error::NoSuchInode { ino })?;
        Node::read(self, ino.0, offset)
    }

    fn directory(&self, ino: Ino) -> Result<Directory<'_>> {
        Directory::new(self, &self.node(ino)?)
    }

    pub(crate) fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let attributes = self.node(ino)?.attributes();
        // Whole blocks, as the kernel's EROFS counts them.
        let blocks = attributes.blocks.next_multiple_of(self.block_size / 512);
        Ok(Attributes { blocks, ..attributes })
    }

    pub(crate) fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Ino>> {
        Ok(self.directory(directory)?.lookup(name)?.map(|node| node.ino()))
    }

    pub(crate) fn parent(&self, directory: Ino) -> Result<Ino> {
        let parent = self.directory(directory)?.parent()?;
        self.directory(Ino(parent)).map(|_| Ino(parent))
    }

    pub(crate) fn read_dir(&self, directory: Ino, position: u64) -> Result<Entries<'_>> {
        self.directory(directory)?.entries(position)
    }

    pub(crate) fn read_link(&self, ino: Ino) -> Result<Cow<'_, [u8]>> {
        let node = self.node(ino)?;
        expect_type(ino, FileType::Symlink, node.file_type)?;
        let Place::Blocks { blocks, whole, tail_at, tail } = node.place else {
            return Err(self.image.corrupt(node.offset, "symlink", "data", "none"));
        };
        let target = match (whole, tail) {
            (0, _) => Cow::Borrowed(self.image.range(tail_at, tail, "symlink target")?),
            (_, 0) => Cow::Borrowed(self.image.range(blocks, whole, "symlink target")?),
            _ => {
                let whole = self.image.range(blocks, whole, "symlink target")?;
                Cow::Owned([whole, self.image.range(tail_at, tail, "symlink target")?].concat())
            }
        };
        if target.contains(&0) {
            return Err(self.image.corrupt(node.offset, "symlink target", "no NUL", shown(&target)));
        }
        Ok(target)
    }

    pub(crate) fn xattrs(&self, ino: Ino) -> Result<Option<Xattrs<'_>>> {
        self.xattrs_of(&self.node(ino)?)
    }

    fn xattrs_of(&self, node: &Node) -> Result<Option<Xattrs<'_>>> {
        match node.xattrs {
            (_, 0) => Ok(None),
            (offset, size) => Xattrs::new(&self.image, offset, size).map(Some),
        }
    }

    pub(crate) fn extents(&self, ino: Ino, offset: u64, len: u32) -> Result<Extents<'_>> {
        let node = self.node(ino)?;
        expect_type(ino, FileType::Regular, node.file_type)?;
        let (from, to) = clip(node.size, offset, len);
        Extents::new(self, &node, from, to)
    }

    pub(crate) fn prefetch_inodes(&self) -> Result<Vec<Ino>> {
        let (offset, count) = self.prefetch_table;
        if count == 0 {
            return Ok(Vec::new());
        }
        let table = self.image.array(offset, count, "prefetch table")?;
        Ok(prefetch_table::known(table, |ino| self.node(ino).is_ok()))
    }
}

/// The fields that must have one value, or one of a few.
fn check_superblock(image: &Image, superblock: &Superblock) -> Result<()> {
    let at = SUPERBLOCK_OFFSET;
    if superblock.feature_incompat != INCOMPAT {
        let found = superblock.feature_incompat;
        return Err(image.unsupported(format!("incompatible features {found:#x}, only {INCOMPAT:#x} are")));
    }
    let zeros: [(u64, &str, u32); 4] = [
        (4, "checksum", superblock.checksum.get()),
        (13, "extension slots", superblock.ext_slots.into()),
        (44, "block of shared extended attributes", superblock.xattr_block.get()),
        (84, "union", superblock.union.get().into()),
    ];
    for (offset, what, found) in zeros {
        if found != 0 {
            return Err(image.corrupt(at + offset, what, "0", found));
        }
    }
    let slots = u64::from(superblock.device_slot_offset.get()) * SLOT_SIZE;
    if slots != SLOTS_OFFSET {
        return Err(image.corrupt(at + 88, "offset of the device slots", SLOTS_OFFSET.to_string(), slots));
    }
    let blocks = superblock.blocks.get();
    if superblock.extra_devices == 0 && !matches!(blocks, 0 | 4096) {
        return Err(image.corrupt(at + 36, "blocks of an image without blobs", "0", blocks));
    }
    Ok(())
}
