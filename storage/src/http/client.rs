//! One way to the network: connections, TLS, and the time without progress. Follows no redirect, repeats nothing,
//! obeys no proxy variable: all of that is decided above.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, COOKIE, DATE, HeaderMap, HeaderName, HeaderValue, RANGE, USER_AGENT,
};
use reqwest::{Certificate, Identity, Method, StatusCode, Url, Version};
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::connect::{ConnectLayer, Wait};
use super::failure::Failure;
use super::options::HttpOptions;
use super::part::Part;
use crate::lock;
use crate::metrics::Counter;
use crate::secret::Secret;
use crate::trace::{self, Step, TARGET};
use crate::{Error, Result};

/// What we call ourselves unless told otherwise: servers and proxies know the reference daemon by it.
const AGENT: &str = "nydusd/1.0.0";
/// Connections that wait for a next request, an endpoint.
const IDLE_CONNECTIONS: usize = 64;
/// An HTTP/2 connection that does not answer a ping for so long is closed.
const PING: Duration = Duration::from_secs(5);
/// A shorter silence says nothing of a server.
const TELLING: Duration = Duration::from_secs(1);
/// The most of an error's body that is looked at, and the longest wait for it: its status has said the main thing.
const MAX_ERROR_BODY: usize = 8 << 10;
const ERROR_BODY_LIMIT: Duration = Duration::from_secs(1);
/// What object stores say to a signature of another time than theirs.
const SKEWED: &str = "RequestTimeTooSkewed";

/// Where connections go.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// To the address itself.
    Direct,
    /// To a proxy.
    Proxy(Secret),
    /// To a unix socket.
    Unix(PathBuf),
}

/// Sends requests.
pub(crate) struct Client {
    setup: Arc<Setup>,
    current: Mutex<Connections>,
}

/// All that connections are made from.
struct Setup {
    way: Way,
    timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    skip_verify: bool,
    roots: Vec<Certificate>,
    identity: Option<Identity>,
    headers: HeaderMap,
}

struct Connections {
    client: reqwest::Client,
    since: Instant,
    /// Requests that are under way or had a connection.
    uses: u64,
}

impl Connections {
    fn new(client: reqwest::Client) -> Self {
        Self { client, since: Instant::now(), uses: 0 }
    }
}

/// A request. Its address and its form may hold secrets.
#[derive(Clone)]
pub(crate) struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub form: Option<Vec<(&'static str, String)>>,
    /// The address was named by somebody else than our configuration: headers that may hold secrets stay here.
    pub is_foreign: bool,
    /// When its answer becomes useless.
    pub deadline: Instant,
    /// What the range it asks for was asked with so far.
    pub sends: Sends,
    /// Counts the bytes of its answer.
    pub received: Arc<Counter>,
}

impl Call {
    pub(crate) fn get(url: Url, deadline: Instant) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            form: None,
            is_foreign: false,
            deadline,
            sends: Sends::default(),
            received: Arc::default(),
        }
    }

    /// Asks for what is still wanted of `part`.
    pub(crate) fn range(url: Url, part: &Part, deadline: Instant) -> Self {
        let mut call = Self::get(url, deadline);
        call.headers.insert(RANGE, part.header());
        call.sends = part.sends();
        call
    }

    /// As the semantic conventions for HTTP want it told, but for the address: where others led us, it may be signed.
    fn span(&self) -> Span {
        let span = info_span!(
            target: TARGET, "request", otel.name = self.method.as_str(), otel.kind = "client",
            http.request.method = self.method.as_str(), url.scheme = self.url.scheme(), url.path = Empty,
            server.address = self.url.host_str().map(trace::text), server.port = self.url.port_or_known_default().map(trace::number),
            http.request.resend_count = Empty, http.response.status_code = Empty, network.protocol.version = Empty,
            nydus.overtaken = Empty, error.type = Empty, otel.status_description = Empty,
        );
        if !self.is_foreign {
            span.record("url.path", self.url.path());
        }
        span
    }
}

/// Counts the requests that one range takes, for traces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sends(Arc<AtomicU32>);

