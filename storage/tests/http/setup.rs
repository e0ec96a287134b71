//! What most tests begin with.

use std::time::{Duration, Instant};

use storage::backend::registry::{Registry, RegistryConfig};
use storage::backend::{Backend, Priority, Request};
use storage::blob::BlobId;
use storage::http::{Commons, HttpOptions, Scheme};
use storage::secret::Secret;

use crate::double::Double;

/// A content that differs at each offset.
pub fn content(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index ^ index >> 8 ^ index >> 16) as u8).collect()
}

pub fn blob() -> BlobId {
    BlobId::new(&"a1".repeat(32)).unwrap()
}

/// Long enough that only a hang meets it.
pub fn on_demand() -> Request {
    within(Duration::from_secs(30))
}

pub fn within(time: Duration) -> Request {
    Request::new(Priority::OnDemand, Instant::now() + time)
}

pub async fn read(backend: &dyn Backend, offset: u64, len: u64) -> storage::Result<Vec<u8>> {
    backend.read(&blob(), offset, len, on_demand()).await.map(|data| data.to_vec())
}

/// A registry at `double`, over plain http.
pub fn config(double: &Double) -> RegistryConfig {
    RegistryConfig {
        scheme: Scheme::Http,
        host: double.host(),
        repo: "library/test".to_owned(),
        auth: None,
        registry_token: None,
        blob_url_scheme: None,
        blob_redirected_host: None,
        docker_config: None,
        http: HttpOptions::default(),
    }
}

pub fn open(config: RegistryConfig) -> Registry {
    Registry::new(config, &Commons::new()).unwrap()
}

/// `user:password`, as configurations hold it.
pub fn auth(user: &str, password: &str) -> Secret {
    Secret::new(basic(user, password))
}

pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}
