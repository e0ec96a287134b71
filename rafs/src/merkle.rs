//! The Merkle tree of v5 (spec/rafs-v5.md §11), checked as inodes are touched.
//!
//! A file's digest covers the digests of its chunks, a symlink's its target, a directory's the digests of its
//! children in index order. So an inode is as good as the root's digest when its own digest is right and so are
//! those of all directories above it; each is computed once and then remembered. Names, modes, owners and times
//! are covered by nothing: who wants them authentic gives the digest of the bootstrap file.

use std::sync::atomic::{AtomicU64, Ordering};

use storage::digest::Digest;

use crate::error::{Error, Result};
use crate::inode::FileType;
use crate::v5::{ROOT, Record, Tree};

/// Which inodes have been verified up to the root.
pub(crate) struct Verified {
    /// One bit each index.
    words: Box<[AtomicU64]>,
}

impl Verified {
    /// No inode of the indexes 1 to `entries`.
    pub(crate) fn none_of(entries: u32) -> Self {
        Self { words: (0..entries / 64 + 1).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Verifies the inode at `index`, a number that `tree` has, and every directory above it.
    pub(crate) fn check(&self, tree: &Tree, index: u32) -> Result<()> {
        // Parents have smaller numbers (`Record` sees to it), so both climbs end.
        let mut at = index;
        while !self.contains(at) {
            let record = tree.record(at)?;
            let (expected, found) = (Digest(record.head.digest), digest(tree, &record)?);
            if expected != found {
                let path = tree.image().path().clone();
                return Err(Error::DigestMismatch { path, what: format!("inode {at}"), expected, found });
            }
            if at == ROOT {
                break;
            }
            at = self.parent(tree, &record)?;
        }
        // Only now is the whole way known to be good. Racing threads come to the same result.
        let mut at = index;
        while !self.insert(at) && at != ROOT {
            at = self.parent(tree, &tree.record(at)?)?;
        }
        Ok(())
    }

    /// Index of the directory whose digest covers the inode.
    fn parent(&self, tree: &Tree, record: &Record<'_>) -> Result<u32> {
        // `Record` has checked that the number is in the inode table.
        let parent = tree.record(record.parent().0 as u32)?;
        if !parent.children().contains(&record.index) {
            let expected = "a directory that holds the inode";
            let at = record.offset + 32;
            return Err(tree.image().corrupt(at, "parent of an inode", expected, parent.index));
        }
        Ok(parent.index)
    }

    // Relaxed: a bit guards no other data, the bootstrap does not change.
    fn contains(&self, index: u32) -> bool {
        let word = self.words[index as usize / 64].load(Ordering::Relaxed);
        word & 1 << (index % 64) != 0
    }

    /// True if it was there.
    fn insert(&self, index: u32) -> bool {
        let bit = 1 << (index % 64);
        self.words[index as usize / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0
    }
}

/// The digest that the inode should have.
fn digest(tree: &Tree, record: &Record<'_>) -> Result<Digest> {
    let digester = tree.digester();
    Ok(match record.file_type {
        FileType::Regular => digester.digest_parts(record.chunks.iter().map(|chunk| &chunk.digest[..])),
        FileType::Symlink => digester.digest(record.symlink),
        FileType::Directory => {
            let children = record.children().map(|index| tree.inode_digest(index));
            let mut failure = None;
            let digest = digester.digest_parts(children.map_while(|child| {
                child.map_err(|error| failure = Some(error)).ok().map(|digest| &digest[..])
            }));
            if let Some(error) = failure {
                return Err(error);
            }
            digest
        }
        _ => digester.digest(&[]),
    })
}
