//! Chunks of files become chunks of a blob: who has a chunk already, and what files refer to.
//!
//! Invariant: a chunk is stored where it is first met, and never twice; what another image has is not stored at all.
//! Blob and references follow from the order of the chunks alone.

mod reference;

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};

use rafs::build::{BlobEntry, Chunk as FileChunk};
use storage::blob::writer::{
    Batch, Batcher, BlobOptions, BlobWriter, EncodedBatch, EncodedChunk, SealedBlob, encode_digested,
};
use storage::blob::{ChunkDescription, ChunkFlags, StoredChunk};
use storage::digest::Digest;

use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::pipeline::{Chunk, Encoder, Sink, Task};

pub use reference::{InPlace, ReferenceEncoder, ReferenceStore};

/// The place of the blob that is being written, until the blob table is known.
const OWN_BLOB: u32 = u32::MAX;

/// Makes what is stored of chunks, on any thread.
pub struct ChunkEncoder<'a> {
    options: &'a BlobOptions,
    dictionary: &'a Dictionary,
    /// Never filled: it knows the rule.
    batches: Batcher,
}

impl<'a> ChunkEncoder<'a> {
    /// For a blob with these options, whose image may refer to chunks of the dictionary.
    pub fn new(options: &'a BlobOptions, dictionary: &'a Dictionary) -> Self {
        Self { options, dictionary, batches: Batcher::new(options.batch_size) }
    }
}

/// What is made of a chunk.
#[derive(Debug)]
pub enum Encoded {
    /// A chunk of its own.
    Chunk(EncodedChunk),
    /// A member of a batch: plain, since batches are encoded as a whole.
    Member(Vec<u8>),
}

impl Encoder for ChunkEncoder<'_> {
    type Encoded = Encoded;

    fn digest(&self, data: &[u8]) -> Digest {
        self.options.digester.digest(data)
    }

    fn encode(&self, digest: Digest, data: &[u8], is_whole_file: bool) -> Result<Encoded> {
        if self.batches.takes(data.len(), is_whole_file) {
            return Ok(Encoded::Member(data.to_vec()));
        }
        Ok(Encoded::Chunk(encode_digested(data, digest, self.options)?))
    }

    fn is_known(&self, digest: &Digest, len: u32) -> bool {
        self.dictionary.get(digest, len).is_some()
    }
}

/// What was stored and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of chunks before they were encoded.
    pub uncompressed_size: u64,
    /// Bytes of chunks as they are stored.
    pub compressed_size: u64,
    /// Chunks that were there already, each time they were met.
    pub dedup_chunks: u64,
    /// Their bytes.
    pub dedup_uncompressed_size: u64,
}

/// What is appended to the blob in its turn.
enum Waiting {
    /// A chunk, and its place in `distinct`.
    Chunk(u32, EncodedChunk),
    /// A batch that a task encodes, and the places of its members.
    Batch(Vec<u32>, Receiver<storage::Result<EncodedBatch>>),
    /// Up to here there are the files that come first.
    EndOfPrefetched,
}

/// Takes chunks in order and writes a blob.
///
/// Batches are made here, since who is a member follows from what came before, and encoded elsewhere: what comes
/// after one waits for it.
pub struct Store<'a, W: Write> {
    writer: BlobWriter<W>,
    options: Arc<BlobOptions>,
    batches: Batcher,
    /// What is to be appended, each with its bytes in memory, and the sum of these.
    waiting: VecDeque<(u64, Waiting)>,
    backlog: u64,
    tasks: VecDeque<Task>,
    dictionary: &'a Dictionary,
    /// Digest → place in `distinct`.
    index: HashMap<Digest, u32>,
    /// Each chunk once. What was not appended yet has no place in the blob.
    distinct: Vec<FileChunk>,
    /// Members of the batch that is being filled: places in `distinct`.
    members: Vec<u32>,
    /// Chunks of all files, in order: places in `distinct`.
    references: Vec<u32>,
    counts: Counts,
    /// How many files come first, whether others have come, and where the data of the first ones ends.
    prefetched_files: usize,
    prefetched_done: bool,
    prefetched_end: Option<u64>,
}

