//! How the tree is served, and prefetch.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Problem;
use super::section::Section;

/// The most bytes of one merged request that a configuration may ask for.
pub(super) const MAX_BATCH: u64 = 0x1000_0000;
/// The least bytes of a merged request; smaller wishes act as this.
const MIN_BATCH: u64 = 128 << 10;
/// The default of both kinds of batches, in bytes.
const DEFAULT_BATCH: u64 = 1 << 20;
/// The default of `read_deadline_ms`.
const DEFAULT_DEADLINE_MS: u64 = 60_000;
/// The largest `read_deadline_ms`: a day. Beyond, a deadline is none.
const MAX_DEADLINE_MS: u64 = 24 * 3600 * 1000;
/// The least bandwidth of a prefetch with a limit, in bytes a second; smaller wishes act as this.
const MIN_BANDWIDTH: u32 = 16 << 20;
/// The default number of workers.
const DEFAULT_THREADS: u32 = 8;
pub(super) const BYTES: &str = "bytes";

/// How the bootstrap is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Mapped.
    Direct,
    /// Read into memory by the reference implementation; here the same as `Direct`.
    Cached,
}

impl Mode {
    pub(super) const ALL: [(&'static str, Mode); 2] = [("direct", Mode::Direct), ("cached", Mode::Cached)];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Cached => "cached",
        }
    }
}

/// How the tree is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Rafs {
    /// How the bootstrap is held.
    pub mode: Mode,
    /// The wished width of a widened read, in bytes, as written; use [`Rafs::amplify_io`].
    pub batch_size: u64,
    /// `digest_validate` of schema v1. With v5: check inodes and chunks against their digests; with v6: the
    /// same as [`super::Cache::validate`].
    pub validate: bool,
    /// Serve extended attributes. False hides those that the image has.
    pub enable_xattr: bool,
    /// Whose files the image's are. `None`: those of the owners that it records.
    pub id_mapping: Option<IdMapping>,
    /// Count operations per file.
    pub iostats_files: bool,
    /// Record the first access to each file.
    pub access_pattern: bool,
    /// Record which files were read of late.
    pub latest_read_files: bool,
    /// The longest an on-demand read may take, all tries included.
    pub read_deadline: Duration,
    /// What is prefetched.
    pub prefetch: Prefetch,
}

impl Default for Rafs {
    fn default() -> Self {
        Self {
            mode: Mode::Direct,
            batch_size: DEFAULT_BATCH,
            validate: false,
            enable_xattr: true,
            id_mapping: None,
            iostats_files: false,
            access_pattern: false,
            latest_read_files: false,
            read_deadline: Duration::from_millis(DEFAULT_DEADLINE_MS),
            prefetch: Prefetch::absent(),
        }
    }
}

impl Rafs {
    /// The width to which a read of a user is widened, in bytes. 0 is none; anything else is at least 128 KiB.
    pub fn amplify_io(&self) -> u64 {
        if self.batch_size == 0 { 0 } else { self.batch_size.max(MIN_BATCH) }
    }

    /// Reads the keys that both schemas name alike.
    pub(super) fn read_common(section: &mut Section) -> Result<Self, Problem> {
        let mut flag = |key| section.boolean(key).map(|flag| flag.unwrap_or(false));
        let iostats_files = flag("iostats_files")?;
        let (access_pattern, latest_read_files) = (flag("access_pattern")?, flag("latest_read_files")?);
        let read_deadline = section
            .integer("read_deadline_ms", 1..=MAX_DEADLINE_MS, "milliseconds")?
            .unwrap_or(DEFAULT_DEADLINE_MS);
        Ok(Self {
            enable_xattr: section.boolean("enable_xattr")?.unwrap_or(true),
            id_mapping: IdMapping::read(section)?,
            iostats_files,
            access_pattern,
            latest_read_files,
            read_deadline: Duration::from_millis(read_deadline),
            ..Self::default()
        })
    }

    /// Reads the wished width of a widened read.
    pub(super) fn read_batch_size(section: &mut Section, key: &str) -> Result<u64, Problem> {
        Ok(section.integer(key, 0..=MAX_BATCH, BYTES)?.unwrap_or(DEFAULT_BATCH))
    }
}

/// The owners of a container with a user namespace: `count` ids from `inside` on, as the image has them, are those from
/// `outside` on for the host. Users and groups alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// The first id of the image.
    pub inside: u32,
    /// The first id of the host.
    pub outside: u32,
    /// How many; never 0.
    pub count: u32,
}

