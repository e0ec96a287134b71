//! The files that a cache directory has of a blob, complete, made when the image is built (spec/cache.md §1 to §3).
//!
//! Invariant: the names appear in such an order that a reader that finds the readiness map finds all else, and each of
//! them only when its file is whole.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use bytes::Bytes;
use rafs::build::Tree;
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::backend::{Backend, BoxFuture, Request};
use storage::blob::{BlobDescription, BlobId};

use crate::error::{Error, Result};
use crate::repack::UsedChunks;
use crate::stored::BlobReader;
use crate::target::Target;

/// The header of a readiness map: magic, version, second magic, and the number that says "all".
const MAP_HEADER: [u32; 4] = [0x424d_4150, 1, 0x434d_4150, 0x4d4d_4150];
const MAP_HEADER_SIZE: usize = 4096;

/// A blob that was built and has no name yet: its data is in one file, and what describes the data in another or the same.
#[derive(Debug)]
pub struct BuiltBlob {
    id: BlobId,
    data: LocalFs,
    metadata: LocalFs,
}

impl BuiltBlob {
    /// `id` is that of the data.
    pub fn new(id: BlobId, data: &Path, metadata: &Path) -> Result<Self> {
        let file = |path: &Path| {
            LocalFs::new(LocalFsConfig { blob_file: Some(path.into()), ..LocalFsConfig::default() })
        };
        Ok(Self { id, data: file(data)?, metadata: file(metadata)? })
    }

    fn object(&self, blob: &BlobId) -> &LocalFs {
        if *blob == self.id { &self.data } else { &self.metadata }
    }
}

impl Backend for BuiltBlob {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, storage::Result<Bytes>> {
        self.object(blob).read(blob, offset, len, request)
    }

    fn size<'a>(&'a self, blob: &'a BlobId, request: Request) -> BoxFuture<'a, storage::Result<u64>> {
        self.object(blob).size(blob, request)
    }
}

/// Writes the cache files of a blob to `directory`: all chunks that the files of the tree have of it, at place
/// `blob` of the blob table.
pub fn write(directory: &Path, tree: &Tree, blob: u32, reader: &BlobReader<'_>) -> Result<()> {
    let description = reader.description();
    let name = |suffix: &str| directory.join(format!("{}.blob.{suffix}", description.id));
    let data = name("data");
    let used = UsedChunks::of(tree);
    if used.of_blob(blob).count() != description.chunk_count as usize {
        let count = used.of_blob(blob).count();
        return Err(Error::contradiction(format!(
            "{count} chunks are used of {} in blob {}",
            description.chunk_count, description.id
        )));
    }
    let mut target = Target::create(&data)?;
    let (mut end, mut next) = (0, 0);
    for chunk in used.of_blob(blob) {
        // Its unit was there for an earlier one already.
        if chunk.index < next {
            continue;
        }
        let digest_of = |index| used.get((blob, index)).map(|chunk| chunk.digest);
        let unit = reader.read(reader.unit(chunk)?, digest_of)?;
        // Chunks lie in the order of their numbers.
        for (member, bytes) in unit.unit.members.iter().zip(&unit.members) {
            pad(&mut target, member.uncompressed_offset.saturating_sub(end))
                .map_err(Error::io("write", &data))?;
            target.write_all(bytes).map_err(Error::io("write", &data))?;
            end = member.uncompressed_offset + u64::from(member.uncompressed_size);
            next = member.index + 1;
        }
    }
    pad(&mut target, description.uncompressed_size.saturating_sub(end)).map_err(Error::io("write", &data))?;
    target.commit()?;
    if let Some(table) = reader.cache_file() {
        Target::write(&name("meta"), &table)?;
    }
    Target::write(&name("data.chunk_map"), &readiness(description))
}

/// Zeros up to where the next chunk begins.
fn pad(target: &mut Target, count: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(count), target).map(drop)
}

/// A readiness map in which all chunks are ready.
fn readiness(description: &BlobDescription) -> Vec<u8> {
    let count = description.chunk_count as usize;
    let mut map = Vec::with_capacity(MAP_HEADER_SIZE + count.div_ceil(8));
    map.extend(MAP_HEADER.iter().flat_map(|word| word.to_le_bytes()));
    map.resize(MAP_HEADER_SIZE, 0);
    map.resize(MAP_HEADER_SIZE + count / 8, 0xff);
    // The most significant bit comes first.
    if !count.is_multiple_of(8) {
        map.push(!(0xff >> (count % 8)));
    }
    map
}
