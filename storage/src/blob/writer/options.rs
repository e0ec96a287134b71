//! How a blob is written: what a build decides once, before its first chunk.

use crate::blob::unit::MAX_DECODED_SIZE;
use crate::blob::{BlobFeatures, Cipher, Compressor};
use crate::digest::Digester;
use crate::{Error, Result};

/// The smallest chunk and batch size (spec/blob.md §1).
const MIN_CHUNK_SIZE: u32 = 0x1000;
/// What a caller may add to the features that follow from the other options.
const ADDABLE: BlobFeatures =
    BlobFeatures::CHUNK_INFO_V2.union(BlobFeatures::IS_SEPARATED_WITH_PREFETCH_FILES);

/// What a build decides of a native blob. [`BlobOptions::v5`] and [`BlobOptions::v6`] give the usual answers.
#[derive(Clone, Debug)]
pub struct BlobOptions {
    /// Codec of chunks, batches and the chunk table. All but gzip.
    pub compressor: Compressor,
    /// Algorithm of chunk digests.
    pub digester: Digester,
    /// The largest chunk in bytes: a power of two, 4 KiB to 16 MiB.
    pub chunk_size: u32,
    /// Chunks begin at multiples of 4096 in the uncompressed blob. Always for v6.
    pub aligned: bool,
    /// The blob carries a chunk table: v6. Without one only bootstraps of v5 can describe it.
    pub chunk_table: bool,
    /// The blob carries chunk digests and a table of contents (`--features blob-toc`).
    pub toc: bool,
    /// The bootstrap goes into the blob (`--blob-inline-meta`).
    pub inline_bootstrap: bool,
    /// Small files share compressed units of so many bytes: a power of two, 4 KiB to the chunk size. 0: they do not.
    pub batch_size: u32,
    /// Chunks and chunk table are encrypted with this key, which must be of one blob only.
    pub cipher: Option<Cipher>,
    /// Feature bits that do not follow from the above: [`BlobFeatures::CHUNK_INFO_V2`] for 24-byte entries where
    /// 16 bytes would do, [`BlobFeatures::IS_SEPARATED_WITH_PREFETCH_FILES`].
    pub extra_features: BlobFeatures,
}

impl BlobOptions {
    /// A v5 blob: chunks, packed, and nothing else.
    pub fn v5(compressor: Compressor, digester: Digester, chunk_size: u32) -> Self {
        Self {
            compressor,
            digester,
            chunk_size,
            aligned: false,
            chunk_table: false,
            toc: false,
            inline_bootstrap: false,
            batch_size: 0,
            cipher: None,
            extra_features: BlobFeatures::empty(),
        }
    }

    /// A v6 blob: aligned chunks and a chunk table.
    pub fn v6(compressor: Compressor, digester: Digester, chunk_size: u32) -> Self {
        Self { aligned: true, chunk_table: true, ..Self::v5(compressor, digester, chunk_size) }
    }

    /// The features that a blob with `chunk_count` chunks has (spec/blob.md §5).
    pub fn features(&self, chunk_count: u32) -> BlobFeatures {
        let mut features = BlobFeatures::CAP_TAR_TOC | self.extra_features;
        features.set(BlobFeatures::ALIGNED, self.chunk_table);
        features.set(BlobFeatures::INLINED_FS_META, self.inline_bootstrap);
        features.set(BlobFeatures::BATCH, self.batch_size != 0);
        features.set(BlobFeatures::ENCRYPTED, self.cipher.is_some());
        features.set(BlobFeatures::HAS_TOC, self.toc);
        features.set(BlobFeatures::HAS_TAR_HEADER, self.toc || self.inline_bootstrap);
        features.set(BlobFeatures::INLINED_CHUNK_DIGEST, self.toc && chunk_count != 0);
        if self.batch_size != 0 || self.cipher.is_some() {
            features |= BlobFeatures::CHUNK_INFO_V2;
        }
        features
    }

    /// [`Error::Invalid`] for what the format cannot express, or readers refuse.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, detail: String| Err(Error::invalid(what, detail));
        if self.compressor == Compressor::Gzip {
            return refuse("compressor", "gzip is only read, expected none, lz4_block or zstd".to_owned());
        }
        check_size("chunk size", self.chunk_size, MAX_DECODED_SIZE as u32)?;
        if self.batch_size != 0 {
            check_size("batch size", self.batch_size, self.chunk_size)?;
        }
        if self.chunk_table && !self.aligned {
            return refuse("blob options", "a chunk table can only describe aligned chunks".to_owned());
        }
        if !self.chunk_table && (self.toc || self.batch_size != 0 || self.cipher.is_some()) {
            return refuse(
                "blob options",
                "table of contents, batches and encryption need a chunk table".to_owned(),
            );
        }
        if !ADDABLE.contains(self.extra_features) || !(self.chunk_table || self.extra_features.is_empty()) {
            return refuse("blob options", format!("features {:?} cannot be added", self.extra_features));
        }
        if let Some(cipher) = &self.cipher
            && cipher.key[..16] == cipher.key[16..]
        {
            return refuse("cipher", "the two halves of an XTS key must differ".to_owned());
        }
        Ok(())
    }

    /// Entries of the chunk table have 24 bytes.
    pub(super) fn is_v2(&self) -> bool {
        self.features(0).contains(BlobFeatures::CHUNK_INFO_V2)
    }
}

fn check_size(what: &str, size: u32, limit: u32) -> Result<()> {
    if !size.is_power_of_two() || !(MIN_CHUNK_SIZE..=limit).contains(&size) {
        return Err(Error::invalid(
            what,
            format!("{size:#x} is no power of two from {MIN_CHUNK_SIZE:#x} to {limit:#x}"),
        ));
    }
    Ok(())
}
