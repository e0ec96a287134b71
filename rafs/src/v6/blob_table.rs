//! Writes the device slots and the blob table (spec/rafs-v6.md §5, §6).

use storage::blob::{BlobDescription, BlobFeatures, Compressor};
use storage::digest::{Digest, Digester};

use super::blobs::CIPHER_XTS;
use super::layout::{Blob, DeviceSlot};
use crate::build::{BlobEntry, ImageOptions, OWN_BLOB_ID, Rule};

/// On one disk with the bootstrap, blobs begin on multiples of this.
const DEVICE_ALIGN: u64 = 512 << 10;

/// Blocks of all devices, and the slot of each.
pub(super) struct Devices {
    pub(super) blocks: u32,
    pub(super) slots: Vec<DeviceSlot>,
}

impl Devices {
    /// The blobs as devices behind a bootstrap of `size` bytes.
    pub(super) fn behind(size: u64, blobs: &[BlobEntry], block: u64) -> Result<Self, Rule> {
        // 254 blobs of at most 16 TiB each: 64 bits are enough for the bytes, 32 may not be for the blocks.
        let (mut end, mut total) = (size, 0);
        let mut slots = Vec::with_capacity(blobs.len());
        for blob in blobs.iter().map(|blob| &blob.description) {
            let start = end.next_multiple_of(DEVICE_ALIGN);
            let blocks = blob.uncompressed_size / block;
            end = start + blocks * block;
            total += blocks;
            let Some((blocks, mapped_block)) = u32::try_from(blocks)
                .ok()
                .filter(|blocks| *blocks != 0)
                .zip(u32::try_from(start / block).ok())
            else {
                let expected = format!("blocks of {block} bytes with numbers of 32 bits, 1 or more");
                let found = format!("{} bytes of blob {} from {start} on", blob.uncompressed_size, blob.id);
                return Err(Rule::new("uncompressed size of a blob", expected, found));
            };
            slots.push(DeviceSlot {
                tag: tag(blob),
                blocks: blocks.into(),
                mapped_block: mapped_block.into(),
                reserved: [0; 56],
            });
        }
        let blocks = u32::try_from(total);
        let blocks = blocks.map_err(|_| Rule::new("blocks of all blobs", "under 2^32", total))?;
        Ok(Self { blocks, slots })
    }
}

/// Checks what v6 asks of blobs.
pub(super) fn check(blobs: &[BlobEntry], options: &ImageOptions) -> Result<(), Rule> {
    for blob in blobs.iter().map(|blob| &blob.description) {
        let features = blob.features;
        let tarfs = features.contains(BlobFeatures::TARFS);
        if tarfs == features.contains(BlobFeatures::ALIGNED) || tarfs && !options.is_tarfs() {
            let found = format!("{:#x} of blob {}", features.bits(), blob.id);
            return Err(Rule::new("blob features", "either ALIGNED, or TARFS in a tarfs image", found));
        }
        if !tarfs && !blob.uncompressed_size.is_multiple_of(4096) {
            let found = format!("{} of blob {}", blob.uncompressed_size, blob.id);
            return Err(Rule::new("uncompressed size of a blob", "a multiple of 4096", found));
        }
        meta_digest(blob)?;
    }
    Ok(())
}

/// Describes the blob at place `index` of the table.
pub(super) fn describe(blob: &BlobDescription, index: u32) -> Result<Blob, Rule> {
    let ci = blob.ci;
    // The reference implementation names lz4 where tarfs has nothing to compress.
    let no_ci = match blob.features.contains(BlobFeatures::TARFS) {
        true => Compressor::Lz4Block,
        false => Compressor::None,
    };
    let (meta_digest, meta_size, cipher_iv) = match &blob.cipher {
        // The fields of a separate meta blob, which encrypted blobs cannot have, hold the key.
        Some(cipher) => {
            let (mut low, mut high) = ([0; 8], [0; 8]);
            low.copy_from_slice(&cipher.iv[..8]);
            high.copy_from_slice(&cipher.iv[8..]);
            (cipher.key, low, high)
        }
        None => (meta_digest(blob)?.0, blob.meta_size.to_le_bytes(), [0; 8]),
    };
    Ok(Blob {
        id: tag(blob),
        index: index.into(),
        chunk_size: blob.chunk_size.into(),
        chunk_count: blob.chunk_count.into(),
        compressor: compressor_number(blob.compressor).into(),
        digester: match blob.digester {
            Digester::Blake3 => 0,
            Digester::Sha256 => 1,
        }
        .into(),
        features: blob.features.bits().into(),
        compressed_size: blob.compressed_size.into(),
        uncompressed_size: blob.uncompressed_size.into(),
        toc_size: blob.toc.map_or(0, |toc| toc.size).into(),
        ci_compressor: compressor_number(ci.map_or(no_ci, |ci| ci.compressor)).into(),
        ci_offset: ci.map_or(0, |ci| ci.offset).into(),
        ci_compressed_size: ci.map_or(0, |ci| ci.compressed_size).into(),
        ci_uncompressed_size: ci.map_or(0, |ci| ci.uncompressed_size).into(),
        toc_digest: blob.toc.map_or([0; 32], |toc| toc.digest.0),
        meta_digest,
        meta_size,
        cipher_iv,
        cipher: if blob.cipher.is_some() { CIPHER_XTS } else { 0 }.into(),
        reserved: [0; 36],
    })
}

/// The id, zero-padded.
fn tag(blob: &BlobDescription) -> [u8; 64] {
    let (mut tag, id) = ([0; 64], blob.id.as_str().as_bytes());
    // Ids have at most 64 bytes.
    tag[..id.len()].copy_from_slice(id);
    tag
}

fn compressor_number(compressor: Compressor) -> u32 {
    match compressor {
        Compressor::None => 0,
        Compressor::Lz4Block => 1,
        Compressor::Gzip => 2,
        Compressor::Zstd => 3,
    }
}

/// The id of the separate meta blob as the digest that it has to be; zero if there is none, or it holds this very
/// bootstrap.
fn meta_digest(blob: &BlobDescription) -> Result<Digest, Rule> {
    let id = match &blob.meta_id {
        Some(id) if id.as_str() != OWN_BLOB_ID => id.as_str(),
        _ => return Ok(Digest([0; 32])),
    };
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = match id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true => id.as_bytes().chunks(2).map(byte).collect(),
        false => None,
    };
    let digest: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    digest.map(Digest).ok_or_else(|| Rule::new("id of a meta blob", "a digest in hexadecimal", id))
}
