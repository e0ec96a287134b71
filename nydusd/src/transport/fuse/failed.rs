//! Ranges whose read just timed out.
//!
//! When a readahead fails, the kernel asks for the wanted page once more before it tells the reader, who would
//! so wait two deadlines. A range that timed out therefore stays failed for a moment.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a range stays failed: long enough for the kernel's second question, short enough that a service that
/// is back is not held up.
const MEMORY: Duration = Duration::from_secs(1);

/// More ranges than this are not remembered at once; the oldest is forgotten.
const MOST: usize = 4096;

#[derive(Default)]
pub(super) struct FailedRanges {
    /// False while nothing is remembered, so that the usual read takes no lock.
    any: AtomicBool,
    ranges: Mutex<VecDeque<Failed>>,
}

struct Failed {
    nodeid: u64,
    range: Range<u64>,
    until: Instant,
}

impl FailedRanges {
    /// Remembers that a read of `range` timed out at `now`.
    pub(super) fn insert(&self, nodeid: u64, range: Range<u64>, now: Instant) {
        let mut ranges = self.ranges.lock().unwrap_or_else(|e| e.into_inner());
        if ranges.len() == MOST {
            ranges.pop_front();
        }
        ranges.push_back(Failed { nodeid, range, until: now + MEMORY });
        self.any.store(true, Ordering::Release);
    }

    /// True if `range` overlaps one that timed out less than a moment before `now`.
    pub(super) fn contains(&self, nodeid: u64, range: &Range<u64>, now: impl FnOnce() -> Instant) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let now = now();
        let mut ranges = self.ranges.lock().unwrap_or_else(|e| e.into_inner());
        while ranges.front().is_some_and(|failed| failed.until <= now) {
            ranges.pop_front();
        }
        if ranges.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        ranges.iter().any(|failed| {
            failed.nodeid == nodeid && failed.range.start < range.end && range.start < failed.range.end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_range_is_remembered_for_a_moment() {
        let failed = FailedRanges::default();
        let start = Instant::now();
        assert!(!failed.contains(1, &(0..4096), || start));
        failed.insert(1, 0..131_072, start);
        assert!(failed.contains(1, &(4096..8192), || start + MEMORY / 2));
        assert!(!failed.contains(1, &(131_072..135_168), || start), "a neighbour is not failed");
        assert!(!failed.contains(2, &(4096..8192), || start), "another file is not failed");
        assert!(!failed.contains(1, &(4096..8192), || start + MEMORY), "a moment later it is asked again");
        assert!(!failed.any.load(Ordering::Acquire));
    }

    #[test]
    fn memory_is_bounded() {
        let failed = FailedRanges::default();
        let start = Instant::now();
        (0..2 * MOST as u64).for_each(|nodeid| failed.insert(nodeid, 0..1, start));
        assert_eq!(failed.ranges.lock().unwrap().len(), MOST);
        assert!(failed.contains(2 * MOST as u64 - 1, &(0..1), || start));
    }
}
