//! Chunks on their way from the source to the blob, on as many threads as were asked for, the calling one included.
//!
//! ```text
//!   Jobs::next ──▶ a lot of jobs ──▶ read, digest, encode ──▶ in the order of the jobs ──▶ Sink::store
//!   (one thread at a time)       (any thread, in any order)       (the calling thread) ◀──▶ tasks (any thread)
//! ```
//!
//! Threads take jobs in lots, so that small chunks do not pay for a hand-over each. The calling thread stores what is
//! next in order, and where that is not there yet it works as the others do; so one thread alone does everything in
//! turn, without waiting for anybody. What storing brings up, and is worth another thread, is a [`Task`].
//!
//! Invariants: `store` sees every chunk once, in the order in which [`Jobs`] gave them, so the result does not
//! depend on the number of threads. What lies between source and blob is at most [`Limits::bytes`] of source
//! data, or one lot, and as much again in the sink. The first error, in the same order, ends the run and is the one that
//! is reported; a thread that panics ends it too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use storage::digest::Digest;

use crate::error::{Error, Result};
use crate::source::content::SourceFile;

/// What the least chunk counts as; bounds the number of chunks on their way.
const MIN_COST: u64 = 4096;
/// A lot is full when it has so many bytes, with the last chunk more: below a millisecond's work.
const LOT_BYTES: u64 = 256 << 10;

/// One chunk of a file, to be stored.
#[derive(Debug)]
pub struct Job {
    /// Where it belongs: a number that means something to the [`Sink`].
    pub file: usize,
    /// Where it begins in the file.
    pub file_offset: u64,
    /// Its bytes; never 0.
    pub len: u32,
    /// True if the file has no other chunk.
    pub is_whole_file: bool,
    /// Its content, or where to get it.
    pub content: Content,
}

/// The content of a chunk.
#[derive(Debug)]
pub enum Content {
    /// Here it is.
    Bytes(Vec<u8>),
    /// To be read, at this offset.
    File(std::sync::Arc<SourceFile>, u64),
    /// A hole.
    Zeros,
}

/// Gives the chunks in the order in which they are stored.
pub trait Jobs: Send {
    /// The next one. Nobody asks again after the end or an error.
    fn next(&mut self) -> Result<Option<Job>>;
}

impl<J: Jobs> Jobs for &mut J {
    fn next(&mut self) -> Result<Option<Job>> {
        J::next(self)
    }
}

/// Digests and encodes, on any thread.
pub trait Encoder: Sync {
    /// What is stored.
    type Encoded: Send;
    /// The digest of a chunk.
    fn digest(&self, data: &[u8]) -> Digest;
    /// Makes what is stored of a chunk. The bool says whether the file has no other chunk.
    fn encode(&self, digest: Digest, data: &[u8], is_whole_file: bool) -> Result<Self::Encoded>;
    /// True if a chunk need never be stored, because another image has it.
    fn is_known(&self, digest: &Digest, len: u32) -> bool;
}

/// Work for any thread.
pub type Task = Box<dyn FnOnce() + Send>;

/// Takes the chunks in order.
pub trait Sink<T> {
    /// Stores a chunk, or notes that it is there: `encoded` is `None` only for chunks whose digest came before, or
    /// that [`Encoder::is_known`].
    fn store(&mut self, chunk: Chunk, encoded: Option<T>) -> Result<()>;

    /// The next piece of work that storing has brought up. Asked after each chunk until there is none.
    fn task(&mut self) -> Option<Task> {
        None
    }

    /// Goes on with what waited for tasks; called after some have ended.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Bytes that wait for tasks. No chunk is stored while they are more than the limit, and the run does not end
    /// while there are any.
    fn backlog(&self) -> u64 {
        0
    }
}

/// A chunk that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// As in the job.
    pub file: usize,
    /// As in the job.
    pub file_offset: u64,
    /// As in the job.
    pub len: u32,
    /// The digest of the content.
    pub digest: Digest,
}

/// How much is done at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads, with the calling one; at least 1.
    pub threads: usize,
    /// Bytes of source data between source and sink.
    pub bytes: u64,
    /// The largest chunk.
    pub chunk_size: u32,
}

/// Runs all jobs through, and returns when all are stored.
pub fn run<J, E, S>(jobs: J, encoder: &E, sink: &mut S, limits: Limits) -> Result<()>
where
    J: Jobs,
    E: Encoder,
    S: Sink<E::Encoded>,
{
    let shared = Shared {
        dispenser: Mutex::new(Dispenser { jobs, lots: 0, chunks: 0 }),
        state: Mutex::new(State {
            done: BTreeMap::new(),
            tasks: VecDeque::new(),
            ended_tasks: 0,
            in_flight: 0,
            total: None,
            is_dry: false,
            cancelled: false,
            storer_waits: false,
            idle: 0,
        }),
        changed: Condvar::new(),
        work: Condvar::new(),
        claims: Mutex::new(HashMap::new()),
        zeros: OnceLock::new(),
        encoder,
        limits,
    };
    std::thread::scope(|scope| {
        // Whatever ends this thread, an error or a panic or that all is done, ends the others.
        let _cancel = CancelOnDrop(&shared);
        for number in 1..limits.threads {
            let builder = std::thread::Builder::new().name(format!("chunks-{number}"));
            let shared = &shared;
            builder.spawn_scoped(scope, move || shared.help()).map_err(|source| Error::Threads { source })?;
        }
        shared.store_all(sink)
    })
}

