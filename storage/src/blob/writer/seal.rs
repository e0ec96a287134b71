//! The sections behind the chunk data, in the order of spec/blob.md §2, and the blob's description.

use std::io::Write;

use zerocopy::IntoBytes;

use super::chunk::encode_section;
use super::output::Output;
use super::{BlobOptions, BlobWriter};
use crate::blob::layout::{CI_HEADER_SIZE, CI_MAGIC, CONTEXT_SIZE, CiHeader};
use crate::blob::{
    BlobDescription, BlobFeatures, BlobId, CiLocation, Compressor, TocEntry, TocLocation, tar_header,
};
use crate::cipher::BlobCipher;
use crate::digest::{Digest, Digester};
use crate::{Error, Result, codec};

/// What a bootstrap that lies in its own blob calls it: its id is not known before the bootstrap is.
const PLACEHOLDER: [u8; 64] = [b'x'; 64];

/// A blob whose chunks are complete, and described in it.
#[derive(Debug)]
pub struct SealedBlob<W> {
    options: BlobOptions,
    output: Output<W>,
    toc: Vec<TocEntry>,
    /// As an inlined bootstrap records it.
    description: BlobDescription,
}

/// A blob that is complete.
#[derive(Debug)]
pub struct FinishedBlob<W> {
    /// Where it was written to, flushed.
    pub out: W,
    /// What goes into a blob table; the index is 0. The id is the SHA-256 of the file without its digest array. Where
    /// the bootstrap is inlined, `compressed_size` is what that bootstrap records: the bytes before itself.
    pub description: BlobDescription,
    /// SHA-256 of the whole file: the id as well, but for blobs with a digest array.
    pub file_digest: Digest,
    /// Bytes of the file. 0: there is nothing in it, and there should be no such file (spec/blob.md §14).
    pub file_size: u64,
}

pub(super) fn seal<W: Write>(writer: BlobWriter<W>) -> Result<SealedBlob<W>> {
    let BlobWriter { options, mut output, chunks, uncompressed_size } = writer;
    let chunk_count = chunks.count();
    let mut description = BlobDescription {
        index: 0,
        id: BlobId::new(&String::from_utf8_lossy(&PLACEHOLDER))?,
        chunk_size: options.chunk_size,
        chunk_count,
        compressor: options.compressor,
        digester: options.digester,
        cipher: options.cipher,
        features: options.features(chunk_count),
        compressed_size: 0,
        uncompressed_size,
        ci: None,
        toc: options.toc.then_some(TocLocation { size: 0, digest: Digest([0; 32]) }),
        meta_id: None,
        meta_size: 0,
    };
    let mut toc = Vec::new();
    if chunk_count != 0 {
        let data_size = output.position();
        tar_header(&mut output, &description, "image.blob", data_size)?;
        toc.push(TocEntry {
            name: "image.blob".to_owned(),
            compressor: Compressor::None,
            // Of the data and its tar header: all there is so far.
            digest: output.id(),
            offset: 0,
            compressed_size: data_size,
            uncompressed_size,
        });
        let contexts_size = chunks.contexts_size();
        let (array, digests) = chunks.into_parts();
        if options.chunk_table {
            chunk_table(&mut output, &options, &mut description, &mut toc, &array, contexts_size)?;
        }
        drop(array);
        if let Some(digests) = digests {
            toc.push(plain("blob.digest", output.position(), &digests));
            output.write_digest_array(&digests)?;
            tar_header(&mut output, &description, "blob.digest", digests.len() as u64)?;
        }
    }
    description.compressed_size = output.position();
    Ok(SealedBlob { options, output, toc, description })
}

/// CI array, CI header, and their tar header.
fn chunk_table<W: Write>(
    output: &mut Output<W>,
    options: &BlobOptions,
    description: &mut BlobDescription,
    toc: &mut Vec<TocEntry>,
    array: &[u8],
    contexts_size: usize,
) -> Result<()> {
    let (stored, compressor) = encode_section(array, options)?;
    let ci = CiLocation {
        compressor,
        offset: output.position(),
        compressed_size: stored.len() as u64,
        uncompressed_size: array.len() as u64,
    };
    description.ci = Some(ci);
    toc.push(TocEntry {
        name: "blob.meta".to_owned(),
        compressor,
        digest: Digester::Sha256.digest(array),
        offset: ci.offset,
        compressed_size: ci.compressed_size,
        uncompressed_size: ci.uncompressed_size,
    });
    output.write(&stored)?;

    let header = header(description, &ci, contexts_size);
    toc.push(plain("blob.meta.header", output.position(), header.as_bytes()));
    match &options.cipher {
        Some(cipher) => output.write(&BlobCipher::new(cipher).encrypt(header.as_bytes().to_vec()))?,
        None => output.write(header.as_bytes())?,
    }
    tar_header(output, description, "blob.meta", ci.compressed_size + CI_HEADER_SIZE as u64)
}

