//! The chunk-information array of a v6 blob: where each chunk is, and what must be fetched for it
//! (spec/blob.md §4, §8 to §10).
//!
//! The table is kept as it lies on disk and decoded an entry at a time: opening one costs a pass over its bytes,
//! not an object for every chunk. All of it is checked when it is made; afterwards only "no such chunk" can fail.

use bytes::Bytes;
use zerocopy::FromBytes;

use super::layout::{
    BatchContext, CI_HEADER_SIZE, CI_MAGIC, CONTEXT_SIZE, CiHeader, EntryV1, EntryV2, HAS_CRC32C, ZranContext,
};
use super::unit::{self, How, MAX_DECODED_SIZE, MAX_STORED_SIZE, Unit};
use super::{
    BlobDescription, BlobFeatures, BlobId, Checked, ChunkDescription, ChunkFlags, CiLocation, Compressor,
};
use crate::backend::{Backend, MAX_READ, Request};
use crate::{Error, Result, codec};

/// The most chunks of a blob (spec/blob.md §1).
const MAX_CHUNKS: u32 = 1 << 24;
/// The largest decoded table: with its header it is one read. Entries alone end at 384 MiB (§4); the rest is for ZRan
/// dictionaries, which come to 32 KiB for each MiB or so of compressed data.
const MAX_ARRAY_SIZE: u64 = MAX_READ - CI_HEADER_SIZE as u64;
/// How far a unit's members reach to each side of the chunk that is asked for. Hostile tables put millions of
/// overlapping chunks into one unit.
const MAX_NEIGHBOURS: usize = 1 << 15;
/// Deflate's window, the longest dictionary.
const MAX_DICTIONARY_SIZE: u32 = 1 << 15;

/// A decoded and checked chunk-information array.
#[derive(Clone)]
pub struct ChunkTable {
    id: BlobId,
    /// Entries, then contexts, then dictionaries.
    array: Bytes,
    /// The CI header, plain.
    header: Bytes,
    count: u32,
    entries: Entries,
    contexts: Contexts,
}

#[derive(Clone, Copy, Debug)]
enum Entries {
    V1,
    V2,
}

impl Entries {
    fn size(self) -> usize {
        match self {
            Self::V1 => size_of::<EntryV1>(),
            Self::V2 => size_of::<EntryV2>(),
        }
    }
}

/// The tables behind the entries.
#[derive(Clone, Debug)]
enum Contexts {
    None,
    Batch(Bytes),
    Zran { contexts: Bytes, dictionaries: Bytes },
}

impl std::fmt::Debug for ChunkTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkTable").field("id", &self.id).field("count", &self.count).finish_non_exhaustive()
    }
}

impl ChunkTable {
    /// Reads the table of `blob` from the object that holds it, with one request, and decodes it on a thread where
    /// that may take its time. Errors are those of the backend and of [`ChunkTable::parse`], and
    /// [`Error::Invalid`] for a blob that has no table.
    pub async fn fetch(blob: &BlobDescription, backend: &dyn Backend, request: Request) -> Result<Self> {
        let ci = location(blob)?;
        let len = ci.compressed_size + CI_HEADER_SIZE as u64;
        let stored = backend.read(blob.meta_object(), ci.offset, len, request).await?;
        let owned = blob.clone();
        tokio::task::spawn_blocking(move || Self::decode(&owned, &stored))
            .await
            .map_err(|err| Error::Unavailable { what: table_of(blob), source: std::io::Error::other(err) })?
    }

    /// Decrypts and decodes what is stored: the array, then the header.
    fn decode(blob: &BlobDescription, stored: &[u8]) -> Result<Self> {
        let ci = location(blob)?;
        let size = ci.uncompressed_size as usize;
        let (array, header) = stored
            .split_last_chunk::<CI_HEADER_SIZE>()
            .filter(|(array, _)| array.len() as u64 == ci.compressed_size)
            .ok_or_else(|| Error::corrupt(table_of(blob), format!("{} bytes were read", stored.len())))?;
        let context = |err: Error| err.within(table_of(blob));
        if blob.features.contains(BlobFeatures::ENCRYPTED) {
            // Each was encrypted on its own, from the same tweak.
            let cipher = unit::cipher(blob)?;
            let header = cipher.decrypt(header, CI_HEADER_SIZE).map_err(context)?;
            let plain_len = if ci.compressor == Compressor::None { size } else { 0 };
            let array = cipher.decrypt(array, plain_len).map_err(context)?;
            let array = codec::decompress(ci.compressor, &array, size).map_err(context)?;
            Self::parse(blob, array.into(), &header)
        } else {
            let array = codec::decompress(ci.compressor, array, size).map_err(context)?;
            Self::parse(blob, array.into(), header)
        }
    }