struct Shared<'a, J, E: Encoder> {
    /// Locked before `state`, where both are.
    dispenser: Mutex<Dispenser<J>>,
    state: Mutex<State<E::Encoded>>,
    /// The calling thread waits here.
    changed: Condvar,
    /// The others wait here, for room or tasks.
    work: Condvar,
    /// Who encodes a chunk: the earliest job that is known to have its digest.
    claims: Mutex<HashMap<Digest, u64>>,
    /// Digest of a chunk of zeros of the full size.
    zeros: OnceLock<Digest>,
    encoder: &'a E,
    limits: Limits,
}

struct Dispenser<J> {
    jobs: J,
    /// How many lots and chunks were given out.
    lots: u64,
    chunks: u64,
}

/// Some jobs in a row.
struct Lot {
    number: u64,
    /// The number of the first job.
    first: u64,
    jobs: Vec<Job>,
    /// Why there are no more.
    error: Option<Error>,
    cost: u64,
}

/// What became of a lot.
struct DoneLot<T> {
    chunks: Vec<(Chunk, Option<T>)>,
    /// What happened behind them.
    error: Option<Error>,
    cost: u64,
}

struct State<T> {
    /// What waits for its turn to be stored.
    done: BTreeMap<u64, DoneLot<T>>,
    tasks: VecDeque<Task>,
    /// How many were run.
    ended_tasks: u64,
    /// Sum of the costs of what was given out and not yet stored.
    in_flight: u64,
    /// How many lots there are, once it is known.
    total: Option<u64>,
    /// Nothing more is to be given out.
    is_dry: bool,
    cancelled: bool,
    /// The calling thread waits.
    storer_waits: bool,
    /// So many others wait.
    idle: usize,
}

/// The data behind a mutex. A thread that panicked with one of ours held has cancelled the run.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the calling thread does next.
enum Turn<T> {
    Store(DoneLot<T>),
    Run(Task),
    Settle,
    Work,
    End,
}

