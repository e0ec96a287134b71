//! ZRan (spec/blob.md §10): inflate resumed in the middle of a gzip file. Here one context is decoded; [`ZranReader`]
//! finds the contexts of a file that is read.

mod history;
mod reader;

pub use reader::{ZranChunk, ZranContexts, ZranReader};

use super::layout::ZranContext;
use crate::codec::inflate::Inflate;
use crate::{Error, Result};

/// CRC-32 and length, behind each gzip member.
const TRAILER_SIZE: usize = 8;

/// Decodes `input`, the context's `in_len` bytes, into exactly `out_len` bytes.
///
/// A member that ends before all output is there is followed by its trailer and the next member.
/// Errors are [`Error::Corrupt`]. `out_len` is bounded by the caller.
pub(super) fn decode(context: &ZranContext, dictionary: &[u8], input: &[u8]) -> Result<Vec<u8>> {
    let mut output = vec![0; context.out_len.get() as usize];
    let mut inflate = Inflate::raw()?;
    if context.bits != 0 {
        // The high bits of the byte before belong to the resumed block.
        let value = u32::from(context.byte)
            .checked_shr(8u32.saturating_sub(context.bits.into()))
            .ok_or_else(|| Error::corrupt("zran", format!("{} leftover bits", context.bits)))?;
        inflate.prime(context.bits, value as u8)?;
    }
    if !dictionary.is_empty() {
        inflate.set_dictionary(dictionary)?;
    }

    let (mut consumed, mut produced) = (0, 0);
    while produced < output.len() {
        let progress = inflate.run(&input[consumed..], &mut output[produced..])?;
        consumed += progress.consumed;
        produced += progress.produced;
        if progress.ended && produced < output.len() {
            consumed = next_member(input, consumed)?;
            inflate.reset()?;
        } else if progress.consumed == 0 && progress.produced == 0 {
            return Err(Error::corrupt(
                "zran",
                format!("input ends after {produced} bytes of output, expected {}", output.len()),
            ));
        }
    }
    Ok(output)
}

/// Where the deflate stream of the next member begins, after the trailer at `offset` and a gzip header.
fn next_member(input: &[u8], offset: usize) -> Result<usize> {
    let mut rest = Rest { input, offset };
    rest.take(TRAILER_SIZE)?;
    let header = rest.take(10)?;
    if header[..3] != [0x1f, 0x8b, 8] {
        return Err(Error::corrupt("zran", format!("no gzip member behind the one that ends at {offset}")));
    }
    let flags = header[3];
    if flags & 4 != 0 {
        let size = rest.take(2)?;
        rest.take(u16::from_le_bytes([size[0], size[1]]).into())?;
    }
    // A file name and a comment, each ended by NUL.
    for flag in [8, 16] {
        if flags & flag != 0 {
            while rest.take(1)? != [0] {}
        }
    }
    if flags & 2 != 0 {
        rest.take(2)?;
    }
    Ok(rest.offset)
}

/// What is left of the input.
struct Rest<'a> {
    input: &'a [u8],
    offset: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let taken = self.input.get(self.offset..).and_then(|rest| rest.get(..len)).ok_or_else(|| {
            Error::corrupt("zran", format!("input ends inside a gzip header at {}", self.offset))
        })?;
        self.offset += len;
        Ok(taken)
    }
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn context(out_len: usize) -> ZranContext {
        ZranContext {
            in_offset: 0.into(),
            out_offset: 0.into(),
            dict_offset: 0.into(),
            in_len: 0.into(),
            out_len: (out_len as u32).into(),
            dict_size: 0.into(),
            byte: 0,
            bits: 0,
            reserved: [0; 2],
        }
    }

    fn member(data: &[u8], builder: flate2::GzBuilder) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// Members with every optional header field; the input begins behind the first header.
    fn members() -> (Vec<u8>, Vec<u8>) {
        let parts: [&[u8]; 4] = [b"one and one and one", b"", &[7; 9000], b"the last"];
        let mut input = member(parts[0], flate2::GzBuilder::new()).split_off(10);
        input.extend(member(parts[1], flate2::GzBuilder::new().filename("name")));
        input.extend(member(parts[2], flate2::GzBuilder::new().extra([9; 300]).comment("words")));
        input.extend(member(parts[3], flate2::GzBuilder::new()));
        (input, parts.concat())
    }

    #[test]
    fn members_continue_one_another() {
        let (input, expected) = members();
        assert_eq!(decode(&context(expected.len()), &[], &input).unwrap(), expected);
        // A context may end anywhere.
        assert_eq!(decode(&context(25), &[], &input).unwrap(), expected[..25]);
    }

    #[test]
    fn no_truncation_gives_output() {
        let (input, expected) = members();
        // The last member's end mark and trailer are not needed.
        let needed = input.len() - TRAILER_SIZE - 2;
        for len in 0..needed {
            assert!(decode(&context(expected.len()), &[], &input[..len]).is_err(), "{len} of {needed}");
        }
    }

    #[test]
    fn resumes_with_a_window_and_leftover_bits() {
        // Raw deflate by hand: a fixed-Huffman block whose first three bits (final, fixed: 0b011) lie in the byte
        // before, holding one match of length 10 at distance 4 and the end of block.
        //   length 10 = code 264 = 0001000, distance 4 = code 3 = 00011, end of block = 0000000
        let bits = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0];
        let mut input = vec![0u8; 3];
        for (at, bit) in bits.iter().enumerate() {
            input[at / 8] |= bit << (at % 8);
        }
        let mut context = context(10);
        (context.byte, context.bits) = (0b0110_1010, 3);
        assert_eq!(decode(&context, b"....abcd", &input).unwrap(), b"abcdabcdab");
        assert!(decode(&context, b"", &input).is_err(), "the window is missing");
    }

    #[test]
    fn what_follows_a_member_must_be_one() {
        let (input, expected) = members();
        let mut broken = input.clone();
        let second = input.windows(3).position(|bytes| bytes == [0x1f, 0x8b, 8]).unwrap();
        broken[second] = 0;
        assert!(decode(&context(expected.len()), &[], &broken).is_err());
    }
}
