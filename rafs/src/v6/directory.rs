//! Directories of v6 (spec/rafs-v6.md §8): blocks of entries followed by their names, all in byte order, with `.`
//! and `..` among them.
//!
//! A position is the number of the block and, in its low bits, the number of entries passed in it.

use zerocopy::FromBytes;

use super::layout::Dirent;
use super::node::{Node, Place};
use super::reader::Tree;
use crate::directory::{DirEntry, NAME_MAX, is_name};
use crate::error::Result;
use crate::image::shown;
use crate::inode::{FileType, expect_type};

/// Bits of a position that count entries: a block of 4096 bytes holds at most 315 entries with names of 1 byte.
const INDEX_BITS: u32 = 9;

/// A directory whose blocks lie in the file.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    tree: &'a Tree,
    nid: u64,
    /// The whole blocks, and what is behind them.
    whole: &'a [u8],
    whole_at: u64,
    tail: &'a [u8],
    tail_at: u64,
}

/// One entry, as it stands in its block.
#[derive(Clone, Copy)]
struct Entry<'a> {
    nid: u64,
    file_type: u8,
    name: &'a [u8],
    /// Of the entry in the bootstrap.
    offset: u64,
}

/// One block of a directory, whose count of entries is sound.
#[derive(Clone, Copy)]
struct Block<'a> {
    tree: &'a Tree,
    bytes: &'a [u8],
    offset: u64,
    entries: &'a [Dirent],
}

impl<'a> Block<'a> {
    fn new(tree: &'a Tree, bytes: &'a [u8], offset: u64) -> Result<Self> {
        let corrupt = |found: usize| {
            let expected = format!("a multiple of 12, not 0, up to {}", bytes.len());
            tree.image().corrupt(offset + 8, "offset of the first name", expected, found)
        };
        let (first, _) = Dirent::ref_from_prefix(bytes).map_err(|_| corrupt(bytes.len()))?;
        let names = usize::from(first.name_offset.get());
        if names == 0 || !names.is_multiple_of(size_of::<Dirent>()) {
            return Err(corrupt(names));
        }
        let entries = bytes.get(..names).ok_or_else(|| corrupt(names))?;
        let entries = <[Dirent]>::ref_from_bytes(entries).map_err(|_| corrupt(names))?;
        Ok(Self { tree, bytes, offset, entries })
    }

    /// The name of entry `index`, which exists.
    fn name(&self, index: usize) -> Result<&'a [u8]> {
        let from = usize::from(self.entries[index].name_offset.get());
        let last = index + 1 == self.entries.len();
        let to = match last {
            true => self.bytes.len(),
            false => self.entries[index + 1].name_offset.get().into(),
        };
        // Names lie behind the entries: the first one does, and they ascend.
        let name = self.bytes.get(from..to).filter(|_| from >= size_of_val(self.entries));
        let Some(mut name) = name else {
            let at = self.offset + (index * size_of::<Dirent>()) as u64 + 8;
            let found = format!("{from} to {to}");
            return Err(self.tree.image().corrupt(at, "name of an entry", "ascending offsets", found));
        };
        if last {
            // The rest of the block is zero. One byte more than a name may have shows that it is too long.
            name = &name[..name.len().min(NAME_MAX + 1)];
            name = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())];
        }
        Ok(name)
    }

    fn entry(&self, index: usize) -> Result<Entry<'a>> {
        let entry = &self.entries[index];
        let offset = self.offset + (index * size_of::<Dirent>()) as u64;
        Ok(Entry { nid: entry.nid.get(), file_type: entry.file_type, name: self.name(index)?, offset })
    }
}

impl<'a> Directory<'a> {
    /// The directory at `node`.
    pub(super) fn new(tree: &'a Tree, node: &Node) -> Result<Self> {
        expect_type(node.ino(), FileType::Directory, node.file_type)?;
        let Place::Blocks { blocks, whole, tail_at, tail } = node.place else {
            return Err(tree.image().corrupt(node.offset, "directory", "data", "none"));
        };
        let bytes = |offset, len| match len {
            0 => Ok(&[][..]),
            len => tree.image().range(offset, len, "directory"),
        };
        Ok(Self {
            tree,
            nid: node.nid,
            whole: bytes(blocks, whole)?,
            whole_at: blocks,
            tail: bytes(tail_at, tail)?,
            tail_at,
        })
    }

    fn block_count(&self) -> usize {
        self.whole.len() / self.block_size() + usize::from(!self.tail.is_empty())
    }

    fn block_size(&self) -> usize {
        self.tree.block_size() as usize
    }

