//! Where fetched data is kept.

use std::path::{Path, PathBuf};

use super::error::Problem;
use super::rafs::{BYTES, Prefetch};
use super::secret::EncryptionKey;
use super::section::Section;

/// The default of [`Cache::memory_cache_bytes`]: 64 MiB, which is 64 chunks of the usual size.
const DEFAULT_MEMORY_CACHE_BYTES: u64 = 64 << 20;
/// The most that [`Cache::memory_cache_bytes`] may say: 1 TiB.
const MAX_MEMORY_CACHE_BYTES: u64 = 1 << 40;

/// The local copy of blobs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Where it lies.
    pub kind: CacheKind,
    /// Keep the stored bytes instead of the plain ones.
    pub compressed: bool,
    /// Check cached chunks against their digests when this mount reads them first.
    pub validate: bool,
    /// Check fetched chunks against their digests before anybody sees them.
    pub verify_on_fetch: bool,
    /// The most bytes of decoded chunks that are held in memory where no file keeps them; 0: none are held.
    pub memory_cache_bytes: u64,
    /// Whether anything prefetches, and with how many workers.
    pub prefetch: Prefetch,
}

impl Cache {
    /// A cache in `dir`, everything else by default.
    pub(super) fn file(dir: &Path) -> Self {
        Self::new(CacheKind::File(FileCache { work_dir: dir.to_owned(), ..FileCache::default() }))
    }

    /// A cache of `kind`, everything else by default.
    pub(super) fn new(kind: CacheKind) -> Self {
        Self {
            kind,
            compressed: false,
            validate: false,
            verify_on_fetch: true,
            memory_cache_bytes: DEFAULT_MEMORY_CACHE_BYTES,
            prefetch: Prefetch::absent(),
        }
    }

    /// Reads the keys that both schemas name alike; the kind comes from `kind`.
    pub(super) fn read(section: &mut Section, kind: CacheKind) -> Result<Self, Problem> {
        Ok(Self {
            kind,
            compressed: section.boolean("compressed")?.unwrap_or(false),
            validate: section.boolean("validate")?.unwrap_or(false),
            verify_on_fetch: section.boolean("verify_on_fetch")?.unwrap_or(true),
            memory_cache_bytes: section
                .integer("memory_cache_bytes", 0..=MAX_MEMORY_CACHE_BYTES, BYTES)?
                .unwrap_or(DEFAULT_MEMORY_CACHE_BYTES),
            prefetch: Prefetch::absent(),
        })
    }
}

impl Default for Cache {
    /// What a text without a cache section stands for.
    fn default() -> Self {
        Self::new(CacheKind::Dummy)
    }
}

/// The kinds of caches.
#[derive(Clone, Debug, PartialEq)]
pub enum CacheKind {
    /// Files in a directory: `blobcache` or `filecache`.
    File(FileCache),
    /// The kernel's cachefiles.
    Fscache(Fscache),
    /// No files, only memory: `dummycache`, or no type at all.
    Dummy,
}

/// The names of [`CacheKind`].
#[derive(Clone, Copy)]
pub(super) enum CacheType {
    File,
    Fscache,
    Dummy,
}

impl CacheType {
    /// Reads the key `type`.
    pub fn read(section: &mut Section) -> Result<Self, Problem> {
        let choices = [
            ("blobcache", Self::File),
            ("filecache", Self::File),
            ("fscache", Self::Fscache),
            ("dummycache", Self::Dummy),
            ("", Self::Dummy),
        ];
        Ok(section.choice("type", &choices)?.unwrap_or(Self::Dummy))
    }
}

impl CacheKind {
    /// The name of the kind, as it stands in a configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "blobcache",
            Self::Fscache(_) => "fscache",
            Self::Dummy => "dummycache",
        }
    }
}

/// A directory of cache files.
#[derive(Clone, Debug, PartialEq)]
pub struct FileCache {
    /// The directory; created when missing.
    pub work_dir: PathBuf,
    /// v5 only, outdated: keep readiness in memory, by digest.
    pub disable_indexed_map: bool,
    /// Encrypt what is kept.
    pub encryption: Option<Encryption>,
}

/// Encryption of cached data at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// The key of all data.
    pub key: EncryptionKey,
    /// Use each chunk's digest as its key instead.
    pub convergent: bool,
}

impl FileCache {
    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        Ok(Self {
            work_dir: read_work_dir(section)?,
            disable_indexed_map: section.boolean("disable_indexed_map")?.unwrap_or(false),
            encryption: read_encryption(section)?,
        })
    }
}

impl Default for FileCache {
    fn default() -> Self {
        Self { work_dir: PathBuf::from("."), disable_indexed_map: false, encryption: None }
    }
}

fn read_encryption(section: &mut Section) -> Result<Option<Encryption>, Problem> {
    let is_enabled = section.boolean("enable_encryption")?.unwrap_or(false);
    let convergent = section.boolean("enable_convergent_encryption")?.unwrap_or(false);
    let key = match section.secret("encryption_key")? {
        None => None,
        Some(hex) => Some(
            EncryptionKey::from_hex(hex.expose())
                .map_err(|detail| section.invalid("encryption_key", detail))?,
        ),
    };
    if convergent && !is_enabled {
        section.warn(section.key("enable_convergent_encryption"), "has no effect without enable_encryption");
    }
    match (is_enabled, key) {
        (false, _) => Ok(None),
        (true, Some(key)) => Ok(Some(Encryption { key, convergent })),
        (true, None) => Err(section.invalid(
            "encryption_key",
            "missing; expected 32 bytes as 64 hexadecimal digits, since enable_encryption is true",
        )),
    }
}

/// The kernel's cachefiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Fscache {
    /// For the files beside the kernel's.
    pub work_dir: PathBuf,
}

impl Fscache {
    pub(super) fn read(section: &mut Section) -> Result<Self, Problem> {
        Ok(Self { work_dir: read_work_dir(section)? })
    }
}

impl Default for Fscache {
    fn default() -> Self {
        Self { work_dir: PathBuf::from(".") }
    }
}

/// Absent means the current directory; empty is refused.
fn read_work_dir(section: &mut Section) -> Result<PathBuf, Problem> {
    if !section.has("work_dir") {
        return Ok(PathBuf::from("."));
    }
    section
        .path("work_dir")?
        .ok_or_else(|| section.invalid("work_dir", "expected the path of a directory, found an empty text"))
}
