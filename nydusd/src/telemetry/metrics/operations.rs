//! What the kernel asks of one mounted image, counted by operation (spec/api.md §3).
//!
//! Invariant: a request that a worker answers at once costs some plain additions to numbers that nobody else writes; no
//! lock, no allocation, no shared cache line. A READ that waits takes a lock, once it has its answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::clock::coarse_seconds;
use super::files::Files;
use super::reads::lock;

/// An operation that is counted; their order is that of the API's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    GetAttr,
    ReadLink,
    Open,
    Release,
    Read,
    StatFs,
    GetXattr,
    ListXattr,
    OpenDir,
    Lookup,
    ReadDir,
    ReadDirPlus,
    Access,
    Forget,
    BatchForget,
}

/// How many there are.
pub const OPERATIONS: usize = Operation::BatchForget as usize + 1;
/// Classes of sizes, and of latencies.
pub const CLASSES: usize = 8;
/// Largest latency of each class but the last, in microseconds.
const LATENCY_MICROS: [u64; CLASSES - 1] = [200, 1_000, 20_000, 50_000, 500_000, 1_000_000, 2_000_000];
/// Of READs that are answered at once, one in so many is timed; those since the last one that was count as long as it.
const TIMED: u64 = 16;

/// A counter with one writer.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, n: u64) {
        self.set(self.get() + n);
    }

    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests that one thread has answered. Only one thread may call what counts: of two at the same time one may be lost.
#[derive(Debug, Default)]
pub struct Tally {
    hits: [Count; OPERATIONS],
    errors: [Count; OPERATIONS],
    nanos: [Count; OPERATIONS],
    read_sizes: [Count; CLASSES],
    read_latencies: [Count; CLASSES],
    read_bytes: Count,
    /// READs that were answered at once with data; not in `hits`.
    ready: Count,
    /// How many of them are in `nanos` and `read_latencies`.
    timed: Count,
    /// The latency of the one that was timed last.
    timed_nanos: Count,
    timed_class: Count,
    current: Current,
}

/// The request that a thread is at.
#[derive(Debug, Default)]
struct Current {
    /// 0: none.
    unique: AtomicU64,
    opcode: AtomicU64,
    nodeid: AtomicU64,
    since_secs: AtomicU64,
}

/// A request without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight {
    /// The kernel's number of the request.
    pub unique: u64,
    /// What is asked, as FUSE numbers it.
    pub opcode: u32,
    /// Of which inode, as FUSE numbers it.
    pub nodeid: u64,
    /// Since when, in seconds since 1970.
    pub since_secs: u64,
}

impl Tally {
    /// The thread takes a request.
    pub fn take(&self, unique: u64, opcode: u32, nodeid: u64) {
        let current = &self.current;
        current.opcode.store(opcode.into(), Ordering::Relaxed);
        current.nodeid.store(nodeid, Ordering::Relaxed);
        current.since_secs.store(coarse_seconds(), Ordering::Relaxed);
        current.unique.store(unique, Ordering::Release);
    }

    /// The thread is done with it: it is answered, or somebody else's.
    pub fn leave(&self) {
        self.current.unique.store(0, Ordering::Release);
    }

    /// The request that the thread is at.
    fn inflight(&self) -> Option<Inflight> {
        let current = &self.current;
        let unique = current.unique.load(Ordering::Acquire);
        let request = Inflight {
            unique,
            opcode: u32::try_from(current.opcode.load(Ordering::Acquire)).unwrap_or(u32::MAX),
            nodeid: current.nodeid.load(Ordering::Acquire),
            since_secs: current.since_secs.load(Ordering::Acquire),
        };
        // Another one meanwhile: what was read may be of both.
        (unique != 0 && current.unique.load(Ordering::Relaxed) == unique).then_some(request)
    }

    /// A READ that may be answered at once begins: what [`Tally::read_ready`] wants to know.
    #[inline]
    pub fn begin_read(&self) -> Option<Instant> {
        let count = self.ready.get();
        (count < TIMED || count.is_multiple_of(TIMED)).then(Instant::now)
    }

