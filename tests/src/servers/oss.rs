//! A double of OSS: one bucket whose objects can be put and read by who signs, with V1 or V4, at the bucket's own host or
//! with the bucket in the path. The real client `oss2` is asked in the tests whether it is one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::authority::Authority;
use super::service::{Service, part_of};
use super::signature::{self, encode_path};
use crate::fixtures::Image;

/// Where the bucket lies.
pub const REGION: &str = "cn-hangzhou";
/// The bucket.
pub const BUCKET: &str = "images";
/// Stands before the ids of blobs in the names of objects.
pub const PREFIX: &str = "nydus/";
/// Id and secret of a key that lasts.
pub const KEY: (&str, &str) = ("LTAI-of-tests", "a+secret/of=tests");
/// Id, secret and token of a key that is temporary.
pub const TEMPORARY: (&str, &str, &str) = ("STS.of-tests", "another/secret", "CAIS+token/of==tests");

/// The largest object that can be put.
const MAX_BODY: usize = 64 << 20;
/// How wrong a client's clock may be.
const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// The store. It ends when dropped.
pub struct Oss {
    service: Service,
    shared: Arc<Shared>,
    authority: Option<std::path::PathBuf>,
}

#[derive(Default)]
struct Shared {
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// Method, object and status of each request.
    log: Mutex<Vec<(Method, String, u16)>>,
}

