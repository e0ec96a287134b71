//! Counters in the shapes of the administration API, whose keys are those of the reference implementation (as far as they
//! mean something here), and our own beside them.

use std::path::Path;
use std::time::Instant;

use blobcache::BlobCache;
use serde_json::{Map, Value, json};
use storage::backend::Backend as _;
use storage::backend::measured::Measured;
use storage::http::{EndpointStatus, TryOutcome};
use storage::metrics::Counter;

/// The answer of `/metrics/backend`. `kind` is the backend's name in a configuration.
pub fn backend(kind: &str, backend: &Measured) -> Value {
    let metrics = backend.metrics();
    // The reference implementation reads S3 with the code of OSS, and calls it so.
    let kind = if kind == "s3" { "oss" } else { kind };
    let by_latency = |row: &[Counter]| row.iter().map(Counter::get).collect::<Vec<_>>();
    let dist: Vec<Vec<u64>> = metrics.sizes_by_latency.iter().map(|row| by_latency(row)).collect();
    let millis = by_latency(&metrics.millis_by_size);
    json!({
        "backend_type": kind,
        "read_count": metrics.read_count(),
        "read_errors": metrics.read_errors(),
        "read_amount_total": metrics.bytes.get(),
        "read_cumulative_latency_millis_total": millis.iter().sum::<u64>(),
        "read_cumulative_latency_millis_dist": millis,
        "read_count_block_size_dist": dist.iter().map(|row| row.iter().sum()).collect::<Vec<u64>>(),
        "read_latency_sizes_dist": dist,
        "endpoints": backend.endpoints().iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(endpoint: &EndpointStatus) -> Value {
    let (health, now) = (&endpoint.health, Instant::now());
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let tries = TryOutcome::ALL.into_iter().zip(endpoint.tries).filter(|(_, count)| *count > 0);
    json!({
        "name": endpoint.name,
        "role": endpoint.role.name(),
        "breaker": health.phase.name(),
        "breaker_openings": health.openings,
        "breaker_open_millis": health.open_since.map(|since| millis(now.saturating_duration_since(since))),
        "paused_millis": health.paused_until.map(|until| millis(until.saturating_duration_since(now))),
        "ping_answered": health.pings,
        "usable": health.usable,
        "tries_in_flight": health.in_flight,
        "tries_limit": health.limit,
        "tries_waiting": health.waiting,
        "tries": tries.map(|(outcome, count)| (outcome.name().to_owned(), json!(count))).collect::<Map<_, _>>(),
        "retries": endpoint.retries,
        "hedges": endpoint.hedges,
        "http_requests": endpoint.requests,
        "received_bytes": endpoint.received_bytes,
    })
}

/// The answer of `/metrics/blobcache`. `work_dir` is that of the configuration.
pub fn cache(work_dir: &Value, cache: &BlobCache) -> Value {
    let metrics = cache.metrics();
    json!({
        "store_path": work_dir.as_str().map_or(Path::new(""), Path::new),
        "entries_count": metrics.chunks_cached.get(),
        "backend_requests": metrics.backend_requests.get(),
        "backend_bytes": metrics.backend_bytes.get(),
        "backend_errors": metrics.backend_errors.get(),
        "metadata_requests": metrics.metadata_requests.get(),
        "bytes_from_cache": metrics.bytes_from_cache.get(),
        "bytes_from_memory": metrics.bytes_from_memory.get(),
        "bytes_from_fetch": metrics.bytes_from_fetch.get(),
        "chunks_fetched": metrics.chunks_fetched.get(),
        "chunks_cached": metrics.chunks_cached.get(),
        "digest_mismatches": metrics.digest_mismatches.get(),
        "refetches": metrics.refetches.get(),
        "cache_chunks_accepted": metrics.cache_chunks_accepted.get(),
        "cache_chunks_rejected": metrics.cache_chunks_rejected.get(),
        "cache_read_errors": metrics.cache_read_errors.get(),
        "cache_write_errors": metrics.cache_write_errors.get(),
        "cache_sync_errors": metrics.cache_sync_errors.get(),
        "foreign_waits": metrics.foreign_waits.get(),
        "timeouts": metrics.timeouts.get(),
    })
}
