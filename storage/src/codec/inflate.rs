//! Inflate that can start in the middle of a deflate stream, and stop where another can start. The only unsafe code of
//! this crate.
//!
//! ZRan needs what no safe wrapper offers: a raw stream resumed at a bit position with a given window, and a gzip
//! stream that stops at the bit where a block ends. The calls into libz-rs-sys are wrapped one by one; what they mean
//! for gzip is `blob/zran.rs`.

use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate, inflateEnd, inflateInit2_, inflatePrime,
    inflateReset, inflateSetDictionary, z_stream, zlibVersion,
};

use crate::{Error, Result};

/// A window of 32 KiB; negative: no header, no trailer.
const RAW: i32 = -15;
/// A window of 32 KiB, inside of a gzip member: header before, checksum and length behind.
const GZIP: i32 = 16 + 15;

/// What one call of [`Inflate::run`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Input bytes used up.
    pub consumed: usize,
    /// Output bytes written.
    pub produced: usize,
    /// The deflate stream ended; what follows in the input is not part of it.
    pub ended: bool,
    /// What [`Inflate::run_to_block`] stopped at.
    pub stop: Option<Stop>,
}

/// A place between blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A block begins. So many bits of the last input byte belong to it, 0 to 7.
    Block(u8),
    /// The last block was before.
    LastBlockEnded,
}

/// A deflate decoder.
pub(crate) struct Inflate {
    // Boxed, so that its address stays: a stream's state may point back at it.
    stream: Box<z_stream>,
}

// SAFETY: the state behind the pointers is on the heap, belongs to this decoder alone, and knows no thread; input and
// output are looked at inside of calls only, which set both.
unsafe impl Send for Inflate {}

impl Inflate {
    /// A decoder at the start of a block, with an empty window.
    pub(crate) fn raw() -> Result<Self> {
        Self::new(RAW)
    }

    /// A decoder at the start of a gzip member, whose checksum and length it checks.
    pub(crate) fn gzip() -> Result<Self> {
        Self::new(GZIP)
    }

    fn new(window: i32) -> Result<Self> {
        let mut stream = Box::new(z_stream::default());
        // SAFETY: the stream is valid and exclusive; default() leaves the allocators to the library; version and
        // size are those of the library that is linked.
        let code =
            unsafe { inflateInit2_(&mut *stream, window, zlibVersion(), size_of::<z_stream>() as i32) };
        // On failure nothing was allocated, so nothing is to be ended.
        check("start", code)?;
        Ok(Self { stream })
    }

    /// Puts the low `bits` bits of `value` in front of the input. At most 7.
    pub(crate) fn prime(&mut self, bits: u8, value: u8) -> Result<()> {
        // SAFETY: `new` initialised the stream.
        check("prime", unsafe { inflatePrime(&mut *self.stream, bits.into(), value.into()) })
    }

    /// Sets the window to the end of `dictionary`, which is at most 32 KiB.
    pub(crate) fn set_dictionary(&mut self, dictionary: &[u8]) -> Result<()> {
        let len =
            u32::try_from(dictionary.len()).map_err(|_| Error::corrupt("inflate", "dictionary too long"))?;
        // SAFETY: `new` initialised the stream, and the pointer is good for reading `len` bytes, which are copied.
        check("set dictionary", unsafe { inflateSetDictionary(&mut *self.stream, dictionary.as_ptr(), len) })
    }

    /// Forgets everything: the next input begins a new stream with an empty window.
    pub(crate) fn reset(&mut self) -> Result<()> {
        // SAFETY: `new` initialised the stream.
        check("reset", unsafe { inflateReset(&mut *self.stream) })
    }

    /// Decodes from `input` into `output` until one of them is used up or the stream ends.
    pub(crate) fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        self.inflate(input, output, Z_NO_FLUSH)
    }

    /// The same, but stops before each block too.
    pub(crate) fn run_to_block(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        self.inflate(input, output, Z_BLOCK)
    }

    fn inflate(&mut self, input: &[u8], output: &mut [u8], flush: i32) -> Result<Progress> {
        // What the library tells in `data_type`.
        const BETWEEN_BLOCKS: i32 = 128;
        const LAST_BLOCK: i32 = 64;
        const BITS_LEFT: i32 = 7;
        let avail_in = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let avail_out = u32::try_from(output.len()).unwrap_or(u32::MAX);
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = avail_in;
        self.stream.next_out = output.as_mut_ptr();
        self.stream.avail_out = avail_out;
        // SAFETY: `new` initialised the stream; next_in is good for reading avail_in bytes and next_out, borrowed
        // exclusively and initialised, for writing avail_out bytes. Neither is used after this call: every call
        // of this function sets them again first.
        let code = unsafe { inflate(&mut *self.stream, flush) };
        // "No progress" is not an error of the stream: the caller sees that nothing was consumed or produced.
        if code != Z_STREAM_END && code != Z_BUF_ERROR {
            check("decode", code)?;
        }
        let state = self.stream.data_type;
        Ok(Progress {
            consumed: (avail_in - self.stream.avail_in) as usize,
            produced: (avail_out - self.stream.avail_out) as usize,
            ended: code == Z_STREAM_END,
            stop: match (state & BETWEEN_BLOCKS != 0, state & LAST_BLOCK != 0) {
                (false, _) => None,
                (true, false) => Some(Stop::Block((state & BITS_LEFT) as u8)),
                (true, true) => Some(Stop::LastBlockEnded),
            },
        })
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: `new` initialised the stream, and nobody uses it afterwards.
        unsafe { inflateEnd(&mut *self.stream) };
    }
}

fn check(step: &str, code: i32) -> Result<()> {
    if code == Z_OK { Ok(()) } else { Err(Error::corrupt("inflate", format!("cannot {step}: code {code}"))) }
}
