//! A registry that serves the blobs of a directory: it wants a password, and leads to signed addresses of a store, which
//! is at the same place. Whatever address ends with the id of a blob is that blob, so it is a bucket too.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    redirects: AtomicUsize,
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
        let shared = Arc::new(Shared { blobs: blobs.to_owned(), redirects: AtomicUsize::new(0) });
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
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path();
    let id = path.rsplit(['/', ':']).next().unwrap_or_default();
    if !path.starts_with("/v2/") {
        return serve(&shared.blobs.join(id), request.headers());
    }
    let proof = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if proof != Some(&format!("Basic {AUTH}")) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")])
            .into_response();
    }
    let number = shared.redirects.fetch_add(1, Ordering::Relaxed);
    // Another name of this machine: another place, which is not told who asks.
    let port = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.rsplit(':').next());
    let location = format!("http://localhost:{}/store/{id}?signature={number}", port.unwrap_or("80"));
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}

fn serve(path: &Path, headers: &HeaderMap) -> Response {
    let Ok(content) = std::fs::read(path) else { return StatusCode::NOT_FOUND.into_response() };
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let range = range.and_then(|range| range.split_once('-'));
    let range = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let Some((first, last)) = range else { return content.into_response() };
    let last = usize::min(last, content.len().saturating_sub(1));
    match content.get(first..=last) {
        Some(part) if !part.is_empty() => {
            let range = format!("bytes {first}-{last}/{}", content.len());
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], part.to_vec()).into_response()
        }
        _ => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
    }
}