    /// A READ of `size` bytes was answered at once with `len`.
    #[inline]
    pub fn read_ready(&self, size: u32, len: usize, began: Option<Instant>) {
        self.ready.add(1);
        self.read_sizes[size_class(size)].add(1);
        self.read_bytes.add(len as u64);
        if let Some(began) = began {
            self.time(began.elapsed());
        }
    }

    /// The READ that was answered last took so long.
    fn time(&self, took: Duration) {
        let (count, class, nanos) = (self.ready.get(), latency_class(took), nanos(took));
        let since = count.saturating_sub(self.timed.get());
        self.read_latencies[class].add(since);
        let sum = &self.nanos[Operation::Read as usize];
        sum.set(sum.get().saturating_add(since.saturating_mul(nanos)));
        self.timed_class.set(class as u64);
        self.timed_nanos.set(nanos);
        self.timed.set(count);
    }

    /// A READ of `size` bytes that waited was answered with `len`.
    fn read(&self, size: u32, len: usize, took: Duration) {
        self.answered(Operation::Read, false, took);
        self.read_sizes[size_class(size)].add(1);
        self.read_latencies[latency_class(took)].add(1);
        self.read_bytes.add(len as u64);
    }

    /// A request was answered.
    pub fn answered(&self, operation: Operation, failed: bool, took: Duration) {
        self.hits[operation as usize].add(1);
        self.errors[operation as usize].add(failed.into());
        self.nanos[operation as usize].add(nanos(took));
    }
}

/// Everything that was asked of an image, since it was mounted.
#[derive(Debug, Default)]
pub struct Operations {
    threads: Mutex<Vec<Arc<Tally>>>,
    /// READs that waited: answered by whichever thread.
    waited: Mutex<Tally>,
    /// By file, if the configuration asks for it.
    files: Option<Files>,
}

/// Sums, in the units of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests, by operation.
    pub hits: [u64; OPERATIONS],
    /// Those that failed.
    pub errors: [u64; OPERATIONS],
    /// How long they took together.
    pub micros: [u64; OPERATIONS],
    /// READs, by the size that was asked for.
    pub read_sizes: [u64; CLASSES],
    /// READs with data, by latency.
    pub read_latencies: [u64; CLASSES],
    /// Bytes that were read.
    pub read_bytes: u64,
}

impl Operations {
    /// Nothing yet; with `files`, records of files too.
    pub fn new(files: Option<Files>) -> Self {
        Self { files, ..Self::default() }
    }

    /// Counters for one thread that answers requests.
    pub fn tally(&self) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        lock(&self.threads).push(tally.clone());
        tally
    }

    /// A READ that waited was answered with `len` bytes.
    pub fn waited(&self, size: u32, len: usize, took: Duration) {
        lock(&self.waited).read(size, len, took);
    }

    /// A READ that waited has failed.
    pub fn failed(&self, took: Duration) {
        lock(&self.waited).answered(Operation::Read, true, took);
    }

    /// What was done with which file, if that is recorded.
    pub fn files(&self) -> Option<&Files> {
        self.files.as_ref()
    }

    /// READs that were answered at once, with data.
    pub fn ready(&self) -> u64 {
        lock(&self.threads).iter().map(|tally| tally.ready.get()).sum()
    }

    /// Requests that threads are at.
    pub fn inflight(&self) -> Vec<Inflight> {
        lock(&self.threads).iter().filter_map(|tally| tally.inflight()).collect()
    }

    /// All of it.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        lock(&self.threads).iter().for_each(|tally| totals.add(tally));
        totals.add(&lock(&self.waited));
        totals.micros.iter_mut().for_each(|nanos| *nanos /= 1000);
        totals
    }
}

