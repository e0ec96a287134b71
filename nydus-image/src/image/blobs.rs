//! From extents to checked bytes: which unit holds a chunk, and which digest it must have.
//!
//! The records of the bootstrap tell most of it. What a blob says of itself, its chunk table and digests, is loaded when
//! the first chunk is wanted of which they tell too little.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rafs::Bootstrap;
use storage::backend::{Backend, Priority, Request};
use storage::blob::{
    BlobDescription, BlobFeatures, ChunkDescription, ChunkFlags, ChunkTable, Compressor, DigestArray,
    DigestSource as _, Extent, StoredChunk, Unit, check_chunk, fetch_digests,
};
use storage::digest::Digest;
use tokio::sync::OnceCell;

use super::recent::{Key, Member, Recent, Slot};
use crate::error::{Error, Result};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The blobs of an image.
#[derive(Debug)]
pub(super) struct Blobs {
    bootstrap: Arc<Bootstrap>,
    backend: Arc<dyn Backend>,
    metadata: Vec<Metadata>,
    recent: Mutex<Recent>,
}

/// What is loaded of a blob.
#[derive(Debug, Default)]
struct Metadata {
    table: OnceCell<ChunkTable>,
    /// Which records of the bootstrap have the digests of its chunks.
    index: OnceCell<Vec<(u32, u32)>>,
    /// The digests that the blob has itself.
    array: OnceCell<DigestArray>,
}

/// Some bytes of a chunk, found.
pub(super) struct Wanted {
    blob: Arc<BlobDescription>,
    slot: Arc<Slot>,
    /// Which chunk of the unit.
    member: usize,
    index: u32,
    digest: Option<Digest>,
    checksum: Option<u32>,
    from: usize,
    to: usize,
}

impl Wanted {
    /// Bytes of memory that it takes to get it.
    pub(super) fn cost(&self) -> u64 {
        self.slot.unit.len.saturating_add(self.slot.unit.decoded_size())
    }
}

fn request() -> Request {
    Request::new(Priority::OnDemand, Instant::now() + PATIENCE)
}

impl Blobs {
    pub(super) fn new(bootstrap: Bootstrap, backend: Arc<dyn Backend>) -> Self {
        let metadata = bootstrap.blobs().iter().map(|_| Metadata::default()).collect();
        Self { bootstrap: Arc::new(bootstrap), backend, metadata, recent: Mutex::default() }
    }

    pub(super) fn bootstrap(&self) -> &Bootstrap {
        &self.bootstrap
    }

