//! Blobs of reference images (spec/blob.md §2, §10): the data is an object that exists already, and stays as it is.
//! What is written beside it, the RAFS blob, says where the chunks are in it.

use std::io::Write;

use super::chunk_array::ChunkArray;
use super::seal::SealedBlob;
use super::{ALIGNMENT, BlobOptions, MAX_CHUNKS, MAX_DECODED_END, MAX_STORED_END};
use crate::blob::{
    BlobFeatures, BlobId, ChunkDescription, ChunkFlags, Compressor, StoredChunk, ZranChunk, ZranContexts,
};
use crate::digest::{Digest, Digester};
use crate::{Error, Result};

/// What the data object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// A tar.gz, whose chunks are in contexts.
    Zran,
    /// A tar, whose chunks lie in it as they are.
    Tar,
    /// A file of gzip members, one for each chunk.
    Stargz,
}

/// What a build decides of the RAFS blob. Chunks are digested with SHA-256, and the object is said to be compressed with
/// gzip, whatever it is.
#[derive(Clone, Debug)]
pub struct ReferenceOptions {
    /// What the data object is.
    pub kind: DataKind,
    /// The largest chunk in bytes: a power of two, 4 KiB to 16 MiB.
    pub chunk_size: u32,
    /// The blob carries chunk digests and a table of contents (`--features blob-toc`).
    pub toc: bool,
    /// The bootstrap goes into the blob (`--blob-inline-meta`).
    pub inline_bootstrap: bool,
}

impl ReferenceOptions {
    /// [`Error::Invalid`] for what the format cannot express.
    pub fn check(&self) -> Result<()> {
        self.as_native().check()
    }

    /// As the options of a blob that had its chunks itself. Tables are compressed with zstd.
    pub(super) fn as_native(&self) -> BlobOptions {
        BlobOptions {
            toc: self.toc,
            inline_bootstrap: self.inline_bootstrap,
            ..BlobOptions::v6(Compressor::Zstd, Digester::Sha256, self.chunk_size)
        }
    }

    /// The features that do not follow from [`Self::as_native`].
    pub(super) fn features(&self) -> BlobFeatures {
        BlobFeatures::SEPARATE
            | match self.kind {
                DataKind::Zran => BlobFeatures::CHUNK_INFO_V2 | BlobFeatures::ZRAN,
                DataKind::Tar => BlobFeatures::CHUNK_INFO_V2,
                DataKind::Stargz => BlobFeatures::empty(),
            }
    }
}

/// The data object.
#[derive(Clone, Debug)]
pub struct DataObject {
    /// Its name: the SHA-256 of its bytes, as a rule.
    pub id: BlobId,
    /// Its bytes; 0: unknown.
    pub size: u64,
}

/// Where a chunk is in the data object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataChunk {
    /// In a context of a tar.gz.
    Zran(ZranChunk),
    /// At this offset of a tar.
    Tar(u64),
    /// In the gzip member at this offset, which has no more than so many bytes.
    Stargz(u64, u32),
}

/// Collects what there is to say of the chunks of a data object; keeps 16 to 64 bytes of each.
#[derive(Debug)]
pub struct ReferenceWriter {
    pub(super) options: ReferenceOptions,
    pub(super) chunks: ChunkArray,
    /// End of the last chunk in the uncompressed blob, aligned.
    pub(super) uncompressed_size: u64,
    /// The contexts that the chunks are in; their numbers ascend. Those of chunks that were there already are left out.
    pub(super) contexts: Vec<u32>,
}

impl ReferenceWriter {
    /// Of an object without chunks. [`Error::Invalid`] for options that contradict themselves.
    pub fn new(options: ReferenceOptions) -> Result<Self> {
        options.check()?;
        let has_v2_entries = options.features().contains(BlobFeatures::CHUNK_INFO_V2);
        let chunks = ChunkArray::of(true, has_v2_entries, options.toc);
        Ok(Self { options, chunks, uncompressed_size: 0, contexts: Vec::new() })
    }

    /// Chunks so far; the next one has this index.
    pub fn chunk_count(&self) -> u32 {
        self.chunks.count()
    }

