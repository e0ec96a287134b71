//! The sections behind the chunk data, in the order of spec/blob.md §2, and the blob's description.

use std::io::Write;

use zerocopy::IntoBytes;

use super::chunk::{encode_section, encrypt};
use super::chunk_array::{ChunkArray, Contexts};
use super::output::Output;
use super::reference::{DataObject, ReferenceWriter};
use super::{BlobOptions, BlobWriter};
use crate::blob::layout::{CI_HEADER_SIZE, CI_MAGIC, CiHeader};
use crate::blob::{
    BlobDescription, BlobFeatures, BlobId, CiLocation, Compressor, TocEntry, TocLocation, ZranContexts,
    tar_header,
};
use crate::digest::{Digest, Digester};
use crate::{Error, Result, codec};

/// What a bootstrap that lies in its own blob calls it: its id is not known before the bootstrap is.
const PLACEHOLDER: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// A blob whose chunks are complete, and described in it.
#[derive(Debug)]
pub struct SealedBlob<W> {
    options: BlobOptions,
    output: Output<W>,
    /// The chunk data is an object of its own, of this name and size.
    data: Option<DataObject>,
    toc: Vec<TocEntry>,
    /// As an inlined bootstrap records it.
    description: BlobDescription,
}

/// A blob that is complete.
#[derive(Debug)]
pub struct FinishedBlob<W> {
    /// Where it was written to, flushed.
    pub out: W,
    /// What goes into a blob table; the index is 0. Id and `compressed_size` are those of the data: of this file, or of
    /// the object that a RAFS blob is about. Where the bootstrap is inlined, `compressed_size` of this file is what that
    /// bootstrap records: the bytes before itself.
    pub description: BlobDescription,
    /// The name of the file: the SHA-256 of its bytes without the digest array.
    pub id: BlobId,
    /// SHA-256 of the whole file: the id as well, but for blobs with a digest array.
    pub file_digest: Digest,
    /// Bytes of the file. 0: there is nothing in it, and there should be no such file (spec/blob.md §14).
    pub file_size: u64,
}

impl<W: Write> SealedBlob<W> {
    /// Writes what follows the chunk data: nothing, if there are no chunks.
    pub(super) fn seal(writer: BlobWriter<W>) -> Result<Self> {
        let BlobWriter { options, output, chunks, uncompressed_size } = writer;
        let description = describe(&options, &chunks, uncompressed_size)?;
        let mut blob = Self { options, output, data: None, toc: Vec::new(), description };
        if chunks.count() != 0 {
            blob.end_data()?;
            blob.write_tables(chunks)?;
        }
        blob.description.compressed_size = blob.output.position();
        Ok(blob)
    }

    /// Writes what describes the chunks of another object.
    pub(super) fn seal_reference(
        writer: ReferenceWriter,
        out: W,
        data: DataObject,
        contexts: ZranContexts,
    ) -> Result<Self> {
        let ReferenceWriter { options: reference, mut chunks, uncompressed_size, contexts: used } = writer;
        let table = contexts.pack(&used).ok_or_else(|| {
            let last = used.last().copied().unwrap_or(0);
            Error::invalid("chunk table", format!("a chunk is in context {last} of {}", contexts.len()))
        })?;
        chunks.set_contexts(table, used.len());
        let options = reference.as_native();
        let mut description = describe(&options, &chunks, uncompressed_size)?;
        description.features |= reference.features();
        description.compressor = Compressor::Gzip;
        description.id = data.id.clone();
        description.compressed_size = data.size;
        description.meta_id = Some(BlobId::new(PLACEHOLDER)?);
        let mut blob =
            Self { options, output: Output::new(out), data: Some(data), toc: Vec::new(), description };
        if chunks.count() != 0 {
            blob.write_tables(chunks)?;
        }
        Ok(blob)
    }

    /// The chunk table and the digests of its chunks.
    fn write_tables(&mut self, chunks: ChunkArray) -> Result<()> {
        let (entries, contexts, digests) = chunks.into_parts();
        if self.options.chunk_table {
            self.write_chunk_table(entries, contexts)?;
        }
        if let Some(digests) = digests {
            self.toc.push(plain("blob.digest", self.output.position(), &digests));
            self.output.write_digest_array(&digests)?;
            self.write_tar_header("blob.digest", digests.len() as u64)?;
        }
        Ok(())
    }

    fn end_data(&mut self) -> Result<()> {
        let data_size = self.output.position();
        self.write_tar_header("image.blob", data_size)?;
        self.toc.push(TocEntry {
            name: "image.blob".to_owned(),
            compressor: Compressor::None,
            // Of the data and its tar header: all there is so far.
            digest: self.output.id(),
            offset: 0,
            compressed_size: data_size,
            uncompressed_size: self.description.uncompressed_size,
        });
        Ok(())
    }

    /// CI array, CI header, and their tar header.
    fn write_chunk_table(&mut self, mut array: Vec<u8>, mut contexts: Contexts) -> Result<()> {
        let contexts_size = contexts.bytes.len() as u64;
        array.append(&mut contexts.bytes);
        let digest = Digester::Sha256.digest(&array);
        let uncompressed_size = array.len() as u64;
        let (stored, compressor) = encode_section(array, &self.options)?;
        let (offset, compressed_size) = (self.output.position(), stored.len() as u64);
        let ci = CiLocation { compressor, offset, compressed_size, uncompressed_size };
        self.description.ci = Some(ci);
        let name = "blob.meta".to_owned();
        self.toc.push(TocEntry { name, compressor, digest, offset, compressed_size, uncompressed_size });
        self.output.write(&stored)?;

        let header = header(&self.description, &ci, contexts_size, contexts.count);
        self.toc.push(plain("blob.meta.header", self.output.position(), header.as_bytes()));
        self.output.write(&encrypt(header.as_bytes().to_vec(), &self.options))?;
        self.write_tar_header("blob.meta", compressed_size + CI_HEADER_SIZE as u64)
    }

