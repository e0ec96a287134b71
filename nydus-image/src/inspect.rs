//! Questions about a bootstrap, and their answers: text for people, JSON where programs ask.
//!
//! Knows nothing of terminals. A question that cannot be answered is an error that says why; it changes nothing.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use rafs::build::{Chunk, FileChunks, read_blobs};
use rafs::{Bootstrap, FileType, Ino, Version};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::walk::walk;

/// What can be asked.
pub const HELP: &str = "
    stats:              Show what the bootstrap holds
    ls:                 List the current directory
    cd DIR:             Go to another directory
    stat FILE:          Show a file of the current directory, and its chunks
    blobs:              Show the blobs
    prefetch:           Show what is to be fetched first
    chunk OFFSET:       Show the chunks that are stored at this offset of a blob, and the files that have them
    icheck INODE:       Show an inode by its number, with all its paths
    help:               Show this
    exit, q:            End
";

/// What was answered.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Text, and the same for programs; null where there is only text.
    Told(String, Value),
    /// It is the end.
    Exit,
}

/// A place in a tree, from which questions are asked.
#[derive(Debug)]
pub struct Inspector<'a> {
    bootstrap: &'a Bootstrap,
    directory: Ino,
}

impl<'a> Inspector<'a> {
    /// At the root.
    pub fn new(bootstrap: &'a Bootstrap) -> Self {
        Self { bootstrap, directory: bootstrap.root() }
    }

    /// Answers one line.
    pub fn ask(&mut self, line: &[u8]) -> Result<Answer> {
        let line = line.trim_ascii();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (word, argument) = (&line[..end], line[end..].trim_ascii());
        let text = match (word, argument) {
            (b"", _) => String::new(),
            (b"exit" | b"q", b"") => return Ok(Answer::Exit),
            (b"help", b"") => HELP.into(),
            (b"stats", b"") => {
                return Ok(Answer::Told(
                    self.stats(),
                    json!({ "inodes_count": self.bootstrap.inode_count() }),
                ));
            }
            (b"blobs", b"") => return Ok(self.blobs()),
            (b"prefetch", b"") => return self.prefetch(),
            (b"ls", b"") => self.list()?,
            (b"cd", name) if !name.is_empty() => {
                self.directory = self.find(name, true)?;
                String::new()
            }
            (b"stat", name) if !name.is_empty() => {
                let ino = self.find(name, false)?;
                self.inode(ino, &shown(name), true)?
            }
            (b"chunk", offset) if !offset.is_empty() => self.chunks_at(number(offset)?)?,
            (b"icheck", ino) if !ino.is_empty() => self.by_number(Ino(number(ino)?))?,
            _ => {
                let line = String::from_utf8_lossy(line);
                return Err(Error::Usage(format!("unsupported command: {line}\n{HELP}")));
            }
        };
        Ok(Answer::Told(text, Value::Null))
    }

