//! What all backends that speak HTTP have in common: they are a [`Fetcher`] with a constructor.

use bytes::Bytes;

use super::{Backend, BoxFuture, Request};
use crate::Result;
use crate::blob::BlobId;
use crate::http::EndpointStatus;
use crate::http::fetch::{Fetcher, Server};
use crate::secret::Secret;

/// A backend whose blobs are fetched by HTTP.
pub(crate) trait Remote: Send + Sync + std::fmt::Debug {
    /// What kind of server has them.
    type Server: Server;

    /// Fetches them.
    fn fetcher(&self) -> &Fetcher<Self::Server>;
}

impl<R: Remote> Backend for R {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.fetcher().read(blob, offset, len, request))
    }

    fn size<'a>(&'a self, blob: &'a BlobId, request: Request) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.fetcher().size(blob, request))
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        self.fetcher().endpoints()
    }

    fn exchange_auth(&self, auth: Secret) -> Result<()> {
        self.fetcher().server().exchange_auth(auth)
    }
}
