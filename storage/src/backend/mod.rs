//! Where blobs are read from: [`Backend`], one file for each kind of place.
//!
//! A backend knows nothing of chunks: it hands out byte ranges of named objects, each inside the deadline it is
//! given. The laws every backend keeps are one test-suite, `laws` (feature `testing`).

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;

use crate::blob::BlobId;
use crate::http::EndpointStatus;
use crate::policy::attempts::Attempts;
use crate::secret::Secret;
use crate::{Error, Result};

mod arrivals;
mod blocking;
mod bucket;
pub mod http_proxy;
#[cfg(any(test, feature = "testing"))]
pub mod laws;
pub mod localdisk;
pub mod localfs;
pub mod measured;
pub mod oss;
pub mod registry;
mod remote;
pub mod s3;
mod span;
pub mod traced;

pub use arrivals::Arrivals;

/// The most bytes of one read: 1 GiB. Asking for more is [`crate::Error::Invalid`], not an allocation.
pub const MAX_READ: u64 = 1 << 30;

/// A boxed future, as object-safe async traits need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who waits for a request; the more urgent goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody waits yet.
    Prefetch,
    /// A reader waits.
    OnDemand,
}

impl Priority {
    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefetch => "prefetch",
            Self::OnDemand => "on_demand",
        }
    }
}

/// What a backend needs to know of a request beside its range.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who waits.
    pub priority: Priority,
    /// When the answer becomes useless: the request then ends in [`crate::Error::TimedOut`].
    pub deadline: Instant,
    /// Shared by all requests of one read.
    pub attempts: Attempts,
    /// Told what comes before all has come.
    pub arrivals: Option<Arrivals>,
}

impl Request {
    /// The first request of a read.
    pub fn new(priority: Priority, deadline: Instant) -> Self {
        Self { priority, deadline, attempts: Attempts::new(), arrivals: None }
    }
}

/// Reads byte ranges of blobs.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// `len` bytes of `blob` from `offset`: exactly `len`, or an error. A range beyond the end of the object is
    /// [`crate::Error::Corrupt`], since the caller's description promised more than there is; `len` 0 is empty.
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, Result<Bytes>>;

    /// Bytes of the object.
    fn size<'a>(&'a self, blob: &'a BlobId, request: Request) -> BoxFuture<'a, Result<u64>>;

    /// The HTTP endpoints that it asks and how each is, in the order they are preferred. Empty if it asks none.
    fn endpoints(&self) -> Vec<EndpointStatus> {
        Vec::new()
    }

    /// From now on `auth`, base64 of `user:password`, is who we are. [`crate::Error::Invalid`] if it is not that, or if
    /// this kind of place does not take one while it is read.
    fn exchange_auth(&self, _auth: Secret) -> Result<()> {
        Err(Error::invalid("registry_auth", "only a registry takes it, the blobs are elsewhere"))
    }
}
