//! An image as a tar: the walk through the tree.
//!
//! Invariants: a directory comes before what is in it, the first name of a hard-linked file before the others; names
//! are in byte order, and a directory's files before its directories. That is the order in which builders number
//! inodes and store data, so a blob is read from its beginning to its end. The tar follows from the image alone.

mod entry;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rafs::{Attributes, Bootstrap, DirEntry, Entries, FileType, Ino};

use crate::error::{Error, Result};
use crate::image::{Image, Piece};
use entry::Entry;

/// The longest path of an entry. Trees may be deeper than any system call can reach, and all those paths would have
/// to be written out.
const PATH_MAX: usize = 1 << 20;
/// What ends a tar.
const END: u64 = 1024;

/// Gives the bytes of the tar to `sink`. Sockets are left out, with a warning.
pub fn unpack(image: &Image, sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    // From here on it is known that the tree is one, so that the walk ends.
    image.bootstrap().check()?;
    image.copy(Walk::new(image), sink)
}

/// What is left to be written.
struct Walk<'a> {
    image: &'a Image,
    bootstrap: &'a Bootstrap,
    /// From the root to the directory that is being read.
    directories: Vec<Directory<'a>>,
    /// The path of that directory, with a slash at its end; empty for the root.
    path: Vec<u8>,
    /// The first paths of files that have several.
    links: HashMap<Ino, Vec<u8>>,
    /// The content of a file that is being written.
    content: Option<Content<'a>>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Root,
    Tree,
    Ended,
}

/// A directory that is being read: once for its files, once more for its directories.
struct Directory<'a> {
    ino: Ino,
    entries: Entries<'a>,
    wants_directories: bool,
    /// Length of the path of the directory it is in.
    parent_path: usize,
}

struct Content<'a> {
    pieces: Box<dyn Iterator<Item = Result<Piece>> + 'a>,
    path: Vec<u8>,
    size: u64,
    written: u64,
}

impl<'a> Walk<'a> {
    fn new(image: &'a Image) -> Self {
        Self {
            image,
            bootstrap: image.bootstrap(),
            directories: Vec::new(),
            path: Vec::new(),
            links: HashMap::new(),
            content: None,
            state: State::Root,
        }
    }

    fn step(&mut self) -> Result<Option<Piece>> {
        if let Some(content) = &mut self.content {
            match content.next()? {
                Some(piece) => return Ok(Some(piece)),
                None => self.content = None,
            }
        }
        if self.state == State::Root {
            self.state = State::Tree;
            let root = self.bootstrap.root();
            self.enter(root, 0)?;
            let attributes = self.bootstrap.attributes(root)?;
            if !attributes.is_implied_directory() {
                return self.entry(root, b"./", &attributes).map(Some);
            }
        }
        while let Some(directory) = self.directories.last_mut() {
            let Some(found) = directory.entries.next() else {
                if directory.wants_directories {
                    self.path.truncate(directory.parent_path);
                    self.directories.pop();
                } else {
                    directory.wants_directories = true;
                    directory.entries = self.bootstrap.read_dir(directory.ino, 0)?;
                }
                continue;
            };
            let found = found?;
            let is_directory = found.file_type == FileType::Directory;
            if is_directory != directory.wants_directories {
                continue;
            }
            let written = if is_directory { self.directory(&found)? } else { self.file(&found)? };
            if written.is_some() {
                return Ok(written);
            }
        }
        if self.state == State::Ended {
            return Ok(None);
        }
        self.state = State::Ended;
        Ok(Some(Piece::Zeros(END)))
    }

    fn enter(&mut self, ino: Ino, parent_path: usize) -> Result<()> {
        let entries = self.bootstrap.read_dir(ino, 0)?;
        self.directories.push(Directory { ino, entries, wants_directories: false, parent_path });
        Ok(())
    }

    /// The entry of a directory, which is the next one to be read; `None` if the layer had none either.
    fn directory(&mut self, found: &DirEntry<'_>) -> Result<Option<Piece>> {
        let parent_path = self.path.len();
        self.path.extend_from_slice(found.name);
        self.path.push(b'/');
        if self.path.len() > PATH_MAX {
            let detail = format!("a path of over {PATH_MAX} bytes cannot be written to a tar");
            return Err(Error::entry(shown(&self.path[..1024]), detail));
        }
        self.enter(found.ino, parent_path)?;
        let attributes = self.bootstrap.attributes(found.ino)?;
        if attributes.is_implied_directory() {
            return Ok(None);
        }
        self.entry(found.ino, &self.path, &attributes).map(Some)
    }

    /// The entry of anything but a directory; `None` if a tar cannot hold it.
    fn file(&mut self, found: &DirEntry<'_>) -> Result<Option<Piece>> {
        let path = [&self.path, found.name].concat();
        if found.file_type == FileType::Socket {
            tracing::warn!("{}: left out, a tar cannot hold a socket", shown(&path).display());
            return Ok(None);
        }
        let attributes = self.bootstrap.attributes(found.ino)?;
        if attributes.file_type == FileType::Regular && attributes.nlink > 1 {
            if let Some(first) = self.links.get(&found.ino) {
                return Ok(Some(Entry::hard_link(&path, first, &attributes).encode()));
            }
            self.links.insert(found.ino, path.clone());
        }
        let entry = self.entry(found.ino, &path, &attributes)?;
        if attributes.file_type == FileType::Regular && attributes.size > 0 {
            let pieces = Box::new(self.image.content(found.ino, &attributes));
            self.content = Some(Content { pieces, path, size: attributes.size, written: 0 });
        }
        Ok(Some(entry))
    }

    fn entry(&self, ino: Ino, path: &[u8], attributes: &Attributes) -> Result<Piece> {
        let mut entry = Entry::new(path, attributes);
        if attributes.file_type == FileType::Symlink {
            entry.set_target(&self.bootstrap.read_link(ino)?);
        }
        for pair in self.bootstrap.xattrs(ino)? {
            let (name, value) = pair?;
            entry.add_xattr(&name, value);
        }
        Ok(entry.encode())
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

impl Content<'_> {
    /// The next piece; the last one fills the tar's block.
    fn next(&mut self) -> Result<Option<Piece>> {
        let Some(piece) = self.pieces.next() else {
            if self.written < self.size {
                let detail = format!("{} bytes of content, expected {}", self.written, self.size);
                return Err(Error::entry(shown(&self.path), detail));
            }
            let padding = self.size.wrapping_neg() % 512;
            // Asked again, there is neither content nor padding left.
            self.size = self.size.saturating_add(padding);
            self.written = self.size;
            return Ok((padding != 0).then_some(Piece::Zeros(padding)));
        };
        let piece = piece?;
        self.written += piece.len();
        Ok(Some(piece))
    }
}

fn shown(path: &[u8]) -> PathBuf {
    OsStr::from_bytes(path).into()
}
