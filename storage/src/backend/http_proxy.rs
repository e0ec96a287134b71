//! Blobs from a plain HTTP server that has them by their ids, over TCP or a unix socket.
//!
//! The one that image converters open on a socket answers 200 with the bytes of the range and nothing else, chunked
//! (spec/orchestrators.md §9); over a socket such an answer is told from one that is the whole object by its length.

use std::path::PathBuf;

use reqwest::Url;

use super::remote::Remote;
use super::{BoxFuture, Request};
use crate::blob::BlobId;
use crate::http::client::{Answer, Call, Way};
use crate::http::failure::Failure;
use crate::http::fetch::{Fetcher, Server};
use crate::http::part::Part;
use crate::http::route::Route;
use crate::http::{Commons, HttpOptions};
use crate::secret::SecretUrl;
use crate::{Error, Result};

/// A plain HTTP server.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProxyConfig {
    /// The address of the server, or the absolute path of its unix socket.
    pub addr: SecretUrl,
    /// What stands before the blob's id in the address; not used for a socket.
    pub path: String,
    /// How requests are sent.
    pub http: HttpOptions,
}

/// Blobs from a plain HTTP server.
#[derive(Debug)]
pub struct HttpProxy {
    fetcher: Fetcher<Files>,
}

impl HttpProxy {
    /// Takes the configuration and reads the certificates it names; sends nothing yet. [`Error::Invalid`] if it cannot be
    /// used.
    pub fn new(config: HttpProxyConfig, commons: &Commons) -> Result<Self> {
        let addr = config.addr.expose();
        let (base, way) = if addr.starts_with('/') {
            (Url::parse("http://localhost/"), Way::Unix(PathBuf::from(addr)))
        } else {
            let path = config.path.trim_matches('/');
            let slash = if path.is_empty() { "" } else { "/" };
            (Url::parse(&format!("{}{slash}{path}/", addr.trim_end_matches('/'))), Way::Direct)
        };
        let base = base.map_err(|_| Error::invalid("http-proxy", "addr and path make no address"))?;
        let is_socket = matches!(way, Way::Unix(_));
        let files = Files { place: format!("http-proxy {}", config.addr), base, is_socket };
        Ok(Self { fetcher: Fetcher::new(files, &config.http, way, commons)? })
    }
}

impl Remote for HttpProxy {
    type Server = Files;

    fn fetcher(&self) -> &Fetcher<Files> {
        &self.fetcher
    }
}

/// A directory of a server.
pub(crate) struct Files {
    place: String,
    base: Url,
    is_socket: bool,
}

/// The address may hold a password.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Server for Files {
    fn ask<'a>(
        &'a self,
        route: &'a Route,
        blob: &'a BlobId,
        range: &'a Part,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            let mut address = self.base.clone();
            if let Ok(mut segments) = address.path_segments_mut() {
                segments.pop_if_empty().push(blob.as_str());
            }
            let call = Call::range(route.spoken(route.address(&address)), range, request.deadline);
            let answer = route.send(call, request.priority).await?;
            match answer.status().as_u16() {
                200 | 206 | 416 => Ok(answer),
                _ => Err(route.failure(answer, &self.name(blob), &self.place).await),
            }
        })
    }

    fn may_send_bare_ranges(&self) -> bool {
        self.is_socket
    }

    fn name(&self, blob: &BlobId) -> String {
        format!("{}: blob {blob}", self.place)
    }

    fn place(&self) -> &str {
        &self.place
    }
}