    /// Finds the unit that holds an extent, and the digest of its chunk.
    pub(super) async fn locate(&self, extent: &Extent) -> Result<Wanted> {
        let &Extent::Chunk {
            blob_index,
            chunk_index: index,
            uncompressed_offset,
            uncompressed_size,
            offset,
            len,
            record,
        } = extent
        else {
            return Err(Error::Cancelled);
        };
        let known =
            self.bootstrap.blobs().get(blob_index as usize).zip(self.metadata.get(blob_index as usize));
        let Some((blob, metadata)) = known else {
            let detail = format!("blob {blob_index} of {}", self.metadata.len());
            return Err(storage::Error::Invalid { what: "extent".into(), detail }.into());
        };
        let chunk = |stored| ChunkDescription { index, uncompressed_offset, uncompressed_size, stored };
        let place = (uncompressed_offset, uncompressed_size);
        let record_key = |stored: StoredChunk, digest| {
            let place = (uncompressed_offset, u64::from(uncompressed_size));
            let stored = (stored.compressed_offset, stored.compressed_size, stored.flags.bits());
            Key::Record { blob: blob_index, index, place, stored, digest }
        };
        let (key, unit, digest) = match record {
            Some((stored, digest)) => {
                let unit = Unit::single(blob, chunk(stored))?;
                (record_key(stored, digest), unit, (!digest.is_zero()).then_some(digest))
            }
            None if blob.is_tarfs() => {
                let stored = in_place(uncompressed_offset, uncompressed_size);
                (record_key(stored, Digest([0; 32])), Unit::single(blob, chunk(stored))?, None)
            }
            None => match self.whole_record(blob, metadata, index, place).await? {
                Some((chunk, digest)) => {
                    (record_key(chunk.stored, digest), Unit::single(blob, chunk)?, Some(digest))
                }
                None => {
                    let unit = self.table(blob, metadata).await?.unit(blob, index)?;
                    let first = unit.members.first().map_or(index, |chunk| chunk.index);
                    let digest = self.digest(blob, metadata, index, uncompressed_offset).await?;
                    (Key::Table { blob: blob_index, first }, unit, digest)
                }
            },
        };
        let found = unit.members.iter().enumerate().find(|(_, member)| member.index == index);
        let (member, description) = match found {
            Some((member, found))
                if found.uncompressed_offset == uncompressed_offset
                    && found.uncompressed_size == uncompressed_size =>
            {
                (member, *found)
            }
            found => {
                let found = found.map(|(_, chunk)| (chunk.uncompressed_offset, chunk.uncompressed_size));
                return Err(storage::Error::Corrupt {
                    what: format!("blob {} chunk {index}", blob.id),
                    detail: format!(
                        "the bootstrap has it at {:?}, the table of the blob at {found:?} (offset, size)",
                        (uncompressed_offset, uncompressed_size)
                    ),
                }
                .into());
            }
        };
        // The reader of extents promises that they lie in their chunks.
        let from = offset.min(uncompressed_size) as usize;
        let to = offset.saturating_add(len).min(uncompressed_size) as usize;
        let slot = self.recent.lock().unwrap_or_else(PoisonError::into_inner).slot(key, unit);
        let checksum = description.stored.crc32c;
        Ok(Wanted { blob: Arc::clone(blob), slot, member, index, digest, checksum, from, to })
    }

    /// The chunks of a v6 blob, with offset and size, and `None` at the end.
    pub(super) async fn chunks(
        &self,
        blob_index: usize,
    ) -> Result<impl Iterator<Item = Result<Option<(Extent, u64, u32)>>> + use<>> {
        let known = self.bootstrap.blobs().get(blob_index).zip(self.metadata.get(blob_index));
        let Some((blob, metadata)) = known else {
            let detail = format!("{blob_index} of {}", self.metadata.len());
            return Err(storage::Error::Invalid { what: "blob".into(), detail }.into());
        };
        // A plain tar has no chunks of its own: any size will do.
        let step = u64::from(blob.chunk_size).max(4096);
        let (table, count) = match blob.is_tarfs() {
            true => (None, blob.uncompressed_size.div_ceil(step)),
            false => {
                let table = self.table(blob, metadata).await?.clone();
                let count = u64::from(table.len());
                (Some(table), count)
            }
        };
        let (size, blob_index) = (blob.uncompressed_size, blob.index);
        let chunk = move |number: u64| {
            let (chunk_index, offset, len) = match &table {
                // A table has at most 2^24 chunks.
                Some(table) => {
                    let chunk = table.chunk(number as u32)?;
                    (chunk.index, chunk.uncompressed_offset, chunk.uncompressed_size)
                }
                // At most the size of a chunk.
                None => (0, number * step, (size - number * step).min(step) as u32),
            };
            let extent = Extent::Chunk {
                blob_index,
                chunk_index,
                uncompressed_offset: offset,
                uncompressed_size: len,
                offset: 0,
                len,
                record: None,
            };
            Ok(Some((extent, offset, len)))
        };
        Ok((0..count).map(chunk).chain([Ok(None)]))
    }

