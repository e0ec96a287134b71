//! The data blob: what a bootstrap says of it, and the structures inside it (spec/blob.md).

mod description;

pub use description::{
    BlobDescription, BlobFeatures, BlobId, ChunkDescription, ChunkFlags, CiLocation, Cipher, Compressor,
    DigestSource, Extent, StoredChunk, TocLocation,
};