    /// Takes a decoded array and its plain header, and checks both against the blob table: the header's copies of
    /// what the blob table says, every entry, every context. Anything wrong is [`Error::Corrupt`], but what is
    /// wrong in the description itself, which is [`Error::Invalid`].
    pub fn parse(blob: &BlobDescription, array: Bytes, header: &[u8]) -> Result<Self> {
        let ci = location(blob)?;
        let corrupt = |detail: String| Error::corrupt(table_of(blob), detail);
        let view = CiHeader::ref_from_bytes(header)
            .map_err(|_| corrupt(format!("header of {} bytes, expected {CI_HEADER_SIZE}", header.len())))?;
        let count = check_header(blob, ci, view).map_err(corrupt)?;

        if array.len() as u64 != ci.uncompressed_size {
            return Err(corrupt(format!("{} bytes decoded, expected {}", array.len(), ci.uncompressed_size)));
        }
        let entries =
            if blob.features.contains(BlobFeatures::CHUNK_INFO_V2) { Entries::V2 } else { Entries::V1 };
        let contexts = find_contexts(blob, view, &array, count as usize * entries.size()).map_err(corrupt)?;
        let table = Self {
            id: blob.id.clone(),
            array,
            header: Bytes::copy_from_slice(header),
            count,
            entries,
            contexts,
        };
        table.check_contexts(blob).map_err(corrupt)?;
        if !blob.features.contains(BlobFeatures::IS_CHUNKDICT_GENERATED) {
            table.check_entries(blob)?;
        }
        Ok(table)
    }

    /// Chunks in the table.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// True for a table without chunks.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The chunk with this number; [`Error::Invalid`] if there is none, for it is the bootstrap that asked for it.
    pub fn chunk(&self, index: u32) -> Result<ChunkDescription> {
        self.get(index).ok_or_else(|| {
            Error::invalid(
                format!("blob {} chunk {index}", self.id),
                format!("the chunk table has {} chunks", self.count),
            )
        })
    }

    /// What has to be fetched and decoded to get this chunk: the chunk itself, its whole batch, its whole ZRan
    /// context. `blob` is the description that the table was made with.
    pub fn unit(&self, blob: &BlobDescription, index: u32) -> Result<Unit> {
        let chunk = self.chunk(index)?;
        // The entries of a generated dictionary were not checked as a whole.
        self.check_entry(blob, &chunk).map_err(|detail| Error::corrupt(unit::what(blob, &chunk), detail))?;
        if let Some(context) = self.batch(&chunk) {
            let (stored, size) = (context.compressed_size.get(), context.uncompressed_size.get());
            return Ok(Unit {
                offset: chunk.stored.compressed_offset,
                len: stored.into(),
                len_is_bound: false,
                members: self.neighbours(&chunk),
                how: How::Batch {
                    size,
                    compressed: stored != size,
                    encrypted: chunk.stored.flags.contains(ChunkFlags::ENCRYPTED),
                },
            });
        }
        if let Some((context, dictionary)) = self.zran(&chunk) {
            return Ok(Unit {
                offset: context.in_offset.get(),
                len: context.in_len.get().into(),
                len_is_bound: false,
                members: self.neighbours(&chunk),
                how: How::Zran { context, dictionary },
            });
        }
        Ok(Unit::chunk(blob, chunk))
    }

    fn get(&self, index: u32) -> Option<ChunkDescription> {
        if index >= self.count {
            return None;
        }
        let bytes = self.array.get(index as usize * self.entries.size()..)?;
        match self.entries {
            Entries::V1 => EntryV1::ref_from_prefix(bytes).ok().map(|(entry, _)| entry.unpack(index)),
            Entries::V2 => EntryV2::ref_from_prefix(bytes).ok().map(|(entry, _)| entry.unpack(index)),
        }
    }

