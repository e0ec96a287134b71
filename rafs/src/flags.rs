//! The superblock flags that v5 and v6 share (spec/rafs-v5.md §4).

use storage::blob::Compressor;
use storage::digest::Digester;

use crate::build::Inodes;

bitflags::bitflags! {
    /// What a whole image has in common.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ImageFlags: u64 {
        const COMPRESS_NONE = 0x1;
        const COMPRESS_LZ4 = 0x2;
        const DIGEST_BLAKE3 = 0x4;
        const DIGEST_SHA256 = 0x8;
        /// Owners are recorded; without it they are 0 in every inode.
        const OWNERS = 0x10;
        /// Some inode may have extended attributes.
        const XATTRS = 0x20;
        const COMPRESS_GZIP = 0x40;
        const COMPRESS_ZSTD = 0x80;
        /// v6: the blobs hold the digests of their chunks.
        const INLINED_CHUNK_DIGEST = 0x100;
        /// v6: data is read from plain tars, and blocks have 512 bytes.
        const TARFS = 0x200;
        const ENCRYPT_NONE = 0x0100_0000;
        const ENCRYPT_AES_128_XTS = 0x0200_0000;
        /// Reserved compatible bits: accepted, ignored.
        const RESERVED = 0xfc00_0000;
    }
}

impl ImageFlags {
    /// The flags that both formats give an image.
    pub(crate) fn of(inodes: &Inodes<'_>) -> Self {
        let options = inodes.options;
        let compressor = match options.compressor {
            Compressor::None => Self::COMPRESS_NONE,
            Compressor::Lz4Block => Self::COMPRESS_LZ4,
            Compressor::Gzip => Self::COMPRESS_GZIP,
            Compressor::Zstd => Self::COMPRESS_ZSTD,
        };
        let digester = match options.digester {
            Digester::Blake3 => Self::DIGEST_BLAKE3,
            Digester::Sha256 => Self::DIGEST_SHA256,
        };
        let mut flags = compressor | digester;
        flags.set(Self::OWNERS, options.explicit_owners);
        flags.set(Self::XATTRS, inodes.has_xattrs());
        flags
    }

    /// The one compressor; `None` if there is not exactly one.
    pub(crate) fn compressor(self) -> Option<Compressor> {
        let all = Self::COMPRESS_NONE | Self::COMPRESS_LZ4 | Self::COMPRESS_GZIP | Self::COMPRESS_ZSTD;
        match self & all {
            Self::COMPRESS_NONE => Some(Compressor::None),
            Self::COMPRESS_LZ4 => Some(Compressor::Lz4Block),
            Self::COMPRESS_GZIP => Some(Compressor::Gzip),
            Self::COMPRESS_ZSTD => Some(Compressor::Zstd),
            _ => None,
        }
    }

    /// The one digester; `None` if there is not exactly one.
    pub(crate) fn digester(self) -> Option<Digester> {
        match self & (Self::DIGEST_BLAKE3 | Self::DIGEST_SHA256) {
            Self::DIGEST_BLAKE3 => Some(Digester::Blake3),
            Self::DIGEST_SHA256 => Some(Digester::Sha256),
            _ => None,
        }
    }
}
