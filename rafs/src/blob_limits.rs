//! What the two formats' blob tables have in common: the limits a description keeps (spec/blob.md §1, §5, §13).

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use storage::blob::{BlobDescription, BlobFeatures, BlobId};

use crate::build::OWN_BLOB_ID;
use crate::error::Result;
use crate::image::{Image, shown};

/// Blobs in an image.
pub(crate) const BLOB_COUNT_MAX: usize = 256;
/// Blobs in a v6 image: device numbers have 8 bits, 0 means none, and the last is unused.
pub(crate) const V6_BLOB_COUNT_MAX: u16 = 254;
/// Chunks in a blob.
pub(crate) const CHUNK_COUNT_MAX: u32 = 1 << 24;
/// Bytes of a blob as stored.
pub(crate) const COMPRESSED_SIZE_MAX: u64 = 1 << 40;
/// Bytes of a blob once decoded.
pub(crate) const UNCOMPRESSED_SIZE_MAX: u64 = 1 << 44;
/// The id that means it.
const OWN_ID: &[u8] = OWN_BLOB_ID.as_bytes();

/// Checks the chunk size of an image.
pub(crate) fn chunk_size(image: &Image, offset: u64, size: u32) -> Result<u32> {
    if !is_chunk_size(size) {
        let expected = "a power of two from 4096 to 16 MiB";
        return Err(image.corrupt(offset, "chunk size", expected, size));
    }
    Ok(size)
}

/// True for what may be the chunk size of an image.
pub(crate) fn is_chunk_size(size: u32) -> bool {
    size.is_power_of_two() && (4096..=16 << 20).contains(&size)
}

/// Checks the features of a blob.
pub(crate) fn features(image: &Image, offset: u64, bits: u32) -> Result<BlobFeatures> {
    BlobFeatures::from_disk(bits)
        .map_err(|error| image.unsupported(format!("the blob described at offset {offset:#x}: {error}")))
}

/// Checks the sizes of a blob.
pub(crate) fn sizes(
    image: &Image,
    offset: u64,
    chunk_count: u32,
    compressed: u64,
    uncompressed: u64,
) -> Result<()> {
    if chunk_count > CHUNK_COUNT_MAX {
        let expected = format!("at most {CHUNK_COUNT_MAX}");
        return Err(image.corrupt(offset, "chunk count of a blob", expected, chunk_count));
    }
    if compressed > COMPRESSED_SIZE_MAX {
        let expected = format!("at most {COMPRESSED_SIZE_MAX}");
        return Err(image.corrupt(offset, "compressed size of a blob", expected, compressed));
    }
    if uncompressed > UNCOMPRESSED_SIZE_MAX {
        let expected = format!("at most {UNCOMPRESSED_SIZE_MAX}");
        return Err(image.corrupt(offset, "uncompressed size of a blob", expected, uncompressed));
    }
    Ok(())
}

/// Checks the number of blobs.
pub(crate) fn count(image: &Image, offset: u64, count: usize) -> Result<()> {
    if count > BLOB_COUNT_MAX {
        let expected = format!("at most {BLOB_COUNT_MAX} blobs");
        return Err(image.corrupt(offset, "blob table", expected, count));
    }
    Ok(())
}

/// Two blobs of one id would be two descriptions of one object, and of one cache file.
pub(crate) fn distinct(image: &Image, offset: u64, blobs: &[Arc<BlobDescription>]) -> Result<()> {
    let mut ids = HashSet::with_capacity(blobs.len());
    match blobs.iter().find(|blob| !ids.insert(&blob.id)) {
        None => Ok(()),
        Some(blob) => Err(image.corrupt(offset, "blob table", "each id once", &blob.id)),
    }
}

/// The id of a blob; the placeholder stands for the blob that the bootstrap came from.
pub(crate) fn id(image: &Image, offset: u64, id: &[u8]) -> Result<BlobId> {
    if id == OWN_ID {
        return own_id(image);
    }
    let text = std::str::from_utf8(id).ok();
    text.and_then(|id| BlobId::new(id).ok()).ok_or_else(|| {
        image.corrupt(offset, "blob id", "1 to 64 bytes of UTF-8 usable as a file name", shown(id))
    })
}

/// The id of the blob that the bootstrap came from: the file's name up to its first dot.
pub(crate) fn own_id(image: &Image) -> Result<BlobId> {
    let name = image.path().file_name().map(Path::new).map(|name| name.to_string_lossy());
    let name = name.as_deref().unwrap_or_default();
    let name = name.split_once('.').map_or(name, |(prefix, _)| prefix);
    BlobId::new(name).map_err(|_| {
        image.unsupported(format!(
            "a bootstrap from inside a blob, in a file whose name {name:?} cannot be the blob's id"
        ))
    })
}

/// Checks that a chunk lies inside the uncompressed blob, where the size of that is known.
pub(crate) fn uncompressed_range(
    image: &Image,
    at: u64,
    blob: &BlobDescription,
    offset: u64,
    size: u64,
) -> Result<()> {
    let limit = match blob.uncompressed_size {
        0 => UNCOMPRESSED_SIZE_MAX,
        size if blob.is_tarfs() => size,
        size => size.next_multiple_of(4096),
    };
    if offset.checked_add(size).is_none_or(|end| end > limit) {
        let expected = format!("{size} bytes up to {limit}");
        return Err(image.corrupt(at, "uncompressed range of a chunk", expected, offset));
    }
    Ok(())
}