impl Sends {
    /// How many there were before this one.
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The head of an answer, its body yet to come. Its address may hold a signature.
pub(crate) struct Answer {
    response: reqwest::Response,
    patience: Patience,
    /// Bytes of the body, as they come.
    received: Arc<Counter>,
    /// Of the request, until its last byte has come.
    step: Step,
}

/// How long nothing may come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    limit: Option<Duration>,
    deadline: Instant,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("way", &self.setup.way).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads the files with certificates and keys, and connects nowhere. [`Error::Invalid`] names a file that cannot
    /// be used.
    pub(crate) fn new(options: &HttpOptions, way: Way) -> Result<Self> {
        let mut roots = Vec::new();
        for path in &options.ca_cert_files {
            let found = Certificate::from_pem_bundle(&pem("ca_cert_files", path)?)
                .map_err(|err| Error::invalid("ca_cert_files", format!("{}: {err}", path.display())))?;
            if found.is_empty() {
                return Err(Error::invalid(
                    "ca_cert_files",
                    format!("{}: no certificate in it", path.display()),
                ));
            }
            roots.extend(found);
        }
        let identity = match &options.client_cert {
            None => None,
            Some((cert, key)) => {
                let mut both = pem("client_cert_file", cert)?;
                both.push(b'\n');
                both.extend(pem("client_key_file", key)?);
                let files = || format!("{} and {}", cert.display(), key.display());
                Some(Identity::from_pem(&both).map_err(|_| {
                    Error::invalid(
                        "client_cert_file",
                        format!("{}: no certificate and its key in PEM", files()),
                    )
                })?)
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // A body that was compressed on its way would not be the bytes of the range.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in &options.headers {
            let (name, value) = header(name, value)?;
            headers.insert(name, value);
        }
        let setup = Setup {
            way,
            timeout: options.timeout,
            connect_timeout: options.connect_timeout,
            skip_verify: options.skip_verify,
            roots,
            identity,
            headers,
        };
        Self::with(Arc::new(setup))
    }

    fn with(setup: Arc<Setup>) -> Result<Self> {
        let current = Mutex::new(Connections::new(setup.connect()?));
        Ok(Self { setup, current })
    }

    /// The same way, with connections of its own.
    pub(crate) fn apart(&self) -> Result<Self> {
        Self::with(self.setup.clone())
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Failure> {
        let mut headers = self.setup.headers.clone();
        if call.is_foreign {
            headers.remove(AUTHORIZATION);
            headers.remove(COOKIE);
        }
        let mut step = Step::within(|| call.span());
        headers.extend(call.headers);
        let resends = call.sends.next();
        if resends > 0 {
            step.span().record("http.request.resend_count", trace::number(resends));
        }
        let parent = step.span().in_scope(trace::traceparent);
        if let Some(parent) = parent.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert("traceparent", parent);
        }
        let (client, since) = self.connections();
        let mut request = client.request(call.method, call.url).headers(headers);
        if let Some(form) = &call.form {
            request = request.form(form);
        }
        let patience = Patience { limit: self.setup.timeout, deadline: call.deadline };
        let wait = Wait::new();
        // Connecting has a limit of its own, if it has one.
        let silent_since = || {
            let stage = wait.stage();
            (!stage.is_connecting() || self.setup.connect_timeout.is_none()).then_some(stage.since)
        };
        let head = patience.wait_since("no answer", wait.over(request.send()), silent_since);
        let response = step.cover(head).await;
        let response = response.and_then(|response| response.map_err(Failure::of_library));
        let response = response.inspect_err(|failure| {
            step.failed(failure.name(), failure);
            // An HTTP/2 connection that stands still would be offered again and again.
            if matches!(failure, Failure::Silent(_)) {
                self.renew_if(|current| current.since == since);
            }
        });
        if matches!(response, Err(Failure::Connect(_) | Failure::Unusable(_) | Failure::NotTls(_))) {
            let mut current = self.lock();
            if current.since == since {
                current.uses = current.uses.saturating_sub(1);
            }
        }
        let response = response?;
        let (status, span) = (response.status(), step.span());
        span.record("http.response.status_code", trace::number(status.as_u16()));
        span.record("network.protocol.version", version(response.version()));
        if status.is_client_error() || status.is_server_error() {
            step.failed(status.as_str(), status);
        }
        Ok(Answer { response, patience, received: call.received, step })
    }

    /// Where a request goes, and since when.
    fn connections(&self) -> (reqwest::Client, Instant) {
        let mut current = self.lock();
        current.uses += 1;
        (current.client.clone(), current.since)
    }

    /// Leaves all connections to those who use them now: a later request opens a new one.
    pub(crate) fn renew(&self) {
        self.renew_if(|current| current.uses > 0);
    }

    fn renew_if(&self, is_wanted: impl FnOnce(&Connections) -> bool) {
        let mut current = self.lock();
        // It worked before with the same setup; if it does not now, the old connections are all there is.
        if is_wanted(&current)
            && let Ok(client) = self.setup.connect()
        {
            *current = Connections::new(client);
        }
    }

    /// Takes the connections of `other`, which is made of the same setup, and gives it its own.
    pub(crate) fn swap(&self, other: &Self) {
        if !std::ptr::eq(self, other) {
            std::mem::swap(&mut *self.lock(), &mut *other.lock());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        lock(&self.current)
    }
}

impl Setup {
    /// Costs milliseconds: the root certificates of the machine are read.
    fn connect(&self) -> Result<reqwest::Client> {
        let failed = |err: reqwest::Error| Error::invalid("http", Failure::of_library(err).to_string());
        match self.builder()?.build() {
            Ok(client) => Ok(client),
            // A machine without any root certificate: plain http works there all the same.
            Err(_) if self.roots.is_empty() && !self.skip_verify => {
                tracing::warn!("this machine has no root certificates: https needs ca_cert_files");
                self.builder()?.tls_certs_only([]).build().map_err(failed)
            }
            Err(err) => Err(failed(err)),
        }
    }

    fn builder(&self) -> Result<reqwest::ClientBuilder> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .tls_backend_rustls()
            .tls_danger_accept_invalid_certs(self.skip_verify)
            .connector_layer(ConnectLayer)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING);
        if let Some(timeout) = self.connect_timeout {
            builder = builder.connect_timeout(timeout);
        }
        if !self.roots.is_empty() {
            builder = builder.tls_certs_merge(self.roots.iter().cloned());
        }
        if let Some(identity) = &self.identity {
            builder = builder.identity(identity.clone());
        }
        Ok(match &self.way {
            Way::Direct => builder,
            Way::Proxy(url) => {
                let proxy = reqwest::Proxy::all(url.expose());
                builder.proxy(proxy.map_err(|_| Error::invalid("proxy.url", "not the address of a proxy"))?)
            }
            Way::Unix(path) => builder.unix_socket(path.clone()),
        })
    }
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The value of a header, if it is there and text.
    pub(crate) fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// All values of a header that are text.
    pub(crate) fn headers(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.response.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// What the server's clock said.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        self.header(DATE).and_then(|date| httpdate::parse_http_date(date).ok())
    }