    /// The chunks around `chunk` that come out of the same batch or context.
    fn neighbours(&self, chunk: &ChunkDescription) -> Vec<ChunkDescription> {
        let same = |other: &ChunkDescription| {
            other.stored.flags == chunk.stored.flags
                && other.stored.unit_index == chunk.stored.unit_index
                && (!chunk.stored.flags.contains(ChunkFlags::BATCH)
                    || other.stored.compressed_offset == chunk.stored.compressed_offset)
        };
        let run = |indexes: &mut dyn Iterator<Item = u32>| -> Vec<ChunkDescription> {
            indexes.take(MAX_NEIGHBOURS).map_while(|index| self.get(index)).take_while(same).collect()
        };
        let mut members = run(&mut (0..chunk.index).rev());
        members.reverse();
        members.extend(run(&mut (chunk.index..self.count)));
        members
    }

    fn batch(&self, chunk: &ChunkDescription) -> Option<BatchContext> {
        match &self.contexts {
            Contexts::Batch(contexts) if chunk.stored.flags.contains(ChunkFlags::BATCH) => {
                record(contexts, chunk.stored.unit_index)
            }
            _ => None,
        }
    }

    fn zran(&self, chunk: &ChunkDescription) -> Option<(ZranContext, Bytes)> {
        match &self.contexts {
            Contexts::Zran { contexts, dictionaries } if chunk.stored.flags.contains(ChunkFlags::ZRAN) => {
                let context: ZranContext = record(contexts, chunk.stored.unit_index)?;
                let start = usize::try_from(context.dict_offset.get()).ok()?;
                let end = start.checked_add(context.dict_size.get() as usize)?;
                (end <= dictionaries.len()).then(|| (context, dictionaries.slice(start..end)))
            }
            _ => None,
        }
    }

    fn check_contexts(&self, blob: &BlobDescription) -> Checked {
        match &self.contexts {
            Contexts::None => Ok(()),
            Contexts::Batch(contexts) => {
                records::<BatchContext>(contexts).try_for_each(|(index, context)| {
                    check_batch(blob, &context).map_err(|detail| format!("batch context {index}: {detail}"))
                })
            }
            Contexts::Zran { contexts, dictionaries } => {
                records::<ZranContext>(contexts).try_for_each(|(index, context)| {
                    check_zran(blob, &context, dictionaries.len() as u64)
                        .map_err(|detail| format!("ZRan context {index}: {detail}"))
                })
            }
        }
    }

    fn check_entries(&self, blob: &BlobDescription) -> Result<()> {
        let mut end = 0;
        let mut unknown_flags = 0;
        for index in 0..self.count {
            let chunk = self.chunk(index)?;
            let mut checked = self.check_entry(blob, &chunk);
            if let Entries::V2 = self.entries {
                let bytes = &self.array[index as usize * self.entries.size()..];
                let flags = EntryV2::ref_from_prefix(bytes).map_or(0, |(entry, _)| entry.flags());
                unknown_flags |= flags & !(ChunkFlags::all().bits() | HAS_CRC32C);
                if flags & HAS_CRC32C != 0 && chunk.stored.crc32c.is_none_or(|crc| crc == 0) {
                    checked =
                        checked.and(Err("it has no usable CRC-32C, though its flags say so".to_owned()));
                }
            }
            // Overlapping chunks would overwrite each other in the cache.
            if chunk.uncompressed_offset < end {
                checked = checked.and(Err(format!(
                    "decoded offset {}, expected {end} at least",
                    chunk.uncompressed_offset
                )));
            }
            checked.map_err(|detail| Error::corrupt(unit::what(blob, &chunk), detail))?;
            end = chunk.uncompressed_offset + u64::from(chunk.uncompressed_size);
        }
        if unknown_flags != 0 {
            tracing::warn!(blob = %self.id, flags = unknown_flags, "chunk entries have unknown flags, ignored");
        }
        Ok(())
    }

