//! Errors of the API. Clients match on status and message, so both keep the shapes of the reference
//! implementation.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// There is no such path.
    NoRoute,
    /// The method does not fit the path, or the body or query cannot be used.
    BadRequest,
    /// The body is not the JSON that is expected.
    Body(String),
    /// The level or key is unknown.
    Setting,
    /// The daemon is in no state for this event.
    Unexpected(&'static str),
    /// A value of the query is missing. Carries its name.
    Query(&'static str),
    /// Nothing is mounted there. Carries the family of the endpoint.
    NoMount(&'static str),
    /// There is nothing that counts under this id. Carries the family of the endpoint.
    NoCounter(&'static str),
    /// There is no supervisor to send state to.
    NoSupervisor,
    /// Part of the API, and not built yet. Carries the family of the endpoint.
    Unsupported(&'static str),
    /// The request took too long.
    TimedOut,
}

impl Error {
    fn parts(&self) -> (StatusCode, String) {
        match self {
            Self::NoRoute => (StatusCode::NOT_FOUND, "NoRoute".to_owned()),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "BadRequest".to_owned()),
            Self::Body(error) => (StatusCode::BAD_REQUEST, format!("ParseBody({error})")),
            Self::Setting => (StatusCode::INTERNAL_SERVER_ERROR, "Configure(ResponsePayloadType)".to_owned()),
            Self::Unexpected(event) => {
                (StatusCode::BAD_REQUEST, format!("Configure(DaemonAbnormal(UnexpectedEvent({event:?})))"))
            }
            Self::Query(name) => (
                StatusCode::BAD_REQUEST,
                format!("QueryString({:?})", format!("'{name}' should be specified in query string")),
            ),
            Self::NoMount(family) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{family}(MountFilesystem(Other(\"object or filesystem doesn't exist\")))"),
            ),
            Self::NoCounter(family) => {
                (StatusCode::NOT_FOUND, format!("{family}(Metrics(Stats(NoCounter)))"))
            }
            Self::NoSupervisor => (
                StatusCode::INTERNAL_SERVER_ERROR,
                r#"Upgrade(DaemonAbnormal(UpgradeManager("MissingSupervisorPath")))"#.to_owned(),
            ),
            Self::Unsupported(family) => {
                (StatusCode::NOT_IMPLEMENTED, format!("{family}(DaemonAbnormal(Unsupported))"))
            }
            Self::TimedOut => (StatusCode::SERVICE_UNAVAILABLE, "TimedOut".to_owned()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, message) = self.parts();
        (status, Json(json!({ "code": "UNDEFINED", "message": message }))).into_response()
    }
}
