//! Misses: from wanted units to published chunks.
//!
//! `launch` widens and groups what one reader opened; each group is led by a task of its own, which claims its units
//! among the processes, reads them with one request, and lands each when its bytes have come: decode, check, answer, write,
//! publish. Nothing that failed a check is written or handed out. A reader that goes away does not end a flight.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use storage::backend::{Arrivals, Priority, Request};
use storage::blob::{Unit, check_chunk};
use storage::digest::Digest;
use storage::policy::attempts::Attempts;
use storage::trace::{self, TARGET};
use tracing::{Instrument as _, info_span};

use crate::blob::{Inner, Record};
use crate::deal::Deal;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Boarding, Leader};
use crate::plan::{self, Span, Widening};
use crate::shelf::{Form, Place};
use crate::table::{Origin, Table};

/// How long another process that has claimed a unit is waited for, at most.
const MAX_PATIENCE: Duration = Duration::from_secs(5);
/// The pauses between looking whether it is done.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// What there is at most one flight of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Reading a chunk from the data file.
    Local(u32),
    /// Fetching the unit whose first chunk this is.
    Unit(u32),
}

impl Key {
    /// The key of a unit; `index` is one of its chunks.
    pub(crate) fn of(unit: &Unit, index: u32) -> Self {
        Self::Unit(unit.members.first().map_or(index, |chunk| chunk.index))
    }

    fn index(self) -> u32 {
        match self {
            Self::Local(index) | Self::Unit(index) => index,
        }
    }
}

/// What a flight brings for one chunk.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// Its bytes, from the backend.
    Fetched(Bytes),
    /// Its bytes, from the data file.
    Kept(Bytes),
    /// It is in the data file now: another process put it there.
    Elsewhere,
    /// It is not in the data file.
    Absent,
    /// It cannot be had.
    Failed(Error),
}

/// The result of a flight: chunks, ascending by index.
#[derive(Debug)]
pub(crate) struct Served(Vec<(u32, Piece)>);

impl Served {
    pub(crate) fn one(index: u32, piece: Piece) -> Self {
        Self(vec![(index, piece)])
    }

    pub(crate) fn piece(&self, index: u32) -> Piece {
        match self.0.binary_search_by_key(&index, |(chunk, _)| *chunk) {
            Ok(found) => self.0[found].1.clone(),
            Err(_) => Piece::Failed(Error::aborted(format!("chunk {index}: not in its unit"))),
        }
    }
}

/// A unit that is being fetched.
pub(crate) struct Flying {
    unit: Unit,
    /// v5: the record of its chunk.
    record: Option<Record>,
    /// v6: the table that describes it.
    table: Option<Arc<Table>>,
    /// What the data file holds is wrong: it is fetched whatever others say.
    insist: bool,
    // Released before the flight ends, so that the next leader of the unit in this process finds it free.
    claim: Option<Claim>,
    leader: Leader<Key, Arc<Served>>,
}

impl Flying {
    pub(crate) fn new(
        unit: Unit,
        leader: Leader<Key, Arc<Served>>,
        record: Option<Record>,
        table: Option<Arc<Table>>,
        insist: bool,
    ) -> Self {
        Self { unit, record, table, insist, claim: None, leader }
    }

    fn span(&self) -> Span {
        Span::of(&self.unit)
    }

    /// Whether somebody else may have made up where its chunks are.
    fn is_of_a_foreign_file(&self) -> bool {
        self.table.as_ref().is_some_and(|table| table.origin == Origin::ForeignFile)
    }

    fn answer_all(&self, piece: &Piece) {
        let pieces = self.unit.members.iter().map(|chunk| (chunk.index, piece.clone())).collect();
        self.leader.answer(Ok(Arc::new(Served(pieces))));
    }

    /// True if what is asked for has been published by somebody else.
    fn is_elsewhere(&self, blob: &Inner) -> bool {
        // Who insists has seen that what others trust cannot be checked.
        let is_here = |index| blob.confirmed(index) || (!self.insist && blob.shelf.trusted(index));
        match self.leader.asked() {
            asked if asked.is_empty() => is_here(self.leader.key().index()),
            asked => asked.into_iter().all(is_here),
        }
    }

