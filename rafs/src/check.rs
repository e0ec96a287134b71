//! The walk through a whole bootstrap, which finds what opening and using parts of it do not.
//!
//! Its work is bounded whatever the bytes: an inode is looked into once, and what the inodes claim of the file may
//! not exceed the file.

use crate::bootstrap::{Bootstrap, Tree};
use crate::error::Result;
use crate::inode::{FileType, Ino, SYMLINK_MAX};
use crate::number_set::NumberSet;

/// What [`Bootstrap::check`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Directories, the root included.
    pub directories: u64,
    /// Distinct regular files.
    pub files: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Devices, fifos and sockets.
    pub specials: u64,
    /// Entries that name a file that an earlier entry names too.
    pub hard_links: u64,
    /// Extended attributes of all inodes.
    pub xattrs: u64,
    /// Chunks of all files; one that two files share counts twice.
    pub chunks: u64,
    /// Bytes of all distinct files.
    pub file_bytes: u64,
    /// Directories on the way from the root to the deepest one, both included.
    pub depth: u64,
}

impl Bootstrap {
    /// Walks the whole tree and checks what the format promises of it. Blobs are not looked into; the Merkle
    /// digests of v5 are, if the bootstrap was opened so.
    pub fn check(&self) -> Result<Summary> {
        let mut walk = Walk {
            bootstrap: self,
            summary: Summary::default(),
            visited: self.numbers(),
            unclaimed: self.size(),
            directories: Vec::new(),
        };
        walk.inode(self.root(), FileType::Directory, 0)?;
        while let Some((directory, depth)) = walk.directories.pop() {
            self.parent(directory)?;
            for entry in self.read_dir(directory, 0)? {
                let entry = entry?;
                walk.inode(entry.ino, entry.file_type, depth)?;
            }
        }
        let summary = walk.summary;
        let distinct = summary.directories + summary.files + summary.symlinks + summary.specials;
        let (promised, found) = match self.tree() {
            Tree::V5(tree) => {
                tree.check_records(distinct + summary.hard_links)?;
                (tree.inode_count(), distinct)
            }
            Tree::V6(tree) => {
                tree.check_chunk_table()?;
                (tree.inode_count(), distinct + summary.hard_links)
            }
        };
        if promised != found {
            return Err(self.image().corrupt(0, "inode count", found.to_string(), promised));
        }
        Ok(summary)
    }

    /// A set that takes every inode number of this bootstrap.
    pub(crate) fn numbers(&self) -> NumberSet {
        NumberSet::below(match self.tree() {
            Tree::V5(tree) => u64::from(tree.entries()) + 1,
            Tree::V6(tree) => tree.nid_limit() + 1,
        })
    }
}

/// What a look at all parts of an inode, the target of a symlink and the entries of a directory excepted, finds.
pub(crate) struct Inspection {
    /// Bytes of the bootstrap that belong to the inode alone.
    pub(crate) footprint: u64,
    /// Bytes of a file.
    pub(crate) size: u64,
    /// Extended attributes.
    pub(crate) xattrs: u64,
    /// Chunks of a file.
    pub(crate) chunks: u64,
}

struct Walk<'a> {
    bootstrap: &'a Bootstrap,
    summary: Summary,
    visited: NumberSet,
    /// Bytes of the bootstrap that no inode has claimed.
    unclaimed: u64,
    /// Directories to enter, and how deep they lie.
    directories: Vec<(Ino, u64)>,
}

impl Walk<'_> {
    /// Looks into an inode that lies in a directory at `depth`.
    fn inode(&mut self, ino: Ino, file_type: FileType, depth: u64) -> Result<()> {
        let bootstrap = self.bootstrap;
        if !self.visited.insert(ino.0) {
            if file_type == FileType::Regular {
                self.summary.hard_links += 1;
                return Ok(());
            }
            let found = format!("the {file_type} {ino} twice");
            return Err(bootstrap.image().corrupt(0, "tree", "each inode once, or hard-linked files", found));
        }
        let inspection = match bootstrap.tree() {
            Tree::V5(tree) => tree.inspect(ino)?,
            Tree::V6(tree) => tree.inspect(ino)?,
        };
        self.unclaimed = self.unclaimed.checked_sub(inspection.footprint).ok_or_else(|| {
            let found = format!("inode {ino} using bytes that others use");
            bootstrap.image().corrupt(0, "tree", "inodes that do not overlap", found)
        })?;

        self.summary.xattrs += inspection.xattrs;
        match file_type {
            FileType::Directory => {
                self.summary.directories += 1;
                self.summary.depth = self.summary.depth.max(depth + 1);
                self.directories.push((ino, depth + 1));
            }
            FileType::Regular => {
                self.summary.files += 1;
                self.summary.file_bytes = self.summary.file_bytes.saturating_add(inspection.size);
                self.summary.chunks += inspection.chunks;
            }
            FileType::Symlink => {
                self.summary.symlinks += 1;
                let found = bootstrap.read_link(ino)?.len();
                // The formats can hold more, which no system call can read.
                if found > SYMLINK_MAX {
                    let expected = format!("at most {SYMLINK_MAX} bytes");
                    let found = format!("{found} bytes of inode {ino}");
                    return Err(bootstrap.image().corrupt(0, "symlink target", expected, found));
                }
            }
            _ => self.summary.specials += 1,
        }
        Ok(())
    }
}
