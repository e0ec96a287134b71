//! The blobs of an image: chunk tables and stored chunks, read through a backend.
//!
//! Invariant: what comes out of [`BlobReader::read`] is what the image's bootstrap says of it: the digest was
//! compared. Memory: a unit at a time, of 16 MiB at most, stored and decoded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rafs::build::Chunk;
use storage::backend::{Backend, Priority, Request};
use storage::blob::{BlobDescription, ChunkDescription, ChunkTable, Unit, check_chunk};
use tokio::runtime::Runtime;

use crate::error::{Error, Result};

/// The longest that one read may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where blobs are, for who can wait.
#[derive(Debug)]
pub struct Blobs {
    backend: Arc<dyn Backend>,
    runtime: Runtime,
}

/// One blob that can be read.
#[derive(Debug)]
pub struct BlobReader<'a> {
    blobs: &'a Blobs,
    description: BlobDescription,
    /// v5 has none.
    table: Option<ChunkTable>,
}

/// A unit as it is stored, and the chunks that came out of it.
#[derive(Debug)]
pub struct StoredUnit {
    /// What was fetched.
    pub unit: Unit,
    /// The bytes in the blob.
    pub stored: Bytes,
    /// The plain bytes of each member.
    pub members: Vec<Bytes>,
}

impl Blobs {
    /// Blobs that `backend` has.
    pub fn new(backend: Arc<dyn Backend>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { backend, runtime: runtime.map_err(|source| Error::Threads { source })? })
    }

    /// Opens a blob: reads its chunk table, if it has one.
    pub fn open(&self, description: &BlobDescription) -> Result<BlobReader<'_>> {
        let table = match description.ci {
            Some(_) => {
                let table = ChunkTable::fetch(description, &*self.backend, request());
                Some(self.runtime.block_on(table)?)
            }
            None => None,
        };
        Ok(BlobReader { blobs: self, description: description.clone(), table })
    }
}

fn request() -> Request {
    Request::new(Priority::OnDemand, Instant::now() + PATIENCE)
}

impl BlobReader<'_> {
    /// What the bootstrap says of the blob.
    pub fn description(&self) -> &BlobDescription {
        &self.description
    }

    /// The chunk table as a cache directory keeps it, if the blob has one.
    pub fn cache_file(&self) -> Option<Vec<u8>> {
        self.table.as_ref().map(ChunkTable::to_cache_file)
    }

    /// What has to be read for a chunk of a file. An error if the blob contradicts the bootstrap.
    pub fn unit(&self, chunk: &Chunk) -> Result<Unit> {
        let expected = ChunkDescription {
            index: chunk.index,
            uncompressed_offset: chunk.uncompressed_offset,
            uncompressed_size: chunk.uncompressed_size,
            stored: chunk.stored,
        };
        let Some(table) = &self.table else { return Ok(Unit::single(&self.description, expected)?) };
        let found = table.chunk(chunk.index)?;
        let place = |chunk: &ChunkDescription| (chunk.uncompressed_offset, chunk.uncompressed_size);
        if place(&found) != place(&expected) {
            let (found, expected) = (place(&found), place(&expected));
            let what = format!("blob {} chunk {}", self.description.id, chunk.index);
            let detail = format!(
                "{} bytes at {} in its chunk table, {} at {} in the bootstrap",
                found.1, found.0, expected.1, expected.0
            );
            return Err(storage::Error::corrupt(what, detail).into());
        }
        Ok(table.unit(&self.description, chunk.index)?)
    }

    /// Reads and decodes a unit. Of its members those are checked that `digest_of` knows by their number.
    pub fn read(
        &self,
        unit: Unit,
        digest_of: impl Fn(u32) -> Option<storage::digest::Digest>,
    ) -> Result<StoredUnit> {
        let fetched = unit.fetch(&self.description, &*self.blobs.backend, request());
        let stored = self.blobs.runtime.block_on(fetched)?;
        let members = unit.decode(&self.description, &stored)?;
        for (chunk, data) in unit.members.iter().zip(&members) {
            if let Some(digest) = digest_of(chunk.index) {
                check_chunk(&self.description, chunk.index, Some(digest), None, data)?;
            }
        }
        Ok(StoredUnit { unit, stored, members })
    }
}
