//! Doubles for the cache's neighbours: a blob made by hand, a backend that misbehaves on purpose.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blobcache::{Blob, BlobCache, BootId, CacheOptions, CacheStorage, Error, Executor, RealDisk, Want};
use bytes::Bytes;
use storage::backend::{Backend, BoxFuture, Request};
use storage::blob::{
    BlobDescription, BlobFeatures, BlobId, ChunkFlags, Compressor, DigestSource, Extent, StoredChunk,
};
use storage::digest::{Digest, Digester, crc32c};

/// Numbers from a seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8 | 1).collect()
    }
}

/// A blob of v5: chunks with records, no table.
pub struct HandMade {
    pub description: Arc<BlobDescription>,
    pub chunks: Vec<HandMadeChunk>,
    pub stored: Bytes,
}

pub struct HandMadeChunk {
    pub data: Vec<u8>,
    pub uncompressed_offset: u64,
    pub stored: StoredChunk,
    pub digest: Digest,
}

#[derive(Clone, Copy)]
pub struct Recipe {
    pub chunks: u32,
    pub max_size: u64,
    pub compressor: Compressor,
    pub aligned: bool,
    /// One in so many chunks has no digest; 0: all have one.
    pub no_digest: u64,
    /// One in so many chunks has a checksum; 0: none.
    pub checksum: u64,
}

pub const PLAIN: Recipe = Recipe {
    chunks: 64,
    max_size: 9000,
    compressor: Compressor::None,
    aligned: false,
    no_digest: 0,
    checksum: 0,
};

impl HandMade {
    pub fn new(seed: u64, recipe: Recipe) -> Self {
        let rng = &mut Rng::new(seed);
        let (mut chunks, mut stored, mut end) = (Vec::new(), Vec::new(), 0u64);
        for _ in 0..recipe.chunks {
            let size = 1 + rng.below(recipe.max_size);
            let mut data = rng.bytes(size as usize);
            if recipe.compressor != Compressor::None {
                // Compressible, and still different.
                let len = data.len();
                data[len / 2..].fill(7);
            }
            let encoded = match recipe.compressor {
                Compressor::Zstd => Some(zstd::bulk::compress(&data, 3).unwrap()),
                _ => None,
            };
            let encoded = encoded.filter(|encoded| encoded.len() < data.len());
            let flags = if encoded.is_some() { ChunkFlags::COMPRESSED } else { ChunkFlags::empty() };
            let encoded = encoded.unwrap_or_else(|| data.clone());
            let digest = Digester::Blake3.digest(&data);
            let has_digest = recipe.no_digest == 0 || !rng.one_in(recipe.no_digest);
            let has_checksum = recipe.checksum != 0 && rng.one_in(recipe.checksum);
            chunks.push(HandMadeChunk {
                uncompressed_offset: end,
                stored: StoredChunk {
                    flags,
                    compressed_offset: stored.len() as u64,
                    compressed_size: encoded.len() as u32,
                    unit_index: 0,
                    unit_offset: 0,
                    crc32c: has_checksum.then(|| crc32c(&data)),
                },
                digest: if has_digest { digest } else { Digest([0; 32]) },
                data,
            });
            stored.extend(encoded);
            end += size;
            if recipe.aligned {
                end = end.next_multiple_of(4096);
            }
        }
        let description = BlobDescription {
            index: 0,
            id: BlobId::new(&format!("{seed:064x}")).unwrap(),
            chunk_size: 1 << 20,
            chunk_count: recipe.chunks,
            compressor: recipe.compressor,
            digester: Digester::Blake3,
            cipher: None,
            features: if recipe.aligned { BlobFeatures::ALIGNED } else { BlobFeatures::empty() },
            compressed_size: stored.len() as u64,
            uncompressed_size: end,
            ci: None,
            toc: None,
            meta_id: None,
            meta_size: 0,
        };
        Self { description: Arc::new(description), chunks, stored: stored.into() }
    }

    pub fn id(&self) -> &BlobId {
        &self.description.id
    }

    pub fn len(&self) -> u32 {
        self.chunks.len() as u32
    }

