//! From a source to chunks in a blob and files that refer to them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;

use rafs::build::{Chunk, Content, NodeId, Numbering, Tree};
use storage::blob::writer::{BlobOptions, SealedBlob};

use crate::cli::{CreateArgs, SourceType, WhiteoutSpec};
use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::overlay;
use crate::pipeline::{self, Limits};
use crate::prefetch::{self, Patterns};
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
    is_estargz: bool,
    with_owners: bool,
    parent: Option<Tree>,
    whiteouts: WhiteoutSpec,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("position", &self.reader.position()).finish_non_exhaustive()
    }
}

impl Input {
    /// Lists a directory, or opens an archive.
    pub fn open(args: &CreateArgs, parent: Option<Tree>) -> Result<Self> {
        match args.source_type {
            SourceType::Directory => Self::directory(args, parent),
            SourceType::Tar => Self::archive(args, parent, false),
            SourceType::TarGz | SourceType::Estargz => Self::archive(args, parent, true),
            _ => Err(Error::Unsupported("this type of source")),
        }
    }

    /// Lists a directory, and lays it over a parent or drops its whiteouts.
    fn directory(args: &CreateArgs, parent: Option<Tree>) -> Result<Self> {
        let listing = directory::list(&args.source, !args.repeatable)?;
        let (mut tree, mut files) = (listing.tree, listing.files);
        let entries = tree.nodes.len() - 1;
        match parent {
            None => overlay::drop_whiteouts(&mut tree, args.whiteout_spec),
            Some(mut lower) => {
                let offset = overlay::apply(&mut lower, tree, args.whiteout_spec);
                tree = lower;
                files = files.into_iter().map(|(id, file)| (NodeId(id.0 + offset), file)).collect();
            }
        }
        Ok(Self::Directory(ListedDirectory { root: args.source.clone(), tree, files, entries }))
    }

    fn archive(args: &CreateArgs, parent: Option<Tree>, is_gzip: bool) -> Result<Self> {
        let input = tar::open(&args.source, is_gzip)?;
        Ok(Self::Archive(Archive {
            reader: Reader::new(input, &args.source),
            is_estargz: args.source_type == SourceType::Estargz,
            with_owners: !args.repeatable,
            parent,
            whiteouts: args.whiteout_spec,
        }))
    }

    /// Entries of the source but its root, if they are known before it is read.
    pub fn entries(&self) -> Option<usize> {
        match self {
            Self::Directory(listed) => Some(listed.entries),
            Self::Archive(_) => None,
        }
    }
}

/// An image whose chunks are in its blob, and whose files do not refer to them yet.
#[derive(Debug)]
pub struct Assembled<W: Write> {
    /// The tree; see [`assign`].
    pub tree: Tree,
    /// The blob, whose end is to be written.
    pub blob: SealedBlob<W>,
    /// The chunks of the files.
    pub chunks: StoredChunks,
    /// The files that were stored, in order.
    pub files: Vec<NodeId>,
    /// What the patterns name.
    pub prefetch: Vec<NodeId>,
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
    pipeline::run(jobs, &ChunkEncoder::new(options, dictionary), &mut store, limits)?;
    let (blob, chunks) = store.finish()?;
    let prefetch = first.iter().filter_map(|position| numbering.order().get(*position).copied()).collect();
    let files = files.into_iter().map(|file| file.node).collect();
    Ok(Assembled { tree, blob, chunks, files, prefetch })
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
    let Archive { reader, is_estargz, with_owners, parent, whiteouts } = archive;
    let mut store = Store::new(out, options.clone(), dictionary, 0)?;
    let mut jobs = TarFiles::new(reader, TreeBuilder::new(with_owners), options.chunk_size, is_estargz);
    pipeline::run(&mut jobs, &ChunkEncoder::new(options, dictionary), &mut store, limits)?;
    let (blob, chunks) = store.finish()?;
    let (mut tree, mut files) = jobs.finish();
    // A layer alone keeps its whiteouts: merging asks for them.
    if let Some(mut lower) = parent {
        let offset = overlay::apply(&mut lower, tree, whiteouts);
        tree = lower;
        files.iter_mut().for_each(|id| id.0 += offset);
    }
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