impl Totals {
    /// Adds a tally, `micros` in nanoseconds.
    fn add(&mut self, tally: &Tally) {
        let add = |sums: &mut [u64], counts: &[Count]| {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.wrapping_add(count.get()));
        };
        add(&mut self.hits, &tally.hits);
        add(&mut self.errors, &tally.errors);
        add(&mut self.micros, &tally.nanos);
        add(&mut self.read_sizes, &tally.read_sizes);
        add(&mut self.read_latencies, &tally.read_latencies);
        self.read_bytes = self.read_bytes.wrapping_add(tally.read_bytes.get());
        let ready = tally.ready.get();
        self.hits[Operation::Read as usize] += ready;
        // Those since the last one that was timed.
        let rest = ready.saturating_sub(tally.timed.get());
        self.read_latencies[(tally.timed_class.get() as usize).min(CLASSES - 1)] += rest;
        let nanos = &mut self.micros[Operation::Read as usize];
        *nanos = nanos.saturating_add(rest.saturating_mul(tally.timed_nanos.get()));
    }
}

/// The class of a size in bytes: below 1, 4, 16, 64, 128, 512 KiB, 1 MiB, and all others.
pub(super) fn size_class(size: u32) -> usize {
    match u32::BITS - size.leading_zeros() {
        0..=10 => 0,
        11..=12 => 1,
        13..=14 => 2,
        15..=16 => 3,
        17 => 4,
        18..=19 => 5,
        20 => 6,
        _ => 7,
    }
}

fn latency_class(took: Duration) -> usize {
    let micros = took.as_micros();
    LATENCY_MICROS.iter().position(|limit| micros <= u128::from(*limit)).unwrap_or(CLASSES - 1)
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_bounds_of_the_api() {
        const KIB: u32 = 1024;
        let bounds = [1, 4, 16, 64, 128, 512, 1024].map(|kib| kib * KIB);
        for (class, bound) in bounds.into_iter().enumerate() {
            assert_eq!((size_class(bound - 1), size_class(bound)), (class, class + 1), "{bound}");
        }
        assert_eq!((size_class(0), size_class(u32::MAX)), (0, 7));
        let micros = |micros| latency_class(Duration::from_micros(micros));
        for (class, limit) in LATENCY_MICROS.into_iter().enumerate() {
            assert_eq!((micros(limit), micros(limit + 1)), (class, class + 1), "{limit}");
        }
    }

    #[test]
    fn all_threads_and_those_that_waited_are_summed() {
        let operations = Operations::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let tally = operations.tally();
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        let began = tally.begin_read();
                        tally.read_ready(4096, 100, began);
                    }
                    tally.answered(Operation::Lookup, false, Duration::from_micros(7));
                    tally.answered(Operation::Read, true, Duration::ZERO);
                });
            }
        });
        operations.waited(1 << 20, 1000, Duration::from_millis(30));
        operations.failed(Duration::from_secs(3));
        assert_eq!(operations.ready(), 40_000);
        let totals = operations.totals();
        let read = Operation::Read as usize;
        assert_eq!((totals.hits[read], totals.errors[read]), (40_006, 5));
        assert_eq!(totals.read_sizes, [0, 0, 40_000, 0, 0, 0, 0, 1]);
        assert_eq!((totals.read_latencies.iter().sum::<u64>(), totals.read_latencies[3]), (40_001, 1));
        assert_eq!(totals.read_bytes, 4_001_000);
        assert!(totals.micros[read] >= 3_030_000, "{totals:?}");
        let lookup = Operation::Lookup as usize;
        assert_eq!((totals.hits[lookup], totals.errors[lookup], totals.micros[lookup]), (4, 0, 28));
    }

    #[test]
    fn a_request_is_in_flight_until_its_thread_leaves_it() {
        let operations = Operations::default();
        let tally = operations.tally();
        assert_eq!(operations.inflight(), []);
        tally.take(7, 44, 3);
        let [request] = operations.inflight()[..] else { panic!("one request") };
        assert_eq!((request.unique, request.opcode, request.nodeid), (7, 44, 3));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 5..=now).contains(&request.since_secs), "{request:?}");
        tally.leave();
        assert_eq!(operations.inflight(), []);
    }
}
