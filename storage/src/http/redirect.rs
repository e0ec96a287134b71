//! Where a redirect leads, and whether we go there.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use reqwest::{StatusCode, Url};

use super::failure::quoted;
use super::options::Scheme;
use crate::blob::BlobId;
use crate::lock;

/// The most redirects of one request.
pub(crate) const MAX_REDIRECTS: usize = 5;
/// The longest address we are led to: signatures take a kilobyte or two.
const MAX_LOCATION: usize = 16 << 10;
/// The most targets that are remembered: an image has at most 256 blobs, each on a few endpoints.
const MAX_KEPT: usize = 4096;

/// What the configuration says of the targets of redirects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Forced on targets.
    pub scheme: Option<Scheme>,
    /// Forced on targets: `host[:port]`.
    pub host: Option<String>,
}

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether secrets for one of the two addresses may be sent to the other: same scheme, host and port.
pub(crate) fn is_same_place(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

impl Rules {
    /// Where `location`, found in the answer to `from`, leads. The error says why we do not go there; it shows nothing
    /// of the location but its scheme, since locations are signed.
    pub(crate) fn target(&self, from: &Url, location: Option<&str>) -> Result<Url, String> {
        let location = location.ok_or("a redirect without a location")?;
        if location.len() > MAX_LOCATION {
            return Err(format!("a redirect to an address of {} bytes", location.len()));
        }
        let mut target = from.join(location).map_err(|_| "a redirect to what is no address")?;
        if !matches!(target.scheme(), "http" | "https") {
            return Err(format!("a redirect to scheme {}", quoted(target.scheme())));
        }
        // Nobody else says who we are.
        let stripped = target.set_username("").and_then(|()| target.set_password(None));
        stripped.map_err(|()| "a redirect to what is no address")?;
        if let Some(scheme) = self.scheme {
            target.set_scheme(scheme.name()).map_err(|()| "blob_url_scheme does not fit the redirect")?;
        }
        if let Some(host) = &self.host {
            set_host(&mut target, host).ok_or("blob_redirected_host does not fit the redirect")?;
        }
        if from.scheme() == "https" && target.scheme() == "http" && self.scheme != Some(Scheme::Http) {
            return Err("a redirect from https to http, which blob_url_scheme does not allow".to_owned());
        }
        target.set_fragment(None);
        Ok(target)
    }
}

/// Replaces host and port.
fn set_host(url: &mut Url, authority: &str) -> Option<()> {
    let other = Url::parse(&format!("{}://{authority}", url.scheme())).ok()?;
    url.set_host(other.host_str()).ok()?;
    url.set_port(other.port()).ok()
}

/// Where the redirects of a blob led, so that the next range goes there at once. By endpoint, since each may send
/// elsewhere.
#[derive(Default)]
pub(crate) struct Targets {
    kept: Mutex<HashMap<(usize, BlobId), Url>>,
}

/// Signed addresses are secrets.
impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets").field("kept", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Targets {
    pub(crate) fn get(&self, endpoint: usize, blob: &BlobId) -> Option<Url> {
        self.lock().get(&(endpoint, blob.clone())).cloned()
    }

    pub(crate) fn keep(&self, endpoint: usize, blob: &BlobId, target: Url) {
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT {
            // Any will do: what is forgotten costs one redirect.
            if let Some(key) = kept.keys().next().cloned() {
                kept.remove(&key);
            }
        }
        kept.insert((endpoint, blob.clone()), target);
    }

    /// Forgets where the endpoint led.
    pub(crate) fn remove(&self, endpoint: usize, blob: &BlobId) {
        self.lock().remove(&(endpoint, blob.clone()));
    }

    /// Forgets `target`, unless another one has replaced it already.
    pub(crate) fn drop(&self, endpoint: usize, blob: &BlobId, target: &Url) {
        let key = (endpoint, blob.clone());
        let mut kept = self.lock();
        if kept.get(&key) == Some(target) {
            kept.remove(&key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(usize, BlobId), Url>> {
        lock(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn target(rules: &Rules, from: &str, location: &str) -> Result<String, String> {
        rules.target(&url(from), Some(location)).map(String::from)
    }

    #[test]
    fn targets() {
        let none = Rules::default();
        for (from, location, expected) in [
            ("https://r/v2/b", "https://cdn/x?sig=1", "https://cdn/x?sig=1"),
            ("https://r/v2/b", "/other", "https://r/other"),
            ("http://r:5000/v2/b", "//cdn:1/x#frag", "http://cdn:1/x"),
            ("http://r/v2/b", "https://user:pass@cdn/x", "https://cdn/x"),
        ] {
            assert_eq!(target(&none, from, location).unwrap(), expected);
        }
        for (from, location, complaint) in [
            ("https://r/b", "http://cdn/x", "from https to http"),
            ("https://r/b", "file:///etc/passwd", "scheme \"file\""),
            ("https://r/b", "https://", "no address"),
        ] {
            let error = target(&none, from, location).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
        assert!(none.target(&url("https://r/"), None).is_err());
        let long = format!("/{}", "x".repeat(MAX_LOCATION));
        assert!(target(&none, "https://r/b", &long).unwrap_err().contains("16385 bytes"));
    }

    #[test]
    fn targets_are_rewritten() {
        let http = Rules { scheme: Some(Scheme::Http), host: None };
        assert_eq!(target(&http, "https://r/b", "https://cdn/x").unwrap(), "http://cdn/x");
        let host = Rules { scheme: None, host: Some("10.0.0.1:8080".to_owned()) };
        assert_eq!(target(&host, "https://r/b", "https://cdn:99/x?y").unwrap(), "https://10.0.0.1:8080/x?y");
        let both = Rules { scheme: Some(Scheme::Https), host: Some("near".to_owned()) };
        assert_eq!(target(&both, "http://r/b", "http://cdn:99/x").unwrap(), "https://near/x");
    }

    #[test]
    fn secrets_stay_in_their_place() {
        for (a, b, same) in [
            ("https://r/a", "https://r:443/b?c", true),
            ("https://r/a", "https://R/a", true),
            ("https://r/a", "http://r/a", false),
            ("https://r/a", "https://r:444/a", false),
            ("https://r/a", "https://r.evil/a", false),
        ] {
            assert_eq!(is_same_place(&url(a), &url(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let targets = Targets::default();
        for number in 0..MAX_KEPT + 100 {
            targets.keep(0, &BlobId::new(&format!("{number}")).unwrap(), url("http://x/"));
        }
        assert_eq!(targets.lock().len(), MAX_KEPT);
        let blob = BlobId::new("b").unwrap();
        targets.keep(1, &blob, url("http://new/"));
        targets.drop(1, &blob, &url("http://old/"));
        assert_eq!(targets.get(1, &blob), Some(url("http://new/")));
        targets.drop(1, &blob, &url("http://new/"));
        assert_eq!(targets.get(1, &blob), None);
    }
}
