//! Writing blobs (spec/blob.md §2 to §11, §13): chunks in, one stream out.
//!
//! What costs CPU is outside of the writer, in functions for many threads: [`encode_chunk`] and [`Batch::encode`]. The
//! [`BlobWriter`] puts their results behind each other in the order in which it is given them, and hashes what goes
//! out; then [`BlobWriter::seal`] writes what describes the chunks and [`SealedBlob::finish`] what describes the blob.
//! Where the chunks stay in a tar.gz or a tar, a [`ReferenceWriter`] takes the place of the blob writer.
//!
//! Invariant: the bytes follow from the options and the chunks alone. A blob that the writer finishes is one that
//! [`ChunkTable`](super::ChunkTable) and [`Toc`](super::Toc) accept, and each of its chunks can be decoded.

mod batch;
mod chunk;
mod chunk_array;
mod options;
mod output;
mod reference;
mod seal;

use std::io::Write;

use batch::Form;
pub use batch::{Batch, Batcher, EncodedBatch};
pub use chunk::{EncodedChunk, encode_chunk, encode_digested};
pub use options::BlobOptions;
pub use reference::{DataChunk, DataKind, DataObject, ReferenceOptions, ReferenceWriter};
pub use seal::{FinishedBlob, SealedBlob};

use self::chunk_array::ChunkArray;
use self::output::Output;
use super::unit::MAX_DECODED_SIZE;
use super::{ChunkDescription, ChunkFlags, StoredChunk};
use crate::{Error, Result};

/// One more than the last index that a chunk may have (spec/blob.md §1).
const MAX_CHUNKS: u32 = 0xff_ffff;
/// Stored bytes end here, for their offsets have 40 bits.
const MAX_STORED_END: u64 = 1 << 40;
/// Decoded bytes end here, for their offsets have 44 bits.
const MAX_DECODED_END: u64 = 1 << 44;
/// Alignment of chunks in the uncompressed blob.
const ALIGNMENT: u64 = 4096;

/// Writes the chunks of one blob to a stream, and keeps 16 to 64 bytes of each.
#[derive(Debug)]
pub struct BlobWriter<W> {
    options: BlobOptions,
    output: Output<W>,
    chunks: ChunkArray,
    /// End of the last chunk in the uncompressed blob, aligned if chunks are.
    uncompressed_size: u64,
}

impl<W: Write> BlobWriter<W> {
    /// An empty blob. `out` is best not buffered: writes are of whole chunks.
    ///
    /// [`Error::Invalid`] for options that contradict themselves.
    pub fn new(out: W, options: BlobOptions) -> Result<Self> {
        options.check()?;
        let chunks = ChunkArray::new(&options);
        Ok(Self { options, output: Output::new(out), chunks, uncompressed_size: 0 })
    }

    /// The options it writes by.
    pub fn options(&self) -> &BlobOptions {
        &self.options
    }

    /// Chunks so far; the next one has this index.
    pub fn chunk_count(&self) -> u32 {
        self.chunks.count()
    }

    /// Bytes of all chunks so far, as they are stored.
    pub fn compressed_size(&self) -> u64 {
        self.output.position()
    }

    /// Appends a chunk, and gives its description as a bootstrap records it.
    ///
    /// [`Error::Invalid`] where the format ends: 2^24 - 1 chunks, 1 TiB stored, 16 TiB decoded, and a chunk of 16 MiB
    /// that does not shrink, where entries have 24 bytes. [`Error::Unavailable`] if the stream fails.
    /// After an error the blob is of no use.
    pub fn append(&mut self, chunk: &EncodedChunk) -> Result<ChunkDescription> {
        self.check_chunk(chunk)?;
        let mut flags = ChunkFlags::empty();
        flags.set(ChunkFlags::COMPRESSED, chunk.compressed);
        flags.set(ChunkFlags::ENCRYPTED, self.options.cipher.is_some());
        let description = ChunkDescription {
            index: self.next_index(1)?,
            uncompressed_offset: self.uncompressed_size,
            uncompressed_size: chunk.uncompressed_size,
            stored: StoredChunk {
                flags,
                compressed_offset: self.output.position(),
                // At most 16 MiB, as was checked.
                compressed_size: chunk.stored.len() as u32,
                unit_index: 0,
                unit_offset: 0,
                crc32c: recorded(chunk.crc32c),
            },
        };
        let end = self.end_after(self.uncompressed_size, chunk.uncompressed_size)?;
        self.write_data(&chunk.stored)?;
        self.chunks.push(&description, &chunk.digest);
        self.uncompressed_size = end;
        Ok(description)
    }

