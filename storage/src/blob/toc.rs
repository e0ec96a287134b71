//! The table of contents at the end of a blob (spec/blob.md §7): which sections there are, where, and what digest
//! each has.

use bytes::Bytes;
use zerocopy::FromBytes;

use super::layout::TocRecord;
use super::tar_header::{TAR_HEADER_SIZE, TarHeader};
use super::{BlobDescription, Checked, Compressor, TocLocation};
use crate::backend::{Backend, Request};
use crate::digest::{Digest, Digester};
use crate::{Error, Result, codec};

/// A table of contents and its header fit here, so that reading this much of the end finds them.
const MAX_SIZE: u64 = 4096;
const RECORD_SIZE: usize = size_of::<TocRecord>();
const HEADER_NAME: &str = "rafs.blob.toc";

/// A checked table of contents.
#[derive(Clone, Debug)]
pub struct Toc {
    entries: Vec<TocEntry>,
    raw: Bytes,
}

/// One section of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TocEntry {
    /// `blob.meta`, `blob.meta.header`, `blob.digest`, `image.boot` or `image.blob`. Of the last one neither
    /// offset nor digest means what it says.
    pub name: String,
    /// How the section is compressed.
    pub compressor: Compressor,
    /// SHA-256 of the decoded section; all zero: not known.
    pub digest: Digest,
    /// Where the stored section begins.
    pub offset: u64,
    /// Its stored bytes.
    pub compressed_size: u64,
    /// Its bytes once decoded.
    pub uncompressed_size: u64,
}

impl Toc {
    /// Reads the table of `blob` from the end of the object that holds it: one question for the size, one read.
    ///
    /// [`Error::Invalid`] if the description says that there is none, [`Error::Corrupt`] if there is none after all
    /// or it has not the digest that the bootstrap promises.
    pub async fn fetch(blob: &BlobDescription, backend: &dyn Backend, request: Request) -> Result<Self> {
        let what = what(blob);
        let location = blob.toc.ok_or_else(|| Error::invalid(&*what, "the blob has none"))?;
        let object_size = backend.size(blob.meta_object(), request.clone()).await?;
        let len = match u64::from(location.size) {
            0 => window(object_size),
            size => size.min(MAX_SIZE).min(object_size),
        };
        let tail = backend.read(blob.meta_object(), object_size - len, len, request).await?;
        Self::parse(&what, &tail, &location)
    }

    /// Takes the table from the end of `tail`, the last bytes of a blob. `what` names the blob in errors.
    ///
    /// With a known size and digest both must be right; with neither the table is found by its tar header.
    /// All that is wrong is [`Error::Corrupt`].
    pub fn parse(what: &str, tail: &[u8], location: &TocLocation) -> Result<Self> {
        let header = TarHeader::at_end(tail)
            .filter(|header| header.name == HEADER_NAME)
            .ok_or_else(|| Error::corrupt(what, format!("there is no {HEADER_NAME} header at the end")))?;
        let size = header.size.saturating_add(TAR_HEADER_SIZE as u64);
        let known = u64::from(location.size);
        if (known != 0 && size != known) || size > MAX_SIZE.min(tail.len() as u64) {
            let limit = MAX_SIZE.min(tail.len() as u64);
            let expected = if known != 0 { known } else { limit };
            return Err(Error::corrupt(what, format!("{size} bytes with header, expected {expected}")));
        }
        let raw = &tail[tail.len() - size as usize..];
        if !location.digest.is_zero() {
            expect_digest(what, raw, &location.digest)?;
        }
        let records = <[TocRecord]>::ref_from_bytes(&raw[..raw.len() - TAR_HEADER_SIZE]).map_err(|_| {
            Error::corrupt(what, format!("{} bytes are no whole entries of {RECORD_SIZE}", header.size))
        })?;
        let entries = records
            .iter()
            .map(|record| TocEntry::unpack(record).map_err(|detail| Error::corrupt(what, detail)))
            .collect::<Result<_>>()?;
        Ok(Self { entries, raw: Bytes::copy_from_slice(raw) })
    }

