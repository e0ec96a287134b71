//! A directory of blobs and what they share: backend, threads, memory budget, counters, the flusher.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use storage::backend::Backend;
use storage::blob::{BlobDescription, BlobId, DigestSource};
use storage::metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blob::Blob;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::lock;
use crate::memory::MemoryCache;
use crate::metrics::Metrics;
use crate::options::{CacheOptions, CacheStorage};
use crate::own_files;
use crate::shelf::{Shape, Shelf};

/// How often what was cached is made durable.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// How often our own files of blobs that are gone are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// The budget is counted in pieces of so many bytes.
const BUDGET_PIECE: u64 = 4096;

/// A directory of blobs, shared by mounts. Dropping it keeps everything but does not wait: see [`BlobCache::shutdown`].
pub struct BlobCache {
    shared: Arc<Shared>,
}

/// How much of the memory budget of a cache is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// All there is.
    pub limit_bytes: u64,
    /// Held by what is being fetched, decoded or written.
    pub used_bytes: u64,
    /// Requests that wait for a share.
    pub waiting: u64,
}

/// How much memory holds chunks that no file keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryCacheUse {
    /// The most there may be.
    pub limit_bytes: u64,
    /// Held now, with what it costs to keep account of it.
    pub used_bytes: u64,
}

impl fmt::Debug for BlobCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobCache").field("storage", &self.shared.options.storage).finish_non_exhaustive()
    }
}

/// What all blobs of a cache use.
pub(crate) struct Shared {
    pub(crate) options: CacheOptions,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) executor: Executor,
    pub(crate) metrics: Metrics,
    /// Chunks of blobs that no file keeps.
    pub(crate) memory: MemoryCache,
    budget: Arc<Semaphore>,
    budget_pieces: u32,
    /// Requests that wait for a share.
    budget_waiting: Gauge,
    /// Kept while anybody uses them, or they have something that is not durable.
    shelves: Mutex<HashMap<BlobId, Arc<Shelf>>>,
}

impl BlobCache {
    /// Opens a cache whose blobs are read from `backend`; its work is done by `executor`.
    ///
    /// Makes the directory. [`crate::ErrorKind::Invalid`] for options that contradict themselves.
    pub fn open(options: CacheOptions, backend: Arc<dyn Backend>, executor: Executor) -> Result<Arc<Self>> {
        if let CacheStorage::Directory { work_dir, encryption, .. } = &options.storage {
            std::fs::create_dir_all(work_dir)
                .map_err(|error| Error::io(format!("cache directory {}", work_dir.display()), error))?;
            if encryption.is_some_and(|e| !e.convergent && e.key[..16] == e.key[16..]) {
                return Err(Error::invalid(
                    "cache encryption key",
                    "its halves are equal, XTS needs two keys",
                ));
            }
        }
        let budget_pieces =
            u32::try_from(options.memory_bytes / BUDGET_PIECE).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        let shared = Arc::new(Shared {
            backend,
            metrics: Metrics::default(),
            memory: MemoryCache::new(options.memory_cache_bytes),
            budget: Arc::new(Semaphore::new(budget_pieces as usize)),
            budget_pieces,
            budget_waiting: Gauge::default(),
            shelves: Mutex::default(),
            options,
            executor,
        });
        if let Some(work_dir) = shared.work_dir() {
            own_files::sweep(work_dir);
            shared.executor.runtime().spawn(flush_now_and_then(Arc::downgrade(&shared)));
        }
        Ok(Arc::new(Self { shared }))
    }

    /// One blob of a mounted image; `digests` are those of that image. Opens or makes the blob's files; no network.
    ///
    /// Mounts that describe the same blob share its files and its fetches; they must describe it equally.
    pub fn blob(
        &self,
        description: Arc<BlobDescription>,
        digests: Arc<dyn DigestSource>,
    ) -> Result<Arc<Blob>> {
        let shared = &self.shared;
        let shape = Shape::of(&description);
        // Held while the files are opened, so that they are opened once; readers never take this lock.
        let mut shelves = lock(&shared.shelves);
        let shelf = match shelves.get(&description.id) {
            Some(shelf) if shelf.shape() == shape => Arc::clone(shelf),
            Some(shelf) if Arc::strong_count(shelf) > 1 => {
                return Err(Error::invalid(
                    format!("blob {}", description.id),
                    format!("{shape:?}, but another mount describes it as {:?}", shelf.shape()),
                ));
            }
            _ => {
                let options = &shared.options;
                let shelf = Arc::new(Shelf::open(&description, &options.storage, options.boot_id)?);
                shelves.insert(description.id.clone(), Arc::clone(&shelf));
                shelf
            }
        };
        Ok(Arc::new(Blob::new(Arc::clone(shared), shelf, description, digests)))
    }

    /// Counters since the cache was opened.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What of the memory budget is used now.
    pub fn memory_use(&self) -> MemoryUse {
        let shared = &self.shared;
        let free = shared.budget.available_permits() as u64;
        MemoryUse {
            limit_bytes: u64::from(shared.budget_pieces) * BUDGET_PIECE,
            used_bytes: u64::from(shared.budget_pieces).saturating_sub(free) * BUDGET_PIECE,
            waiting: shared.budget_waiting.get(),
        }
    }

    /// How much memory holds chunks now.
    pub fn memory_cache_use(&self) -> MemoryCacheUse {
        let memory = &self.shared.memory;
        MemoryCacheUse { limit_bytes: memory.limit_bytes(), used_bytes: memory.used_bytes() }
    }

