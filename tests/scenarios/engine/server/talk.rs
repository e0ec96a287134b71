//! HTTP/1.1 byte by byte: heads are read, plans are sent, and broken off where they say so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::answer::answer;
use super::plan::Plan;
use super::town::Server;
use crate::record::RequestSeen;
use crate::schema::{How, Instead, Kind, Reach};

/// The longest head, and the longest body of a request.
const MAX_HEAD: usize = 64 << 10;
/// What was sent last is given this time to arrive before a connection is reset, which would overtake it.
const SETTLE: Duration = Duration::from_millis(60);
/// The largest piece that is written at once.
const PIECE: usize = 64 << 10;

/// A connection.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Ends it by RST.
    fn reset(self) {
        let tcp = match &self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        let _ = tcp.set_zero_linger();
    }

    /// Says nothing until the other side has gone.
    async fn hold(mut self) {
        let mut buffer = [0; 1024];
        while self.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    }
}

/// A request as it came.
pub struct Request {
    pub method: String,
    /// Without scheme and host, which are there when we are a proxy.
    pub path: String,
    pub query: String,
    /// In small letters.
    pub head: String,
    /// As they came, by name in small letters.
    headers: Vec<(String, String)>,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.lines();
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let target = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Some(Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            head: head.to_ascii_lowercase(),
            headers: headers.collect(),
        })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The value of a key in the query.
    pub fn parameter(&self, key: &str) -> Option<&str> {
        self.query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key))
            .map(|(_, value)| value)
    }

    /// The first and the last byte of `Range`.
    pub fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX)))
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        if self.path.starts_with("/token") {
            Kind::Tokens
        } else if self.path == "/v2/" || self.path.starts_with("/ping") {
            Kind::Ping
        } else {
            Kind::Blobs
        }
    }
}

/// Serves one connection to its end.
pub async fn converse(server: Arc<Server>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut stream = match server.acceptor() {
        _ if server.reach() == Reach::Silent => return Stream::Plain(stream).hold().await,
        None => Stream::Plain(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Stream::Tls(Box::new(stream)),
            Err(_) => return,
        },
    };
    let mut buffered = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffered).await {
        let plan = if server.reach() == Reach::Silent { Plan::silence() } else { answer(&server, &request) };
        let status = if plan.instead.is_some() { 0 } else { plan.status };
        server.ledger.lock().requests.push(RequestSeen {
            server: server.name.clone(),
            at: Instant::now(),
            kind: request.kind(),
            head: request.head.clone(),
            status,
        });
        match perform(&server, stream, plan, request.method == "HEAD").await {
            Some(again) => stream = again,
            None => return,
        }
    }
}

/// The next request, its body read and forgotten; `None` at the end.
async fn read_request(stream: &mut Stream, buffered: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = buffered.windows(4).position(|window| window == b"\r\n\r\n") {
            let request = Request::parse(&String::from_utf8_lossy(&buffered[..end]))?;
            let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if length > MAX_HEAD {
                return None;
            }
            if buffered.len() >= end + 4 + length {
                buffered.drain(..end + 4 + length);
                return Some(request);
            }
        }
        if buffered.len() > 2 * MAX_HEAD {
            return None;
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => buffered.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
}

/// Sends what was planned. `None`: the connection is over.
async fn perform(server: &Server, mut stream: Stream, plan: Plan, is_head: bool) -> Option<Stream> {
    tokio::time::sleep(plan.delay).await;
    match plan.instead {
        None => {}
        Some(Instead::Reset) => {
            stream.reset();
            return None;
        }
        Some(Instead::Close) => return None,
        Some(Instead::Silence) => {
            stream.hold().await;
            return None;
        }
        Some(Instead::Garbage) => {
            let _ = stream.write(b"\x16\x03\x01 this is no answer\r\n\r\n").await;
            return None;
        }
    }
    let length = i64::try_from(plan.body.len()).unwrap_or(i64::MAX).saturating_add(plan.length_off).max(0);
    let mut head = format!("HTTP/1.1 {} Scenario\r\ncontent-length: {length}\r\n", plan.status);
    head += &format!("date: {}\r\n", httpdate::fmt_http_date(server.now()));
    for (name, value) in &plan.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write(head.as_bytes()).await.ok()?;
    let sent = match plan.cut {
        Some(cut) => (plan.body.len() as f64 * cut.after) as usize,
        None if is_head => 0,
        None => plan.body.len(),
    };
    let piece = plan.pace.map_or(PIECE, |pace| (pace / 20).clamp(1, PIECE as u64) as usize);
    for part in plan.body[..sent.min(plan.body.len())].chunks(piece) {
        stream.write(part).await.ok()?;
        if let Some(pace) = plan.pace {
            tokio::time::sleep(Duration::from_secs_f64(part.len() as f64 / pace as f64)).await;
        }
    }
    match plan.cut.map(|cut| cut.how) {
        // A body that is shorter than its length ends with its connection.
        None if plan.length_off > 0 => None,
        None => Some(stream),
        Some(How::Close) => {
            tokio::time::sleep(SETTLE).await;
            None
        }
        Some(How::Reset) => {
            tokio::time::sleep(SETTLE).await;
            stream.reset();
            None
        }
        Some(How::Stall) => {
            stream.hold().await;
            None
        }
    }
}
