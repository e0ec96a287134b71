//! An opened bootstrap as a tree again: what merging, building on a parent and dictionaries start from.

use std::collections::HashMap;

use storage::blob::{ChunkFlags, Extent, StoredChunk};
use storage::digest::Digest;

use super::options::{BlobEntry, ImageOptions};
use super::tree::{Chunk, Content, Node, NodeId, Recorded, Tree};
use crate::bootstrap::{Bootstrap, Tree as Opened, Version};
use crate::directory::DirEntry;
use crate::error::Result;
use crate::inode::{FileType, Ino};
use crate::{v5, v6};

/// Chunks of files that other entries name already: hard links. A bound, since the bootstrap pays for them once.
const LINKED_CHUNKS_MAX: usize = 1 << 22;

/// The tree of an image, and how the image was made: [`super::write_bootstrap`] backwards, with [`read_blobs`].
///
/// The image is checked first, as [`Bootstrap::check`] does. Nodes are in numbering order, children sorted. v5: a
/// node has [`Node::recorded`] where the image does not have what [`Tree::measure`] says. v6: chunks are as the
/// chunk table has them, so members of batches lack their place in the blob.
pub fn read_tree(bootstrap: &Bootstrap) -> Result<(Tree, ImageOptions)> {
    bootstrap.check()?;
    let mut reader = Reader::new(bootstrap);
    let (source, recorded) = reader.root()?;
    let mut tree = Tree::new(source);
    let mut measured = vec![recorded];
    let mut directories = vec![(Tree::ROOT, bootstrap.root())];
    while let Some((parent, directory)) = directories.pop() {
        let below = directories.len();
        for (place, entry) in (0..).zip(bootstrap.read_dir(directory, 0)?) {
            let entry = entry?;
            let (node, recorded) = reader.entry(directory, place, &entry)?;
            let id = tree.add(parent, node);
            measured.push(recorded);
            reader.ids.entry(entry.ino).or_insert(id);
            if entry.file_type == FileType::Directory {
                directories.push((id, entry.ino));
            }
        }
        // The first one is read next.
        directories[below..].reverse();
    }
    if bootstrap.version() == Version::V5 {
        for (id, recorded) in (0..).map(NodeId).zip(measured) {
            let expected = tree.measure(id);
            let matches = recorded.blocks == expected.blocks
                && (recorded.size == expected.size || !tree[id].is_directory());
            tree[id].recorded = (!matches).then_some(recorded);
        }
    }
    let has_xattrs = tree.nodes.iter().any(|node| !node.xattrs.is_empty());
    let prefetch = bootstrap.prefetch_inodes()?;
    let options = ImageOptions {
        version: bootstrap.version(),
        chunk_size: bootstrap.chunk_size(),
        compressor: bootstrap.compressor(),
        digester: bootstrap.digester(),
        explicit_owners: bootstrap.owners_recorded(),
        block_size: match bootstrap.tree() {
            Opened::V5(_) => 4096,
            Opened::V6(tree) => tree.block_size() as u32,
        },
        always_xattr_flag: bootstrap.has_xattrs() && !has_xattrs,
        prefetch: prefetch.iter().filter_map(|ino| reader.ids.get(ino).copied()).collect(),
    };
    Ok((tree, options))
}

/// The blobs of an image, as [`super::write_bootstrap`] takes them.
///
/// A bootstrap that was inside its blob does not know that blob's id: it has been read as the name of the file.
pub fn read_blobs(bootstrap: &Bootstrap) -> Vec<BlobEntry> {
    let prefetch_sizes = match bootstrap.tree() {
        Opened::V5(tree) => tree.blob_prefetch_sizes(),
        Opened::V6(_) => &[],
    };
    let prefetch_sizes = prefetch_sizes.iter().copied().chain(std::iter::repeat(0));
    let blobs = bootstrap.blobs().iter().zip(prefetch_sizes);
    blobs.map(|(blob, prefetch_size)| BlobEntry { description: (**blob).clone(), prefetch_size }).collect()
}

/// The chunks of files, as the bootstrap describes them: what [`read_tree`] reads, one file at a time.
pub struct FileChunks<'a>(Reader<'a>);

impl<'a> FileChunks<'a> {
    /// Of the files of an image.
    pub fn of(bootstrap: &'a Bootstrap) -> Self {
        Self(Reader::new(bootstrap))
    }

    /// The chunks of a regular file of `size` bytes; holes have none.
    pub fn read(&mut self, ino: Ino, size: u64) -> Result<Vec<Chunk>> {
        self.0.chunks(ino, size)
    }
}

struct Reader<'a> {
    bootstrap: &'a Bootstrap,
    /// v6: where the digests of chunks are.
    records: Option<v6::ChunkRecords<'a>>,
    /// The first node of each inode.
    ids: HashMap<Ino, NodeId>,
    linked_chunks: usize,
}

impl<'a> Reader<'a> {
    fn new(bootstrap: &'a Bootstrap) -> Self {
        let records = match bootstrap.tree() {
            Opened::V5(_) => None,
            Opened::V6(tree) => Some(v6::ChunkRecords::of(tree)),
        };
        Self { bootstrap, records, ids: HashMap::new(), linked_chunks: 0 }
    }

    fn root(&mut self) -> Result<(Node, Recorded)> {
        let root = self.bootstrap.root();
        self.ids.insert(root, Tree::ROOT);
        match self.bootstrap.tree() {
            Opened::V5(tree) => self.v5_node(root, &tree.record(v5::ROOT)?),
            Opened::V6(tree) => self.v6_node(&tree.node(root)?, b"/"),
        }
    }

