//! Writes v6 bootstraps (spec/rafs-v6.md §11).
//!
//! Everything is placed first; then the bootstrap is made at its full size, and every part written to its place.
//! What no part is written to stays zero.

use storage::blob::BlobFeatures;
use zerocopy::little_endian::U32;
use zerocopy::{Immutable, IntoBytes};

use super::blob_table::{self, Devices};
use super::chunk_table::ChunkTable;
use super::dirents;
use super::layout::{
    ADDRESS_ALIGN, Blob, CHUNK_ADDRESSES, CHUNK_SIZE_BITS, CHUNKED, COMPAT_RAFS, ChunkAddress, DeviceSlot,
    EXTENSION_OFFSET, ExtendedInode, Extension, INCOMPAT, INLINE, MAGIC, NID_UNIT, PLAIN, SLOT_SIZE,
    SLOTS_OFFSET, SUPERBLOCK_OFFSET, Superblock, TABLE_ALIGN,
};
use super::placement::{self, Place, Placement};
use super::xattr;
use crate::build::{BlobEntry, Chunk, Content, Inodes, Rule};
use crate::error::Result;
use crate::flags::ImageFlags;

/// The first place that is given out, so that the root's nid fits its 16 bits.
const ROOT_NID: u16 = (TABLE_ALIGN / NID_UNIT) as u16;
/// EROFS numbers blocks with 32 bits.
const BLOCK_LIMIT: u64 = u32::MAX as u64;

/// The bootstrap of a tree that fits the format.
pub(crate) fn write(inodes: &Inodes<'_>) -> Result<Vec<u8>> {
    let writer = Writer::new(inodes)?;
    writer.write()
}

/// Where the parts lie.
struct Writer<'a> {
    inodes: &'a Inodes<'a>,
    block: u64,
    placement: Placement,
    chunks: ChunkTable<'a>,
    /// Positions of what is to be prefetched.
    prefetch: Vec<usize>,
    blob_table: u64,
    /// Where nid 0 would be.
    meta: u64,
    chunk_table: u64,
    size: u64,
}

impl<'a> Writer<'a> {
    fn new(inodes: &'a Inodes<'a>) -> Result<Self> {
        let (blobs, options) = (inodes.blobs, inodes.options);
        if !matches!(options.block_size, 512 | 4096) {
            return Err(Rule::new("block size", "4096, or 512 for tarfs", options.block_size).broken());
        }
        blob_table::check(blobs, options).map_err(Rule::broken)?;
        for position in 0..inodes.len() {
            let size = xattr::written_size(&inodes.node(position).xattrs);
            if xattr::area_count(size).is_none() {
                let limit = xattr::area_size(u16::MAX);
                let expected = format!("at most {limit} bytes in all");
                return Err(inodes.error(position, "extended attributes", expected, size));
            }
        }

        let block = options.block_size.into();
        let placement = Placement::of(inodes);
        let chunks = ChunkTable::of(inodes);
        let count = blobs.len() as u64;
        let blob_table = (SLOTS_OFFSET + count * SLOT_SIZE).next_multiple_of(TABLE_ALIGN);
        // Without blobs there is nothing to prefetch, and nothing between superblock and inodes.
        let prefetch = if blobs.is_empty() { Vec::new() } else { inodes.prefetch() };
        let tables_end = blob_table + count * size_of::<Blob>() as u64 + 4 * prefetch.len() as u64;
        let meta = if blobs.is_empty() { 0 } else { tables_end.next_multiple_of(TABLE_ALIGN) };
        let chunk_table = (meta + placement.end).next_multiple_of(TABLE_ALIGN);
        let size = (chunk_table + chunks.size()).next_multiple_of(TABLE_ALIGN);
        if size / block > BLOCK_LIMIT || meta + placement.end > NID_UNIT * BLOCK_LIMIT {
            let expected =
                format!("under 2^32 blocks of {block}, inodes in the first {NID_UNIT} × 2^32 bytes");
            return Err(Rule::new("bootstrap", expected, format!("{size} bytes")).broken());
        }
        Ok(Self { inodes, block, placement, chunks, prefetch, blob_table, meta, chunk_table, size })
    }

