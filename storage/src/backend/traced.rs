//! A backend whose reads are told in traces: `fetch` is one of them, from its first request to its last.

use std::sync::Arc;

use bytes::Bytes;
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::{Backend, BoxFuture, Priority, Request};
use crate::Result;
use crate::blob::BlobId;
use crate::http::EndpointStatus;
use crate::secret::Secret;
use crate::trace::{self, Step, TARGET};

/// A backend, told of in traces.
#[derive(Debug)]
pub struct Traced {
    inner: Arc<dyn Backend>,
    /// What kind of place it is, as configurations call it.
    kind: &'static str,
}

impl Traced {
    /// Tells of `inner`, a backend of this `kind`.
    pub fn new(inner: Arc<dyn Backend>, kind: &'static str) -> Self {
        Self { inner, kind }
    }

    fn span(&self, blob: &BlobId, priority: Priority) -> Span {
        info_span!(
            target: TARGET, "fetch", nydus.blob = %blob, nydus.backend = self.kind, nydus.priority = priority.name(),
            nydus.offset = Empty, nydus.len = Empty, nydus.source = Empty, nydus.retries = Empty,
            error.type = Empty, otel.status_description = Empty,
        )
    }

    async fn tell<T>(mut step: Step, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = step.cover(work).await;
        if let Err(error) = &result {
            step.failed(error.name(), error);
        }
        result
    }
}

impl Backend for Traced {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let step = Step::within(|| {
                let span = self.span(blob, request.priority);
                span.record("nydus.offset", trace::number(offset));
                span.record("nydus.len", trace::number(len));
                span
            });
            Self::tell(step, self.inner.read(blob, offset, len, request)).await
        })
    }

    fn size<'a>(&'a self, blob: &'a BlobId, request: Request) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let step = Step::within(|| self.span(blob, request.priority));
            Self::tell(step, self.inner.size(blob, request)).await
        })
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        self.inner.endpoints()
    }

    fn exchange_auth(&self, auth: Secret) -> Result<()> {
        self.inner.exchange_auth(auth)
    }
}
