//! From a configuration and a bootstrap to a mounted image.
//!
//! Everything that can be wrong with an image is found here, before anything is mounted: each error says which file
//! or key it is about.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use blobcache::{Blob, BlobCache, CacheOptions, CacheStorage, ErrorKind, Executor};
use rafs::{Bootstrap, OpenOptions};
use storage::backend::measured::Measured;
use storage::backend::traced::Traced;
use storage::backend::{Backend, Priority, Request};
use storage::blob::{BlobDescription, BlobFeatures};
use storage::digest::Digest;
use storage::http::Commons;
use storage::trace;
use tracing::field::Empty;
use tracing::{info, warn};

use crate::filesystem::Filesystem;
use crate::telemetry::metrics::Recording;
use nydus_config::{CacheKind, Config};

/// How long a local place may take to show that it has the blobs. One that takes longer is not refused: reads will
/// wait for it.
const LOCAL_CHECK: Duration = Duration::from_secs(5);

/// What the backends of all mounts share.
static COMMONS: LazyLock<Commons> = LazyLock::new(Commons::new);

/// A mounted image: its tree, and what the administration tells of it.
pub struct Image {
    /// The tree.
    pub filesystem: Arc<Filesystem>,
    /// Where its chunks are kept.
    pub cache: Arc<BlobCache>,
    /// Where they come from.
    pub backend: Arc<Measured>,
    /// The configuration, without secrets.
    pub config: serde_json::Value,
    /// When it was opened.
    pub since: SystemTime,
}

/// What the backends of all mounts share.
pub fn commons() -> &'static Commons {
    &COMMONS
}

impl Image {
    /// Opens the image of `bootstrap` as `config` says. `digest` is the SHA-256 that the bootstrap must have; `executor`
    /// is that of all mounts.
    pub fn open(
        config: &Config,
        bootstrap: &Path,
        digest: Option<Digest>,
        executor: &Executor,
    ) -> Result<Self> {
        let span = tracing::info_span!(
            target: trace::TARGET, parent: None, "mount", nydus.bootstrap = %bootstrap.display(),
            error.type = Empty, otel.status_description = Empty,
        );
        let opened = span.in_scope(|| Self::open_in_span(config, bootstrap, digest, executor));
        opened.inspect_err(|error| trace::failed(&span, "mount", format_args!("{error:#}")))
    }

    fn open_in_span(
        config: &Config,
        bootstrap: &Path,
        digest: Option<Digest>,
        executor: &Executor,
    ) -> Result<Self> {
        let rafs = config.rafs()?;
        let cache = &config.cache;
        let work_dir = work_dir(cache)?;
        if work_dir.is_none() {
            info!(
                memory_cache_bytes = cache.memory_cache_bytes,
                "no cache directory: what was read is held in memory as far as it fits, and fetched again after that; \
                 a cache of type \"blobcache\" with a work_dir would keep it on disk, for later mounts, other daemons and \
                 while the backend is down"
            );
        }
        if config.overlay.is_some() {
            bail!("overlay: writable overlays are not supported yet");
        }
        let options = OpenOptions {
            expected_digest: digest,
            verify_inodes: rafs.validate,
            extract_dir: work_dir.map(Path::to_owned),
        };
        let bootstrap = Arc::new(Bootstrap::open(bootstrap, &options)?);
        let mut place = config.backend()?.clone();
        if let (Some(http), Some(limit)) = (place.http_mut(), cache.prefetch.bandwidth()) {
            http.prefetch_bandwidth = limit.into();
        }
        let backend = Arc::new(Measured::new(Arc::new(Traced::new(place.open(&COMMONS)?, place.kind()))));
        let cache = BlobCache::open(cache_options(cache, rafs)?, backend.clone(), executor.clone())?;
        let mut blobs = Vec::with_capacity(bootstrap.blobs().len());
        for description in bootstrap.blobs() {
            if description.features.contains(BlobFeatures::EXTERNAL) {
                bail!("blob {}: external blobs are not supported yet", description.id);
            }
            blobs.push(cache.blob(description.clone(), bootstrap.clone())?);
        }
        // A place far away may be down now and back when something is read: only reads wait for it.
        if place.is_local() {
            executor.runtime().block_on(check_local_blobs(bootstrap.blobs(), &blobs, backend.as_ref()))?;
        }
        info!("RAFS filesystem imported");
        let recording = Recording {
            counts: rafs.iostats_files,
            patterns: rafs.access_pattern,
            latest: rafs.latest_read_files,
        };
        let filesystem = Filesystem::new(bootstrap, blobs, rafs.read_deadline, rafs.enable_xattr)
            .with_id_mapping(rafs.id_mapping)
            .recording(recording);
        Ok(Self {
            filesystem: Arc::new(filesystem),
            cache,
            backend,
            config: config.to_daemon_info(),
            since: SystemTime::now(),
        })
    }
}

