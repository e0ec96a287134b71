//! A gzip file, read as its content, while the places are noted from which chunks of it can be read again.

use std::io::{self, Read};

use zerocopy::IntoBytes;

use super::history::History;
use crate::blob::MAX_DECODED_SIZE;
use crate::blob::layout::ZranContext;
use crate::blob::unit::MAX_STORED_SIZE;
use crate::codec::inflate::{Inflate, Stop};
use crate::{Error, Result};

/// Bytes that are asked for at once.
const INPUT_SIZE: usize = 64 << 10;
/// A context of fewer stored bytes is not left because of how they grew.
const MIN_STORED: u64 = 512 << 10;
/// Where a context has half as many stored bytes, the next chunk begins another.
const MAX_STORED: u64 = 1 << 20;
/// Where the next chunk might take a context beyond this, it begins another.
const MAX_DECODED: u64 = 2 << 20;

/// Reads the members of a gzip file one after the other, and checks their checksums. Zeros behind the last one are
/// nothing.
///
/// The bytes between [`begin_chunk`](Self::begin_chunk) and [`end_chunk`](Self::end_chunk) are a chunk. Contexts begin
/// where deflate blocks begin, since nowhere else inflate can be resumed; they follow from the bytes of the file and
/// the places of the chunks alone. Of a gzip file with one member they are those of the reference implementation. Memory: 200 kB, and up to 32 KiB for each context.
///
/// Errors of [`Read`] are those of the source, [`io::ErrorKind::UnexpectedEof`] where a member is not complete, and
/// [`io::ErrorKind::InvalidData`] where it is corrupt, or followed by what is no member; they name the offset.
pub struct ZranReader<R> {
    source: R,
    input: Box<[u8]>,
    /// The input that is not used up.
    start: usize,
    end: usize,
    inflate: Inflate,
    place: Place,
    /// Input offset of the member, or of the last one.
    member: u64,
    state: State,
    history: History,
    /// The last byte of input.
    byte: u8,
    block: Block,
    /// A member has begun since a chunk did.
    entered_member: bool,
    chunk_size: u64,
    chunk: Option<Place>,
    current: Option<Current>,
    contexts: ZranContexts,
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Input that was used up.
    input: u64,
    /// Output that was made.
    output: u64,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The header of a member, or the rest of it.
    Header,
    /// Its blocks.
    Blocks,
    /// What is behind the last block of a member.
    Trailer,
    /// Another member, or the end.
    Between,
}

/// The last block that began; the window before it is marked in the history.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Tells blocks apart; 0: none began yet.
    number: u64,
    place: Place,
    byte: u8,
    bits: u8,
}

/// The context that chunks are in: the last one.
#[derive(Clone, Copy, Debug)]
struct Current {
    block: Block,
    input_len: u64,
}

/// Where a chunk comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZranChunk {
    /// Its number among the contexts.
    pub context: u32,
    /// Offset of the chunk in the context's output.
    pub offset: u32,
    /// Offset of the input that was used up while the chunk was read.
    pub compressed_offset: u64,
    /// Bytes of that: none, if all of them had been used up before.
    pub compressed_size: u32,
}

/// The contexts of a file, and the windows that they begin with.
#[derive(Clone, Default)]
pub struct ZranContexts {
    records: Vec<ZranContext>,
    dictionaries: Vec<u8>,
}

impl std::fmt::Debug for ZranContexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZranContexts").field("count", &self.records.len()).finish_non_exhaustive()
    }
}

impl<R> std::fmt::Debug for ZranReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZranReader").field("place", &self.place).finish_non_exhaustive()
    }
}

