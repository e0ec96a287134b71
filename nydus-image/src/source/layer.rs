//! Layers that stay what they are: a tar.gz or a tar, read once for its tree, its digests, and where its chunks lie.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rafs::build::{NodeId, Tree};
use storage::blob::writer::{DataChunk, DataKind, DataObject};
use storage::blob::{BlobId, ZranContexts, ZranReader};

use super::hashed::Hashed;
use super::tar::{self, Entry, Kind, Reader, TreeBuilder};
use crate::error::{Error, Result};
use crate::pipeline::{Content, Job, Jobs};

/// The bytes of a layer.
type Input = Hashed<Box<dyn Read + Send>>;

/// A layer, read as the tar that it is or holds.
#[derive(Debug)]
pub enum LayerInput {
    /// A tar.gz.
    Gzip(Box<ZranReader<Input>>),
    /// A tar, and where the chunk begins that is being read.
    Tar(Input, u64),
}

impl LayerInput {
    /// Opens a file, a FIFO, or standard input, and looks at how it begins.
    pub fn open(path: &Path, chunk_size: u32) -> Result<Self> {
        let mut input = tar::open(path)?;
        let mut magic = Vec::new();
        input.by_ref().take(2).read_to_end(&mut magic).map_err(Error::io("read", path))?;
        let is_gzip = magic == tar::GZIP_MAGIC;
        let input = Hashed::new(Box::new(io::Cursor::new(magic).chain(input)) as Box<dyn Read + Send>);
        Ok(match is_gzip {
            true => Self::Gzip(ZranReader::new(input, chunk_size)?.into()),
            false => Self::Tar(input, 0),
        })
    }

    /// What kind of object it is.
    pub fn kind(&self) -> DataKind {
        match self {
            Self::Gzip(_) => DataKind::Zran,
            Self::Tar(..) => DataKind::Tar,
        }
    }

    fn begin_chunk(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(reader) => reader.begin_chunk(),
            Self::Tar(input, begin) => {
                *begin = input.count();
                Ok(())
            }
        }
    }

    fn end_chunk(&mut self) -> storage::Result<DataChunk> {
        match self {
            Self::Gzip(reader) => reader.end_chunk().map(DataChunk::Zran),
            Self::Tar(_, begin) => Ok(DataChunk::Tar(*begin)),
        }
    }

    /// The layer as an object, once all of it is read, and the contexts of its chunks.
    pub fn finish(self) -> Result<(DataObject, ZranContexts)> {
        let (input, contexts) = match self {
            Self::Gzip(reader) => reader.into_parts(),
            Self::Tar(input, _) => (input, ZranContexts::default()),
        };
        Ok((DataObject { id: BlobId::new(&input.digest().to_string())?, size: input.count() }, contexts))
    }
}

impl Read for LayerInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(reader) => reader.read(buffer),
            Self::Tar(input, _) => input.read(buffer),
        }
    }
}

/// Where the chunks lie that are on their way from the dispenser of jobs to the store, in order.
#[derive(Debug, Default)]
pub struct Places(Mutex<VecDeque<DataChunk>>);

impl Places {
    fn push(&self, place: DataChunk) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(place);
    }

    /// The place of the next chunk.
    pub fn pop(&self) -> Option<DataChunk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The files of an archive with content, while its tree grows.
#[derive(Debug)]
pub struct ArchiveFiles<R> {
    /// The archive.
    pub reader: Reader<R>,
    builder: TreeBuilder,
    is_estargz: bool,
    files: Vec<NodeId>,
}

impl<R: Read> ArchiveFiles<R> {
    /// Reads an archive into a tree. `is_estargz`: what only helps to read the archive is no part of the tree.
    pub fn new(reader: Reader<R>, builder: TreeBuilder, is_estargz: bool) -> Self {
        Self { reader, builder, is_estargz, files: Vec::new() }
    }

    /// Goes on to the next file with content, and gives its size; `None` at the end, when all of the archive is read.
    /// The content is in the archive in one piece: a file with holes is an error.
    pub fn next_file(&mut self) -> Result<Option<(Entry, u64)>> {
        while let Some(entry) = self.reader.next_entry()? {
            if self.is_estargz && tar::is_estargz_extra(&entry.path) {
                continue;
            }
            let at = entry.header_position;
            let (size, is_sparse) = match entry.kind {
                Kind::Regular { size, is_sparse } => (size, is_sparse),
                _ => (0, false),
            };
            if is_sparse {
                let detail = "is sparse: no layer that stays what it is has its content in one piece";
                return Err(self.reader.error_at(at, detail));
            }
            let added = self.builder.add(entry.clone()).map_err(|fault| self.reader.error_at(at, fault))?;
            if let Some(node) = added {
                self.files.push(node);
                return Ok(Some((entry, size)));
            }
        }
        Ok(None)
    }

    /// The number of files so far.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// True before the first file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The tree, its files with content in order, and the archive.
    pub fn finish(self) -> (Tree, Vec<NodeId>, R) {
        (self.builder.finish(), self.files, self.reader.into_input())
    }
}

/// Cuts the files of a layer into chunks, and notes where these lie.
#[derive(Debug)]
pub struct LayerFiles<'a> {
    files: ArchiveFiles<LayerInput>,
    chunk_size: u32,
    places: &'a Places,
    /// Offset and size of the file that is being read.
    current: Option<(u64, u64)>,
}

impl<'a> LayerFiles<'a> {
    /// The chunks' places go to `places` in their order.
    pub fn new(files: ArchiveFiles<LayerInput>, chunk_size: u32, places: &'a Places) -> Self {
        Self { files, chunk_size, places, current: None }
    }

    /// The tree, its files with content in order, and the layer.
    pub fn finish(self) -> (Tree, Vec<NodeId>, LayerInput) {
        self.files.finish()
    }
}

impl Jobs for LayerFiles<'_> {
    fn next(&mut self) -> Result<Option<Job>> {
        let (offset, size) = match self.current.take() {
            Some(current) => current,
            None => match self.files.next_file()? {
                Some((_, size)) => (0, size),
                None => return Ok(None),
            },
        };
        let end = size.min(offset + u64::from(self.chunk_size));
        // At most the chunk size.
        let len = (end - offset) as u32;
        let reader = &mut self.files.reader;
        let begun = reader.input_mut().begin_chunk();
        begun.map_err(|error| reader.error(format!("cannot read on: {error}")))?;
        let Some(content) = reader.read_content(len)? else {
            return Err(reader.error("a hole in a file that is not sparse"));
        };
        let ended = reader.input_mut().end_chunk();
        self.places.push(ended.map_err(|error| reader.error(error.to_string()))?);
        if end < size {
            self.current = Some((end, size));
        }
        Ok(Some(Job {
            file: self.files.len() - 1,
            file_offset: offset,
            len,
            is_whole_file: size <= self.chunk_size.into(),
            content: Content::Bytes(content),
        }))
    }
}