    pub fn extent(&self, index: u32, offset: u32, len: u32) -> Extent {
        let chunk = &self.chunks[index as usize];
        Extent::Chunk {
            blob_index: 0,
            chunk_index: index,
            uncompressed_offset: chunk.uncompressed_offset,
            uncompressed_size: chunk.data.len() as u32,
            offset,
            len,
            record: Some((chunk.stored, chunk.digest)),
        }
    }

    pub fn whole(&self, index: u32) -> Extent {
        self.extent(index, 0, self.chunks[index as usize].data.len() as u32)
    }

    /// Some bytes of some chunk.
    pub fn any(&self, rng: &mut Rng) -> Extent {
        let index = rng.below(self.chunks.len() as u64) as u32;
        let size = self.chunks[index as usize].data.len() as u64;
        let offset = rng.below(size);
        self.extent(index, offset as u32, 1 + rng.below(size - offset) as u32)
    }

    pub fn expected(&self, extent: &Extent) -> &[u8] {
        let &Extent::Chunk { chunk_index, offset, len, .. } = extent else { panic!() };
        &self.chunks[chunk_index as usize].data[offset as usize..(offset + len) as usize]
    }
}

/// No image has digests beside its records.
pub struct NoDigests;

impl DigestSource for NoDigests {
    fn digest_index(&self, _blob_index: u32) -> storage::Result<Vec<(u32, u32)>> {
        Ok(Vec::new())
    }

    fn digest(&self, _record: u32) -> Option<(Digest, u64)> {
        None
    }
}

/// What the backend does with reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Serve,
    /// Answers after so many milliseconds.
    Slow(u64),
    /// Never answers.
    Stall,
    Fail,
    Panic,
    /// Changes a byte of so many answers, then serves.
    Corrupt(u32),
    /// Tells the first bytes, and never answers.
    TellAndStall(u64),
    /// Tells the first bytes, and fails; then serves.
    TellAndFail(u64),
    /// Tells bytes of which some are wrong before it answers with the right ones.
    TellWrong,
}

/// Blobs in memory.
#[derive(Debug)]
pub struct MemoryBackend {
    blobs: Mutex<HashMap<BlobId, Bytes>>,
    pub mood: Mutex<Mood>,
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    pub ranges: Mutex<Vec<(u64, u64)>>,
}

impl MemoryBackend {
    pub fn of(blob: &HandMade) -> Arc<Self> {
        Self::with([(blob.id().clone(), blob.stored.clone())])
    }

    pub fn with(blobs: impl IntoIterator<Item = (BlobId, Bytes)>) -> Arc<Self> {
        Arc::new(Self {
            blobs: Mutex::new(blobs.into_iter().collect()),
            mood: Mutex::new(Mood::Serve),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            ranges: Mutex::default(),
        })
    }

