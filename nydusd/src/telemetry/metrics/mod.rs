//! Metrics: what the daemon counts, as `GET /metrics` shows it (docs/observability.md) and as the API of the reference
//! implementation does ([`json`]).
//!
//! Invariant: nothing is counted here. What is counted lies with those who do it, in numbers without locks; this looks at
//! them when it is asked, so that a metric that nobody reads costs nothing.

mod clock;
mod families;
mod files;
pub mod json;
mod operations;
mod reads;

use std::sync::Arc;

use blobcache::BlobCache;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use storage::backend::Backend as _;
use storage::backend::measured::Measured;
use storage::http::{EndpointStatus, Load, TokenFetches};

pub use files::{Files, Recording};
pub use operations::{Inflight, Operation, Operations, Tally, Totals};
pub use reads::{Reads, Wait, WaitEnding};

/// The type of what [`exposition`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is to be shown of one mounted image.
#[derive(Debug)]
pub struct Mount {
    /// Its place in the tree, such as `/`.
    mountpoint: String,
    reads: Arc<Reads>,
    operations: Arc<Operations>,
    cache: Arc<BlobCache>,
    backend: Arc<Measured>,
    endpoints: Vec<EndpointStatus>,
}

impl Mount {
    /// Looks at an image that is mounted at `mountpoint`.
    pub fn new(
        mountpoint: &str,
        reads: Arc<Reads>,
        operations: Arc<Operations>,
        cache: Arc<BlobCache>,
        backend: Arc<Measured>,
    ) -> Self {
        let endpoints = backend.endpoints();
        Self { mountpoint: mountpoint.to_owned(), reads, operations, cache, backend, endpoints }
    }
}

/// All that there is to be shown.
#[derive(Debug)]
pub struct Sources {
    /// Mounted images.
    pub mounts: Vec<Mount>,
    /// What all backends have under way together.
    pub load: Load,
    /// How often token services were asked.
    pub token_fetches: TokenFetches,
}

/// All metrics, in the text format of OpenMetrics 1.0, which Prometheus reads.
pub fn exposition(sources: Sources) -> String {
    let mut registry = Registry::with_prefix(families::PREFIX);
    registry.register_collector(Box::new(sources));
    let mut text = String::new();
    if let Err(error) = encode(&mut text, &registry) {
        // Writing to a text cannot fail.
        tracing::error!(%error, "metrics cannot be written");
    }
    text
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        families::FAMILIES.iter().try_for_each(|family| family.encode(self, &mut encoder))
    }
}

#[cfg(test)]
mod tests;
