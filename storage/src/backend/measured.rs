//! A backend that counts what another one does: requests, bytes, and how long they took. Slow ones are told in the log.
//!
//! Invariant: what passes through is not changed; a request is counted once, also one that is given up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Backend, BoxFuture, Request};
use crate::blob::BlobId;
use crate::http::EndpointStatus;
use crate::lock;
use crate::metrics::{Counter, Gauge, Histogram};
use crate::secret::Secret;
use crate::{Error, Result};

/// Classes of sizes and of latencies in [`Metrics::sizes_by_latency`].
pub const CLASSES: usize = 8;

/// Bytes of the largest read of each class but the last: 1 KiB, 4, 16, 64, 128, 512 KiB and 1 MiB are each the
/// first of the next.
const SIZES: [u64; CLASSES - 1] =
    [0x400 - 1, 0x1000 - 1, 0x4000 - 1, 0x1_0000 - 1, 0x2_0000 - 1, 0x8_0000 - 1, 0x10_0000 - 1];

/// Milliseconds of the slowest read of each class but the last.
const MILLIS: [u64; CLASSES - 1] = [1, 20, 50, 100, 500, 1000, 2000];

/// Bounds of [`Metrics::latency_micros`]: half a millisecond to a minute.
const LATENCY_MICROS: [u64; 16] = [
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Bounds of [`Metrics::lengths`]: 4 KiB to 16 MiB.
const LENGTHS: [u64; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// A read of up to [`LARGE`] bytes that takes longer than the first is slow, a larger one if it takes longer than the second.
const SLOW: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
const LARGE: u64 = 4 << 20;

/// After a line in the log about a slow read, others are only counted for so long: on a thin link all are slow.
const SLOW_PAUSE: Duration = Duration::from_secs(10);

/// How a request to a backend ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It brought what was asked for.
    Success,
    /// [`Error::NotFound`].
    NotFound,
    /// [`Error::Denied`].
    Denied,
    /// [`Error::Corrupt`].
    Corrupt,
    /// [`Error::TimedOut`].
    TimedOut,
    /// [`Error::Unavailable`].
    Unavailable,
    /// [`Error::Invalid`].
    Invalid,
    /// Nobody waited for it any more.
    Abandoned,
}

impl Ending {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::NotFound,
        Self::Denied,
        Self::Corrupt,
        Self::TimedOut,
        Self::Unavailable,
        Self::Invalid,
        Self::Abandoned,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Corrupt => "corrupt",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Invalid => "invalid",
            Self::Abandoned => "abandoned",
        }
    }

    fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => Self::Success,
            Err(Error::NotFound { .. }) => Self::NotFound,
            Err(Error::Denied { .. }) => Self::Denied,
            Err(Error::Corrupt { .. }) => Self::Corrupt,
            Err(Error::TimedOut { .. }) => Self::TimedOut,
            Err(Error::Unavailable { .. }) => Self::Unavailable,
            Err(Error::Invalid { .. }) => Self::Invalid,
        }
    }
}

/// Counters of one backend, since it was opened.
#[derive(Debug)]
pub struct Metrics {
    /// Reads that ended, by [`Ending`].
    pub reads: [Counter; Ending::ALL.len()],
    /// Questions for the size of a blob that were answered or not, by [`Ending`].
    pub sizes: [Counter; Ending::ALL.len()],
    /// Bytes that reads brought.
    pub bytes: Counter,
    /// Reads under way.
    pub in_flight: Gauge,
    /// How long reads took, retries included, in microseconds.
    pub latency_micros: Histogram,
    /// How many bytes reads asked for.
    pub lengths: Histogram,
    /// Reads by the class of their size (below 1, 4, 16, 64, 128, 512 KiB, 1 MiB, and the others), and in it by that of
    /// their latency (up to 1, 20, 50, 100, 500, 1000, 2000 whole milliseconds, and the others).
    pub sizes_by_latency: [[Counter; CLASSES]; CLASSES],
    /// Whole milliseconds that the reads of each size took together.
    pub millis_by_size: [Counter; CLASSES],
}

