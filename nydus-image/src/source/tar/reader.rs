//! The entries of an archive, one after the other, and their content: a reader over any other reader.
//!
//! Invariant: the input is read from front to back, to its very end, and never further than what was asked for needs:
//! its position is that of the archive, so that who hands in a reader of their own knows what each byte belongs to.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tar::Header;

use super::entry::{Entry, Kind};
use super::header::{self, Data, Extensions};
use super::sparse::{Map, MapInData, Segment, add_gnu_entries};
use crate::error::{Error, Result};

/// Bytes of a block.
const BLOCK: usize = 512;
/// The most bytes of extensions that an entry may have.
const MAX_EXTENSION: u64 = 8 << 20;
/// The most bytes of those that hold for all entries, each of which looks at them again.
const MAX_GLOBAL: u64 = 16 << 10;

/// Reads an archive.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    archive: PathBuf,
    position: u64,
    ended: bool,
    /// PAX records that hold for all entries that follow.
    global: Vec<u8>,
    /// The path of the entry that is being read, for messages.
    path: Vec<u8>,
    /// What of its data was not read yet, and what is missing to a whole block behind it.
    stored_left: u64,
    padding: u64,
    /// Its data, but for what was read.
    segments: VecDeque<Segment>,
    content_position: u64,
    content_size: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the archive that comes out of `input`, which messages call `archive`.
    pub fn new(input: R, archive: &Path) -> Self {
        Self {
            input,
            archive: archive.into(),
            position: 0,
            ended: false,
            global: Vec::new(),
            path: Vec::new(),
            stored_left: 0,
            padding: 0,
            segments: VecDeque::new(),
            content_position: 0,
            content_size: 0,
        }
    }

    /// Bytes of the archive that were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the archive comes from.
    pub fn input(&self) -> &R {
        &self.input
    }

    /// The same, to be changed: who reads from it takes bytes out of the archive.
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Where the archive came from.
    pub fn into_input(self) -> R {
        self.input
    }

    /// An error that names the current entry and the position.
    pub fn error(&self, detail: impl Into<String>) -> Error {
        self.error_at(self.position, detail)
    }

    /// The same for a position that was passed.
    pub fn error_at(&self, offset: u64, detail: impl Into<String>) -> Error {
        let entry = String::from_utf8_lossy(&self.path).into_owned();
        Error::Archive { archive: self.archive.clone(), entry, offset, detail: detail.into() }
    }

    /// The next entry, past what was not read of the one before; `None` at the end, once all of the input is read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip_content()?;
        self.path.clear();
        let mut begin = self.position;
        let mut extensions = Extensions::default();
        loop {
            let at = self.position;
            let mut block = [0; BLOCK];
            let count = self.fill(&mut block)?;
            let is_end = count == 0;
            if (1..BLOCK).contains(&count) && at != 0 {
                return Err(self.ends_early(BLOCK - count));
            }
            if is_end || (count == BLOCK && block == [0; BLOCK]) {
                if at != begin {
                    return Err(self.error_at(begin, "an extension header, and no entry behind it"));
                }
                self.ended = true;
                return self.end(is_end).map(|()| None);
            }
            let block = Header::from_byte_slice(&block);
            if !header::has_checksum(block) {
                return Err(self.error_at(at, Self::what_is_no_header(block, at)));
            }
            match block.entry_type().as_byte() {
                b'x' => self.read_extension(block, &mut extensions.pax, MAX_EXTENSION)?,
                b'g' => {
                    let mut global = std::mem::take(&mut self.global);
                    self.read_extension(block, &mut global, MAX_GLOBAL)?;
                    self.global = global;
                    if begin == at {
                        // It belongs to no entry.
                        begin = self.position;
                    }
                }
                b'L' => extensions.long_name = Some(self.read_long(block)?),
                b'K' => extensions.long_link = Some(self.read_long(block)?),
                _ => return self.entry(block, &extensions, begin).map(Some),
            }
        }
    }

    /// The next `len` bytes of the content of the current entry; `None` if they are a hole.
    ///
    /// It is an error to ask for more than the entry has.
    pub fn read_content(&mut self, len: u32) -> Result<Option<Vec<u8>>> {
        let begin = self.content_position;
        let end = begin + u64::from(len);
        if end > self.content_size {
            return Err(self.error(format!("{len} bytes asked for at {begin} of {}", self.content_size)));
        }
        self.content_position = end;
        if self.segments.front().is_none_or(|segment| segment.offset >= end) {
            return Ok(None);
        }
        let mut content = vec![0; len as usize];
        while let Some(segment) = self.segments.front().copied().filter(|segment| segment.offset < end) {
            let from = segment.offset.max(begin);
            let to = (segment.offset + segment.len).min(end);
            // Both lie in the piece, which has 32 bits.
            let piece = content.get_mut((from - begin) as usize..(to - begin) as usize);
            self.read_exact(piece.unwrap_or_default())?;
            self.stored_left = self.stored_left.saturating_sub(to - from);
            self.segments.pop_front();
            let rest = segment.offset + segment.len - to;
            if rest > 0 {
                self.segments.push_front(Segment { offset: to, len: rest });
                break;
            }
        }
        Ok(Some(content))
    }

    fn entry(&mut self, block: &Header, extensions: &Extensions, begin: u64) -> Result<Entry> {
        // In messages, until it is known better.
        self.path = extensions.long_name.clone().unwrap_or_else(|| block.path_bytes().into_owned());
        let parsed = header::parse(block, &self.global, extensions);
        let parsed = parsed.map_err(|fault| self.error_at(begin, fault))?;
        let mut entry = parsed.entry;
        self.path.clone_from(&entry.path);
        self.stored_left = parsed.stored;
        // Sizes are below 2^63.
        self.padding = parsed.stored.next_multiple_of(BLOCK as u64) - parsed.stored;
        let map = match parsed.data {
            Data::Mapped(map) => map,
            // Blocks of the header, not of the data.
            Data::OldGnu(map) => self.read_gnu_map(map)?,
            Data::MappedInside => self.read_map_in_data()?,
        };
        self.content_position = 0;
        self.content_size = match entry.kind {
            Kind::Regular { size, .. } => size,
            _ => 0,
        };
        // What is no file has no data, and the map of nothing.
        let segments = map.finish(self.content_size, self.stored_left);
        self.segments = segments.map_err(|fault| self.error_at(begin, fault))?.into();
        entry.header_position = begin;
        entry.data_position = self.position;
        Ok(entry)
    }

    /// The blocks that continue the map of an old GNU header.
    fn read_gnu_map(&mut self, mut map: Map) -> Result<Map> {
        loop {
            let mut continued = tar::GnuExtSparseHeader::new();
            self.read_exact(continued.as_mut_bytes())?;
            add_gnu_entries(&mut map, continued.sparse()).map_err(|fault| self.error(fault))?;
            if !continued.is_extended() {
                return Ok(map);
            }
        }
    }

    /// The map in front of the data, in whole blocks.
    fn read_map_in_data(&mut self) -> Result<Map> {
        let mut map = MapInData::default();
        loop {
            if self.stored_left < BLOCK as u64 {
                return Err(self.error("the sparse map is longer than the data"));
            }
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            self.stored_left -= BLOCK as u64;
            if map.add(&block).map_err(|fault| self.error(fault))? {
                return Ok(map.into_map());
            }
        }
    }

    /// Reads the data of an extension, and adds it to what is there, up to `most` bytes.
    fn read_extension(&mut self, block: &Header, data: &mut Vec<u8>, most: u64) -> Result<()> {
        let size = header::size(block).map_err(|fault| self.error(format!("extension header: {fault}")))?;
        if size.saturating_add(data.len() as u64) > most {
            return Err(self.error(format!("extension headers of over {most} bytes")));
        }
        let begin = data.len();
        data.resize(begin + size as usize, 0);
        self.read_exact(data.get_mut(begin..).unwrap_or_default())?;
        self.skip(size.next_multiple_of(BLOCK as u64) - size)
    }

    /// A long name, which ends with a NUL that is not part of it.
    fn read_long(&mut self, block: &Header) -> Result<Vec<u8>> {
        let mut name = Vec::new();
        self.read_extension(block, &mut name, MAX_EXTENSION)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn skip_content(&mut self) -> Result<()> {
        let rest = self.stored_left + self.padding;
        self.skip(rest)?;
        self.segments.clear();
        (self.stored_left, self.padding, self.content_size) = (0, 0, 0);
        Ok(())
    }

    fn skip(&mut self, mut count: u64) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        while count > 0 {
            // At most the buffer.
            let len = count.min(buffer.len() as u64) as usize;
            self.read_exact(buffer.get_mut(..len).unwrap_or_default())?;
            count -= len as u64;
        }
        Ok(())
    }

    /// What comes behind the last entry. `is_bare`: nothing, not even the blocks of zeros that should; otherwise the
    /// first of two such blocks has been read.
    fn end(&mut self, is_bare: bool) -> Result<()> {
        if is_bare {
            if self.position == 0 {
                return Err(self.error("is empty, not an archive"));
            }
            tracing::warn!("{}: ends without the blocks that mark the end", self.archive.display());
            return Ok(());
        }
        let at = self.position;
        let mut second = [0; BLOCK];
        self.fill(&mut second)?;
        if second != [0; BLOCK] {
            // Perhaps a header that was lost.
            return Err(
                self.error_at(at, "something follows a single block of zeros, where two mark the end")
            );
        }
        let mut buffer = [0; 16 << 10];
        let mut ignored_from = None;
        loop {
            let count = self.read_some(&mut buffer)?;
            let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
            if let Some(at) = read.iter().position(|byte| *byte != 0) {
                ignored_from.get_or_insert(self.position - count as u64 + at as u64);
            }
        }
        if let Some(offset) = ignored_from {
            tracing::warn!(
                "{}: {} bytes from offset {offset} on, behind the end of the archive, are ignored",
                self.archive.display(),
                self.position - offset
            );
        }
        Ok(())
    }

    fn what_is_no_header(block: &Header, at: u64) -> &'static str {
        let compressed = [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
        match at {
            0 if block.as_bytes().starts_with(b"\x1f\x8b") => {
                "is compressed with gzip, not a plain tar archive"
            }
            0 if compressed.iter().any(|magic| block.as_bytes().starts_with(magic)) => {
                "is compressed, not a plain tar archive"
            }
            0 => "is not a tar archive: the checksum of the first header is wrong",
            _ => "the checksum of the header is wrong",
        }
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        match buffer.len() - self.fill(buffer)? {
            0 => Ok(()),
            missing => Err(self.ends_early(missing)),
        }
    }

    fn ends_early(&self, missing: usize) -> Error {
        self.error(format!("the archive ends here, expected at least {missing} bytes more"))
    }

    /// Reads until the buffer is full or there is nothing more: how many bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_some(rest)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.input.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(format!("cannot read on: {error}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests;
