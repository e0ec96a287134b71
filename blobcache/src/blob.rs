//! One blob of one mounted image: hit or miss.
//!
//! A read goes through its chunks in rounds. A chunk is *ready* (trusted and plain: read in place), *held* (in
//! memory, since no file keeps it), *local* (in the data file, but encoded, or still to be checked: a flight of
//! [`crate::local`]) or *missing* (a flight of [`crate::fetch`]).
//! A round starts or joins all flights it needs, then waits for all; what was not there after all, or whose leader was
//! cut short, goes into the next round.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use storage::backend::{Priority, Request};
use storage::blob::{BlobDescription, BlobId, ChunkDescription, DigestSource, Extent, StoredChunk, Unit};
use storage::digest::Digest;
use storage::trace::{self, TARGET};
use tracing::{Instrument as _, Span, info_span};

use crate::bits::Bits;
use crate::cache::Shared;
use crate::digests::Digests;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{self, Flying, Key, Piece};
use crate::flight::{Boarding, Ticket, starts_again};
use crate::local;
use crate::options::CacheStorage;
use crate::shelf::{Form, Place, Shelf};
use crate::table::{Table, TableSlot};

/// How much longer than its deadline a read waits for what its fetches have to say: why nothing came.
const LAST_WORD: Duration = Duration::from_millis(50);

/// A blob as one mount sees it.
pub struct Blob(Arc<Inner>);

/// A piece of a file that a reader wants, and where to put it.
#[derive(Debug)]
pub struct Want<'a> {
    /// Which bytes; of this blob, or a hole.
    pub extent: Extent,
    /// As long as the extent.
    pub out: &'a mut [u8],
}

/// What tasks that work for a blob share.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) description: Arc<BlobDescription>,
    pub(crate) digests: Digests,
    pub(crate) table: TableSlot,
    /// With validation: chunks that this mount has checked.
    checked: Option<Bits>,
}

/// How a chunk is stored and what its digest is, where the bootstrap says so.
pub(crate) type Record = (StoredChunk, Digest);

/// A chunk that a read does not have yet.
struct Pending {
    place: Place,
    record: Option<Record>,
    /// Which wants are pieces of it.
    wants: Vec<usize>,
    /// What the data file held has been looked at, and was not it.
    not_here: bool,
    restarts: u32,
}

/// Where the data of a read came from.
#[derive(Clone, Copy, Default)]
struct Sources {
    /// Some of it from the local copy.
    kept: bool,
    /// Some of it from a fetch, whoever began it.
    fetched: bool,
}

enum State {
    Ready,
    Held(Bytes),
    Local { check: bool },
    Missing,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("id", &self.0.description.id).finish_non_exhaustive()
    }
}

impl Blob {
    pub(crate) fn new(
        shared: Arc<Shared>,
        shelf: Arc<Shelf>,
        description: Arc<BlobDescription>,
        digests: Arc<dyn DigestSource>,
    ) -> Self {
        let checked = shared.options.validate.then(|| Bits::in_memory(shelf.chunk_count()));
        let (digests, table) = (Digests::new(digests), TableSlot::new());
        Self(Arc::new(Inner { shared, shelf, description, digests, table, checked }))
    }

    /// The blob's id.
    pub fn id(&self) -> &BlobId {
        &self.0.description.id
    }

    /// The blob as its image describes it.
    pub fn description(&self) -> &BlobDescription {
        &self.0.description
    }

    /// True if every chunk of the blob is in the local copy and trusted: the backend is not needed for it.
    pub fn is_complete(&self) -> bool {
        self.0.shelf.is_complete()
    }

    /// Loads the chunk table, if the blob has one, instead of leaving that to the first miss: shows that the blob is the
    /// one that its image describes.
    pub async fn load_chunk_table(&self, deadline: Instant) -> Result<()> {
        if self.0.description.ci.is_some() {
            self.0.table.get(&self.0, deadline).await?;
        }
        Ok(())
    }

    /// The hit test. `Some` is where in the cache file the extent's first byte lies, if all its bytes can be had by
    /// [`Blob::pread`] as they lie there. One atomic load; no lock, no allocation.
    #[inline]
    pub fn ready(&self, extent: &Extent) -> Option<u64> {
        self.0.ready(extent)
    }

    /// Reads bytes that [`Blob::ready`] has named: all of `buf`, or an error; [`Blob::read`] then gets them from the
    /// backend. Ready extents that touch in the file can be read at once. No lock, no allocation.
    pub fn pread(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let metrics = &self.0.shared.metrics;
        match self.0.shelf.read_at(offset, buf) {
            Ok(()) => {
                metrics.bytes_from_cache.add(buf.len() as u64);
                Ok(())
            }
            Err(error) => {
                metrics.cache_read_errors.increment();
                Err(error)
            }
        }
    }