    /// The node of the entry at `place` of a directory.
    fn entry(&mut self, directory: Ino, place: u32, entry: &DirEntry<'_>) -> Result<(Node, Recorded)> {
        match self.bootstrap.tree() {
            // Not the record of the number: each hard link has its own.
            Opened::V5(tree) => self.v5_node(entry.ino, &tree.child(directory, place)?),
            Opened::V6(tree) => self.v6_node(&tree.node(entry.ino)?, entry.name),
        }
    }

    fn v5_node(&mut self, ino: Ino, record: &v5::Record<'_>) -> Result<(Node, Recorded)> {
        use crate::v5::layout::InodeFlags;
        let attributes = record.attributes();
        let flags = InodeFlags::from_bits_truncate(record.head.flags.get());
        if record.has_hole() {
            return Err(self.bootstrap.image().unsupported(format!("file {ino} with holes, in a build")));
        }
        let recorded = Recorded { size: record.head.size.get(), blocks: record.head.blocks.get() };
        let node = Node {
            rdev: record.head.rdev.get(),
            from_tar_link: flags.contains(InodeFlags::HARDLINK),
            ..self.node(ino, record.name, &attributes)?
        };
        Ok((node, recorded))
    }

    fn v6_node(&mut self, node: &v6::Node, name: &[u8]) -> Result<(Node, Recorded)> {
        let rdev = node.rdev();
        let attributes = node.attributes();
        let recorded = Recorded { size: attributes.size, blocks: attributes.blocks };
        Ok((Node { rdev, ..self.node(node.ino(), name, &attributes)? }, recorded))
    }

    /// What both formats tell in the same way.
    fn node(&mut self, ino: Ino, name: &[u8], attributes: &crate::Attributes) -> Result<Node> {
        let bootstrap = self.bootstrap;
        let content = match attributes.file_type {
            FileType::Directory => Content::Directory { children: Vec::new() },
            FileType::Regular => {
                Content::Regular { size: attributes.size, chunks: self.chunks(ino, attributes.size)? }
            }
            FileType::Symlink => Content::Symlink { target: bootstrap.read_link(ino)?.into_owned() },
            _ => Content::Special,
        };
        let hard_links = match attributes {
            // A node exists for each number seen so far, and nodes have 32 bits; v6 numbers may have more.
            _ if attributes.file_type != FileType::Regular || attributes.nlink < 2 => None,
            _ => Some(u32::try_from(ino.0).map_err(|_| {
                bootstrap.image().unsupported(format!("hard link {ino}, whose number has over 32 bits"))
            })?),
        };
        let owned = |pair: Result<(std::borrow::Cow<'_, [u8]>, &[u8])>| {
            pair.map(|(name, value)| (name.into_owned(), value.to_vec()))
        };
        let mut xattrs = bootstrap.xattrs(ino)?.map(owned).collect::<Result<Vec<_>>>()?;
        xattrs.sort_unstable();
        Ok(Node {
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            mtime_nsec: attributes.mtime_nsec,
            xattrs,
            hard_links,
            is_implied: attributes.is_implied_directory(),
            ..Node::new(name, attributes.mode, content)
        })
    }

    fn chunks(&mut self, ino: Ino, size: u64) -> Result<Vec<Chunk>> {
        /// Bytes asked for at a time: all chunk sizes divide it.
        const STEP: u32 = 1 << 31;
        let bootstrap = self.bootstrap;
        let mut chunks = Vec::new();
        for offset in (0..size).step_by(STEP as usize) {
            for extent in bootstrap.extents(ino, offset, STEP)? {
                if let Some(chunk) = self.chunk(extent?)? {
                    chunks.push(chunk);
                }
            }
        }
        if self.ids.contains_key(&ino) {
            self.linked_chunks += chunks.len();
            if self.linked_chunks > LINKED_CHUNKS_MAX {
                let feature = format!("hard links to files of over {LINKED_CHUNKS_MAX} chunks, in a build");
                return Err(bootstrap.image().unsupported(feature));
            }
        }
        Ok(chunks)
    }

    fn chunk(&self, extent: Extent) -> Result<Option<Chunk>> {
        let Extent::Chunk { blob_index, chunk_index, uncompressed_offset, uncompressed_size, record, .. } =
            extent
        else {
            return Ok(None);
        };
        let (stored, digest, inherited_file_offset) = match (record, &self.records) {
            (Some((stored, digest)), _) => (stored, digest, None),
            (None, Some(records)) => {
                match records.find(blob_index, chunk_index, uncompressed_offset)? {
                    Some(record) => (record.stored(), record.digest(), Some(record.file_offset.get())),
                    // Of the chunks of a plain tar, the table has the last one only: it lies there as it is.
                    None => (plain(uncompressed_offset, uncompressed_size), Digest([0; 32]), None),
                }
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Chunk {
            digest,
            blob_index,
            index: chunk_index,
            stored,
            uncompressed_offset,
            uncompressed_size,
            inherited_file_offset,
        }))
    }
}

/// Bytes that are stored as they are, where they are.
fn plain(offset: u64, size: u32) -> StoredChunk {
    StoredChunk {
        flags: ChunkFlags::empty(),
        compressed_offset: offset,
        compressed_size: size,
        unit_index: 0,
        unit_offset: 0,
        crc32c: None,
    }
}