    /// Claims the unit among all processes; true if nobody else has it.
    fn claim(&mut self, blob: &Arc<Inner>) -> bool {
        let index = self.leader.key().index();
        let Some(trust) = blob.shelf.trust() else { return true };
        match trust.try_claim(index, 1) {
            Ok(true) => {
                self.claim = Some(Claim { blob: Arc::clone(blob), index });
                true
            }
            Ok(false) => false,
            Err(error) => {
                // Without claims a chunk may be fetched twice; that is all.
                tracing::warn!(blob = %blob.description.id, chunk = index, %error, "cannot claim a chunk");
                true
            }
        }
    }
}

/// A unit that other processes leave to us.
struct Claim {
    blob: Arc<Inner>,
    index: u32,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(trust) = self.blob.shelf.trust() {
            trust.release(self.index, 1);
        }
    }
}

/// Starts the flights that one reader opened.
pub(crate) fn launch(blob: &Arc<Inner>, mut opened: Vec<Flying>) {
    opened.sort_by_key(|flying| flying.unit.offset);
    let gap = plan::gap(blob.shared.options.amplify_bytes);
    let spans: Vec<_> = opened.iter().map(Flying::span).collect();
    let mut groups = plan::requests(&spans, gap);
    // From behind, so that a widened request does not meet the next one's units unopened.
    while let Some(group) = groups.pop() {
        let mut group = opened.split_off(group.start);
        widen(blob, &mut group);
        blob.shared.executor.runtime().spawn(lead(Arc::clone(blob), group).in_current_span());
    }
}

/// Adds units that lie around, as long as they are worth it: stored next to it, not here, nobody's, with a known digest,
/// and within the limits of [`Widening`].
fn widen(blob: &Arc<Inner>, group: &mut Vec<Flying>) {
    let limit = widening_limit(blob);
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
    let (Some(table), deadline) = (last.table.clone(), last.leader.deadline()) else { return };
    if limit == 0 || last.span().alone {
        return;
    }
    let spans: Vec<_> = group.iter().map(Flying::span).collect();
    let mut widening = Widening::new(plan::cover(&spans), limit);
    let open = |index: u32, takes: &mut dyn FnMut(Span, u64) -> bool| {
        let unit = table.chunks.unit(&blob.description, index).ok()?;
        let place = Place::from(unit.members.first()?);
        let wanted = !blob.is_here(place) && !blob.shelf.trusted(index) && !blob.shelf.claimed(index);
        if !wanted
            || blob.digests.at_hand(blob, place).is_none()
            || !takes(Span::of(&unit), unit.decoded_size())
        {
            return None;
        }
        let landed = || blob.is_here(place);
        match blob.shelf.flights.board(Key::of(&unit, index), None, deadline, landed) {
            Boarding::Opened(_, leader) => Some(Flying::new(unit, leader, None, Some(table.clone()), false)),
            _ => None,
        }
    };
    let mut before = Vec::new();
    let mut previous = first.unit.members.first().and_then(|chunk| chunk.index.checked_sub(1));
    while let Some(flying) =
        previous.and_then(|index| open(index, &mut |span, decoded| widening.before(span, decoded)))
    {
        previous = flying.unit.members.first().and_then(|chunk| chunk.index.checked_sub(1));
        before.push(flying);
    }
    while let Some(flying) = group.last().and_then(|flying| {
        let chunk = flying.unit.members.last()?;
        let index = chunk.index.checked_add(1).filter(|index| *index < table.chunks.len())?;
        // Only the last chunk of a file is shorter.
        let continues = chunk.uncompressed_size == blob.description.chunk_size;
        open(index, &mut |span, decoded| widening.after(span, decoded, continues))
    }) {
        group.push(flying);
    }
    group.splice(0..0, before.into_iter().rev());
}

/// To how many stored bytes a miss is widened. What comes along is worth fetching if it is kept, and if memory keeps it, it
/// must not push out what others are reading.
fn widening_limit(blob: &Inner) -> u64 {
    let limit = blob.shared.options.amplify_bytes;
    match blob.shelf.form() {
        Form::None => limit.min(blob.shared.memory.limit_bytes() / 16),
        _ if blob.shelf.accepts_writes() => limit,
        _ => 0,
    }
}