fn work_dir(cache: &nydus_config::Cache) -> Result<Option<&Path>> {
    match &cache.kind {
        CacheKind::File(file) => Ok(Some(&file.work_dir)),
        CacheKind::Dummy => Ok(None),
        CacheKind::Fscache(_) => bail!("cache.type: \"fscache\" is not supported; use \"blobcache\""),
    }
}

fn cache_options(cache: &nydus_config::Cache, rafs: &nydus_config::Rafs) -> Result<CacheOptions> {
    let storage = match &cache.kind {
        CacheKind::File(file) => CacheStorage::Directory {
            work_dir: file.work_dir.clone(),
            compressed: cache.compressed,
            encryption: file.encryption.as_ref().map(|encryption| blobcache::Encryption {
                key: *encryption.key.expose(),
                convergent: encryption.convergent,
            }),
            indexed_map: !file.disable_indexed_map,
        },
        CacheKind::Dummy | CacheKind::Fscache(_) => CacheStorage::None,
    };
    let mut options = CacheOptions::new(storage).context("cannot read the boot id")?;
    // `digest_validate` means the tree for v5 and the cache for both: v6 has no digests of inodes.
    options.validate = cache.validate || rafs.validate;
    options.verify_on_fetch = cache.verify_on_fetch;
    options.amplify_bytes = rafs.amplify_io();
    options.memory_cache_bytes = cache.memory_cache_bytes;
    Ok(options)
}

/// Looks whether local blobs are what the bootstrap says: there, long enough, with a chunk table that belongs to them.
/// A blob that is complete in the cache is not looked for.
async fn check_local_blobs(
    descriptions: &[Arc<BlobDescription>],
    blobs: &[Arc<Blob>],
    backend: &dyn Backend,
) -> Result<()> {
    let deadline = Instant::now() + LOCAL_CHECK;
    let request = Request::new(Priority::OnDemand, deadline);
    for (description, blob) in descriptions.iter().zip(blobs) {
        if blob.is_complete() {
            continue;
        }
        let checked = async {
            let size = backend.size(&description.id, request.clone()).await?;
            check_size(description, size)?;
            blob.load_chunk_table(deadline).await?;
            anyhow::Ok(())
        };
        match checked.await {
            Ok(()) => {}
            Err(e) if timed_out(&e) => warn!("{e:#}; mounting all the same, reads will wait for it"),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn timed_out(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(storage::Error::TimedOut { .. }))
        || error.downcast_ref::<blobcache::Error>().is_some_and(|e| e.kind() == ErrorKind::TimedOut)
}

fn check_size(description: &BlobDescription, size: u64) -> Result<()> {
    let needed = description.data_size().unwrap_or(0);
    if size < needed {
        bail!(
            "blob {}: {size} bytes, but its bootstrap places chunks up to {needed}: truncated, or another blob",
            description.id
        );
    }
    Ok(())
}
