//! A registry that serves the blobs of a directory: it wants a password, and leads to signed addresses of a store, which
//! is at the same place. Whatever address ends with the id of a blob is that blob, so it is a bucket too.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::runtime::Runtime;

/// `u:p`, as a configuration has it.
pub const AUTH: &str = "dTpw";

/// The registry. It ends when dropped.
pub struct Registry {
    addr: SocketAddr,
    shared: Arc<Shared>,
    // Its tasks end with it.
    _runtime: Runtime,
}

struct Shared {
    blobs: PathBuf,
    /// Who may read, as a configuration has it.
    auth: Mutex<String>,
    redirects: AtomicUsize,
    /// Signatures before this one are void.
    first_signature: AtomicUsize,
    sent_bytes: AtomicU64,
    /// The header `traceparent` of each request for a blob.
    traceparents: Mutex<Vec<Option<String>>>,
}

impl Registry {
    /// Serves the files of `blobs` at a port of the system's choice.
    pub fn new(blobs: &Path) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), blobs)
    }

    /// Serves them at `addr`.
    pub fn at(addr: SocketAddr, blobs: &Path) -> Self {
        let listener = TcpListener::bind(addr).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            blobs: blobs.to_owned(),
            auth: Mutex::new(AUTH.to_owned()),
            redirects: AtomicUsize::new(0),
            first_signature: AtomicUsize::new(0),
            sent_bytes: AtomicU64::new(0),
            traceparents: Mutex::default(),
        });
        let service = axum::Router::new().fallback(answer).with_state(shared.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, service).await
        });
        Self { addr, shared, _runtime: runtime }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
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
    let path = request.uri().path();
    let id = path.rsplit(['/', ':']).next().unwrap_or_default();
    if !path.starts_with("/v2/") {
        let signature =
            request.uri().query().and_then(|query| query.strip_prefix("signature=")?.parse().ok());
        if signature.is_some_and(|number: usize| number < shared.first_signature.load(Ordering::Relaxed)) {
            return StatusCode::FORBIDDEN.into_response();
        }
        return serve(&shared.blobs.join(id), request.headers(), &shared.sent_bytes);
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
    let location = format!("http://localhost:{}/store/{id}?signature={number}", port.unwrap_or("80"));
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}

fn serve(path: &Path, headers: &HeaderMap, sent_bytes: &AtomicU64) -> Response {
    let Ok(content) = std::fs::read(path) else { return StatusCode::NOT_FOUND.into_response() };
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let range = range.and_then(|range| range.split_once('-'));
    let range = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let Some((first, last)) = range else {
        sent_bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        return content.into_response();
    };
    let last = usize::min(last, content.len().saturating_sub(1));
    match content.get(first..=last) {
        Some(part) if !part.is_empty() => {
            sent_bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
            let range = format!("bytes {first}-{last}/{}", content.len());
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], part.to_vec()).into_response()
        }
        _ => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
    }
}