/// Claims a group's units and fetches those that are ours; the others wait for who has them, each by itself.
async fn lead(blob: Arc<Inner>, group: Vec<Flying>) {
    let mut ours = Vec::new();
    for mut flying in group {
        if !flying.claim(&blob) {
            if !flying.leader.asked().is_empty() {
                blob.shared
                    .executor
                    .runtime()
                    .spawn(wait_and_lead(Arc::clone(&blob), flying).in_current_span());
            }
        } else if flying.is_elsewhere(&blob) {
            flying.answer_all(&Piece::Elsewhere);
        } else {
            ours.push(flying);
        }
    }
    let spans: Vec<_> = ours.iter().map(Flying::span).collect();
    let mut groups = plan::requests(&spans, plan::gap(blob.shared.options.amplify_bytes));
    let mut requests = Vec::new();
    while let Some(group) = groups.pop() {
        requests.push(request(&blob, ours.split_off(group.start), Attempts::new()));
    }
    join_all(requests).await;
}

/// Waits until another process has published the unit or given it up, or patience ends.
async fn wait_and_lead(blob: Arc<Inner>, mut flying: Flying) {
    blob.shared.metrics.foreign_waits.increment();
    let started = Instant::now();
    let patience = MAX_PATIENCE.min(flying.leader.deadline().saturating_duration_since(started) / 4);
    let mut pause = PAUSES.0;
    let span = info_span!(target: TARGET, "peer", nydus.blob = %blob.description.id, nydus.source = "peer");
    while started.elapsed() < patience {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
        let claimed = flying.claim(&blob);
        if flying.is_elsewhere(&blob) {
            flying.answer_all(&Piece::Elsewhere);
            return;
        }
        if claimed {
            break;
        }
    }
    drop(span);
    request(&blob, vec![flying], Attempts::new()).await;
}

/// Reads the units with one request and lands each as soon as its bytes have come. They ascend by offset and touch, but for
/// small gaps. Whatever is asked for again is on the account of `attempts`.
async fn request(blob: &Arc<Inner>, group: Vec<Flying>, attempts: Attempts) {
    let spans: Vec<_> = group.iter().map(Flying::span).collect();
    let deadline = group.iter().map(|flying| flying.leader.deadline()).max().unwrap_or_else(Instant::now);
    let decoded: u64 = group.iter().map(|flying| flying.unit.decoded_size()).sum();
    let range = plan::cover(&spans);
    let single = (group.len() == 1).then(|| group[0].unit.clone());
    // What a request of many brings is in memory twice: as it came, and cut into units.
    let stored = (range.end - range.start).saturating_mul(if single.is_some() { 1 } else { 2 });
    let memory = blob.shared.budget(stored.saturating_add(decoded), deadline);
    let share = match memory.instrument(trace::queue("memory")).await {
        Ok(share) => share,
        Err(error) => return group.iter().for_each(|flying| flying.leader.answer(Err(error.clone()))),
    };
    let (arrivals, mut pieces) = Arrivals::new();
    let reading = async {
        match &single {
            Some(unit) => read_unit(blob, unit, deadline, &attempts).await,
            None => {
                let (attempts, arrivals) = (attempts.clone(), Some(arrivals));
                let request = Request { priority: Priority::OnDemand, deadline, attempts, arrivals };
                read_range(blob, range.clone(), request).await
            }
        }
    };
    let mut reading = std::pin::pin!(reading);
    let mut deal = Deal::new(&spans);
    let unasked = group.iter().filter(|flying| flying.leader.asked().is_empty());
    let unasked: usize = unasked.map(|flying| flying.unit.members.len()).sum();
    let mut group: Vec<_> = group.into_iter().map(Some).collect();
    let mut neighbours = None;
    let mut arrived = |(index, stored): (usize, Bytes)| {
        let flying = group.get_mut(index)?.take()?;
        // All that comes along is one span, held by each that lands.
        let told = flying.leader.asked().is_empty().then(|| {
            let span = || info_span!(target: TARGET, "neighbours", nydus.chunks = trace::number(unasked));
            neighbours.get_or_insert_with(span).clone()
        });
        let landing = land(blob, flying, stored, attempts.clone());
        Some(async {
            landing.await;
            drop(told);
        })
    };
    let mut landings = FuturesUnordered::new();
    let result = loop {
        let dealt = tokio::select! {
            biased;
            Some((at, piece)) = pieces.recv() => deal.take(at, &piece),
            Some(()) = landings.next(), if !landings.is_empty() => continue,
            result = &mut reading => break result,
        };
        landings.extend(dealt.into_iter().filter_map(&mut arrived));
    };
    let mut last = Vec::new();
    while let Ok((at, piece)) = pieces.try_recv() {
        last.extend(deal.take(at, &piece));
    }
    if let Ok(bytes) = &result {
        last.extend(deal.rest(range.start, bytes));
    }
    landings.extend(last.into_iter().filter_map(&mut arrived));
    drop(neighbours);
    let left: Vec<_> = group.into_iter().flatten().collect();
    let again =
        result.err().map(|error| give_up(left, single.is_some(), &error, &attempts)).unwrap_or_default();
    while landings.next().await.is_some() {}
    // Only now: until it is written, it is in memory. And not later: who holds a share while it waits for another keeps
    // everybody waiting.
    drop(share);
    let again = again.into_iter().map(|flying| Box::pin(request(blob, vec![flying], attempts.of_another())));
    join_all(again).await;
}

