//! One chunk on its way into a blob: digest, CRC, compress, encrypt. Work for many threads; nothing is shared.

use bytes::Bytes;

use super::BlobOptions;
use crate::blob::Compressor;
use crate::cipher::{BlobCipher, looks_padded};
use crate::digest::{Digest, crc32c};
use crate::{Error, Result, codec};

/// A chunk as it will be stored, and what is recorded of it.
#[derive(Clone, Debug)]
pub struct EncodedChunk {
    /// Digest of the plain chunk.
    pub digest: Digest,
    /// CRC-32C of the plain chunk.
    pub crc32c: u32,
    /// Bytes of the plain chunk.
    pub uncompressed_size: u32,
    /// What goes into the blob: compressed if that is shorter, then encrypted.
    pub stored: Bytes,
    /// Whether it was shorter.
    pub compressed: bool,
}

/// Digests and encodes a chunk. CPU work, 1 to 10 ms a MiB.
///
/// [`Error::Invalid`] if the chunk is empty or longer than the options' chunk size.
pub fn encode_chunk(data: &[u8], options: &BlobOptions) -> Result<EncodedChunk> {
    encode_digested(data, options.digester.digest(data), options)
}

/// The same for a chunk whose digest is known, because it was looked for among the chunks that are there already.
pub fn encode_digested(data: &[u8], digest: Digest, options: &BlobOptions) -> Result<EncodedChunk> {
    let uncompressed_size = check_len(data, options)?;
    let (stored, compressed) = encode(data, options)?;
    Ok(EncodedChunk { digest, crc32c: crc32c(data), uncompressed_size, stored, compressed })
}

/// The length of a chunk, if it is one.
pub(super) fn check_len(data: &[u8], options: &BlobOptions) -> Result<u32> {
    u32::try_from(data.len()).ok().filter(|len| (1..=options.chunk_size).contains(len)).ok_or_else(|| {
        Error::invalid("chunk", format!("{} bytes, expected 1 to {}", data.len(), options.chunk_size))
    })
}

/// Compresses if that makes it shorter, then encrypts; says whether it did.
pub(super) fn encode(data: &[u8], options: &BlobOptions) -> Result<(Bytes, bool)> {
    let compressed = compress(data, options)?;
    let is_compressed = compressed.is_some();
    let stored = compressed.unwrap_or_else(|| data.to_vec());
    Ok((encrypt(stored, options).into(), is_compressed))
}

/// The same for a section, which may be large; says with what it was compressed.
pub(super) fn encode_section(data: Vec<u8>, options: &BlobOptions) -> Result<(Vec<u8>, Compressor)> {
    let (stored, compressor) = match compress(&data, options)? {
        Some(compressed) => (compressed, options.compressor),
        None => (data, Compressor::None),
    };
    Ok((encrypt(stored, options), compressor))
}

fn compress(data: &[u8], options: &BlobOptions) -> Result<Option<Vec<u8>>> {
    let compressed = codec::compress(options.compressor, data)?;
    // What is encrypted plain has the length that the reader expects, and is never taken for padded.
    Ok(compressed.filter(|compressed| options.cipher.is_none() || !looks_padded(compressed)))
}

/// Encrypts, where the options say so.
pub(super) fn encrypt(encoded: Vec<u8>, options: &BlobOptions) -> Vec<u8> {
    match &options.cipher {
        Some(cipher) => BlobCipher::new(cipher).encrypt(encoded),
        None => encoded,
    }
}
