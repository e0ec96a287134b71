//! Tars that are mounted as they are: chunks are places in the tar, and nothing is known of their content
//! (spec/blob.md §10.3).

use std::io::Read;

use rafs::build::{NodeId, Tree};
use storage::blob::{BlobDescription, BlobFeatures, BlobId, Compressor};
use storage::digest::Digester;

use super::hashed::Hashed;
use super::layer::ArchiveFiles;
use super::tar::{Reader, TreeBuilder};
use crate::error::Result;
use crate::store::{InPlace, StoredChunks};

/// One more than the last number that a chunk may have.
const MAX_CHUNKS: u32 = 0xff_ffff;

/// A tar that was read.
#[derive(Debug)]
pub struct Tarfs {
    /// Its tree, without the chunks of the files.
    pub tree: Tree,
    /// Its files with content, in order.
    pub files: Vec<NodeId>,
    /// The chunks of the files.
    pub chunks: StoredChunks,
    /// The tar as a blob.
    pub blob: BlobDescription,
}

/// Reads all of an archive. Its SHA-256 is its id, unless there is another.
pub fn read<R: Read>(
    input: Reader<Hashed<R>>,
    builder: TreeBuilder,
    chunk_size: u32,
    id: Option<&str>,
) -> Result<Tarfs> {
    let mut files = ArchiveFiles::new(input, builder, false);
    let mut chunks = InPlace::default();
    let mut before = None;
    loop {
        let next = files.next_file()?;
        // Its content was read by now: an archive that promised more than it has was an error.
        if let Some((place, size)) = before.take() {
            for offset in (0..size).step_by(chunk_size as usize) {
                // At most the chunk size.
                chunks.push(place + offset, (size - offset).min(chunk_size.into()) as u32);
            }
        }
        let Some((entry, size)) = next else { break };
        if size.div_ceil(chunk_size.into()) > u64::from(MAX_CHUNKS - chunks.len()) {
            let detail = format!("{size} bytes take the chunks beyond {MAX_CHUNKS}: they must be larger");
            return Err(files.reader.error_at(entry.header_position, detail));
        }
        before = Some((entry.data_position, size));
    }
    let chunk_count = chunks.len();
    let (tree, files, input) = files.finish();
    let blob = BlobDescription {
        index: 0,
        id: match id {
            Some(id) => BlobId::new(id)?,
            None => BlobId::new(&input.digest().to_string())?,
        },
        chunk_size,
        chunk_count,
        compressor: Compressor::None,
        digester: Digester::Sha256,
        cipher: None,
        features: BlobFeatures::TARFS | BlobFeatures::CAP_TAR_TOC,
        compressed_size: input.count(),
        uncompressed_size: input.count(),
        ci: None,
        toc: None,
        meta_id: None,
        meta_size: 0,
    };
    Ok(Tarfs { tree, files, chunks: chunks.into(), blob })
}
