//! The chunks of the files of a directory, in the order in which their data is stored.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rafs::build::{NodeId, Numbering, Tree};

use super::content::{Fingerprint, SourceFile};
use crate::error::Result;
use crate::pipeline::{Content, Job, Jobs};

/// A file with content.
#[derive(Clone, Copy, Debug)]
pub struct FileToStore {
    /// Where it is in the tree.
    pub node: NodeId,
    /// Its position in the numbering, by which its path is found.
    pub position: usize,
    /// What it was when it was listed.
    pub fingerprint: Fingerprint,
    /// It has less data than bytes.
    pub may_have_holes: bool,
}

/// Cuts files into chunks. A hole that covers a chunk is a chunk of zeros that nobody reads.
pub struct Files<'a> {
    root: &'a Path,
    tree: &'a Tree,
    numbering: &'a Numbering,
    chunk_size: u32,
    files: &'a [FileToStore],
    /// The file that is being cut, and where the next chunk begins.
    next: usize,
    current: Option<Current>,
}

struct Current {
    file: Arc<SourceFile>,
    offset: u64,
    /// Up to here there is a hole; 0: nothing is known.
    data_from: u64,
    may_have_holes: bool,
}

impl<'a> Files<'a> {
    /// The files below `root`, whose tree was numbered.
    pub fn new(
        root: &'a Path,
        tree: &'a Tree,
        numbering: &'a Numbering,
        chunk_size: u32,
        files: &'a [FileToStore],
    ) -> Self {
        Self { root, tree, numbering, chunk_size, files, next: 0, current: None }
    }

    fn path(&self, position: usize) -> PathBuf {
        let inside = self.numbering.path(self.tree, position);
        let mut path = self.root.to_owned();
        // It begins with a slash, which must not make it absolute.
        let names = inside.as_os_str().as_bytes().get(1..).unwrap_or_default();
        path.push(std::ffi::OsStr::from_bytes(names));
        path
    }
}

impl Jobs for Files<'_> {
    fn next(&mut self) -> Result<Option<Job>> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                let Some(file) = self.files.get(self.next) else { return Ok(None) };
                self.next += 1;
                Current {
                    file: Arc::new(SourceFile::new(self.path(file.position), file.fingerprint)),
                    offset: 0,
                    data_from: 0,
                    may_have_holes: file.may_have_holes && file.fingerprint.size > self.chunk_size.into(),
                }
            }
        };
        let size = current.file.size();
        let end = size.min(current.offset + u64::from(self.chunk_size));
        if current.may_have_holes && current.data_from <= current.offset {
            current.data_from = current.file.next_data(current.offset)?;
        }
        let content = if current.may_have_holes && current.data_from >= end {
            Content::Zeros
        } else {
            Content::File(current.file.clone(), current.offset)
        };
        let job = Job {
            file: self.next - 1,
            file_offset: current.offset,
            // At most the chunk size.
            len: (end - current.offset) as u32,
            is_whole_file: size <= self.chunk_size.into(),
            content,
        };
        current.offset = end;
        if end < size {
            self.current = Some(current);
        } else if current.may_have_holes {
            current.file.verify_holes()?;
        }
        Ok(Some(job))
    }
}
