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
