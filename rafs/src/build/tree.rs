//! The tree that a builder fills.

use std::ops::{Index, IndexMut};

use storage::blob::StoredChunk;
use storage::digest::Digest;

/// A node of a [`Tree`], by its place in [`Tree::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Files and directories, linked from parents to children.
///
/// The root is node 0. A node that no directory names is not part of the image, so removing is unlinking.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The nodes, in no particular order but for the root.
    pub nodes: Vec<Node>,
}

/// An entry: a name, and the inode it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name in its directory: 1 to 255 bytes without `/` and NUL. The root's is not looked at.
    pub name: Vec<u8>,
    /// Full `st_mode`; its type bits must agree with `content`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number in Linux' 32-bit encoding. v5 stores it for every type, v6 where the content is
    /// [`Content::Special`].
    pub rdev: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of it, under 10^9.
    pub mtime_nsec: u32,
    /// Extended attributes: full key, value. Written in byte order of their keys, whatever the order here.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the inode holds.
    pub content: Content,
    /// Regular files: nodes with equal numbers are one inode, and must agree in all but name. Ignored for other
    /// types, whose hard links the formats do not have.
    pub hard_links: Option<u32>,
    /// v5: sets the flag that only builds from tars have, on hard links and their targets.
    pub from_tar_link: bool,
    /// v5: what to store instead of [`Tree::measure`], see there.
    pub recorded: Option<Recorded>,
    /// Directories: the source has entries below this one and none for it, so its attributes are nobody's. Stored as
    /// a link count of 1, which no other directory has; layers need it when they are merged.
    pub is_implied: bool,
}

/// What an inode holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory {
        /// Its entries, in any order, with different names.
        children: Vec<NodeId>,
    },
    /// A regular file.
    Regular {
        /// Bytes.
        size: u64,
        /// Chunk k holds the bytes from k × chunk size on; there are `ceil(size / chunk size)`.
        chunks: Vec<Chunk>,
    },
    /// A symbolic link.
    Symlink {
        /// The target: 1 to [`SYMLINK_MAX`](crate::SYMLINK_MAX) bytes, no NUL.
        target: Vec<u8>,
    },
    /// A device, fifo or socket.
    Special,
}

/// A chunk, as a file refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Of the uncompressed bytes; all zero for tarfs and external blobs.
    pub digest: Digest,
    /// Place of the blob in the blob table.
    pub blob_index: u32,
    /// Number of the chunk in the blob, under 2^24 - 1.
    pub index: u32,
    /// How it is stored. Of batch members (flag `BATCH`) the bootstrap gets neither offset nor size.
    pub stored: StoredChunk,
    /// Where it lies in the uncompressed blob; v6: a multiple of the block size.
    pub uncompressed_offset: u64,
    /// Its bytes; the chunk size, but for the last chunk of a file.
    pub uncompressed_size: u32,
    /// v6: the file offset for the chunk table, where the record comes from another image: layers and parents
    /// hand it on as it was. `None`: where the file has the chunk.
    pub inherited_file_offset: Option<u64>,
}

/// What v5 records of an inode's extent: a number each, that readers show in `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Bytes. Looked at for directories only; all else has the size of its content.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
}

impl Node {
    /// A node without extended attributes, owned by root, of the time 0.
    pub fn new(name: impl Into<Vec<u8>>, mode: u32, content: Content) -> Self {
        Self {
            name: name.into(),
            mode,
            uid: 0,
            gid: 0,
            rdev: 0,
            mtime: 0,
            mtime_nsec: 0,
            xattrs: Vec::new(),
            content,
            hard_links: None,
            from_tar_link: false,
            recorded: None,
            is_implied: false,
        }
    }

    /// An empty directory; `mode` may lack the type bits.
    pub fn directory(name: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self::new(name, mode & 0o7777 | 0o040_000, Content::Directory { children: Vec::new() })
    }

    /// True for directories.
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory { .. })
    }

    /// The number of the group of hard links, of a regular file.
    pub(crate) fn group(&self) -> Option<u32> {
        self.hard_links.filter(|_| matches!(self.content, Content::Regular { .. }))
    }

    /// Bytes of the content of everything but directories.
    pub(crate) fn size(&self) -> u64 {
        match &self.content {
            Content::Regular { size, .. } => *size,
            Content::Symlink { target } => target.len() as u64,
            Content::Directory { .. } | Content::Special => 0,
        }
    }
}

impl Tree {
    /// The root of every tree.
    pub const ROOT: NodeId = NodeId(0);

    /// A tree of one directory.
    pub fn new(root: Node) -> Self {
        Self { nodes: vec![root] }
    }

    /// Adds `node` to a directory. Names are not compared with those that are there: a directory in which one
    /// stands twice is refused when it is written.
    ///
    /// # Panics
    ///
    /// If `parent` is not a directory of this tree, or the tree has 2^32 - 1 nodes: mistakes of the caller.
    pub fn add(&mut self, parent: NodeId, node: Node) -> NodeId {
        assert!(self.nodes.len() < u32::MAX as usize, "a tree has fewer than 2^32 - 1 nodes");
        let id = NodeId(self.nodes.len() as u32);
        match &mut self[parent].content {
            Content::Directory { children } => children.push(id),
            _ => panic!("node {parent:?} is not a directory"),
        }
        self.nodes.push(node);
        id
    }

    /// The children of a directory, in the order in which they were added; none for everything else.
    pub fn children(&self, id: NodeId) -> &[NodeId] {
        match &self[id].content {
            Content::Directory { children } => children,
            _ => &[],
        }
    }

    /// What v5 records of a node as the tree is now: directories have 8 bytes and the length of the name for each
    /// child, in pages of 4096, and blocks cover extended attributes too (spec/rafs-v5.md §6.1).
    ///
    /// The format wants the numbers of the source as it was scanned, before layers were laid over each other. Who
    /// does that measures first, and puts the result into [`Node::recorded`].
    pub fn measure(&self, id: NodeId) -> Recorded {
        const BLOCK: u64 = 512;
        const PAGE: u64 = 4096;
        let node = &self[id];
        let size = match &node.content {
            Content::Directory { children } => {
                let names: u64 = children.iter().map(|child| self[*child].name.len() as u64 + 8).sum();
                names.next_multiple_of(PAGE).max(PAGE)
            }
            _ => node.size(),
        };
        let xattrs: u64 =
            node.xattrs.iter().map(|(key, value)| (4 + key.len() + 1 + value.len()) as u64).sum();
        Recorded { size, blocks: size.saturating_add(xattrs.next_multiple_of(8)).div_ceil(BLOCK) }
    }

    /// What v5 records of a node.
    pub(crate) fn recorded(&self, id: NodeId) -> Recorded {
        self[id].recorded.unwrap_or_else(|| self.measure(id))
    }
}

impl Index<NodeId> for Tree {
    type Output = Node;

    /// # Panics
    ///
    /// If the id is not from this tree.
    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

impl IndexMut<NodeId> for Tree {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}
