//! How requests are sent, whatever they ask for: what every HTTP backend is configured with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::{Secret, SecretUrl};

/// The two ways to speak HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How requests are sent.
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
    /// Sent with each request, `User-Agent` among them. Their values may be secrets.
    pub headers: BTreeMap<String, Secret>,
    /// Bytes a second that prefetch may bring; 0: no limit.
    pub prefetch_bandwidth: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        const SECONDS: Option<Duration> = Some(Duration::from_secs(5));
        Self {
            timeout: SECONDS,
            connect_timeout: SECONDS,
            retry_limit: 0,
            skip_verify: false,
            ca_cert_files: Vec::new(),
            client_cert: None,
            proxy: None,
            mirrors: Vec::new(),
            headers: BTreeMap::new(),
            prefetch_bandwidth: 0,
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
