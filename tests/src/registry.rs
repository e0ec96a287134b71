//! A registry that serves the blobs of a directory: it wants a password, and leads to signed addresses of a store, which
//! is at the same place. Whatever address ends with the id of a blob is that blob, so it is a bucket too.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::servers::authority::Authority;
use crate::servers::service::{Service, part_of};

/// `u:p`, as a configuration has it.
pub const AUTH: &str = "dTpw";

/// The registry. It ends when dropped.
pub struct Registry {
    service: Service,
    shared: Arc<Shared>,
}

struct Shared {
    scheme: &'static str,
    blobs: PathBuf,
    redirects: AtomicUsize,
    /// The header `traceparent` of each request for a blob.
    traceparents: Mutex<Vec<Option<String>>>,
    /// Requests that a Dragonfly peer would have served.
    of_dragonfly: AtomicUsize,
}

impl Registry {
    /// Serves the files of `blobs` at a port of the system's choice.
    pub fn new(blobs: &Path) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), blobs)
    }

    /// Serves them at `addr`.
    pub fn at(addr: SocketAddr, blobs: &Path) -> Self {
        Self::start(addr, blobs, None)
    }

    /// Serves them over TLS, as whom `authority` knows.
    pub fn over_tls(blobs: &Path, authority: &Authority) -> Self {
        Self::start(([127, 0, 0, 1], 0).into(), blobs, Some(authority))
    }

    fn start(addr: SocketAddr, blobs: &Path, authority: Option<&Authority>) -> Self {
        let shared = Arc::new(Shared {
            scheme: if authority.is_some() { "https" } else { "http" },
            blobs: blobs.to_owned(),
            redirects: AtomicUsize::new(0),
            traceparents: Mutex::default(),
            of_dragonfly: AtomicUsize::new(0),
        });
        let router = axum::Router::new().fallback(answer).with_state(shared.clone());
        Self { service: Service::at(addr, router, authority), shared }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr().to_string()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.service.addr()
    }

    /// How many requests were told to a Dragonfly peer.
    pub fn of_dragonfly(&self) -> usize {
        self.shared.of_dragonfly.load(Ordering::Relaxed)
    }

    /// How often it led to the store.
    pub fn redirects(&self) -> usize {
        self.shared.redirects.load(Ordering::Relaxed)
    }

    /// The headers `traceparent` of all requests for blobs so far.
    pub fn traceparents(&self) -> Vec<Option<String>> {
        self.shared.traceparents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let parent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let parent = parent.map(str::to_owned);
    shared.traceparents.lock().unwrap_or_else(PoisonError::into_inner).push(parent);
    if request.headers().contains_key("x-dragonfly-priority") {
        shared.of_dragonfly.fetch_add(1, Ordering::Relaxed);
    }
    let path = request.uri().path();
    if path == "/healthy" {
        return StatusCode::OK.into_response();
    }
    let id = path.rsplit(['/', ':']).next().unwrap_or_default();
    if !path.starts_with("/v2/") {
        return match std::fs::read(shared.blobs.join(id)) {
            Ok(content) => part_of(&content, request.headers()),
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        };
    }
    let proof = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if proof != Some(&format!("Basic {AUTH}")) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")])
            .into_response();
    }
    let number = shared.redirects.fetch_add(1, Ordering::Relaxed);
    // Another name of this machine: another place, which is not told who asks.
    let port = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.rsplit(':').next());
    let (scheme, port) = (shared.scheme, port.unwrap_or("80"));
    let location = format!("{scheme}://localhost:{port}/store/{id}?signature={number}");
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}
