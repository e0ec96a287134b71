//! Which numbers are inodes: asked when a number comes from a user, in a file handle, and not from the tree.
//!
//! v6 says nowhere where inodes lie but in the entries of directories, and a content that somebody chose, such as the
//! target of a symlink, may look like an inode. So the first question walks the tree; what it finds is kept, one bit for
//! each number that could be.

use crate::bootstrap::Bootstrap;
use crate::inode::{FileType, Ino};
use crate::number_set::NumberSet;

impl Bootstrap {
    /// True if `ino` is the root, or an entry of the tree names it. What cannot be listed is not found.
    pub fn is_entry(&self, ino: Ino) -> bool {
        self.reachable().get_or_init(|| self.walk()).contains(ino.0)
    }

    fn walk(&self) -> NumberSet {
        let mut found = self.numbers();
        found.insert(self.root().0);
        let mut directories = vec![self.root()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = self.read_dir(directory, 0) else { continue };
            // An error ends the iteration.
            for entry in entries.flatten() {
                // A directory that is found again is not entered again, so the walk ends.
                if found.insert(entry.ino.0) && entry.file_type == FileType::Directory {
                    directories.push(entry.ino);
                }
            }
        }
        found
    }
}
