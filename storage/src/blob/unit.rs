//! What is fetched and decoded at once: a chunk, a whole batch, a whole ZRan context (spec/blob.md §8 to §11).

use std::borrow::Cow;

use bytes::Bytes;

use super::layout::ZranContext;
use super::{BlobDescription, BlobFeatures, Checked, ChunkDescription, ChunkFlags, Compressor, zran};
use crate::backend::{Backend, Request};
use crate::cipher::BlobCipher;
use crate::digest::{Digest, crc32c};
use crate::{Error, Result, codec};

/// The largest chunk, batch and ZRan output: 16 MiB (spec/blob.md §1).
pub const MAX_DECODED_SIZE: u64 = 1 << 24;

/// The longest stored range of a unit. Encoded data is not longer than decoded data but for gzip's overhead, where
/// the input of a ZRan context or the bound of a legacy stargz chunk counts headers and trailers too.
pub(super) const MAX_STORED_SIZE: u64 = 2 * MAX_DECODED_SIZE;

/// A stored range of the data object, and the chunks that come out of it.
///
/// Invariant: every size in it is bounded by [`MAX_DECODED_SIZE`] or twice that, so that a unit may be fetched and
/// decoded without further thought about hostile descriptions.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Where the stored bytes begin in the data object.
    pub offset: u64,
    /// How many there are; never 0.
    pub len: u64,
    /// `len` is only an upper bound (legacy stargz, spec/blob.md §10.2): the range may reach beyond the end of the
    /// object. [`Unit::clip`] it before asking a [`Backend`], which never reads beyond the end.
    pub len_is_bound: bool,
    /// The chunks, ascending by index. For a batch or ZRan context these are its chunks that stand next to each
    /// other in the table, at most 64 Ki of them: all of them in what builders write, but for absurdly small files.
    pub members: Vec<ChunkDescription>,
    pub(super) how: How,
}

/// How the stored bytes become chunks.
#[derive(Clone, Debug)]
pub(super) enum How {
    /// One chunk of its own.
    Chunk,
    /// A batch of so many bytes; `compressed` is what the context says, whatever the flag of the members.
    Batch { size: u32, compressed: bool, encrypted: bool },
    /// A resumed inflate.
    Zran { context: ZranContext, dictionary: Bytes },
}

impl Unit {
    /// The unit of a chunk that is stored on its own and described by a bootstrap (v5).
    ///
    /// [`Error::Invalid`] if the description contradicts itself or the blob's.
    pub fn single(blob: &BlobDescription, chunk: ChunkDescription) -> Result<Self> {
        let of_table = ChunkFlags::ZRAN | ChunkFlags::BATCH;
        let checked = if chunk.stored.flags.intersects(of_table) {
            Err("it is part of a batch or ZRan context, which only a chunk table describes".to_owned())
        } else {
            check_placement(blob, &chunk)
        };
        checked.map_err(|detail| Error::invalid(what(blob, &chunk), detail))?;
        Ok(Self::chunk(blob, chunk))
    }

    /// The unit of a chunk whose placement was checked.
    pub(super) fn chunk(blob: &BlobDescription, chunk: ChunkDescription) -> Self {
        Self {
            offset: chunk.stored.compressed_offset,
            len: chunk.stored.compressed_size.into(),
            len_is_bound: sizes_are_bounds(blob),
            members: vec![chunk],
            how: How::Chunk,
        }
        .clipped_if_known(blob)
    }

    fn clipped_if_known(mut self, blob: &BlobDescription) -> Self {
        if let (true, Some(end)) = (self.len_is_bound, blob.data_size()) {
            self.clip(end);
        }
        self
    }

    /// If the length is a bound, shortens it so that the range ends within an object of `object_size` bytes.
    pub fn clip(&mut self, object_size: u64) {
        if self.len_is_bound {
            self.len = self.len_within(object_size);
        }
    }

    fn len_within(&self, object_size: u64) -> u64 {
        self.len.min(object_size.saturating_sub(self.offset))
    }

