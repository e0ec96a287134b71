//! The chunk table of one v6 blob: loaded at its first miss, from `.blob.meta` beside the data or from the backend.
//!
//! A table that we did not fetch ourselves says where a chunk is, no more: what comes out of it must match a digest
//! or checksum. For a chunk that has none the table has to come from the backend (possibly earlier: the trust
//! file remembers the digest of the `.blob.meta` that was written then). Nor is the backend's believed for ever: what
//! contradicts the bootstrap, or leads to wrong chunks, is fetched anew.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage::blob::ChunkTable;
use storage::digest::Digester;
use tracing::Instrument as _;

use crate::blob::Inner;
use crate::error::Result;
use crate::fetch::metadata;
use crate::flight::{Boarding, Flights, Leader, starts_again};
use crate::lock;
use crate::own_files;

/// Where a table came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The backend, by this mount.
    Backend,
    /// A file that is, byte for byte, what we once had from the backend.
    OwnFile,
    /// A file of somebody else.
    ForeignFile,
}

/// A table and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) chunks: ChunkTable,
    pub(crate) origin: Origin,
}

/// The table of one blob, once somebody needs it.
pub(crate) struct TableSlot {
    current: Mutex<Option<Arc<Table>>>,
    flights: Flights<(), Arc<Table>>,
    /// The file has misled us: it is not read again.
    file_misled: AtomicBool,
    failures: Mutex<Failures>,
}

/// Chunks that were wrong, from wherever they were fetched.
#[derive(Debug, Default)]
struct Failures {
    /// How many since a table was blamed.
    count: u32,
    blamed: Option<Instant>,
}

/// A table is blamed for a single chunk this long after the last one was.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many wrong chunks are the fault of their table at any time.
const FAILED_CHUNKS: u32 = 2;

impl Failures {
    /// One more. True if it is the table's fault. A table that was damaged on its way is found so by the first chunk; a
    /// blob whose chunks are wrong does not cause a fetch of its table for each.
    fn blame_table(&mut self, now: Instant) -> bool {
        self.count += 1;
        let is_rested = self.blamed.is_none_or(|blamed| now.saturating_duration_since(blamed) >= PATIENCE);
        let is_guilty = is_rested || self.count >= FAILED_CHUNKS;
        if is_guilty {
            *self = Self { count: 0, blamed: Some(now) };
        }
        is_guilty
    }
}

impl TableSlot {
    pub(crate) fn new() -> Self {
        Self {
            current: Mutex::default(),
            flights: Flights::new(),
            file_misled: AtomicBool::new(false),
            failures: Mutex::default(),
        }
    }

    /// The table, if it has been loaded.
    pub(crate) fn loaded(&self) -> Option<Arc<Table>> {
        lock(&self.current).clone()
    }

    /// Drops a table that did not come from the backend; the next one will.
    pub(crate) fn forget_file(&self) {
        self.file_misled.store(true, Ordering::Release);
        lock(&self.current).take_if(|table| table.origin != Origin::Backend);
    }

    /// Drops `table`, which cannot be right; the next one comes from the backend.
    pub(crate) fn forget(&self, table: &Arc<Table>) {
        self.file_misled.store(true, Ordering::Release);
        lock(&self.current).take_if(|current| Arc::ptr_eq(current, table));
    }

    /// A chunk was wrong from wherever it was fetched, as `table` says. True if it is worth a try by the next table: this one
    /// is blamed and dropped, or has been since.
    pub(crate) fn failed_chunk(&self, table: &Arc<Table>, now: Instant) -> bool {
        let is_current = self.loaded().is_some_and(|current| Arc::ptr_eq(&current, table));
        if is_current && !lock(&self.failures).blame_table(now) {
            return false;
        }
        self.forget(table);
        true
    }

