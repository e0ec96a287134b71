//! A server in the test's own process, in the clear or over TLS.

use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::Authority;
use super::ports;

/// The server. It ends when dropped, connections included.
#[derive(Debug)]
pub struct Service {
    addr: SocketAddr,
    is_tls: bool,
    // Its tasks end with it.
    _runtime: Runtime,
}

impl Service {
    /// Serves `router` at any port; over TLS if there is an authority.
    pub fn start(router: Router, authority: Option<&Authority>) -> Self {
        Self::on(ports::listen_anywhere(), router, authority)
    }

    /// Serves it at `addr`.
    pub fn at(addr: SocketAddr, router: Router, authority: Option<&Authority>) -> Self {
        Self::on(ports::listen_at(addr), router, authority)
    }

    fn on(listener: TcpListener, router: Router, authority: Option<&Authority>) -> Self {
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let acceptor = authority.map(Authority::acceptor);
        let is_tls = acceptor.is_some();
        runtime.spawn(async move {
            let tcp = tokio::net::TcpListener::from_std(listener).unwrap();
            match acceptor {
                Some(acceptor) => axum::serve(TlsListener { tcp, acceptor }, router).await,
                None => axum::serve(tcp, router).await,
            }
        });
        Self { addr, is_tls, _runtime: runtime }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address, such as `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }
}

/// Connections that have shaken hands.
struct TlsListener {
    tcp: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = axum::serve::Listener::accept(&mut self.tcp).await;
            // One after the other will do for tests; who does not believe us is left alone.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// `content`, or the range of it that the request wants.
pub fn part_of(content: &[u8], headers: &HeaderMap) -> Response {
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let range = range.and_then(|range| range.split_once('-'));
    let range = range.and_then(|(first, last)| {
        let last = if last.is_empty() { usize::MAX } else { last.parse().ok()? };
        Some((first.parse::<usize>().ok()?, last))
    });
    let Some((first, last)) = range else { return content.to_vec().into_response() };
    let last = usize::min(last, content.len().saturating_sub(1));
    match content.get(first..=last) {
        Some(part) if !part.is_empty() => {
            let range = format!("bytes {first}-{last}/{}", content.len());
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], part.to_vec()).into_response()
        }
        _ => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
    }
}