    /// Appends a batch, and gives the descriptions of its members, in their order, as a bootstrap records them: without
    /// a place in the stored blob, which only the blob's own chunk table knows. Errors are those of
    /// [`BlobWriter::append`], and [`Error::Invalid`] for a blob without batches. A batch that was
    /// [encoded](Batch::encode) as chunks is appended as these.
    pub fn append_batch(&mut self, batch: &EncodedBatch) -> Result<Vec<ChunkDescription>> {
        if batch.uncompressed_size >= self.options.batch_size {
            return Err(Error::invalid(
                "batch",
                format!("{} bytes, expected less than {}", batch.uncompressed_size, self.options.batch_size),
            ));
        }
        let (members, stored) = match &batch.form {
            Form::Unit(members, stored) => (members, stored),
            Form::Apart(chunks) => return chunks.iter().map(|chunk| self.append(chunk)).collect(),
        };
        // At most half a Mi of them fit, and each takes part in the count of chunks.
        let first = self.next_index(u32::try_from(members.len()).unwrap_or(u32::MAX))?;
        let mut flags = ChunkFlags::COMPRESSED | ChunkFlags::BATCH;
        flags.set(ChunkFlags::ENCRYPTED, self.options.cipher.is_some());
        let mut in_table = StoredChunk {
            flags,
            compressed_offset: self.output.position(),
            compressed_size: 0,
            unit_index: self.chunks.batch_count(),
            unit_offset: 0,
            crc32c: None,
        };
        let mut end = self.uncompressed_size;
        let mut descriptions = Vec::with_capacity(members.len());
        for (index, member) in (first..).zip(members) {
            let mut chunk = ChunkDescription {
                index,
                uncompressed_offset: end,
                uncompressed_size: member.size,
                stored: in_table,
            };
            end = self.end_after(end, member.size)?;
            self.chunks.push(&chunk, &member.digest);
            in_table.unit_offset += member.size;
            chunk.stored = StoredChunk {
                flags: ChunkFlags::empty(),
                compressed_offset: 0,
                compressed_size: 0,
                unit_index: 0,
                unit_offset: 0,
                crc32c: recorded(member.crc32c),
            };
            descriptions.push(chunk);
        }
        self.write_data(stored)?;
        // Less than a batch, of 16 MiB at most.
        self.chunks.push_batch(stored.len() as u32, batch.uncompressed_size);
        self.uncompressed_size = end;
        Ok(descriptions)
    }

    /// Ends the chunk data, and writes what describes the chunks. Errors are those of [`BlobWriter::append`].
    pub fn seal(self) -> Result<SealedBlob<W>> {
        SealedBlob::seal(self)
    }

    /// What [`BlobWriter::append`] relies on; `encode_chunk` with the same options keeps it.
    fn check_chunk(&self, chunk: &EncodedChunk) -> Result<()> {
        let (size, stored) = (u64::from(chunk.uncompressed_size), chunk.stored.len() as u64);
        let refuse = |detail: String| Err(Error::invalid(format!("chunk {}", self.chunk_count()), detail));
        if size == 0 || size > self.options.chunk_size.into() {
            return refuse(format!("{size} bytes, expected 1 to {}", self.options.chunk_size));
        }
        let padded = self.options.cipher.is_some() && stored == 18;
        let fits = if chunk.compressed { stored < size } else { stored == size };
        if stored == 0 || !(fits || padded) {
            return refuse(format!("{stored} bytes stored of {size}, compressed is {}", chunk.compressed));
        }
        if self.options.is_v2() && stored >= MAX_DECODED_SIZE {
            return refuse(format!("{stored} bytes stored, entries of 24 bytes end before that"));
        }
        Ok(())
    }

    /// The index of the next chunk, if there may be so many more.
    fn next_index(&self, more: u32) -> Result<u32> {
        let count = self.chunk_count();
        match count.checked_add(more) {
            Some(end) if end <= MAX_CHUNKS => Ok(count),
            _ => Err(Error::invalid("blob", format!("more than {MAX_CHUNKS} chunks"))),
        }
    }

    /// The end of a chunk of so many bytes that begins at `offset` of the uncompressed blob.
    fn end_after(&self, offset: u64, size: u32) -> Result<u64> {
        // Both far below overflow.
        let end = offset + u64::from(size);
        let end = if self.options.aligned { end.next_multiple_of(ALIGNMENT) } else { end };
        if end > MAX_DECODED_END {
            return Err(Error::invalid("blob", format!("more than {MAX_DECODED_END} bytes decoded")));
        }
        Ok(end)
    }

    fn write_data(&mut self, stored: &[u8]) -> Result<()> {
        if self.output.position() + stored.len() as u64 > MAX_STORED_END {
            return Err(Error::invalid("blob", format!("more than {MAX_STORED_END} bytes stored")));
        }
        self.output.write(stored)
    }
}

/// A CRC of zero is left out, for readers of chunk tables refuse it (spec/blob.md §1.3).
fn recorded(crc32c: u32) -> Option<u32> {
    (crc32c != 0).then_some(crc32c)
}

#[cfg(test)]
mod tests;
