//! A registry that serves the blobs of a directory: it wants a password, and leads to signed addresses of a store, which
//! is at the same place. Whatever address ends with the id of a blob is that blob, so it is a bucket too.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::HttpBody as _;
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
    /// Who may read, as a configuration has it.
    auth: Mutex<String>,
    redirects: AtomicUsize,
    /// Signatures before this one are void.
    first_signature: AtomicUsize,
    sent_bytes: AtomicU64,
    /// The header `traceparent` of each request for a blob.
    traceparents: Mutex<Vec<Option<String>>>,
    /// Requests that a Dragonfly peer would have served.
    of_dragonfly: AtomicUsize,
}

impl Registry {
    /// Serves the files of `blobs` at any port.
    pub fn new(blobs: &Path) -> Self {
        Self::start(None, blobs, None)
    }

    /// Serves them at `addr`.
    pub fn at(addr: SocketAddr, blobs: &Path) -> Self {
        Self::start(Some(addr), blobs, None)
    }

    /// Serves them over TLS, as whom `authority` knows.
    pub fn over_tls(blobs: &Path, authority: &Authority) -> Self {
        Self::start(None, blobs, Some(authority))
    }

    fn start(addr: Option<SocketAddr>, blobs: &Path, authority: Option<&Authority>) -> Self {
        let shared = Arc::new(Shared {
            scheme: if authority.is_some() { "https" } else { "http" },
            blobs: blobs.to_owned(),
            auth: Mutex::new(AUTH.to_owned()),
            redirects: AtomicUsize::new(0),
            first_signature: AtomicUsize::new(0),
            sent_bytes: AtomicU64::new(0),
            traceparents: Mutex::default(),
            of_dragonfly: AtomicUsize::new(0),
        });
        let router = axum::Router::new().fallback(answer).with_state(shared.clone());
        let service = match addr {
            Some(addr) => Service::at(addr, router, authority),
            None => Service::start(router, authority),
        };
        Self { service, shared }
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

    /// Who may read from now on: base64 of `user:password`. Addresses that were signed before are void.
    pub fn change_auth(&self, auth: &str) {
        *self.shared.auth.lock().unwrap_or_else(PoisonError::into_inner) = auth.to_owned();
        self.shared.first_signature.store(self.redirects(), Ordering::Relaxed);
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.traceparents().len()
    }

    /// Bytes of blobs that were sent.
    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::Relaxed)
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
        let signature =
            request.uri().query().and_then(|query| query.strip_prefix("signature=")?.parse().ok());
        if signature.is_some_and(|number: usize| number < shared.first_signature.load(Ordering::Relaxed)) {
            return StatusCode::FORBIDDEN.into_response();
        }
        let answer = match std::fs::read(shared.blobs.join(id)) {
            Ok(content) => part_of(&content, request.headers()),
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        };
        let bytes = answer.body().size_hint().exact().unwrap_or(0);
        shared.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        return answer;
    }
    let proof = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let wanted = format!("Basic {}", shared.auth.lock().unwrap_or_else(PoisonError::into_inner));
    if proof != Some(&wanted) {
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
