//! A numbered tree whose nodes keep the rules of the format it is to be written in, with its hard links found.

use std::path::Path;

use storage::blob::{BlobDescription, BlobFeatures, ChunkFlags};

use super::numbering::Numbering;
use super::options::{BlobEntry, ImageOptions};
use super::tree::{Chunk, Content, Node, Tree};
use crate::blob_limits;
use crate::bootstrap::Version;
use crate::error::{Error, Result};
use crate::inode::{FileType, SYMLINK_MAX};
use crate::xattr;

/// Chunk numbers are below this: all bits set would mean none.
const CHUNK_INDEX_LIMIT: u32 = blob_limits::CHUNK_COUNT_MAX - 1;

/// What a writer writes. Positions are those of the numbering.
pub(crate) struct Inodes<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) blobs: &'a [BlobEntry],
    pub(crate) options: &'a ImageOptions,
    pub(crate) numbering: Numbering,
    /// Position → position of the first entry of the same inode.
    first: Vec<u32>,
    /// Position → entries of the same inode.
    links: Vec<u32>,
}

impl<'a> Inodes<'a> {
    /// Numbers the tree and checks every node.
    pub(crate) fn of(tree: &'a Tree, blobs: &'a [BlobEntry], options: &'a ImageOptions) -> Result<Self> {
        let numbering = Numbering::of(tree)?;
        let count = numbering.order().len();
        let mut inodes = Self {
            tree,
            blobs,
            options,
            numbering,
            // Positions have 32 bits, as node ids have.
            first: (0..count as u32).collect(),
            links: vec![1; count],
        };
        for position in 0..count {
            inodes.check(inodes.node(position)).map_err(|rule| rule.broken_at(&inodes, position))?;
        }
        inodes.find_links()?;
        Ok(inodes)
    }

    /// Entries, hard links each counted.
    pub(crate) fn len(&self) -> usize {
        self.first.len()
    }

