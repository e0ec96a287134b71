//! A server on the loopback that answers as a test says, and remembers what it was asked.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use storage::backend::laws::Object;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub version: Version,
    pub body: String,
    /// The number of the connection it came over, from 1.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The first and the last byte of `Range`.
    pub fn range(&self) -> (u64, u64) {
        let (first, last) = self.header("range").unwrap()["bytes=".len()..].split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    }
}

/// What is answered.
pub struct Reply {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// After so many bytes, what happens instead of the rest.
    cut: Option<(usize, Cut)>,
    delay: Duration,
}

#[derive(Clone, Copy)]
pub enum Cut {
    /// The connection breaks.
    Reset,
    /// Nothing comes any more.
    Stall,
    /// The body ends as if that were all of it.
    End,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self { status, headers: Vec::new(), body: body.into(), cut: None, delay: Duration::ZERO }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn cut(mut self, after: usize, cut: Cut) -> Self {
        self.cut = Some((after, cut));
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Never.
    pub fn silence() -> Self {
        Self::new(200, "").after(Duration::from_secs(3600))
    }

    /// What `seen` asks of `content`, by the rules.
    pub fn range(content: &[u8], seen: &Seen) -> Self {
        let (first, last) = seen.range();
        let size = content.len() as u64;
        if first >= size {
            return Self::new(416, "").with("content-range", format!("bytes */{size}"));
        }
        let last = last.min(size - 1);
        Self::new(206, content[first as usize..=last as usize].to_vec())
            .with("content-range", format!("bytes {first}-{last}/{size}"))
    }

    /// The object whose id the path ends with.
    pub fn object(objects: &[Object], seen: &Seen) -> Self {
        match objects.iter().find(|object| seen.path().ends_with(object.id.as_str())) {
            Some(object) => Self::range(&object.content, seen),
            None => Self::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
        }
    }

    fn response(self) -> Response<StreamBody<BoxStream<'static, std::io::Result<Frame<Bytes>>>>> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let frame = |data: Bytes| Ok(Frame::data(data));
        let frames: BoxStream<'static, _> = match self.cut {
            None => {
                response = response.header("content-length", self.body.len());
                stream::iter([frame(self.body)]).boxed()
            }
            Some((after, cut)) => {
                if !matches!(cut, Cut::End) {
                    response = response.header("content-length", self.body.len());
                }
                // Sent before the connection breaks, whatever buffers lie between.
                let start = stream::iter([frame(self.body.slice(..after))]);
                let rest = stream::once(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    match cut {
                        Cut::Reset => Some(Err(std::io::Error::other("cut"))),
                        Cut::Stall => std::future::pending().await,
                        Cut::End => None,
                    }
                });
                start.chain(rest.filter_map(std::future::ready)).boxed()
            }
        };
        response.body(StreamBody::new(frames)).unwrap()
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// The server. It ends when dropped, and its connections with it.
pub struct Double {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Double {
    /// On any port.
    pub async fn new(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = bind_anywhere().await;
        Self::serve(listener, None, Arc::new(handler))
    }

    /// On the port where a client is waiting for it.
    pub async fn at(addr: SocketAddr, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(bind(addr).await, None, Arc::new(handler))
    }

    pub async fn tls_at(
        addr: SocketAddr,
        tls: TlsAcceptor,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(bind(addr).await, Some(tls), Arc::new(handler))
    }

    pub async fn tls(tls: TlsAcceptor, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = bind_anywhere().await;
        Self::serve(listener, Some(tls), Arc::new(handler))
    }

    pub fn unix(path: &std::path::Path, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (handler, log): (Handler, _) = (Arc::new(handler), seen.clone());
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(converse(stream, 0, handler.clone(), log.clone()));
            }
        });
        Self { addr: ([0, 0, 0, 0], 0).into(), seen, connections: Arc::default(), task }
    }

    fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Handler) -> Self {
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (log, count) = (seen.clone(), connections.clone());
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                let (handler, log) = (handler.clone(), log.clone());
                match tls.clone() {
                    None => open.spawn(converse(stream, number, handler, log)),
                    Some(tls) => open.spawn(async move {
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, number, handler, log).await;
                        }
                    }),
                };
            }
        });
        Self { addr, seen, connections, task }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests came for a path that contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path().contains(part)).count()
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Below the ports that the system gives to connections, so that none of those takes one whose server is away; and hardly
/// ever one that another test's server has left.
async fn bind_anywhere() -> TcpListener {
    loop {
        let port = 12_000 + (RandomState::new().build_hasher().finish() % 20_000) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
    }
}

/// Who was there before may not be gone altogether.
async fn bind(addr: SocketAddr) -> TcpListener {
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(addr).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    TcpListener::bind(addr).await.unwrap()
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: usize,
    handler: Handler,
    log: Arc<Mutex<Vec<Seen>>>,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (handler, log) = (handler.clone(), log.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let seen = Seen {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                version: parts.version,
                body: String::from_utf8(body.to_vec()).unwrap(),
                connection,
            };
            log.lock().unwrap().push(seen.clone());
            let reply = handler(&seen);
            tokio::time::sleep(reply.delay).await;
            Ok::<_, std::convert::Infallible>(reply.response())
        }
    });
    // A client that goes away is no failure of the test.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}