/// The chunks of all files, once all are stored.
#[derive(Debug)]
pub struct StoredChunks {
    /// What was counted.
    pub counts: Counts,
    /// Stored bytes of the files that come first.
    pub prefetched_size: u64,
    distinct: Vec<FileChunk>,
    references: Vec<u32>,
}

impl<'a, W: Write> Store<'a, W> {
    /// An empty blob on `out`. The first `prefetched_files` files are those to be fetched first.
    pub fn new(
        out: W,
        options: BlobOptions,
        dictionary: &'a Dictionary,
        prefetched_files: usize,
    ) -> Result<Self> {
        Ok(Self {
            batches: Batcher::new(options.batch_size),
            options: Arc::new(options.clone()),
            writer: BlobWriter::new(out, options)?,
            waiting: VecDeque::new(),
            backlog: 0,
            tasks: VecDeque::new(),
            dictionary,
            index: HashMap::new(),
            distinct: Vec::new(),
            members: Vec::new(),
            references: Vec::new(),
            counts: Counts::default(),
            prefetched_files,
            prefetched_done: false,
            prefetched_end: None,
        })
    }

    /// Ends the chunk data; the end of the blob is to be written. Runs the tasks that nobody has taken.
    pub fn finish(mut self) -> Result<(SealedBlob<W>, StoredChunks)> {
        self.end_batch();
        while let Some(task) = self.tasks.pop_front() {
            task();
        }
        self.settle()?;
        if !self.waiting.is_empty() {
            // Who took the last task has not run it.
            return Err(Error::Cancelled);
        }
        self.counts.compressed_size = self.writer.compressed_size();
        let chunks = StoredChunks {
            prefetched_size: self.prefetched_end.unwrap_or(self.counts.compressed_size),
            counts: self.counts,
            distinct: self.distinct,
            references: self.references,
        };
        Ok((self.writer.seal()?, chunks))
    }

    /// Takes a chunk that nobody has; `place` is the one it has in `distinct`.
    fn add(&mut self, place: u32, digest: Digest, encoded: Encoded) {
        match encoded {
            Encoded::Chunk(chunk) => {
                self.end_batch();
                self.wait(chunk.stored.len() as u64, Waiting::Chunk(place, chunk));
            }
            Encoded::Member(data) => {
                if let Some(full) = self.batches.add(&data, digest) {
                    self.encode_batch(full);
                }
                self.members.push(place);
            }
        }
    }

    /// The next chunk is not in the batch that is being filled.
    fn end_batch(&mut self) {
        if let Some(batch) = self.batches.take() {
            self.encode_batch(batch);
        }
    }

    fn encode_batch(&mut self, batch: Batch) {
        let members = std::mem::take(&mut self.members);
        let (sender, receiver) = mpsc::sync_channel(1);
        self.wait(batch.size(), Waiting::Batch(members, receiver));
        let options = self.options.clone();
        self.tasks.push_back(Box::new(move || {
            // If the build has ended, nobody listens.
            let _ = sender.send(batch.encode(&options));
        }));
    }

    fn wait(&mut self, bytes: u64, waiting: Waiting) {
        self.backlog += bytes;
        self.waiting.push_back((bytes, waiting));
    }

    /// Records where chunks came to lie.
    fn place(&mut self, places: &[u32], descriptions: &[ChunkDescription]) {
        for (place, description) in places.iter().zip(descriptions) {
            if let Some(chunk) = self.distinct.get_mut(*place as usize) {
                chunk.index = description.index;
                chunk.stored = description.stored;
                chunk.uncompressed_offset = description.uncompressed_offset;
            }
        }
    }
}