    /// The blob as a bootstrap that goes into it has to describe it: with a placeholder for the id, a table of contents
    /// of unknown size, and the bytes so far for its size. Its index is 0.
    pub fn description(&self) -> &BlobDescription {
        &self.description
    }

    /// Writes the bootstrap, where it is to be in the blob, and the table of contents.
    ///
    /// [`Error::Invalid`] if there is a bootstrap and the options say otherwise, or the other way round;
    /// [`Error::Unavailable`] if the stream fails.
    pub fn finish(mut self, bootstrap: Option<&[u8]>) -> Result<FinishedBlob<W>> {
        let inlined = self.options.inline_bootstrap;
        if inlined != bootstrap.is_some() {
            let is = if bootstrap.is_some() { "a" } else { "no" };
            return Err(Error::invalid("blob", format!("{is} bootstrap was given, inlined is {inlined}")));
        }
        if let Some(bootstrap) = bootstrap {
            self.write_bootstrap(bootstrap)?;
        }
        // A blob with nothing in it stays empty.
        if self.options.toc && !self.toc.is_empty() {
            self.write_toc()?;
        }
        let Self { output, data, mut description, .. } = self;
        let file_size = output.position();
        let id = BlobId::new(&output.id().to_string())?;
        match (data.is_some(), inlined) {
            (true, false) => {
                description.meta_id = Some(id.clone());
                description.meta_size = file_size;
            }
            // The bootstrap does not know the object that it is in.
            (true, true) => {}
            (false, _) => {
                description.id = id.clone();
                if !inlined {
                    description.compressed_size = file_size;
                }
            }
        }
        let (out, file_digest) = output.finish()?;
        Ok(FinishedBlob { out, description, id, file_digest, file_size })
    }

    fn write_bootstrap(&mut self, bootstrap: &[u8]) -> Result<()> {
        // Without a table of contents nothing would say that it is compressed.
        let compressed = if self.options.toc { codec::compress(Compressor::Zstd, bootstrap)? } else { None };
        let stored = compressed.as_deref().unwrap_or(bootstrap);
        self.toc.push(TocEntry {
            name: "image.boot".to_owned(),
            compressor: if compressed.is_some() { Compressor::Zstd } else { Compressor::None },
            digest: Digester::Sha256.digest(bootstrap),
            offset: self.output.position(),
            compressed_size: stored.len() as u64,
            uncompressed_size: bootstrap.len() as u64,
        });
        self.output.write(stored)?;
        self.write_tar_header("image.boot", stored.len() as u64)
    }

    fn write_toc(&mut self) -> Result<()> {
        let records: Vec<_> = self.toc.iter().map(TocEntry::pack).collect();
        let entries = records.as_bytes();
        let header = tar_header::make("rafs.blob.toc", entries.len() as u64);
        self.description.toc = Some(TocLocation {
            // At most five entries.
            size: (entries.len() + header.len()) as u32,
            digest: Digester::Sha256.digest_parts([entries, &header]),
        });
        self.output.write(entries)?;
        self.output.write(&header)
    }

    /// Names the `size` bytes before it, in blobs that have such headers.
    fn write_tar_header(&mut self, name: &str, size: u64) -> Result<()> {
        if self.description.features.contains(BlobFeatures::HAS_TAR_HEADER) {
            self.output.write(&tar_header::make(name, size))?;
        }
        Ok(())
    }
}

/// A blob before anything but its chunks is known.
fn describe(options: &BlobOptions, chunks: &ChunkArray, uncompressed_size: u64) -> Result<BlobDescription> {
    Ok(BlobDescription {
        index: 0,
        id: BlobId::new(PLACEHOLDER)?,
        chunk_size: options.chunk_size,
        chunk_count: chunks.count(),
        compressor: options.compressor,
        digester: options.digester,
        cipher: options.cipher,
        features: options.features(chunks.count()),
        compressed_size: 0,
        uncompressed_size,
        ci: None,
        toc: options.toc.then_some(TocLocation { size: 0, digest: Digest([0; 32]) }),
        meta_id: None,
        meta_size: 0,
    })
}

fn header(
    description: &BlobDescription,
    ci: &CiLocation,
    contexts_size: u64,
    context_count: u32,
) -> CiHeader {
    let has_contexts = description.features.intersects(BlobFeatures::BATCH | BlobFeatures::ZRAN);
    let entries_size = ci.uncompressed_size - contexts_size;
    CiHeader {
        magic: CI_MAGIC.into(),
        features: description.features.bits().into(),
        ci_compressor: (ci.compressor as u32).into(),
        ci_entries: description.chunk_count.into(),
        ci_offset: ci.offset.into(),
        ci_compressed_size: ci.compressed_size.into(),
        ci_uncompressed_size: ci.uncompressed_size.into(),
        ctx_offset: if has_contexts { entries_size } else { 0 }.into(),
        ctx_size: contexts_size.into(),
        ctx_count: context_count.into(),
        reserved: [0; 4032],
        magic2: CI_MAGIC.into(),
    }
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