    /// Bytes of the body, if the head tells.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next bytes of the body, `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let chunk = self.patience.wait("the body stood still", self.response.chunk());
        let chunk = self.step.cover(chunk).await;
        let chunk = chunk.and_then(|chunk| chunk.map_err(Failure::of_library));
        let chunk = chunk.inspect_err(|failure| self.step.failed(failure.name(), failure))?;
        self.received.add(chunk.as_ref().map_or(0, |bytes| bytes.len() as u64));
        Ok(chunk)
    }

    /// The body, if it is not longer than `limit`.
    pub(crate) async fn body(mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(Failure::Broken(format!("an answer of more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The status, and the server's code for the error if its body has one: `503 Service Unavailable (SlowDown)`.
    /// More of the body is never shown, since servers quote what they were sent.
    pub(crate) async fn describe(self) -> String {
        let (status, date) = (self.status(), self.date());
        let body = tokio::time::timeout(ERROR_BODY_LIMIT, self.body(MAX_ERROR_BODY)).await;
        match body.ok().and_then(Result::ok).and_then(|body| error_code(&body)) {
            Some(code) if code == SKEWED => {
                let clocks = date.map(|date| clocks(SystemTime::now(), date)).unwrap_or_default();
                format!("{status} ({code}){clocks}")
            }
            Some(code) => format!("{status} ({code})"),
            None => status.to_string(),
        }
    }
}

/// How far our clock is from the server's.
fn clocks(ours: SystemTime, server: SystemTime) -> String {
    match ours.duration_since(server) {
        Ok(ahead) => format!(": our clock is {} s ahead of the server's", ahead.as_secs()),
        Err(behind) => format!(": our clock is {} s behind the server's", behind.duration().as_secs()),
    }
}

/// The version of HTTP, as the semantic conventions for networks call it.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// The code in the error of a registry (`{"errors":[{"code":"…"}]}`) or of an object store (`<Code>…</Code>`).
pub(crate) fn error_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let code = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(json) => json.pointer("/errors/0/code")?.as_str()?.to_owned(),
        Err(_) => text.split_once("<Code>")?.1.split_once("</Code>")?.0.to_owned(),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (code.len() <= 64 && code.chars().all(is_plain)).then_some(code)
}

/// A header of the configuration. No error shows its value.
pub(crate) fn header(name: &str, value: &Secret) -> Result<(HeaderName, HeaderValue)> {
    let invalid = |detail: &str| Error::invalid(format!("header {name:?}"), detail);
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("not the name of a header"))?;
    let mut value =
        HeaderValue::from_str(value.expose()).map_err(|_| invalid("its value is not that of a header"))?;
    value.set_sensitive(true);
    Ok((header, value))
}

fn pem(key: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|err| Error::invalid(key, format!("{}: {err}", path.display())))
}

