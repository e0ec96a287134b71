//! Where the inodes of a v6 bootstrap lie, and the blocks of directories and long symlinks (spec/rafs-v6.md §11).
//!
//! Offsets are from where nids count. Space is given out upwards; what is left free at the end of a block is kept
//! by how many units of 32 bytes it has, and given to the next inode that fits. The kernel would accept other
//! places, but then images would not be those of the reference implementation.

use std::collections::VecDeque;

use super::dirents;
use super::layout::{ADDRESS_ALIGN, ChunkAddress, ExtendedInode, NID_UNIT, TABLE_ALIGN};
use super::xattr;
use crate::build::{Content, Inodes, Node};

/// Where an inode lies, and its data.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    /// Of the inode.
    pub(super) offset: u64,
    /// Directories and symlinks: of the whole blocks, or where they would be.
    pub(super) data: u64,
}

/// Where all inodes lie.
pub(super) struct Placement {
    /// By position in the numbering.
    pub(super) places: Vec<Place>,
    /// Where the last thing ends.
    pub(super) end: u64,
}

/// Bytes of an inode with its extended attributes.
pub(super) fn inode_size(node: &Node) -> u64 {
    size_of::<ExtendedInode>() as u64 + xattr::written_size(&node.xattrs)
}

/// True if the last, partial block of a directory or symlink of `size` bytes lies behind its inode.
pub(super) fn is_inline(node: &Node, size: u64, block: u64) -> bool {
    let tail = size % block;
    tail != 0 && inode_size(node) + tail <= block
}

impl Placement {
    /// Places every inode.
    pub(super) fn of(inodes: &Inodes<'_>) -> Self {
        let mut space = Space::new(inodes.options.block_size.into());
        let mut places = vec![Place::default(); inodes.len()];
        let mut directories = vec![0];
        while let Some(directory) = directories.pop() {
            let size = dirents::size(inodes, directory, space.block);
            places[directory] = space.place_data(inodes.node(directory), size);
            let children = inodes.numbering.children(inodes.tree, directory);
            for child in children.clone() {
                let node = inodes.node(child);
                places[child] = match &node.content {
                    Content::Directory { .. } => continue,
                    Content::Symlink { target } => space.place_data(node, target.len() as u64),
                    Content::Regular { .. } if inodes.first(child) != child => places[inodes.first(child)],
                    Content::Regular { chunks, .. } => {
                        let addresses = (chunks.len() * size_of::<ChunkAddress>()) as u64;
                        let size = inode_size(node).next_multiple_of(ADDRESS_ALIGN) + addresses;
                        Place { offset: space.take(size).unwrap_or_else(|| space.extend(size)), data: 0 }
                    }
                    Content::Special => Place { offset: space.extend(inode_size(node)), data: 0 },
                };
                space.align(NID_UNIT);
            }
            directories.extend(children.rev().filter(|child| inodes.node(*child).is_directory()));
        }
        Self { places, end: space.end }
    }
}

/// The space that has been given out, and what is left in between.
struct Space {
    block: u64,
    end: u64,
    /// Blocks whose last `32 × index` bytes are free, oldest first.
    free: Vec<VecDeque<u64>>,
}

impl Space {
    /// The first bytes are not used: the root's nid is not to be 0.
    fn new(block: u64) -> Self {
        let classes = block / NID_UNIT;
        Self { block, end: TABLE_ALIGN, free: (0..classes).map(|_| VecDeque::new()).collect() }
    }

    /// Gives out the next `size` bytes.
    fn extend(&mut self, size: u64) -> u64 {
        let offset = self.end;
        self.end += size;
        offset
    }

    fn align(&mut self, unit: u64) {
        self.end = self.end.next_multiple_of(unit);
    }

    /// Leaves the rest of the block of the end free.
    fn close_block(&mut self) {
        self.note(self.end);
        self.align(self.block);
    }

