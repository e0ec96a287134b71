//! The chunks of an archive's files, in the order in which the archive has them, while the tree grows.

use std::io::Read;

use rafs::build::{NodeId, Tree};

use super::entry::Kind;
use super::reader::Reader;
use super::tree::{TreeBuilder, components};
use crate::error::Result;
use crate::pipeline::{Content, Job, Jobs};

/// What an eStargz layer has in its root besides the files of the layer.
const ESTARGZ_EXTRAS: [&[u8]; 3] = [b"stargz.index.json", b".prefetch.landmark", b".no.prefetch.landmark"];

/// Cuts the files of an archive into chunks.
#[derive(Debug)]
pub struct TarFiles<R> {
    reader: Reader<R>,
    builder: TreeBuilder,
    chunk_size: u32,
    is_estargz: bool,
    /// The files with content, in order.
    files: Vec<NodeId>,
    current: Option<Current>,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    offset: u64,
    size: u64,
}

impl<R: Read> TarFiles<R> {
    /// Reads an archive into a tree. `is_estargz`: what only helps to read the archive is no part of the tree.
    pub fn new(reader: Reader<R>, builder: TreeBuilder, chunk_size: u32, is_estargz: bool) -> Self {
        Self { reader, builder, chunk_size, is_estargz, files: Vec::new(), current: None }
    }

    /// The tree, and the files whose chunks were given, in order. Files that were replaced by a later entry are among
    /// them, and are not in the tree.
    pub fn finish(self) -> (Tree, Vec<NodeId>) {
        (self.builder.finish(), self.files)
    }

    /// Goes on to the next file with content; `None` if there is none.
    fn next_file(&mut self) -> Result<Option<Current>> {
        while let Some(entry) = self.reader.next_entry()? {
            if self.is_estargz
                && let Ok([name]) = components(&entry.path).as_deref()
                && ESTARGZ_EXTRAS.contains(name)
            {
                continue;
            }
            let size = match entry.kind {
                Kind::Regular { size, .. } => size,
                _ => 0,
            };
            let at = entry.header_position;
            let added = self.builder.add(entry).map_err(|fault| self.reader.error_at(at, fault))?;
            if let Some(node) = added {
                self.files.push(node);
                return Ok(Some(Current { offset: 0, size }));
            }
        }
        Ok(None)
    }
}

impl<R: Read + Send> Jobs for TarFiles<R> {
    fn next(&mut self) -> Result<Option<Job>> {
        let current = match self.current.take() {
            Some(current) => current,
            None => match self.next_file()? {
                Some(current) => current,
                None => return Ok(None),
            },
        };
        let Current { offset, size } = current;
        let end = size.min(offset + u64::from(self.chunk_size));
        // At most the chunk size.
        let len = (end - offset) as u32;
        let content = self.reader.read_content(len)?.map_or(Content::Zeros, Content::Bytes);
        if end < size {
            self.current = Some(Current { offset: end, size });
        }
        Ok(Some(Job {
            file: self.files.len() - 1,
            file_offset: offset,
            len,
            is_whole_file: size <= self.chunk_size.into(),
            content,
        }))
    }
}
