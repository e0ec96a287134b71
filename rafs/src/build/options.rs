//! What an image is made with, besides its tree.

use storage::blob::{BlobDescription, Compressor};
use storage::digest::Digester;

use super::tree::NodeId;
use crate::bootstrap::Version;

/// Properties of the image as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// The format.
    pub version: Version,
    /// Bytes of the largest chunk: a power of two from 4096 to 16 MiB.
    pub chunk_size: u32,
    /// The compressor that the superblock names.
    pub compressor: Compressor,
    /// The algorithm of the digests of chunks, and of v5's inodes.
    pub digester: Digester,
    /// False: owners are left out, all are 0.
    pub explicit_owners: bool,
    /// v6: bytes of a block, 4096, or 512 for tarfs. v5 has none.
    pub block_size: u32,
    /// Sets the flag for extended attributes even if no inode has any, as merged images have it.
    pub always_xattr_flag: bool,
    /// The prefetch table, in order. Nodes that the tree does not reach are left out.
    pub prefetch: Vec<NodeId>,
}

impl ImageOptions {
    /// An image of 1 MiB chunks, zstd and BLAKE3, with owners and without a prefetch table.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            chunk_size: 1 << 20,
            compressor: Compressor::Zstd,
            digester: Digester::Blake3,
            explicit_owners: true,
            block_size: 4096,
            always_xattr_flag: false,
            prefetch: Vec::new(),
        }
    }

    /// True for images of plain tars: blocks are as large as the tars'.
    pub(crate) fn is_tarfs(&self) -> bool {
        self.block_size == 512
    }
}

/// A blob, as the tables of a bootstrap are to describe it.
#[derive(Clone, Debug)]
pub struct BlobEntry {
    /// What both formats say. Its index is not looked at: the place in the table counts.
    pub description: BlobDescription,
    /// v5: stored bytes of the files that were put first in the blob, for prefetch policy `blob`; else 0.
    pub prefetch_size: u32,
}

impl From<BlobDescription> for BlobEntry {
    fn from(description: BlobDescription) -> Self {
        Self { description, prefetch_size: 0 }
    }
}

/// The id that a bootstrap inside a blob gives its own blob, having been written before the id was known.
/// Readers put the name of the file in its place.
pub const OWN_BLOB_ID: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

const _: () = assert!(OWN_BLOB_ID.len() == 64);
