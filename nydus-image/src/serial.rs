//! A backend that is asked for one thing at a time.
//!
//! Invariant: requests go out in the order in which they come, each when the one before has been answered. A request has
//! as much time from then on as it had when it came, so that a queue costs nobody a deadline.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use storage::Result;
use storage::backend::{Backend, BoxFuture, Request};
use storage::blob::BlobId;
use tokio::sync::{Mutex, MutexGuard};

/// Asks another backend.
#[derive(Debug)]
pub struct Serial {
    inner: Arc<dyn Backend>,
    turn: Mutex<()>,
}

impl Serial {
    /// Asks `inner`.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, turn: Mutex::new(()) }
    }

    /// Waits for the turn of a request; moves its deadline by as long as that took.
    async fn turn(&self, request: &mut Request) -> MutexGuard<'_, ()> {
        let came = Instant::now();
        let turn = self.turn.lock().await;
        request.deadline += came.elapsed();
        turn
    }
}

impl Backend for Serial {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        mut request: Request,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let _turn = self.turn(&mut request).await;
            self.inner.read(blob, offset, len, request).await
        })
    }

    fn size<'a>(&'a self, blob: &'a BlobId, mut request: Request) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let _turn = self.turn(&mut request).await;
            self.inner.size(blob, request).await
        })
    }
}
