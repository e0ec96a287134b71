//! The digests that a v6 blob carries of its own chunks (spec/blob.md §2, §7: `blob.digest`).

use bytes::Bytes;

use super::toc::{Toc, TocEntry};
use super::{BlobDescription, BlobFeatures};
use crate::backend::{Backend, Request};
use crate::digest::Digest;
use crate::{Error, Result};

const SECTION: &str = "blob.digest";
const DIGEST_SIZE: u64 = 32;

/// One digest for each chunk of a blob.
#[derive(Clone, Debug)]
pub struct DigestArray(Bytes);

impl DigestArray {
    /// Takes the stored array (also a cache directory's `.blob.digest`) and checks it against the entry that
    /// `toc` has for it. What does not fit is [`Error::Corrupt`].
    pub fn parse(blob: &BlobDescription, toc: &Toc, stored: &[u8]) -> Result<Self> {
        let entry = section(blob, toc)?;
        entry.extract(&what(blob), stored, size(blob)).map(|array| Self(array.into()))
    }

    /// The digest of chunk `index`; `None` where there is none, or where it is all zero.
    pub fn get(&self, index: u32) -> Option<Digest> {
        let start = (index as usize).checked_mul(DIGEST_SIZE as usize)?;
        let digest = self.0.get(start..)?.first_chunk()?;
        Some(Digest(*digest)).filter(|digest| !digest.is_zero())
    }

    /// The array as it is stored: what a cache directory keeps as `.blob.digest`.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Reads the digests of `blob` from the object that holds its table of contents, and that table too.
///
/// [`Error::Invalid`] if the blob has no digests; [`Error::Corrupt`] if table or array do not have the digests that
/// are recorded for them, or not the size that the chunk count asks for.
pub async fn fetch_digests(
    blob: &BlobDescription,
    backend: &dyn Backend,
    request: Request,
) -> Result<DigestArray> {
    if !blob.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST) {
        return Err(Error::invalid(what(blob), "the blob has none"));
    }
    let toc = Toc::fetch(blob, backend, request.clone()).await?;
    let entry = section(blob, &toc)?;
    let stored = backend.read(blob.meta_object(), entry.offset, entry.compressed_size, request).await?;
    DigestArray::parse(blob, &toc, &stored)
}

fn section<'a>(blob: &BlobDescription, toc: &'a Toc) -> Result<&'a TocEntry> {
    let entry = toc
        .entry(SECTION)
        .ok_or_else(|| Error::corrupt(what(blob), format!("the table of contents has no {SECTION}")))?;
    entry.check_sizes(&what(blob), size(blob))?;
    if entry.uncompressed_size != size(blob) {
        return Err(Error::corrupt(
            what(blob),
            format!("{} bytes for {} chunks", entry.uncompressed_size, blob.chunk_count),
        ));
    }
    Ok(entry)
}

fn size(blob: &BlobDescription) -> u64 {
    u64::from(blob.chunk_count) * DIGEST_SIZE
}

fn what(blob: &BlobDescription) -> String {
    format!("chunk digests of blob {}", blob.id)
}
