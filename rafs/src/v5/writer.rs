//! Writes v5 bootstraps (spec/rafs-v5.md §14).
//!
//! Tables first, then the inode records, depth first: a directory, then each child with all that is below it. So
//! offsets do not ascend with the indexes; the inode table holds them, and is made before any record is.

use zerocopy::little_endian::U32;
use zerocopy::{Immutable, IntoBytes};

use super::layout::{ALIGN, ExtendedBlob, Inode, InodeFlags, MAGIC, SUPERBLOCK_SIZE, Superblock, VERSION};
use crate::build::{BlobEntry, Content, Inodes, Rule};
use crate::chunk_record::ChunkRecord;
use crate::error::Result;
use crate::flags::ImageFlags;
use crate::xattr;

/// Bytes of the largest bootstrap.
const SIZE_MAX: u64 = 1 << 31;
/// The root's name.
const ROOT_NAME: &[u8] = b"/";

/// The bootstrap of a tree that fits the format.
pub(crate) fn write(inodes: &Inodes<'_>) -> Result<Vec<u8>> {
    check_blobs(inodes.blobs).map_err(Rule::broken)?;
    let blob_table = blob_table(inodes.blobs);
    let prefetch = inodes.prefetch();
    let inode_table_offset = SUPERBLOCK_SIZE;
    let prefetch_table_offset = inode_table_offset + padded(4 * inodes.len());
    let blob_table_offset = prefetch_table_offset + padded(4 * prefetch.len());
    let extended_blob_table_offset = blob_table_offset + blob_table.len() as u64;
    let records = extended_blob_table_offset + (inodes.blobs.len() * size_of::<ExtendedBlob>()) as u64;

    let (places, end) = place(inodes, records)?;
    // At most 2 GiB.
    let mut bootstrap = vec![0; end as usize];
    let mut put = |offset: u64, bytes: &[u8]| {
        let offset = offset as usize;
        bootstrap[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    let superblock = Superblock {
        magic: MAGIC.into(),
        version: VERSION.into(),
        size: (SUPERBLOCK_SIZE as u32).into(),
        chunk_size: inodes.options.chunk_size.into(),
        flags: ImageFlags::of(inodes).bits().into(),
        inode_count: (inodes.distinct() as u64).into(),
        inode_table_offset: inode_table_offset.into(),
        prefetch_table_offset: prefetch_table_offset.into(),
        blob_table_offset: blob_table_offset.into(),
        // Counts of what is in 2 GiB.
        inode_table_entries: (inodes.len() as u32).into(),
        prefetch_table_entries: (prefetch.len() as u32).into(),
        blob_table_size: (blob_table.len() as u32).into(),
        extended_blob_table_entries: (inodes.blobs.len() as u32).into(),
        extended_blob_table_offset: extended_blob_table_offset.into(),
    };
    put(0, superblock.as_bytes());
    put(inode_table_offset, places.as_bytes());
    let prefetch = prefetch.into_iter().map(|position| U32::new(inodes.ino(position)));
    put(prefetch_table_offset, prefetch.collect::<Vec<_>>().as_bytes());
    put(blob_table_offset, &blob_table);
    for (offset, blob) in (extended_blob_table_offset..).step_by(size_of::<ExtendedBlob>()).zip(inodes.blobs)
    {
        put(offset, extended(blob).as_bytes());
    }
    let offset_of = |position: usize| places[position].get() as usize * ALIGN as usize;
    // Children have larger numbers than their directories, whose digests need theirs.
    for position in (0..inodes.len()).rev() {
        let digest = digest(inodes, position, |child| {
            let offset = offset_of(child);
            &bootstrap[offset..offset + 32]
        });
        write_inode(inodes, position, digest.0, &mut bootstrap[offset_of(position)..]);
    }
    Ok(bootstrap)
}

/// The inode table: places of all records in units of 8 bytes, the first at `start`; and where the last one ends.
fn place(inodes: &Inodes<'_>, start: u64) -> Result<(Vec<U32>, u64)> {
    let mut places = vec![U32::ZERO; inodes.len()];
    let mut end = start;
    let mut stack = vec![0];
    while let Some(position) = stack.pop() {
        // Under 2^32: the end was found to be.
        places[position] = U32::new((end / ALIGN) as u32);
        end += record_size(inodes, position);
        if end > SIZE_MAX {
            return Err(inodes.error(position, "bootstrap", format!("at most {SIZE_MAX} bytes"), "more"));
        }
        stack.extend(inodes.numbering.children(inodes.tree, position).rev());
    }
    Ok((places, end))
}

/// Bytes with the zeros behind them.
fn padded(size: usize) -> u64 {
    (size as u64).next_multiple_of(ALIGN)
}

fn name<'a>(inodes: &Inodes<'a>, position: usize) -> &'a [u8] {
    if position == 0 { ROOT_NAME } else { &inodes.node(position).name }
}

