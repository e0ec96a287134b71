//! What `PUT /config` may change while the daemon runs.
//!
//! Invariant: a value is never shown, neither in an answer nor in an error nor in a log line.

use serde_json::Value;
use storage::secret::Secret;

use super::error::Error;

/// A setting of a backend. What has no effect is remembered by its key alone: no value can be asked back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// From now on we are this to the registry: base64 of `user:password`.
    RegistryAuth(Secret),
    /// Another proxy. The proxy of a backend cannot change while it is mounted.
    ProxyUrl,
    /// Another scheduler of Dragonfly. Not supported.
    DragonflySchedulerEndpoint,
}

impl Setting {
    /// Its key in the API.
    pub fn key(&self) -> &'static str {
        match self {
            Self::RegistryAuth(_) => "registry_auth",
            Self::ProxyUrl => "proxy_url",
            Self::DragonflySchedulerEndpoint => "dragonfly_scheduler_endpoint",
        }
    }

    /// Reads the body of a request: a map of strings.
    pub(super) fn read(body: &[u8]) -> Result<Vec<Self>, Error> {
        // Not into a map at once: the error would quote what it found instead.
        let body: Value = serde_json::from_slice(body).map_err(|error| Error::Body(format!("{error:?}")))?;
        let not_a_map =
            || Error::Body(r#"Error("expected a map of strings", line: 0, column: 0)"#.to_owned());
        let map = body.as_object().ok_or_else(not_a_map)?;
        let strings = map.iter().map(|(key, value)| value.as_str().map(|text| (key, text)));
        let strings: Vec<_> = strings.collect::<Option<_>>().ok_or_else(not_a_map)?;
        strings.into_iter().map(|(key, text)| Self::new(key, text)).collect()
    }

    fn new(key: &str, value: &str) -> Result<Self, Error> {
        match key {
            "registry_auth" => Ok(Self::RegistryAuth(Secret::new(value))),
            "proxy_url" => Ok(Self::ProxyUrl),
            "dragonfly_scheduler_endpoint" => Ok(Self::DragonflySchedulerEndpoint),
            _ => {
                tracing::warn!(
                    "a setting is refused: {key:?}: unknown; expected registry_auth, proxy_url or dragonfly_scheduler_endpoint"
                );
                Err(Error::Setting)
            }
        }
    }
}
