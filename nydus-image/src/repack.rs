//! Chunks of blobs that exist become chunks of a new blob.
//!
//! Units are copied as they are stored, where the new blob stores them in the same way: with the same compressor, and
//! not encrypted. What is encrypted, was gzip, or lay in a batch with chunks that are not wanted, is encoded again.
//!
//! Invariants: every chunk was decoded and compared with its digest before it is in the new blob, and is there once,
//! whichever blobs had it. A chunk that the new blob has no room for is left where it was. Units of more than one chunk are not made larger than they were.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;

use rafs::build::{BlobEntry, Chunk, Content, Tree};
use storage::blob::writer::{
    Batcher, BlobOptions, BlobWriter, EncodedBatch, EncodedChunk, FinishedBlob, encode_digested,
};
use storage::blob::{BlobFeatures, BlobId, ChunkDescription, ChunkFlags};
use storage::digest::{Digest, crc32c};

use crate::error::{Error, Result};
use crate::stored::{BlobReader, StoredUnit};

/// Entries of 24 bytes have no room for the stored size of a larger chunk.
const V2_STORED_MAX: usize = (1 << 24) - 1;

/// Names a chunk of an image: the place of its blob in the blob table, and its number there.
pub type Key = (u32, u32);

/// The chunks that the files of an image have, by blob and number.
#[derive(Debug, Default)]
pub struct UsedChunks(BTreeMap<Key, Chunk>);

impl UsedChunks {
    /// Of the files that the tree reaches.
    pub fn of(tree: &Tree) -> Self {
        let mut used = Self::default();
        let mut directories = vec![Tree::ROOT];
        while let Some(directory) = directories.pop() {
            for &child in tree.children(directory) {
                match &tree[child].content {
                    Content::Directory { .. } => directories.push(child),
                    Content::Regular { chunks, .. } => chunks.iter().for_each(|chunk| used.add(chunk)),
                    _ => {}
                }
            }
        }
        used
    }

    /// Adds a chunk.
    pub fn add(&mut self, chunk: &Chunk) {
        self.0.entry((chunk.blob_index, chunk.index)).or_insert(*chunk);
    }

    /// Those of a blob, by number.
    pub fn of_blob(&self, blob: u32) -> impl Iterator<Item = &Chunk> {
        self.0.range((blob, 0)..=(blob, u32::MAX)).map(|(_, chunk)| chunk)
    }

    /// All of them, by blob and number.
    pub fn all(&self) -> impl Iterator<Item = &Chunk> {
        self.0.values()
    }