/// Answers for what is left of a request that failed, but for what is asked for again, and returns that: a unit that cannot be
/// read, such as one beyond the end of a short blob, must not fail its neighbours, so those that somebody asked for are
/// read one by one. After failures that pass, each is one try more.
fn give_up(left: Vec<Flying>, is_single: bool, error: &Error, attempts: &Attempts) -> Vec<Flying> {
    let is_final = is_single || error.kind() == ErrorKind::TimedOut;
    let mut again = Vec::new();
    for flying in left {
        let is_asked = !flying.leader.asked().is_empty();
        if is_final || is_asked && error.kind() == ErrorKind::Unavailable && !attempts.take() {
            flying.leader.answer(Err(error.clone()));
        } else if is_asked {
            again.push(flying);
        }
        // Else it is dropped: who asks for it by now tries himself.
    }
    again
}

async fn read_range(blob: &Arc<Inner>, range: Range<u64>, request: Request) -> Result<Bytes> {
    let (len, deadline) = (range.end - range.start, request.deadline);
    let read = blob.shared.backend.read(&blob.description.id, range.start, len, request);
    let bytes = count(blob, deadline, read).await?;
    if bytes.len() as u64 != len {
        return Err(Error::corrupt(
            format!("blob {} bytes {} + {len}", blob.description.id, range.start),
            format!("{} bytes came", bytes.len()),
        ));
    }
    Ok(bytes)
}

async fn read_unit(blob: &Arc<Inner>, unit: &Unit, deadline: Instant, attempts: &Attempts) -> Result<Bytes> {
    let attempts = attempts.clone();
    let request = Request { priority: Priority::OnDemand, deadline, attempts, arrivals: None };
    let read = unit.fetch(&blob.description, blob.shared.backend.as_ref(), request);
    count(blob, deadline, read).await
}

/// Counts a read of the backend, and ends it by its deadline whatever the backend does.
async fn count(
    blob: &Inner,
    deadline: Instant,
    read: impl Future<Output = storage::Result<Bytes>>,
) -> Result<Bytes> {
    let (metrics, started) = (&blob.shared.metrics, Instant::now());
    metrics.backend_requests.increment();
    let result = match tokio::time::timeout_at(deadline.into(), read).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(blob.timed_out("the backend", started)),
    };
    match &result {
        Ok(bytes) => metrics.backend_bytes.add(bytes.len() as u64),
        Err(_) => metrics.backend_errors.increment(),
    }
    result
}

/// Reads what describes chunks. If what comes is wrong it is read once more, from another endpoint if there is one. `what`
/// names it in errors.
pub(crate) async fn metadata<T, F>(
    blob: &Inner,
    what: &str,
    deadline: Instant,
    read: impl Fn(Request) -> F,
) -> Result<T>
where
    F: Future<Output = storage::Result<T>>,
{
    let (started, request) = (Instant::now(), Request::new(Priority::OnDemand, deadline));
    let twice = async {
        blob.shared.metrics.metadata_requests.increment();
        match read(request.clone()).await {
            Err(error @ storage::Error::Corrupt { .. }) => {
                tracing::warn!(blob = %blob.description.id, %error, "{what} is wrong: fetched again");
                request.attempts.were_wrong();
                blob.shared.metrics.refetches.increment();
                blob.shared.metrics.metadata_requests.increment();
                read(request).await
            }
            other => other,
        }
    };
    match tokio::time::timeout_at(deadline.into(), twice).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(blob.timed_out(what, started)),
    }
}

/// What came of one chunk of a unit.
enum Verdict {
    /// Digest or checksum is right, or nobody wants it looked at.
    Checked(Bytes),
    /// There is nothing to check it with.
    Unchecked(Bytes),
    /// What is wrong.
    Wrong(Error),
}

