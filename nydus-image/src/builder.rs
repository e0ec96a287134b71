//! From a source to chunks in a blob and files that refer to them.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;

use rafs::build::{Chunk, Content, NodeId, Numbering, Tree};
use storage::blob::writer::{BlobOptions, SealedBlob};

use crate::cli::CreateArgs;
use crate::dictionary::Dictionary;
use crate::error::Result;
use crate::overlay;
use crate::pipeline::{self, Limits};
use crate::prefetch::{self, Patterns};
use crate::source::directory::{self, ListedFile};
use crate::source::files::{FileToStore, Files};
use crate::store::{ChunkEncoder, Store, StoredChunks};

/// A tree, and where the content of its files is.
#[derive(Debug)]
pub struct Input {
    root: PathBuf,
    tree: Tree,
    files: HashMap<NodeId, ListedFile>,
    entries: usize,
}

impl Input {
    /// Lists a directory, and lays it over a parent or drops its whiteouts.
    pub fn directory(args: &CreateArgs, parent: Option<Tree>, threads: usize) -> Result<Self> {
        let listing = directory::list(&args.source, !args.repeatable, threads)?;
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
        Ok(Self { root: args.source.clone(), tree, files, entries })
    }

    /// Entries of the source but its root.
    pub fn entries(&self) -> usize {
        self.entries
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
    let numbering = Numbering::of(&input.tree)?;
    let first = patterns.resolve(&input.tree, &numbering);
    let (positions, first_count) = prefetch::data_order(&input.tree, &numbering, &first);
    let mut files = Vec::with_capacity(positions.len());
    let mut prefetched_files = 0;
    let mut groups = HashSet::new();
    for (place, position) in positions.into_iter().enumerate() {
        let Some(&node) = numbering.order().get(position) else { continue };
        // What a parent brought has its chunks.
        let Some(listed) = input.files.get(&node) else { continue };
        // Of hard links the first one is read.
        if input.tree[node].hard_links.is_some_and(|group| !groups.insert(group)) {
            continue;
        }
        prefetched_files += usize::from(place < first_count);
        let ListedFile { fingerprint, may_have_holes } = *listed;
        files.push(FileToStore { node, position, fingerprint, may_have_holes });
    }

    let mut store = Store::new(out, options.clone(), dictionary, prefetched_files)?;
    let jobs = Files::new(&input.root, &input.tree, &numbering, options.chunk_size, &files);
    pipeline::run(jobs, &ChunkEncoder::new(options, dictionary), &mut store, limits)?;
    let (blob, chunks) = store.finish()?;
    let prefetch = first.iter().filter_map(|position| numbering.order().get(*position).copied()).collect();
    let files = files.into_iter().map(|file| file.node).collect();
    Ok(Assembled { tree: input.tree, blob, chunks, files, prefetch })
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
