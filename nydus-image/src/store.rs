//! Chunks of files become chunks of a blob: who has a chunk already, and what files refer to.
//!
//! Invariant: a chunk is stored where it is first met, and never twice; what another image has is not stored at all.
//! Blob and references follow from the order of the chunks alone.

mod reference;

use std::collections::HashMap;
use std::io::Write;

use rafs::build::{BlobEntry, Chunk as FileChunk};
use storage::blob::writer::{
    Batch, Batcher, BlobOptions, BlobWriter, EncodedChunk, SealedBlob, encode_digested,
};
use storage::blob::{ChunkDescription, ChunkFlags, StoredChunk};
use storage::digest::Digest;

use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::pipeline::{Chunk, Encoder, Sink};

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

/// What the workers make of a chunk.
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

    fn encode(&self, digest: Digest, data: Vec<u8>, is_whole_file: bool) -> Result<Encoded> {
        if self.batches.takes(data.len(), is_whole_file) {
            return Ok(Encoded::Member(data));
        }
        Ok(Encoded::Chunk(encode_digested(&data, digest, self.options)?))
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

/// Takes chunks in order and writes a blob.
pub struct Store<'a, W: Write> {
    writer: BlobWriter<W>,
    batches: Batcher,
    dictionary: &'a Dictionary,
    /// Digest → place in `distinct`.
    index: HashMap<Digest, u32>,
    /// Each chunk once. What is in a batch that is not full yet has no place in the blob.
    distinct: Vec<FileChunk>,
    /// Members of that batch: places in `distinct`.
    pending: Vec<u32>,
    /// Chunks of all files, in order: places in `distinct`.
    references: Vec<u32>,
    counts: Counts,
    /// How many files come first, and where their data ends.
    prefetched_files: usize,
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
            writer: BlobWriter::new(out, options)?,
            dictionary,
            index: HashMap::new(),
            distinct: Vec::new(),
            pending: Vec::new(),
            references: Vec::new(),
            counts: Counts::default(),
            prefetched_files,
            prefetched_end: None,
        })
    }

    /// Ends the chunk data; the end of the blob is to be written.
    pub fn finish(mut self) -> Result<(SealedBlob<W>, StoredChunks)> {
        self.flush_batch()?;
        self.counts.compressed_size = self.writer.compressed_size();
        let chunks = StoredChunks {
            prefetched_size: self.prefetched_end.unwrap_or(self.counts.compressed_size),
            counts: self.counts,
            distinct: self.distinct,
            references: self.references,
        };
        Ok((self.writer.seal()?, chunks))
    }

    /// Stores a chunk that nobody has; `place` is the one it will have in `distinct`.
    fn add(&mut self, place: u32, digest: Digest, encoded: Encoded) -> Result<FileChunk> {
        let description = match encoded {
            Encoded::Chunk(chunk) => {
                self.flush_batch()?;
                self.writer.append(&chunk)?
            }
            Encoded::Member(data) => {
                if let Some(full) = self.batches.add(&data, digest) {
                    self.append_batch(full)?;
                }
                self.pending.push(place);
                // Put right when the batch is appended.
                ChunkDescription {
                    index: 0,
                    uncompressed_offset: 0,
                    // Below half of the batch size, which is a u32.
                    uncompressed_size: data.len() as u32,
                    stored: StoredChunk {
                        flags: ChunkFlags::empty(),
                        compressed_offset: 0,
                        compressed_size: 0,
                        unit_index: 0,
                        unit_offset: 0,
                        crc32c: None,
                    },
                }
            }
        };
        Ok(FileChunk {
            digest,
            blob_index: OWN_BLOB,
            index: description.index,
            stored: description.stored,
            uncompressed_offset: description.uncompressed_offset,
            uncompressed_size: description.uncompressed_size,
            inherited_file_offset: None,
        })
    }

    fn flush_batch(&mut self) -> Result<()> {
        self.batches.take().map_or(Ok(()), |batch| self.append_batch(batch))
    }

    fn append_batch(&mut self, batch: Batch) -> Result<()> {
        let encoded = batch.encode(self.writer.options())?;
        let descriptions = self.writer.append_batch(&encoded)?;
        for (place, description) in self.pending.drain(..).zip(descriptions) {
            if let Some(chunk) = self.distinct.get_mut(place as usize) {
                chunk.index = description.index;
                chunk.stored = description.stored;
                chunk.uncompressed_offset = description.uncompressed_offset;
            }
        }
        Ok(())
    }
}

impl<W: Write> Sink<Encoded> for Store<'_, W> {
    fn store(&mut self, chunk: Chunk, encoded: Option<Encoded>) -> Result<()> {
        if chunk.file >= self.prefetched_files && self.prefetched_end.is_none() {
            self.prefetched_end = Some(self.writer.compressed_size());
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
                self.add(place, digest, encoded)?
            }
            // The pipeline leaves out only what came before.
            (None, None) => return Err(Error::Cancelled),
        };
        self.distinct.push(added);
        self.index.insert(digest, place);
        self.references.push(place);
        Ok(())
    }
}

impl StoredChunks {
    /// The blob table of the image, and the chunks of all files in order, which refer to it.
    ///
    /// Blobs of a parent come first, all of them; then, by first use, those of the dictionary and `own`, which is
    /// `None` if the blob has no chunk.
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
        self.entries.push(entry.ok_or(Error::Cancelled)?.clone());
        self.places.insert(blob, place);
        Ok(place)
    }
}
