//! A server of ranges: whatever address ends with the id of a blob is that blob, so it is a registry that trusts everybody.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Serves the files of a directory until it is dropped.
pub struct BlobServer {
    addr: SocketAddr,
    // Its tasks end with it.
    _runtime: Runtime,
}

impl BlobServer {
    /// Serves `blobs` at a port of the system's choice, on loopback.
    pub fn new(blobs: &Path) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let addr = listener.local_addr()?;
        let service = axum::Router::new().fallback(answer).with_state(blobs.to_owned());
        runtime.spawn(async move { axum::serve(listener, service).await });
        Ok(Self { addr, _runtime: runtime })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn answer(State(blobs): State<PathBuf>, request: Request) -> Response {
    let id = request.uri().path().rsplit(['/', ':']).next().unwrap_or_default();
    let (file, headers) = (blobs.join(id), request.headers().clone());
    let read = tokio::task::spawn_blocking(move || read(&file, &headers)).await;
    match read {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => StatusCode::NOT_FOUND.into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn read(file: &Path, headers: &HeaderMap) -> io::Result<Response> {
    let file = File::open(file)?;
    let size = file.metadata()?.len();
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let range = range.and_then(|range| range.split_once('-'));
    let range = range.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    let Some((first, last)) = range.map(|(first, last)| (first, last.min(size.saturating_sub(1)))) else {
        return Ok(StatusCode::NOT_IMPLEMENTED.into_response());
    };
    if first > last {
        return Ok(StatusCode::RANGE_NOT_SATISFIABLE.into_response());
    }
    let mut bytes = vec![0; (last - first + 1) as usize];
    file.read_exact_at(&mut bytes, first)?;
    let range = format!("bytes {first}-{last}/{size}");
    Ok((StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], bytes).into_response())
}
