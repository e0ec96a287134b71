//! Counters in the shapes of the administration API, whose keys are those of the reference implementation (as far as they
//! mean something here), and our own beside them.

use std::path::Path;
use std::time::Instant;

use blobcache::BlobCache;
use rafs::Superblock;
use serde_json::{Map, Value, json};
use storage::backend::Backend as _;
use storage::backend::measured::Measured;
use storage::blob::BlobId;
use storage::http::{EndpointStatus, TryOutcome};
use storage::metrics::Counter;

use super::{Files, Inflight, Operations};
use crate::filesystem::KEPT;

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

/// The answer of `/metrics/blobcache`: the keys of the reference implementation, those of its prefetch 0 since nothing is
/// prefetched, then our own. `work_dir` is that of the configuration, `blobs` are those of the image.
pub fn cache(work_dir: &Value, blobs: &[BlobId], operations: &Operations, cache: &BlobCache) -> Value {
    let metrics = cache.metrics();
    // Garbage collectors take the files of these names for used, and no others.
    let files: Vec<String> = blobs.iter().map(|id| format!("{id}.blob.data")).collect();
    // A READ that is answered at once is one whose data was all there.
    let ready = operations.ready();
    json!({
        "underlying_files": files,
        "store_path": work_dir.as_str().map_or(Path::new(""), Path::new),
        "partial_hits": metrics.reads_partly_cached.get(),
        "whole_hits": ready + metrics.reads_cached.get(),
        "total": ready + metrics.reads.get(),
        "entries_count": metrics.chunks_cached.get(),
        "prefetch_data_amount": 0,
        "prefetch_requests_count": 0,
        "prefetch_workers": 0,
        "prefetch_unmerged_chunks": 0,
        "prefetch_cumulative_time_millis": 0,
        "prefetch_begin_time_secs": 0,
        "prefetch_begin_time_millis": 0,
        "prefetch_end_time_secs": 0,
        "prefetch_end_time_millis": 0,
        "buffered_backend_size": 0,
        "data_all_ready": false,
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

/// The answer of `/metrics`. `id` is the mountpoint.
pub fn filesystem(id: &str, operations: &Operations) -> Value {
    let totals = operations.totals();
    let recording = operations.files().map(Files::recording).unwrap_or_default();
    json!({
        "files_account_enabled": recording.counts,
        "access_pattern_enabled": recording.patterns,
        "record_latest_read_files_enabled": recording.latest,
        "measure_latency": true,
        "id": id,
        // The kernel opens files without asking.
        "nr_opens": 0,
        "data_read": totals.read_bytes,
        "block_count_read": totals.read_sizes,
        "fop_hits": totals.hits,
        "fop_errors": totals.errors,
        "fop_cumulative_latency_total": totals.micros,
        "read_latency_dist": totals.read_latencies,
    })
}

/// One request of the answer of `/metrics/inflight`.
pub fn inflight(request: &Inflight) -> Value {
    json!({
        "inode": request.nodeid,
        "opcode": request.opcode,
        "unique": request.unique,
        "timestamp_secs": request.since_secs,
    })
}

/// The answer of `/daemon/backend`.
pub fn superblock(block: &Superblock) -> Value {
    let timeout = json!({"secs": KEPT.as_secs(), "nanos": KEPT.subsec_nanos()});
    json!({
        "magic": block.magic,
        "version": block.version,
        "sb_size": block.size,
        "root_inode": block.root_inode,
        "chunk_size": block.chunk_size,
        "batch_size": 0,
        "inodes_count": block.inode_count,
        "flags": {"bits": block.flags},
        "inode_table_entries": block.inode_table_entries,
        "inode_table_offset": block.inode_table_offset,
        "blob_table_size": block.blob_table_size,
        "blob_table_offset": block.blob_table_offset,
        "extended_blob_table_offset": block.extended_blob_table_offset,
        "extended_blob_table_entries": block.extended_blob_table_entries,
        "blob_device_table_count": block.device_count,
        "blob_device_table_offset": block.device_slot_offset,
        "prefetch_table_offset": block.prefetch_table_offset,
        "prefetch_table_entries": block.prefetch_table_entries,
        "attr_timeout": timeout,
        "entry_timeout": timeout,
        "is_chunk_dict": false,
        "meta_blkaddr": block.meta_block,
        "root_nid": block.root_nid,
        "chunk_table_offset": block.chunk_table_offset,
        "chunk_table_size": block.chunk_table_size,
    })
}
