//! Which chunks hold a range of a v5 file.
//!
//! Chunk k holds the file from k × chunk size on, unless the file has holes: then chunks may be missing, and are
//! looked for by their file offset.

use storage::blob::Extent;

use super::reader::Tree;
use super::record::Record;
use crate::blob_limits;
use crate::chunk_record::{ChunkRecord, RecordFlags};
use crate::error::Result;

/// The pieces of a range of a file.
pub(crate) struct Extents<'a> {
    tree: &'a Tree,
    chunks: &'a [ChunkRecord],
    chunks_offset: u64,
    has_hole: bool,
    /// Bytes of the file.
    size: u64,
    /// The next chunk.
    next: usize,
    /// The next byte, and the end of the range.
    position: u64,
    end: u64,
}

impl<'a> Extents<'a> {
    pub(super) fn new(tree: &'a Tree, record: &Record<'a>, from: u64, to: u64) -> Self {
        let chunk_size = u64::from(tree.chunk_size());
        let next = match record.has_hole() {
            false => (from / chunk_size) as usize,
            // The first chunk that ends behind the start of the range.
            true => record
                .chunks
                .partition_point(|chunk| chunk.file_offset.get().saturating_add(chunk_size) <= from),
        };
        Self {
            tree,
            chunks: record.chunks,
            chunks_offset: record.chunks_offset,
            has_hole: record.has_hole(),
            size: record.size(),
            next,
            position: from,
            end: to,
        }
    }

    fn extent(&mut self) -> Result<Extent> {
        let at = self.chunks_offset + 80 * self.next as u64;
        let Some(chunk) = self.chunks.get(self.next) else {
            // Only files with holes have fewer chunks than their size asks for.
            return Ok(self.hole(self.end));
        };
        self.check(chunk, at)?;
        let from = chunk.file_offset.get();
        if self.position < from {
            return Ok(self.hole(from.min(self.end)));
        }
        let to = from + u64::from(chunk.uncompressed_size.get());
        let offset = self.position - from;
        // A piece is at most a chunk, and not empty: `check` saw to it that the position is inside.
        let len = (to.min(self.end) - self.position) as u32;
        self.position += u64::from(len);
        self.next += 1;
        Ok(Extent::Chunk {
            blob_index: chunk.blob_index.get(),
            chunk_index: chunk.index.get(),
            uncompressed_offset: chunk.uncompressed_offset.get(),
            uncompressed_size: chunk.uncompressed_size.get(),
            offset: offset as u32,
            len,
            record: Some((chunk.stored(), chunk.digest())),
        })
    }

    /// Checks every chunk from the position on, without the steps that long holes would take, and counts them.
    pub(super) fn check_all(mut self) -> Result<u64> {
        let first = self.next;
        while let Some(chunk) = self.chunks.get(self.next) {
            if self.has_hole {
                self.position = self.position.max(chunk.file_offset.get());
            }
            if self.position >= self.end {
                let at = self.chunks_offset + 80 * self.next as u64;
                let expected = format!("chunks up to {}", self.end);
                return Err(self.tree.image().corrupt(at, "chunk of a file", expected, self.position));
            }
            self.extent()?;
        }
        Ok((self.next - first) as u64)
    }

    /// Zeros up to `to`, which is inside the range and behind the position.
    fn hole(&mut self, to: u64) -> Extent {
        // The range was asked for with 32 bits.
        let len = (to - self.position) as u32;
        self.position = to;
        Extent::Hole { len }
    }

    /// Checks the next chunk, whose record is at `at` in the bootstrap.
    fn check(&self, chunk: &ChunkRecord, at: u64) -> Result<()> {
        let image = self.tree.image();
        let chunk_size = u64::from(self.tree.chunk_size());
        let file_offset = chunk.file_offset.get();
        let wanted = self.position - self.position % chunk_size;
        let place_ok = match self.has_hole {
            false => file_offset == wanted,
            true => {
                file_offset >= wanted && file_offset < self.size && file_offset.is_multiple_of(chunk_size)
            }
        };
        if !place_ok {
            return Err(image.corrupt(at + 64, "file offset of a chunk", wanted.to_string(), file_offset));
        }
        let size = u64::from(chunk.uncompressed_size.get());
        let wanted = chunk_size.min(self.size - file_offset);
        if size != wanted {
            return Err(image.corrupt(at + 44, "uncompressed size of a chunk", wanted.to_string(), size));
        }
        let Some(blob) = self.tree.blobs().get(chunk.blob_index.get() as usize) else {
            let expected = format!("under {}", self.tree.blobs().len());
            return Err(image.corrupt(at + 32, "blob index of a chunk", expected, chunk.blob_index));
        };

        let (bits, stored) = (chunk.flags.get(), u64::from(chunk.compressed_size.get()));
        let known = RecordFlags::COMPRESSED | RecordFlags::HAS_CRC32;
        let Some(flags) = RecordFlags::from_bits(bits).filter(|flags| known.contains(*flags)) else {
            return Err(image.corrupt(at + 36, "flags of a chunk", "COMPRESSED, HAS_CRC32 or none", bits));
        };
        // No codec makes data twice as long; the bound is for who allocates.
        let stored_ok = match flags.contains(RecordFlags::COMPRESSED) {
            true => stored != 0 && stored <= 2 * chunk_size,
            false => stored == size,
        };
        if !stored_ok {
            let expected = format!("a size that holds {size} bytes");
            return Err(image.corrupt(at + 40, "compressed size of a chunk", expected, stored));
        }
        let index = chunk.index.get();
        if index >= blob_limits::CHUNK_COUNT_MAX || blob.chunk_count != 0 && index >= blob.chunk_count {
            let expected = format!("under {}", blob.chunk_count);
            return Err(image.corrupt(at + 72, "index of a chunk", expected, index));
        }
        let limit = blob.data_size().unwrap_or(blob_limits::COMPRESSED_SIZE_MAX);
        let offset = chunk.compressed_offset.get();
        if offset.checked_add(stored).is_none_or(|end| end > limit) {
            let expected = format!("an end up to {limit}");
            return Err(image.corrupt(at + 48, "compressed range of a chunk", expected, offset));
        }
        blob_limits::uncompressed_range(image, at + 56, blob, chunk.uncompressed_offset.get(), size)
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.end {
            return None;
        }
        let extent = self.extent();
        if extent.is_err() {
            self.position = self.end;
        }
        Some(extent)
    }
}
