//! The tables of a blob that is being written, packed as they will be stored (spec/blob.md §8 to §10).

use zerocopy::IntoBytes;

use super::BlobOptions;
use crate::blob::ChunkDescription;
use crate::blob::layout::{BatchContext, EntryV1, EntryV2};
use crate::digest::Digest;

/// Chunk-information entries, contexts and digests; of each only what the options ask for.
#[derive(Debug)]
pub(super) struct ChunkArray {
    kind: Option<Kind>,
    count: u32,
    entries: Vec<u8>,
    contexts: Contexts,
    digests: Option<Vec<u8>>,
}

/// The context table, and how many contexts there are.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    V1,
    V2,
}

impl ChunkArray {
    pub(super) fn new(options: &BlobOptions) -> Self {
        Self::of(options.chunk_table, options.is_v2(), options.toc)
    }

    pub(super) fn of(has_entries: bool, has_v2_entries: bool, has_digests: bool) -> Self {
        let kind = if has_v2_entries { Kind::V2 } else { Kind::V1 };
        Self {
            kind: has_entries.then_some(kind),
            count: 0,
            entries: Vec::new(),
            contexts: Contexts::default(),
            digests: has_digests.then(Vec::new),
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
        self.contexts.bytes.extend_from_slice(context.as_bytes());
        self.contexts.count += 1;
    }

    /// The contexts of a tar.gz, at the end.
    pub(super) fn set_contexts(&mut self, bytes: Vec<u8>, count: usize) {
        // No more than chunks.
        self.contexts = Contexts { bytes, count: count as u32 };
    }

    /// Chunks so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Batches so far: never more than chunks.
    pub(super) fn batch_count(&self) -> u32 {
        self.contexts.count
    }

    /// The entries, what lies behind them in the CI array, and the digest array.
    pub(super) fn into_parts(self) -> (Vec<u8>, Contexts, Option<Vec<u8>>) {
        (self.entries, self.contexts, self.digests)
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, count: u32) {
        self.count = count;
    }
}
