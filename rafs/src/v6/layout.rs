//! The records of a v6 bootstrap, byte for byte (spec/rafs-v6.md §3 to §9).
//!
//! ```text
//! 1024  | EROFS superblock 128 | RAFS superblock 256 | device slots 128 × N |
//! B     | blob table 256 × N | prefetch table u32[] |
//! M     | inodes, extended attributes, chunk addresses, directory blocks |
//! C     | chunk table: records of 80 bytes |
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of the superblock.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
/// Offset of the RAFS superblock, right behind.
pub(crate) const EXTENSION_OFFSET: u64 = SUPERBLOCK_OFFSET + 128;
/// Offset of the device slots, right behind.
pub(crate) const SLOTS_OFFSET: u64 = EXTENSION_OFFSET + 256;
/// Device slots are counted in units of this many bytes.
pub(crate) const SLOT_SIZE: u64 = 128;
/// The tables begin on multiples of this, whatever the block size.
pub(crate) const TABLE_ALIGN: u64 = 4096;
/// Inodes begin on multiples of this, and a nid counts them.
pub(crate) const NID_UNIT: u64 = 32;
/// EROFS.
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// The compatible feature that tells RAFS from other EROFS images.
pub(crate) const COMPAT_RAFS: u32 = 0x4000_0000;
/// The incompatible features: chunked files and a device table.
pub(crate) const INCOMPAT: u32 = 0xc;
/// Chunk addresses begin on multiples of this, counted from the block that nids count from.
pub(crate) const ADDRESS_ALIGN: u64 = 8;
/// Data layout: whole blocks, and the last one too, elsewhere; or no data.
pub(crate) const PLAIN: u16 = 0;
/// Data layout: whole blocks elsewhere, the last, partial one behind the inode.
pub(crate) const INLINE: u16 = 2;
/// Data layout: addresses of chunks behind the inode.
pub(crate) const CHUNKED: u16 = 4;
/// Chunk format: addresses have 8 bytes and tell device and block. The low bits are for the kernel.
pub(crate) const CHUNK_ADDRESSES: u32 = 0x20;
/// Chunk format: the size of a chunk in blocks, as a power of two.
pub(crate) const CHUNK_SIZE_BITS: u32 = 0x1f;

/// The EROFS superblock.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Superblock {
    pub(crate) magic: U32,
    pub(crate) checksum: U32,
    pub(crate) feature_compat: U32,
    /// Block size as a power of two: 12, tarfs 9.
    pub(crate) block_bits: u8,
    pub(crate) ext_slots: u8,
    pub(crate) root_nid: U16,
    /// Entries, the root included, each hard link counted.
    pub(crate) inode_count: U64,
    pub(crate) build_time: U64,
    pub(crate) build_time_nsec: U32,
    pub(crate) blocks: U32,
    /// Block that nids count from.
    pub(crate) meta_block: U32,
    pub(crate) xattr_block: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) feature_incompat: U32,
    pub(crate) union: U16,
    pub(crate) extra_devices: U16,
    /// In units of [`SLOT_SIZE`].
    pub(crate) device_slot_offset: U16,
    pub(crate) reserved: [u8; 38],
}

const _: () = assert!(size_of::<Superblock>() == 128);

/// What RAFS adds to the superblock.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Extension {
    pub(crate) flags: U64,
    pub(crate) blob_table_offset: U64,
    /// Bytes.
    pub(crate) blob_table_size: U32,
    pub(crate) chunk_size: U32,
    pub(crate) chunk_table_offset: U64,
    /// Bytes.
    pub(crate) chunk_table_size: U64,
    pub(crate) prefetch_table_offset: U64,
    /// Bytes.
    pub(crate) prefetch_table_size: U32,
    pub(crate) reserved: [u8; 204],
}

const _: () = assert!(size_of::<Extension>() == 256);

/// What the kernel knows of a blob.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    /// The blob id, zero-padded.
    pub(crate) tag: [u8; 64],
    pub(crate) blocks: U32,
    pub(crate) mapped_block: U32,
    pub(crate) reserved: [u8; 56],
}

