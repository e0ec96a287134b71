//! What a cache is told when it is opened.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Disk, RealDisk};

/// How a [`crate::BlobCache`] works.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Where chunks are kept.
    pub storage: CacheStorage,
    /// Check cached chunks again when this cache first reads them. Chunks that cannot be checked, because no digest
    /// or checksum of them is known, are then fetched again.
    pub validate: bool,
    /// Check every fetched chunk before it is published, where its digest is known.
    pub verify_on_fetch: bool,
    /// A miss is widened by chunks around it, small ones and those of the same file, until the request is this many *stored*
    /// bytes long; 0: off. Wanted chunks that lie at most a 128th of this apart become one request.
    pub amplify_bytes: u64,
    /// Budget of bytes in flight: stored bytes, their decoded form, and what is not yet written to the local copy.
    pub memory_bytes: u64,
    /// Limit of the decoded chunks that are held in memory because no file keeps them, with what it costs to keep account of
    /// them; 0: none are held.
    pub memory_cache_bytes: u64,
    /// Which boot of the machine this is.
    pub boot_id: BootId,
    /// Makes files durable.
    pub disk: Arc<dyn Disk>,
}

impl CacheOptions {
    /// The defaults: checked on fetch, not amplified, 64 MiB in flight, 64 MiB held in memory, this boot, the real disk.
    pub fn new(storage: CacheStorage) -> io::Result<Self> {
        Ok(Self {
            storage,
            validate: false,
            verify_on_fetch: true,
            amplify_bytes: 0,
            memory_bytes: 64 << 20,
            memory_cache_bytes: 64 << 20,
            boot_id: BootId::current()?,
            disk: Arc::new(RealDisk),
        })
    }
}

/// Where chunks are kept.
#[derive(Clone, Debug)]
pub enum CacheStorage {
    /// Files in a directory (spec/cache.md §1).
    Directory {
        /// The directory; made if missing.
        work_dir: PathBuf,
        /// Keep the stored bytes instead of the decoded ones. Ignored for batch and ZRan blobs, and with encryption.
        compressed: bool,
        /// Encrypt what is kept.
        encryption: Option<Encryption>,
        /// False: v5 blobs get no `chunk_map`; what is there is known in memory only.
        indexed_map: bool,
    },
    /// No files: chunks are held in memory, within [`CacheOptions::memory_cache_bytes`].
    None,
}

/// Encryption of the local copy (spec/cache.md §4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Encryption {
    /// The two halves of the AES-128-XTS key.
    pub key: [u8; 32],
    /// Encrypt each chunk with its digest as the key instead.
    pub convergent: bool,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("convergent", &self.convergent).finish_non_exhaustive()
    }
}

/// Which boot of the machine: what was written in another one may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// The kernel's id of this boot.
    pub fn current() -> io::Result<Self> {
        let path = "/proc/sys/kernel/random/boot_id";
        let text = std::fs::read_to_string(path)?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path}: {text:?} is not 32 hexadecimal digits"),
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .trim()
            .chars()
            .filter(|c| *c != '-')
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()?;
        let mut id = [0; 16];
        if digits.len() != 32 {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Some(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_ids_are_uuids() {
        let id = BootId::parse("01234567-89ab-cdef-0011-223344556677\n").unwrap();
        assert_eq!(id.0[..8], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert!(BootId::parse("0123").is_none() && BootId::parse(&"x".repeat(32)).is_none());
        assert_eq!(BootId::current().unwrap(), BootId::current().unwrap());
    }
}
