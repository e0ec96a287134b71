//! Schema v1, in JSON: backend and cache under `device`, everything else at the top.
//!
//! What v1 says is put into the model of v2. Its one `fs_prefetch` fills both prefetch blocks of v2: that of
//! the tree, and, when enabled, that of the cache.

use super::Config;
use super::backend::{Backend, ExternalBackend, Kind};
use super::cache::{Cache, CacheKind, CacheType, FileCache, Fscache};
use super::error::Problem;
use super::rafs::{Mode, Prefetch, PrefetchKeys, Rafs};
use super::section::Section;
use super::tracing::Tracing;

struct Device {
    id: String,
    backend: Backend,
    external_backends: Vec<ExternalBackend>,
    cache: Cache,
}

pub(super) fn read(section: &mut Section) -> Result<Config, Problem> {
    // Written by orchestrators, and without a meaning here or there.
    ["id", "warmup"].iter().for_each(|key| section.ignore(key));
    let device = section
        .table("device", read_device)?
        .ok_or_else(|| section.missing("device", "a table with `backend`"))?;
    let mode = section
        .choice("mode", &Mode::ALL)?
        .ok_or_else(|| section.missing("mode", "\"direct\" or \"cached\""))?;
    let batch_size = Rafs::read_batch_size(section, "amplify_io")?;
    let validate = section.boolean("digest_validate")?.unwrap_or(false);
    let prefetch = section
        .table("fs_prefetch", |section| Prefetch::read(section, &PrefetchKeys::V1))?
        .unwrap_or_else(Prefetch::v1_default);
    let mut cache = device.cache;
    if prefetch.enable {
        cache.prefetch = prefetch.clone();
    }
    Ok(Config {
        id: device.id,
        backend: Some(device.backend),
        external_backends: device.external_backends,
        cache,
        rafs: Some(Rafs { mode, batch_size, validate, prefetch, ..Rafs::read_common(section)? }),
        overlay: None,
        tracing: section.table("tracing", Tracing::read)?,
    })
}

fn read_device(section: &mut Section) -> Result<Device, Problem> {
    section.ignore_without("external_backend", "config_path");
    let cache = section.table("cache", read_cache)?.unwrap_or_default();
    Ok(Device {
        id: section.text("id")?.unwrap_or_default(),
        backend: section
            .table("backend", read_backend)?
            .ok_or_else(|| section.missing("backend", "a table with `type` and `config`"))?,
        external_backends: ExternalBackend::read_list(section)?,
        cache,
    })
}

fn read_backend(section: &mut Section) -> Result<Backend, Problem> {
    let expected = "the kind of backend, such as \"localfs\" or \"registry\"";
    let kind = section.choice("type", &Kind::ALL)?.ok_or_else(|| section.missing("type", expected))?;
    if kind == Kind::HttpProxy {
        return Err(section.invalid(
            "type",
            "\"http-proxy\" needs a configuration of schema v2 (version 2); schema v1 has \"localfs\", \
             \"localdisk\", \"oss\", \"s3\", \"registry\"",
        ));
    }
    section
        .table("config", |section| Backend::read(kind, section))?
        .ok_or_else(|| section.missing("config", "the table of the backend's keys"))
}

fn read_cache(section: &mut Section) -> Result<Cache, Problem> {
    let kind = match CacheType::read(section)? {
        CacheType::File => CacheKind::File(section.table("config", FileCache::read)?.unwrap_or_default()),
        CacheType::Fscache => CacheKind::Fscache(section.table("config", Fscache::read)?.unwrap_or_default()),
        CacheType::Dummy => {
            section.ignore("config");
            CacheKind::Dummy
        }
    };
    Cache::read(section, kind)
}
