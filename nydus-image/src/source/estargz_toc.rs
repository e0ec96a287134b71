//! The table of contents of an eStargz layer: a tree, and where the chunks of its files lie, without a byte of the
//! layer (spec/blob.md §10.2).
//!
//! The table is JSON, and believed in nothing that its own entries, or the size of the layer, tell otherwise. Times are
//! not taken from it, as the reference has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rafs::build::{NodeId, Tree};
use serde::Deserialize;
use storage::digest::Digest;

use super::tar::{Entry, Kind, TreeBuilder, is_estargz_extra};
use crate::error::{Error, Result};

/// The most bytes of a table that are read.
const MAX_SIZE: u64 = 256 << 20;

#[derive(Debug, Deserialize)]
struct Document {
    version: u64,
    entries: Vec<Record>,
}

/// An entry of the table. What is not here means nothing to an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    name: String,
    r#type: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    inner_offset: u64,
    #[serde(default)]
    xattrs: BTreeMap<String, String>,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    chunk_offset: u64,
    #[serde(default)]
    chunk_size: u64,
    #[serde(default)]
    chunk_digest: String,
}

/// A table that was read.
#[derive(Debug)]
pub struct EstargzToc {
    /// Its tree, without the chunks of the files.
    pub tree: Tree,
    /// Its files with content, in order.
    pub files: Vec<NodeId>,
    /// The chunks of the files, in order.
    pub chunks: Vec<TocChunk>,
}

/// A chunk: a gzip member of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TocChunk {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Bytes of the content.
    pub len: u32,
    /// Where the member begins.
    pub offset: u64,
    /// No more bytes than so many belong to the member.
    pub bound: u32,
}

/// Reads the table at `path`. `data_size` is that of the layer; 0: unknown.
pub fn read(path: &Path, with_owners: bool, chunk_size: u32, data_size: u64) -> Result<EstargzToc> {
    let input: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).map_err(Error::io("open", path))?),
    };
    let mut text = Vec::new();
    input.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(Error::entry(path, format!("a table of contents of over {MAX_SIZE} bytes")));
    }
    parse(&text, path, with_owners, chunk_size, data_size)
}

/// The same for a table in memory.
pub fn parse(
    text: &[u8],
    path: &Path,
    with_owners: bool,
    chunk_size: u32,
    data_size: u64,
) -> Result<EstargzToc> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let fault = |error: &dyn std::fmt::Display| Error::entry(path, format!("table of contents: {error}"));
    let document: Document = serde_path_to_error::deserialize(&mut json).map_err(|error| fault(&error))?;
    json.end().map_err(|error| fault(&error))?;
    if document.version != 1 {
        let detail = format!("table of contents: version is {}, expected 1", document.version);
        return Err(Error::entry(path, detail));
    }
    let mut walk = Walk {
        path,
        builder: TreeBuilder::new(with_owners),
        chunk_size: chunk_size.into(),
        data_size,
        files: Vec::new(),
        chunks: Vec::new(),
        open: None,
    };
    for record in document.entries {
        walk.add(record)?;
    }
    walk.finish()
}

/// The file whose chunks are being collected.
#[derive(Debug)]
struct OpenFile {
    name: String,
    size: u64,
    /// Bytes that its chunks so far have.
    covered: u64,
}

/// Takes the entries of a table.
struct Walk<'a> {
    path: &'a Path,
    builder: TreeBuilder,
    chunk_size: u64,
    data_size: u64,
    files: Vec<NodeId>,
    chunks: Vec<TocChunk>,
    open: Option<OpenFile>,
}