    /// The rules of §8.3 for one entry.
    fn check_entry(&self, blob: &BlobDescription, chunk: &ChunkDescription) -> Checked {
        unit::check_placement(blob, chunk)?;
        let stored = &chunk.stored;
        let unit_size = match stored.flags & (ChunkFlags::ZRAN | ChunkFlags::BATCH) {
            none if none.is_empty() => return Ok(()),
            ChunkFlags::BATCH => self.batch(chunk).map(|context| {
                (context.uncompressed_size.get(), context.compressed_size.get(), stored.compressed_offset)
            }),
            ChunkFlags::ZRAN if stored.flags.contains(ChunkFlags::ENCRYPTED) => {
                return Err("it is both ZRan and encrypted".to_owned());
            }
            ChunkFlags::ZRAN => self
                .zran(chunk)
                .map(|(context, _)| (context.out_len.get(), context.in_len.get(), context.in_offset.get())),
            _ => return Err("it is both ZRan and batch".to_owned()),
        };
        let (size, stored_size, offset) =
            unit_size.ok_or_else(|| format!("there is no context {} for it", stored.unit_index))?;
        let end = u64::from(stored.unit_offset) + u64::from(chunk.uncompressed_size);
        if end > size.into() {
            return Err(format!("it ends at {end} in a context of {size} bytes"));
        }
        match (offset.checked_add(stored_size.into()), blob.data_size()) {
            (Some(end), limit) if end <= limit.unwrap_or(u64::MAX) => Ok(()),
            _ => Err(format!("its context {offset}+{stored_size} is outside of the blob's data")),
        }
    }

    pub(super) fn array(&self) -> &Bytes {
        &self.array
    }

    pub(super) fn header(&self) -> &Bytes {
        &self.header
    }
}

/// How errors name the table.
pub(super) fn table_of(blob: &BlobDescription) -> String {
    let offset = blob.ci.map_or(0, |ci| ci.offset);
    format!("chunk table of blob {} (in {} at {offset})", blob.id, blob.meta_object())
}

/// The table's place, with sizes that may be allocated.
pub(super) fn location(blob: &BlobDescription) -> Result<&CiLocation> {
    let invalid = |detail: String| Error::invalid(table_of(blob), detail);
    let ci = blob.ci.as_ref().ok_or_else(|| invalid("the blob has none".to_owned()))?;
    let v2 = blob.features.contains(BlobFeatures::CHUNK_INFO_V2);
    let contexts = blob.features.intersects(BlobFeatures::ZRAN | BlobFeatures::BATCH);
    if contexts && !v2 {
        return Err(invalid("contexts need 24-byte entries".to_owned()));
    }
    if blob.features.contains(BlobFeatures::ZRAN | BlobFeatures::BATCH) {
        return Err(invalid("a blob has either ZRan or batch contexts".to_owned()));
    }
    if blob.chunk_count > MAX_CHUNKS {
        return Err(invalid(format!("{} chunks, expected {MAX_CHUNKS} at most", blob.chunk_count)));
    }
    let entries = u64::from(blob.chunk_count) * if v2 { 24 } else { 16 };
    let generated = blob.features.contains(BlobFeatures::IS_CHUNKDICT_GENERATED);
    let fits =
        generated || if contexts { ci.uncompressed_size >= entries } else { ci.uncompressed_size == entries };
    if !fits || ci.uncompressed_size > MAX_ARRAY_SIZE {
        return Err(invalid(format!("{} bytes for {} chunks", ci.uncompressed_size, blob.chunk_count)));
    }
    // Stored plain if it does not shrink; only the padding of short encrypted input makes it longer.
    if ci.compressed_size > ci.uncompressed_size.max(18) {
        return Err(invalid(format!(
            "{} bytes stored, expected {} at most",
            ci.compressed_size, ci.uncompressed_size
        )));
    }
    Ok(ci)
}

/// The header's copies of what the blob table says; gives the number of entries.
fn check_header(blob: &BlobDescription, ci: &CiLocation, header: &CiHeader) -> Checked<u32> {
    let generated = blob.features.contains(BlobFeatures::IS_CHUNKDICT_GENERATED);
    let count = header.ci_entries.get();
    let expected_count = if generated { count } else { blob.chunk_count };
    let fields = [
        ("magic", header.magic.get().into(), CI_MAGIC.into()),
        ("second magic", header.magic2.get().into(), CI_MAGIC.into()),
        ("entries", count.into(), expected_count.into()),
        ("compressor", header.ci_compressor.get().into(), ci.compressor as u64),
        ("offset", header.ci_offset.get(), ci.offset),
        ("stored size", header.ci_compressed_size.get(), ci.compressed_size),
        ("decoded size", header.ci_uncompressed_size.get(), ci.uncompressed_size),
    ];
    for (field, found, expected) in fields {
        if found != expected {
            return Err(format!("header: {field} is {found:#x}, expected {expected:#x}"));
        }
    }
    if count > MAX_CHUNKS {
        return Err(format!("header: {count} entries, expected {MAX_CHUNKS} at most"));
    }
    Ok(count)
}