    pub fn feel(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// From now on `blob` is `bytes`.
    pub fn replace(&self, blob: &BlobId, bytes: Bytes) {
        self.blobs.lock().unwrap().insert(blob.clone(), bytes);
    }

    /// The bytes of `blob`.
    pub fn stored(&self, blob: &BlobId) -> Bytes {
        self.blobs.lock().unwrap()[blob].clone()
    }

    pub fn served(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn answer(&self, blob: &BlobId, offset: u64, len: u64) -> storage::Result<Bytes> {
        let blobs = self.blobs.lock().unwrap();
        let data = blobs.get(blob).ok_or_else(|| storage::Error::NotFound {
            what: format!("blob {blob}"),
            place: "memory".into(),
        })?;
        if offset + len > data.len() as u64 {
            return Err(storage::Error::corrupt(format!("blob {blob}"), "beyond the end"));
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len, Ordering::Relaxed);
        self.ranges.lock().unwrap().push((offset, len));
        Ok(data.slice(offset as usize..(offset + len) as usize))
    }
}

impl Backend for MemoryBackend {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, storage::Result<Bytes>> {
        let tell = move |bytes: Bytes| {
            let Some(arrivals) = &request.arrivals else { return };
            for start in (0..bytes.len()).step_by(997) {
                let piece = bytes.slice(start..bytes.len().min(start + 997));
                arrivals.tell(offset + start as u64, piece);
            }
        };
        Box::pin(async move {
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::TellAndStall(bytes) => {
                    tell(self.answer(blob, offset, bytes.min(len))?);
                    std::future::pending().await
                }
                Mood::TellAndFail(bytes) => {
                    self.feel(Mood::Serve);
                    tell(self.answer(blob, offset, bytes.min(len))?);
                    tokio::task::yield_now().await;
                    Err(storage::Error::Unavailable {
                        what: format!("blob {blob}"),
                        source: std::io::Error::other("on purpose"),
                    })
                }
                Mood::TellWrong => {
                    let right = self.answer(blob, offset, len)?;
                    let mut wrong = right.to_vec();
                    wrong[0] ^= 1;
                    tell(wrong.into());
                    Ok(right)
                }
                Mood::Serve => self.answer(blob, offset, len),
                Mood::Slow(ms) => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    self.answer(blob, offset, len)
                }
                Mood::Stall => std::future::pending().await,
                Mood::Fail => Err(storage::Error::Unavailable {
                    what: format!("blob {blob}"),
                    source: std::io::Error::other("on purpose"),
                }),
                Mood::Panic => panic!("on purpose"),
                Mood::Corrupt(left) => {
                    let next = if left > 1 { Mood::Corrupt(left - 1) } else { Mood::Serve };
                    self.feel(next);
                    let mut bytes = self.answer(blob, offset, len)?.to_vec();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                    Ok(bytes.into())
                }
            }
        })
    }

    fn size<'a>(&'a self, blob: &'a BlobId, _request: Request) -> BoxFuture<'a, storage::Result<u64>> {
        Box::pin(
            async move { self.answer(blob, 0, 0).map(|_| self.blobs.lock().unwrap()[blob].len() as u64) },
        )
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

pub fn directory(path: &Path) -> CacheStorage {
    CacheStorage::Directory {
        work_dir: path.to_owned(),
        compressed: false,
        encryption: None,
        indexed_map: true,
    }
}

pub fn options(storage: CacheStorage) -> CacheOptions {
    CacheOptions {
        storage,
        validate: false,
        verify_on_fetch: true,
        amplify_bytes: 0,
        memory_bytes: 64 << 20,
        memory_cache_bytes: 64 << 20,
        boot_id: BootId([1; 16]),
        disk: Arc::new(RealDisk),
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub fn open(
    options: CacheOptions,
    backend: &Arc<MemoryBackend>,
    runtime: &tokio::runtime::Runtime,
) -> Arc<BlobCache> {
    let executor = Executor::new(runtime.handle().clone());
    BlobCache::open(options, Arc::<MemoryBackend>::clone(backend), executor).unwrap()
}

pub fn take(cache: &BlobCache, blob: &HandMade) -> Arc<Blob> {
    cache.blob(Arc::clone(&blob.description), Arc::new(NoDigests)).unwrap()
}

/// Reads as a transport does: in place if ready, else through `read`.
pub async fn fetch(blob: &Blob, extent: &Extent, deadline: Instant) -> Result<Vec<u8>, Error> {
    let &Extent::Chunk { len, .. } = extent else { panic!() };
    let mut out = vec![0; len as usize];
    if let Some(offset) = blob.ready(extent)
        && blob.pread(offset, &mut out).is_ok()
    {
        return Ok(out);
    }
    if blob.read_held(extent, &mut out) {
        return Ok(out);
    }
    blob.read(&mut [Want { extent: *extent, out: &mut out }], deadline).await?;
    Ok(out)
}

/// True if the extent can be had without the backend, at once.
pub fn is_here(blob: &Blob, extent: &Extent) -> bool {
    let &Extent::Chunk { len, .. } = extent else { panic!() };
    blob.ready(extent).is_some() || blob.read_held(extent, &mut vec![0; len as usize])
}

/// Waits until every chunk that was read is in the local copy.
pub async fn settled(cache: &BlobCache) {
    cache.idle(soon()).await.unwrap();
    cache.flush(soon()).await.unwrap();
}
