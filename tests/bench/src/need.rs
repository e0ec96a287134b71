//! What somebody who knows the image beforehand would ask the blob for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rafs::{Bootstrap, FileType, Ino, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::backend::{Priority, Request};
use storage::blob::{ChunkTable, Extent};

use crate::image::Image;

/// The stored bytes of all that the files of an image are made of: of each chunk, batch or context once, whole, and
/// nothing else. The chunk table is not counted, although nothing can be read without it: that is the price of the format.
pub fn stored_bytes(image: &Image) -> Result<u64> {
    let bootstrap = Bootstrap::open(&image.bootstrap(), &OpenOptions::default())?;
    let backend = LocalFs::new(LocalFsConfig { dir: Some(image.blobs()), ..LocalFsConfig::default() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut tables = Vec::new();
    for blob in bootstrap.blobs() {
        let request = Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(30));
        tables.push(runtime.block_on(ChunkTable::fetch(blob, &backend, request))?);
    }
    // By blob and place.
    let mut units = BTreeMap::new();
    let mut directories = vec![bootstrap.root()];
    while let Some(directory) = directories.pop() {
        for entry in bootstrap.read_dir(directory, 0)? {
            let entry = entry?;
            match entry.file_type {
                FileType::Directory => directories.push(entry.ino),
                FileType::Regular => {
                    for (blob, chunk) in chunks(&bootstrap, entry.ino)? {
                        let (table, description) = tables
                            .get(blob as usize)
                            .zip(bootstrap.blobs().get(blob as usize))
                            .context("no such blob")?;
                        let unit = table.unit(description, chunk)?;
                        units.insert((blob, unit.offset), unit.len);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(units.values().sum())
}

/// The chunks of a file, by blob and number.
fn chunks(bootstrap: &Bootstrap, ino: Ino) -> Result<Vec<(u32, u32)>> {
    let (size, mut offset, mut chunks) = (bootstrap.attributes(ino)?.size, 0, Vec::new());
    while offset < size {
        let len = u32::try_from(size - offset).unwrap_or(1 << 30);
        for extent in bootstrap.extents(ino, offset, len)? {
            if let Extent::Chunk { blob_index, chunk_index, .. } = extent? {
                chunks.push((blob_index, chunk_index));
            }
        }
        offset += u64::from(len);
    }
    Ok(chunks)
}
