//! Chunks that stay where they are, beside the chunks that are written: the same rule of who has a chunk already.

use std::collections::HashMap;

use rafs::build::Chunk as FileChunk;
use storage::blob::writer::{DataChunk, ReferenceWriter};
use storage::blob::{ChunkFlags, StoredChunk};
use storage::digest::{Digest, Digester, crc32c};

use super::{Counts, OWN_BLOB, StoredChunks};
use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::pipeline::{Chunk, Encoder, Sink};
use crate::source::layer::Places;

/// Digests chunks that are not stored, on any thread.
pub struct ReferenceEncoder<'a>(pub &'a Dictionary);

impl Encoder for ReferenceEncoder<'_> {
    /// The CRC-32C.
    type Encoded = u32;

    fn digest(&self, data: &[u8]) -> Digest {
        Digester::Sha256.digest(data)
    }

    fn encode(&self, _: Digest, data: &[u8], _: bool) -> Result<u32> {
        Ok(crc32c(data))
    }

    fn is_known(&self, digest: &Digest, len: u32) -> bool {
        self.0.get(digest, len).is_some()
    }
}

/// Takes the chunks of a layer in order.
#[derive(Debug)]
pub struct ReferenceStore<'a> {
    writer: ReferenceWriter,
    dictionary: &'a Dictionary,
    places: &'a Places,
    /// Digest → place in `distinct`.
    index: HashMap<Digest, u32>,
    distinct: Vec<FileChunk>,
    /// Chunks of all files, in order: places in `distinct`.
    references: Vec<u32>,
    counts: Counts,
}

impl<'a> ReferenceStore<'a> {
    /// Where the chunks lie that come out of a pipeline, `places` tells.
    pub fn new(writer: ReferenceWriter, dictionary: &'a Dictionary, places: &'a Places) -> Self {
        Self {
            writer,
            dictionary,
            places,
            index: HashMap::new(),
            distinct: Vec::new(),
            references: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Adds the next chunk of the files. What came before, or another image has, needs no place.
    pub fn add(&mut self, digest: Digest, len: u32, crc32c: u32, place: DataChunk) -> Result<()> {
        let known = self.index.get(&digest).copied().filter(|known| {
            // The digest is only said to be the chunk's where the data was not read.
            self.distinct.get(*known as usize).is_some_and(|chunk| chunk.uncompressed_size == len)
        });
        if let Some(known) = known {
            self.references.push(known);
            self.counts.dedup_chunks += 1;
            self.counts.dedup_uncompressed_size += u64::from(len);
            return Ok(());
        }
        let added = match self.dictionary.get(&digest, len) {
            Some(known) => {
                self.counts.dedup_chunks += 1;
                self.counts.dedup_uncompressed_size += u64::from(len);
                *known
            }
            None => {
                let description = self.writer.append(len, &digest, crc32c, place)?;
                self.counts.uncompressed_size += u64::from(len);
                self.counts.compressed_size += u64::from(description.stored.compressed_size);
                FileChunk {
                    digest,
                    blob_index: OWN_BLOB,
                    index: description.index,
                    stored: description.stored,
                    uncompressed_offset: description.uncompressed_offset,
                    uncompressed_size: len,
                    inherited_file_offset: None,
                }
            }
        };
        // Below 2^32: a blob has fewer than 2^24 chunks, and so has each of 255 others.
        let place = self.distinct.len() as u32;
        self.distinct.push(added);
        self.index.insert(digest, place);
        self.references.push(place);
        Ok(())
    }

    /// Ends the chunks.
    pub fn finish(self) -> (ReferenceWriter, StoredChunks) {
        let chunks = StoredChunks {
            prefetched_size: 0,
            counts: self.counts,
            distinct: self.distinct,
            references: self.references,
        };
        (self.writer, chunks)
    }
}

impl Sink<u32> for ReferenceStore<'_> {
    fn store(&mut self, chunk: Chunk, crc32c: Option<u32>) -> Result<()> {
        // Every chunk was given a place before it went on its way.
        let place = self.places.pop().ok_or(Error::Cancelled)?;
        self.add(chunk.digest, chunk.len, crc32c.unwrap_or(0), place)
    }
}

/// Chunks of which nothing is known but where they are, each of them another.
#[derive(Debug, Default)]
pub struct InPlace(Vec<FileChunk>);

impl InPlace {
    /// Adds the `len` bytes at an offset of the blob.
    pub fn push(&mut self, offset: u64, len: u32) {
        self.0.push(FileChunk {
            digest: Digest([0; 32]),
            blob_index: OWN_BLOB,
            index: self.len(),
            stored: StoredChunk {
                flags: ChunkFlags::empty(),
                compressed_offset: offset,
                compressed_size: len,
                unit_index: 0,
                unit_offset: 0,
                crc32c: None,
            },
            uncompressed_offset: offset,
            uncompressed_size: len,
            inherited_file_offset: None,
        });
    }

    /// Chunks so far; the caller adds fewer than 2^24.
    pub fn len(&self) -> u32 {
        self.0.len() as u32
    }

    /// True before the first chunk.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<InPlace> for StoredChunks {
    fn from(chunks: InPlace) -> Self {
        let size = chunks.0.iter().map(|chunk| u64::from(chunk.uncompressed_size)).sum();
        Self {
            prefetched_size: 0,
            counts: Counts { uncompressed_size: size, compressed_size: size, ..Counts::default() },
            references: (0..chunks.len()).collect(),
            distinct: chunks.0,
        }
    }
}
