//! The 80-byte chunk record: v5 inodes carry them, the chunk table of v6 is made of them (spec/rafs-v5.md §9).

use storage::blob::{ChunkFlags, StoredChunk};
use storage::digest::Digest;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::build::Chunk;

/// One chunk.
///
/// ```text
/// 0        32          36     40               44                 48
/// | digest | blob_index | flags | compressed_size | uncompressed_size |
/// 48                  56                    64           72      76     80
/// | compressed_offset | uncompressed_offset | file_offset | index | crc32 |
/// ```
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkRecord {
    /// Of the uncompressed chunk, by the image's digester.
    pub(crate) digest: [u8; 32],
    /// Place in the blob table.
    pub(crate) blob_index: U32,
    /// [`RecordFlags`].
    pub(crate) flags: U32,
    /// Stored bytes.
    pub(crate) compressed_size: U32,
    pub(crate) uncompressed_size: U32,
    /// In the blob as stored.
    pub(crate) compressed_offset: U64,
    /// In the uncompressed blob.
    pub(crate) uncompressed_offset: U64,
    /// Of the chunk in its file; in the table of v6, of one of its files.
    pub(crate) file_offset: U64,
    /// Number of the chunk in its blob.
    pub(crate) index: U32,
    /// CRC-32C of the uncompressed chunk, with `HAS_CRC32`; any value may be right, 0 too.
    pub(crate) crc32: U32,
}

const _: () = assert!(size_of::<ChunkRecord>() == 80);

impl ChunkRecord {
    /// The record of a chunk at `file_offset` of its file. Batches are known to their blob only: of their members
    /// neither flag nor place is recorded.
    pub(crate) fn of(chunk: &Chunk, file_offset: u64) -> Self {
        let stored = &chunk.stored;
        let batched = stored.flags.contains(ChunkFlags::BATCH);
        let mut flags = RecordFlags::empty();
        flags.set(RecordFlags::COMPRESSED, stored.flags.contains(ChunkFlags::COMPRESSED));
        flags.set(RecordFlags::ENCRYPTED, stored.flags.contains(ChunkFlags::ENCRYPTED));
        flags.set(RecordFlags::HAS_CRC32, stored.crc32c.is_some());
        Self {
            digest: chunk.digest.0,
            blob_index: chunk.blob_index.into(),
            flags: flags.bits().into(),
            compressed_size: if batched { 0 } else { stored.compressed_size }.into(),
            uncompressed_size: chunk.uncompressed_size.into(),
            compressed_offset: if batched { 0 } else { stored.compressed_offset }.into(),
            uncompressed_offset: chunk.uncompressed_offset.into(),
            file_offset: file_offset.into(),
            index: chunk.index.into(),
            crc32: stored.crc32c.unwrap_or(0).into(),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(self.digest)
    }

    /// How the chunk is stored, in so far as records tell.
    pub(crate) fn stored(&self) -> StoredChunk {
        let recorded = RecordFlags::from_bits_truncate(self.flags.get());
        let mut flags = ChunkFlags::empty();
        flags.set(ChunkFlags::COMPRESSED, recorded.contains(RecordFlags::COMPRESSED));
        flags.set(ChunkFlags::ENCRYPTED, recorded.contains(RecordFlags::ENCRYPTED));
        flags.set(ChunkFlags::BATCH, recorded.contains(RecordFlags::BATCH));
        StoredChunk {
            flags,
            compressed_offset: self.compressed_offset.get(),
            compressed_size: self.compressed_size.get(),
            unit_index: 0,
            unit_offset: 0,
            crc32c: recorded.contains(RecordFlags::HAS_CRC32).then(|| self.crc32.get()),
        }
    }
}

bitflags::bitflags! {
    /// How a chunk is stored.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct RecordFlags: u32 {
        const COMPRESSED = 0x1;
        const HOLE = 0x2;
        const ENCRYPTED = 0x4;
        const BATCH = 0x8;
        const HAS_CRC32 = 0x10;
    }
}