/// Bytes of the pairs, without the number in front of them and the padding behind.
fn xattrs_size(pairs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    pairs.iter().map(|(name, value)| 4 + name.len() + 1 + value.len()).sum()
}

fn record_size(inodes: &Inodes<'_>, position: usize) -> u64 {
    let node = inodes.node(position);
    let head = size_of::<Inode>() as u64 + padded(name(inodes, position).len());
    let xattrs = match node.xattrs.as_slice() {
        [] => 0,
        pairs => ALIGN + padded(xattrs_size(pairs)),
    };
    let content = match &node.content {
        Content::Symlink { target } => padded(target.len()),
        Content::Regular { chunks, .. } => (chunks.len() * size_of::<ChunkRecord>()) as u64,
        Content::Directory { .. } | Content::Special => 0,
    };
    head + xattrs + content
}

/// The Merkle digest of an inode, given those of a directory's children.
fn digest<'a>(
    inodes: &Inodes<'a>,
    position: usize,
    child: impl Fn(usize) -> &'a [u8],
) -> storage::digest::Digest {
    let digester = inodes.options.digester;
    match &inodes.node(position).content {
        Content::Regular { chunks, .. } => {
            digester.digest_parts(chunks.iter().map(|chunk| &chunk.digest.0[..]))
        }
        Content::Symlink { target } => digester.digest(target),
        Content::Directory { .. } => {
            digester.digest_parts(inodes.numbering.children(inodes.tree, position).map(child))
        }
        Content::Special => digester.digest(&[]),
    }
}

/// Writes a record to the start of `bytes`, which are zero.
fn write_inode(inodes: &Inodes<'_>, position: usize, digest: [u8; 32], bytes: &mut [u8]) {
    let (node, name) = (inodes.node(position), name(inodes, position));
    let id = inodes.numbering.order()[position];
    let recorded = inodes.tree.recorded(id);
    let parent = match position {
        0 => 0,
        _ => inodes.ino(inodes.numbering.parent(position)),
    };
    let (uid, gid) = inodes.owner(node);
    let children = inodes.numbering.children(inodes.tree, position);
    let (child_index, child_count, target): (_, _, &[u8]) = match &node.content {
        // The index is one more than the position; both and the count are below the number of nodes.
        Content::Directory { .. } => (children.start as u32 + 1, children.len() as u32, &[]),
        Content::Regular { chunks, .. } => (0, chunks.len() as u32, &[]),
        Content::Symlink { target } => (0, 0, target),
        Content::Special => (0, 0, &[]),
    };
    let mut flags = InodeFlags::empty();
    flags.set(InodeFlags::SYMLINK, matches!(node.content, Content::Symlink { .. }));
    flags.set(InodeFlags::HARDLINK, node.from_tar_link);
    flags.set(InodeFlags::XATTR, !node.xattrs.is_empty());
    let head = Inode {
        digest,
        parent: u64::from(parent).into(),
        ino: u64::from(inodes.ino(position)).into(),
        uid: uid.into(),
        gid: gid.into(),
        project: 0.into(),
        mode: node.mode.into(),
        size: if node.is_directory() { recorded.size } else { node.size() }.into(),
        blocks: recorded.blocks.into(),
        flags: flags.bits().into(),
        nlink: inodes.link_count(position).into(),
        child_index: child_index.into(),
        child_count: child_count.into(),
        // Names have at most 255 bytes, targets 65535.
        name_size: (name.len() as u16).into(),
        symlink_size: (target.len() as u16).into(),
        rdev: node.rdev.into(),
        mtime_nsec: node.mtime_nsec.into(),
        mtime: (node.mtime as u64).into(),
        reserved: [0; 8],
    };
    let mut cursor = Cursor { bytes, at: 0 };
    cursor.put(&head);
    cursor.put(name);
    cursor.pad();
    cursor.put(target);
    cursor.pad();
    if !node.xattrs.is_empty() {
        cursor.put(&zerocopy::little_endian::U64::new(xattrs_size(&node.xattrs) as u64));
        for (name, value) in xattr::sorted(&node.xattrs) {
            // At most 255 and 65535 bytes.
            cursor.put(&U32::new((name.len() + 1 + value.len()) as u32));
            cursor.put(name);
            cursor.put(&0_u8);
            cursor.put(value);
        }
        cursor.pad();
    }
    if let Content::Regular { chunks, .. } = &node.content {
        for (chunk, offset) in chunks.iter().zip((0..).step_by(inodes.options.chunk_size as usize)) {
            cursor.put(&ChunkRecord::of(chunk, offset));
        }
    }
}

