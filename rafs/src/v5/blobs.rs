//! The blob table and the extended blob table (spec/rafs-v5.md §10).

use std::sync::Arc;

use storage::blob::{BlobDescription, BlobFeatures, Compressor};
use storage::digest::Digester;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::layout::ExtendedBlob;
use crate::blob_limits;
use crate::error::Result;
use crate::image::Image;

/// The two numbers in front of an id: prefetch offset and prefetch size.
const HEAD: usize = 8;

/// What all blobs of a v5 image have in common: the blobs themselves do not tell.
pub(super) struct Common {
    pub(super) chunk_size: u32,
    pub(super) compressor: Compressor,
    pub(super) digester: Digester,
}

/// Reads the `size` bytes of the blob table at `offset`: the blobs, and the stored bytes of each that are to be
/// prefetched.
///
/// A record is `u32 prefetch_offset, u32 prefetch_size, id`; a NUL stands between records. Images without an
/// extended table say nothing of sizes and features: they are 0, "unknown".
pub(super) fn read(
    image: &Image,
    common: &Common,
    (offset, size): (u64, u64),
    extended: &[ExtendedBlob],
) -> Result<(Vec<Arc<BlobDescription>>, Vec<u32>)> {
    let table = if size == 0 { &[][..] } else { image.range(offset, size, "blob table")? };
    let (mut blobs, mut prefetch_sizes) = (Vec::new(), Vec::new());
    let mut at = 0;
    // The padding, at most 7 bytes, is shorter than any record.
    while table.len() - at > HEAD {
        let (head, id) = table[at..].split_at(HEAD);
        prefetch_sizes.push(U32::read_from_suffix(head).map_or(0, |(_, size)| size.get()));
        let id = &id[..id.iter().position(|byte| *byte == 0).unwrap_or(id.len())];
        let id_offset = offset + (at + HEAD) as u64;
        let index = blobs.len();
        let extended = match extended.get(index) {
            None if !extended.is_empty() => {
                let expected = format!("at most {} blobs, as the extended blob table", extended.len());
                return Err(image.corrupt(id_offset, "blob table", expected, "more"));
            }
            extended => extended,
        };
        blobs.push(Arc::new(describe(image, common, (id_offset, id), index, extended)?));
        at = (at + HEAD + id.len() + 1).min(table.len());
        blob_limits::count(image, offset, blobs.len())?;
    }
    blob_limits::distinct(image, offset, &blobs)?;
    Ok((blobs, prefetch_sizes))
}

fn describe(
    image: &Image,
    common: &Common,
    (offset, id): (u64, &[u8]),
    index: usize,
    extended: Option<&ExtendedBlob>,
) -> Result<BlobDescription> {
    let (chunk_count, features, compressed_size, uncompressed_size) = match extended {
        None => (0, BlobFeatures::empty(), 0, 0),
        Some(blob) => (
            blob.chunk_count.get(),
            blob_limits::features(image, offset, blob.features.get())?,
            blob.compressed_size.get(),
            blob.uncompressed_size.get(),
        ),
    };
    blob_limits::sizes(image, offset, chunk_count, compressed_size, uncompressed_size)?;
    if features.contains(BlobFeatures::ENCRYPTED) {
        return Err(image.unsupported("an encrypted blob in a v5 image"));
    }
    Ok(BlobDescription {
        index: index as u32,
        id: blob_limits::id(image, offset, id)?,
        chunk_size: common.chunk_size,
        chunk_count,
        compressor: common.compressor,
        digester: common.digester,
        cipher: None,
        features,
        compressed_size,
        uncompressed_size,
        ci: None,
        toc: None,
        meta_id: None,
        meta_size: 0,
    })
}