    /// All sections, in the order of the table.
    pub fn entries(&self) -> &[TocEntry] {
        &self.entries
    }

    /// The section of this name.
    pub fn entry(&self, name: &str) -> Option<&TocEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The table as it is stored, with its tar header: what a cache directory keeps as `.blob.toc`.
    pub fn as_bytes(&self) -> &Bytes {
        &self.raw
    }
}

impl TocEntry {
    fn unpack(record: &TocRecord) -> Checked<Self> {
        let name = record.name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| format!("section name {name:?} is not UTF-8"))?;
        let compressor = match record.flags.get() {
            1 => Compressor::None,
            2 => Compressor::Zstd,
            4 => Compressor::Lz4Block,
            flags => return Err(format!("section {name}: flags {flags:#x}, expected 1, 2 or 4")),
        };
        Ok(Self {
            name: name.to_owned(),
            compressor,
            digest: Digest(record.digest),
            offset: record.offset.get(),
            compressed_size: record.compressed_size.get(),
            uncompressed_size: record.uncompressed_size.get(),
        })
    }

    /// The record of a section that a writer made: no gzip, a name of 16 bytes at most.
    pub(super) fn pack(&self) -> TocRecord {
        let flags: u32 = match self.compressor {
            Compressor::None | Compressor::Gzip => 1,
            Compressor::Zstd => 2,
            Compressor::Lz4Block => 4,
        };
        let mut name = [0; 16];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        TocRecord {
            flags: flags.into(),
            reserved: 0.into(),
            name,
            digest: self.digest.0,
            offset: self.offset.into(),
            compressed_size: self.compressed_size.into(),
            uncompressed_size: self.uncompressed_size.into(),
            reserved2: [0; 48],
        }
    }

    /// Checks that the sizes may be read and allocated: at most `limit` bytes decoded, not fewer than stored, and
    /// as many if the section is stored plain. `what` names the blob in errors, which are [`Error::Corrupt`].
    pub fn check_sizes(&self, what: &str, limit: u64) -> Result<()> {
        let plain = self.compressor == Compressor::None;
        let (stored, size) = (self.compressed_size, self.uncompressed_size);
        if size > limit
            || stored > size
            || (plain && stored != size)
            || self.offset.checked_add(stored).is_none()
        {
            return Err(Error::corrupt(
                format!("{what}: section {}", self.name),
                format!("{size} bytes stored as {}+{stored}, expected {limit} at most", self.offset),
            ));
        }
        Ok(())
    }

    /// Decodes the stored bytes of this section, and checks size and digest. `limit` bounds the allocation, `what`
    /// names the blob in errors, which are [`Error::Corrupt`].
    pub fn extract(&self, what: &str, stored: &[u8], limit: u64) -> Result<Vec<u8>> {
        self.check_sizes(what, limit)?;
        let what = format!("{what}: section {}", self.name);
        if stored.len() as u64 != self.compressed_size {
            return Err(Error::corrupt(
                what,
                format!("{} bytes, expected {}", stored.len(), self.compressed_size),
            ));
        }
        let data = codec::decompress(self.compressor, stored, self.uncompressed_size as usize)
            .map_err(|err| err.within(&what))?;
        self.check_digest(&what, &data)?;
        Ok(data)
    }

    /// Compares the digest of a decoded section with the recorded one, if one is recorded.
    pub(super) fn check_digest(&self, what: &str, data: &[u8]) -> Result<()> {
        if self.digest.is_zero() { Ok(()) } else { expect_digest(what, data, &self.digest) }
    }
}

/// How much of the end to read where the table's size is not known.
pub(super) fn window(object_size: u64) -> u64 {
    MAX_SIZE.min(object_size - object_size % RECORD_SIZE as u64)
}

fn what(blob: &BlobDescription) -> String {
    format!("table of contents of blob {}", blob.meta_object())
}

fn expect_digest(what: &str, data: &[u8], expected: &Digest) -> Result<()> {
    let found = Digester::Sha256.digest(data);
    if found != *expected {
        return Err(Error::corrupt(what, format!("SHA-256 is {found}, expected {expected}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