    fn write(&self) -> Result<Vec<u8>> {
        let blobs = self.inodes.blobs;
        let devices = Devices::behind(self.size, blobs, self.block).map_err(Rule::broken)?;
        let mut bootstrap = Bytes(vec![0; self.size as usize]);
        bootstrap.put(SUPERBLOCK_OFFSET, &self.superblock(devices.blocks));
        bootstrap.put(EXTENSION_OFFSET, &self.extension());
        bootstrap.put::<[DeviceSlot]>(SLOTS_OFFSET, &devices.slots);
        for (index, blob) in (0..).zip(blobs) {
            let blob = blob_table::describe(&blob.description, index).map_err(Rule::broken)?;
            bootstrap.put(self.blob_table + u64::from(index) * size_of::<Blob>() as u64, &blob);
        }
        // Nids were found to have 32 bits.
        let prefetch = self.prefetch.iter().map(|position| U32::new(self.nid(*position) as u32));
        bootstrap.put::<[U32]>(self.prefetch_table(), &prefetch.collect::<Vec<_>>());
        for position in 0..self.inodes.len() {
            if self.inodes.first(position) == position {
                self.write_inode(position, &mut bootstrap);
            }
        }
        self.chunks.write(bootstrap.behind(self.chunk_table));
        Ok(bootstrap.0)
    }

    /// Offset of the prefetch table, if there is one.
    fn prefetch_table(&self) -> u64 {
        self.blob_table + (self.inodes.blobs.len() * size_of::<Blob>()) as u64
    }

    fn nid(&self, position: usize) -> u64 {
        self.placement.places[position].offset / NID_UNIT
    }

    fn superblock(&self, blocks: u32) -> Superblock {
        Superblock {
            magic: MAGIC.into(),
            checksum: 0.into(),
            feature_compat: COMPAT_RAFS.into(),
            block_bits: self.block.ilog2() as u8,
            ext_slots: 0,
            root_nid: ROOT_NID.into(),
            inode_count: (self.inodes.len() as u64).into(),
            build_time: 0.into(),
            build_time_nsec: 0.into(),
            blocks: blocks.into(),
            // The size of the bootstrap was found to be under 2^32 blocks, the number of blobs under 255.
            meta_block: ((self.meta / self.block) as u32).into(),
            xattr_block: 0.into(),
            uuid: [0; 16],
            volume_name: [0; 16],
            feature_incompat: INCOMPAT.into(),
            union: 0.into(),
            extra_devices: (self.inodes.blobs.len() as u16).into(),
            device_slot_offset: ((SLOTS_OFFSET / SLOT_SIZE) as u16).into(),
            reserved: [0; 38],
        }
    }

    fn extension(&self) -> Extension {
        let all = |feature| {
            let has = |blob: &BlobEntry| blob.description.features.contains(feature);
            self.inodes.blobs.iter().all(has)
        };
        let encrypted = self.inodes.blobs.iter().any(|blob| blob.description.cipher.is_some());
        let mut flags = ImageFlags::of(self.inodes);
        flags.set(ImageFlags::INLINED_CHUNK_DIGEST, all(BlobFeatures::INLINED_CHUNK_DIGEST));
        flags.set(ImageFlags::TARFS, self.inodes.options.is_tarfs());
        flags.set(ImageFlags::ENCRYPT_AES_128_XTS, encrypted);
        flags.set(ImageFlags::ENCRYPT_NONE, !encrypted);
        let prefetch_table = if self.prefetch.is_empty() { 0 } else { self.prefetch_table() };
        Extension {
            flags: flags.bits().into(),
            blob_table_offset: self.blob_table.into(),
            blob_table_size: ((self.inodes.blobs.len() * size_of::<Blob>()) as u32).into(),
            chunk_size: self.inodes.options.chunk_size.into(),
            chunk_table_offset: self.chunk_table.into(),
            chunk_table_size: self.chunks.size().into(),
            prefetch_table_offset: prefetch_table.into(),
            prefetch_table_size: (4 * self.prefetch.len() as u32).into(),
            reserved: [0; 204],
        }
    }

