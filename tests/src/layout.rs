//! Where the bytes of an image's files are stored: which chunks, in which blobs.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rafs::{Bootstrap, OpenOptions};
use storage::backend::localfs::{LocalFs, LocalFsConfig};
use storage::backend::{Priority, Request};
use storage::blob::{ChunkTable, Extent, StoredChunk};

use crate::fixtures::Image;

/// Chunks, by blob and number, and how they are stored.
pub type Chunks = BTreeMap<(u32, u32), StoredChunk>;

/// The layout of one image.
pub struct Layout {
    bootstrap: Bootstrap,
    /// By blob; v6 only.
    tables: Vec<Option<ChunkTable>>,
}

impl Layout {
    /// Reads bootstrap and chunk tables.
    pub fn of(image: &Image) -> Self {
        let bootstrap = Bootstrap::open(&image.bootstrap(), &OpenOptions::default()).unwrap();
        let config = LocalFsConfig { dir: Some(image.blobs()), ..LocalFsConfig::default() };
        let backend = LocalFs::new(config).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let request = Request::new(Priority::OnDemand, deadline);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let table = |blob: &storage::blob::BlobDescription| {
            blob.ci.map(|_| runtime.block_on(ChunkTable::fetch(blob, &backend, request.clone())).unwrap())
        };
        let tables = bootstrap.blobs().iter().map(|blob| table(blob)).collect();
        Self { bootstrap, tables }
    }

    /// The name of a blob.
    pub fn blob_id(&self, blob: u32) -> &str {
        self.bootstrap.blobs()[blob as usize].id.as_str()
    }

    /// The chunks that hold `len` bytes of a file from `offset`.
    pub fn chunks(&self, path: &Path, offset: u64, len: usize) -> Chunks {
        let ino = path.components().fold(self.bootstrap.root(), |directory, name| {
            self.bootstrap
                .lookup(directory, name.as_os_str().as_bytes())
                .unwrap()
                .expect("a file of the image")
        });
        let extents = self.bootstrap.extents(ino, offset, u32::try_from(len).unwrap()).unwrap();
        let chunks = extents.filter_map(|extent| match extent.unwrap() {
            Extent::Hole { .. } => None,
            Extent::Chunk { blob_index, chunk_index, record, .. } => {
                let table = &self.tables[blob_index as usize];
                let of_table = || table.as_ref().unwrap().chunk(chunk_index).unwrap().stored;
                let stored = record.map_or_else(of_table, |(stored, _)| stored);
                Some(((blob_index, chunk_index), stored))
            }
        });
        chunks.collect()
    }
}
