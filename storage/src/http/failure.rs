//! Why one try failed, and what that says of the next one. Nothing in here holds a secret: addresses are shown
//! without their query, and of a server's answer only its status and the code in its body.

use std::time::{Duration, SystemTime};
use std::{fmt, io};

use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use rustls::InvalidMessage;

use super::client::Answer;
use super::watch::TryOutcome;
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
    /// No connection, and none to be had before somebody changes something: the name does not exist, or one of us cannot
    /// prove to the other who he is.
    Unusable(String),
    /// The same, since the port speaks no TLS.
    NotTls(String),
    /// 5xx other than 503.
    Server { detail: String, retry_after: Option<Duration> },
    /// 503.
    Overloaded { detail: String, retry_after: Option<Duration> },
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
        let (mut detail, tls) = (error.to_string(), tls(&error));
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !detail.ends_with(&text) {
                detail = format!("{detail}: {text}");
            }
            source = cause.source();
        }
        match tls {
            Some(Tls::Untrusted) => Self::Unusable(detail),
            _ if is_turned_away(&detail) => Self::Unusable(detail),
            // 407 to the request for a tunnel.
            _ if is_connect && detail.contains("proxy authorization required") => Self::Unusable(detail),
            Some(Tls::Foreign) if is_connect => Self::NotTls(detail),
            _ if is_builder || is_connect && is_unknown_name(&detail) => Self::Unusable(detail),
            _ if is_connect => Self::Connect(detail),
            _ => Self::Broken(detail),
        }
    }

    /// An answer that is neither success nor a redirect. `what` names the object and `place` where it was looked for.
    pub(crate) async fn of_answer(answer: Answer, what: &str, place: &str) -> Self {
        let status = answer.status();
        let now = answer.date().unwrap_or_else(SystemTime::now);
        let retry_after = answer.header(RETRY_AFTER).and_then(|value| retry_after(value, now));
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
            StatusCode::SERVICE_UNAVAILABLE => Self::Overloaded { detail, retry_after },
            StatusCode::REQUEST_TIMEOUT => Self::Server { detail, retry_after },
            status if status.is_server_error() => Self::Server { detail, retry_after },
            _ => {
                Self::Refused(Error::Unavailable { what: what.to_owned(), source: io::Error::other(detail) })
            }
        }
    }

    /// What kind of failure it is, in metrics and traces.
    pub(crate) fn name(&self) -> &'static str {
        TryOutcome::of_failure(self).name()
    }

    /// What it means for the next try; `None`: nothing.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        Some(match self {
            Self::Connect(_) => Verdict::Connect,
            Self::Broken(_) => Verdict::Broken,
            Self::Silent(_) => Verdict::Silent,
            Self::Server { retry_after, .. } => Verdict::Server { retry_after: *retry_after },
            Self::Overloaded { retry_after, .. } => Verdict::Overloaded { retry_after: *retry_after },
            Self::Throttled { retry_after, .. } => Verdict::Throttled { retry_after: *retry_after },
            Self::Unusable(_) | Self::NotTls(_) => Verdict::Unusable,
            Self::Refused(_) => Verdict::Refused,
            Self::Final(_) => Verdict::Final,
            Self::Late => return None,
        })
    }

    /// How long the server asked to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.verdict().and_then(Verdict::retry_after)
    }

    /// Whether no answer has come, or one of somebody on the way: another way may lead there.
    pub(crate) fn is_of_the_way(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Broken(_)
            | Self::Silent(_)
            | Self::Unusable(_)
            | Self::NotTls(_)
            | Self::Server { .. }
            | Self::Overloaded { .. } => true,
            Self::Refused(error) => matches!(error, Error::Denied { .. }),
            Self::Throttled { .. } | Self::Final(_) | Self::Late => false,
        }
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
            | Self::NotTls(detail)
            | Self::Server { detail, .. }
            | Self::Overloaded { detail, .. }
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
            | Self::NotTls(detail)
            | Self::Server { detail, .. }
            | Self::Overloaded { detail, .. }
            | Self::Throttled { detail, .. } => f.write_str(detail),
            Self::Refused(error) | Self::Final(error) => error.fmt(f),
            Self::Late => f.write_str(LATE),
        }
    }
}

