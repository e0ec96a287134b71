//! The digests of one blob's chunks, wherever they are.
//!
//! v5: in the chunk's record, which comes with each extent. v6: in the bootstrap's chunk table, else in the digest array
//! that the blob itself may carry. Both are looked at when the blob has its first miss, never at mount.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use storage::blob::{BlobFeatures, Compressor, DigestArray, DigestSource, StoredChunk, fetch_digests};
use storage::digest::Digest;
use tracing::Instrument as _;

use crate::blob::Inner;
use crate::error::{ErrorKind, Result};
use crate::fetch::metadata;
use crate::flight::{Boarding, Flights, starts_again};
use crate::lock;
use crate::shelf::Place;

/// Chunk indexes and their records in the bootstrap, ascending.
type Index = Arc<Vec<(u32, u32)>>;

/// See the module.
pub(crate) struct Digests {
    source: Arc<dyn DigestSource>,
    index: Lazy<Index>,
    array: Lazy<Arc<DigestArray>>,
}

/// A value that is made when it is first needed, by one task for everybody; failures are not kept.
struct Lazy<T> {
    value: Mutex<Option<T>>,
    flights: Flights<(), T>,
}

impl<T: Clone + Send + Sync + 'static> Lazy<T> {
    fn new() -> Self {
        Self { value: Mutex::default(), flights: Flights::new() }
    }

    fn loaded(&self) -> Option<T> {
        lock(&self.value).clone()
    }

    async fn get<F>(
        &self,
        blob: &Arc<Inner>,
        deadline: Instant,
        lazy: fn(&Inner) -> &Self,
        make: impl Fn(Arc<Inner>, Instant) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut restarts = 0;
        loop {
            if let Some(value) = self.loaded() {
                return Ok(value);
            }
            let mut ticket = match self.flights.board((), None, deadline, || self.loaded().is_some()) {
                Boarding::Landed => continue,
                Boarding::Joined(ticket) => ticket,
                Boarding::Opened(ticket, leader) => {
                    let (made, blob) = (make(Arc::clone(blob), deadline), Arc::clone(blob));
                    let runtime = blob.shared.executor.runtime().clone();
                    let lead = async move {
                        let result = made.await;
                        if let Ok(value) = &result {
                            *lock(&lazy(&blob).value) = Some(value.clone());
                        }
                        leader.answer(result);
                    };
                    runtime.spawn(lead.in_current_span());
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

impl Digests {
    pub(crate) fn new(source: Arc<dyn DigestSource>) -> Self {
        Self { source, index: Lazy::new(), array: Lazy::new() }
    }

    /// The digest of a chunk that somebody asks for; `None` if there is none anywhere.
    pub(crate) async fn of(
        &self,
        blob: &Arc<Inner>,
        place: Place,
        record: Option<&(StoredChunk, Digest)>,
        deadline: Instant,
    ) -> Result<Option<Digest>> {
        if !is_checkable(blob) {
            return Ok(None);
        }
        if let Some((_, digest)) = record {
            return Ok(known(*digest));
        }
        let index = self.index.get(blob, deadline, |blob| &blob.digests.index, make_index).await?;
        if let Some(digest) = self.look_up(&index, place) {
            return Ok(Some(digest));
        }
        if !blob.description.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST) {
            return Ok(None);
        }
        match self.array.get(blob, deadline, |blob| &blob.digests.array, fetch_array).await {
            Ok(array) => Ok(array.get(place.index).and_then(known)),
            // The description does not say where: as good as none.
            Err(error) if error.kind() == ErrorKind::Invalid => Ok(None),
            // They exist: without them nothing is served.
            Err(error) => Err(error),
        }
    }

    /// Loads what [`Self::at_hand`] looks at first: the part that needs no network.
    pub(crate) async fn prepare(&self, blob: &Arc<Inner>, deadline: Instant) -> Result<()> {
        if is_checkable(blob) {
            self.index.get(blob, deadline, |blob| &blob.digests.index, make_index).await?;
        }
        Ok(())
    }

    /// The digest of a chunk that nobody asks for, by the bootstrap's own record of that place: the array says what a chunk
    /// must be, but not where, and only of who asks is known where he means.
    pub(crate) fn at_hand(&self, blob: &Inner, place: Place) -> Option<Digest> {
        if !is_checkable(blob) {
            return None;
        }
        self.index.loaded().and_then(|index| self.look_up(&index, place))
    }

    fn look_up(&self, index: &[(u32, u32)], place: Place) -> Option<Digest> {
        let found = index.binary_search_by_key(&place.index, |(chunk, _)| *chunk).ok()?;
        let (digest, offset) = self.source.digest(index[found].1)?;
        // A record of another place is of another chunk, whatever index it claims.
        if offset == place.offset { known(digest) } else { None }
    }
}

/// "Legacy stargz" has no digests worth the name (spec/blob.md §10.2).
fn is_checkable(blob: &Inner) -> bool {
    let description = &blob.description;
    description.compressor != Compressor::Gzip || description.features.contains(BlobFeatures::CHUNK_INFO_V2)
}

fn known(digest: Digest) -> Option<Digest> {
    (!digest.is_zero()).then_some(digest)
}

async fn make_index(blob: Arc<Inner>, _deadline: Instant) -> Result<Index> {
    let reader = Arc::clone(&blob);
    let index = move || reader.digests.source.digest_index(reader.description.index);
    let mut index = blob.shared.executor.decode.run(index).await??;
    // Promised to be sorted; a search in what is not would miss digests, and say nothing.
    if !index.is_sorted_by(|a, b| a.0 < b.0) {
        index.sort_unstable();
        index.dedup_by_key(|pair| pair.0);
    }
    index.shrink_to_fit();
    Ok(Arc::new(index))
}

async fn fetch_array(blob: Arc<Inner>, deadline: Instant) -> Result<Arc<DigestArray>> {
    let backend = blob.shared.backend.as_ref();
    let fetch = |request| fetch_digests(&blob.description, backend, request);
    metadata(&blob, "its digest array", deadline, fetch).await.map(Arc::new)
}
