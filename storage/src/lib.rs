//! Blobs: their format, their codecs, and the places they are read from.
//!
//! Owns the data-blob format (spec/blob.md), the codecs and digests that turn stored bytes into checked
//! chunks, and [`backend::Backend`], "read this range of that blob". Knows nothing of inodes or files.
//!
//! Invariant: a chunk leaves this crate either decoded to exactly the length its description promises, or
//! as an error that names the blob, the chunk and the offset.

pub mod backend;
pub mod blob;
pub mod cipher;
pub mod codec;
pub mod digest;
mod error;
pub mod http;
pub mod metrics;
pub mod policy;
pub mod secret;
pub mod trace;

#[doc(hidden)]
pub mod fuzzing;

pub use error::{Error, Result};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. What it guards is whole after each statement, so whoever panicked has left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
