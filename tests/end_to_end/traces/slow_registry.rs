//! A registry that lets its readers wait in every way there is: TLS that is slow to shake hands, a token service, answers
//! of 503 before the first good one, and signed addresses elsewhere whose bytes come in two parts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use nydus_tests::servers::authority::Authority;
use nydus_tests::servers::service::part_of;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Before a connection shakes hands.
const HANDSHAKE: Duration = Duration::from_millis(150);
/// Before an answer.
const ANSWER: Duration = Duration::from_millis(250);
/// How often each blob is not to be had at first.
const FAILURES: usize = 2;

/// The registry. It ends when dropped.
pub struct SlowRegistry {
    addr: SocketAddr,
    authority: Authority,
    shared: Arc<Shared>,
    // Its tasks end with it.
    _runtime: Runtime,
}

struct Shared {
    blobs: PathBuf,
    host: String,
    asked: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Without the query.
    pub path: String,
    /// The header.
    pub traceparent: Option<String>,
}

impl SlowRegistry {
    /// Serves the files of `blobs`.
    pub fn new(blobs: &Path) -> Self {
        let authority = Authority::new();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tcp = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = tcp.local_addr().unwrap();
        let shared = Arc::new(Shared {
            blobs: blobs.to_owned(),
            host: addr.to_string(),
            asked: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let router = axum::Router::new().fallback(answer).with_state(shared.clone());
        let listener = SlowTls { tcp, acceptor: authority.acceptor() };
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { addr, authority, shared, _runtime: runtime }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// The certificate that vouches for it.
    pub fn ca_file(&self) -> PathBuf {
        self.authority.file()
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Connections that have shaken hands, after a while, one after the other.
struct SlowTls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for SlowTls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = axum::serve::Listener::accept(&mut self.tcp).await;
            tokio::time::sleep(HANDSHAKE).await;
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let path = request.uri.path().to_owned();
    let seen = Seen { path: path.clone(), traceparent: header("traceparent").map(str::to_owned) };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    tokio::time::sleep(ANSWER).await;
    let id = path.rsplit(['/', ':']).next().unwrap_or_default();
    if path == "/token" {
        return axum::Json(serde_json::json!({ "token": "hunter2-bearer" })).into_response();
    }
    if path.starts_with("/store/") {
        return slowly(&shared.blobs.join(id), &request.headers).await;
    }
    if shared.asked.fetch_add(1, Ordering::Relaxed) < FAILURES {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if header("authorization") != Some("Bearer hunter2-bearer") {
        let challenge = format!("Bearer realm=\"https://{}/token\",service=\"s\"", shared.host);
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    // Another name of this machine: another place.
    let location =
        format!("https://{}/store/{id}?hunter2-signature", shared.host.replace("127.0.0.1", "localhost"));
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}

/// The first half at once, the second a moment later.
async fn slowly(path: &Path, headers: &HeaderMap) -> Response {
    let Ok(content) = std::fs::read(path) else { return StatusCode::NOT_FOUND.into_response() };
    let (mut head, body) = part_of(&content, headers).into_parts();
    let mut first = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    head.headers.insert(header::CONTENT_LENGTH, first.len().into());
    let second = first.split_off(first.len() / 2);
    let late = stream::once(async move {
        tokio::time::sleep(ANSWER).await;
        Ok::<_, std::io::Error>(second)
    });
    Response::from_parts(head, Body::from_stream(stream::once(async { Ok(first) }).chain(late)))
}