    /// Block `index`, which exists.
    fn block(&self, index: usize) -> Result<Block<'a>> {
        let at = index * self.block_size();
        match self.whole.get(at..at + self.block_size()) {
            Some(block) => Block::new(self.tree, block, self.whole_at + at as u64),
            None => Block::new(self.tree, self.tail, self.tail_at),
        }
    }

    /// The entry of `name`, `.` and `..` included.
    fn find(&self, name: &[u8]) -> Result<Option<Entry<'a>>> {
        // The block is the last one whose first name is not behind `name`.
        let (mut low, mut high) = (0, self.block_count());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.block(middle)?.name(0)? <= name {
                true => low = middle,
                false => high = middle,
            }
        }
        let block = self.block(low)?;
        let (mut low, mut high) = (0, block.entries.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match block.name(middle)?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return block.entry(middle).map(Some),
            }
        }
        Ok(None)
    }

    /// The inode that `name` names, `.` and `..` excluded.
    pub(super) fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        if !is_name(name) {
            return Ok(None);
        }
        self.find(name)?.map(|entry| self.resolve(&entry)).transpose()
    }

    /// The nid that `..` names.
    pub(super) fn parent(&self) -> Result<u64> {
        self.link(b"..")
    }

    /// The nid of an entry that every directory has.
    fn link(&self, name: &'static [u8]) -> Result<u64> {
        match self.find(name)? {
            Some(entry) => Ok(entry.nid),
            None => {
                let at = self.tree.nid_offset(self.nid).unwrap_or_default();
                Err(self.tree.image().corrupt(at, "directory", "entries . and ..", "none"))
            }
        }
    }

    /// Checks that the directory says that it is itself, in the directory `parent`. Since a directory names one
    /// parent, it can be reached in no other way, and not from below itself.
    pub(super) fn check_links(&self, parent: u64) -> Result<()> {
        let found = (self.link(b".")?, self.parent()?);
        if found != (self.nid, parent) {
            let at = self.tree.nid_offset(self.nid).unwrap_or_default();
            let expected = format!("{} and {parent}", self.nid);
            let found = format!("{} and {}", found.0, found.1);
            return Err(self.tree.image().corrupt(at, "nids of . and ..", expected, found));
        }
        Ok(())
    }

    /// The inode of an entry, checked to be what the entry says.
    fn resolve(&self, entry: &Entry<'a>) -> Result<Node> {
        let node = self.tree.node_at(entry.nid, entry.offset)?;
        if entry_type(entry.file_type) != Some(node.file_type) {
            let (at, expected) = (entry.offset + 10, format!("that of a {}", node.file_type));
            return Err(self.tree.image().corrupt(at, "type of an entry", expected, entry.file_type));
        }
        if node.file_type == FileType::Directory {
            Directory::new(self.tree, &node)?.check_links(self.nid)?;
        }
        Ok(node)
    }

    /// The entries from `position` on.
    pub(super) fn entries(self, position: u64) -> Result<Entries<'a>> {
        let block = usize::try_from(position >> INDEX_BITS).unwrap_or(usize::MAX);
        let index = (position & ((1 << INDEX_BITS) - 1)) as usize;
        let mut entries = Entries { directory: self, block, index, current: None, previous: None };
        // What stands before the position is what the next name is compared with.
        if block < self.block_count() {
            let current = self.block(block)?;
            let passed = index.min(current.entries.len());
            entries.previous = match (passed, block) {
                (0, 0) => None,
                (0, _) => {
                    let before = self.block(block - 1)?;
                    Some(before.name(before.entries.len() - 1)?)
                }
                (passed, _) => Some(current.name(passed - 1)?),
            };
            entries.current = Some(current);
        }
        Ok(entries)
    }
}

/// The file type that an entry's number means.
fn entry_type(number: u8) -> Option<FileType> {
    match number {
        1 => Some(FileType::Regular),
        2 => Some(FileType::Directory),
        3 => Some(FileType::CharDevice),
        4 => Some(FileType::BlockDevice),
        5 => Some(FileType::Fifo),
        6 => Some(FileType::Socket),
        7 => Some(FileType::Symlink),
        _ => None,
    }
}

/// The number of a file type.
pub(super) fn type_number(file_type: FileType) -> u8 {
    match file_type {
        FileType::Regular => 1,
        FileType::Directory => 2,
        FileType::CharDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
    }
}

/// The entries of a directory from some position on.
pub(crate) struct Entries<'a> {
    directory: Directory<'a>,
    /// The block, how many of its entries were passed, and its view.
    block: usize,
    index: usize,
    current: Option<Block<'a>>,
    /// The name before: names must ascend, or lookups would not find them.
    previous: Option<&'a [u8]>,
}

impl<'a> Entries<'a> {
    fn advance(&mut self) -> Result<Option<DirEntry<'a>>> {
        loop {
            let block = match self.current {
                Some(block) => block,
                None if self.block < self.directory.block_count() => {
                    *self.current.insert(self.directory.block(self.block)?)
                }
                None => return Ok(None),
            };
            if self.index >= block.entries.len() {
                (self.block, self.index, self.current) = (self.block + 1, 0, None);
                continue;
            }
            let entry = block.entry(self.index)?;
            self.index += 1;
            if self.previous.is_some_and(|previous| previous >= entry.name) {
                let expected = format!("a name behind {}", shown(self.previous.unwrap_or_default()));
                let image = self.directory.tree.image();
                return Err(image.corrupt(entry.offset, "order of names", expected, shown(entry.name)));
            }
            self.previous = Some(entry.name);
            if let b"." | b".." = entry.name {
                continue;
            }
            if !is_name(entry.name) {
                let image = self.directory.tree.image();
                return Err(image.corrupt(entry.offset, "name", "a file name", shown(entry.name)));
            }
            let node = self.directory.resolve(&entry)?;
            return Ok(Some(DirEntry {
                ino: node.ino(),
                name: entry.name,
                file_type: node.file_type,
                next: (self.block as u64) << INDEX_BITS | self.index as u64,
            }));
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<DirEntry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.advance();
        if entry.is_err() {
            (self.block, self.current) = (usize::MAX, None);
        }
        entry.transpose()
    }
}