    /// Writes an inode and all that belongs to it.
    fn write_inode(&self, position: usize, bootstrap: &mut Bytes) {
        let (inodes, block) = (self.inodes, self.block);
        let node = inodes.node(position);
        let place = self.placement.places[position];
        let offset = self.meta + place.offset;
        let size = match &node.content {
            Content::Directory { .. } => dirents::size(inodes, position, block),
            _ => node.size(),
        };
        // Places are inside the bootstrap, which has under 2^32 blocks.
        let data_block = ((self.meta + place.data) / block) as u32;
        let is_inline = placement::is_inline(node, size, block);
        let (layout, union) = match &node.content {
            Content::Directory { .. } | Content::Symlink { .. } if is_inline => (INLINE, data_block),
            Content::Directory { .. } | Content::Symlink { .. } => (PLAIN, data_block),
            Content::Regular { chunks, .. } => (CHUNKED, self.chunk_format(size, chunks)),
            Content::Special => (PLAIN, node.rdev),
        };
        let (uid, gid) = inodes.owner(node);
        let xattrs_size = xattr::written_size(&node.xattrs);
        bootstrap.put(
            offset,
            &ExtendedInode {
                format: (1 | layout << 1).into(),
                xattr_count: xattr::area_count(xattrs_size).unwrap_or(0).into(),
                // Modes have 16 bits.
                mode: (node.mode as u16).into(),
                reserved: 0.into(),
                size: size.into(),
                union: union.into(),
                ino: inodes.ino(position).into(),
                uid: uid.into(),
                gid: gid.into(),
                mtime: (node.mtime as u64).into(),
                mtime_nsec: node.mtime_nsec.into(),
                nlink: inodes.link_count(position).into(),
                reserved2: [0; 16],
            },
        );
        let xattrs = offset + size_of::<ExtendedInode>() as u64;
        if !node.xattrs.is_empty() {
            xattr::write(&node.xattrs, bootstrap.behind(xattrs));
        }
        let end = xattrs + xattrs_size;
        // Where the byte `at` of a directory or symlink goes: behind the inode, or to the blocks.
        let data = |at: u64| self.data_offset(place, is_inline.then_some((end, size)), at);
        match &node.content {
            Content::Directory { .. } => {
                let nid = |position| self.nid(position);
                dirents::write(inodes, position, block, nid, |at, bytes| bootstrap.put(data(at), bytes));
            }
            Content::Symlink { target } => {
                for (at, bytes) in (0..).step_by(block as usize).zip(target.chunks(block as usize)) {
                    bootstrap.put(data(at), bytes);
                }
            }
            Content::Regular { chunks, .. } => {
                let addresses = end.next_multiple_of(ADDRESS_ALIGN);
                for (at, chunk) in (addresses..).step_by(size_of::<ChunkAddress>()).zip(chunks) {
                    bootstrap.put(at, &self.address(chunk));
                }
            }
            Content::Special => {}
        }
    }

    /// Offset of the block that begins at the byte `at` of a directory or symlink. `inline`: the last one is at
    /// this offset, of this many bytes in all.
    fn data_offset(&self, place: Place, inline: Option<(u64, u64)>, at: u64) -> u64 {
        match inline {
            Some((tail, size)) if at == size - size % self.block => tail,
            _ => self.meta + place.data + at,
        }
    }

    /// The chunk format of a file. The size in it is for the kernel, to which a file that lies in its blob in one
    /// piece is a single chunk.
    fn chunk_format(&self, size: u64, chunks: &[Chunk]) -> u32 {
        let chunk_size = u64::from(self.inodes.options.chunk_size);
        let follows = |pair: &[Chunk]| {
            pair[0].blob_index == pair[1].blob_index
                && pair[0].uncompressed_offset + chunk_size == pair[1].uncompressed_offset
        };
        let one_piece = size > chunk_size && chunks.windows(2).all(follows);
        let wanted = if one_piece { size.next_power_of_two() } else { chunk_size };
        let bits = |size: u64| size.ilog2() - self.block.ilog2();
        // The field has no room for the largest files; these are left in chunks.
        let bits = if bits(wanted) <= CHUNK_SIZE_BITS { bits(wanted) } else { bits(chunk_size) };
        CHUNK_ADDRESSES | bits
    }

    fn address(&self, chunk: &Chunk) -> ChunkAddress {
        ChunkAddress {
            // 24 bits in all.
            index_low: (chunk.index as u16).into(),
            index_high: (chunk.index >> 16) as u8,
            // At most 254 blobs.
            device: (chunk.blob_index + 1) as u8,
            // Found to have 32 bits.
            block: ((chunk.uncompressed_offset / self.block) as u32).into(),
        }
    }
}

/// The bootstrap to be; parts are put where they were placed, which is inside.
struct Bytes(Vec<u8>);

impl Bytes {
    fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, offset: u64, part: &T) {
        let part = part.as_bytes();
        self.behind(offset)[..part.len()].copy_from_slice(part);
    }

    fn behind(&mut self, offset: u64) -> &mut [u8] {
        &mut self.0[offset as usize..]
    }
}
