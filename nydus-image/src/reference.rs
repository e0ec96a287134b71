//! Images of layers that stay what they are: a bootstrap, and a RAFS blob that says where the chunks lie in the layer.
//!
//! The layer is the data blob, under the SHA-256 of its bytes, which are read once.

use std::io::Write;
use std::path::PathBuf;

use rafs::build::Tree;
use storage::blob::writer::{
    BlobOptions, DataChunk, DataKind, DataObject, ReferenceOptions, ReferenceWriter,
};
use storage::blob::{BlobId, ZranContexts};

use crate::builder::{Assembled, Below, Blob, lay_over};
use crate::cli::{CreateArgs, SourceType};
use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::pipeline::{self, Limits};
use crate::prefetch::Patterns;
use crate::source::hashed::Hashed;
use crate::source::layer::{ArchiveFiles, LayerFiles, LayerInput, Places};
use crate::source::tar::{self, Reader, TreeBuilder};
use crate::source::{estargz_toc, tarfs};
use crate::store::{ReferenceEncoder, ReferenceStore};

/// A layer, of which nothing was read yet.
#[derive(Debug)]
pub struct Reference {
    path: PathBuf,
    kind: Kind,
    with_owners: bool,
    below: Below,
}

/// How a layer is read.
#[derive(Debug)]
enum Kind {
    /// As a tar.gz, or a tar.
    Layer { is_estargz: bool },
    /// Not at all: this is its table of contents.
    EstargzToc { id: BlobId, size: u64 },
    /// As a tar that is mounted as it is.
    Tarfs { id: Option<String> },
}

impl Reference {
    /// What the command line names.
    pub fn of(args: &CreateArgs, parent: Option<Tree>) -> Result<Self> {
        let kind = match (args.source_type, &args.blob_id) {
            (SourceType::EstargzTocRef, Some(id)) => {
                Kind::EstargzToc { id: BlobId::new(id)?, size: data_size(args)? }
            }
            (SourceType::EstargzTocRef, None) => {
                return Err(Error::Usage("--blob-id: needed for --type estargztoc-ref".into()));
            }
            (SourceType::TarTarfs, id) => Kind::Tarfs { id: id.clone() },
            (source, _) => Kind::Layer { is_estargz: source == SourceType::EstargzRef },
        };
        Ok(Self {
            path: args.source.clone(),
            kind,
            with_owners: !args.repeatable,
            below: Below { parent, notation: args.whiteout_spec.into() },
        })
    }

    /// Reads the layer, and writes what describes its chunks. Of `options` the RAFS blob has chunk size, table of
    /// contents, and whether the bootstrap goes into it.
    pub fn assemble<W: Write>(
        self,
        patterns: &Patterns,
        options: &BlobOptions,
        dictionary: &Dictionary,
        out: W,
        limits: Limits,
    ) -> Result<Assembled<W>> {
        let Self { path, kind, with_owners, below } = self;
        let below = (below, path.as_path());
        let builder = TreeBuilder::new(with_owners);
        let chunk_size = options.chunk_size;
        let options = |kind| ReferenceOptions {
            kind,
            chunk_size,
            toc: options.toc,
            inline_bootstrap: options.inline_bootstrap,
        };
        let places = Places::default();
        match kind {
            Kind::Layer { is_estargz } => {
                let input = LayerInput::open(&path, chunk_size)?;
                let writer = ReferenceWriter::new(options(input.kind()))?;
                let files = ArchiveFiles::new(Reader::new(input, &path), builder, is_estargz);
                let mut files = LayerFiles::new(files, chunk_size, &places);
                let mut store = ReferenceStore::new(writer, dictionary, &places);
                pipeline::run(&mut files, &ReferenceEncoder(dictionary), &mut store, limits)?;
                let (writer, chunks) = store.finish();
                let (tree, files, input) = files.finish();
                let (data, contexts) = input.finish()?;
                let blob = Blob::Sealed(writer.seal(out, data, contexts)?.into());
                lay_over(tree, files, below, patterns, blob, chunks)
            }
            Kind::EstargzToc { id, size } => {
                let toc = estargz_toc::read(&path, with_owners, chunk_size, size)?;
                let writer = ReferenceWriter::new(options(DataKind::Stargz))?;
                let mut store = ReferenceStore::new(writer, dictionary, &places);
                for chunk in toc.chunks {
                    let place = DataChunk::Stargz(chunk.offset, chunk.bound);
                    store.add(chunk.digest, chunk.len, 0, place)?;
                }
                let (writer, chunks) = store.finish();
                let blob = writer.seal(out, DataObject { id, size }, ZranContexts::default())?;
                lay_over(toc.tree, toc.files, below, patterns, Blob::Sealed(blob.into()), chunks)
            }
            Kind::Tarfs { id } => {
                let reader = Reader::new(Hashed::new(tar::open(&path)?), &path);
                let tarfs = tarfs::read(reader, builder, chunk_size, id.as_deref())?;
                let blob = Blob::Source(tarfs.blob.into(), out);
                lay_over(tarfs.tree, tarfs.files, below, patterns, blob, tarfs.chunks)
            }
        }
    }
}

/// The size of the layer, which the option has in hexadecimal; 0: unknown.
fn data_size(args: &CreateArgs) -> Result<u64> {
    let Some(text) = &args.blob_data_size else { return Ok(0) };
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    // A sign would be taken too.
    let size = u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
    size.ok_or_else(|| Error::Usage(format!("--blob-data-size {text}: not a hexadecimal number of 64 bits")))
}
