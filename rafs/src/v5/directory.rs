//! Listing a v5 directory: its children have consecutive indexes, in byte order of their names.
//!
//! A position is the number of entries passed.

use super::reader::Tree;
use super::record::Record;
use crate::directory::DirEntry;
use crate::error::Result;
use crate::image::shown;
use crate::inode::Ino;

/// The entries of a directory from some position on.
pub(crate) struct Entries<'a> {
    tree: &'a Tree,
    directory: Ino,
    first: u32,
    /// Index of the next child, and the end of the children.
    next: u32,
    end: u32,
    /// The entry before: names must ascend, or lookups would not find them.
    previous: Option<&'a [u8]>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(tree: &'a Tree, directory: &Record<'a>, position: u64) -> Result<Self> {
        let children = directory.children();
        let passed = position.min((children.end - children.start).into()) as u32;
        let next = children.start + passed;
        let previous = match passed {
            0 => None,
            _ => Some(tree.record(next - 1)?.name),
        };
        Ok(Self {
            tree,
            directory: directory.ino(),
            first: children.start,
            next,
            end: children.end,
            previous,
        })
    }

    fn entry(&mut self) -> Result<DirEntry<'a>> {
        let record = self.tree.record(self.next)?;
        if self.previous.is_some_and(|previous| previous >= record.name) {
            let expected = format!("a name behind {}", shown(self.previous.unwrap_or_default()));
            let image = self.tree.image();
            return Err(image.corrupt(record.offset, "order of names", expected, shown(record.name)));
        }
        let ino = self.tree.resolve(self.directory, &record)?;
        self.previous = Some(record.name);
        self.next += 1;
        let next = u64::from(self.next - self.first);
        Ok(DirEntry { ino, name: record.name, file_type: record.file_type, next })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<DirEntry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.end = self.next;
        }
        Some(entry)
    }
}
