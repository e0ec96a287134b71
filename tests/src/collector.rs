//! A collector of traces: takes OTLP over HTTP on a loopback port, and keeps what came.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;
use prost::Message as _;

use crate::span_names;

/// The largest body that is taken.
const MAX_BODY: usize = 16 << 20;

/// A span that came.
#[derive(Clone, Debug)]
pub struct Span {
    /// What it was called.
    pub name: String,
    /// Its trace.
    pub trace: Vec<u8>,
    /// Its own id.
    pub id: Vec<u8>,
    /// The id of the span it is part of; empty if none.
    pub parent: Vec<u8>,
    /// From and to, in nanoseconds since 1970.
    pub time: (u64, u64),
    /// Ids of spans that it refers to.
    pub links: Vec<Vec<u8>>,
    /// What is said of it, as text.
    pub attributes: BTreeMap<String, String>,
    /// What kind of value each of them is.
    pub types: BTreeMap<String, Type>,
    /// True if it says that it failed.
    pub failed: bool,
    /// True if it is a request to somebody else.
    pub is_client: bool,
}

/// The type of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A text.
    Text,
    /// An integer.
    Number,
    /// True or false.
    Truth,
    /// Something else.
    Other,
}

/// A running collector. It ends with the process.
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    headers: Vec<String>,
}

impl Collector {
    /// Starts one.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Arc::<Mutex<Received>>::default());
        let kept = received.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, stream) = (kept.clone(), stream.unwrap());
                std::thread::spawn(move || serve(&stream, &kept));
            }
        });
        Self { address, received }
    }

    /// Its address, as `endpoint` of a configuration wants it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans that came so far. Panics if docs/observability.md does not list one of them.
    pub fn spans(&self) -> Vec<Span> {
        let spans = self.received.lock().unwrap_or_else(PoisonError::into_inner).spans.clone();
        let by_id: HashMap<&[u8], &Span> = spans.iter().map(|span| (&span.id[..], span)).collect();
        for span in &spans {
            span_names::check(span, by_id.get(&span.parent[..]).copied());
        }
        spans
    }

    /// The value of an attribute of the sender.
    pub fn resource(&self, key: &str) -> Option<String> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).resource.get(key).cloned()
    }

    /// True if some request had this header line, in small letters.
    pub fn saw_header(&self, line: &str) -> bool {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).headers.iter().any(|seen| seen == line)
    }
}

/// Serves requests until the sender closes.
fn serve(stream: &TcpStream, received: &Mutex<Received>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => headers.push(line.to_ascii_lowercase()),
            }
        }
        let len = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let len = len.filter(|len| *len <= MAX_BODY).expect("a length of the body");
        let mut body = vec![0; len];
        reader.read_exact(&mut body).unwrap();
        let is_traces = headers.first().is_some_and(|line| line.starts_with("post /v1/traces "));
        assert!(is_traces, "{:?}", headers.first());
        let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
        received.headers.extend(headers);
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            received.resource.extend(
                attributes.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|any| any.value)))),
            );
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            received.spans.extend(spans.map(Span::from));
        }
        drop(received);
        let mut stream = stream;
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

impl From<WireSpan> for Span {
    fn from(span: WireSpan) -> Self {
        let value = |pair: KeyValue| (pair.key, pair.value.and_then(|any| any.value));
        let attributes: Vec<_> = span.attributes.into_iter().map(value).collect();
        Self {
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
            links: span.links.into_iter().map(|link| link.span_id).collect(),
            types: attributes.iter().map(|(key, value)| (key.clone(), kind(value))).collect(),
            attributes: attributes.into_iter().map(|(key, value)| (key, text(value))).collect(),
            failed: span.status.is_some_and(|status| status.code == 2),
            is_client: span.kind == 3,
        }
    }
}

fn kind(value: &Option<Value>) -> Type {
    match value {
        Some(Value::StringValue(_)) => Type::Text,
        Some(Value::IntValue(_)) => Type::Number,
        Some(Value::BoolValue(_)) => Type::Truth,
        _ => Type::Other,
    }
}

fn text(value: Option<Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    }
}