    /// The hit test of blobs that no file keeps: fills `out`, as long as the extent, if the chunk is held in memory. A lock
    /// for the look-up; no allocation.
    pub fn read_held(&self, extent: &Extent, out: &mut [u8]) -> bool {
        let &Extent::Chunk { chunk_index, uncompressed_offset, uncompressed_size, offset, len, .. } = extent
        else {
            return false;
        };
        let place = Place { index: chunk_index, offset: uncompressed_offset, size: uncompressed_size };
        let Some(bytes) = self.0.held(place) else { return false };
        let piece = bytes.get(offset as usize..).and_then(|rest| rest.get(..len as usize));
        let Some(piece) = piece.filter(|piece| piece.len() == out.len()) else { return false };
        out.copy_from_slice(piece);
        self.0.count_held(out.len() as u64);
        true
    }

    /// Reads all of `wants`, from the cache or the backend. Ends by `deadline`, or 50 ms later, with
    /// [`ErrorKind::TimedOut`] if not all is there by then. After an error the contents of the wants are undefined.
    ///
    /// Fetches that were begun go on without the reader and are cached. Must be polled on a runtime with a timer.
    pub async fn read(&self, wants: &mut [Want<'_>], deadline: Instant) -> Result<()> {
        let started = Instant::now();
        // Whoever is at it ends by the deadline too, and can tell what was waited for.
        let last = deadline + LAST_WORD;
        let result = tokio::time::timeout_at(last.into(), self.0.read(wants, deadline))
            .await
            .unwrap_or_else(|_| Err(self.0.timed_out("read", started)));
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut) {
            self.0.shared.metrics.timeouts.increment();
        }
        result
    }
}

impl Inner {
    #[inline]
    fn ready(&self, extent: &Extent) -> Option<u64> {
        let &Extent::Chunk { chunk_index, uncompressed_offset, offset, len, .. } = extent else {
            return None;
        };
        let start = uncompressed_offset.checked_add(offset.into())?;
        let here = match self.shelf.form() {
            Form::Plain => self.confirmed(chunk_index),
            Form::Tar => self.shelf.tar_holds(start, len),
            Form::None | Form::Raw | Form::Encrypted(_) => false,
        };
        here.then_some(start)
    }

    /// True if the chunk is in the data file and this mount believes it.
    pub(crate) fn confirmed(&self, index: u32) -> bool {
        match &self.checked {
            None => self.shelf.trusted(index),
            Some(checked) => checked.test(index),
        }
    }

    /// Trusts a chunk that was checked and is in the data file.
    pub(crate) fn confirm(&self, index: u32) -> bool {
        let published = self.shelf.publish(index);
        if let (true, Some(checked)) = (published, &self.checked) {
            checked.set(index);
        }
        published
    }

    /// The bytes of a chunk that is held in memory because no file keeps it.
    fn held(&self, place: Place) -> Option<Bytes> {
        let is_of_memory = self.shelf.form() == Form::None;
        is_of_memory.then(|| self.shared.memory.get(&(self.shelf.number, place))).flatten()
    }

    fn count_held(&self, bytes: u64) {
        self.shared.metrics.memory_hits.increment();
        self.shared.metrics.bytes_from_memory.add(bytes);
    }

    /// True if a chunk can be had without a fetch, as far as this mount believes.
    pub(crate) fn is_here(&self, place: Place) -> bool {
        self.confirmed(place.index)
            || (self.shelf.form() == Form::None && self.shared.memory.contains(&(self.shelf.number, place)))
    }

    /// Forgets a chunk whose bytes in the data file are wrong.
    pub(crate) fn distrust(&self, index: u32) {
        self.shelf.distrust(index);
        if let Some(checked) = &self.checked {
            checked.clear(index);
        }
    }

    /// Where this blob's `.blob.meta` is kept.
    pub(crate) fn meta_path(&self) -> Option<PathBuf> {
        match &self.shared.options.storage {
            CacheStorage::Directory { work_dir, .. } if !matches!(self.shelf.form(), Form::None) => {
                Some(work_dir.join(format!("{}.blob.meta", self.description.id)))
            }
            _ => None,
        }
    }

    /// How long that file must be (spec/cache.md §1).
    pub(crate) fn meta_len(&self) -> Option<u64> {
        self.description.ci?.uncompressed_size.checked_next_multiple_of(4096)?.checked_add(4096)
    }