/// Turns the stored bytes of a unit into chunks, answers who waits, then keeps them.
async fn land(blob: &Arc<Inner>, mut flying: Flying, mut stored: Bytes, mut attempts: Attempts) {
    // What is asked for from here on is not in this answer; it is told to ask again.
    let asked = flying.leader.asked();
    let deadline = flying.leader.deadline();
    let mut tries = 0;
    let (digests, verdicts) = loop {
        let digests = match digests(blob, &flying, &asked, deadline).await {
            Ok(digests) => digests,
            Err(error) => return flying.leader.answer(Err(error)),
        };
        let verdicts = match examine(blob, &flying.unit, &digests, stored.clone(), !asked.is_empty()).await {
            Ok(verdicts) => verdicts,
            Err(error) => return flying.leader.answer(Err(error)),
        };
        let asked_right = flying.unit.members.iter().zip(&verdicts).all(|(chunk, verdict)| {
            !asked.contains(&chunk.index)
                || match verdict {
                    Verdict::Checked(_) => true,
                    // A table that somebody else left may say anything.
                    Verdict::Unchecked(_) => !flying.is_of_a_foreign_file(),
                    Verdict::Wrong(_) => false,
                }
        });
        tries += 1;
        // Once from elsewhere and, if the table is what is wrong, once more where the next table says.
        let is_table_guilty =
            || flying.table.as_ref().is_some_and(|table| blob.table.failed_chunk(table, Instant::now()));
        if asked_right || tries > 2 || (tries == 2 && !is_table_guilty()) {
            break (digests, verdicts);
        }
        attempts.were_wrong();
        // Units of one request may be wrong one after the other: who sends this one again is not to blame for the others.
        attempts = attempts.of_another();
        match again(blob, &mut flying, &asked, deadline, &attempts).await {
            Ok(bytes) => stored = bytes,
            Err(error) => return flying.leader.answer(Err(error)),
        }
    };
    let mut pieces = Vec::new();
    let mut keep = Vec::new();
    for ((chunk, digest), verdict) in flying.unit.members.iter().zip(digests).zip(verdicts) {
        let is_asked = asked.contains(&chunk.index);
        let piece = match verdict {
            Verdict::Checked(bytes) => {
                keep.push((Place::from(chunk), digest, bytes.clone()));
                Piece::Fetched(bytes)
            }
            Verdict::Unchecked(bytes) if is_asked && !flying.is_of_a_foreign_file() => {
                keep.push((Place::from(chunk), digest, bytes.clone()));
                Piece::Fetched(bytes)
            }
            Verdict::Wrong(error) if is_asked => Piece::Failed(error),
            // Nobody had asked for it: who does by now is worth an own try, or an own look for a digest.
            _ => Piece::Failed(Error::aborted(format!("blob {} chunk {}", blob.description.id, chunk.index))),
        };
        pieces.push((chunk.index, piece));
    }
    blob.shared.metrics.chunks_fetched.add(keep.len() as u64);
    flying.leader.answer(Ok(Arc::new(Served(pieces))));
    store(blob, &flying, keep, stored, !asked.is_empty()).await;
}

/// Fetches a unit once more after what came was wrong, from another endpoint if there is one, by a table of the backend's.
async fn again(
    blob: &Arc<Inner>,
    flying: &mut Flying,
    asked: &[u32],
    deadline: Instant,
    attempts: &Attempts,
) -> Result<Bytes> {
    blob.shared.metrics.refetches.increment();
    if let Some(table) = &flying.table {
        if table.origin != Origin::Backend {
            blob.table.forget_file();
        }
        let of_asked = flying.unit.members.iter().find(|chunk| asked.contains(&chunk.index)).map(Place::from);
        if let Some(place) = of_asked {
            let (units, table) = blob.units(&[(place, None)], deadline).await?;
            flying.table = table;
            if let Some(unit) = units.into_iter().next() {
                flying.unit = unit;
            }
        }
    }
    read_unit(blob, &flying.unit, deadline, attempts).await
}

/// The digests of a unit's chunks: of those that are asked for wherever they are, of the others if they are at hand.
async fn digests(
    blob: &Arc<Inner>,
    flying: &Flying,
    asked: &[u32],
    deadline: Instant,
) -> Result<Vec<Option<Digest>>> {
    let mut digests = Vec::with_capacity(flying.unit.members.len());
    for chunk in &flying.unit.members {
        let place = Place::from(chunk);
        digests.push(if asked.contains(&chunk.index) {
            blob.digests.of(blob, place, flying.record.as_ref(), deadline).await?
        } else {
            blob.digests.at_hand(blob, place)
        });
    }
    Ok(digests)
}

