//! The chunk table (spec/rafs-v6.md §10): one record for each chunk that some file has, by digest.

use std::collections::HashMap;

use storage::blob::BlobFeatures;
use zerocopy::IntoBytes;

use super::reader::Tree;
use crate::build::{Chunk, Content, Inodes};
use crate::chunk_record::ChunkRecord;
use crate::error::Result;

/// The chunks to record, sorted, each with its file offset.
pub(super) struct ChunkTable<'a>(Vec<(&'a Chunk, u64)>);

impl<'a> ChunkTable<'a> {
    /// Of the chunks with the same digest in the same blob the last one counts, as files are numbered. Chunks
    /// without a digest, which blobs of an external backend have, all count; those of tarfs do not.
    pub(super) fn of(inodes: &Inodes<'a>) -> Self {
        let chunk_size = inodes.options.chunk_size as usize;
        let mut chunks = Vec::new();
        for position in 0..inodes.len() {
            if let Content::Regular { chunks: own, .. } = &inodes.node(position).content {
                let offsets = (0..).step_by(chunk_size);
                let placed = |(chunk, offset): (&'a Chunk, u64)| {
                    (chunk, chunk.inherited_file_offset.unwrap_or(offset))
                };
                chunks.extend(own.iter().zip(offsets).map(placed));
            }
        }
        let external: Vec<bool> = inodes
            .blobs
            .iter()
            .map(|blob| blob.description.features.contains(BlobFeatures::EXTERNAL))
            .collect();
        let key = |(chunk, _): &(&Chunk, u64)| {
            let index = if external[chunk.blob_index as usize] { chunk.index } else { 0 };
            (chunk.digest.0, chunk.blob_index, index)
        };
        // Stable: the last of equals stays the last. Reversed, `dedup` keeps it.
        chunks.reverse();
        chunks.sort_by_key(key);
        chunks.dedup_by_key(|chunk| key(chunk));
        Self(chunks)
    }

    /// Bytes of the table.
    pub(super) fn size(&self) -> u64 {
        (self.0.len() * size_of::<ChunkRecord>()) as u64
    }

    /// Writes the table over the start of `bytes`.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        for ((chunk, file_offset), bytes) in self.0.iter().zip(bytes.chunks_exact_mut(80)) {
            bytes.copy_from_slice(ChunkRecord::of(chunk, *file_offset).as_bytes());
        }
    }
}

/// The records of an opened bootstrap by what chunk addresses say.
pub(crate) struct ChunkRecords<'a> {
    tree: &'a Tree,
    /// Blob, number in the blob and uncompressed offset → place in the table.
    places: HashMap<(u32, u32, u64), u32>,
}

impl<'a> ChunkRecords<'a> {
    /// The records of `tree`, whose chunk table was checked.
    pub(crate) fn of(tree: &'a Tree) -> Self {
        let key = |record: &ChunkRecord| {
            (record.blob_index.get(), record.index.get(), record.uncompressed_offset.get())
        };
        let places = tree.chunk_table().iter().map(key).zip(0..).collect();
        Self { tree, places }
    }

    /// The record of a chunk. Chunks of plain tars need not have one.
    pub(crate) fn find(&self, blob: u32, index: u32, offset: u64) -> Result<Option<&'a ChunkRecord>> {
        let place = self.places.get(&(blob, index, offset));
        let record = place.and_then(|place| self.tree.chunk_table().get(*place as usize));
        let tarfs = { self.tree.blobs().get(blob as usize) }.is_some_and(|blob| blob.is_tarfs());
        if record.is_none() && !tarfs {
            let expected = format!("a record of chunk {index} of blob {blob} at {offset}");
            let at = self.tree.chunk_table_offset();
            return Err(self.tree.image().corrupt(at, "chunk table", expected, "none"));
        }
        Ok(record)
    }
}
