//! The records of a v5 bootstrap, byte for byte (spec/rafs-v5.md §3, §6, §10).
//!
//! ```text
//! 0     | superblock, 8192 bytes, 80 used |
//! 8192  | inode table u32[] | prefetch table u32[] | blob table | extended blob table |
//!       | inode 128 | name | symlink target | xattrs | chunk records |   each part padded to 8
//!       | inode …
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "RAFS" read as a number.
pub(crate) const MAGIC: u32 = 0x5241_4653;
/// The version of the format.
pub(crate) const VERSION: u32 = 0x500;
/// Bytes of the superblock, its zeros included.
pub(crate) const SUPERBLOCK_SIZE: u64 = 8192;
/// Offsets of inode records are stored in this unit, and everything is padded to it.
pub(crate) const ALIGN: u64 = 8;

/// The used part of the superblock, at offset 0.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Superblock {
    pub(crate) magic: U32,
    pub(crate) version: U32,
    /// [`SUPERBLOCK_SIZE`].
    pub(crate) size: U32,
    /// The format calls it block size.
    pub(crate) chunk_size: U32,
    pub(crate) flags: U64,
    /// Distinct inodes: a group of hard links counts once.
    pub(crate) inode_count: U64,
    pub(crate) inode_table_offset: U64,
    pub(crate) prefetch_table_offset: U64,
    pub(crate) blob_table_offset: U64,
    pub(crate) inode_table_entries: U32,
    pub(crate) prefetch_table_entries: U32,
    /// Bytes, padding included.
    pub(crate) blob_table_size: U32,
    pub(crate) extended_blob_table_entries: U32,
    pub(crate) extended_blob_table_offset: U64,
}

const _: () = assert!(size_of::<Superblock>() == 80);

/// What the extended blob table says of a blob.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ExtendedBlob {
    pub(crate) chunk_count: U32,
    pub(crate) features: U32,
    pub(crate) uncompressed_size: U64,
    pub(crate) compressed_size: U64,
    pub(crate) reserved: [u8; 40],
}

const _: () = assert!(size_of::<ExtendedBlob>() == 64);

/// The head of an inode record.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Inode {
    /// Merkle digest, see [`crate::merkle`].
    pub(crate) digest: [u8; 32],
    /// Number of the directory that holds the entry; 0 for the root.
    pub(crate) parent: U64,
    pub(crate) ino: U64,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    pub(crate) project: U32,
    pub(crate) mode: U32,
    pub(crate) size: U64,
    pub(crate) blocks: U64,
    /// [`InodeFlags`].
    pub(crate) flags: U64,
    pub(crate) nlink: U32,
    /// Directories: index of the first child.
    pub(crate) child_index: U32,
    /// Directories: children. Regular files: chunks.
    pub(crate) child_count: U32,
    pub(crate) name_size: U16,
    pub(crate) symlink_size: U16,
    pub(crate) rdev: U32,
    pub(crate) mtime_nsec: U32,
    /// Seconds, in two's complement.
    pub(crate) mtime: U64,
    pub(crate) reserved: [u8; 8],
}

const _: () = assert!(size_of::<Inode>() == 128);

bitflags::bitflags! {
    /// Flags of an inode. Unknown ones are ignored.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct InodeFlags: u64 {
        const SYMLINK = 0x1;
        /// Only some builders set it on hard links; `nlink` tells.
        const HARDLINK = 0x2;
        /// An area of extended attributes follows.
        const XATTR = 0x4;
        /// The chunks may leave out ranges, which read as zeros.
        const HAS_HOLE = 0x8;
    }
}