    pub(crate) fn node(&self, position: usize) -> &'a Node {
        &self.tree[self.numbering.order()[position]]
    }

    /// Position of the first entry that names the inode which the entry at `position` names.
    pub(crate) fn first(&self, position: usize) -> usize {
        self.first[position] as usize
    }

    /// The number that both formats store: the same for all entries of an inode.
    pub(crate) fn ino(&self, position: usize) -> u32 {
        self.first[position] + 1
    }

    /// Inodes, hard links counted once.
    pub(crate) fn distinct(&self) -> usize {
        (0..self.len()).filter(|position| self.first(*position) == *position).count()
    }

    /// Links of the inode at `position`.
    pub(crate) fn link_count(&self, position: usize) -> u32 {
        match self.node(position).content {
            Content::Directory { .. } if self.node(position).is_implied => 1,
            Content::Directory { .. } => {
                let children = self.numbering.children(self.tree, position);
                // Fewer than 2^32 nodes, of which one is the directory itself.
                2 + children.filter(|child| self.node(*child).is_directory()).count() as u32
            }
            _ => self.links[position],
        }
    }

    /// True if some inode has extended attributes, or the image is to say so.
    pub(crate) fn has_xattrs(&self) -> bool {
        let mut positions = 0..self.len();
        self.options.always_xattr_flag || positions.any(|position| !self.node(position).xattrs.is_empty())
    }

    /// Owner and group, as stored.
    pub(crate) fn owner(&self, node: &Node) -> (u32, u32) {
        if self.options.explicit_owners { (node.uid, node.gid) } else { (0, 0) }
    }

    /// Positions of what is to be prefetched, in order.
    pub(crate) fn prefetch(&self) -> Vec<usize> {
        if self.options.prefetch.is_empty() {
            return Vec::new();
        }
        let mut positions = vec![u32::MAX; self.tree.nodes.len()];
        for (id, position) in self.numbering.order().iter().zip(0..) {
            positions[id.0 as usize] = position;
        }
        let position = |id: &super::NodeId| positions.get(id.0 as usize).copied();
        let known = self.options.prefetch.iter().filter_map(position);
        known.filter(|position| *position != u32::MAX).map(|position| position as usize).collect()
    }

    /// An [`Error::Unwritable`] of the entry at `position`.
    #[cold]
    pub(crate) fn error(
        &self,
        position: usize,
        what: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Error {
        Error::unwritable(&self.numbering.path(self.tree, position), what, expected, found)
    }

    /// Finds the groups of hard links, and checks that their members agree.
    fn find_links(&mut self) -> Result<()> {
        let grouped = (0..self.len()).filter_map(|position| Some((self.node(position).group()?, position)));
        let mut grouped: Vec<(u32, usize)> = grouped.collect();
        grouped.sort_unstable();
        for group in grouped.chunk_by(|a, b| a.0 == b.0) {
            let (_, first) = group[0];
            for &(_, member) in group {
                if !is_same_file(self.node(first), self.node(member)) {
                    let path = self.numbering.path(self.tree, first);
                    let expected = format!("the attributes and content of {}", path.display());
                    return Err(self.error(member, "hard link", expected, "others"));
                }
                self.first[member] = first as u32;
                self.links[member] = group.len() as u32;
            }
        }
        Ok(())
    }

    /// Checks what each node has to keep by itself.
    fn check(&self, node: &Node) -> std::result::Result<(), Rule> {
        use FileType::{BlockDevice, CharDevice, Directory, Fifo, Regular, Socket, Symlink};
        let matching = matches!(
            (FileType::from_mode(node.mode), &node.content),
            (Some(Directory), Content::Directory { .. })
                | (Some(Regular), Content::Regular { .. })
                | (Some(Symlink), Content::Symlink { .. })
                | (Some(CharDevice | BlockDevice | Fifo | Socket), Content::Special)
        );
        if !matching || node.mode > u16::MAX.into() {
            return Err(Rule::new(
                "mode",
                "16 bits, of the type of the content",
                format!("{:#o}", node.mode),
            ));
        }
        if node.mtime_nsec >= 1_000_000_000 {
            return Err(Rule::new("nanoseconds", "under 10^9", node.mtime_nsec));
        }
        if !node.xattrs.is_empty() {
            xattr::check(&node.xattrs)?;
        }
        match &node.content {
            Content::Regular { size, chunks } => self.check_chunks(*size, chunks),
            Content::Symlink { target } => {
                if !(1..=SYMLINK_MAX).contains(&target.len()) || target.contains(&0) {
                    let expected = format!("1 to {SYMLINK_MAX} bytes without NUL");
                    return Err(Rule::new("symlink target", expected, format!("{} bytes", target.len())));
                }
                Ok(())
            }
            Content::Directory { .. } | Content::Special => Ok(()),
        }
    }

    fn check_chunks(&self, size: u64, chunks: &[Chunk]) -> std::result::Result<(), Rule> {
        let chunk_size = u64::from(self.options.chunk_size);
        if size > i64::MAX as u64 {
            return Err(Rule::new("size", "under 2^63", size));
        }
        let expected = size.div_ceil(chunk_size);
        // Their number in v5 has 32 bits.
        if chunks.len() as u64 != expected || expected > u32::MAX.into() {
            let expected = format!("{expected} of {chunk_size} bytes, fewer than 2^32, for {size} bytes");
            return Err(Rule::new("chunks", expected, chunks.len()));
        }
        for (chunk, from) in chunks.iter().zip((0..).step_by(chunk_size as usize)) {
            let wanted = chunk_size.min(size - from);
            if u64::from(chunk.uncompressed_size) != wanted {
                let found = chunk.uncompressed_size;
                return Err(Rule::new("uncompressed size of a chunk", wanted.to_string(), found));
            }
            let Some(blob) = self.blobs.get(chunk.blob_index as usize) else {
                let expected = format!("under {}, the number of blobs", self.blobs.len());
                return Err(Rule::new("blob of a chunk", expected, chunk.blob_index));
            };
            self.check_chunk(chunk, &blob.description)?;
        }
        Ok(())
    }

    fn check_chunk(&self, chunk: &Chunk, blob: &BlobDescription) -> std::result::Result<(), Rule> {
        let limit = match blob.chunk_count {
            0 => CHUNK_INDEX_LIMIT,
            count => count.min(CHUNK_INDEX_LIMIT),
        };
        if chunk.index >= limit {
            return Err(Rule::new("index of a chunk", format!("under {limit}"), chunk.index));
        }
        let size = u64::from(chunk.uncompressed_size);
        let limit = match blob.uncompressed_size {
            0 => blob_limits::UNCOMPRESSED_SIZE_MAX,
            size => size.next_multiple_of(4096),
        };
        if chunk.uncompressed_offset.checked_add(size).is_none_or(|end| end > limit) {
            let expected = format!("{size} bytes up to {limit}");
            return Err(Rule::new("uncompressed range of a chunk", expected, chunk.uncompressed_offset));
        }
        match self.options.version {
            Version::V5 => self.check_stored(chunk, blob),
            Version::V6 => {
                let block = u64::from(self.options.block_size);
                let offset = chunk.uncompressed_offset;
                // The largest number would mean a hole.
                if !offset.is_multiple_of(block) || offset / block >= u32::MAX.into() {
                    let expected = format!("a multiple of {block}, under 2^32 - 1 times that");
                    return Err(Rule::new("uncompressed offset of a chunk", expected, offset));
                }
                Ok(())
            }
        }
    }

    /// Checks how a chunk of v5 is stored, which readers take from nowhere else.
    fn check_stored(&self, chunk: &Chunk, blob: &BlobDescription) -> std::result::Result<(), Rule> {
        let (flags, stored) = (chunk.stored.flags, chunk.stored.compressed_size);
        if !(ChunkFlags::COMPRESSED).contains(flags) {
            return Err(Rule::new("flags of a chunk", "COMPRESSED or none", format!("{flags:?}")));
        }
        let fits = match flags.contains(ChunkFlags::COMPRESSED) {
            // Chunk sizes have 25 bits.
            true => stored != 0 && stored <= 2 * self.options.chunk_size,
            false => stored == chunk.uncompressed_size,
        };
        if !fits {
            let expected = format!("a size that holds {} bytes", chunk.uncompressed_size);
            return Err(Rule::new("compressed size of a chunk", expected, stored));
        }
        let limit = blob.data_size().unwrap_or(blob_limits::COMPRESSED_SIZE_MAX);
        let offset = chunk.stored.compressed_offset;
        if offset.checked_add(stored.into()).is_none_or(|end| end > limit) {
            let expected = format!("{stored} bytes up to {limit}");
            return Err(Rule::new("compressed range of a chunk", expected, offset));
        }
        Ok(())
    }
}