    /// Keeps the rest of the block from `offset` on for later.
    fn note(&mut self, offset: u64) {
        let used = offset % self.block;
        let class = (self.block - used) / NID_UNIT;
        // The smallest rests are too small for anything.
        if used != 0 && class != 0 {
            self.free[class as usize].push_back(offset - used);
        }
    }

    /// Gives out `size` bytes of what was left: the smallest rest that has them, the oldest of those.
    fn take(&mut self, size: u64) -> Option<u64> {
        let class = size.div_ceil(NID_UNIT);
        if size >= self.block {
            return None;
        }
        let rests = self.free.iter_mut().zip(0..).skip(class as usize);
        let (base, found) = rests.into_iter().find_map(|(rests, found)| Some((rests.pop_front()?, found)))?;
        let offset = base + self.block - NID_UNIT * found;
        self.note(offset + NID_UNIT * class);
        Some(offset)
    }

    /// Places a directory or symlink of `size` bytes.
    fn place_data(&mut self, node: &Node, size: u64) -> Place {
        let (inode, tail) = (inode_size(node), size % self.block);
        let place = if is_inline(node, size, self.block) {
            let wanted = inode + tail;
            let offset = self.take(wanted).unwrap_or_else(|| {
                if self.block - self.end % self.block < wanted {
                    self.close_block();
                }
                self.extend(wanted)
            });
            if size != tail {
                self.close_block();
            }
            Place { offset, data: self.extend(size - tail) }
        } else {
            let offset = self.take(inode).unwrap_or_else(|| self.extend(inode));
            self.close_block();
            let data = self.extend(size);
            self.align(self.block);
            Place { offset, data }
        };
        self.align(NID_UNIT);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;

    fn node() -> Node {
        Node::new("n", 0o120_777, Content::Symlink { target: vec![b't'] })
    }

    #[test]
    fn rests_are_given_out_smallest_first_then_oldest_first() {
        let mut space = Space::new(BLOCK);
        space.note(BLOCK + 64);
        space.note(3 * BLOCK + 64);
        space.note(2 * BLOCK + 2048);
        // The only one of 2048 bytes, whose rest is then the smallest.
        assert_eq!(space.take(100), Some(2 * BLOCK + 2048));
        assert_eq!(space.take(1920), Some(2 * BLOCK + 2048 + 128));
        assert_eq!(space.take(4032), Some(BLOCK + 64));
        assert_eq!(space.take(4000), Some(3 * BLOCK + 64));
        // 32 bytes are left of the last one; whole blocks are never left.
        assert_eq!(space.take(33), None);
        assert_eq!(space.take(32), Some(4 * BLOCK - 32));
        assert_eq!(space.take(1), None);
        space.note(5 * BLOCK);
        assert_eq!(space.take(BLOCK), None);
    }

    #[test]
    fn a_tail_lies_behind_its_inode_if_one_block_holds_both() {
        let node = node();
        assert_eq!(inode_size(&node), 64);
        for (size, inline) in
            [(1, true), (4032, true), (4033, false), (4096, false), (8128, true), (8129, false)]
        {
            assert_eq!(is_inline(&node, size, BLOCK), inline, "{size}");
        }
    }

    #[test]
    fn data_is_placed_block_by_block() {
        let (node, mut space) = (node(), Space::new(BLOCK));
        let mut place = |size| {
            let Place { offset, data } = space.place_data(&node, size);
            (offset, data, space.end)
        };
        // Inode and data fill a block.
        assert_eq!(place(4032), (4096, 8192, 8192));
        // An inode, and the block behind it; the rest of the inode's block is used by what fits.
        assert_eq!(place(4096), (8192, 12288, 16384));
        assert_eq!(place(100), (8256, 16384, 16384));
        // One block elsewhere, the tail behind the inode.
        assert_eq!(place(4096 + 10), (8256 + 192, 16384, 20480));
        // Too long to stay with the inode: a partial block of its own.
        assert_eq!(place(4090), (8256 + 192 + 96, 20480, 24576));
    }
}