/// The beginning of what somebody else said, in quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(60).collect::<String>())
}

/// What kind of failure to connect it is, as [`Failure::name`].
pub(crate) fn name_of_connect(error: &(dyn std::error::Error + 'static)) -> &'static str {
    if tls(error).is_some() { TryOutcome::Unusable.name() } else { TryOutcome::Connect.name() }
}

/// Failures of TLS that stay.
enum Tls {
    /// The server's certificate is not good enough for us.
    Untrusted,
    /// What came is not TLS; at its beginning, the port speaks another language, plain http for one.
    Foreign,
}

/// What of TLS failed, if it is of that kind. An I/O error hides what it wraps from `source`.
fn tls(error: &(dyn std::error::Error + 'static)) -> Option<Tls> {
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_)) => return Some(Tls::Untrusted),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => return Some(Tls::Foreign),
        _ => {}
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.and_then(|wrapped| tls(wrapped)).or_else(|| error.source().and_then(tls))
}

/// Whether the server has turned us away with a TLS alert that stays: for want of a good certificate of ours, or of a
/// protocol that both speak. HTTP/2 keeps the alert's words and not the alert.
fn is_turned_away(detail: &str) -> bool {
    const STAYING: [&str; 11] = [
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "CertificateRequired",
        "UnknownCA",
        "AccessDenied",
        "HandshakeFailure",
        "ProtocolVersion",
        "InsufficientSecurity",
    ];
    let alert = detail.split_once("received fatal alert: ").map(|(_, alert)| alert);
    alert.is_some_and(|alert| STAYING.iter().any(|name| alert.starts_with(name)))
}

/// Whether the resolver has been told that there is no such host, which is not the same as no answer. The standard library
/// gives the words of the C library and no code.
fn is_unknown_name(detail: &str) -> bool {
    const UNKNOWN: [&str; 3] =
        ["Name or service not known", "No address associated with hostname", "Name does not resolve"];
    UNKNOWN.iter().any(|words| detail.contains(words))
}

/// `Retry-After`, in seconds or as a date; `now` by the clock that wrote it.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_server_s_clock() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        for (value, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("Wed, 21 Oct 2015 07:28:07 GMT", Some(7)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("Thu, 21 Oct 9999 07:28:00 GMT", Some(251_944_732_800)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            let found = retry_after(value, now);
            match expected {
                Some(seconds) if seconds > 1 << 37 && seconds < u64::MAX => {
                    assert!(found > Some(Duration::from_secs(1 << 37)), "{value}: {found:?}");
                }
                _ => assert_eq!(found, expected.map(Duration::from_secs), "{value}"),
            }
        }
    }

    #[test]
    fn alerts_that_stay_are_told_by_their_names() {
        use rustls::{AlertDescription as Alert, Error};
        for (alert, stays) in [
            (Alert::CertificateRequired, true),
            (Alert::UnknownCA, true),
            (Alert::HandshakeFailure, true),
            (Alert::ProtocolVersion, true),
            (Alert::InternalError, false),
            (Alert::BadRecordMac, false),
        ] {
            let detail = format!("connection error: {}", Error::AlertReceived(alert));
            assert_eq!(is_turned_away(&detail), stays, "{detail}");
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_not_a_resolver_that_does_not_answer() {
        for (detail, expected) in [
            ("dns error: failed to lookup address information: Name or service not known", true),
            ("failed to lookup address information: No address associated with hostname", true),
            ("failed to lookup address information: Temporary failure in name resolution", false),
            ("tcp connect error: Connection refused (os error 111)", false),
        ] {
            assert_eq!(is_unknown_name(detail), expected, "{detail}");
        }
    }
}
