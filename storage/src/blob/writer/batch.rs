//! Small files that share a compressed unit (spec/blob.md §9): which ones, and the unit as it is stored.

use bytes::Bytes;

use super::{BlobOptions, EncodedChunk, chunk, encode_digested};
use crate::Result;
use crate::cipher::BLOCK_SIZE;
use crate::digest::{Digest, crc32c};

/// Collects the members of one batch after the other.
///
/// The order of a blob's chunks is that in which they are met, so before a chunk that is no member the batch that
/// is being filled is taken out with [`Batcher::take`] and appended; and so at the end.
#[derive(Debug)]
pub struct Batcher {
    batch_size: u32,
    filling: Batch,
}

/// A batch before it is encoded.
#[derive(Debug, Default)]
pub struct Batch {
    members: Vec<BatchMember>,
    data: Vec<u8>,
}

/// What is recorded of one chunk of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchMember {
    pub digest: Digest,
    pub crc32c: u32,
    pub size: u32,
}

/// A batch as it will be stored.
#[derive(Clone, Debug)]
pub struct EncodedBatch {
    /// Bytes of all members.
    pub(super) uncompressed_size: u32,
    pub(super) form: Form,
}

/// What becomes of a batch.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// One unit, and what is recorded of its members.
    Unit(Vec<BatchMember>, Bytes),
    /// Its members, each a chunk of its own.
    Apart(Vec<EncodedChunk>),
}

impl EncodedBatch {
    /// A batch as another blob stores it, neither encrypted nor to be: `members` are all of it, each with its digest,
    /// in the order in which they lie in it. CPU work, for their checksums.
    pub fn copied<'a>(members: impl IntoIterator<Item = (Digest, &'a [u8])>, stored: Bytes) -> Self {
        let member = |(digest, data): (Digest, &[u8])| {
            // A batch has 16 MiB at most.
            BatchMember { digest, crc32c: crc32c(data), size: data.len() as u32 }
        };
        let members: Vec<BatchMember> = members.into_iter().map(member).collect();
        let uncompressed_size = members.iter().map(|member| member.size).sum();
        Self { uncompressed_size, form: Form::Unit(members, stored) }
    }
}

impl Batcher {
    /// For batches of `batch_size` bytes; 0: nothing is batched.
    pub fn new(batch_size: u32) -> Self {
        Self { batch_size, filling: Batch::default() }
    }

    /// Whether a chunk of so many bytes goes into a batch: `whole_file` says that it is its file's only one.
    pub fn takes(&self, size: usize, whole_file: bool) -> bool {
        whole_file && size < (self.batch_size / 2) as usize
    }

    /// Adds a chunk that the batcher [takes](Self::takes) and no blob holds yet. What comes back is the batch before
    /// it, which had no room left: it is to be appended to the blob first.
    pub fn add(&mut self, data: &[u8], digest: Digest) -> Option<Batch> {
        debug_assert!(self.takes(data.len(), true), "{} bytes in a batch of {}", data.len(), self.batch_size);
        let has_room = self.filling.data.len() + data.len() < self.batch_size as usize;
        let full = if has_room { None } else { self.take() };
        // Below half of the batch size, which is a u32.
        let size = data.len() as u32;
        self.filling.members.push(BatchMember { digest, crc32c: crc32c(data), size });
        self.filling.data.extend_from_slice(data);
        full
    }

    /// The batch that is being filled, unless it is empty; the next one begins.
    pub fn take(&mut self) -> Option<Batch> {
        let taken = std::mem::take(&mut self.filling);
        (!taken.members.is_empty()).then_some(taken)
    }
}

impl Batch {
    /// How many chunks are in it.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True if there is none; no [`Batcher`] gives such a batch away.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Bytes of all members.
    pub fn size(&self) -> u64 {
        self.data.len() as u64
    }

    /// Compresses and encrypts. CPU work like [`encode_chunk`](super::encode_chunk), for any thread.
    ///
    /// Readers learn from its sizes whether a batch is compressed, so they are equal if and only if it is not. The
    /// cipher pads what is shorter than its block, which would make a plain batch look compressed: the members of a
    /// batch so small become chunks of their own, whose flags say what they are.
    pub fn encode(self, options: &BlobOptions) -> Result<EncodedBatch> {
        // Less than the batch size.
        let uncompressed_size = self.data.len() as u32;
        if options.cipher.is_some() && self.data.len() < BLOCK_SIZE {
            let mut rest = self.data.as_slice();
            let apart = self.members.iter().map(|member| {
                let (data, after) = rest.split_at(member.size as usize);
                rest = after;
                encode_digested(data, member.digest, options)
            });
            let form = Form::Apart(apart.collect::<Result<_>>()?);
            return Ok(EncodedBatch { uncompressed_size, form });
        }
        let (mut stored, compressed) = chunk::encode(&self.data, options)?;
        // What shrank may have been padded to this size.
        if compressed && stored.len() >= self.data.len() {
            stored = chunk::encrypt(self.data, options).into();
        }
        Ok(EncodedBatch { uncompressed_size, form: Form::Unit(self.members, stored) })
    }
}