const _: () = assert!(size_of::<DeviceSlot>() == 128);

/// What RAFS knows of a blob.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Blob {
    /// Zero-padded.
    pub(crate) id: [u8; 64],
    pub(crate) index: U32,
    pub(crate) chunk_size: U32,
    pub(crate) chunk_count: U32,
    pub(crate) compressor: U32,
    pub(crate) digester: U32,
    pub(crate) features: U32,
    pub(crate) compressed_size: U64,
    pub(crate) uncompressed_size: U64,
    pub(crate) toc_size: U32,
    pub(crate) ci_compressor: U32,
    pub(crate) ci_offset: U64,
    pub(crate) ci_compressed_size: U64,
    pub(crate) ci_uncompressed_size: U64,
    pub(crate) toc_digest: [u8; 32],
    /// Id of the separate meta blob. Encrypted blobs: the key.
    pub(crate) meta_digest: [u8; 32],
    /// Size of the separate meta blob. Encrypted blobs: the first half of the IV.
    pub(crate) meta_size: [u8; 8],
    /// Encrypted blobs: the second half of the IV.
    pub(crate) cipher_iv: [u8; 8],
    pub(crate) cipher: U32,
    pub(crate) reserved: [u8; 36],
}

const _: () = assert!(size_of::<Blob>() == 256);

/// The inode the reference implementation writes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ExtendedInode {
    /// Bit 0: this form; bits 1 to 3: where the data lies; the rest is 0.
    pub(crate) format: U16,
    pub(crate) xattr_count: U16,
    pub(crate) mode: U16,
    pub(crate) reserved: U16,
    pub(crate) size: U64,
    /// First block of the data, device number, or chunk format.
    pub(crate) union: U32,
    pub(crate) ino: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    /// Seconds, in two's complement.
    pub(crate) mtime: U64,
    pub(crate) mtime_nsec: U32,
    pub(crate) nlink: U32,
    pub(crate) reserved2: [u8; 16],
}

const _: () = assert!(size_of::<ExtendedInode>() == 64);

/// The short inode; its times are those of the superblock.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CompactInode {
    /// As [`ExtendedInode::format`], bit 0 clear.
    pub(crate) format: U16,
    pub(crate) xattr_count: U16,
    pub(crate) mode: U16,
    pub(crate) nlink: U16,
    pub(crate) size: U32,
    pub(crate) reserved: U32,
    pub(crate) union: U32,
    pub(crate) ino: U32,
    pub(crate) uid: U16,
    pub(crate) gid: U16,
    pub(crate) reserved2: U32,
}

const _: () = assert!(size_of::<CompactInode>() == 32);

/// One entry of a directory block; the names follow the entries.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) nid: U64,
    /// From the start of the block.
    pub(crate) name_offset: U16,
    pub(crate) file_type: u8,
    pub(crate) reserved: u8,
}

const _: () = assert!(size_of::<Dirent>() == 12);

/// Which chunk holds a piece of a file.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkAddress {
    /// Bits 0 to 15 of the chunk's number in its blob.
    pub(crate) index_low: U16,
    /// Place in the blob table, counted from 1.
    pub(crate) device: u8,
    /// Bits 16 to 23.
    pub(crate) index_high: u8,
    /// Place in the uncompressed blob, in blocks.
    pub(crate) block: U32,
}

const _: () = assert!(size_of::<ChunkAddress>() == 8);

/// In front of an inode's extended attributes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrHeader {
    pub(crate) name_filter: U32,
    pub(crate) shared_count: u8,
    pub(crate) reserved: [u8; 7],
}

const _: () = assert!(size_of::<XattrHeader>() == 12);

/// In front of the suffix of the name, which the value follows; padded to 4.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) name_len: u8,
    /// Which prefix the name has.
    pub(crate) name_index: u8,
    pub(crate) value_size: U16,
}

const _: () = assert!(size_of::<XattrEntry>() == 4);
