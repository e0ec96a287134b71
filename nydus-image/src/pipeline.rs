//! Chunks on their way from the source to the blob: one dispenser, many workers, one writer.
//!
//! ```text
//!   Jobs::next ──▶ N workers: read, digest, encode ──▶ in the order of the jobs ──▶ Sink::store
//!   (one at a time)      (in any order)                    (the calling thread)
//! ```
//!
//! Invariants: `store` sees every chunk once, in the order in which [`Jobs`] gave them, so the result does not
//! depend on the number of workers. What lies between dispenser and writer is at most [`Limits::bytes`] of source
//! data, or one chunk. The first error, in the same order, ends the run and is the one that is reported; a
//! worker that panics ends it too.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use storage::digest::Digest;

use crate::error::{Error, Result};
use crate::source::content::SourceFile;

/// What the least chunk counts as; bounds the number of chunks on their way.
const MIN_COST: u64 = 4096;

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
    /// To be read by a worker, at this offset.
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
    fn encode(&self, digest: Digest, data: Vec<u8>, is_whole_file: bool) -> Result<Self::Encoded>;
    /// True if a chunk need never be stored, because another image has it.
    fn is_known(&self, digest: &Digest, len: u32) -> bool;
}

/// Takes the chunks in order.
pub trait Sink<T> {
    /// Stores a chunk, or notes that it is there: `encoded` is `None` only for chunks whose digest came before, or
    /// that [`Encoder::is_known`].
    fn store(&mut self, chunk: Chunk, encoded: Option<T>) -> Result<()>;
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
    /// Workers; at least 1.
    pub threads: usize,
    /// Bytes of source data between dispenser and writer.
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
        dispenser: Mutex::new(Dispenser { jobs, next: 0, ended: false }),
        state: Mutex::new(State { done: BTreeMap::new(), in_flight: 0, total: None, cancelled: false }),
        changed: Condvar::new(),
        room: Condvar::new(),
        claims: Mutex::new(HashMap::new()),
        zeros: OnceLock::new(),
        encoder,
        limits,
    };
    std::thread::scope(|scope| {
        for number in 0..limits.threads.max(1) {
            let builder = std::thread::Builder::new().name(format!("chunks-{number}"));
            let shared = &shared;
            if let Err(source) = builder.spawn_scoped(scope, move || shared.work()) {
                shared.cancel();
                return Err(Error::Threads { source });
            }
        }
        // Whatever ends the writer, a panic included, must end the workers.
        let _cancel = CancelOnDrop(&shared);
        shared.write(sink)
    })
}

struct Shared<'a, J, E: Encoder> {
    dispenser: Mutex<Dispenser<J>>,
    state: Mutex<State<E::Encoded>>,
    /// The writer waits here.
    changed: Condvar,
    /// The worker that holds the dispenser waits here.
    room: Condvar,
    /// Who encodes a chunk: the earliest job that is known to have its digest.
    claims: Mutex<HashMap<Digest, u64>>,
    /// Digest of a chunk of zeros of the full size.
    zeros: OnceLock<Digest>,
    encoder: &'a E,
    limits: Limits,
}

struct Dispenser<J> {
    jobs: J,
    /// The number of the next job.
    next: u64,
    ended: bool,
}

struct State<T> {
    /// What came out of the workers and waits for its turn.
    done: BTreeMap<u64, Done<T>>,
    /// Sum of the costs of what was dispensed and not yet stored.
    in_flight: u64,
    /// How many jobs there are, once it is known.
    total: Option<u64>,
    cancelled: bool,
}

type Done<T> = Result<(Chunk, Option<T>, u64)>;

/// The data behind a mutex. A thread that panicked with one of ours held has cancelled the run.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<J: Jobs, E: Encoder> Shared<'_, J, E> {
    fn cancel(&self) {
        lock(&self.state).cancelled = true;
        self.changed.notify_all();
        self.room.notify_all();
    }

    /// One worker.
    fn work(&self) {
        let guard = CancelOnDrop(self);
        while let Some((number, job)) = self.dispense() {
            let done = job.and_then(|(job, cost)| {
                let (chunk, encoded) = self.process(number, job)?;
                Ok((chunk, encoded, cost))
            });
            let failed = done.is_err();
            lock(&self.state).done.insert(number, done);
            self.changed.notify_one();
            if failed {
                // Earlier jobs may be with other workers, and fail too: the writer decides.
                lock(&self.dispenser).ended = true;
            }
        }
        // A worker that has nothing left to do ends nobody else's work.
        std::mem::forget(guard);
    }

    /// The next job and what it costs, or `None` if there is none.
    fn dispense(&self) -> Option<(u64, Result<(Job, u64)>)> {
        let mut dispenser = lock(&self.dispenser);
        if dispenser.ended {
            return None;
        }
        // Room is taken in the order of the jobs, so the writer never waits for one that waits for room.
        let most = u64::from(self.limits.chunk_size).max(MIN_COST);
        let mut state = lock(&self.state);
        while !state.cancelled && state.in_flight > 0 && state.in_flight + most > self.limits.bytes {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.cancelled {
            return None;
        }
        state.in_flight += most;
        drop(state);

        let number = dispenser.next;
        let job = dispenser.jobs.next();
        let cost = match &job {
            Ok(Some(Job { content: Content::Zeros, .. })) => MIN_COST,
            Ok(Some(job)) => u64::from(job.len).max(MIN_COST),
            _ => 0,
        };
        let mut state = lock(&self.state);
        state.in_flight -= most - cost.min(most);
        match job {
            Ok(Some(job)) => {
                dispenser.next += 1;
                Some((number, Ok((job, cost.min(most)))))
            }
            Ok(None) => {
                dispenser.ended = true;
                state.total = Some(number);
                self.changed.notify_one();
                None
            }
            Err(error) => {
                dispenser.ended = true;
                Some((number, Err(error)))
            }
        }
    }

    /// Reads, digests, and encodes unless an earlier job does.
    fn process(&self, number: u64, job: Job) -> Result<(Chunk, Option<E::Encoded>)> {
        let Job { file, file_offset, len, is_whole_file, content } = job;
        let data = match content {
            Content::Bytes(data) => Some(data),
            Content::File(source, offset) => Some(source.read(offset, len)?),
            Content::Zeros => None,
        };
        let digest = match &data {
            Some(data) => self.encoder.digest(data),
            None if len == self.limits.chunk_size => {
                *self.zeros.get_or_init(|| self.encoder.digest(&vec![0; len as usize]))
            }
            None => self.encoder.digest(&vec![0; len as usize]),
        };
        let chunk = Chunk { file, file_offset, len, digest };
        if self.encoder.is_known(&digest, len) || !self.claim(digest, number) {
            return Ok((chunk, None));
        }
        let data = data.unwrap_or_else(|| vec![0; len as usize]);
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

    /// The writer: stores in order what the workers have done.
    fn write<S: Sink<E::Encoded>>(&self, sink: &mut S) -> Result<()> {
        let mut number = 0;
        loop {
            let mut state = lock(&self.state);
            let done = loop {
                if let Some(done) = state.done.remove(&number) {
                    break done;
                }
                if state.total == Some(number) {
                    return Ok(());
                }
                if state.cancelled {
                    return Err(Error::Cancelled);
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let (chunk, encoded, cost) = done?;
            sink.store(chunk, encoded)?;
            lock(&self.state).in_flight -= cost;
            self.room.notify_one();
            number += 1;
        }
    }
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