    /// Adds a chunk of `len` bytes, and gives its description as a bootstrap records it. A CRC-32C that is not known is
    /// 0.
    ///
    /// [`Error::Invalid`] for an empty chunk or one beyond the chunk size, for a place of another kind of object, and
    /// where the format ends: 2^24 - 1 chunks, 1 TiB stored, 16 TiB decoded.
    pub fn append(
        &mut self,
        len: u32,
        digest: &Digest,
        crc32c: u32,
        place: DataChunk,
    ) -> Result<ChunkDescription> {
        let index = self.chunk_count();
        let refuse = |detail: String| Err(Error::invalid(format!("chunk {index}"), detail));
        if index >= MAX_CHUNKS {
            return refuse(format!("a blob ends before {MAX_CHUNKS} chunks"));
        }
        if len == 0 || len > self.options.chunk_size {
            return refuse(format!("{len} bytes, expected 1 to {}", self.options.chunk_size));
        }
        let recorded_crc = (crc32c != 0).then_some(crc32c);
        let mut stored = StoredChunk {
            flags: ChunkFlags::COMPRESSED,
            compressed_offset: 0,
            compressed_size: 0,
            unit_index: 0,
            unit_offset: 0,
            crc32c: recorded_crc,
        };
        match (self.options.kind, place) {
            (DataKind::Zran, DataChunk::Zran(chunk)) => {
                stored.compressed_offset = chunk.compressed_offset;
                // Of no consequence to readers, who need the context's; the field ends here.
                stored.compressed_size = chunk.compressed_size.min(0xff_ffff);
                match self.contexts.last() {
                    Some(last) if *last > chunk.context => {
                        return refuse(format!("its context is {}, expected {last} at least", chunk.context));
                    }
                    Some(last) if *last == chunk.context => {}
                    _ => self.contexts.push(chunk.context),
                }
                // No more than chunks.
                (stored.unit_index, stored.unit_offset) = (self.contexts.len() as u32 - 1, chunk.offset);
            }
            (DataKind::Tar, DataChunk::Tar(offset)) => {
                stored.flags = ChunkFlags::empty();
                (stored.compressed_offset, stored.compressed_size) = (offset, len);
            }
            (DataKind::Stargz, DataChunk::Stargz(offset, bound)) => {
                // A size like the chunk's own would say that it is not compressed.
                let bound = if bound == len { bound + 1 } else { bound };
                (stored.compressed_offset, stored.compressed_size) = (offset, bound);
            }
            (kind, _) => return refuse(format!("{place:?} is no place in an object of kind {kind:?}")),
        }
        // A size in an entry of 24 bytes stops before 16 MiB, one in an entry of 16 bytes with it.
        let limit = match self.options.kind {
            DataKind::Zran | DataKind::Tar => 0xff_ffff,
            DataKind::Stargz => 0x100_0000,
        };
        if stored.compressed_size > limit {
            return refuse(format!("{} bytes stored, expected at most {limit}", stored.compressed_size));
        }
        let stored_end = stored.compressed_offset.checked_add(stored.compressed_size.into());
        // Far below overflow.
        let end = (self.uncompressed_size + u64::from(len)).next_multiple_of(ALIGNMENT);
        if stored_end.is_none_or(|end| end > MAX_STORED_END) || end > MAX_DECODED_END {
            return refuse(format!(
                "stored at {}, decoded up to {end}, expected below {MAX_STORED_END} and {MAX_DECODED_END}",
                stored.compressed_offset
            ));
        }
        let description = ChunkDescription {
            index,
            uncompressed_offset: self.uncompressed_size,
            uncompressed_size: len,
            stored,
        };
        let mut entry = description;
        entry.stored.flags.set(ChunkFlags::ZRAN, self.options.kind == DataKind::Zran);
        self.chunks.push(&entry, digest);
        self.uncompressed_size = end;
        Ok(description)
    }

    /// Ends the chunks, and writes what describes them; nothing, if there are none. `contexts` are those of the tar.gz,
    /// none for other objects.
    ///
    /// [`Error::Invalid`] if a chunk is in none of them; [`Error::Unavailable`] if the stream fails.
    pub fn seal<W: Write>(self, out: W, data: DataObject, contexts: ZranContexts) -> Result<SealedBlob<W>> {
        SealedBlob::seal_reference(self, out, data, contexts)
    }
}

#[cfg(test)]
mod tests;
