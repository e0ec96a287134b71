//! What all backends that speak HTTP have in common, and the plain HTTP server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Problem;
use super::secret::{Secret, SecretUrl};
use super::section::Section;

const SECONDS: &str = "seconds";

/// The two ways to speak HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    pub(super) const ALL: [(&'static str, Scheme); 2] = [("http", Scheme::Http), ("https", Scheme::Https)];

    /// `http` or `https`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How requests are sent, whatever they ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpOptions {
    /// The longest time without progress; `None`: no limit but the read's deadline.
    pub timeout: Option<Duration>,
    /// The longest time to connect, and for a proxy's health probe; `None`: no limit but the read's deadline.
    pub connect_timeout: Option<Duration>,
    /// The most tries after the first; 0: as many as the read's deadline allows.
    pub retry_limit: u8,
    /// Accept any certificate.
    pub skip_verify: bool,
    /// PEM files with further root certificates.
    pub ca_cert_files: Vec<PathBuf>,
    /// PEM files of the certificate and of its key that prove who we are.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Where requests are sent first. Never together with mirrors.
    pub proxy: Option<Proxy>,
    /// Asked in this order before the origin.
    pub mirrors: Vec<Mirror>,
}

impl HttpOptions {
    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        let options = Self {
            timeout: seconds32(section, "timeout", 5)?,
            connect_timeout: seconds32(section, "connect_timeout", 5)?,
            retry_limit: section
                .integer("retry_limit", 0..=u8::MAX.into(), "tries")?
                .and_then(|limit| u8::try_from(limit).ok())
                .unwrap_or(0),
            skip_verify: section.boolean("skip_verify")?.unwrap_or(false),
            ca_cert_files: section.paths("ca_cert_files")?,
            client_cert: client_cert(section)?,
            proxy: section.table("proxy", Proxy::read)?.flatten(),
            mirrors: section.tables("mirrors", Mirror::read)?,
        };
        if options.proxy.is_some() && !options.mirrors.is_empty() {
            return Err(section.invalid(
                "mirrors",
                "cannot be used together with `proxy.url`: expected one of the two, found both",
            ));
        }
        Ok(options)
    }
}

/// Seconds of 32 bits; 0 is none.
fn seconds32(section: &mut Section, key: &str, default: u32) -> Result<Option<Duration>, Problem> {
    let seconds = section.integer32(key, SECONDS)?.unwrap_or(default);
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

/// Seconds that end up in arithmetic on points in time, so that they have a limit.
fn seconds(section: &mut Section, key: &str, default: u64) -> Result<Duration, Problem> {
    let seconds = section.integer(key, 0..=u32::MAX.into(), SECONDS)?.unwrap_or(default);
    Ok(Duration::from_secs(seconds))
}

fn client_cert(section: &mut Section) -> Result<Option<(PathBuf, PathBuf)>, Problem> {
    match (section.path("client_cert_file")?, section.path("client_key_file")?) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (Some(_), None) => {
            Err(section.invalid("client_key_file", "missing; expected the key of `client_cert_file`"))
        }
        (None, Some(_)) => {
            Err(section.invalid("client_cert_file", "missing; expected the certificate of `client_key_file`"))
        }
    }
}

/// A server that fetches for us, such as a Dragonfly peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Its address.
    pub url: SecretUrl,
    /// Asked whether the proxy is healthy; `None`: it always is.
    pub ping_url: Option<SecretUrl>,
    /// Go to the origin when the proxy fails or is not healthy.
    pub fallback: bool,
    /// Between two probes.
    pub check_interval: Duration,
    /// No probes after this long without a request.
    pub check_pause_elapsed: Duration,
    /// Ask the proxy for `https` addresses as `http`.
    pub use_http: bool,
}

impl Proxy {
    /// `None` when the table is there but names no proxy.
    fn read(section: &mut Section) -> Result<Option<Self>, Problem> {
        let url = section.url("url")?;
        let ping_url = section.url("ping_url")?;
        let fallback = section.boolean("fallback")?.unwrap_or(true);
        let check_interval = seconds(section, "check_interval", 5)?;
        let check_pause_elapsed = seconds(section, "check_pause_elapsed", 300)?;
        let use_http = section.boolean("use_http")?.unwrap_or(false);
        if section.url("dragonfly_scheduler_endpoint")?.is_some() {
            return Err(section.invalid(
                "dragonfly_scheduler_endpoint",
                "not supported yet; expected nothing or an empty text (`url` takes a Dragonfly peer as a proxy)",
            ));
        }
        Ok(url.map(|url| Self { url, ping_url, fallback, check_interval, check_pause_elapsed, use_http }))
    }
}

/// A server that has what the origin has.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Its address, with scheme.
    pub host: SecretUrl,
    /// Sent with each request to it. Their values may be secrets.
    pub headers: BTreeMap<String, Secret>,
    /// Asked whether the mirror is healthy; `None`: the host's `/v2/`.
    pub ping_url: Option<SecretUrl>,
    /// Between two probes.
    pub health_check_interval: Duration,
    /// Failures in a row after which it is left alone.
    pub failure_limit: u8,
}

impl Mirror {
    fn read(section: &mut Section) -> Result<Self, Problem> {
        const EXPECTED: &str = "an address that begins with http:// or https://";
        let host = section.url("host")?.ok_or_else(|| section.missing("host", EXPECTED))?;
        if !is_http_address(host.expose()) {
            return Err(section.invalid("host", format!("expected {EXPECTED}, found another text")));
        }
        Ok(Self {
            host,
            headers: section.secrets("headers")?,
            ping_url: section.url("ping_url")?,
            health_check_interval: seconds(section, "health_check_interval", 5)?,
            failure_limit: section
                .integer("failure_limit", 0..=u8::MAX.into(), "failures")?
                .and_then(|limit| u8::try_from(limit).ok())
                .unwrap_or(5),
        })
    }
}

fn is_http_address(text: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|host| !host.is_empty()))
}

/// A plain HTTP server that has the blobs by their ids. Schema v2 only.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProxy {
    /// The address of the server, or the absolute path of its unix socket.
    pub addr: SecretUrl,
    /// What stands before the blob's id in the address; not used for a socket.
    pub path: String,
    /// How requests are sent.
    pub http: HttpOptions,
}

impl HttpProxy {
    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        const EXPECTED: &str =
            "an address that begins with http:// or https://, or the absolute path of a unix socket";
        let addr = section.url("addr")?.ok_or_else(|| section.missing("addr", EXPECTED))?;
        if !is_http_address(addr.expose()) && !addr.expose().starts_with('/') {
            return Err(section.invalid("addr", format!("expected {EXPECTED}, found another text")));
        }
        Ok(Self { addr, path: section.text("path")?.unwrap_or_default(), http: HttpOptions::read(section)? })
    }
}
