//! The local copy of blobs: which chunks are here; get the others, once, verified.
//!
//! A [`BlobCache`] is a directory of blobs (spec/cache.md), shared by mounts of this process and by other processes,
//! ours or the reference implementation's. A [`Blob`] is one blob of one mounted image. [`Blob::ready`] answers a hit
//! with one atomic load; [`Blob::read`] gets what is missing. Chunks of a blob that no file keeps are held in memory
//! (`memory`), and [`Blob::read_held`] answers a hit from there.
//!
//! Invariants, and who keeps them:
//! - *No wrong byte.* A chunk is decoded and, where a digest exists, checked before anybody sees it
//!   (`fetch`); what lies on disk is believed only if `trust` says why, else checked at first use (`blob`).
//! - *No hang.* A read ends by its deadline; the work it waits for ends by its own (`flight`).
//!   No lock is held across I/O, but among the writers of one data file, before its first write (`shelf`).
//! - *Once.* One fetch for a chunk, among threads by `flight`, among processes by claims in `trust`.
//! - *Bounded.* Bytes in flight are taken from one budget, given back when they are written (`cache`); chunks held in memory
//!   have a limit of their own (`memory`).
#![deny(unsafe_code)]

mod bits;
mod blob;
mod cache;
mod deal;
mod digests;
mod disk;
mod error;
mod executor;
mod fetch;
mod flight;
mod local;
mod memory;
mod metrics;
mod options;
mod own_files;
mod plan;
mod readiness;
mod seal;
mod shelf;
#[allow(unsafe_code)]
mod sys;
mod table;
mod trust;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use blob::{Blob, Want};
pub use cache::{BlobCache, MemoryCacheUse, MemoryUse};
pub use disk::{Disk, RealDisk};
pub use error::{Error, ErrorKind, Result};
pub use executor::Executor;
pub use metrics::Metrics;
pub use options::{BootId, CacheOptions, CacheStorage, Encryption};
pub use storage::metrics::Counter;

/// Locks even if a thread panicked with the lock held: every critical section of this crate leaves its data whole
/// at each step, and one failed request must not fail the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