/// The context tables behind `entries_size` bytes of entries.
fn find_contexts(
    blob: &BlobDescription,
    header: &CiHeader,
    array: &Bytes,
    entries_size: usize,
) -> Checked<Contexts> {
    if array.len() < entries_size {
        return Err(format!("{} bytes, too short for {entries_size} bytes of entries", array.len()));
    }
    let count = header.ctx_count.get();
    let wanted = blob.features.intersects(BlobFeatures::ZRAN | BlobFeatures::BATCH);
    if !wanted || count == 0 {
        return Ok(Contexts::None);
    }
    let (offset, size) = (header.ctx_offset.get(), header.ctx_size.get());
    let table_size = u64::from(count) * CONTEXT_SIZE as u64;
    let chunks = header.ci_entries.get();
    if offset != entries_size as u64 || size > (array.len() - entries_size) as u64 || size < table_size {
        return Err(format!(
            "header: {count} contexts in {offset}+{size}, expected at {entries_size} and within {} bytes",
            array.len()
        ));
    }
    // Each context is there for a chunk at least.
    if count > chunks {
        return Err(format!("header: {count} contexts for {chunks} chunks"));
    }
    // Both are within the array by the checks above.
    let table_end = entries_size + table_size as usize;
    let contexts = array.slice(entries_size..table_end);
    if blob.features.contains(BlobFeatures::BATCH) {
        return Ok(Contexts::Batch(contexts));
    }
    Ok(Contexts::Zran { contexts, dictionaries: array.slice(table_end..entries_size + size as usize) })
}

fn check_batch(blob: &BlobDescription, context: &BatchContext) -> Checked {
    let (stored, size) = (context.compressed_size.get(), context.uncompressed_size.get());
    if size == 0 || u64::from(size) > MAX_DECODED_SIZE {
        return Err(format!("{size} bytes decoded, expected 1 to {MAX_DECODED_SIZE}"));
    }
    // Encryption pads what is shorter than a block.
    let limit = if blob.features.contains(BlobFeatures::ENCRYPTED) { size.max(18) } else { size };
    if stored == 0 || stored > limit {
        return Err(format!("{stored} bytes stored, expected 1 to {limit}"));
    }
    Ok(())
}

fn check_zran(blob: &BlobDescription, context: &ZranContext, dictionaries: u64) -> Checked {
    let (in_offset, in_len) = (context.in_offset.get(), u64::from(context.in_len.get()));
    let out_len = u64::from(context.out_len.get());
    if out_len == 0 || out_len > MAX_DECODED_SIZE {
        return Err(format!("{out_len} bytes decoded, expected 1 to {MAX_DECODED_SIZE}"));
    }
    if in_len == 0 || in_len > MAX_STORED_SIZE {
        return Err(format!("{in_len} bytes stored, expected 1 to {MAX_STORED_SIZE}"));
    }
    let limit = blob.data_size().unwrap_or(u64::MAX);
    if in_offset.checked_add(in_len).is_none_or(|end| end > limit) {
        return Err(format!("stored range {in_offset}+{in_len} is outside of the blob's {limit} bytes"));
    }
    if context.bits > 7 {
        return Err(format!("{} leftover bits, expected 7 at most", context.bits));
    }
    let (start, size) = (context.dict_offset.get(), context.dict_size.get());
    if size > MAX_DICTIONARY_SIZE || start.checked_add(size.into()).is_none_or(|end| end > dictionaries) {
        return Err(format!("dictionary {start}+{size} is outside of the {dictionaries} bytes there are"));
    }
    Ok(())
}

/// Record `index` of a table of [`CONTEXT_SIZE`] bytes each.
fn record<T: FromBytes>(table: &[u8], index: u32) -> Option<T> {
    let start = (index as usize).checked_mul(CONTEXT_SIZE)?;
    T::read_from_prefix(table.get(start..)?).ok().map(|(record, _)| record)
}

fn records<T: FromBytes>(table: &[u8]) -> impl Iterator<Item = (u32, T)> {
    (0u32..).map_while(|index| Some((index, record(table, index)?)))
}

#[cfg(test)]
mod tests;
