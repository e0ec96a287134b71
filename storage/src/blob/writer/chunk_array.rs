//! The tables of a blob that is being written, packed as they will be stored (spec/blob.md §8, §9).

use zerocopy::IntoBytes;

use super::BlobOptions;
use crate::blob::ChunkDescription;
use crate::blob::layout::{BatchContext, CONTEXT_SIZE, EntryV1, EntryV2};
use crate::digest::Digest;

/// Chunk-information entries, batch contexts and digests; of each only what the options ask for.
#[derive(Debug)]
pub(super) struct ChunkArray {
    kind: Option<Kind>,
    count: u32,
    entries: Vec<u8>,
    contexts: Vec<u8>,
    digests: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    V1,
    V2,
}

impl ChunkArray {
    pub(super) fn new(options: &BlobOptions) -> Self {
        let kind = if options.is_v2() { Kind::V2 } else { Kind::V1 };
        Self {
            kind: options.chunk_table.then_some(kind),
            count: 0,
            entries: Vec::new(),
            contexts: Vec::new(),
            digests: options.toc.then(Vec::new),
        }
    }

    pub(super) fn push(&mut self, chunk: &ChunkDescription, digest: &Digest) {
        match self.kind {
            None => {}
            Some(Kind::V1) => self.entries.extend_from_slice(EntryV1::pack(chunk).as_bytes()),
            Some(Kind::V2) => self.entries.extend_from_slice(EntryV2::pack(chunk).as_bytes()),
        }
        if let Some(digests) = &mut self.digests {
            digests.extend_from_slice(&digest.0);
        }
        self.count += 1;
    }

    /// Ends a batch, whose members were pushed.
    pub(super) fn push_batch(&mut self, compressed_size: u32, uncompressed_size: u32) {
        let context = BatchContext {
            compressed_size: compressed_size.into(),
            uncompressed_size: uncompressed_size.into(),
            reserved: [0; 32],
        };
        self.contexts.extend_from_slice(context.as_bytes());
    }

    /// Chunks so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Batches so far: never more than chunks.
    pub(super) fn batch_count(&self) -> u32 {
        (self.contexts.len() / CONTEXT_SIZE) as u32
    }

    /// Bytes of the contexts.
    pub(super) fn contexts_size(&self) -> usize {
        self.contexts.len()
    }

    /// The CI array, contexts included, and the digest array.
    pub(super) fn into_parts(mut self) -> (Vec<u8>, Option<Vec<u8>>) {
        self.entries.append(&mut self.contexts);
        (self.entries, self.digests)
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, count: u32) {
        self.count = count;
    }
}