    /// Makes everything durable that is in the cache now. Gives up at `deadline`; the first failure is returned, the
    /// other blobs are flushed all the same. Polled on the cache's runtime.
    pub async fn flush(&self, deadline: Instant) -> Result<()> {
        let started = Instant::now();
        tokio::time::timeout_at(deadline.into(), self.shared.flush(|_| true))
            .await
            .map_err(|_| Error::timed_out("flush of the cache", started.elapsed()))?
    }

    /// Waits until what is being fetched has been written. Reads that begin meanwhile are served afterwards.
    pub async fn idle(&self, deadline: Instant) -> Result<()> {
        // All of the budget is there when nothing is in flight.
        self.shared.budget(u64::MAX, deadline).await.map(drop)
    }

    /// For an unmount: waits a moment for what is being fetched, then makes everything durable that is in the cache, and
    /// removes what is ours of blobs that nobody else uses.
    /// Bounded by `deadline`, of which a tenth is for the waiting: a fetch from a dead backend must not keep the rest
    /// from becoming durable, and what it would bring is not lost, only fetched again.
    pub async fn shutdown(&self, deadline: Instant) -> Result<()> {
        let now = Instant::now();
        let patience = deadline.saturating_duration_since(now) / 10;
        if let Err(error) = self.idle(now + patience).await {
            tracing::info!(%error, "fetches are given up");
        }
        let flushed = self.flush(deadline).await;
        let tidy = async {
            let shelves = lock(&self.shared.shelves).values().cloned().collect();
            self.shared.seal(shelves).await;
            // Files that were removed while they were in use.
            self.shared.sweep(&mut None).await;
        };
        let _ = tokio::time::timeout_at(deadline.into(), tidy).await;
        flushed
    }
}

impl Shared {
    /// A share of the memory budget, at most all of it. Waits until `deadline`.
    pub(crate) async fn budget(&self, bytes: u64, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        let started = Instant::now();
        let pieces = u32::try_from(bytes.div_ceil(BUDGET_PIECE)).unwrap_or(u32::MAX).min(self.budget_pieces);
        let _waiting = self.budget_waiting.enter();
        let acquired = Arc::clone(&self.budget).acquire_many_owned(pieces);
        match tokio::time::timeout_at(deadline.into(), acquired).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(Error::aborted("memory budget of the cache")),
            Err(_) => Err(Error::timed_out("memory budget of the cache", started.elapsed())),
        }
    }

    fn work_dir(&self) -> Option<&Path> {
        match &self.options.storage {
            CacheStorage::Directory { work_dir, .. } => Some(work_dir),
            CacheStorage::None => None,
        }
    }

    /// Removes what is ours of blobs whose files somebody else has removed, if anything has changed in the directory since
    /// `stamp`.
    async fn sweep(self: &Arc<Self>, stamp: &mut Option<(i64, i64)>) {
        let Some(work_dir) = self.work_dir().map(Path::to_owned) else { return };
        let before = *stamp;
        let swept = self.executor.disk.run(move || {
            let now = own_files::stamp(&work_dir);
            if now != before {
                own_files::sweep(&work_dir);
            }
            now
        });
        *stamp = swept.await.unwrap_or(None);
    }

    /// Leaves what is known of these blobs in their own files, where nobody else uses them.
    async fn seal(&self, shelves: Vec<Arc<Shelf>>) {
        for shelf in shelves {
            let sealed = self.executor.disk.run(move || shelf.seal().map_err(|error| (shelf, error)));
            if let Ok(Err((shelf, error))) = sealed.await {
                tracing::debug!(blob = %shelf.id(), %error, "the trust file stays");
            }
        }
    }

    /// Makes durable what is in those that are `wanted`.
    async fn flush(self: &Arc<Self>, wanted: fn(&Shelf) -> bool) -> Result<()> {
        let shelves: Vec<_> = lock(&self.shelves).values().filter(|shelf| wanted(shelf)).cloned().collect();
        let mut result = Ok(());
        for shelf in shelves {
            let shared = Arc::clone(self);
            let sync = move || {
                let done = shelf.make_durable(shared.options.disk.as_ref(), &shared.metrics);
                drop(shelf);
                done
            };
            result = result.and(self.executor.disk.run(sync).await.and_then(|done| done));
        }
        // What nobody uses is durable now, or cannot be made so, or waits for the next time.
        let unused: Vec<_> = {
            let mut shelves = lock(&self.shelves);
            let is_unused = |shelf: &Arc<Shelf>| Arc::strong_count(shelf) == 1 && !shelf.is_dirty();
            shelves.extract_if(|_, shelf| is_unused(shelf)).map(|(_, shelf)| shelf).collect()
        };
        self.seal(unused).await;
        result
    }
}

async fn flush_now_and_then(shared: Weak<Shared>) {
    let (mut stamp, mut swept) = (None, Instant::now());
    loop {
        tokio::time::sleep(FLUSH_INTERVAL).await;
        let Some(shared) = shared.upgrade() else { break };
        if let Err(error) = shared.flush(Shelf::is_dirty).await {
            tracing::warn!(%error, "cached chunks could not be made durable");
        }
        if swept.elapsed() >= SWEEP_INTERVAL {
            shared.sweep(&mut stamp).await;
            swept = Instant::now();
        }
    }
}