fn header(description: &BlobDescription, ci: &CiLocation, contexts_size: usize) -> CiHeader {
    let batches = description.features.contains(BlobFeatures::BATCH);
    let entries_size = ci.uncompressed_size - contexts_size as u64;
    CiHeader {
        magic: CI_MAGIC.into(),
        features: description.features.bits().into(),
        ci_compressor: (ci.compressor as u32).into(),
        ci_entries: description.chunk_count.into(),
        ci_offset: ci.offset.into(),
        ci_compressed_size: ci.compressed_size.into(),
        ci_uncompressed_size: ci.uncompressed_size.into(),
        ctx_offset: if batches { entries_size } else { 0 }.into(),
        ctx_size: (contexts_size as u64).into(),
        // No more than chunks.
        ctx_count: ((contexts_size / CONTEXT_SIZE) as u32).into(),
        reserved: [0; 4032],
        magic2: CI_MAGIC.into(),
    }
}

impl<W: Write> SealedBlob<W> {
    /// The blob as a bootstrap that goes into it has to describe it: with a placeholder for the id, a table of contents
    /// of unknown size, and the bytes so far for its size. Its index is 0.
    pub fn description(&self) -> &BlobDescription {
        &self.description
    }

    /// Writes the bootstrap, where it is to be in the blob, and the table of contents.
    ///
    /// [`Error::Invalid`] if there is a bootstrap and the options say otherwise, or the other way round;
    /// [`Error::Unavailable`] if the stream fails.
    pub fn finish(self, bootstrap: Option<&[u8]>) -> Result<FinishedBlob<W>> {
        let Self { options, mut output, mut toc, mut description } = self;
        if options.inline_bootstrap != bootstrap.is_some() {
            let is = if bootstrap.is_some() { "a" } else { "no" };
            return Err(Error::invalid(
                "blob",
                format!("{is} bootstrap was given, inlined is {}", options.inline_bootstrap),
            ));
        }
        if let Some(bootstrap) = bootstrap {
            // Without a table of contents nothing would say that it is compressed.
            let compressed = if options.toc { codec::compress(Compressor::Zstd, bootstrap)? } else { None };
            let stored = compressed.as_deref().unwrap_or(bootstrap);
            toc.push(TocEntry {
                name: "image.boot".to_owned(),
                compressor: if compressed.is_some() { Compressor::Zstd } else { Compressor::None },
                digest: Digester::Sha256.digest(bootstrap),
                offset: output.position(),
                compressed_size: stored.len() as u64,
                uncompressed_size: bootstrap.len() as u64,
            });
            output.write(stored)?;
            tar_header(&mut output, &description, "image.boot", stored.len() as u64)?;
        }
        // A blob with nothing in it stays empty.
        if options.toc && !toc.is_empty() {
            let records: Vec<_> = toc.iter().map(TocEntry::pack).collect();
            let entries = records.as_bytes();
            let header = tar_header::make("rafs.blob.toc", entries.len() as u64);
            description.toc = Some(TocLocation {
                // At most five entries.
                size: (entries.len() + header.len()) as u32,
                digest: Digester::Sha256.digest_parts([entries, &header]),
            });
            output.write(entries)?;
            output.write(&header)?;
        }
        let file_size = output.position();
        if !options.inline_bootstrap {
            description.compressed_size = file_size;
        }
        description.id = BlobId::new(&output.id().to_string())?;
        let (out, file_digest) = output.finish()?;
        Ok(FinishedBlob { out, description, file_digest, file_size })
    }
}

/// Names the `size` bytes before it, in blobs that have such headers.
fn tar_header<W: Write>(
    output: &mut Output<W>,
    description: &BlobDescription,
    name: &str,
    size: u64,
) -> Result<()> {
    if description.features.contains(BlobFeatures::HAS_TAR_HEADER) {
        output.write(&tar_header::make(name, size))?;
    }
    Ok(())
}

/// The entry of a section that is stored as it is.
fn plain(name: &str, offset: u64, data: &[u8]) -> TocEntry {
    TocEntry {
        name: name.to_owned(),
        compressor: Compressor::None,
        digest: Digester::Sha256.digest(data),
        offset,
        compressed_size: data.len() as u64,
        uncompressed_size: data.len() as u64,
    }
}
