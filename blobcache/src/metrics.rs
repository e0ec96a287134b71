//! What a cache did, counted.

use storage::metrics::Counter;

/// Counters of one [`crate::BlobCache`], since it was opened.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Reads that had to look further than [`crate::Blob::ready`], and got their data.
    pub reads: Counter,
    /// Those of them that got all of it from the local copy.
    pub reads_cached: Counter,
    /// Those that got some of it there, and the rest from a fetch.
    pub reads_partly_cached: Counter,
    /// Range reads sent to the backend for chunk data.
    pub backend_requests: Counter,
    /// Bytes that those reads returned.
    pub backend_bytes: Counter,
    /// Reads of chunk data that the backend failed.
    pub backend_errors: Counter,
    /// Reads sent to the backend for chunk tables and digest arrays.
    pub metadata_requests: Counter,
    /// Bytes handed to readers from the local copy.
    pub bytes_from_cache: Counter,
    /// Bytes handed to readers from chunks held in memory.
    pub bytes_from_memory: Counter,
    /// Pieces of chunks that were found in memory.
    pub memory_hits: Counter,
    /// Bytes handed to readers from a fetch, theirs or one they joined.
    pub bytes_from_fetch: Counter,
    /// Chunks decoded from fetched data.
    pub chunks_fetched: Counter,
    /// Chunks whose fetched bytes were not what digest, checksum or codec promise.
    pub digest_mismatches: Counter,
    /// Second fetches because of that.
    pub refetches: Counter,
    /// Cached chunks that were checked at first use and found right.
    pub cache_chunks_accepted: Counter,
    /// Cached chunks that were checked at first use and thrown away.
    pub cache_chunks_rejected: Counter,
    /// Chunks written to the local copy.
    pub chunks_cached: Counter,
    /// Failed reads of the local copy.
    pub cache_read_errors: Counter,
    /// Failed writes of the local copy: full disk, quota, I/O errors.
    pub cache_write_errors: Counter,
    /// Failed syncs of the local copy.
    pub cache_sync_errors: Counter,
    /// Times that another process was waited for.
    pub foreign_waits: Counter,
    /// Reads that ended by their deadline.
    pub timeouts: Counter,
}
