//! From a source to chunks in a blob and files that refer to them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rafs::build::{Chunk, Content, NodeId, Numbering, Tree};
use storage::blob::BlobDescription;
use storage::blob::writer::{BlobOptions, FinishedBlob, SealedBlob};
use storage::digest::Digest;

use crate::cli::{CreateArgs, SourceType};
use crate::dictionary::Dictionary;
use crate::error::Result;
use crate::overlay::{self, Notation};
use crate::pipeline::{self, Limits};
use crate::prefetch::{self, Patterns};
use crate::progress::{Progress, Watched};
use crate::reference::Reference;
use crate::source::directory::{self, ListedFile};
use crate::source::files::{FileToStore, Files};
use crate::source::tar::{self, Reader, TarFiles, TreeBuilder};
use crate::store::{ChunkEncoder, Store, StoredChunks};

/// A source, and what it is laid over.
#[derive(Debug)]
pub enum Input {
    /// Listed, and to be read by whoever needs a piece.
    Directory(ListedDirectory),
    /// To be read from front to back.
    Archive(Archive),
    /// To be read as well, and to stay what it is.
    Reference(Reference),
}

/// A tree, and where the content of its files is.
#[derive(Debug)]
pub struct ListedDirectory {
    root: PathBuf,
    tree: Tree,
    files: HashMap<NodeId, ListedFile>,
    entries: usize,
}

/// A tar archive, of which nothing was read yet.
pub struct Archive {
    reader: Reader<Box<dyn Read + Send>>,
    path: PathBuf,
    is_estargz: bool,
    with_owners: bool,
    below: Below,
}

/// What a layer is laid over, if anything, and how it says what it removes there.
#[derive(Debug)]
pub(crate) struct Below {
    pub(crate) parent: Option<Tree>,
    pub(crate) notation: Notation,
}

impl Below {
    /// Lays the tree of the layer `source` over the parent: the result, and what to add to the numbers of the layer's
    /// nodes to find them in it. A layer without a parent stays one.
    pub(crate) fn put(self, mut tree: Tree, source: &Path) -> Result<(Tree, u32)> {
        let Self { parent, notation } = self;
        overlay::check(&tree, notation, source)?;
        let Some(mut lower) = parent else {
            overlay::keep(&mut tree, notation);
            return Ok((tree, 0));
        };
        overlay::drop_whiteouts(&mut lower, notation);
        let offset = overlay::apply(&mut lower, tree, notation);
        Ok((lower, offset))
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("position", &self.reader.position()).finish_non_exhaustive()
    }
}

impl Input {
    /// Lists a directory with so many threads, or opens an archive.
    pub fn open(args: &CreateArgs, parent: Option<Tree>, threads: usize) -> Result<Self> {
        match args.source_type {
            SourceType::Directory => Self::directory(args, parent, threads),
            SourceType::Tar | SourceType::TarGz | SourceType::Estargz => Self::archive(args, parent),
            SourceType::TarGzRef
            | SourceType::EstargzRef
            | SourceType::EstargzTocRef
            | SourceType::TarTarfs => Reference::of(args, parent).map(Self::Reference),
        }
    }

    /// Lists a directory, and lays it over a parent.
    fn directory(args: &CreateArgs, parent: Option<Tree>, threads: usize) -> Result<Self> {
        let listing = directory::list(&args.source, !args.repeatable, threads)?;
        let (tree, mut files) = (listing.tree, listing.files);
        let entries = tree.nodes.len() - 1;
        let (tree, offset) = Below { parent, notation: args.whiteout_spec.into() }.put(tree, &args.source)?;
        if offset != 0 {
            files = files.into_iter().map(|(id, file)| (NodeId(id.0 + offset), file)).collect();
        }
        Ok(Self::Directory(ListedDirectory { root: args.source.clone(), tree, files, entries }))
    }

    fn archive(args: &CreateArgs, parent: Option<Tree>) -> Result<Self> {
        let input = tar::open_decoded(&args.source)?;
        Ok(Self::Archive(Archive {
            reader: Reader::new(input, &args.source),
            path: args.source.clone(),
            is_estargz: args.source_type == SourceType::Estargz,
            with_owners: !args.repeatable,
            below: Below { parent, notation: args.whiteout_spec.into() },
        }))
    }

    /// Entries of the source but its root, if they are known before it is read.
    pub fn entries(&self) -> Option<usize> {
        match self {
            Self::Directory(listed) => Some(listed.entries),
            Self::Archive(_) | Self::Reference(_) => None,
        }
    }
}

/// An image whose chunks are in its blob, and whose files do not refer to them yet.
#[derive(Debug)]
pub struct Assembled<W: Write> {
    /// The tree; see [`assign`].
    pub tree: Tree,
    /// The blob, whose end is to be written.
    pub blob: Blob<W>,
    /// The chunks of the files.
    pub chunks: StoredChunks,
    /// The files that were stored, in order.
    pub files: Vec<NodeId>,
    /// What the patterns name.
    pub prefetch: Vec<NodeId>,
}

/// What is written besides a bootstrap.
#[derive(Debug)]
pub enum Blob<W: Write> {
    /// A blob.
    Sealed(Box<SealedBlob<W>>),
    /// Nothing: the source itself is the blob.
    Source(Box<BlobDescription>, W),
}

impl<W: Write> Blob<W> {
    /// The blob as a bootstrap that goes into it has to describe it.
    pub fn description(&self) -> &BlobDescription {
        match self {
            Self::Sealed(blob) => blob.description(),
            Self::Source(description, _) => description,
        }
    }

