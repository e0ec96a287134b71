//! The content of an image, read in the order in which it is asked for, and decoded on all cores.
//!
//! ```text
//!   pieces ──▶ Blobs::locate ──▶ N tasks: fetch, decode, check ──▶ in the order of the pieces ──▶ sink
//!   (in order, while there is room)                                (the calling thread)
//! ```
//!
//! Invariants: no byte of a chunk reaches the sink before the chunk was checked against its digest, or, where an
//! image has no digest for it, its checksum. What lies between pieces and sink is bounded by [`IN_FLIGHT`] bytes,
//! or is one unit; what was decoded lately is kept within [`recent::KEPT`] bytes, since small files share units.

mod blobs;
mod recent;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use rafs::{Attributes, Bootstrap, Ino};
use storage::backend::Backend;
use storage::blob::Extent;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use blobs::{Blobs, Wanted};

/// Bytes, stored and decoded, of the units that are on their way.
const IN_FLIGHT: u32 = 48 << 20;
/// Pieces on their way for each thread that decodes.
const PIECES_PER_THREAD: usize = 8;
/// Bytes of a file that are asked of the bootstrap at a time.
const STEP: u32 = 1 << 30;
/// What zeros are copied from.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A bootstrap, and the blobs that it refers to.
#[derive(Debug)]
pub struct Image {
    blobs: Arc<Blobs>,
    threads: usize,
    runtime: Runtime,
}

/// Something to be copied.
#[derive(Debug)]
pub enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many zeros.
    Zeros(u64),
    /// Content of a file.
    Extent(Extent),
}

impl Piece {
    /// Bytes that it becomes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
            Self::Extent(Extent::Hole { len } | Extent::Chunk { len, .. }) => u64::from(*len),
        }
    }

    /// True if it becomes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A piece on its way.
enum Ready {
    Bytes(Bytes),
    Zeros(u64),
    Wanted(Wanted, OwnedSemaphorePermit),
}

impl Image {
    /// An image whose blobs `backend` has; so many threads decode, at least one.
    pub fn new(bootstrap: Bootstrap, backend: Arc<dyn Backend>, threads: usize) -> Result<Self> {
        let threads = threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(threads)
            .thread_name("decode")
            .enable_all()
            .build()
            .map_err(|source| Error::Threads { source })?;
        Ok(Self { blobs: Arc::new(Blobs::new(bootstrap, backend)), threads, runtime })
    }

    /// The tree.
    pub fn bootstrap(&self) -> &Bootstrap {
        self.blobs.bootstrap()
    }

    /// The pieces of a regular file, in order.
    pub fn content(
        &self,
        ino: Ino,
        attributes: &Attributes,
    ) -> impl Iterator<Item = Result<Piece>> + use<'_> {
        let size = attributes.size;
        (0..size).step_by(STEP as usize).flat_map(move |offset| {
            let (extents, error) = match self.bootstrap().extents(ino, offset, STEP) {
                Ok(extents) => (Some(extents), None),
                Err(error) => (None, Some(Err(error.into()))),
            };
            extents.into_iter().flatten().map(|extent| Ok(Piece::Extent(extent?))).chain(error)
        })
    }

    /// All of a blob as it is uncompressed, its chunks where they belong: `len` bytes, with zeros between the chunks
    /// and behind them. Chunks that this image does not use may have no digest; then they are not checked.
    pub fn uncompressed(
        &self,
        blob_index: usize,
        len: u64,
    ) -> Result<impl Iterator<Item = Result<Piece>> + use<>> {
        let chunks = self.runtime.block_on(self.blobs.chunks(blob_index))?;
        let mut position = 0;
        Ok(chunks.flat_map(move |chunk| {
            let (extent, start, size) = match chunk {
                Ok(Some((extent, start, size))) => (Some(Ok(Piece::Extent(extent))), start, u64::from(size)),
                Ok(None) => (None, len, 0),
                Err(error) => (Some(Err(error)), position, 0),
            };
            let gap = start.checked_sub(position).filter(|_| start.saturating_add(size) <= len);
            let gap = gap.map(|gap| Ok(Piece::Zeros(gap))).unwrap_or_else(|| {
                let detail = format!("{size} bytes at {start}, expected {position} to {len}");
                Err(storage::Error::Corrupt { what: format!("chunk of blob {blob_index}"), detail }.into())
            });
            position = start.saturating_add(size);
            [Some(gap), extent].into_iter().flatten()
        }))
    }

    /// Gives the bytes of all pieces to `sink`, in their order, and ends with the first error.
    pub fn copy(
        &self,
        pieces: impl Iterator<Item = Result<Piece>>,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let room = Arc::new(Semaphore::new(IN_FLIGHT as usize));
        let prepared = stream::iter(pieces).then(|piece| {
            let room = Arc::clone(&room);
            async move { self.prepare(piece?, room).await }
        });
        let ready = prepared.map(|ready| {
            let blobs = Arc::clone(&self.blobs);
            async move {
                let (wanted, permit) = match ready? {
                    Ready::Wanted(wanted, permit) => (wanted, permit),
                    other => return Ok::<_, Error>((other, None)),
                };
                // A task of its own, so that it goes on while the sink is busy.
                let task = tokio::spawn(async move { blobs.bytes(&wanted).await });
                let bytes = task.await.map_err(|_| Error::Cancelled)??;
                Ok((Ready::Bytes(bytes), Some(permit)))
            }
        });
        let mut ready = std::pin::pin!(ready.buffered(self.threads * PIECES_PER_THREAD));
        self.runtime.block_on(async {
            while let Some(piece) = ready.next().await {
                // The permit is held until the sink is done.
                let (piece, _permit): (Ready, Option<OwnedSemaphorePermit>) = piece?;
                match piece {
                    Ready::Bytes(bytes) => sink(&bytes)?,
                    Ready::Zeros(len) => zeros(len, &mut sink)?,
                    // Became bytes above.
                    Ready::Wanted(..) => return Err(Error::Cancelled),
                }
            }
            Ok(())
        })
    }

    /// Finds out what has to be fetched, and waits for room for it.
    async fn prepare(&self, piece: Piece, room: Arc<Semaphore>) -> Result<Ready> {
        let extent = match piece {
            Piece::Bytes(bytes) => return Ok(Ready::Bytes(bytes.into())),
            Piece::Zeros(len) => return Ok(Ready::Zeros(len)),
            Piece::Extent(Extent::Hole { len }) => return Ok(Ready::Zeros(len.into())),
            Piece::Extent(extent) => extent,
        };
        let wanted = self.blobs.locate(&extent).await?;
        let cost = u32::try_from(wanted.cost()).unwrap_or(IN_FLIGHT).min(IN_FLIGHT);
        // Room is taken in the order of the pieces, so the one that the sink waits for never waits for room.
        let permit = room.acquire_many_owned(cost).await.map_err(|_| Error::Cancelled)?;
        Ok(Ready::Wanted(wanted, permit))
    }
}

fn zeros(mut len: u64, sink: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while len > 0 {
        let some = len.min(ZEROS.len() as u64);
        sink(&ZEROS[..some as usize])?;
        len -= some;
    }
    Ok(())
}
