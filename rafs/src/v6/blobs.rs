//! The device slots and the blob table (spec/rafs-v6.md §5, §6).

use std::sync::Arc;

use storage::blob::{BlobDescription, BlobFeatures, BlobId, CiLocation, Cipher, Compressor, TocLocation};
use storage::digest::{Digest, Digester};
use zerocopy::little_endian::U64;

use super::layout::{Blob, DeviceSlot, SLOTS_OFFSET};
use crate::blob_limits;
use crate::error::Result;
use crate::flags::ImageFlags;
use crate::image::{Image, shown};

/// AES-128-XTS.
pub(super) const CIPHER_XTS: u32 = 1;

/// Reads the blob table, and compares it with the device slots.
pub(super) fn read(
    image: &Image,
    devices: u16,
    (offset, size): (u64, u64),
    chunk_size: u32,
    block_size: u64,
    flags: ImageFlags,
) -> Result<Vec<Arc<BlobDescription>>> {
    let entry_size = size_of::<Blob>() as u64;
    if devices > blob_limits::V6_BLOB_COUNT_MAX || size != u64::from(devices) * entry_size {
        let limit = blob_limits::V6_BLOB_COUNT_MAX;
        let expected = format!("{entry_size} bytes for each of {devices} devices, of at most {limit}");
        return Err(image.corrupt(offset, "blob table", expected, format!("{size} bytes")));
    }
    if devices == 0 {
        return Ok(Vec::new());
    }
    let slots: &[DeviceSlot] = image.array(SLOTS_OFFSET, devices.into(), "device slots")?;
    let table: &[Blob] = image.array(offset, devices.into(), "blob table")?;
    let mut blobs = Vec::with_capacity(table.len());
    for (index, (blob, slot)) in (0..).zip(table.iter().zip(slots)) {
        let at = offset + entry_size * u64::from(index);
        if blob.id != slot.tag || slot.blocks == 0 {
            let expected = format!("the blob {} and its blocks", shown(unpadded(&blob.id)));
            let found = format!("{} blocks of {}", slot.blocks, shown(unpadded(&slot.tag)));
            let at = SLOTS_OFFSET + 128 * u64::from(index);
            return Err(image.corrupt(at, "device slot", expected, found));
        }
        if blob.index != index || blob.chunk_size != chunk_size {
            let expected = format!("blob {index} with chunks of {chunk_size}");
            let found = format!("blob {} with chunks of {}", blob.index, blob.chunk_size);
            return Err(image.corrupt(at + 64, "entry of the blob table", expected, found));
        }
        blobs.push(Arc::new(describe(image, at, blob, block_size, flags)?));
    }
    blob_limits::distinct(image, offset, &blobs)?;
    Ok(blobs)
}

fn describe(
    image: &Image,
    at: u64,
    blob: &Blob,
    block_size: u64,
    flags: ImageFlags,
) -> Result<BlobDescription> {
    let features = blob_limits::features(image, at + 84, blob.features.get())?;
    let tarfs = features.contains(BlobFeatures::TARFS);
    if tarfs == features.contains(BlobFeatures::ALIGNED) || tarfs && !flags.contains(ImageFlags::TARFS) {
        let expected = "either TARFS, in a tarfs image, or ALIGNED";
        return Err(image.corrupt(at + 84, "blob features", expected, format!("{:#x}", features.bits())));
    }
    let (chunk_count, compressed_size, uncompressed_size) =
        (blob.chunk_count.get(), blob.compressed_size.get(), blob.uncompressed_size.get());
    blob_limits::sizes(image, at, chunk_count, compressed_size, uncompressed_size)?;
    if !tarfs && !uncompressed_size.is_multiple_of(4096.max(block_size)) {
        let expected = "a multiple of 4096";
        return Err(image.corrupt(at + 96, "uncompressed size of a blob", expected, uncompressed_size));
    }
    let digester = match blob.digester.get() {
        0 => Digester::Blake3,
        1 => Digester::Sha256,
        other => return Err(image.corrupt(at + 80, "digester of a blob", "0 or 1", other)),
    };
    let cipher = cipher(image, at, blob, features)?;
    let (meta_id, meta_size) = meta(image, at, blob, features)?;
    Ok(BlobDescription {
        index: blob.index.get(),
        id: blob_limits::id(image, at, unpadded(&blob.id))?,
        chunk_size: blob.chunk_size.get(),
        chunk_count,
        compressor: compressor(image, at + 76, blob.compressor.get())?,
        digester,
        cipher,
        features,
        compressed_size,
        uncompressed_size,
        ci: chunk_information(image, at, blob, features)?,
        toc: features
            .contains(BlobFeatures::HAS_TOC)
            .then(|| TocLocation { size: blob.toc_size.get(), digest: Digest(blob.toc_digest) }),
        meta_id,
        meta_size,
    })
}