impl<R: Read> ZranReader<R> {
    /// Reads `source` from its first byte on. No chunk will be longer than `chunk_size`.
    pub fn new(source: R, chunk_size: u32) -> Result<Self> {
        Ok(Self {
            source,
            input: vec![0; INPUT_SIZE].into(),
            start: 0,
            end: 0,
            inflate: Inflate::gzip()?,
            place: Place::default(),
            member: 0,
            state: State::Header,
            history: History::new(),
            byte: 0,
            block: Block::default(),
            entered_member: false,
            chunk_size: chunk_size.into(),
            chunk: None,
            current: None,
            contexts: ZranContexts::default(),
        })
    }

    /// The next byte is the first of a chunk. Errors are those of reading it.
    ///
    /// # Panics
    ///
    /// If another chunk has begun: chunks come one by one.
    pub fn begin_chunk(&mut self) -> io::Result<()> {
        assert!(self.chunk.is_none(), "a chunk begins inside of another one");
        // What is behind a member is better not part of the chunk's context.
        while self.state != State::Blocks {
            if !self.fill()? {
                // A chunk that does not come has no place.
                return Err(self.ended());
            }
            self.step(&mut [])?;
        }
        let left_member = std::mem::take(&mut self.entered_member);
        if left_member || self.current.is_none_or(|current| self.is_exhausted(&current)) {
            self.begin_context();
        }
        self.chunk = Some(self.place);
        Ok(())
    }

    /// Whether the next chunk shall begin another context (the rules of spec/blob.md §10).
    fn is_exhausted(&self, current: &Current) -> bool {
        // Nothing is won by a context that begins with the same block.
        if current.block.number == self.block.number {
            return false;
        }
        let stored = self.place.input - current.block.place.input;
        let decoded = self.place.output - current.block.place.output;
        stored >= MAX_STORED / 2
            || decoded + self.chunk_size >= MAX_DECODED
            || stored > 2 * current.input_len && current.input_len > MIN_STORED
    }

    fn begin_context(&mut self) {
        let Block { place, byte, bits, .. } = self.block;
        let dictionary = self.history.window();
        self.contexts.records.push(ZranContext {
            in_offset: place.input.into(),
            out_offset: place.output.into(),
            dict_offset: (self.contexts.dictionaries.len() as u64).into(),
            in_len: 0.into(),
            out_len: 0.into(),
            // At most 32 KiB.
            dict_size: (dictionary.len() as u32).into(),
            byte,
            bits,
            reserved: [0; 2],
        });
        self.contexts.dictionaries.extend_from_slice(dictionary);
        self.current = Some(Current { block: self.block, input_len: 0 });
    }

    /// The byte before was the last one of the chunk.
    ///
    /// [`Error::Invalid`] if no reader could take the context that the chunk would be in: 16 MiB is the most it may
    /// decode to.
    ///
    /// # Panics
    ///
    /// If no chunk has begun.
    pub fn end_chunk(&mut self) -> Result<ZranChunk> {
        let (Some(chunk), Some(current)) = (self.chunk.take(), &mut self.current) else {
            panic!("a chunk ends that has not begun");
        };
        let begin = current.block.place;
        let (stored, decoded) = (self.place.input - begin.input, self.place.output - begin.output);
        if decoded > MAX_DECODED_SIZE || stored > MAX_STORED_SIZE {
            return Err(Error::invalid(
                format!("deflate block at offset {}", begin.input),
                format!(
                    "{stored} bytes that decode to {decoded} up to the end of a chunk, expected at most \
                     {MAX_STORED_SIZE} and {MAX_DECODED_SIZE}: chunks must be smaller, or the data compressed anew"
                ),
            ));
        }
        current.input_len = stored;
        if let Some(record) = self.contexts.records.last_mut() {
            // Both were found to be small.
            record.in_len = (stored as u32).into();
            record.out_len = (decoded as u32).into();
        }
        Ok(ZranChunk {
            // Each has a window of its own in memory.
            context: self.contexts.records.len() as u32 - 1,
            offset: (chunk.output - begin.output) as u32,
            compressed_offset: chunk.input,
            compressed_size: (self.place.input - chunk.input) as u32,
        })
    }

