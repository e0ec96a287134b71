//! What is counted, without locks: numbers that grow, numbers that go up and down, and distributions.
//!
//! Every crate of the house counts with these; only the daemon knows how they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Grows by `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Grows by one.
    pub fn increment(&self) {
        self.add(1);
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until what is returned is dropped.
    pub fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }
}

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
#[must_use = "it is counted for as long as this lives"]
pub struct Entered<'a>(&'a Gauge);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How values are distributed: how many lie up to each of some bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One more than there are bounds.
    buckets: Box<[Counter]>,
    sum: Counter,
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Each bound, and how many values lie up to it but above the bound before.
    pub buckets: Vec<(u64, u64)>,
    /// How many lie above the last bound.
    pub above: u64,
    /// Of all values.
    pub sum: u64,
}

impl Histogram {
    /// Nothing seen yet. The bounds are inclusive and ascend.
    pub fn new(bounds: &'static [u64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, buckets, sum: Counter::default() }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        self.buckets[self.bounds.partition_point(|bound| *bound < value)].increment();
        self.sum.add(value);
    }

    /// What was counted. Values that are counted meanwhile may be in it, or in its sum alone.
    pub fn distribution(&self) -> Distribution {
        let counts = self.buckets.iter().map(Counter::get);
        let buckets = self.bounds.iter().copied().zip(counts).collect();
        let above = self.buckets.last().map_or(0, Counter::get);
        Distribution { buckets, above, sum: self.sum.get() }
    }
}

impl Distribution {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_in_the_bucket_of_the_first_bound_that_is_not_below_them() {
        let histogram = Histogram::new(&[1, 10]);
        for value in [0, 1, 2, 10, 11, 1000] {
            histogram.observe(value);
        }
        let seen = histogram.distribution();
        assert_eq!(seen, Distribution { buckets: vec![(1, 2), (10, 2)], above: 2, sum: 1024 });
        assert_eq!(seen.count(), 6);
    }

    #[test]
    fn a_gauge_counts_who_is_there() {
        let gauge = Gauge::default();
        let one = gauge.enter();
        {
            let _two = gauge.enter();
            assert_eq!(gauge.get(), 2);
        }
        assert_eq!(gauge.get(), 1);
        drop(one);
        assert_eq!(gauge.get(), 0);
    }
}