impl<W: Write> Sink<Encoded> for Store<'_, W> {
    fn store(&mut self, chunk: Chunk, encoded: Option<Encoded>) -> Result<()> {
        if chunk.file >= self.prefetched_files && !self.prefetched_done {
            self.prefetched_done = true;
            self.wait(0, Waiting::EndOfPrefetched);
        }
        let Chunk { digest, len, .. } = chunk;
        if let Some(place) = self.index.get(&digest) {
            self.references.push(*place);
            self.counts.dedup_chunks += 1;
            self.counts.dedup_uncompressed_size += u64::from(len);
            return Ok(());
        }
        // Below 2^32: a blob has fewer than 2^24 chunks, and so has each of 255 others.
        let place = self.distinct.len() as u32;
        let added = match (self.dictionary.get(&digest, len), encoded) {
            (Some(known), _) => {
                self.counts.dedup_chunks += 1;
                self.counts.dedup_uncompressed_size += u64::from(len);
                *known
            }
            (None, Some(encoded)) => {
                self.counts.uncompressed_size += u64::from(len);
                self.add(place, digest, encoded);
                unplaced(digest, len)
            }
            // The pipeline leaves out only what came before.
            (None, None) => {
                return Err(Error::contradiction(format!("chunk {digest} is nowhere, and was not encoded")));
            }
        };
        self.distinct.push(added);
        self.index.insert(digest, place);
        self.references.push(place);
        self.settle()
    }

    fn task(&mut self) -> Option<Task> {
        self.tasks.pop_front()
    }

    /// Appends what no longer waits.
    fn settle(&mut self) -> Result<()> {
        while let Some((bytes, waiting)) = self.waiting.pop_front() {
            match waiting {
                Waiting::Chunk(place, chunk) => {
                    let description = self.writer.append(&chunk)?;
                    self.place(&[place], &[description]);
                }
                Waiting::Batch(members, receiver) => match receiver.try_recv() {
                    Ok(encoded) => {
                        let descriptions = self.writer.append_batch(&encoded?)?;
                        self.place(&members, &descriptions);
                    }
                    Err(TryRecvError::Empty) => {
                        self.waiting.push_front((bytes, Waiting::Batch(members, receiver)));
                        break;
                    }
                    // The task has panicked.
                    Err(TryRecvError::Disconnected) => return Err(Error::Cancelled),
                },
                Waiting::EndOfPrefetched => self.prefetched_end = Some(self.writer.compressed_size()),
            }
            self.backlog -= bytes;
        }
        Ok(())
    }

    fn backlog(&self) -> u64 {
        self.backlog
    }
}

/// A chunk of the blob that is being written, before it has a place there.
fn unplaced(digest: Digest, len: u32) -> FileChunk {
    FileChunk {
        digest,
        blob_index: OWN_BLOB,
        index: 0,
        stored: StoredChunk {
            flags: ChunkFlags::empty(),
            compressed_offset: 0,
            compressed_size: 0,
            unit_index: 0,
            unit_offset: 0,
            crc32c: None,
        },
        uncompressed_offset: 0,
        uncompressed_size: len,
        inherited_file_offset: None,
    }
}

impl StoredChunks {
    /// The blob table of the image, and the chunks of all files in order, which refer to it.
    ///
    /// Blobs of a parent come first, all of them; then, by first use, those of the dictionary and `own`, which is
    /// `None` if the blob has no chunk and shall not be there without.
    pub fn resolve(
        self,
        dictionary: &Dictionary,
        own: Option<BlobEntry>,
    ) -> Result<(Vec<BlobEntry>, impl Iterator<Item = FileChunk>)> {
        let mut table = BlobTable::default();
        for index in 0..dictionary.parent_blobs() {
            table.place(index, dictionary, own.as_ref())?;
        }
        let mut distinct = self.distinct;
        // Places in `distinct` are given by first use.
        for chunk in &mut distinct {
            chunk.blob_index = table.place(chunk.blob_index, dictionary, own.as_ref())?;
        }
        if own.is_some() {
            table.place(OWN_BLOB, dictionary, own.as_ref())?;
        }
        let references = self.references;
        let chunks = references.into_iter().filter_map(move |place| distinct.get(place as usize).copied());
        Ok((table.entries, chunks))
    }
}

/// A blob table that is filled by use.
#[derive(Default)]
struct BlobTable {
    entries: Vec<BlobEntry>,
    places: HashMap<u32, u32>,
}

impl BlobTable {
    fn place(&mut self, blob: u32, dictionary: &Dictionary, own: Option<&BlobEntry>) -> Result<u32> {
        if let Some(place) = self.places.get(&blob) {
            return Ok(*place);
        }
        let entry = if blob == OWN_BLOB { own } else { dictionary.blob(blob) };
        // At most as many blobs as places of the dictionary, and one.
        let place = self.entries.len() as u32;
        let entry =
            entry.ok_or_else(|| Error::contradiction(format!("chunks of blob {blob}, which is none")))?;
        self.entries.push(entry.clone());
        self.places.insert(blob, place);
        Ok(place)
    }
}
