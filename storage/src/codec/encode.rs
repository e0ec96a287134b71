//! Encoding, as builders do it (spec/blob.md §1.1): the bytes are those of the C libraries' default settings.

use std::cell::RefCell;

use crate::blob::Compressor;
use crate::{Error, Result};

/// The format's level, zstd's default.
const ZSTD_LEVEL: i32 = 3;
/// A buffer beyond this, which only chunk tables and bootstraps need, is given back at once: the bound of 16 MiB.
const MAX_KEPT: usize = (16 << 20) + (128 << 10);

/// What each encoding thread keeps: the zstd context, and room for output that has never to be mapped again.
struct Workspace {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    output: Vec<u8>,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = const { RefCell::new(Workspace { zstd: None, output: Vec::new() }) };
}

/// Encodes `data`; `None` if it is to be stored plain, because the encoded form is not shorter or there is none.
///
/// CPU work on the caller's thread. [`Error::Invalid`] for gzip, which is only read, and for input that is too long
/// for the codec.
pub fn compress(compressor: Compressor, data: &[u8]) -> Result<Option<Vec<u8>>> {
    if data.is_empty() {
        return Ok(None);
    }
    match compressor {
        Compressor::None => Ok(None),
        Compressor::Lz4Block => encode("lz4_block", data, lz4::block::compress_bound(data.len()), lz4_block),
        Compressor::Zstd => encode("zstd", data, Ok(zstd::zstd_safe::compress_bound(data.len())), zstd_frame),
        Compressor::Gzip => Err(Error::invalid("compressor", "gzip is only read, never written")),
    }
}

fn encode(
    codec: &str,
    data: &[u8],
    bound: std::io::Result<usize>,
    encoder: fn(&mut Workspace, &[u8]) -> std::io::Result<usize>,
) -> Result<Option<Vec<u8>>> {
    let failed = |err: std::io::Error| Error::invalid(codec, format!("{} bytes: {err}", data.len()));
    let bound = bound.map_err(failed)?;
    WORKSPACE.with_borrow_mut(|space| {
        // The libraries' choices depend on the room they have, so it is always enough for anything.
        if space.output.len() < bound {
            space.output = vec![0; bound];
        }
        let len = encoder(space, data).map_err(failed)?;
        let encoded = (len < data.len()).then(|| space.output[..len].to_vec());
        if space.output.len() > MAX_KEPT {
            space.output = Vec::new();
        }
        Ok(encoded)
    })
}

fn lz4_block(space: &mut Workspace, data: &[u8]) -> std::io::Result<usize> {
    lz4::block::compress_to_buffer(data, None, false, &mut space.output)
}

fn zstd_frame(space: &mut Workspace, data: &[u8]) -> std::io::Result<usize> {
    let context = match &mut space.zstd {
        Some(context) => context,
        None => space.zstd.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
    };
    context.compress_to_buffer(data, &mut space.output[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decompress;

    /// Bytes that shrink, but not easily.
    fn data(len: usize) -> Vec<u8> {
        (0..len as u32).map(|at| (at.wrapping_mul(2654435761) >> (8 + at % 23)) as u8).collect()
    }

    /// Bytes that do not.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn what_is_encoded_comes_back_and_is_shorter() {
        for compressor in [Compressor::Lz4Block, Compressor::Zstd] {
            for len in [100, 4096, 1 << 20] {
                let data = vec![7; len];
                let encoded = compress(compressor, &data).unwrap().unwrap();
                assert!(encoded.len() < len);
                assert_eq!(decompress(compressor, &encoded, len).unwrap(), data);
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        for compressor in [Compressor::None, Compressor::Lz4Block, Compressor::Zstd] {
            for data in [&b""[..], b"a", b"abc", &data(14)] {
                assert_eq!(compress(compressor, data).unwrap(), None, "{compressor:?} {data:?}");
            }
        }
        assert_eq!(compress(Compressor::None, &[0; 4096]).unwrap(), None);
    }

    /// As long as the input is not shorter either.
    #[test]
    fn the_same_length_is_not_shorter() {
        let mut met = 0;
        for len in 4..20 {
            // What is repeated saves about as much as saying so costs.
            let noise = noise(100);
            let data = [&noise[..50], &noise[..len], &noise[50..90]].concat();
            let whatever = lz4::block::compress(&data, None, false).unwrap();
            let encoded = compress(Compressor::Lz4Block, &data).unwrap();
            assert_eq!(encoded.is_some(), whatever.len() < data.len());
            met += usize::from(whatever.len() == data.len());
        }
        assert!(met > 0, "there is such a length");
    }

    #[test]
    fn the_past_of_a_thread_does_not_show() {
        for compressor in [Compressor::Lz4Block, Compressor::Zstd] {
            // Larger and smaller ones in between, one of them beyond what is kept.
            let lens = [100_000, 1 << 20, 5000, 17 << 20, 100_000, 300, 5000];
            for len in lens {
                let data = data(len);
                let fresh = std::thread::scope(|scope| {
                    scope.spawn(|| compress(compressor, &data).unwrap()).join().unwrap()
                });
                assert!(compress(compressor, &data).unwrap() == fresh, "{compressor:?}, {len} bytes");
            }
        }
    }

    #[test]
    fn zstd_is_the_bulk_form_of_level_3() {
        let data = data(1 << 20);
        let bulk = zstd::bulk::compress(&data, 3).unwrap();
        assert!(compress(Compressor::Zstd, &data).unwrap().unwrap() == bulk);
    }

    #[test]
    fn gzip_is_refused() {
        assert!(matches!(compress(Compressor::Gzip, b"data"), Err(Error::Invalid { .. })));
    }
}