/// An id without the zeros behind it.
fn unpadded(id: &[u8; 64]) -> &[u8] {
    let len = id.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &id[..len]
}

fn compressor(image: &Image, at: u64, number: u32) -> Result<Compressor> {
    Compressor::try_from(number).map_err(|_| image.corrupt(at, "compressor of a blob", "0 to 3", number))
}

/// The key, where the blob is encrypted.
fn cipher(image: &Image, at: u64, blob: &Blob, features: BlobFeatures) -> Result<Option<Cipher>> {
    match (blob.cipher.get(), features.contains(BlobFeatures::ENCRYPTED)) {
        (0, false) => Ok(None),
        (CIPHER_XTS, true) if features.intersects(BlobFeatures::SEPARATE | BlobFeatures::TARFS) => {
            Err(image.unsupported("an encrypted blob of a reference type"))
        }
        (CIPHER_XTS, true) => {
            let mut iv = [0; 16];
            iv[..8].copy_from_slice(&blob.meta_size);
            iv[8..].copy_from_slice(&blob.cipher_iv);
            Ok(Some(Cipher { key: blob.meta_digest, iv }))
        }
        (2 | 3, true) => Err(image.unsupported(format!("cipher {}", blob.cipher))),
        (other, encrypted) => {
            let expected = if encrypted { "1, since the blob is encrypted" } else { "0" };
            Err(image.corrupt(at + 216, "cipher of a blob", expected, other))
        }
    }
}

/// The object that holds the chunk information, and its size, where it is not the blob itself.
fn meta(image: &Image, at: u64, blob: &Blob, features: BlobFeatures) -> Result<(Option<BlobId>, u64)> {
    if !features.contains(BlobFeatures::SEPARATE) {
        return Ok((None, 0));
    }
    let digest = Digest(blob.meta_digest);
    if digest.is_zero() {
        // The bootstrap lies in that object too, and so could not know its id.
        return Ok((Some(blob_limits::own_id(image)?), 0));
    }
    let size = U64::from_bytes(blob.meta_size).get();
    if size > blob_limits::COMPRESSED_SIZE_MAX {
        let expected = format!("at most {}", blob_limits::COMPRESSED_SIZE_MAX);
        return Err(image.corrupt(at + 200, "size of the meta blob", expected, size));
    }
    let id = BlobId::new(&digest.to_string());
    let id = id.map_err(|error| image.corrupt(at + 168, "id of the meta blob", "a blob id", error))?;
    Ok((Some(id), size))
}

/// Where the chunk-information array lies.
fn chunk_information(
    image: &Image,
    at: u64,
    blob: &Blob,
    features: BlobFeatures,
) -> Result<Option<CiLocation>> {
    let (offset, compressed_size, size) =
        (blob.ci_offset.get(), blob.ci_compressed_size.get(), blob.ci_uncompressed_size.get());
    let with_contexts = BlobFeatures::BATCH | BlobFeatures::ZRAN | BlobFeatures::ENCRYPTED;
    let (v2, contexts) = (features.contains(BlobFeatures::CHUNK_INFO_V2), features.intersects(with_contexts));
    if contexts && !v2 {
        let found = format!("{:#x}", features.bits());
        return Err(image.corrupt(at + 84, "blob features", "CHUNK_INFO_V2 beside these", found));
    }
    let chunks = u64::from(blob.chunk_count.get());
    let entries = chunks * if v2 { 24 } else { 16 };
    // There are at most as many contexts as chunks; each has 40 bytes and up to 32 KiB of dictionary.
    let size_ok = match () {
        _ if features.intersects(BlobFeatures::IS_CHUNKDICT_GENERATED) => {
            size <= blob_limits::COMPRESSED_SIZE_MAX
        }
        _ if features.contains(BlobFeatures::TARFS) && size == 0 => true,
        _ if contexts => (entries..=entries + chunks * (40 + 32768)).contains(&size),
        _ => size == entries,
    };
    if !size_ok {
        let expected = format!("{entries} bytes for {chunks} chunks");
        return Err(image.corrupt(at + 128, "chunk information", expected, size));
    }
    if compressed_size > size || offset > blob_limits::COMPRESSED_SIZE_MAX {
        let expected = format!("at most {size} bytes stored, up to 1 TiB");
        let found = format!("{compressed_size} bytes at {offset}");
        return Err(image.corrupt(at + 112, "chunk information", expected, found));
    }
    if size == 0 {
        return Ok(None);
    }
    let compressor = compressor(image, at + 108, blob.ci_compressor.get())?;
    Ok(Some(CiLocation { compressor, offset, compressed_size, uncompressed_size: size }))
}
