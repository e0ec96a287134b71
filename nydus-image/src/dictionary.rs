//! Chunks that other images have: of a parent, or of a chunk dictionary (spec/blob.md §14).

use std::collections::HashMap;

use rafs::build::{BlobEntry, Chunk, Content, Tree};
use storage::digest::Digest;

/// Chunks by digest, and the blobs that hold them.
#[derive(Debug, Default)]
pub struct Dictionary {
    chunks: HashMap<Digest, Chunk>,
    blobs: Vec<BlobEntry>,
    parent_blobs: u32,
}

impl Dictionary {
    /// Adds all chunks of an image. Those of a parent must be added first: all its blobs stay in the blob table.
    pub fn add(&mut self, tree: &Tree, blobs: Vec<BlobEntry>, is_parent: bool) {
        // Images have fewer than 256 blobs.
        let first = self.blobs.len() as u32;
        self.blobs.extend(blobs);
        if is_parent {
            self.parent_blobs = self.blobs.len() as u32;
        }
        for node in &tree.nodes {
            let Content::Regular { chunks, .. } = &node.content else { continue };
            for chunk in chunks.iter().filter(|chunk| !chunk.digest.is_zero()) {
                self.chunks.entry(chunk.digest).or_insert(Chunk {
                    blob_index: chunk.blob_index + first,
                    inherited_file_offset: None,
                    ..*chunk
                });
            }
        }
    }

    /// The chunk of this digest and size; its blob index is a place in this dictionary.
    pub fn get(&self, digest: &Digest, len: u32) -> Option<&Chunk> {
        self.chunks.get(digest).filter(|chunk| chunk.uncompressed_size == len)
    }

    /// The blob at a place.
    pub fn blob(&self, place: u32) -> Option<&BlobEntry> {
        self.blobs.get(place as usize)
    }

    /// How many of the blobs are a parent's; they are the first ones.
    pub fn parent_blobs(&self) -> u32 {
        self.parent_blobs
    }
}