impl<J: Jobs, E: Encoder> Shared<'_, J, E> {
    fn cancel(&self) {
        lock(&self.state).cancelled = true;
        self.changed.notify_all();
        self.work.notify_all();
    }

    /// The calling thread: stores in order, and works while there is nothing to store.
    fn store_all<S: Sink<E::Encoded>>(&self, sink: &mut S) -> Result<()> {
        let mut scratch = Vec::new();
        let (mut next, mut settled) = (0, 0);
        loop {
            match self.turn(next, settled, sink.backlog())? {
                Turn::Store(lot) => {
                    for (chunk, encoded) in lot.chunks {
                        sink.store(chunk, encoded)?;
                        while let Some(task) = sink.task() {
                            self.add_task(task);
                        }
                    }
                    if let Some(error) = lot.error {
                        return Err(error);
                    }
                    next += 1;
                    let mut state = lock(&self.state);
                    state.in_flight -= lot.cost;
                    if state.idle > 0 && !state.is_dry {
                        self.work.notify_one();
                    }
                }
                Turn::Run(task) => self.run_task(task),
                Turn::Settle => {
                    settled = lock(&self.state).ended_tasks;
                    sink.settle()?;
                }
                Turn::Work => {
                    if let Some(lot) = self.dispense() {
                        self.process(lot, &mut scratch);
                    }
                }
                Turn::End => return Ok(()),
            }
        }
    }

    /// What is to be done now that lot `next` is to be stored, with so many tasks settled and bytes waiting.
    fn turn(&self, next: u64, settled: u64, backlog: u64) -> Result<Turn<E::Encoded>> {
        let mut state = lock(&self.state);
        loop {
            if state.cancelled {
                return Err(Error::Cancelled);
            }
            if state.ended_tasks != settled {
                return Ok(Turn::Settle);
            }
            if backlog <= self.limits.bytes
                && let Some(lot) = state.done.remove(&next)
            {
                return Ok(Turn::Store(lot));
            }
            if let Some(task) = state.tasks.pop_front() {
                return Ok(Turn::Run(task));
            }
            if state.total == Some(next) && backlog == 0 {
                return Ok(Turn::End);
            }
            if self.has_room(&state) {
                return Ok(Turn::Work);
            }
            state.storer_waits = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.storer_waits = false;
        }
    }

    /// Every other thread.
    fn help(&self) {
        // Not only an error: a panic must not leave the others waiting.
        let guard = CancelOnDrop(self);
        let mut scratch = Vec::new();
        let mut state = lock(&self.state);
        while !state.cancelled {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                self.run_task(task);
                state = lock(&self.state);
            } else if self.has_room(&state) {
                drop(state);
                if let Some(lot) = self.dispense() {
                    self.process(lot, &mut scratch);
                }
                state = lock(&self.state);
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
        drop(state);
        std::mem::forget(guard);
    }

    fn add_task(&self, task: Task) {
        let mut state = lock(&self.state);
        state.tasks.push_back(task);
        if state.idle > 0 {
            self.work.notify_one();
        }
    }

    fn run_task(&self, task: Task) {
        task();
        let mut state = lock(&self.state);
        state.ended_tasks += 1;
        self.wake_storer(&state);
    }

    fn wake_storer(&self, state: &State<E::Encoded>) {
        if state.storer_waits {
            self.changed.notify_one();
        }
    }

    /// What a lot may cost.
    fn most(&self) -> u64 {
        LOT_BYTES + u64::from(self.limits.chunk_size).max(MIN_COST)
    }

    /// True if another lot may be given out. There is always room for one, so the next to be stored is never missing
    /// for want of it.
    fn has_room(&self, state: &State<E::Encoded>) -> bool {
        !state.is_dry && (state.in_flight == 0 || state.in_flight + self.most() <= self.limits.bytes)
    }

    /// The next lot; `None` if another thread has taken the room, or there is nothing left.
    fn dispense(&self) -> Option<Lot> {
        let mut dispenser = lock(&self.dispenser);
        {
            let mut state = lock(&self.state);
            if state.cancelled || !self.has_room(&state) {
                return None;
            }
            state.in_flight += self.most();
        }
        let mut lot =
            Lot { number: dispenser.lots, first: dispenser.chunks, jobs: Vec::new(), error: None, cost: 0 };
        let mut is_last = false;
        while lot.cost < LOT_BYTES && !is_last {
            match dispenser.jobs.next() {
                Ok(Some(job)) => {
                    lot.cost += match job.content {
                        Content::Zeros => MIN_COST,
                        _ => u64::from(job.len).max(MIN_COST),
                    };
                    lot.jobs.push(job);
                }
                Ok(None) => is_last = true,
                Err(error) => {
                    lot.error = Some(error);
                    is_last = true;
                }
            }
        }
        lot.cost = lot.cost.min(self.most());
        dispenser.lots += 1;
        dispenser.chunks += lot.jobs.len() as u64;
        let mut state = lock(&self.state);
        state.in_flight -= self.most() - lot.cost;
        if is_last {
            state.is_dry = true;
            state.total = Some(dispenser.lots);
        }
        Some(lot)
    }

    /// Reads, digests and encodes a lot.
    fn process(&self, lot: Lot, scratch: &mut Vec<u8>) {
        let Lot { number, first, jobs, mut error, cost } = lot;
        let mut chunks = Vec::with_capacity(jobs.len());
        for (number, job) in (first..).zip(jobs) {
            match self.process_job(number, job, scratch) {
                Ok(done) => chunks.push(done),
                Err(earlier) => {
                    error = Some(earlier);
                    break;
                }
            }
        }
        let mut state = lock(&self.state);
        // Lots before this one may be with other threads, and fail too: who stores them decides.
        state.is_dry |= error.is_some();
        state.done.insert(number, DoneLot { chunks, error, cost });
        self.wake_storer(&state);
    }

    /// Reads, digests, and encodes unless an earlier job does.
    fn process_job(
        &self,
        number: u64,
        job: Job,
        scratch: &mut Vec<u8>,
    ) -> Result<(Chunk, Option<E::Encoded>)> {
        let Job { file, file_offset, len, is_whole_file, content } = job;
        let mut known = None;
        let data = match &content {
            Content::Bytes(data) => data.as_slice(),
            Content::File(source, offset) => {
                let room = room(scratch, len);
                source.read(*offset, room)?;
                room
            }
            Content::Zeros => {
                let room = room(scratch, len);
                room.fill(0);
                if len == self.limits.chunk_size {
                    known = Some(*self.zeros.get_or_init(|| self.encoder.digest(room)));
                }
                room
            }
        };
        let digest = known.unwrap_or_else(|| self.encoder.digest(data));
        let chunk = Chunk { file, file_offset, len, digest };
        if self.encoder.is_known(&digest, len) || !self.claim(digest, number) {
            return Ok((chunk, None));
        }
        Ok((chunk, Some(self.encoder.encode(digest, data, is_whole_file)?)))
    }

    /// False if an earlier job encodes the chunk of this digest.
    fn claim(&self, digest: Digest, number: u64) -> bool {
        let mut claims = lock(&self.claims);
        let first = claims.entry(digest).or_insert(number);
        let ours = *first >= number;
        *first = number.min(*first);
        ours
    }
}

/// So many bytes of a thread's own buffer, with whatever is in them.
fn room(scratch: &mut Vec<u8>, len: u32) -> &mut [u8] {
    let len = len as usize;
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    scratch.split_at_mut(len).0
}

/// Ends the run when it is dropped.
struct CancelOnDrop<'a, 'b, J: Jobs, E: Encoder>(&'a Shared<'b, J, E>);

impl<J: Jobs, E: Encoder> Drop for CancelOnDrop<'_, '_, J, E> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests;