impl Metrics {
    fn new() -> Self {
        Self {
            reads: Default::default(),
            sizes: Default::default(),
            bytes: Counter::default(),
            in_flight: Gauge::default(),
            latency_micros: Histogram::new(&LATENCY_MICROS),
            lengths: Histogram::new(&LENGTHS),
            sizes_by_latency: Default::default(),
            millis_by_size: Default::default(),
        }
    }

    /// Reads that ended, however.
    pub fn read_count(&self) -> u64 {
        self.reads.iter().map(Counter::get).sum()
    }

    /// Reads that did not bring what was asked for.
    pub fn read_errors(&self) -> u64 {
        self.read_count() - self.reads[Ending::Success as usize].get()
    }
}

/// A backend and what it did.
#[derive(Debug)]
pub struct Measured {
    inner: Arc<dyn Backend>,
    metrics: Metrics,
    slow: Mutex<Slow>,
}

/// Slow reads and the log.
#[derive(Debug, Default)]
struct Slow {
    told: Option<Instant>,
    /// Since then.
    untold: u64,
}

impl Slow {
    /// One more; how many there were since one was told, if this one is to be told.
    fn is_told(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < SLOW_PAUSE) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Measured {
    /// Counts what `inner` does.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, metrics: Metrics::new(), slow: Mutex::default() }
    }

    /// What was counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Backend for Measured {
    fn read<'a>(
        &'a self,
        blob: &'a BlobId,
        offset: u64,
        len: u64,
        request: Request,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let _in_flight = self.metrics.in_flight.enter();
            let ended = Ended::new(&self.metrics.reads);
            let mut read = Read { of: self, blob, offset, len, start: Instant::now(), ended };
            let result = self.inner.read(blob, offset, len, request).await;
            read.ended.ending = Ending::of(&result);
            if let Ok(bytes) = &result {
                self.metrics.bytes.add(bytes.len() as u64);
            }
            result
        })
    }

    fn size<'a>(&'a self, blob: &'a BlobId, request: Request) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut ended = Ended::new(&self.metrics.sizes);
            let result = self.inner.size(blob, request).await;
            ended.ending = Ending::of(&result);
            result
        })
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        self.inner.endpoints()
    }

    fn exchange_auth(&self, auth: Secret) -> Result<()> {
        self.inner.exchange_auth(auth)
    }
}

/// Counts an ending when it is dropped.
struct Ended<'a> {
    counters: &'a [Counter; Ending::ALL.len()],
    ending: Ending,
}

impl<'a> Ended<'a> {
    /// Given up, unless somebody says better.
    fn new(counters: &'a [Counter; Ending::ALL.len()]) -> Self {
        Self { counters, ending: Ending::Abandoned }
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.counters[self.ending as usize].increment();
    }
}

/// A read under way; measured when it ends, however it does.
struct Read<'a> {
    of: &'a Measured,
    blob: &'a BlobId,
    offset: u64,
    len: u64,
    start: Instant,
    ended: Ended<'a>,
}

impl Read<'_> {
    fn warn_if_slow(&self, took: Duration) {
        if took <= if self.len > LARGE { SLOW.1 } else { SLOW.0 } {
            return;
        }
        let untold = lock(&self.of.slow).is_told(Instant::now());
        if let Some(untold) = untold {
            let (blob, offset, len, ending) = (self.blob, self.offset, self.len, self.ended.ending.name());
            let seconds = format!("{:.3}", took.as_secs_f64());
            tracing::warn!(%blob, offset, len, seconds, ending, since_last_told = untold, "slow request");
        }
    }
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        let (metrics, took) = (&self.of.metrics, self.start.elapsed());
        let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let millis = whole(took.as_millis());
        let size = SIZES.partition_point(|bound| *bound < self.len);
        let latency = MILLIS.partition_point(|bound| *bound < millis);
        metrics.sizes_by_latency[size][latency].increment();
        metrics.millis_by_size[size].add(millis);
        metrics.latency_micros.observe(whole(took.as_micros()));
        metrics.lengths.observe(self.len);
        self.warn_if_slow(took);
    }
}

#[cfg(test)]
mod tests;
