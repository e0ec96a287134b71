//! `tracing`: where traces of slow reads are sent. The same table in both schemas, at the top.

use std::collections::BTreeMap;
use std::time::Duration;

use storage::secret::{Secret, SecretUrl};

use super::error::Problem;
use super::section::Section;

/// Where traces go; the environment variables of OpenTelemetry win over it (docs/observability.md).
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// The collector, to whose address `/v1/traces` is appended.
    pub endpoint: SecretUrl,
    /// Headers of every request to it.
    pub headers: BTreeMap<String, Secret>,
    /// Reads that waited less are forgotten.
    pub threshold: Duration,
}

impl Tracing {
    /// A read that waits this long is worth a trace.
    pub const THRESHOLD: Duration = Duration::from_millis(100);

    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        let endpoint = section.url("endpoint")?.ok_or_else(|| {
            section.missing("endpoint", "the address of an OTLP collector, http:// or https://")
        })?;
        if !["http://", "https://"].iter().any(|scheme| endpoint.expose().starts_with(scheme)) {
            return Err(
                section.invalid("endpoint", format!("expected http:// or https://, found {endpoint}"))
            );
        }
        let threshold = section.integer("threshold_ms", 0..=3_600_000, "milliseconds")?;
        Ok(Self {
            endpoint,
            headers: section.secrets("headers")?,
            threshold: threshold.map_or(Self::THRESHOLD, Duration::from_millis),
        })
    }
}
