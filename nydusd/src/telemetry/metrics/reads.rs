//! READs of one mounted image that waited: how many, for how long, and which wait now.
//!
//! A READ that is answered at once is none of these: it takes no lock. A READ that waits may take one, twice.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage::metrics::{Counter, Distribution, Histogram};

/// Bounds of waits, in microseconds: a millisecond to two minutes.
const WAIT_MICROS: [u64; 16] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
];

/// How a READ that waited ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnding {
    /// With its data.
    Data,
    /// At its deadline.
    TimedOut,
    /// With another error.
    Failed,
    /// Its reader did not wait for it.
    Interrupted,
}

impl WaitEnding {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Data, Self::TimedOut, Self::Failed, Self::Interrupted];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// READs of one mounted image that waited, since it was mounted.
#[derive(Debug)]
pub struct Reads {
    waits: Mutex<Waits>,
    endings: [Counter; WaitEnding::ALL.len()],
    wait_micros: Histogram,
}

/// READs that wait now, the oldest first.
#[derive(Debug, Default)]
struct Waits {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            waits: Mutex::default(),
            endings: Default::default(),
            wait_micros: Histogram::new(&WAIT_MICROS),
        }
    }
}

impl Reads {
    /// A READ begins to wait, until what is returned is dropped.
    pub fn wait(&self) -> Wait<'_> {
        let (start, mut waits) = (Instant::now(), lock(&self.waits));
        let id = waits.next;
        waits.next += 1;
        waits.since.insert(id, start);
        Wait { reads: self, id, start, ending: WaitEnding::Interrupted }
    }

    /// How many READs wait now, and how long the oldest has.
    pub fn waiting(&self) -> (usize, Duration) {
        let waits = lock(&self.waits);
        let oldest = waits.since.first_key_value().map(|(_, since)| since.elapsed());
        (waits.since.len(), oldest.unwrap_or_default())
    }

    /// READs that waited and ended so.
    pub fn ended(&self, ending: WaitEnding) -> u64 {
        self.endings[ending as usize].get()
    }

    /// READs that waited and ended, however.
    pub fn waited(&self) -> u64 {
        self.endings.iter().map(Counter::get).sum()
    }

    /// How long READs waited that have ended, in microseconds.
    pub fn wait_micros(&self) -> Distribution {
        self.wait_micros.distribution()
    }
}

/// A READ that waits.
#[derive(Debug)]
pub struct Wait<'a> {
    reads: &'a Reads,
    id: u64,
    start: Instant,
    ending: WaitEnding,
}

impl Wait<'_> {
    /// It has an answer.
    pub fn end(mut self, ending: WaitEnding) {
        self.ending = ending;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.reads.wait_micros.observe(micros);
        self.reads.endings[self.ending as usize].increment();
        lock(&self.reads.waits).since.remove(&self.id);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_wait_is_known_until_it_ends() {
        let reads = Reads::default();
        assert_eq!(reads.waiting(), (0, Duration::ZERO));
        let old = reads.wait();
        std::thread::sleep(Duration::from_millis(20));
        let began = std::time::Instant::now();
        let young = reads.wait();
        let (count, age) = reads.waiting();
        assert!(count == 2 && age >= Duration::from_millis(20), "{count} {age:?}");
        old.end(WaitEnding::Data);
        let (count, age) = reads.waiting();
        assert!(count == 1 && age <= began.elapsed(), "{count} {age:?}");
        drop(young);
        assert_eq!(reads.waiting(), (0, Duration::ZERO));
        let endings = WaitEnding::ALL.map(|ending| reads.ended(ending));
        assert_eq!(endings, [1, 0, 0, 1], "dropped without an answer: interrupted");
        let waits = reads.wait_micros();
        assert!(waits.count() == 2 && waits.sum >= 20_000, "{waits:?}");
    }

    #[test]
    fn endings_are_numbered_in_order() {
        assert!(WaitEnding::ALL.into_iter().enumerate().all(|(number, ending)| ending as usize == number));
    }
}
