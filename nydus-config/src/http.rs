//! What all backends that speak HTTP have in common, and the plain HTTP server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use storage::backend::http_proxy::HttpProxyConfig;
use storage::http::{HttpOptions, Mirror, Proxy, Scheme};

use super::error::Problem;
use super::section::Section;

const SECONDS: &str = "seconds";

/// The schemes, by their names in a configuration.
pub(super) const SCHEMES: [(&str, Scheme); 2] = [("http", Scheme::Http), ("https", Scheme::Https)];

/// The keys that all backends that speak HTTP have.
pub(super) fn read_options(section: &mut Section) -> Result<HttpOptions, Problem> {
    let options = HttpOptions {
        timeout: seconds32(section, "timeout", 5)?,
        connect_timeout: seconds32(section, "connect_timeout", 5)?,
        retry_limit: section
            .integer("retry_limit", 0..=u8::MAX.into(), "tries")?
            .and_then(|limit| u8::try_from(limit).ok())
            .unwrap_or(0),
        skip_verify: section.boolean("skip_verify")?.unwrap_or(false),
        ca_cert_files: section.paths("ca_cert_files")?,
        client_cert: client_cert(section)?,
        proxy: section.table("proxy", read_proxy)?.flatten(),
        mirrors: section.tables("mirrors", read_mirror)?,
        headers: BTreeMap::new(),
        // A matter of the cache's configuration.
        prefetch_bandwidth: 0,
    };
    if options.proxy.is_some() && !options.mirrors.is_empty() {
        return Err(section.invalid(
            "mirrors",
            "cannot be used together with `proxy.url`: expected one of the two, found both",
        ));
    }
    Ok(options)
}

/// Seconds of 32 bits; 0 is none.
fn seconds32(section: &mut Section, key: &str, default: u32) -> Result<Option<Duration>, Problem> {
    let seconds = section.integer32(key, SECONDS)?.unwrap_or(default);
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

/// Seconds between two probes: at least one.
fn interval(section: &mut Section, key: &str) -> Result<Duration, Problem> {
    Ok(seconds(section, key, 5)?.max(Duration::from_secs(1)))
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

/// `None` when the table is there but names no proxy.
fn read_proxy(section: &mut Section) -> Result<Option<Proxy>, Problem> {
    let url = section.url("url")?;
    let ping_url = section.url("ping_url")?;
    let fallback = section.boolean("fallback")?.unwrap_or(true);
    let check_interval = interval(section, "check_interval")?;
    let check_pause_elapsed = seconds(section, "check_pause_elapsed", 300)?;
    let use_http = section.boolean("use_http")?.unwrap_or(false);
    if section.url("dragonfly_scheduler_endpoint")?.is_some() {
        return Err(section.invalid(
            "dragonfly_scheduler_endpoint",
            "not supported yet; expected nothing or an empty text (`url` takes a Dragonfly peer as a proxy)",
        ));
    }
    Ok(url.map(|url| Proxy { url, ping_url, fallback, check_interval, check_pause_elapsed, use_http }))
}

fn read_mirror(section: &mut Section) -> Result<Mirror, Problem> {
    const EXPECTED: &str = "an address that begins with http:// or https://";
    let host = section.url("host")?.ok_or_else(|| section.missing("host", EXPECTED))?;
    if !is_http_address(host.expose()) {
        return Err(section.invalid("host", format!("expected {EXPECTED}, found another text")));
    }
    Ok(Mirror {
        host,
        headers: section.secrets("headers")?,
        ping_url: section.url("ping_url")?,
        health_check_interval: interval(section, "health_check_interval")?,
        failure_limit: section
            .integer("failure_limit", 0..=u8::MAX.into(), "failures")?
            .and_then(|limit| u8::try_from(limit).ok())
            .unwrap_or(5),
    })
}

fn is_http_address(text: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|host| !host.is_empty()))
}

/// The keys of a plain HTTP server. Schema v2 only.
pub(super) fn read_http_proxy(section: &mut Section) -> Result<HttpProxyConfig, Problem> {
    const EXPECTED: &str =
        "an address that begins with http:// or https://, or the absolute path of a unix socket";
    let addr = section.url("addr")?.ok_or_else(|| section.missing("addr", EXPECTED))?;
    if !is_http_address(addr.expose()) && !addr.expose().starts_with('/') {
        return Err(section.invalid("addr", format!("expected {EXPECTED}, found another text")));
    }
    Ok(HttpProxyConfig {
        addr,
        path: section.text("path")?.unwrap_or_default(),
        http: read_options(section)?,
    })
}