    /// Reads the unit's stored bytes with one request; a length that is a bound is clipped first, at the price of
    /// asking for the object's size.
    pub async fn fetch(
        &self,
        blob: &BlobDescription,
        backend: &dyn Backend,
        request: Request,
    ) -> Result<Bytes> {
        let len = match self.len_is_bound {
            true => self.len_within(backend.size(&blob.id, request.clone()).await?),
            false => self.len,
        };
        backend.read(&blob.id, self.offset, len, request).await
    }

    /// Bytes that [`Unit::decode`] allocates at most, for memory budgets. Stored bytes are not counted.
    pub fn decoded_size(&self) -> u64 {
        let (size, encrypted) = match &self.how {
            How::Chunk => {
                (self.members.iter().map(|chunk| chunk.uncompressed_size).sum(), self.is_encrypted())
            }
            How::Batch { size, encrypted, .. } => (*size, *encrypted),
            How::Zran { context, .. } => (context.out_len.get(), false),
        };
        u64::from(size) + if encrypted { self.len } else { 0 }
    }

    fn is_encrypted(&self) -> bool {
        self.members.iter().any(|chunk| chunk.stored.flags.contains(ChunkFlags::ENCRYPTED))
    }

    /// Turns the stored bytes into the members' bytes: one buffer for each of `members`, in their order, each of
    /// exactly its `uncompressed_size`; the members of a batch or context share one allocation.
    ///
    /// Decrypts and decodes; whether the bytes are the right ones, [`check_chunk`] tells.
    /// CPU work of up to some 100 ms: not for an async thread. Errors are [`Error::Corrupt`], or
    /// [`Error::Invalid`] if the blob is encrypted and its description has no key.
    pub fn decode(&self, blob: &BlobDescription, stored: &[u8]) -> Result<Vec<Bytes>> {
        let Some(first) = self.members.first() else { return Ok(Vec::new()) };
        let whole = self.decode_whole(blob, first, stored).map_err(|err| err.within(what(blob, first)))?;
        let whole = Bytes::from(whole);
        self.members.iter().map(|chunk| self.member(blob, chunk, &whole)).collect()
    }

    fn decode_whole(
        &self,
        blob: &BlobDescription,
        first: &ChunkDescription,
        stored: &[u8],
    ) -> Result<Vec<u8>> {
        let len = stored.len() as u64;
        if len > self.len || (len < self.len && !self.len_is_bound) {
            return Err(Error::corrupt("stored bytes", format!("{len}, expected {}", self.len)));
        }
        match &self.how {
            How::Chunk => {
                let size = first.uncompressed_size as usize;
                let compressed = first.stored.flags.contains(ChunkFlags::COMPRESSED);
                let plain_len = if compressed { 0 } else { size };
                let plain = decrypt(blob, self.is_encrypted(), stored, plain_len)?;
                let compressor = if compressed { blob.compressor } else { Compressor::None };
                codec::decompress(compressor, &plain, size)
            }
            How::Batch { size, compressed, encrypted } => {
                let size = *size as usize;
                let plain = decrypt(blob, *encrypted, stored, size)?;
                // A short plain batch is padded when encrypted, and then only looks compressed: what is stored
                // compressed is always smaller than what comes out.
                let compressor =
                    if *compressed && plain.len() != size { blob.compressor } else { Compressor::None };
                codec::decompress(compressor, &plain, size)
            }
            How::Zran { context, dictionary } => zran::decode(context, dictionary, stored),
        }
    }

    fn member(&self, blob: &BlobDescription, chunk: &ChunkDescription, whole: &Bytes) -> Result<Bytes> {
        let start = if matches!(self.how, How::Chunk) { 0 } else { chunk.stored.unit_offset as usize };
        let end = start.saturating_add(chunk.uncompressed_size as usize);
        if end > whole.len() {
            return Err(Error::corrupt(
                what(blob, chunk),
                format!("{start}..{end} is outside of its unit's {} bytes", whole.len()),
            ));
        }
        Ok(whole.slice(start..end))
    }
}

