//! What stands before a bucket of [`super::moto`] and lets only those in who come with a signed address: `moto` itself does
//! not know these. A registry that keeps its blobs in the bucket leads its readers here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use reqwest::Url;
use serde_json::{Value, json};

use super::moto::{self, Moto};
use super::service::Service;
use super::signature::{S3, time_of};

/// The largest object that can be put.
const MAX_BODY: usize = 64 << 20;

/// The gate. It ends when dropped; the bucket behind it has to outlive it.
pub struct SignedStore {
    service: Service,
    shared: Arc<Shared>,
    key: (String, String),
}

struct Shared {
    store: String,
    key: (String, String),
    http: reqwest::Client,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Signatures that were good, and the one that is.
    good: Vec<String>,
    /// Signatures that are good no longer.
    revoked: Vec<String>,
    /// Statuses of requests with signed addresses.
    statuses: Vec<u16>,
}

impl SignedStore {
    /// Starts it before `moto`, which goes on to believe everybody.
    pub fn start(moto: &Moto) -> Self {
        let key = (moto.key().0.to_owned(), moto.key().1.to_owned());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let shared = Arc::new(Shared { store: moto.url(), key: key.clone(), http, seen: Mutex::default() });
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::max(MAX_BODY));
        Self { service: Service::start(router.with_state(shared.clone()), None), shared, key }
    }

    /// The keys of a registry's storage driver `s3`.
    pub fn driver(&self) -> Value {
        json!({
            "region": moto::REGION,
            "regionendpoint": self.service.url(),
            "bucket": moto::BUCKET,
            "accesskey": self.key.0,
            "secretkey": self.key.1,
            "secure": false,
            "v4auth": true,
        })
    }

    /// From now on the signatures that were seen are no longer good, as if their time had come.
    pub fn revoke(&self) {
        let mut seen = self.shared.lock();
        let good = std::mem::take(&mut seen.good);
        seen.revoked.extend(good);
    }

    /// The statuses of requests with signed addresses so far.
    pub fn signed_requests(&self) -> Vec<u16> {
        self.shared.lock().statuses.clone()
    }

    /// How many different signatures were seen.
    pub fn signatures(&self) -> usize {
        let seen = self.shared.lock();
        seen.good.len() + seen.revoked.len()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let url = Url::parse(&format!("{}{uri}", shared.store)).unwrap();
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
    let Some(signature) = parameter("X-Amz-Signature") else {
        // The registry itself.
        return pass_on(&shared, method, url, headers, body).await;
    };
    let is_good = is_signed(&shared, &method, &url, &headers, &signature) && {
        let mut seen = shared.lock();
        let signature = signature.to_string();
        let is_revoked = seen.revoked.contains(&signature);
        if !is_revoked && !seen.good.contains(&signature) {
            seen.good.push(signature);
        }
        !is_revoked
    };
    let response = if is_good {
        pass_on(&shared, method, url, headers, body).await
    } else {
        let body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
        (StatusCode::FORBIDDEN, body).into_response()
    };
    shared.lock().statuses.push(response.status().as_u16());
    response
}

/// Whether the address is signed with the key, for this host, and not too long ago.
fn is_signed(shared: &Shared, method: &Method, url: &Url, headers: &HeaderMap, signature: &str) -> bool {
    let parameter =
        |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let Some(time) = parameter("X-Amz-Date") else { return false };
    let life = parameter("X-Amz-Expires").and_then(|life| life.parse().ok()).map(Duration::from_secs);
    let end = time_of(&time).and_then(|time| time.checked_add(life?));
    let (id, secret) = (&shared.key.0, &shared.key.1);
    let is_ours = parameter("X-Amz-Credential") == Some(format!("{id}/{}", S3.scope(&time, moto::REGION)));
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut query: Vec<&str> = url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.starts_with("X-Amz-Signature="))
        .collect();
    query.sort_unstable();
    let canonical =
        format!("{method}\n{}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", url.path(), query.join("&"));
    let is_signed_for_the_host = parameter("X-Amz-SignedHeaders").as_deref() == Some("host");
    let is_in_time = end.is_some_and(|end| SystemTime::now() < end);
    let expected = S3.sign(secret, moto::REGION, &time, &canonical);
    is_ours && is_signed_for_the_host && is_in_time && expected == signature
}

async fn pass_on(shared: &Shared, method: Method, url: Url, mut headers: HeaderMap, body: Bytes) -> Response {
    headers.remove("host");
    let request = shared.http.request(method, url).headers(headers).body(body);
    let Ok(answer) = request.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("connection");
    headers.remove("transfer-encoding");
    match answer.bytes().await {
        Ok(body) => (status, headers, body).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
