//! Why one try failed, and what that says of the next one. Nothing in here holds a secret: addresses are shown
//! without their query, and of a server's answer only its status and the code in its body.

use std::time::Duration;
use std::{fmt, io};

use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;

use super::client::Answer;
use crate::Error;
use crate::policy::retry::Failure as Verdict;

const LATE: &str = "the deadline came before an answer";

/// Why one request to one endpoint did not bring what it was sent for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection.
    Connect(String),
    /// A connection that broke.
    Broken(String),
    /// A connection that stood still.
    Silent(String),
    /// The server cannot prove who it is, or what it led to is no address.
    Unusable(String),
    /// 5xx.
    Server { detail: String, retry_after: Option<Duration> },
    /// 429.
    Throttled { detail: String, retry_after: Option<Duration> },
    /// This endpoint does not have it, will not give it, or breaks the rules of HTTP: asking it again does not
    /// help, asking another may. Told as this error if there is no other.
    Refused(Error),
    /// Nobody can help.
    Final(Error),
    /// The deadline came before the server had shown whether it is well.
    Late,
}

impl Failure {
    /// The endpoint will not give `what`.
    pub(crate) fn denied(what: impl Into<String>, detail: impl Into<String>) -> Self {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, detail.into());
        Self::Refused(Error::Denied { what: what.into(), source })
    }

    /// An error of the HTTP library, without the address it may quote: that may hold a signature.
    pub(crate) fn of_library(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let (is_connect, is_builder) = (error.is_connect(), error.is_builder());
        let (mut detail, untrusted) = (error.to_string(), is_untrusted(&error));
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !detail.ends_with(&text) {
                detail = format!("{detail}: {text}");
            }
            source = cause.source();
        }
        match (untrusted || is_builder, is_connect) {
            (true, _) => Self::Unusable(detail),
            (false, true) => Self::Connect(detail),
            (false, false) => Self::Broken(detail),
        }
    }

    /// An answer that is neither success nor a redirect. `what` names the object and `place` where it was looked for.
    pub(crate) async fn of_answer(answer: Answer, what: &str, place: &str) -> Self {
        let status = answer.status();
        let retry_after = answer.header(RETRY_AFTER).and_then(retry_after);
        let detail = format!("{place} answered {}", answer.describe().await);
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Self::Final(Error::NotFound { what: what.to_owned(), place: place.to_owned() })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Self::Final(Error::Denied {
                    what: what.to_owned(),
                    source: io::Error::new(io::ErrorKind::PermissionDenied, detail),
                })
            }
            StatusCode::TOO_MANY_REQUESTS => Self::Throttled { detail, retry_after },
            StatusCode::REQUEST_TIMEOUT => Self::Server { detail, retry_after },
            status if status.is_server_error() => Self::Server { detail, retry_after },
            _ => {
                Self::Refused(Error::Unavailable { what: what.to_owned(), source: io::Error::other(detail) })
            }
        }
    }

    /// What kind of failure it is, in traces.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::Silent(_) => "silent",
            Self::Unusable(_) => "unusable",
            Self::Server { .. } => "server",
            Self::Throttled { .. } => "throttled",
            Self::Refused(error) | Self::Final(error) => error.name(),
            Self::Late => "late",
        }
    }

    /// What it means for the next try; `None`: nothing.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        Some(match self {
            Self::Connect(_) => Verdict::Connect,
            Self::Broken(_) => Verdict::Broken,
            Self::Silent(_) => Verdict::Silent,
            Self::Server { retry_after, .. } => Verdict::Server { retry_after: *retry_after },
            Self::Throttled { retry_after, .. } => Verdict::Throttled { retry_after: *retry_after },
            Self::Unusable(_) | Self::Refused(_) => Verdict::Refused,
            Self::Final(_) => Verdict::Final,
            Self::Late => return None,
        })
    }

    /// The same failure of an endpoint that is not the last word: another one may have what it has not.
    pub(crate) fn of_a_stand_in(self) -> Self {
        match self {
            Self::Final(error) => Self::Refused(error),
            other => other,
        }
    }

    /// What a caller is told of it.
    pub(crate) fn into_error(self, what: &str) -> Error {
        match self {
            Self::Refused(error) | Self::Final(error) => error,
            Self::Connect(detail)
            | Self::Broken(detail)
            | Self::Silent(detail)
            | Self::Unusable(detail)
            | Self::Server { detail, .. }
            | Self::Throttled { detail, .. } => {
                Error::Unavailable { what: what.to_owned(), source: io::Error::other(detail) }
            }
            Self::Late => Error::Unavailable {
                what: what.to_owned(),
                source: io::Error::new(io::ErrorKind::TimedOut, LATE),
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(detail)
            | Self::Broken(detail)
            | Self::Silent(detail)
            | Self::Unusable(detail)
            | Self::Server { detail, .. }
            | Self::Throttled { detail, .. } => f.write_str(detail),
            Self::Refused(error) | Self::Final(error) => error.fmt(f),
            Self::Late => f.write_str(LATE),
        }
    }
}

/// Whether TLS failed because of a certificate. An I/O error hides what it wraps from `source`.
pub(super) fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.is_some_and(|wrapped| is_untrusted(wrapped)) || error.source().is_some_and(is_untrusted)
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Mon, 21 Oct 2120 07:28:00 GMT") > Some(Duration::from_secs(1 << 30)));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-1"), None);
    }
}
