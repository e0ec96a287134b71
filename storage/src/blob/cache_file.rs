//! The chunk table as a cache directory keeps it, `.blob.meta` (spec/cache.md §3): the decoded array, zeros up to
//! a 4 KiB boundary, the CI header as it lies in the blob.

use bytes::Bytes;

use super::chunk_table::{location, table_of};
use super::layout::CI_HEADER_SIZE;
use super::{BlobDescription, ChunkTable};
use crate::{Error, Result};

impl ChunkTable {
    /// Takes the content of a `.blob.meta` file. What does not fit `blob` is [`Error::Corrupt`]: fetch the table
    /// from the blob then.
    pub fn from_cache_file(blob: &BlobDescription, bytes: &[u8]) -> Result<Self> {
        let ci = location(blob)?;
        let size = ci.uncompressed_size as usize;
        let padded = size.next_multiple_of(CI_HEADER_SIZE);
        if bytes.len() != padded + CI_HEADER_SIZE {
            return Err(Error::corrupt(
                format!("cached {}", table_of(blob)),
                format!("{} bytes, expected {}", bytes.len(), padded + CI_HEADER_SIZE),
            ));
        }
        Self::parse(blob, Bytes::copy_from_slice(&bytes[..size]), &bytes[padded..])
            .map_err(|err| err.within("cached"))
    }

    /// The content of this table's `.blob.meta` file.
    pub fn to_cache_file(&self) -> Vec<u8> {
        let padded = self.array().len().next_multiple_of(CI_HEADER_SIZE);
        let mut bytes = Vec::with_capacity(padded + CI_HEADER_SIZE);
        bytes.extend_from_slice(self.array());
        bytes.resize(padded, 0);
        bytes.extend_from_slice(self.header());
        bytes
    }
}