    /// The table; loads it if need be. A failed attempt does not stand in the way of later ones.
    pub(crate) async fn get(&self, blob: &Arc<Inner>, deadline: Instant) -> Result<Arc<Table>> {
        let mut restarts = 0;
        loop {
            if let Some(table) = self.loaded() {
                return Ok(table);
            }
            let mut ticket = match self.flights.board((), None, deadline, || self.loaded().is_some()) {
                Boarding::Landed => continue,
                Boarding::Joined(ticket) => ticket,
                Boarding::Opened(ticket, leader) => {
                    blob.shared.executor.runtime().spawn(load(Arc::clone(blob), leader).in_current_span());
                    ticket
                }
            };
            let leads_until = ticket.deadline();
            match ticket.wait().await {
                Err(error) if starts_again(&error, leads_until, deadline, &mut restarts) => {
                    ticket.gone().await;
                }
                other => return other,
            }
        }
    }
}

async fn load(blob: Arc<Inner>, leader: Leader<(), Arc<Table>>) {
    let slot = &blob.table;
    let result = load_table(&blob, leader.deadline(), slot.file_misled.load(Ordering::Acquire)).await;
    let result = result.map(|table| {
        let table = Arc::new(table);
        *lock(&slot.current) = Some(Arc::clone(&table));
        table
    });
    leader.answer(result);
}

async fn load_table(blob: &Arc<Inner>, deadline: Instant, file_misled: bool) -> Result<Table> {
    let path = blob.meta_path();
    if let (Some(path), false) = (path.clone(), file_misled) {
        let reader = Arc::clone(blob);
        if let Some(table) = blob.shared.executor.disk.run(move || from_file(&reader, &path)).await? {
            return Ok(table);
        }
    }
    let backend = blob.shared.backend.as_ref();
    let fetch = |request| ChunkTable::fetch(&blob.description, backend, request);
    let chunks = metadata(blob, "its chunk table", deadline, fetch).await?;
    if let Some(path) = path {
        let (writer, chunks) = (Arc::clone(blob), chunks.clone());
        // Nobody waits for the file.
        blob.shared.executor.runtime().spawn(async move {
            let pool = Arc::clone(&writer.shared);
            let written = pool.executor.disk.run(move || to_file(&writer, &path, &chunks)).await;
            if let Err(error) = written {
                tracing::warn!(%error, "writing a chunk table was given up");
            }
        });
    }
    Ok(Table { chunks, origin: Origin::Backend })
}

fn from_file(blob: &Inner, path: &Path) -> Option<Table> {
    let id = &blob.description.id;
    // Checked before it is read: the file may be anything.
    let expected = blob.meta_len()?;
    let bytes = match std::fs::metadata(path).and_then(|metadata| {
        if metadata.len() == expected { std::fs::read(path) } else { Err(io::ErrorKind::InvalidData.into()) }
    }) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(blob = %id, file = %path.display(), %error, "chunk table not usable: fetched again");
            }
            return None;
        }
    };
    let known = blob.shelf.trust().and_then(|trust| trust.meta_digest());
    let own = known.is_some_and(|digest| digest == Digester::Blake3.digest(&bytes));
    match ChunkTable::from_cache_file(&blob.description, &bytes) {
        Ok(chunks) => Some(Table { chunks, origin: if own { Origin::OwnFile } else { Origin::ForeignFile } }),
        Err(error) => {
            tracing::warn!(blob = %id, file = %path.display(), %error, "chunk table not usable: fetched again");
            None
        }
    }
}

/// Writes `.blob.meta` under a temporary name, then gives it its own.
fn to_file(blob: &Inner, path: &Path, chunks: &ChunkTable) {
    let write = || -> io::Result<()> {
        let bytes = chunks.to_cache_file();
        let temporary = own_files::unfinished(path);
        let mut file = own_files::create(&temporary)?;
        io::Write::write_all(&mut file, &bytes)
            .and_then(|()| std::fs::rename(&temporary, path))
            .inspect_err(|_| drop(std::fs::remove_file(&temporary)))?;
        blob.shelf.trust().map_or(Ok(()), |trust| trust.set_meta_digest(Digester::Blake3.digest(&bytes)))
    };
    if let Err(error) = write() {
        blob.shelf.pause(&error, &blob.shared.metrics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_blamed_at_first_then_for_every_second_chunk_and_again_after_a_while() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let verdicts: Vec<_> = (0..5).map(|_| failures.blame_table(start)).collect();
        assert_eq!(verdicts, [true, false, true, false, true]);
        assert!(failures.blame_table(start + PATIENCE));
    }
}