    /// Writes what is left to be written. Nothing is written of a source, whose file has no bytes.
    pub fn finish(self, bootstrap: Option<&[u8]>) -> Result<FinishedBlob<W>> {
        match self {
            Self::Sealed(blob) => Ok(blob.finish(bootstrap)?),
            Self::Source(description, out) => Ok(FinishedBlob {
                out,
                id: description.id.clone(),
                description: *description,
                file_digest: Digest([0; 32]),
                file_size: 0,
            }),
        }
    }
}

/// Reads the content of all files, and writes the chunk data of a blob.
pub fn assemble<W: Write>(
    input: Input,
    patterns: &Patterns,
    options: &BlobOptions,
    dictionary: &Dictionary,
    out: W,
    limits: Limits,
) -> Result<Assembled<W>> {
    match input {
        Input::Directory(listed) => assemble_directory(listed, patterns, options, dictionary, out, limits),
        Input::Archive(archive) => assemble_archive(archive, patterns, options, dictionary, out, limits),
        Input::Reference(reference) => reference.assemble(patterns, options, dictionary, out, limits),
    }
}

/// Reads files in the order in which their data is to be stored.
fn assemble_directory<W: Write>(
    listed: ListedDirectory,
    patterns: &Patterns,
    options: &BlobOptions,
    dictionary: &Dictionary,
    out: W,
    limits: Limits,
) -> Result<Assembled<W>> {
    let ListedDirectory { root, tree, files: listed, .. } = listed;
    let numbering = Numbering::of(&tree)?;
    let first = patterns.resolve(&tree, &numbering);
    let (positions, first_count) = prefetch::data_order(&tree, &numbering, &first);
    let mut files = Vec::with_capacity(positions.len());
    let mut prefetched_files = 0;
    let mut groups = HashSet::new();
    for (place, position) in positions.into_iter().enumerate() {
        let Some(&node) = numbering.order().get(position) else { continue };
        // What a parent brought has its chunks.
        let Some(listed) = listed.get(&node) else { continue };
        // Of hard links the first one is read.
        if tree[node].hard_links.is_some_and(|group| !groups.insert(group)) {
            continue;
        }
        prefetched_files += usize::from(place < first_count);
        let ListedFile { fingerprint, may_have_holes } = *listed;
        files.push(FileToStore { node, position, fingerprint, may_have_holes });
    }

    let mut store = Store::new(out, options.clone(), dictionary, prefetched_files)?;
    let jobs = Files::new(&root, &tree, &numbering, options.chunk_size, &files);
    let bytes = files.iter().map(|file| file.fingerprint.size).fold(0, u64::saturating_add);
    let mut watched = Watched { sink: &mut store, progress: Progress::of(Some((bytes, files.len()))) };
    pipeline::run(jobs, &ChunkEncoder::new(options, dictionary), &mut watched, limits)?;
    drop(watched);
    let (blob, chunks) = store.finish()?;
    let prefetch = first.iter().filter_map(|position| numbering.order().get(*position).copied()).collect();
    let files = files.into_iter().map(|file| file.node).collect();
    Ok(Assembled { tree, blob: Blob::Sealed(blob.into()), chunks, files, prefetch })
}

/// Reads an archive from front to back. Its order is that of the data, whatever the patterns say.
fn assemble_archive<W: Write>(
    archive: Archive,
    patterns: &Patterns,
    options: &BlobOptions,
    dictionary: &Dictionary,
    out: W,
    limits: Limits,
) -> Result<Assembled<W>> {
    let Archive { reader, path, is_estargz, with_owners, below } = archive;
    let mut store = Store::new(out, options.clone(), dictionary, 0)?;
    let mut jobs = TarFiles::new(reader, TreeBuilder::new(with_owners), options.chunk_size, is_estargz);
    let mut watched = Watched { sink: &mut store, progress: Progress::of(None) };
    pipeline::run(&mut jobs, &ChunkEncoder::new(options, dictionary), &mut watched, limits)?;
    drop(watched);
    let (blob, chunks) = store.finish()?;
    let (tree, files) = jobs.finish();
    let blob = Blob::Sealed(blob.into());
    lay_over(tree, files, (below, &path), patterns, blob, chunks)
}

/// Lays the tree of an archive, whose path it is, over what is below.
pub(crate) fn lay_over<W: Write>(
    tree: Tree,
    mut files: Vec<NodeId>,
    (below, path): (Below, &Path),
    patterns: &Patterns,
    blob: Blob<W>,
    chunks: StoredChunks,
) -> Result<Assembled<W>> {
    let (tree, offset) = below.put(tree, path)?;
    files.iter_mut().for_each(|id| id.0 += offset);
    let numbering = Numbering::of(&tree)?;
    let first = patterns.resolve(&tree, &numbering);
    let prefetch = first.iter().filter_map(|position| numbering.order().get(*position).copied()).collect();
    Ok(Assembled { tree, blob, chunks, files, prefetch })
}

/// Gives the files their chunks, which come in the order of the files; hard links get those of the file that was
/// stored.
pub fn assign(tree: &mut Tree, files: &[NodeId], chunks: impl Iterator<Item = Chunk>, chunk_size: u32) {
    let mut chunks = chunks;
    let mut groups: HashMap<u32, NodeId> = HashMap::new();
    for &id in files {
        let node = &mut tree[id];
        if let Content::Regular { size, chunks: list } = &mut node.content {
            // As many as fit in memory, since they were counted one by one.
            list.extend(chunks.by_ref().take(size.div_ceil(chunk_size.into()) as usize));
        }
        groups.extend(node.hard_links.map(|group| (group, id)));
    }
    // A tree has fewer than 2^32 nodes.
    for id in (0..tree.nodes.len() as u32).map(NodeId) {
        let Some(&first) = tree[id].hard_links.and_then(|group| groups.get(&group)) else { continue };
        if first != id {
            let copied = tree[first].content.clone();
            tree[id].content = copied;
        }
    }
}
