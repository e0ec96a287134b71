//! The vocabulary that bootstraps, blobs and caches share: descriptions of blobs and of chunks.
//!
//! Plain values without I/O. Who makes them (the bootstrap reader, the chunk-table reader) has checked them
//! as the specs' "hostile" sections ask: an id is a safe file name, sizes are within the format's limits.

use std::fmt;
use std::sync::Arc;

use crate::digest::{Digest, Digester};
use crate::{Error, Result};

/// The name of a blob: 1 to 64 bytes of UTF-8, usable as a file name as it stands.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(Arc<str>);

impl BlobId {
    /// Takes an id from outside. Refuses what is empty, over 64 bytes, `.`, `..`, or holds `/` or NUL,
    /// because ids become file names.
    pub fn new(id: &str) -> Result<Self> {
        let bad = id.is_empty() || id.len() > 64 || id == "." || id == ".." || id.contains(['/', '\0']);
        if bad {
            return Err(Error::invalid(
                "blob id",
                format!("{id:?} is not 1 to 64 bytes usable as a file name"),
            ));
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How bytes are compressed (spec/blob.md §1; the numbers of its table).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// Stored as they are.
    None,
    /// A bare LZ4 block.
    Lz4Block,
    /// A gzip member.
    Gzip,
    /// A zstd frame.
    Zstd,
}

impl TryFrom<u32> for Compressor {
    type Error = Error;

    fn try_from(value: u32) -> Result<Self> {
        match value {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4Block),
            2 => Ok(Self::Gzip),
            3 => Ok(Self::Zstd),
            _ => Err(Error::invalid("compressor", format!("{value} is not 0 to 3"))),
        }
    }
}

bitflags::bitflags! {
    /// What a blob holds (spec/blob.md §5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct BlobFeatures: u32 {
        /// Uncompressed chunks are 4 KiB aligned.
        const ALIGNED = 0x1;
        /// The bootstrap is inside the blob.
        const INLINED_FS_META = 0x2;
        /// 24-byte chunk-information entries.
        const CHUNK_INFO_V2 = 0x4;
        /// ZRan contexts are present.
        const ZRAN = 0x8;
        /// Chunk data and blob meta are in different objects.
        const SEPARATE = 0x10;
        /// The blob holds an array of chunk digests.
        const INLINED_CHUNK_DIGEST = 0x20;
        /// The data is a raw uncompressed tar.
        const TARFS = 0x40;
        /// Batch contexts are present.
        const BATCH = 0x80;
        /// Chunk data, CI array and CI header are encrypted.
        const ENCRYPTED = 0x100;
        /// A generated chunk dictionary: entries are not validated.
        const IS_CHUNKDICT_GENERATED = 0x200;
        /// The prefetch blob of `optimize`.
        const IS_SEPARATED_WITH_PREFETCH_FILES = 0x400;
        /// Served by an external backend.
        const EXTERNAL = 0x800;
        /// Tar headers are present.
        const HAS_TAR_HEADER = 0x1000_0000;
        /// A table of contents is present.
        const HAS_TOC = 0x2000_0000;
        /// Built by generation 2.2 or newer.
        const CAP_TAR_TOC = 0x4000_0000;
        // Unknown bits of the upper half are kept and ignored.
        const _ = 0x7fff_0000;
    }
}

impl BlobFeatures {
    /// Takes the bits from disk. Bits 0 to 15 are incompatible features: an unknown one is refused, and so is
    /// bit 31, which must never be on disk.
    pub fn from_disk(bits: u32) -> Result<Self> {
        Self::from_bits(bits).ok_or_else(|| {
            Error::invalid(
                "blob features",
                format!(
                    "{bits:#010x} has bits that this reader does not know ({:#010x})",
                    bits & !0x7fff_0fff
                ),
            )
        })
    }
}

/// Where the chunk-information array lies in the object that holds it (spec/blob.md §4, §12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CiLocation {
    /// How the array is compressed.
    pub compressor: Compressor,
    /// Offset of the stored array.
    pub offset: u64,
    /// Stored bytes of the array; the 4096-byte header follows them.
    pub compressed_size: u64,
    /// Decoded bytes, context tables included.
    pub uncompressed_size: u64,
}

/// What the bootstrap says of the table of contents (spec/blob.md §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TocLocation {
    /// Entries and their tar header, in bytes; 0: unknown, find it from the end.
    pub size: u32,
    /// SHA-256 over entries and tar header; all zero: unknown.
    pub digest: Digest,
}

/// The key of an encrypted blob (spec/blob.md §11). AES-128-XTS is the only one that is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cipher {
    /// The two halves of the XTS key.
    pub key: [u8; 32],
    /// The tweak.
    pub iv: [u8; 16],
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(***)")
    }
}

