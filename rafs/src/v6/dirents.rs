//! Writes the entries of v6 directories (spec/rafs-v6.md §8): block by block, `.` and `..` among the names.

use zerocopy::IntoBytes;

use super::directory::type_number;
use super::layout::Dirent;
use crate::build::Inodes;
use crate::inode::FileType;

/// The names of a directory with the positions of their inodes, in byte order.
fn names<'a>(inodes: &Inodes<'a>, directory: usize) -> impl Iterator<Item = (&'a [u8], usize)> {
    let parent = inodes.numbering.parent(directory);
    let children = inodes.numbering.children(inodes.tree, directory);
    let mut children = children.map(|child| (inodes.node(child).name.as_slice(), child)).peekable();
    let mut links = [(&b"."[..], directory), (&b".."[..], parent)].into_iter().peekable();
    std::iter::from_fn(move || match (links.peek(), children.peek()) {
        (Some(link), Some(child)) if child.0 < link.0 => children.next(),
        (Some(_), _) => links.next(),
        (None, _) => children.next(),
    })
}

/// The blocks of a directory, each with the bytes it uses.
fn blocks<'a>(
    inodes: &Inodes<'a>,
    directory: usize,
    block: u64,
) -> impl Iterator<Item = (Vec<(&'a [u8], usize)>, u64)> {
    let mut names = names(inodes, directory).peekable();
    std::iter::from_fn(move || {
        let (mut entries, mut used) = (Vec::new(), 0);
        while let Some(entry) = names.next_if(|entry| used + entry_size(entry.0) <= block) {
            used += entry_size(entry.0);
            entries.push(entry);
        }
        // An entry fits the smallest block, so only the end leaves one empty.
        (!entries.is_empty()).then_some((entries, used))
    })
}

fn entry_size(name: &[u8]) -> u64 {
    (size_of::<Dirent>() + name.len()) as u64
}

/// Bytes of a directory.
pub(super) fn size(inodes: &Inodes<'_>, directory: usize, block: u64) -> u64 {
    names(inodes, directory).fold(0, |size: u64, (name, _)| {
        let entry = entry_size(name);
        let fits = size % block + entry <= block;
        entry + if fits { size } else { size.next_multiple_of(block) }
    })
}

/// Writes a directory: `put` is given the place of each block in the directory, and its bytes.
pub(super) fn write(
    inodes: &Inodes<'_>,
    directory: usize,
    block: u64,
    nid: impl Fn(usize) -> u64,
    mut put: impl FnMut(u64, &[u8]),
) {
    let mut bytes = Vec::new();
    for ((entries, _), at) in blocks(inodes, directory, block).zip((0..).step_by(block as usize)) {
        bytes.clear();
        let mut name_offset = entries.len() * size_of::<Dirent>();
        for (name, position) in &entries {
            let file_type = FileType::from_mode(inodes.node(*position).mode);
            let entry = Dirent {
                nid: nid(*position).into(),
                // Inside a block.
                name_offset: (name_offset as u16).into(),
                file_type: file_type.map_or(0, type_number),
                reserved: 0,
            };
            bytes.extend_from_slice(entry.as_bytes());
            name_offset += name.len();
        }
        entries.iter().for_each(|(name, _)| bytes.extend_from_slice(name));
        put(at, &bytes);
    }
}
