//! Encoding, and decoding of stored bytes (spec/blob.md §1.1): the output size of decoding is always known beforehand
//! and always exact.
//!
//! Input of decoding is hostile: nothing is allocated beyond the promised size, and output that is shorter or longer
//! than promised is an error. Everything here is CPU work on the caller's thread.

mod encode;
pub(crate) mod inflate;

pub use encode::compress;

use std::cell::RefCell;
use std::io::Read;

use crate::blob::Compressor;
use crate::{Error, Result};

/// Decodes `src` into exactly `dst_len` bytes.
///
/// For [`Compressor::Gzip`] decoding stops after `dst_len` bytes and what follows them is not looked at, since
/// the stored size of such chunks is only a bound. All others must end exactly there.
///
/// Errors are [`Error::Corrupt`] and name the codec; the caller adds which chunk it was.
pub fn decompress(compressor: Compressor, src: &[u8], dst_len: usize) -> Result<Vec<u8>> {
    match compressor {
        Compressor::None => exact("plain", src.to_vec(), dst_len),
        Compressor::Lz4Block => lz4_block(src, dst_len),
        Compressor::Gzip => gzip(src, dst_len),
        Compressor::Zstd => zstd_frame(src, dst_len),
    }
}

fn exact(codec: &str, out: Vec<u8>, dst_len: usize) -> Result<Vec<u8>> {
    if out.len() != dst_len {
        return Err(Error::corrupt(codec, format!("{} bytes decoded, expected {dst_len}", out.len())));
    }
    Ok(out)
}

fn lz4_block(src: &[u8], dst_len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; dst_len];
    let len = lz4_flex::block::decompress_into(src, &mut out)
        .map_err(|err| Error::corrupt("lz4_block", err.to_string()))?;
    out.truncate(len);
    exact("lz4_block", out, dst_len)
}

fn gzip(src: &[u8], dst_len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; dst_len];
    flate2::bufread::GzDecoder::new(src)
        .read_exact(&mut out)
        .map_err(|err| Error::corrupt("gzip", format!("{err}, expected {dst_len} bytes")))?;
    Ok(out)
}

thread_local! {
    /// A context costs 160 kB to make; each thread that decodes keeps its own.
    static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn zstd_frame(src: &[u8], dst_len: usize) -> Result<Vec<u8>> {
    let corrupt = |err: std::io::Error| Error::corrupt("zstd", err.to_string());
    ZSTD.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(zstd::bulk::Decompressor::new().map_err(corrupt)?),
        };
        // The library writes into spare capacity only, so the capacity is the bound.
        let mut out = Vec::with_capacity(dst_len);
        context.decompress_to_buffer(src, &mut out).map_err(corrupt)?;
        exact("zstd", out, dst_len)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn sample() -> Vec<u8> {
        (0..100_000u32).map(|i| (i / 7 % 251) as u8).collect()
    }

    fn encode(compressor: Compressor, data: &[u8]) -> Vec<u8> {
        match compressor {
            Compressor::None => data.to_vec(),
            Compressor::Lz4Block => lz4_flex::block::compress(data),
            Compressor::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Compressor::Zstd => zstd::bulk::compress(data, 3).unwrap(),
        }
    }

    const ALL: [Compressor; 4] = [Compressor::None, Compressor::Lz4Block, Compressor::Gzip, Compressor::Zstd];

    #[test]
    fn every_codec_gives_back_what_was_encoded() {
        for compressor in ALL {
            let stored = encode(compressor, &sample());
            assert_eq!(decompress(compressor, &stored, sample().len()).unwrap(), sample(), "{compressor:?}");
        }
    }

    #[test]
    fn output_must_have_exactly_the_promised_size() {
        for compressor in ALL {
            let stored = encode(compressor, &sample());
            assert!(decompress(compressor, &stored, sample().len() + 1).is_err(), "{compressor:?} too short");
            let longer = decompress(compressor, &stored, sample().len() - 1);
            // Only gzip may go on behind the promised bytes.
            assert_eq!(longer.is_ok(), compressor == Compressor::Gzip, "{compressor:?} too long");
        }
    }

    #[test]
    fn bombs_are_refused_at_the_promised_size() {
        let bomb = vec![0; 64 << 20];
        for compressor in [Compressor::Lz4Block, Compressor::Zstd] {
            let stored = encode(compressor, &bomb);
            assert!(decompress(compressor, &stored, 4096).is_err(), "{compressor:?}");
        }
        // gzip stops when it has what it wants.
        assert_eq!(decompress(Compressor::Gzip, &encode(Compressor::Gzip, &bomb), 4096).unwrap(), [0; 4096]);
    }

    #[test]
    fn gzip_ignores_what_follows_and_truncation_is_an_error() {
        let mut stored = encode(Compressor::Gzip, &sample());
        let whole = stored.len();
        stored.extend_from_slice(b"the next member, or anything else");
        assert_eq!(decompress(Compressor::Gzip, &stored, sample().len()).unwrap(), sample());
        assert!(decompress(Compressor::Gzip, &stored[..whole / 2], sample().len()).is_err());
    }

    #[test]
    fn garbage_is_an_error() {
        let garbage: Vec<u8> = (0..999u32).map(|i| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
        for compressor in [Compressor::Lz4Block, Compressor::Gzip, Compressor::Zstd] {
            assert!(decompress(compressor, &garbage, 4096).is_err(), "{compressor:?}");
            assert!(decompress(compressor, &[], 4096).is_err(), "{compressor:?} of nothing");
        }
    }

    #[test]
    fn a_zstd_frame_without_content_size_decodes() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&sample()).unwrap();
        let stored = encoder.finish().unwrap();
        assert_eq!(decompress(Compressor::Zstd, &stored, sample().len()).unwrap(), sample());
    }
}
