//! The data blob: what a bootstrap says of it, and the structures inside it (spec/blob.md).
//!
//! [`BlobDescription`] and its parts are the vocabulary that bootstraps, caches and backends share. [`ChunkTable`]
//! says where the chunks of a v6 blob are, [`Unit`] what to fetch and how to decode it, [`Toc`] and
//! [`DigestArray`] what else the blob carries. [`writer`] makes blobs.

mod cache_file;
mod chunk_table;
mod description;
mod digest_array;
mod inlined_bootstrap;
mod layout;
#[cfg(test)]
mod samples;
mod tar_header;
mod toc;
mod unit;
pub mod writer;
mod zran;

pub use chunk_table::ChunkTable;
pub use description::{
    BlobDescription, BlobFeatures, BlobId, ChunkDescription, ChunkFlags, CiLocation, Cipher, Compressor,
    DigestSource, Extent, StoredChunk, TocLocation,
};
pub use digest_array::{DigestArray, fetch_digests};
pub use inlined_bootstrap::extract_bootstrap;
pub use toc::{Toc, TocEntry};
pub use unit::{MAX_DECODED_SIZE, Unit, check_chunk};
pub use zran::{ZranChunk, ZranContexts, ZranReader};

/// The result of checking one structure; the error is the detail that goes into an [`crate::Error`] beside the name
/// of the thing.
type Checked<T = ()> = std::result::Result<T, String>;