/// One blob of an image, as its bootstrap describes it.
#[derive(Clone, Debug)]
pub struct BlobDescription {
    /// Its place in the blob table.
    pub index: u32,
    /// The object that holds the chunk data.
    pub id: BlobId,
    /// The largest chunk, in bytes.
    pub chunk_size: u32,
    /// Chunks in the blob; 0: unknown (v5 without an extended blob table).
    pub chunk_count: u32,
    /// The codec of compressed chunks.
    pub compressor: Compressor,
    /// The algorithm of chunk digests.
    pub digester: Digester,
    /// Set for encrypted blobs.
    pub cipher: Option<Cipher>,
    /// What the blob holds.
    pub features: BlobFeatures,
    /// Stored bytes; 0: unknown. What exactly it counts depends on the features (spec/blob.md §5).
    pub compressed_size: u64,
    /// Bytes of the uncompressed blob; 0: unknown.
    pub uncompressed_size: u64,
    /// The chunk-information array; none for v5 and tarfs.
    pub ci: Option<CiLocation>,
    /// The table of contents; `None` where the features say that there is none.
    pub toc: Option<TocLocation>,
    /// For `SEPARATE` blobs, the object that holds the CI array, the ToC and the digests; `None`: the blob itself.
    pub meta_id: Option<BlobId>,
    /// Size of that object; 0: unknown.
    pub meta_size: u64,
}

impl BlobDescription {
    /// The object that holds CI array, ToC and digest array.
    pub fn meta_object(&self) -> &BlobId {
        self.meta_id.as_ref().unwrap_or(&self.id)
    }

    /// True if the data is a plain tar that is read in place: no chunk table, no digests, no cache.
    /// Both bits are needed (spec/blob.md §10.3).
    pub fn is_tarfs(&self) -> bool {
        self.features.contains(BlobFeatures::TARFS | BlobFeatures::CAP_TAR_TOC)
    }

    /// End of the chunk-data section in the data object, or `None` where it is not known (spec/blob.md §5).
    /// No chunk may be stored beyond it.
    pub fn data_size(&self) -> Option<u64> {
        let header = if self.features.contains(BlobFeatures::HAS_TAR_HEADER) { 512 } else { 0 };
        let size = if self.features.contains(BlobFeatures::SEPARATE) {
            self.compressed_size
        } else if self.features.contains(BlobFeatures::CAP_TAR_TOC) {
            self.ci.map_or(self.compressed_size, |ci| ci.offset).saturating_sub(header)
        } else {
            self.compressed_size
        };
        (size != 0).then_some(size)
    }
}

bitflags::bitflags! {
    /// How one chunk is stored.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ChunkFlags: u8 {
        /// Compressed with the blob's compressor.
        const COMPRESSED = 0x1;
        /// Part of a ZRan context: `unit_offset` and `unit_index` say where.
        const ZRAN = 0x2;
        /// Part of a batch: `unit_offset` and `unit_index` say where.
        const BATCH = 0x4;
        /// Encrypted with the blob's cipher.
        const ENCRYPTED = 0x8;
    }
}

/// How and where one chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// How.
    pub flags: ChunkFlags,
    /// Offset of the stored bytes in the data object.
    pub compressed_offset: u64,
    /// Stored bytes; 0 for batch members.
    pub compressed_size: u32,
    /// ZRan or batch: which context.
    pub unit_index: u32,
    /// ZRan or batch: offset of the chunk in the context's output.
    pub unit_offset: u32,
    /// CRC-32C of the uncompressed bytes, where one is recorded.
    pub crc32c: Option<u32>,
}

/// One chunk of a blob: which it is, where it lies once decoded, and how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkDescription {
    /// Its number in the blob.
    pub index: u32,
    /// Where it lies in the uncompressed blob, and so in the cache file.
    pub uncompressed_offset: u64,
    /// Its bytes once decoded; never 0.
    pub uncompressed_size: u32,
    /// How and where it is stored.
    pub stored: StoredChunk,
}

/// A piece of a file: some bytes of one chunk, or of a hole. What a bootstrap yields for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `len` zero bytes that no chunk holds (v5 with HAS_HOLE).
    Hole {
        /// Bytes of this piece.
        len: u32,
    },
    /// Bytes `offset..offset + len` of a chunk.
    Chunk {
        /// Which blob of the image.
        blob_index: u32,
        /// Which chunk of it.
        chunk_index: u32,
        /// Where the chunk lies in the uncompressed blob.
        uncompressed_offset: u64,
        /// The chunk's bytes once decoded.
        uncompressed_size: u32,
        /// First byte of the piece within the chunk.
        offset: u32,
        /// Bytes of the piece; never 0, `offset + len <= uncompressed_size`.
        len: u32,
        /// v5: how the chunk is stored, and its digest. v6: `None`, the blob's chunk table knows.
        record: Option<(StoredChunk, Digest)>,
    },
}

/// Where the digests of v6 chunks come from: the bootstrap's chunk table.
///
/// The index is built by whoever asks, at the first miss of a blob and not at mount.
pub trait DigestSource: Send + Sync {
    /// Which chunks of the blob have a digest: pairs of (chunk index, record), ascending by chunk index, one a
    /// chunk. Bounded by the records in the bootstrap, not by the blob's chunk count.
    fn digest_index(&self, blob_index: u32) -> Result<Vec<(u32, u32)>>;

    /// The digest in a record that [`Self::digest_index`] named, and the uncompressed offset that the record
    /// gives the chunk. `None` if the record is unusable.
    fn digest(&self, record: u32) -> Option<(Digest, u64)>;
}