impl Patience {
    /// Nothing but the deadline ends it.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { limit: None, deadline }
    }

    /// Waits for `future`. When nothing has come for the limit, [`Failure::Silent`]; so too if the deadline comes first
    /// and it was silent long enough to mean something, else [`Failure::Late`].
    pub(crate) async fn wait<T>(self, what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
        let start = Instant::now();
        self.wait_since(what, future, || Some(start)).await
    }

    /// As [`Self::wait`]; `silent_since` says at any time since when nothing has come, `None` that what is waited for
    /// now has a limit of its own.
    async fn wait_since<T>(
        self,
        what: &str,
        future: impl Future<Output = T>,
        silent_since: impl Fn() -> Option<Instant>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        let mut future = pin!(future);
        loop {
            // Until then nobody loses patience, whatever happens meanwhile.
            let since = silent_since().unwrap_or_else(Instant::now);
            let until = self.limit.and_then(|limit| since.checked_add(limit));
            let until = until.map_or(self.deadline, |until| until.min(self.deadline));
            if let Ok(done) = tokio::time::timeout_at(until.into(), &mut future).await {
                return Ok(done);
            }
            let (now, since) = (Instant::now(), silent_since());
            let silence = now.saturating_duration_since(since.unwrap_or(start));
            let is_too_long = since.is_some() && self.limit.is_some_and(|limit| silence >= limit);
            if is_too_long || now >= self.deadline && silence > TELLING {
                return Err(Failure::Silent(format!("{what} for {:.1} s", silence.as_secs_f64())));
            }
            if now >= self.deadline {
                return Err(Failure::Late);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_codes_only() {
        for (body, code) in [
            (r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"m"}]}"#, Some("BLOB_UNKNOWN")),
            (
                "<?xml?><Error><Code>SignatureDoesNotMatch</Code><X>s</X></Error>",
                Some("SignatureDoesNotMatch"),
            ),
            ("<Code>Bearer hunter2 !</Code>", None),
            (r#"{"errors":[]}"#, None),
            ("<Code>open", None),
            ("", None),
        ] {
            assert_eq!(error_code(body.as_bytes()).as_deref(), code, "{body}");
        }
    }

    #[test]
    fn clocks_are_compared() {
        let (early, late) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(3600));
        assert_eq!(clocks(late, early), ": our clock is 3600 s ahead of the server's");
        assert_eq!(clocks(early, late), ": our clock is 3600 s behind the server's");
    }
}
