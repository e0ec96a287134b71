//! Schema v2, in JSON or TOML: one table per part, each part's keys in a sub-table of its type.

use super::Config;
use super::backend::{Backend, ExternalBackend, Kind};
use super::cache::{Cache, CacheKind, CacheType, FileCache, Fscache};
use super::error::Problem;
use super::rafs::{Mode, Overlay, Prefetch, PrefetchKeys, Rafs};
use super::section::Section;
use super::tracing::Tracing;

pub(super) fn read(section: &mut Section) -> Result<Config, Problem> {
    match section.integer("version", 0..=u64::MAX, "versions")? {
        Some(2) => (),
        Some(other) => {
            return Err(Problem::shape("version", format!("expected 2, found {other}")));
        }
        None => return Err(section.missing("version", "2")),
    }
    let config = Config {
        id: section.text("id")?.unwrap_or_default(),
        backend: section.table("backend", read_backend)?,
        external_backends: ExternalBackend::read_list(section)?,
        cache: section.table("cache", read_cache)?.unwrap_or_default(),
        rafs: section.table("rafs", read_rafs)?,
        overlay: section.table("overlay", Overlay::read)?,
        tracing: section.table("tracing", Tracing::read)?,
    };
    let wished = config.rafs.as_ref().is_some_and(|rafs| rafs.prefetch.enable);
    if wished && !config.cache.prefetch.enable {
        section.warn("rafs.prefetch.enable", "has no effect without cache.prefetch.enable");
    }
    Ok(config)
}

fn read_backend(section: &mut Section) -> Result<Backend, Problem> {
    let expected = "the kind of backend, such as \"localfs\" or \"registry\"";
    let kind = section.choice("type", &Kind::ALL)?.ok_or_else(|| section.missing("type", expected))?;
    let mut backend = None;
    for (name, other) in Kind::ALL {
        if other == kind {
            backend = section.table(name, |section| Backend::read(kind, section))?;
        } else {
            // Tables of other kinds may stand by; nobody looks into them.
            section.ignore(name);
        }
    }
    let (name, _) = Kind::ALL.into_iter().find(|(_, other)| *other == kind).unwrap_or(Kind::ALL[0]);
    backend.ok_or_else(|| section.missing(name, &format!("the table of `type` {name:?}")))
}

fn read_cache(section: &mut Section) -> Result<Cache, Problem> {
    let kind = match CacheType::read(section)? {
        CacheType::File => {
            section.ignore("fscache");
            CacheKind::File(section.table("filecache", FileCache::read)?.unwrap_or_default())
        }
        CacheType::Fscache => {
            section.ignore("filecache");
            CacheKind::Fscache(section.table("fscache", Fscache::read)?.unwrap_or_default())
        }
        CacheType::Dummy => {
            section.ignore("filecache");
            section.ignore("fscache");
            CacheKind::Dummy
        }
    };
    let cache = Cache::read(section, kind)?;
    Ok(Cache { prefetch: read_prefetch(section)?, ..cache })
}

fn read_rafs(section: &mut Section) -> Result<Rafs, Problem> {
    let mode = section.choice("mode", &Mode::ALL)?.unwrap_or(Mode::Direct);
    let batch_size = Rafs::read_batch_size(section, "batch_size")?;
    let validate = section.boolean("validate")?.unwrap_or(false);
    let prefetch = read_prefetch(section)?;
    Ok(Rafs { mode, batch_size, validate, prefetch, ..Rafs::read_common(section)? })
}

fn read_prefetch(section: &mut Section) -> Result<Prefetch, Problem> {
    let prefetch = section.table("prefetch", |section| Prefetch::read(section, &PrefetchKeys::V2))?;
    Ok(prefetch.unwrap_or_else(Prefetch::absent))
}