/// Checks a decoded chunk: against its digest if that is known, else against its CRC-32C. False if neither is.
///
/// An error is [`Error::Corrupt`] and names blob, chunk, and what was expected and found.
pub fn check_chunk(
    blob: &BlobDescription,
    index: u32,
    digest: Option<Digest>,
    checksum: Option<u32>,
    data: &[u8],
) -> Result<bool> {
    let wrong = |detail| Err(Error::corrupt(format!("blob {} chunk {index}", blob.id), detail));
    match (digest, checksum) {
        (Some(expected), _) => match blob.digester.digest(data) {
            found if found == expected => Ok(true),
            found => wrong(format!("digest is {found}, expected {expected}")),
        },
        (None, Some(expected)) => match crc32c(data) {
            found if found == expected => Ok(true),
            found => wrong(format!("CRC-32C is {found:#010x}, expected {expected:#010x}")),
        },
        (None, None) => Ok(false),
    }
}

fn decrypt<'a>(
    blob: &BlobDescription,
    encrypted: bool,
    stored: &'a [u8],
    plain_len: usize,
) -> Result<Cow<'a, [u8]>> {
    if !encrypted {
        return Ok(Cow::Borrowed(stored));
    }
    Ok(Cow::Owned(cipher(blob)?.decrypt(stored, plain_len)?))
}

/// The cipher of an encrypted blob.
pub(super) fn cipher(blob: &BlobDescription) -> Result<BlobCipher> {
    let key = blob.cipher.as_ref();
    key.map(BlobCipher::new)
        .ok_or_else(|| Error::invalid(format!("blob {}", blob.id), "it is encrypted and no key is known"))
}

/// How errors name a chunk.
pub(super) fn what(blob: &BlobDescription, chunk: &ChunkDescription) -> String {
    let stored = &chunk.stored;
    format!(
        "blob {} chunk {} (stored {}+{})",
        blob.id, chunk.index, stored.compressed_offset, stored.compressed_size
    )
}

/// True for "legacy stargz", where stored sizes are bounds (spec/blob.md §10.2).
pub(super) fn sizes_are_bounds(blob: &BlobDescription) -> bool {
    blob.compressor == Compressor::Gzip && !blob.features.contains(BlobFeatures::CHUNK_INFO_V2)
}

/// What must hold of every chunk, whoever describes it; else why not (spec/blob.md §8.3).
pub(super) fn check_placement(blob: &BlobDescription, chunk: &ChunkDescription) -> Checked {
    let stored = &chunk.stored;
    let size = u64::from(chunk.uncompressed_size);
    let stored_size = u64::from(stored.compressed_size);
    let in_unit = stored.flags.intersects(ChunkFlags::ZRAN | ChunkFlags::BATCH);

    if size == 0 || size > MAX_DECODED_SIZE {
        return Err(format!("{size} bytes decoded, expected 1 to {MAX_DECODED_SIZE}"));
    }
    if (stored_size == 0 && !in_unit) || stored_size > MAX_STORED_SIZE {
        return Err(format!("{stored_size} bytes stored, expected 1 to {MAX_STORED_SIZE}"));
    }
    // A limit of 0 in the description means that it is not known.
    let decoded_limit = match blob.uncompressed_size {
        0 => u64::MAX,
        limit => limit.checked_next_multiple_of(4096).unwrap_or(u64::MAX),
    };
    within("decoded", chunk.uncompressed_offset, size, decoded_limit)?;
    // Where the stored size is a bound, only the beginning is certain.
    let certain = if sizes_are_bounds(blob) { stored_size.min(1) } else { stored_size };
    within("stored", stored.compressed_offset, certain, blob.data_size().unwrap_or(u64::MAX))?;

    let transformed = ChunkFlags::COMPRESSED | ChunkFlags::ENCRYPTED;
    if !stored.flags.intersects(transformed) && !in_unit && size != stored_size {
        return Err(format!("{stored_size} bytes stored plain, expected {size}"));
    }
    Ok(())
}

fn within(space: &str, offset: u64, size: u64, limit: u64) -> Checked {
    match offset.checked_add(size) {
        Some(end) if end <= limit => Ok(()),
        _ => Err(format!("{space} range {offset}+{size} is outside of the blob's {limit} bytes")),
    }
}

#[cfg(test)]
mod tests;
