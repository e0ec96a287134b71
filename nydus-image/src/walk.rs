//! All entries of a bootstrap, a directory before what is in it, names in byte order.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rafs::{Attributes, Bootstrap, FileType, Ino};

use crate::error::Result;

/// An entry.
#[derive(Debug)]
pub struct Entry<'a> {
    /// From the root on, `/`.
    pub path: &'a [u8],
    /// The inode.
    pub ino: Ino,
    /// The directory it lies in; of the root, the root.
    pub parent: Ino,
    /// What the bootstrap says of the inode.
    pub attributes: Attributes,
}

impl Entry<'_> {
    /// The path, for messages.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.path))
    }
}

/// Shows every entry to `visit`, hard links each time. The bootstrap is checked first, so that the walk ends.
pub fn walk(bootstrap: &Bootstrap, mut visit: impl FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
    bootstrap.check()?;
    let root = bootstrap.root();
    let mut path = b"/".to_vec();
    visit(&Entry { path: &path, ino: root, parent: root, attributes: bootstrap.attributes(root)? })?;
    path.clear();
    let mut directories = vec![(root, bootstrap.read_dir(root, 0)?, 0)];
    while let Some((parent, entries, above)) = directories.last_mut() {
        let Some(found) = entries.next() else {
            path.truncate(*above);
            directories.pop();
            continue;
        };
        let (found, parent, len) = (found?, *parent, path.len());
        path.push(b'/');
        path.extend_from_slice(found.name);
        let attributes = bootstrap.attributes(found.ino)?;
        visit(&Entry { path: &path, ino: found.ino, parent, attributes })?;
        if found.file_type == FileType::Directory {
            directories.push((found.ino, bootstrap.read_dir(found.ino, 0)?, len));
        } else {
            path.truncate(len);
        }
    }
    Ok(())
}