impl Walk<'_> {
    fn fault(&self, name: &str, detail: impl std::fmt::Display) -> Error {
        Error::entry(self.path, format!("table of contents, entry {name:?}: {detail}"))
    }

    fn add(&mut self, record: Record) -> Result<()> {
        if is_estargz_extra(record.name.as_bytes()) {
            return Ok(());
        }
        if record.r#type == "chunk" {
            return self.add_chunk(&record);
        }
        self.close_file()?;
        let kind = match record.r#type.as_str() {
            "dir" => Kind::Directory,
            "reg" => Kind::Regular { size: record.size, is_sparse: false },
            "symlink" => Kind::Symlink { target: record.link_name.clone().into_bytes() },
            "hardlink" => Kind::HardLink { target: record.link_name.clone().into_bytes() },
            "char" | "block" | "fifo" => {
                tracing::warn!(
                    "{}: entry {:?}: type {:?} is left out",
                    self.path.display(),
                    record.name,
                    record.r#type
                );
                return Ok(());
            }
            other => {
                let expected = "dir, reg, symlink, hardlink, chunk, char, block or fifo";
                return Err(self.fault(&record.name, format!("type is {other:?}, expected {expected}")));
            }
        };
        let mut xattrs = Vec::with_capacity(record.xattrs.len());
        for (key, value) in &record.xattrs {
            let value = BASE64_STANDARD.decode(value);
            let value =
                value.map_err(|error| self.fault(&record.name, format!("xattrs, {key:?}: {error}")))?;
            xattrs.push((key.clone().into_bytes(), value));
        }
        let entry = Entry {
            path: record.name.clone().into_bytes(),
            kind,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            mtime: 0,
            mtime_nsec: 0,
            xattrs,
            header_position: 0,
            data_position: 0,
        };
        let added = self.builder.add(entry).map_err(|detail| self.fault(&record.name, detail))?;
        if let Some(node) = added {
            self.files.push(node);
            self.open = Some(OpenFile { name: record.name.clone(), size: record.size, covered: 0 });
            self.add_chunk(&record)?;
        }
        Ok(())
    }

    /// The next chunk of the file that is open: the first one is in the record of the file.
    fn add_chunk(&mut self, record: &Record) -> Result<()> {
        let name = &record.name;
        let fault = |detail: String| Err(self.fault(name, detail));
        let Some(open) = self.open.as_ref().filter(|open| open.name == *name) else {
            return fault("type is \"chunk\", and it does not follow the file of that name".into());
        };
        if record.inner_offset != 0 {
            return fault(format!(
                "innerOffset is {}, expected 0: chunks in one gzip member",
                record.inner_offset
            ));
        }
        if record.chunk_offset != open.covered {
            return fault(format!("chunkOffset is {}, expected {}", record.chunk_offset, open.covered));
        }
        let left = open.size - open.covered;
        // All chunks but the last one are as long as the image has them.
        let expected = left.min(self.chunk_size);
        let is_rest = record.chunk_size == 0 && left <= self.chunk_size;
        if !is_rest && record.chunk_size != expected {
            return fault(format!(
                "chunkSize is {}, expected {expected} of the {left} bytes that are left: --chunk-size must be that \
                 of the layer",
                record.chunk_size
            ));
        }
        if left == 0 {
            return fault(format!("chunkOffset is {}, which is the end of the file", record.chunk_offset));
        }
        if self.data_size != 0 && record.offset >= self.data_size {
            return fault(format!("offset is {}, in a layer of {} bytes", record.offset, self.data_size));
        }
        let is_whole_file = open.covered == 0 && left == expected;
        let digest = match record.chunk_digest.as_str() {
            "" if is_whole_file => digest("digest", &record.digest),
            text => digest("chunkDigest", text),
        };
        let digest = digest.map_err(|detail| self.fault(name, detail))?;
        // At most the chunk size, which has 25 bits; so has the bound, but for the last KiBs of the largest chunks.
        let (len, bound) = (expected as u32, gzip_bound(expected) as u32);
        self.chunks.push(TocChunk { digest, len, offset: record.offset, bound });
        if let Some(open) = &mut self.open {
            open.covered += expected;
        }
        Ok(())
    }

    /// The file that is open has no more chunks.
    fn close_file(&mut self) -> Result<()> {
        match self.open.take() {
            Some(OpenFile { name, size, covered }) if covered < size => {
                let detail = format!("size is {size}, and its chunks end at {covered}");
                Err(self.fault(&name, detail))
            }
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> Result<EstargzToc> {
        self.close_file()?;
        let mut offsets: Vec<u64> = self.chunks.iter().map(|chunk| chunk.offset).collect();
        offsets.sort_unstable();
        for chunk in &mut self.chunks {
            let next = offsets.partition_point(|offset| *offset <= chunk.offset);
            let known_end = (self.data_size != 0).then_some(self.data_size);
            let end = offsets.get(next).copied().or(known_end);
            let distance = end.map_or(u64::MAX, |end| end - chunk.offset);
            // The smaller one has 32 bits.
            chunk.bound = distance.min(chunk.bound.into()) as u32;
        }
        Ok(EstargzToc { tree: self.builder.finish(), files: self.files, chunks: self.chunks })
    }
}

/// The most bytes that gzip makes of so many.
fn gzip_bound(len: u64) -> u64 {
    len + 23 + 128 + 5 * (len / 16384)
}

/// A digest as tables have it, `sha256:` and 64 hexadecimal digits.
fn digest(key: &str, text: &str) -> std::result::Result<Digest, String> {
    let fault = || format!("{key} is {text:?}, expected \"sha256:\" and 64 hexadecimal digits");
    let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64).ok_or_else(fault)?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (high, low) = digit(0).zip(digit(1)).ok_or_else(fault)?;
        // Two digits of four bits.
        *byte = (high << 4 | low) as u8;
    }
    Ok(Digest(digest))
}

#[cfg(test)]
mod tests;
