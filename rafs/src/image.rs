//! The bytes of a bootstrap, and the only way to look into them: bounds-checked views that name what was wanted.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::{Error, Result};

/// The bytes of a bootstrap, mapped or in memory, and the path that errors name.
pub(crate) struct Image {
    bytes: Bytes,
    path: Arc<Path>,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Image {
    /// Maps `file`, which was opened from `path`.
    pub(crate) fn map(path: &Path, file: &File) -> Result<Self> {
        let path: Arc<Path> = path.into();
        // SAFETY: the mapping is read-only and private to this value; every view is bounds-checked against the
        // length it was mapped with, and every value read is checked after it was read. Who shortens or rewrites
        // the file of a mounted image can crash or mislead the process; a bootstrap is replaced by rename, never
        // written in place. Reading it into memory instead would cost the whole file for each mount.
        let map = unsafe { Mmap::map(file) }.map_err(|source| Error::Io { path: path.clone(), source })?;
        Ok(Self { bytes: Bytes::Mapped(map), path })
    }

    /// Takes bytes that are already in memory.
    pub(crate) fn owned(path: &Path, bytes: Vec<u8>) -> Self {
        Self { bytes: Bytes::Owned(bytes), path: path.into() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self.bytes {
            Bytes::Mapped(map) => map.to_vec(),
            Bytes::Owned(bytes) => bytes,
        }
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Bytes of the bootstrap.
    pub(crate) fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// `len` bytes at `offset`.
    pub(crate) fn range(&self, offset: u64, len: u64, what: &'static str) -> Result<&[u8]> {
        let bytes = self.bytes();
        let end = offset.checked_add(len).filter(|end| *end <= bytes.len() as u64);
        // Both fit usize, being at most the length of a slice.
        match end {
            Some(end) => Ok(&bytes[offset as usize..end as usize]),
            None => Err(self.outside(offset, len, what)),
        }
    }

    /// The record at `offset`.
    pub(crate) fn view<T>(&self, offset: u64, what: &'static str) -> Result<&T>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let bytes = self.range(offset, size_of::<T>() as u64, what)?;
        T::ref_from_bytes(bytes).map_err(|_| self.outside(offset, size_of::<T>() as u64, what))
    }

    /// `count` records at `offset`.
    pub(crate) fn array<T>(&self, offset: u64, count: u64, what: &'static str) -> Result<&[T]>
    where
        T: FromBytes + Immutable + Unaligned,
    {
        let len =
            count.checked_mul(size_of::<T>() as u64).ok_or_else(|| self.outside(offset, u64::MAX, what))?;
        let bytes = self.range(offset, len, what)?;
        <[T]>::ref_from_bytes(bytes).map_err(|_| self.outside(offset, len, what))
    }

    #[cold]
    fn outside(&self, offset: u64, len: u64, what: &'static str) -> Error {
        self.corrupt(offset, what, format!("{len} bytes in a bootstrap of {}", self.len()), "less")
    }

    /// An [`Error::Corrupt`] of this bootstrap.
    #[cold]
    pub(crate) fn corrupt(
        &self,
        offset: u64,
        what: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Error {
        Error::Corrupt {
            path: self.path.clone(),
            offset,
            what,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// An [`Error::Unsupported`] of this bootstrap.
    #[cold]
    pub(crate) fn unsupported(&self, feature: impl Into<String>) -> Error {
        Error::Unsupported { path: self.path.clone(), feature: feature.into() }
    }
}

/// Bytes from outside, for a message: printable, and not without end.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const LIMIT: usize = 80;
    let dots = if bytes.len() > LIMIT { "…" } else { "" };
    format!("\"{}\"{dots}", bytes[..bytes.len().min(LIMIT)].escape_ascii())
}