    /// The source, as far as it was read, and the contexts of all chunks.
    pub fn into_parts(self) -> (R, ZranContexts) {
        (self.source, self.contexts)
    }

    /// Makes sure of input; false at the end of the source.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.end = loop {
                match self.source.read(&mut self.input) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
        }
        Ok(self.start != self.end)
    }

    /// Inflates into `output`, up to the next block at most; gives the number of bytes. There is input.
    fn step(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if self.state == State::Between && self.input[self.start] == 0 {
            return self.pass_zeros().map(|()| 0);
        }
        if self.state == State::Between {
            self.inflate.reset().map_err(io::Error::other)?;
            self.history.clear();
            self.member = self.place.input;
            self.state = State::Header;
            self.entered_member = true;
        }
        let corrupt = |detail: String| {
            let (member, at) = (self.member, self.place.input);
            let text = format!("gzip member at offset {member}, before {at}: {detail}");
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let progress = { self.inflate.run_to_block(&self.input[self.start..self.end], output) }
            .map_err(|error| corrupt(error.to_string()))?;
        if progress.consumed == 0 && progress.produced == 0 && progress.stop.is_none() && !progress.ended {
            return Err(corrupt("inflate does not go on".into()));
        }
        self.start += progress.consumed;
        if let Some(last) = self.start.checked_sub(1).filter(|_| progress.consumed != 0) {
            self.byte = self.input[last];
        }
        self.place.input += progress.consumed as u64;
        self.place.output += progress.produced as u64;
        self.history.push(&output[..progress.produced]);
        match progress.stop {
            _ if progress.ended => self.state = State::Between,
            None => {}
            Some(Stop::LastBlockEnded) => self.state = State::Trailer,
            Some(Stop::Block(bits)) => {
                self.state = State::Blocks;
                self.history.mark();
                let number = self.block.number + 1;
                // Where no bits are left over, the byte before means nothing.
                let byte = if bits == 0 { 0 } else { self.byte };
                self.block = Block { number, place: self.place, byte, bits };
            }
        }
        Ok(progress.produced)
    }

    /// What is behind the last member is nothing if it is zeros.
    fn pass_zeros(&mut self) -> io::Result<()> {
        while self.fill()? {
            let rest = &self.input[self.start..self.end];
            if let Some(at) = rest.iter().position(|byte| *byte != 0) {
                let text =
                    format!("gzip file: zeros, and something else at {}", self.place.input + at as u64);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            self.place.input += rest.len() as u64;
            self.start = self.end;
        }
        Ok(())
    }

    /// The source has ended inside of a member, or before the first.
    fn ended(&self) -> io::Error {
        let text = format!("gzip member at offset {}: the file ends at {}", self.member, self.place.input);
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }
}

impl<R: Read> Read for ZranReader<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.fill()? {
                return if self.state == State::Between { Ok(0) } else { Err(self.ended()) };
            }
            let produced = self.step(output)?;
            if produced != 0 {
                return Ok(produced);
            }
        }
    }
}

impl ZranContexts {
    /// Bytes of all windows.
    #[cfg(test)]
    pub(in crate::blob) fn dictionary_bytes(&self) -> usize {
        self.dictionaries.len()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Those of `used`, which ascend, as they lie behind the entries of a chunk table: the records, then the windows.
    /// `None` if there are fewer.
    pub(in crate::blob) fn pack(&self, used: &[u32]) -> Option<Vec<u8>> {
        let (mut records, mut dictionaries) = (Vec::new(), Vec::new());
        for &number in used {
            let mut record = *self.records.get(number as usize)?;
            // They lie behind each other in memory.
            let start = record.dict_offset.get() as usize;
            let dictionary = self.dictionaries.get(start..start + record.dict_size.get() as usize)?;
            record.dict_offset = (dictionaries.len() as u64).into();
            records.extend_from_slice(record.as_bytes());
            dictionaries.extend_from_slice(dictionary);
        }
        records.append(&mut dictionaries);
        Some(records)
    }
}
