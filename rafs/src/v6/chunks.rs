//! Which chunks hold a range of a v6 file (spec/rafs-v6.md §9), and the chunk table, which has their digests (§10).

use std::sync::Arc;

use storage::blob::{BlobDescription, ChunkDescription, DigestSource, Extent};
use storage::digest::Digest;

use super::layout::{CHUNK_ADDRESSES, CHUNK_SIZE_BITS, ChunkAddress};
use super::node::{Node, Place};
use super::reader::Tree;
use crate::blob_limits;
use crate::chunk_record::ChunkRecord;
use crate::error::Result;
use crate::image::Image;

/// Checks the chunk format of a regular file: addresses of 8 bytes, no unknown bit. The chunk size in it is for
/// the kernel.
pub(super) fn check_format(image: &Image, at: u64, format: u32) -> Result<()> {
    if format & !CHUNK_SIZE_BITS != CHUNK_ADDRESSES {
        let found = format!("{format:#x}");
        return Err(image.corrupt(at, "chunk format", "0x20 and a chunk size", found));
    }
    Ok(())
}

/// The pieces of a range of a file.
pub(crate) struct Extents<'a> {
    image: &'a Image,
    blobs: &'a [Arc<BlobDescription>],
    block_size: u64,
    chunk_size: u64,
    addresses: &'a [ChunkAddress],
    /// Of the addresses in the bootstrap.
    offset: u64,
    /// Bytes of the file.
    size: u64,
    /// The next byte, and the end of the range.
    position: u64,
    end: u64,
}

impl<'a> Extents<'a> {
    pub(super) fn new(tree: &'a Tree, node: &Node, from: u64, to: u64) -> Result<Self> {
        let (offset, addresses): (_, &[ChunkAddress]) = match node.place {
            Place::Chunks { offset, count } if count != 0 => {
                (offset, tree.image().array(offset, count, "chunk addresses")?)
            }
            _ => (0, &[]),
        };
        Ok(Self {
            image: tree.image(),
            blobs: tree.blobs(),
            block_size: tree.block_size(),
            chunk_size: tree.chunk_size().into(),
            addresses,
            offset,
            size: node.size,
            position: from,
            end: to,
        })
    }

    fn extent(&mut self) -> Result<Extent> {
        /// What EROFS writes for a hole; this format has none.
        const NULL: u32 = u32::MAX;
        let number = self.position / self.chunk_size;
        let at = self.offset + number * size_of::<ChunkAddress>() as u64;
        let Some(address) = self.addresses.get(number as usize) else {
            let found = self.addresses.len();
            return Err(self.image.corrupt(at, "chunk address", format!("more than {number}"), found));
        };
        let blob = usize::from(address.device).checked_sub(1).and_then(|index| self.blobs.get(index));
        let Some(blob) = blob else {
            let expected = format!("1 to {}", self.blobs.len());
            return Err(self.image.corrupt(at + 2, "blob of a chunk", expected, address.device));
        };
        let index = u32::from(address.index_low.get()) | u32::from(address.index_high) << 16;
        if index >= blob.chunk_count {
            let expected = format!("under {}", blob.chunk_count);
            return Err(self.image.corrupt(at, "index of a chunk", expected, index));
        }
        let block = address.block.get();
        if block == NULL {
            return Err(self.image.corrupt(at + 4, "block of a chunk", "an address", "a hole"));
        }
        let from = number * self.chunk_size;
        let to = self.size.min(from + self.chunk_size);
        let uncompressed_offset = u64::from(block) * self.block_size;
        blob_limits::uncompressed_range(self.image, at + 4, blob, uncompressed_offset, to - from)?;
        // All of these are at most a chunk, which has at most 16 MiB.
        let (offset, len) = (self.position - from, to.min(self.end) - self.position);
        self.position += len;
        Ok(Extent::Chunk {
            blob_index: blob.index,
            chunk_index: index,
            uncompressed_offset,
            uncompressed_size: (to - from) as u32,
            offset: offset as u32,
            len: len as u32,
            record: None,
        })
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

/// Checks a record of the chunk table by itself: its blob exists, and its sizes are inside the blob. What the
/// record says of the stored bytes is not used, nor right for batched chunks.
pub(super) fn check_record(tree: &Tree, at: u64, record: &ChunkRecord) -> Result<()> {
    let image = tree.image();
    let Some(blob) = tree.blobs().get(record.blob_index.get() as usize) else {
        let expected = format!("under {}", tree.blobs().len());
        return Err(image.corrupt(at + 32, "blob index of a chunk", expected, record.blob_index));
    };
    if record.index.get() >= blob.chunk_count {
        let expected = format!("under {}", blob.chunk_count);
        return Err(image.corrupt(at + 72, "index of a chunk", expected, record.index));
    }
    let size = record.uncompressed_size.get();
    if size == 0 || size > blob.chunk_size {
        let expected = format!("1 to {}", blob.chunk_size);
        return Err(image.corrupt(at + 44, "uncompressed size of a chunk", expected, size));
    }
    let offset = record.uncompressed_offset.get();
    if !offset.is_multiple_of(tree.block_size()) {
        let expected = format!("a multiple of {}", tree.block_size());
        return Err(image.corrupt(at + 56, "uncompressed offset of a chunk", expected, offset));
    }
    blob_limits::uncompressed_range(image, at + 56, blob, offset, size.into())
}

impl Tree {
    /// The chunk that a record describes, and its digest; `None` if the record is unusable.
    pub(crate) fn recorded_chunk(&self, number: u32) -> Option<(ChunkDescription, Digest)> {
        let record = self.chunk_table().get(number as usize)?;
        check_record(self, 80 * u64::from(number), record).ok()?;
        let chunk = ChunkDescription {
            index: record.index.get(),
            uncompressed_offset: record.uncompressed_offset.get(),
            uncompressed_size: record.uncompressed_size.get(),
            stored: record.stored(),
        };
        Some((chunk, record.digest()))
    }
}

impl DigestSource for Tree {
    fn digest_index(&self, blob_index: u32) -> storage::Result<Vec<(u32, u32)>> {
        let mut index: Vec<(u32, u32)> = self
            .chunk_table()
            .iter()
            .zip(0..)
            .filter(|(record, _)| record.blob_index == blob_index && !record.digest().is_zero())
            .map(|(record, number)| (record.index.get(), number))
            .collect();
        index.sort_unstable();
        index.dedup_by_key(|(chunk, _)| *chunk);
        Ok(index)
    }

    fn digest(&self, record: u32) -> Option<(Digest, u64)> {
        let (chunk, digest) = self.recorded_chunk(record)?;
        Some((digest, chunk.uncompressed_offset))
    }
}
