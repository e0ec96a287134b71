//! Which request means what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::header::{CONTENT_TYPE, SERVER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on, put};
use axum::{Json, Router};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::daemon::{Daemon, info};
use super::error::Error;
use super::settings::Setting;
use crate::telemetry::logs::Level;
use crate::telemetry::metrics;

/// The longest body, in bytes: a configuration text of 1 MiB inside a JSON string, with room for escapes.
const MAX_BODY: usize = 2 << 20;

/// How much of a longer body is read and thrown away before it is refused, in bytes.
const MAX_DISCARDED: usize = 64 << 20;

/// Stands for every value of a setting: each may be a secret.
const MASK: &str = "***";

type Shared = Arc<dyn Daemon>;

/// Endpoints that exist and are not built yet: path, methods, and the family their errors name.
const UNSUPPORTED: [(&str, &[MethodFilter], &str); 4] = [
    ("/api/v1/daemon/fuse/takeover", &[MethodFilter::PUT], "Upgrade"),
    ("/api/v1/mount", &[MethodFilter::POST, MethodFilter::PUT, MethodFilter::DELETE], "Mount"),
    ("/api/v2/blobs", &[MethodFilter::GET], "GetBlobObjects"),
    ("/api/v2/blobs", &[MethodFilter::PUT, MethodFilter::DELETE], "CreateBlobObject"),
];

/// All endpoints. A request is answered within `deadline`, if only with an error.
pub(super) fn router(daemon: Shared, deadline: Duration) -> Router {
    let mut router = Router::new()
        .route("/api/v1/daemon", get(daemon_info_v1).put(configure).fallback(bad_request))
        .route("/api/v2/daemon", get(daemon_info_v2).put(configure).fallback(bad_request))
        .route("/api/v1/daemon/start", put(start).fallback(bad_request))
        .route("/api/v1/daemon/exit", put(exit).fallback(bad_request))
        .route("/api/v1/daemon/fuse/sendfd", put(send_descriptor).fallback(bad_request))
        .route("/api/v1/daemon/backend", get(superblock).fallback(bad_request))
        .route("/api/v1/daemon/events", get(events).fallback(bad_request))
        .route("/api/v1/metrics", get(filesystem_metrics).fallback(bad_request))
        .route("/api/v1/metrics/files", get(file_metrics).fallback(bad_request))
        .route("/api/v1/metrics/pattern", get(access_patterns).fallback(bad_request))
        .route("/api/v1/metrics/inflight", get(inflight_requests).fallback(bad_request))
        .route("/api/v1/metrics/blobcache", get(blobcache_metrics).fallback(bad_request))
        .route("/api/v1/metrics/backend", get(backend_metrics).fallback(bad_request))
        .route("/api/v1/config", get(settings).put(set).fallback(bad_request))
        .route("/metrics", get(exposition).fallback(bad_request));
    for (path, methods, family) in UNSUPPORTED {
        for method in methods {
            router = router.route(path, on(*method, move || async move { Error::Unsupported(family) }));
        }
    }
    router
        .method_not_allowed_fallback(bad_request)
        .fallback(async || Error::NoRoute)
        .layer(from_fn_with_state(deadline, finish))
        .with_state(daemon)
}

/// What every answer has in common.
async fn finish(State(deadline): State<Duration>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // The body first, whatever the answer will be: a client that is still sending would find the connection closed, and
    // never see it.
    let answer = async {
        let (head, body) = request.into_parts();
        match receive(body).await {
            Ok(bytes) => next.run(Request::from_parts(head, Body::from(bytes))).await,
            Err(error) => error.into_response(),
        }
    };
    let mut response = match tokio::time::timeout(deadline, answer).await {
        Ok(response) => response,
        Err(_) => Error::TimedOut.into_response(),
    };
    log(&method, &path, response.status());
    response.headers_mut().insert(SERVER, HeaderValue::from_static("Nydus API"));
    response
}

fn log(method: &Method, path: &str, status: StatusCode) {
    if status.is_success() {
        tracing::debug!("HTTP {method} {path}: {}", status.as_u16());
    } else {
        tracing::info!("HTTP {method} {path}: {}", status.as_u16());
    }
}

async fn bad_request() -> Error {
    Error::BadRequest
}

/// The whole body. Of one that is too long no more is kept than is of use, and it is read to its end as far as that is
/// bearable.
async fn receive(body: Body) -> Result<Bytes, Error> {
    let (mut stream, mut kept, mut len) = (body.into_data_stream(), BytesMut::new(), 0_usize);
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| Error::BadRequest)?;
        len = len.saturating_add(piece.len());
        if len <= MAX_BODY {
            kept.extend_from_slice(&piece);
        } else if len > MAX_DISCARDED {
            break;
        }
    }
    if len <= MAX_BODY { Ok(kept.freeze()) } else { Err(Error::BadRequest) }
}

/// Refuses a body where none belongs.
fn no_body(body: &Bytes) -> Result<(), Error> {
    if body.is_empty() { Ok(()) } else { Err(Error::BadRequest) }
}

async fn daemon_info_v1(State(daemon): State<Shared>, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    Ok(Json(info(&*daemon, true)))
}

async fn daemon_info_v2(State(daemon): State<Shared>, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    Ok(Json(info(&*daemon, false)))
}

/// What `PUT /daemon` changes.
#[derive(Deserialize)]
struct DaemonSettings {
    log_level: String,
}