    pub(crate) fn timed_out(&self, what: &str, started: Instant) -> Error {
        Error::timed_out(format!("blob {}: {what}", self.description.id), started.elapsed())
    }

    fn state(&self, pending: &Pending) -> State {
        let index = pending.place.index;
        if self.confirmed(index) {
            if self.shelf.form() == Form::Plain { State::Ready } else { State::Local { check: false } }
        } else if !pending.not_here && (self.shelf.claimed(index) || self.shelf.trusted(index)) {
            State::Local { check: true }
        } else {
            self.held(pending.place).map_or(State::Missing, State::Held)
        }
    }

    async fn read(self: &Arc<Self>, wants: &mut [Want<'_>], deadline: Instant) -> Result<()> {
        if self.description.is_tarfs() {
            return self.read_tar(wants, deadline).await;
        }
        let mut pending = self.pending(wants)?;
        let mut sources = Sources::default();
        while !pending.is_empty() {
            if Instant::now() >= deadline {
                return Err(Error::timed_out(
                    format!("blob {}: read", self.description.id),
                    std::time::Duration::ZERO,
                ));
            }
            pending = self.round(pending, wants, &mut sources, deadline).await?;
        }
        let metrics = &self.shared.metrics;
        metrics.reads.increment();
        match sources {
            Sources { fetched: false, .. } => metrics.reads_cached.increment(),
            Sources { kept: true, fetched: true } => metrics.reads_partly_cached.increment(),
            Sources { kept: false, fetched: true } => {}
        }
        Ok(())
    }

    /// Sorts the wants by chunk, and checks them.
    fn pending(&self, wants: &mut [Want<'_>]) -> Result<Vec<Pending>> {
        let mut all: Vec<Pending> = Vec::new();
        for (number, want) in wants.iter_mut().enumerate() {
            let (place, record) = match want.extent {
                Extent::Hole { len } if len as usize == want.out.len() => {
                    want.out.fill(0);
                    continue;
                }
                Extent::Chunk {
                    chunk_index,
                    uncompressed_offset,
                    uncompressed_size,
                    offset,
                    len,
                    record,
                    ..
                } if len as usize == want.out.len()
                    && offset.checked_add(len).is_some_and(|end| end <= uncompressed_size) =>
                {
                    let (index, size) = (chunk_index, uncompressed_size);
                    (Place { index, offset: uncompressed_offset, size }, record)
                }
                extent => {
                    return Err(Error::invalid(
                        format!("blob {}", self.description.id),
                        format!("{extent:?} into {} bytes", want.out.len()),
                    ));
                }
            };
            self.shelf.check(place)?;
            // A file's neighbouring extents are of one chunk, or of the next.
            match all.iter_mut().rev().find(|pending| pending.place.index == place.index) {
                Some(same) if same.place == place => same.wants.push(number),
                Some(other) => {
                    return Err(Error::invalid(
                        format!("blob {} chunk {}", self.description.id, place.index),
                        format!("it is both at {place:?} and at {:?}", other.place),
                    ));
                }
                None => {
                    let wants = vec![number];
                    all.push(Pending { place, record, wants, not_here: false, restarts: 0 });
                }
            }
        }
        Ok(all)
    }

    async fn round(
        self: &Arc<Self>,
        pending: Vec<Pending>,
        wants: &mut [Want<'_>],
        sources: &mut Sources,
        deadline: Instant,
    ) -> Result<Vec<Pending>> {
        let (mut again, mut waiting, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for mut chunk in pending {
            match self.state(&chunk) {
                State::Ready => {
                    if self.read_ready(&chunk, wants) {
                        sources.kept = true;
                    } else {
                        chunk.not_here = true;
                        again.push(chunk);
                    }
                }
                State::Held(bytes) => {
                    self.count_held(hand_out(&chunk, &bytes, wants)?);
                    sources.kept = true;
                }
                State::Local { check } => {
                    let (ticket, span) = self.board_local(&chunk, check, deadline);
                    waiting.push((ticket, chunk, span));
                }
                State::Missing => missing.push(chunk),
            }
        }
        if !missing.is_empty() {
            self.board_missing(missing, &mut again, &mut waiting, deadline).await?;
        }
        let landings = waiting.into_iter().map(|(mut ticket, chunk, span)| {
            async move { (ticket.wait().await, ticket, chunk) }.instrument(span)
        });
        for (served, ticket, mut chunk) in join_all(landings).await {
            let piece = match served {
                Ok(served) => served.piece(chunk.place.index),
                Err(error) => Piece::Failed(error),
            };
            match piece {
                Piece::Fetched(bytes) => {
                    let len = hand_out(&chunk, &bytes, wants)?;
                    sources.fetched = true;
                    self.shared.metrics.bytes_from_fetch.add(len);
                }
                Piece::Kept(bytes) => {
                    let len = hand_out(&chunk, &bytes, wants)?;
                    sources.kept = true;
                    self.shared.metrics.bytes_from_cache.add(len);
                }
                Piece::Elsewhere => {
                    if chunk.not_here {
                        ticket.gone().await;
                    }
                    again.push(chunk);
                }
                Piece::Absent => {
                    // The fetch has a key of its own.
                    chunk.not_here = true;
                    again.push(chunk);
                }
                Piece::Failed(error) => {
                    if !starts_again(&error, ticket.deadline(), deadline, &mut chunk.restarts) {
                        return Err(error);
                    }
                    ticket.gone().await;
                    again.push(chunk);
                }
            }
        }
        Ok(again)
    }

    /// Reads the pieces of a ready chunk in place. False if the local disk fails.
    fn read_ready(&self, chunk: &Pending, wants: &mut [Want<'_>]) -> bool {
        let metrics = &self.shared.metrics;
        for &number in &chunk.wants {
            let Want { extent, out } = &mut wants[number];
            let Extent::Chunk { offset, .. } = extent else { continue };
            if let Err(error) = self.shelf.read_at(chunk.place.offset + u64::from(*offset), out) {
                metrics.cache_read_errors.increment();
                tracing::warn!(
                    blob = %self.description.id, chunk = chunk.place.index, %error,
                    "cannot read the cache: fetched again"
                );
                self.distrust(chunk.place.index);
                return false;
            }
            metrics.bytes_from_cache.add(out.len() as u64);
        }
        true
    }

    fn board_local(
        self: &Arc<Self>,
        chunk: &Pending,
        check: bool,
        deadline: Instant,
    ) -> (Ticket<Arc<fetch::Served>>, Span) {
        let place = chunk.place;
        loop {
            match self.shelf.flights.board(Key::Local(place.index), None, deadline, || false) {
                Boarding::Landed => {}
                Boarding::Joined(ticket) => return (ticket, self.joined(place.index)),
                Boarding::Opened(ticket, leader) => {
                    let (blob, record) = (Arc::clone(self), chunk.record);
                    let span = info_span!(
                        target: TARGET, "cache", nydus.blob = %self.description.id, nydus.chunk = trace::number(place.index),
                        nydus.source = "cache",
                    );
                    let lead = local::lead(blob, place, record, check, leader).instrument(span);
                    self.shared.executor.runtime().spawn(lead);
                    return (ticket, Span::none());
                }
            }
        }
    }

    /// The wait for a flight that another reader opened; those that a reader opens itself tell what they do.
    fn joined(&self, index: u32) -> Span {
        info_span!(target: TARGET, "wait", nydus.blob = %self.description.id, nydus.chunk = trace::number(index))
    }

    /// Joins or opens the flights of missing chunks.
    async fn board_missing(
        self: &Arc<Self>,
        missing: Vec<Pending>,
        again: &mut Vec<Pending>,
        waiting: &mut Vec<(Ticket<Arc<fetch::Served>>, Pending, Span)>,
        deadline: Instant,
    ) -> Result<()> {
        let chunks: Vec<_> = missing.iter().map(|chunk| (chunk.place, chunk.record)).collect();
        let (units, table) = self.units(&chunks, deadline).await?;
        let mut opened = Vec::new();
        for (chunk, unit) in missing.into_iter().zip(units) {
            let index = chunk.place.index;
            let key = Key::of(&unit, index);
            let landed = || self.is_here(chunk.place);
            match self.shelf.flights.board(key, Some(index), deadline, landed) {
                Boarding::Landed => again.push(chunk),
                Boarding::Joined(ticket) => waiting.push((ticket, chunk, self.joined(index))),
                Boarding::Opened(ticket, leader) => {
                    opened.push(Flying::new(unit, leader, chunk.record, table.clone(), chunk.not_here));
                    waiting.push((ticket, chunk, Span::none()));
                }
            }
        }
        fetch::launch(self, opened);
        Ok(())
    }

    /// What has to be fetched for each of these chunks, and the table that says so where one was needed.
    pub(crate) async fn units(
        self: &Arc<Self>,
        chunks: &[(Place, Option<Record>)],
        deadline: Instant,
    ) -> Result<(Vec<Unit>, Option<Arc<Table>>)> {
        let find = |table: Option<&Table>| -> Result<Vec<Unit>> {
            chunks.iter().map(|(place, record)| self.unit(*place, *record, table)).collect()
        };
        if chunks.iter().all(|(_, record)| record.is_some()) {
            return Ok((find(None)?, None));
        }
        let load =
            async { tokio::join!(self.table.get(self, deadline), self.digests.prepare(self, deadline)) };
        let span = info_span!(target: TARGET, "metadata", nydus.blob = %self.description.id);
        let (table, index) = load.instrument(span).await;
        index?;
        let table = table?;
        match find(Some(&table)) {
            Err(error) => {
                tracing::warn!(blob = %self.description.id, %error, "the chunk table is wrong: fetched again");
                self.table.forget(&table);
                let table = self.table.get(self, deadline).await?;
                Ok((find(Some(&table))?, Some(table)))
            }
            Ok(units) => Ok((units, Some(table))),
        }
    }

    fn unit(&self, place: Place, record: Option<Record>, table: Option<&Table>) -> Result<Unit> {
        let blob = &self.description;
        if let Some((stored, _)) = record {
            let chunk = ChunkDescription {
                index: place.index,
                uncompressed_offset: place.offset,
                uncompressed_size: place.size,
                stored,
            };
            return Ok(Unit::single(blob, chunk)?);
        }
        let what = || format!("blob {} chunk {}", blob.id, place.index);
        let table = table.ok_or_else(|| Error::invalid(what(), "no chunk table and no record"))?;
        let unit = table.chunks.unit(blob, place.index)?;
        match unit.members.iter().map(Place::from).find(|member| member.index == place.index) {
            Some(found) if found == place => Ok(unit),
            found => Err(Error::corrupt(
                what(),
                format!("the bootstrap has it at {place:?}, the table at {found:?}"),
            )),
        }
    }

    /// Reads a tar in place or, where there is none in the directory, from the backend. Nothing is kept.
    async fn read_tar(self: &Arc<Self>, wants: &mut [Want<'_>], deadline: Instant) -> Result<()> {
        let reads = wants.iter_mut().map(|want| async move {
            let Extent::Chunk { uncompressed_offset, offset, len, .. } = want.extent else {
                want.out.fill(0);
                return Ok(());
            };
            let what = || format!("blob {} bytes {uncompressed_offset} + {offset}", self.description.id);
            let start =
                uncompressed_offset.checked_add(offset.into()).filter(|_| len as usize == want.out.len());
            let start = start.ok_or_else(|| Error::invalid(what(), format!("{len} bytes at that offset")))?;
            let metrics = &self.shared.metrics;
            if self.shelf.tar_holds(start, len) {
                match self.shelf.read_at(start, want.out) {
                    Ok(()) => {
                        metrics.bytes_from_cache.add(len.into());
                        return Ok(());
                    }
                    Err(_) => metrics.cache_read_errors.increment(),
                }
            }
            let _share = self.shared.budget(len.into(), deadline).instrument(trace::queue("memory")).await?;
            metrics.backend_requests.increment();
            let request = Request::new(Priority::OnDemand, deadline);
            let bytes = self.shared.backend.read(&self.description.id, start, len.into(), request).await;
            let bytes = bytes.inspect_err(|_| metrics.backend_errors.increment())?;
            if bytes.len() != want.out.len() {
                return Err(Error::corrupt(what(), format!("{} bytes came, expected {len}", bytes.len())));
            }
            metrics.backend_bytes.add(len.into());
            metrics.bytes_from_fetch.add(len.into());
            want.out.copy_from_slice(&bytes);
            Ok(())
        });
        try_join_all(reads).await.map(drop)
    }
}

/// Copies a chunk's bytes to those who want pieces of it; returns how many.
fn hand_out(chunk: &Pending, bytes: &Bytes, wants: &mut [Want<'_>]) -> Result<u64> {
    let mut copied = 0;
    for &number in &chunk.wants {
        let Want { extent, out } = &mut wants[number];
        let Extent::Chunk { offset, .. } = extent else { continue };
        let start = *offset as usize;
        let piece = bytes.get(start..start + out.len()).ok_or_else(|| {
            Error::corrupt(
                format!("chunk {}", chunk.place.index),
                format!("{} bytes, expected {}", bytes.len(), chunk.place.size),
            )
        })?;
        out.copy_from_slice(piece);
        copied += out.len() as u64;
    }
    Ok(copied)
}

impl From<&ChunkDescription> for Place {
    fn from(chunk: &ChunkDescription) -> Self {
        Self { index: chunk.index, offset: chunk.uncompressed_offset, size: chunk.uncompressed_size }
    }
}