    /// The chunk with this name.
    pub fn get(&self, key: Key) -> Option<&Chunk> {
        self.0.get(&key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a blob of chunks that other blobs have.
#[derive(Debug)]
pub struct Repacker<W: Write> {
    writer: BlobWriter<W>,
    /// What became of the chunks that were taken over.
    placed: HashMap<Key, ChunkDescription>,
    /// What is there already.
    known: HashMap<Digest, ChunkDescription>,
    /// What the new blob has no room for.
    left_out: HashSet<Key>,
}

/// Where in a new blob the chunks are.
#[derive(Debug)]
pub struct Placed(HashMap<Key, ChunkDescription>);

/// A member of a unit that is to be stored.
struct Wanted {
    key: Key,
    digest: Digest,
    data: bytes::Bytes,
}

impl<W: Write> Repacker<W> {
    /// An empty blob on `out`.
    pub fn new(out: W, options: BlobOptions) -> Result<Self> {
        let writer = BlobWriter::new(out, options)?;
        Ok(Self { writer, placed: HashMap::new(), known: HashMap::new(), left_out: HashSet::new() })
    }

    /// Takes over the chunks of one blob that `used` has, in the order of their numbers.
    pub fn take(&mut self, blob: u32, reader: &BlobReader<'_>, used: &UsedChunks) -> Result<()> {
        used.of_blob(blob).try_for_each(|chunk| self.take_chunk((blob, chunk.index), reader, used))
    }

    /// Takes over a chunk of `used`, and the others of it in the same unit.
    pub fn take_chunk(&mut self, key: Key, reader: &BlobReader<'_>, used: &UsedChunks) -> Result<()> {
        let Some(chunk) = used.get(key) else { return Ok(()) };
        // Its unit was there for another chunk already.
        if self.placed.contains_key(&key) || self.left_out.contains(&key) {
            return Ok(());
        }
        if let Some(known) = self.known(chunk) {
            self.placed.insert(key, known);
            return Ok(());
        }
        let (blob, _) = key;
        let digest_of = |index| used.get((blob, index)).map(|chunk| chunk.digest);
        let unit = reader.read(reader.unit(chunk)?, digest_of)?;
        self.take_unit(blob, reader, used, &unit)?;
        if !self.placed.contains_key(&key) && !self.left_out.contains(&key) {
            let what = format!("blob {} chunk {}", reader.description().id, chunk.index);
            return Err(Error::contradiction(format!("{what} is no member of its unit")));
        }
        Ok(())
    }

    /// Ends the blob. The second value tells where the chunks are.
    ///
    /// The blob's id is the SHA-256 of its file, with a digest array too (spec/blob.md §13): nobody makes a layer of it
    /// afterwards, it is pushed as it is, and registries know no other name.
    pub fn finish(self) -> Result<(FinishedBlob<W>, Placed)> {
        let mut finished = self.writer.seal()?.finish(None)?;
        finished.id = BlobId::new(&finished.file_digest.to_string())?;
        finished.description.id = finished.id.clone();
        Ok((finished, Placed(self.placed)))
    }

    /// A chunk of these bytes that is in the new blob.
    fn known(&self, chunk: &Chunk) -> Option<ChunkDescription> {
        let known = self.known.get(&chunk.digest)?;
        (known.uncompressed_size == chunk.uncompressed_size).then_some(*known)
    }

    fn take_unit(
        &mut self,
        blob: u32,
        reader: &BlobReader<'_>,
        used: &UsedChunks,
        unit: &StoredUnit,
    ) -> Result<()> {
        let mut wanted = Vec::with_capacity(unit.members.len());
        for (member, data) in unit.unit.members.iter().zip(&unit.members) {
            let key = (blob, member.index);
            let Some(chunk) = used.get(key) else { continue };
            match self.known(chunk) {
                Some(known) => {
                    self.placed.insert(key, known);
                }
                None => wanted.push(Wanted { key, digest: chunk.digest, data: data.clone() }),
            }
        }
        let flags = unit.unit.members.first().map_or(ChunkFlags::empty(), |first| first.stored.flags);
        let is_batch = flags.contains(ChunkFlags::BATCH) && self.writer.options().batch_size != 0;
        let same_codec = self.stores_alike(reader, flags);
        if is_batch {
            return self.append_batch(&wanted, unit, same_codec);
        }
        let copied = same_codec.then_some(unit);
        wanted.iter().try_for_each(|wanted| self.append_chunk(wanted, flags, copied))
    }

    /// True if what the reader's blob stores would be stored so here.
    fn stores_alike(&self, reader: &BlobReader<'_>, flags: ChunkFlags) -> bool {
        let options = self.writer.options();
        reader.description().compressor == options.compressor
            && options.cipher.is_none()
            && !flags.intersects(ChunkFlags::ENCRYPTED | ChunkFlags::ZRAN)
    }

    /// Stores a chunk on its own; `copied` is its unit, if that can be taken as it is.
    fn append_chunk(
        &mut self,
        wanted: &Wanted,
        flags: ChunkFlags,
        copied: Option<&StoredUnit>,
    ) -> Result<()> {
        let compressed = flags.contains(ChunkFlags::COMPRESSED);
        let fits = |unit: &&StoredUnit| {
            let is_single = !flags.contains(ChunkFlags::BATCH);
            // What does not shrink is stored plain.
            is_single && (unit.stored.len() < wanted.data.len()) == compressed
        };
        let chunk = match copied.filter(fits) {
            Some(unit) => EncodedChunk {
                digest: wanted.digest,
                crc32c: crc32c(&wanted.data),
                // A chunk has 16 MiB at most.
                uncompressed_size: wanted.data.len() as u32,
                stored: unit.stored.clone(),
                compressed,
            },
            None => encode_digested(&wanted.data, wanted.digest, self.writer.options())?,
        };
        let options = self.writer.options();
        let is_v2 = options.features(0).contains(BlobFeatures::CHUNK_INFO_V2);
        if is_v2 && chunk.stored.len() > V2_STORED_MAX {
            self.left_out.insert(wanted.key);
            return Ok(());
        }
        let description = self.writer.append(&chunk)?;
        self.place(wanted, description);
        Ok(())
    }

    fn place(&mut self, wanted: &Wanted, description: ChunkDescription) {
        self.placed.insert(wanted.key, description);
        self.known.insert(wanted.digest, description);
    }

    /// Stores what is wanted of a batch as a batch.
    fn append_batch(&mut self, wanted: &[Wanted], unit: &StoredUnit, same_codec: bool) -> Result<()> {
        let members = || wanted.iter().map(|wanted| (wanted.digest, &wanted.data[..]));
        let copied = same_codec && wanted.len() == unit.members.len() && is_filled(unit);
        let batch = if copied {
            EncodedBatch::copied(members(), unit.stored.clone())
        } else {
            let mut batcher = Batcher::new(self.writer.options().batch_size);
            for (digest, data) in members() {
                if batcher.add(data, digest).is_some() {
                    return Err(Error::contradiction("part of a batch is larger than a batch"));
                }
            }
            let Some(batch) = batcher.take() else { return Ok(()) };
            batch.encode(self.writer.options())?
        };
        for (wanted, description) in wanted.iter().zip(self.writer.append_batch(&batch)?) {
            self.place(wanted, description);
        }
        Ok(())
    }
}

/// True if the members are all that is in their unit, in order.
fn is_filled(unit: &StoredUnit) -> bool {
    let mut end = 0_u64;
    let in_order = unit.unit.members.iter().all(|member| {
        let begin = end;
        end += u64::from(member.uncompressed_size);
        begin == u64::from(member.stored.unit_offset)
    });
    // Of units that are not encrypted, this is what is decoded.
    in_order && end == unit.unit.decoded_size()
}

/// Where the blobs and chunks of an image go.
#[derive(Debug)]
pub struct Moves {
    chunks: HashMap<Key, (u32, ChunkDescription)>,
    /// The new place of each blob whose other chunks stay.
    blobs: Vec<Option<u32>>,
}

impl Moves {
    /// Of an image whose blobs get these places; `None`: nothing of the blob may be left.
    pub fn new(blobs: Vec<Option<u32>>) -> Self {
        Self { chunks: HashMap::new(), blobs }
    }

    /// Chunks go to the new blob that will be at place `blob`.
    pub fn add(&mut self, placed: Placed, blob: u32) {
        self.chunks.extend(placed.0.into_iter().map(|(key, chunk)| (key, (blob, chunk))));
    }

    /// Makes the files refer to where their chunks are now.
    pub fn apply(&self, tree: &mut Tree) -> Result<()> {
        for node in &mut tree.nodes {
            let Content::Regular { chunks, .. } = &mut node.content else { continue };
            for chunk in chunks {
                *chunk = self.moved(chunk)?;
            }
        }
        Ok(())
    }

    fn moved(&self, chunk: &Chunk) -> Result<Chunk> {
        if let Some(&(blob_index, new)) = self.chunks.get(&(chunk.blob_index, chunk.index)) {
            return Ok(Chunk {
                blob_index,
                index: new.index,
                stored: new.stored,
                uncompressed_offset: new.uncompressed_offset,
                ..*chunk
            });
        }
        let place = self.blobs.get(chunk.blob_index as usize).copied().flatten();
        let blob_index = place.ok_or_else(|| {
            Error::contradiction(format!("chunk {} of blob {} was lost", chunk.index, chunk.blob_index))
        })?;
        Ok(Chunk { blob_index, ..*chunk })
    }
}

/// How many stored bytes the used chunks of a blob take: of a batch, their share.
pub fn stored_bytes(blob: u32, reader: &BlobReader<'_>, used: &UsedChunks) -> Result<u64> {
    let mut sum = 0;
    // Bytes of the unit of the chunk before, stored and plain, and the last chunk that it has.
    let mut unit = (0, 0);
    let mut last = None;
    for chunk in used.of_blob(blob) {
        if last.is_none_or(|last| last < chunk.index) {
            let found = reader.unit(chunk)?;
            last = found.members.last().map(|member| member.index);
            let plain: u64 = found.members.iter().map(|member| u64::from(member.uncompressed_size)).sum();
            unit = (found.len, plain);
        }
        let (stored, plain) = unit;
        // Both have 16 MiB, or twice that, at most.
        sum += stored * u64::from(chunk.uncompressed_size) / plain.max(1);
    }
    Ok(sum)
}

/// True for blobs whose data is the format's own: chunks that this program could have written.
pub fn is_native(features: BlobFeatures) -> bool {
    !features.intersects(
        BlobFeatures::SEPARATE | BlobFeatures::ZRAN | BlobFeatures::TARFS | BlobFeatures::EXTERNAL,
    )
}

/// A blob as a bootstrap of its own describes it, wherever the bootstrap was before.
pub fn beside_its_bootstrap(entry: &BlobEntry) -> BlobEntry {
    let mut entry = entry.clone();
    entry.description.features.remove(BlobFeatures::INLINED_FS_META);
    entry
}