async fn configure(State(daemon): State<Shared>, body: Bytes) -> Result<StatusCode, Error> {
    if body.is_empty() {
        return Err(Error::BadRequest);
    }
    let settings: DaemonSettings =
        serde_json::from_slice(&body).map_err(|error| Error::Body(format!("{error:?}")))?;
    let level = Level::from_name(&settings.log_level).ok_or(Error::Setting)?;
    daemon.set_log_level(level);
    tracing::info!("log level set to {}", level.name());
    Ok(StatusCode::NO_CONTENT)
}

/// A daemon starts by itself; there is no state to be started from.
async fn start(body: Bytes) -> Result<StatusCode, Error> {
    no_body(&body)?;
    Err(Error::Unexpected("Start"))
}

async fn exit(State(daemon): State<Shared>, body: Bytes) -> Result<StatusCode, Error> {
    no_body(&body)?;
    tracing::info!("asked to exit");
    daemon.request_exit();
    Ok(StatusCode::NO_CONTENT)
}

async fn send_descriptor(State(daemon): State<Shared>, body: Bytes) -> Result<StatusCode, Error> {
    no_body(&body)?;
    Err(match daemon.supervisor() {
        None => Error::NoSupervisor,
        Some(_) => Error::Unsupported("Upgrade"),
    })
}

/// `id=` of the query.
fn id(uri: &Uri) -> Result<Option<String>, Error> {
    value(uri, "id")
}

/// `name=` of the query.
fn value(uri: &Uri, name: &str) -> Result<Option<String>, Error> {
    let query = Query::<HashMap<String, String>>::try_from_uri(uri);
    let Query(mut query) = query.map_err(|_| Error::BadRequest)?;
    Ok(query.remove(name))
}

async fn superblock(State(daemon): State<Shared>, uri: Uri, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    let mountpoint = value(&uri, "mountpoint")?.ok_or(Error::Query("mountpoint"))?;
    daemon.superblock(&mountpoint).map(Json).ok_or(Error::NoMount("FsBackendInfo"))
}

async fn events(State(daemon): State<Shared>, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    Ok(Json(daemon.events()))
}

async fn filesystem_metrics(
    State(daemon): State<Shared>,
    uri: Uri,
    body: Bytes,
) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    let metrics = daemon.filesystem_metrics(id(&uri)?.as_deref());
    metrics.map(Json).ok_or(Error::NoCounter("GlobalMetrics"))
}

async fn file_metrics(State(daemon): State<Shared>, uri: Uri, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    let (id, latest) = (id(&uri)?, value(&uri, "latest")?);
    let metrics = match latest.as_deref() {
        Some("true") => daemon.latest_read_files(id.as_deref()),
        _ => daemon.file_metrics(id.as_deref()),
    };
    metrics.map(Json).ok_or(Error::NoCounter("FsFilesMetrics"))
}

async fn access_patterns(State(daemon): State<Shared>, uri: Uri, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    daemon.access_patterns(id(&uri)?.as_deref()).map(Json).ok_or(Error::NoCounter("Pattern"))
}

async fn inflight_requests(State(daemon): State<Shared>, body: Bytes) -> Result<Response, Error> {
    no_body(&body)?;
    let requests = daemon.inflight_requests();
    Ok(if requests.is_empty() {
        StatusCode::NO_CONTENT.into_response()
    } else {
        Json(requests).into_response()
    })
}

async fn blobcache_metrics(
    State(daemon): State<Shared>,
    uri: Uri,
    body: Bytes,
) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    let metrics = daemon.blobcache_metrics(id(&uri)?.as_deref());
    metrics.map(Json).ok_or(Error::NoCounter("BlobcacheMetrics"))
}

async fn backend_metrics(State(daemon): State<Shared>, uri: Uri, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    let metrics = daemon.backend_metrics(id(&uri)?.as_deref());
    metrics.map(Json).ok_or(Error::NoCounter("BackendMetrics"))
}

async fn exposition(State(daemon): State<Shared>, body: Bytes) -> Result<impl IntoResponse, Error> {
    no_body(&body)?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], daemon.exposition()))
}

/// What was set at run time, each value masked: `KEY` of the backend `id`, or `ID:KEY` of all.
async fn settings(State(daemon): State<Shared>, uri: Uri, body: Bytes) -> Result<Json<Value>, Error> {
    no_body(&body)?;
    let (wanted, set) = (id(&uri)?, daemon.settings());
    let keys = set.iter().flat_map(|(id, keys)| keys.iter().map(move |key| (id, *key)));
    let shown = keys.filter_map(|(id, key)| match &wanted {
        None => Some(format!("{id}:{key}")),
        Some(wanted) => (wanted == id).then(|| key.to_owned()),
    });
    Ok(Json(shown.map(|key| (key, Value::from(MASK))).collect::<Map<_, _>>().into()))
}

async fn set(State(daemon): State<Shared>, uri: Uri, body: Bytes) -> Result<StatusCode, Error> {
    if body.is_empty() {
        return Err(Error::BadRequest);
    }
    let (id, settings) = (id(&uri)?, Setting::read(&body)?);
    let keys: Vec<_> = settings.iter().map(Setting::key).collect();
    daemon.configure(id.as_deref(), settings).map_err(|why| {
        tracing::warn!("a setting is refused: {why}");
        Error::Setting
    })?;
    keys.iter().for_each(|key| tracing::info!("{key} set by the API"));
    Ok(StatusCode::NO_CONTENT)
}