/// Why a request is refused: status, code, words.
type Refusal = (StatusCode, &'static str, String);

impl Oss {
    /// Starts one; over TLS if there is an authority.
    pub fn start(authority: Option<&Authority>) -> Self {
        let shared = Arc::<Shared>::default();
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::max(MAX_BODY));
        let service = Service::start(router.with_state(shared.clone()), authority);
        Self { service, shared, authority: authority.map(Authority::file) }
    }

    /// Puts the blobs of an image into the bucket.
    pub fn put(&self, image: &Image) {
        for file in image.blob_files() {
            let id = file.file_name().unwrap().to_str().unwrap();
            self.put_object(&format!("{PREFIX}{id}"), std::fs::read(&file).unwrap());
        }
    }

    /// Puts an object into the bucket.
    pub fn put_object(&self, name: &str, content: Vec<u8>) {
        lock(&self.shared.objects).insert(name.to_owned(), content.into());
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.service.addr()
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.service.url()
    }

    /// The keys of a configuration that reads from it, signed with V4 of the key that lasts.
    pub fn backend(&self) -> Value {
        let mut keys = json!({
            "scheme": self.url().split(':').next(),
            "endpoint": self.addr().to_string(),
            "bucket_name": BUCKET,
            "object_prefix": PREFIX,
            "region": REGION,
            "access_key_id": KEY.0,
            "access_key_secret": KEY.1,
            // The bucket's name and an address in digits make no name of a host.
            "addressing": "path",
        });
        if let Some(file) = &self.authority {
            keys["ca_cert_files"] = json!([file]);
        }
        keys
    }

    /// Method, object and status of each request so far.
    pub fn requests(&self) -> Vec<(Method, String, u16)> {
        lock(&self.shared.log).clone()
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request { method: &method, uri: &uri, headers: &headers };
    let object = request.object();
    let response = match &object {
        Err(refusal) => refuse(refusal),
        Ok(object) => match request.check(object) {
            Err(refusal) => refuse(&refusal),
            Ok(()) => serve(&shared, &request, object, body),
        },
    };
    lock(&shared.log).push((method.clone(), object.unwrap_or_default(), response.status().as_u16()));
    response
}

fn serve(shared: &Shared, request: &Request, object: &str, body: Bytes) -> Response {
    let found = lock(&shared.objects).get(object).cloned();
    match (request.method.as_str(), found) {
        ("PUT", _) => {
            lock(&shared.objects).insert(object.to_owned(), body);
            StatusCode::OK.into_response()
        }
        ("GET" | "HEAD", Some(content)) => part_of(&content, request.headers),
        ("GET" | "HEAD", None) => {
            refuse(&(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.".to_owned()))
        }
        _ => refuse(&(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "Not in this double.".to_owned())),
    }
}

fn refuse((status, code, message): &Refusal) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let headers = [(header::CONTENT_TYPE, "application/xml"), (header::SERVER, "AliyunOSS")];
    (*status, headers, [("x-oss-request-id", "0123456789ABCDEF")], body).into_response()
}

/// A request whose signature is to be checked.
struct Request<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
}

impl Request<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The name of the object, decoded; the bucket is in the host's name or in the path.
    fn object(&self) -> Result<String, Refusal> {
        if self.uri.query().is_some_and(|query| !query.is_empty()) {
            let words = "Subresources are not in this double.".to_owned();
            return Err((StatusCode::NOT_IMPLEMENTED, "NotImplemented", words));
        }
        let path = decode(self.uri.path().trim_start_matches('/'));
        let host = self.header("host").unwrap_or_default();
        if host.strip_prefix(BUCKET).is_some_and(|rest| rest.starts_with('.')) {
            return Ok(path);
        }
        let object = path.strip_prefix(BUCKET).and_then(|rest| rest.strip_prefix('/'));
        let no_bucket = || {
            let words = "The specified bucket does not exist.".to_owned();
            (StatusCode::NOT_FOUND, "NoSuchBucket", words)
        };
        object.map(str::to_owned).ok_or_else(no_bucket)
    }

    fn check(&self, object: &str) -> Result<(), Refusal> {
        match self.header("authorization") {
            Some(proof) if proof.starts_with(signature::OSS.algorithm) => self.check_v4(object, proof),
            Some(proof) if proof.starts_with("OSS ") => self.check_v1(object, proof),
            _ => Err(denied("AccessDenied", "There is no signature that is known here.")),
        }
    }

    fn check_v1(&self, object: &str, proof: &str) -> Result<(), Refusal> {
        let (id, found) = proof.trim_start_matches("OSS ").split_once(':').unwrap_or_default();
        let secret = self.secret(id)?;
        let date = self.header("date").unwrap_or_default();
        check_clock(httpdate::parse_http_date(date).ok())?;
        let text = format!(
            "{}\n{}\n{}\n{date}\n{}/{BUCKET}/{object}",
            self.method,
            self.header("content-md5").unwrap_or_default(),
            self.header("content-type").unwrap_or_default(),
            self.canonical_headers(|name| name.starts_with("x-oss-")),
        );
        matches(&signature::oss_v1(secret, &text), found)
    }

    fn check_v4(&self, object: &str, proof: &str) -> Result<(), Refusal> {
        let parts: BTreeMap<&str, &str> = proof
            .trim_start_matches(signature::OSS.algorithm)
            .split(',')
            .filter_map(|part| part.trim().split_once('='))
            .collect();
        let get = |name: &str| parts.get(name).copied().unwrap_or_default();
        let (id, scope) = get("Credential").split_once('/').unwrap_or_default();
        let secret = self.secret(id)?;
        let time = self.header("x-oss-date").unwrap_or_default();
        check_clock(signature::time_of(time))?;
        if scope != signature::OSS.scope(time, REGION) {
            return Err(denied("AccessDenied", "The scope of the credential is not of this place and day."));
        }
        let additional: Vec<&str> = get("AdditionalHeaders").split(';').collect();
        let is_signed = |name: &str| {
            name.starts_with("x-oss-")
                || matches!(name, "content-type" | "content-md5")
                || additional.contains(&name)
        };
        let canonical = format!(
            "{}\n/{BUCKET}/{}\n\n{}\n{}\n{}",
            self.method,
            encode_path(object),
            self.canonical_headers(is_signed),
            additional.join(";"),
            self.header("x-oss-content-sha256").unwrap_or_default(),
        );
        matches(&signature::OSS.sign(secret, REGION, time, &canonical), get("Signature"))
    }

    /// The secret of a key; a temporary one wants its token.
    fn secret(&self, id: &str) -> Result<&'static str, Refusal> {
        let token = self.header("x-oss-security-token");
        if (id, token) == (KEY.0, None) {
            return Ok(KEY.1);
        }
        if (id, token) == (TEMPORARY.0, Some(TEMPORARY.2)) {
            return Ok(TEMPORARY.1);
        }
        Err(denied("InvalidAccessKeyId", "The access key is not known, or its token does not fit."))
    }

    /// The headers that `is_signed` wants, by name.
    fn canonical_headers(&self, is_signed: impl Fn(&str) -> bool) -> String {
        let names: std::collections::BTreeSet<&str> =
            self.headers.keys().map(|name| name.as_str()).filter(|name| is_signed(name)).collect();
        let line = |name: &str| format!("{name}:{}\n", self.header(name).unwrap_or_default().trim());
        names.into_iter().map(line).collect()
    }
}

/// Whether a request was signed just now.
fn check_clock(signed: Option<SystemTime>) -> Result<(), Refusal> {
    let signed = signed.ok_or_else(|| denied("AccessDenied", "There is no date, or it is none."))?;
    let now = SystemTime::now();
    // One of the two is an error: the difference the wrong way round.
    let skew = now.duration_since(signed).or_else(|_| signed.duration_since(now)).unwrap_or_default();
    if skew > MAX_SKEW {
        return Err(denied("RequestTimeTooSkewed", "The clocks of client and server are too far apart."));
    }
    Ok(())
}

fn matches(expected: &str, found: &str) -> Result<(), Refusal> {
    if expected == found {
        return Ok(());
    }
    Err(denied("SignatureDoesNotMatch", "The signature is not the one calculated here."))
}

fn denied(code: &'static str, words: &str) -> Refusal {
    (StatusCode::FORBIDDEN, code, words.to_owned())
}

/// `text` without `%XX`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