    async fn table<'a>(&self, blob: &BlobDescription, metadata: &'a Metadata) -> Result<&'a ChunkTable> {
        let table = async || {
            let fetched = ChunkTable::fetch(blob, self.backend.as_ref(), request()).await;
            fetched.map_err(|error| match blob.features.contains(BlobFeatures::BATCH) {
                true => error.within("chunks in batches are found by the chunk table of their blob only"),
                false => error,
            })
        };
        Ok(metadata.table.get_or_try_init(table).await?)
    }

    /// The bootstrap's record of a chunk at `place` (offset and size, uncompressed), if all that is needed to read the
    /// chunk is in it. Image converters hand out the data of a blob without the chunk table behind it.
    async fn whole_record(
        &self,
        blob: &BlobDescription,
        metadata: &Metadata,
        index: u32,
        place: (u64, u32),
    ) -> Result<Option<(ChunkDescription, Digest)>> {
        // Of batches and ZRan contexts records tell too little, and of gzip no exact size.
        let in_units = blob.features.intersects(BlobFeatures::BATCH | BlobFeatures::ZRAN);
        if in_units || blob.compressor == Compressor::Gzip {
            return Ok(None);
        }
        let record = self.record(blob, metadata, index).await?;
        Ok(record.filter(|(chunk, _)| (chunk.uncompressed_offset, chunk.uncompressed_size) == place))
    }

    /// What the bootstrap of a v6 image says of a chunk, and its digest; `None` if it has none of it.
    async fn record(
        &self,
        blob: &BlobDescription,
        metadata: &Metadata,
        index: u32,
    ) -> Result<Option<(ChunkDescription, Digest)>> {
        let records =
            metadata.index.get_or_try_init(async || self.bootstrap.digest_index(blob.index)).await?;
        let found = records.binary_search_by_key(&index, |(chunk, _)| *chunk).ok();
        let record = found.and_then(|found| self.bootstrap.recorded_chunk(records[found].1));
        Ok(record.filter(|(_, digest)| !digest.is_zero()))
    }

    /// The digest of a v6 chunk: what the bootstrap says, else what the blob says; `None` if neither has one.
    async fn digest(
        &self,
        blob: &BlobDescription,
        metadata: &Metadata,
        index: u32,
        uncompressed_offset: u64,
    ) -> Result<Option<Digest>> {
        // "Legacy stargz" has no digests worth the name (spec/blob.md §10.2).
        if blob.compressor == Compressor::Gzip && !blob.features.contains(BlobFeatures::CHUNK_INFO_V2) {
            return Ok(None);
        }
        if let Some((chunk, digest)) = self.record(blob, metadata, index).await?
            && chunk.uncompressed_offset == uncompressed_offset
        {
            return Ok(Some(digest));
        }
        if !blob.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST) {
            return Ok(None);
        }
        let array = fetch_digests(blob, self.backend.as_ref(), request());
        Ok(metadata.array.get_or_try_init(|| array).await?.get(index))
    }

    /// Fetches and decodes unless somebody has, and checks the chunk unless somebody has.
    pub(super) async fn bytes(&self, wanted: &Wanted) -> Result<Bytes> {
        let slot = &wanted.slot;
        let members = slot
            .members
            .get_or_try_init(async || {
                let stored = slot.unit.fetch(&wanted.blob, self.backend.as_ref(), request()).await?;
                let (blob, slot) = (Arc::clone(&wanted.blob), Arc::clone(slot));
                let decoded = on_cpu(move || slot.unit.decode(&blob, &stored)).await??;
                let member = |bytes| Member { bytes, checked: OnceCell::new() };
                Ok::<_, Error>(decoded.into_iter().map(member).collect::<Vec<_>>())
            })
            .await?;
        let member = members.get(wanted.member).ok_or(Error::Cancelled)?;
        member
            .checked
            .get_or_try_init(async || {
                let (blob, bytes) = (Arc::clone(&wanted.blob), member.bytes.clone());
                let (index, digest, checksum) = (wanted.index, wanted.digest, wanted.checksum);
                on_cpu(move || check_chunk(&blob, index, digest, checksum, &bytes)).await??;
                Ok::<_, Error>(())
            })
            .await?;
        Ok(member.bytes.slice(wanted.from..wanted.to.min(member.bytes.len()).max(wanted.from)))
    }
}

/// Does work that takes its time on a thread that may.
async fn on_cpu<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cancelled)
}

/// Bytes that are stored as they are, where they are.
fn in_place(offset: u64, size: u32) -> StoredChunk {
    StoredChunk {
        flags: ChunkFlags::empty(),
        compressed_offset: offset,
        compressed_size: size,
        unit_index: 0,
        unit_offset: 0,
        crc32c: None,
    }
}