/// A rule that a node breaks; where the node is, the caller knows.
pub(crate) struct Rule {
    what: &'static str,
    expected: String,
    found: String,
}

impl Rule {
    #[cold]
    pub(crate) fn new(what: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self { what, expected: expected.into(), found: found.to_string() }
    }

    fn broken_at(self, inodes: &Inodes<'_>, position: usize) -> Error {
        inodes.error(position, self.what, self.expected, self.found)
    }

    /// The rule is one of the image as a whole.
    pub(crate) fn broken(self) -> Error {
        Error::unwritable(Path::new("/"), self.what, self.expected, self.found)
    }
}

/// Checks options and blobs, in what both formats ask of them.
pub(crate) fn check_image(blobs: &[BlobEntry], options: &ImageOptions) -> std::result::Result<(), Rule> {
    let chunk_size = options.chunk_size;
    if !blob_limits::is_chunk_size(chunk_size) {
        return Err(Rule::new("chunk size", "a power of two from 4096 to 16 MiB", chunk_size));
    }
    let limit = match options.version {
        Version::V5 => blob_limits::BLOB_COUNT_MAX,
        Version::V6 => blob_limits::V6_BLOB_COUNT_MAX.into(),
    };
    if blobs.len() > limit {
        return Err(Rule::new("blobs", format!("at most {limit}"), blobs.len()));
    }
    let mut ids: Vec<_> = blobs.iter().map(|blob| &blob.description.id).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Rule::new("blobs", "each id once", format!("{} twice", pair[0])));
    }
    for blob in blobs.iter().map(|blob| &blob.description) {
        if blob.chunk_size != chunk_size {
            let found = format!("{} of blob {}", blob.chunk_size, blob.id);
            return Err(Rule::new("chunk size of a blob", chunk_size.to_string(), found));
        }
        let limits = [
            ("chunk count of a blob", blob.chunk_count.into(), blob_limits::CHUNK_COUNT_MAX.into()),
            ("compressed size of a blob", blob.compressed_size, blob_limits::COMPRESSED_SIZE_MAX),
            ("uncompressed size of a blob", blob.uncompressed_size, blob_limits::UNCOMPRESSED_SIZE_MAX),
        ];
        if let Some((what, found, limit)) = limits.into_iter().find(|(_, found, limit)| found > limit) {
            return Err(Rule::new(what, format!("at most {limit}"), format!("{found} of blob {}", blob.id)));
        }
        if blob.cipher.is_some() != blob.features.contains(BlobFeatures::ENCRYPTED) {
            let found = format!("only one of the two for blob {}", blob.id);
            return Err(Rule::new("cipher of a blob", "a key and the feature ENCRYPTED", found));
        }
    }
    Ok(())
}

/// True if two entries may name one inode.
fn is_same_file(a: &Node, b: &Node) -> bool {
    let attributes =
        |node: &Node| (node.mode, node.uid, node.gid, node.rdev, node.mtime, node.mtime_nsec, node.recorded);
    attributes(a) == attributes(b)
        && a.content == b.content
        && (a.xattrs == b.xattrs || xattr::sorted(&a.xattrs) == xattr::sorted(&b.xattrs))
}