/// Decodes and checks a unit on the decode pool; says what is wrong, once for each chunk. Traces tell of it if `is_told`.
async fn examine(
    blob: &Arc<Inner>,
    unit: &Unit,
    digests: &[Option<Digest>],
    stored: Bytes,
    is_told: bool,
) -> Result<Vec<Verdict>> {
    let (owner, unit, digests) = (Arc::clone(blob), unit.clone(), digests.to_vec());
    // From here on, so that the wait for a thread is part of it.
    let parent = if is_told { tracing::Span::current() } else { tracing::Span::none() };
    let decoding = within(&parent, || info_span!(target: TARGET, parent: &parent, "decode"));
    let job = move || {
        let description = &owner.description;
        let metrics = &owner.shared.metrics;
        let verify = owner.shared.options.verify_on_fetch;
        let decoded = match unit.decode(description, &stored) {
            Ok(decoded) => decoded,
            Err(error) => {
                metrics.digest_mismatches.increment();
                let expected = digests.first().copied().flatten().map(|digest| digest.to_string());
                tracing::error!(%error, expected, "fetched chunk cannot be decoded");
                let error = Error::from(error);
                return unit.members.iter().map(|_| Verdict::Wrong(error.clone())).collect();
            }
        };
        drop(decoding);
        let chunks = trace::number(digests.len());
        let verifying = || info_span!(target: TARGET, parent: &parent, "verify", nydus.chunks = chunks);
        let _verifying = within(&parent, verifying);
        let judged = unit.members.iter().zip(digests).zip(decoded).map(|((chunk, digest), bytes)| {
            let digest = digest.filter(|_| verify);
            match check_chunk(description, chunk.index, digest, chunk.stored.crc32c, &bytes) {
                Ok(true) => Verdict::Checked(bytes),
                Ok(false) if !verify => Verdict::Checked(bytes),
                Ok(false) => Verdict::Unchecked(bytes),
                Err(error) => {
                    metrics.digest_mismatches.increment();
                    tracing::error!(%error, "fetched chunk is wrong");
                    Verdict::Wrong(error.into())
                }
            }
        });
        judged.collect::<Vec<_>>()
    };
    blob.shared.executor.decode.run(job).await
}

/// A span in `parent`, if that is told of.
fn within(parent: &tracing::Span, make: impl FnOnce() -> tracing::Span) -> tracing::Span {
    if parent.is_none() { tracing::Span::none() } else { make() }
}

/// Writes chunks to the data file and publishes them, or holds them in memory where there is no file. Traces tell of it if
/// `is_told`.
async fn store(
    blob: &Arc<Inner>,
    flying: &Flying,
    keep: Vec<(Place, Option<Digest>, Bytes)>,
    stored: Bytes,
    is_told: bool,
) {
    if keep.is_empty() {
        return;
    }
    if blob.shelf.form() == Form::None {
        // The chunks of one unit share an allocation, and one of them must not hold all of it.
        let is_shared = flying.unit.members.len() > 1;
        for (place, _, bytes) in keep {
            let bytes = if is_shared { Bytes::copy_from_slice(&bytes) } else { bytes };
            blob.shared.memory.insert((blob.shelf.number, place), bytes);
        }
        return;
    }
    if !blob.shelf.accepts_writes() {
        return;
    }
    let (owner, insist, offset) = (Arc::clone(blob), flying.insist, flying.unit.offset);
    let writing =
        is_told.then(|| info_span!(target: TARGET, "write", nydus.chunks = trace::number(keep.len())));
    let job = move || {
        let _writing = writing;
        let shelf = &owner.shelf;
        for (place, digest, bytes) in keep {
            // Trusted already, by somebody who was faster.
            let written = if shelf.trusted(place.index) && !insist {
                Ok(true)
            } else if shelf.form() == Form::Raw {
                shelf.write_stored(offset, &stored)
            } else {
                shelf.write_chunk(place, digest, &bytes)
            };
            match written {
                Ok(true) => {
                    if owner.confirm(place.index) {
                        owner.shared.metrics.chunks_cached.increment();
                    }
                }
                Ok(false) => {}
                Err(error) => return shelf.pause(&error, &owner.shared.metrics),
            }
        }
    };
    if let Err(error) = blob.shared.executor.disk.run(job).await {
        tracing::warn!(blob = %blob.description.id, %error, "fetched chunks were not cached");
    }
}