/// Where the next part of a record goes.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, part: &T) {
        let part = part.as_bytes();
        self.bytes[self.at..self.at + part.len()].copy_from_slice(part);
        self.at += part.len();
    }

    fn pad(&mut self) {
        self.at = self.at.next_multiple_of(ALIGN as usize);
    }
}

fn check_blobs(blobs: &[BlobEntry]) -> std::result::Result<(), Rule> {
    match blobs.iter().find(|blob| blob.description.cipher.is_some()) {
        None => Ok(()),
        Some(blob) => {
            Err(Rule::new("cipher of a blob", "none", format!("one for blob {}", blob.description.id)))
        }
    }
}

/// Records of `u32 prefetch_offset, u32 prefetch_size, id` with a NUL between them, padded.
fn blob_table(blobs: &[BlobEntry]) -> Vec<u8> {
    let mut table = Vec::new();
    for blob in blobs {
        if !table.is_empty() {
            table.push(0);
        }
        // Prefetched files are put first.
        table.extend_from_slice(U32::ZERO.as_bytes());
        table.extend_from_slice(U32::new(blob.prefetch_size).as_bytes());
        table.extend_from_slice(blob.description.id.as_str().as_bytes());
    }
    table.resize(table.len().next_multiple_of(ALIGN as usize), 0);
    table
}

fn extended(blob: &BlobEntry) -> ExtendedBlob {
    let blob = &blob.description;
    ExtendedBlob {
        chunk_count: blob.chunk_count.into(),
        features: blob.features.bits().into(),
        uncompressed_size: blob.uncompressed_size.into(),
        compressed_size: blob.compressed_size.into(),
        reserved: [0; 40],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Version;
    use crate::build::{ImageOptions, Node, Tree};
    use crate::error::Error;

    #[test]
    fn records_end_within_2_gib() {
        let mut tree = Tree::new(Node::directory("/", 0o755));
        tree.add(Tree::ROOT, Node::directory("d", 0o755));
        let options = ImageOptions::new(Version::V5);
        let inodes = Inodes::of(&tree, &[], &options).unwrap();
        // Each record has 136 bytes.
        let (places, end) = place(&inodes, SIZE_MAX - 272).unwrap();
        assert_eq!((places[1].get(), end), ((SIZE_MAX - 136) as u32 / 8, SIZE_MAX));
        let Err(error @ Error::Unwritable { .. }) = place(&inodes, SIZE_MAX - 264) else {
            panic!("placed");
        };
        let message = error.to_string();
        assert!(message.starts_with("/d: ") && message.contains("2147483648"), "{message}");
    }
}
