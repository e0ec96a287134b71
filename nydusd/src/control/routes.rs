//! Which request means what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::header::{CONTENT_TYPE, SERVER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::daemon::{Daemon, info};
use super::error::Error;
use super::settings::Setting;
use crate::telemetry::logs::Level;
use crate::telemetry::metrics;

/// The longest body, in bytes: a configuration text of 1 MiB inside a JSON string, with room for escapes.
const MAX_BODY: usize = 2 << 20;

/// Stands for every value of a setting: each may be a secret.
const MASK: &str = "***";

type Shared = Arc<dyn Daemon>;

/// Endpoints that exist and are not built yet: path, methods, and the family their errors name.
const UNSUPPORTED: [(&str, &[MethodFilter], &str); 10] = [
    ("/api/v1/daemon/events", &[MethodFilter::GET], "Events"),
    ("/api/v1/daemon/backend", &[MethodFilter::GET], "FsBackendInfo"),
    ("/api/v1/daemon/fuse/takeover", &[MethodFilter::PUT], "Upgrade"),
    ("/api/v1/mount", &[MethodFilter::POST, MethodFilter::PUT, MethodFilter::DELETE], "Mount"),
    ("/api/v1/metrics", &[MethodFilter::GET], "GlobalMetrics"),
    ("/api/v1/metrics/files", &[MethodFilter::GET], "FsFilesMetrics"),
    ("/api/v1/metrics/pattern", &[MethodFilter::GET], "Pattern"),
    ("/api/v1/metrics/inflight", &[MethodFilter::GET], "InflightMetrics"),
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
    let mut response = match tokio::time::timeout(deadline, next.run(request)).await {
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

/// The whole body, if it is not too long.
async fn read(body: Body) -> Result<Bytes, Error> {
    to_bytes(body, MAX_BODY).await.map_err(|_| Error::BadRequest)
}

/// Refuses a body where none belongs.
async fn no_body(body: Body) -> Result<(), Error> {
    if read(body).await?.is_empty() { Ok(()) } else { Err(Error::BadRequest) }
}

async fn daemon_info_v1(State(daemon): State<Shared>, body: Body) -> Result<Json<Value>, Error> {
    no_body(body).await?;
    Ok(Json(info(&*daemon, true)))
}

async fn daemon_info_v2(State(daemon): State<Shared>, body: Body) -> Result<Json<Value>, Error> {
    no_body(body).await?;
    Ok(Json(info(&*daemon, false)))
}

/// What `PUT /daemon` changes.
#[derive(Deserialize)]
struct DaemonSettings {
    log_level: String,
}

async fn configure(State(daemon): State<Shared>, body: Body) -> Result<StatusCode, Error> {
    let body = read(body).await?;
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
async fn start(body: Body) -> Result<StatusCode, Error> {
    no_body(body).await?;
    Err(Error::Unexpected("Start"))
}

async fn exit(State(daemon): State<Shared>, body: Body) -> Result<StatusCode, Error> {
    no_body(body).await?;
    tracing::info!("asked to exit");
    daemon.request_exit();
    Ok(StatusCode::NO_CONTENT)
}

async fn send_descriptor(State(daemon): State<Shared>, body: Body) -> Result<StatusCode, Error> {
    no_body(body).await?;
    Err(match daemon.supervisor() {
        None => Error::NoSupervisor,
        Some(_) => Error::Unsupported("Upgrade"),
    })
}

/// `id=` of the query.
fn id(uri: &Uri) -> Result<Option<String>, Error> {
    let query = Query::<HashMap<String, String>>::try_from_uri(uri);
    let Query(mut query) = query.map_err(|_| Error::BadRequest)?;
    Ok(query.remove("id"))
}

async fn blobcache_metrics(State(daemon): State<Shared>, uri: Uri, body: Body) -> Result<Json<Value>, Error> {
    no_body(body).await?;
    let metrics = daemon.blobcache_metrics(id(&uri)?.as_deref());
    metrics.map(Json).ok_or(Error::NoCounter("BlobcacheMetrics"))
}

async fn backend_metrics(State(daemon): State<Shared>, uri: Uri, body: Body) -> Result<Json<Value>, Error> {
    no_body(body).await?;
    let metrics = daemon.backend_metrics(id(&uri)?.as_deref());
    metrics.map(Json).ok_or(Error::NoCounter("BackendMetrics"))
}

async fn exposition(State(daemon): State<Shared>, body: Body) -> Result<impl IntoResponse, Error> {
    no_body(body).await?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], daemon.exposition()))
}

/// What was set at run time, each value masked: `KEY` of the backend `id`, or `ID:KEY` of all.
async fn settings(State(daemon): State<Shared>, uri: Uri, body: Body) -> Result<Json<Value>, Error> {
    no_body(body).await?;
    let (wanted, set) = (id(&uri)?, daemon.settings());
    let keys = set.iter().flat_map(|(id, keys)| keys.iter().map(move |key| (id, *key)));
    let shown = keys.filter_map(|(id, key)| match &wanted {
        None => Some(format!("{id}:{key}")),
        Some(wanted) => (wanted == id).then(|| key.to_owned()),
    });
    Ok(Json(shown.map(|key| (key, Value::from(MASK))).collect::<Map<_, _>>().into()))
}

async fn set(State(daemon): State<Shared>, uri: Uri, body: Body) -> Result<StatusCode, Error> {
    let body = read(body).await?;
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