    /// The inode of a path, from the current directory, or from the root if it begins with a slash.
    fn find(&self, path: &[u8], want_directory: bool) -> Result<Ino> {
        let bootstrap = self.bootstrap;
        let entry = |detail: &str| Error::entry(OsStr::from_bytes(path), detail);
        let is_directory = |ino| Ok::<_, Error>(bootstrap.attributes(ino)?.file_type == FileType::Directory);
        let mut ino = if path.starts_with(b"/") { bootstrap.root() } else { self.directory };
        for name in path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            if !is_directory(ino)? {
                return Err(entry("leads through something that is not a directory"));
            }
            ino = match name {
                b".." => bootstrap.parent(ino)?,
                name => bootstrap.lookup(ino, name)?.ok_or_else(|| entry("is not in the image"))?,
            };
        }
        if want_directory && !is_directory(ino)? {
            return Err(entry("is not a directory"));
        }
        Ok(ino)
    }

    fn stats(&self) -> String {
        let bootstrap = self.bootstrap;
        let version = match bootstrap.version() {
            Version::V5 => 5,
            Version::V6 => 6,
        };
        format!(
            "\n    Version:                {version}\n    Inodes Count:           {}\n    \
             Chunk Size:             {}KB\n    Root Inode:             {}\n    \
             Compressor:             {:?}\n    Digester:               {:?}\n    \
             Owners Recorded:        {}\n    Extended Attributes:    {}\n    Blobs:                  {}\n",
            bootstrap.inode_count(),
            bootstrap.chunk_size() / 1024,
            bootstrap.root(),
            bootstrap.compressor(),
            bootstrap.digester(),
            bootstrap.owners_recorded(),
            bootstrap.has_xattrs(),
            bootstrap.blobs().len(),
        )
    }

    fn blobs(&self) -> Answer {
        let (mut text, mut values) = (String::new(), Vec::new());
        for entry in read_blobs(self.bootstrap) {
            let blob = &entry.description;
            let features: Vec<_> = blob.features.iter_names().map(|(name, _)| name).collect();
            let ci = blob.ci.map_or((0, 0, 0), |ci| (ci.offset, ci.compressed_size, ci.uncompressed_size));
            let _ = write!(
                text,
                "\nBlob Index:             {}\nBlob ID:                {}\nBlob Size:              {}\n\
                 Compressed Data Size:   {}\nUncompressed Data Size: {}\nFeatures:               {}\n\
                 Compressor:             {:?}\nDigester:               {:?}\nChunk Size:             {:#x}\n\
                 Chunk Count:            {}\nPrefetch Size:          {}\nMeta Object:            {}\n\
                 Meta Offset:            {}\nMeta Compressed Size:   {}\nMeta Uncompressed Size: {}\n",
                blob.index,
                blob.id,
                blob.compressed_size,
                blob.data_size().unwrap_or(0),
                blob.uncompressed_size,
                features.join(" | "),
                blob.compressor,
                blob.digester,
                blob.chunk_size,
                blob.chunk_count,
                entry.prefetch_size,
                blob.meta_object(),
                ci.0,
                ci.1,
                ci.2,
            );
            values.push(json!({
                "blob_id": blob.id.as_str(),
                "compressed_size": blob.compressed_size,
                "decompressed_size": blob.uncompressed_size,
                "readahead_offset": 0,
                "readahead_size": entry.prefetch_size,
            }));
        }
        Answer::Told(text, values.into())
    }

    /// What the prefetch table names, with all paths of each inode; directories end in a slash.
    fn prefetch(&self) -> Result<Answer> {
        let wanted = self.bootstrap.prefetch_inodes()?;
        let mut paths: std::collections::HashMap<Ino, Vec<String>> =
            wanted.iter().map(|ino| (*ino, Vec::new())).collect();
        walk(self.bootstrap, |entry| {
            if let Some(paths) = paths.get_mut(&entry.ino) {
                let is_root = entry.path == b"/";
                let slash = entry.attributes.file_type == FileType::Directory && !is_root;
                paths.push(entry.path().to_string_lossy().into_owned() + if slash { "/" } else { "" });
            }
            Ok(())
        })?;
        let mut text = format!("Total Prefetching Files: {}\n", wanted.len());
        for ino in &wanted {
            let paths = paths.get(ino).map_or(&[][..], Vec::as_slice);
            let _ = writeln!(text, "Inode Number: {:>10} | Path: {paths:?}", ino.0);
        }
        let values = wanted.iter().map(|ino| json!({ "inode": ino.0, "path": paths.get(ino) }));
        Ok(Answer::Told(text, values.collect()))
    }

    fn list(&self) -> Result<String> {
        let mut text = String::new();
        for entry in self.bootstrap.read_dir(self.directory, 0)? {
            let entry = entry?;
            let _ = writeln!(text, "{}    {:<8} {}", letter(entry.file_type), entry.ino.0, shown(entry.name));
        }
        Ok(text)
    }

    fn inode(&self, ino: Ino, name: &str, with_chunks: bool) -> Result<String> {
        let attributes = self.bootstrap.attributes(ino)?;
        let mut text = format!(
            "\nInode Number:       {ino}\nName:               {name}\nSize:               {}\n",
            attributes.size
        );
        if attributes.file_type == FileType::Directory {
            let _ = writeln!(text, "Parent:             {}", self.bootstrap.parent(ino)?);
        }
        let _ = write!(
            text,
            "Mode:               {:#X}\nPermissions:        {:o}\nNlink:              {}\n\
             UID:                {}\nGID:                {}\nMtime:              {}\n\
             MtimeNsec:          {}\nBlocks:             {}\n",
            attributes.mode,
            attributes.mode,
            attributes.nlink,
            attributes.uid,
            attributes.gid,
            attributes.mtime,
            attributes.mtime_nsec,
            attributes.blocks,
        );
        if attributes.file_type == FileType::Symlink {
            let _ = writeln!(text, "Target:             {}", shown(&self.bootstrap.read_link(ino)?));
        }
        if attributes.file_type.is_device() {
            let _ = writeln!(text, "Rdev:               {:#x}", attributes.rdev);
        }
        for pair in self.bootstrap.xattrs(ino)? {
            let (name, value) = pair?;
            let _ = writeln!(text, "Xattr:              {} {} bytes", shown(&name), value.len());
        }
        if with_chunks && attributes.file_type == FileType::Regular && attributes.size > 0 {
            text += "  Chunk list:\n";
            let chunks = FileChunks::of(self.bootstrap).read(ino, attributes.size)?;
            for (number, chunk) in chunks.iter().enumerate() {
                let file_offset = number as u64 * u64::from(self.bootstrap.chunk_size());
                let _ = write!(
                    text,
                    "        {number} ->\n        file offset: {file_offset}, chunk index: {}\n        \
                     compressed size: {}, decompressed size: {}\n        \
                     compressed offset: {}, decompressed offset: {}\n        blob id: {}\n        chunk id: {}\n",
                    chunk.index,
                    chunk.stored.compressed_size,
                    chunk.uncompressed_size,
                    chunk.stored.compressed_offset,
                    chunk.uncompressed_offset,
                    self.blob_id(chunk),
                    chunk.digest,
                );
            }
        }
        Ok(text)
    }

    fn blob_id(&self, chunk: &Chunk) -> String {
        let blob = self.bootstrap.blobs().get(chunk.blob_index as usize);
        blob.map_or_else(|| "unknown".into(), |blob| blob.id.to_string())
    }

    fn chunks_at(&self, offset: u64) -> Result<String> {
        let mut chunks_of = FileChunks::of(self.bootstrap);
        let mut text = String::new();
        walk(self.bootstrap, |entry| {
            if entry.attributes.file_type != FileType::Regular {
                return Ok(());
            }
            for chunk in chunks_of.read(entry.ino, entry.attributes.size)? {
                if chunk.stored.compressed_offset == offset {
                    let _ = write!(
                        text,
                        "\nFile: {:?}\nCompressed Offset: {offset}, Compressed Size: {}\n\
                         Decompressed Offset: {}, Decompressed Size: {}\nChunk ID: {}\nBlob ID: {}\n",
                        entry.path(),
                        chunk.stored.compressed_size,
                        chunk.uncompressed_offset,
                        chunk.uncompressed_size,
                        chunk.digest,
                        self.blob_id(&chunk),
                    );
                }
            }
            Ok(())
        })?;
        if text.is_empty() {
            return Err(Error::Usage(format!("no chunk of a file is stored at offset {offset}")));
        }
        Ok(text)
    }

    fn by_number(&self, ino: Ino) -> Result<String> {
        let mut text = String::new();
        let mut name = None;
        walk(self.bootstrap, |entry| {
            if entry.ino == ino {
                let _ = writeln!(text, "{}", entry.path().display());
                let last = entry.path.rsplit(|byte| *byte == b'/').next();
                name.get_or_insert_with(|| shown(last.filter(|name| !name.is_empty()).unwrap_or(b"/")));
            }
            Ok(())
        })?;
        // Only what is in the tree is looked at.
        let name = name.ok_or_else(|| Error::Usage(format!("no entry has inode {ino}")))?;
        Ok(text + &self.inode(ino, &name, false)?)
    }
}

fn shown(name: &[u8]) -> String {
    format!("{:?}", OsStr::from_bytes(name))
}

fn letter(file_type: FileType) -> char {
    match file_type {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    }
}

fn number(text: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(text);
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| Error::Usage(format!("{text:?} is not a number: {error}")))
}