impl IdMapping {
    /// Reads `id_mapping`, a list of the three; a count of 0 is none.
    fn read(section: &mut Section) -> Result<Option<Self>, Problem> {
        const KEY: &str = "id_mapping";
        let expected = "[INSIDE, OUTSIDE, COUNT]";
        let Some(numbers) = section.integers(KEY, 0..=u32::MAX.into(), expected)? else { return Ok(None) };
        let numbers: Vec<u32> = numbers.into_iter().filter_map(|number| u32::try_from(number).ok()).collect();
        let &[inside, outside, count] = &numbers[..] else {
            return Err(section.invalid(KEY, format!("expected {expected}, found {} numbers", numbers.len())));
        };
        for first in [inside, outside] {
            // 4294967295 is no id: it means "unchanged" to chown(2).
            if first.checked_add(count).is_none() {
                let detail = format!("{count} ids from {first} on go beyond the largest, {}", u32::MAX - 1);
                return Err(section.invalid(KEY, detail));
            }
        }
        Ok((count != 0).then_some(Self { inside, outside, count }))
    }
}

/// Fetching before somebody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// Whether to.
    pub enable: bool,
    /// Workers.
    pub threads: u32,
    /// The wished size of merged requests, in bytes, as written; use [`Prefetch::merging_size`].
    pub batch_size: u64,
    /// The wished limit in bytes a second, as written; use [`Prefetch::bandwidth`].
    pub bandwidth_limit: u32,
    /// Go on with all blobs when the prefetch list is done.
    pub prefetch_all: bool,
    /// Whole blobs in one request each, as a Dragonfly proxy likes it.
    pub stream_prefetch: bool,
}

/// The names of the keys, which differ between the schemas, and the default that does.
pub(super) struct PrefetchKeys {
    threads: &'static str,
    batch_size: &'static str,
    bandwidth_limit: &'static str,
    is_enable_required: bool,
    prefetch_all_default: bool,
}

impl PrefetchKeys {
    pub const V1: Self = Self {
        threads: "threads_count",
        batch_size: "merging_size",
        bandwidth_limit: "bandwidth_rate",
        is_enable_required: false,
        prefetch_all_default: true,
    };
    pub const V2: Self = Self {
        threads: "threads",
        batch_size: "batch_size",
        bandwidth_limit: "bandwidth_limit",
        is_enable_required: true,
        prefetch_all_default: false,
    };
}

impl Prefetch {
    /// What an absent block means.
    pub(super) fn absent() -> Self {
        Self {
            enable: false,
            threads: 0,
            batch_size: 0,
            bandwidth_limit: 0,
            prefetch_all: true,
            stream_prefetch: false,
        }
    }

    /// What an absent `fs_prefetch` means.
    pub(super) fn v1_default() -> Self {
        Self { threads: DEFAULT_THREADS, batch_size: DEFAULT_BATCH, ..Self::absent() }
    }

    pub(super) fn read(section: &mut Section, keys: &PrefetchKeys) -> Result<Self, Problem> {
        let enable = match section.boolean("enable")? {
            Some(enable) => enable,
            None if keys.is_enable_required => return Err(section.missing("enable", "true or false")),
            None => false,
        };
        // The ranges bind only when the block is enabled.
        let (threads_range, batch_range) = match enable {
            true => (1..=1024, 0..=MAX_BATCH),
            false => (0..=u32::MAX.into(), 0..=u64::MAX),
        };
        let threads = section.integer(keys.threads, threads_range, "threads")?;
        Ok(Self {
            enable,
            threads: threads.and_then(|threads| u32::try_from(threads).ok()).unwrap_or(DEFAULT_THREADS),
            batch_size: section.integer(keys.batch_size, batch_range, BYTES)?.unwrap_or(DEFAULT_BATCH),
            bandwidth_limit: section.integer32(keys.bandwidth_limit, "bytes a second")?.unwrap_or(0),
            prefetch_all: section.boolean("prefetch_all")?.unwrap_or(keys.prefetch_all_default),
            stream_prefetch: section.boolean("stream_prefetch")?.unwrap_or(false),
        })
    }

    /// The most bytes of a merged request: at least 128 KiB.
    pub fn merging_size(&self) -> u64 {
        self.batch_size.max(MIN_BATCH)
    }

    /// The limit in bytes a second, at least 16 MiB/s; `None` is no limit.
    pub fn bandwidth(&self) -> Option<u32> {
        (self.bandwidth_limit > 0).then(|| self.bandwidth_limit.max(MIN_BANDWIDTH))
    }
}

/// A writable layer above the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Where changes are kept.
    pub upper_dir: PathBuf,
    /// A directory of the same file system for work under way.
    pub work_dir: PathBuf,
}

impl Overlay {
    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        let mut dir = |key| match section.path(key)? {
            Some(path) => Ok(path),
            None => Err(section.missing(key, "the path of a directory")),
        };
        Ok(Self { upper_dir: dir("upper_dir")?, work_dir: dir("work_dir")? })
    }
}
