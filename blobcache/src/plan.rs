//! Which ranges to ask the backend for. Pure.

use std::ops::Range;

use storage::blob::Unit;

/// A request that merges wanted ranges is not longer than this, so that one reader's requests run side by side.
pub(crate) const MAX_REQUEST: u64 = 4 << 20;

/// A stored range that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Must be a request of its own.
    pub(crate) alone: bool,
}

impl Span {
    pub(crate) fn of(unit: &Unit) -> Self {
        Self { offset: unit.offset, len: unit.len, alone: unit.len_is_bound }
    }

    pub(crate) fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// Groups `spans`, which ascend by offset, into requests: neighbours that touch, overlap, or are at most `gap` bytes apart
/// go together as long as the request is not longer than [`MAX_REQUEST`]. Each group is a range of indexes.
pub(crate) fn requests(spans: &[Span], gap: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut start, mut end, mut closed) = (0, 0, true);
    for (index, span) in spans.iter().enumerate() {
        let joins = !closed
            && !span.alone
            && span.offset <= end + gap
            && span.end().max(end).saturating_sub(start) <= MAX_REQUEST;
        match groups.last_mut() {
            Some(group) if joins => {
                group.end = index + 1;
                end = end.max(span.end());
            }
            _ => {
                groups.push(index..index + 1);
                (start, end) = (span.offset, span.end());
            }
        }
        closed = span.alone;
    }
    groups
}

/// The range that covers all of `spans`.
pub(crate) fn cover(spans: &[Span]) -> Range<u64> {
    let start = spans.iter().map(|span| span.offset).min().unwrap_or(0);
    let end = spans.iter().map(|span| span.end()).max().unwrap_or(0);
    start..end
}

/// How a request grows by what lies around it, which nobody has asked for.
///
/// What is read next is small, or more of the same file; a large unit of another file costs as much as many small ones. And it
/// lies on both sides, since programs read a directory in an order of their own, and most readers do not read quite in the
/// order of the blob: with what follows alone, eight readers of a source tree need four times as many requests.
#[derive(Debug)]
pub(crate) struct Widening {
    range: Range<u64>,
    /// Where what is asked for begins.
    start: u64,
    limit: u64,
    /// What may still come along: decoded bytes, and units.
    decoded: u64,
    units: u32,
}

/// What comes along is not larger, decoded, than so many times the limit of the request: of what compresses without end, such as
/// zeros, a short request would bring more than there is memory.
const MAX_GROWTH: u64 = 8;
/// Not more units come along with a request: each costs a look at the table and a flight.
const MAX_UNITS: u32 = 4096;

impl Widening {
    /// `range` is asked for; the request does not become longer than `limit`.
    pub(crate) fn new(range: Range<u64>, limit: u64) -> Self {
        let decoded = limit.saturating_mul(MAX_GROWTH);
        Self { start: range.start, range, limit, decoded, units: MAX_UNITS }
    }

    /// Takes in a unit that is stored behind the request and has `decoded` bytes, if it is worth it. `continues` a file: what
    /// is stored before it is a part of the same.
    pub(crate) fn after(&mut self, span: Span, decoded: u64, continues: bool) -> bool {
        let follows = span.offset >= self.range.start
            && span.end() > self.range.end
            && span.offset <= self.range.end.saturating_add(gap(self.limit));
        let takes = follows
            && (continues || self.is_small(span))
            && span.end() - self.range.start <= self.limit
            && self.has_room(decoded);
        if takes {
            self.range.end = span.end();
        }
        takes
    }

    /// The same of a unit that is stored before the request.
    pub(crate) fn before(&mut self, span: Span, decoded: u64) -> bool {
        let precedes = span.offset < self.range.start
            && span.end() <= self.range.start
            && span.end().saturating_add(gap(self.limit)) >= self.range.start;
        let takes = precedes
            && self.is_small(span)
            && self.start - span.offset <= self.limit / 4
            && self.range.end - span.offset <= self.limit
            && self.has_room(decoded);
        if takes {
            self.range.start = span.offset;
        }
        takes
    }

    /// Whether one more unit may come along; if so, it does.
    fn has_room(&mut self, decoded: u64) -> bool {
        let (Some(left), Some(units)) = (self.decoded.checked_sub(decoded), self.units.checked_sub(1)) else {
            return false;
        };
        (self.decoded, self.units) = (left, units);
        true
    }

    fn is_small(&self, span: Span) -> bool {
        span.len <= self.limit / 4
    }
}

/// How far apart units of one request may lie, if requests are widened to `limit`.
pub(crate) fn gap(limit: u64) -> u64 {
    limit / 128
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(offset: u64, len: u64) -> Span {
        Span { offset, len, alone: false }
    }

    #[test]
    fn neighbours_go_together() {
        let spans = [span(0, 10), span(10, 5), span(16, 4), span(30, 1)];
        assert_eq!(requests(&spans, 0), [0..2, 2..3, 3..4]);
        assert_eq!(requests(&spans, 1), [0..3, 3..4]);
        assert_eq!(requests(&spans, 100), std::slice::from_ref(&(0..4)));
        let alone = spans.map(|span| Span { alone: true, ..span });
        assert_eq!(requests(&alone, 100).len(), 4);
        assert_eq!(requests(&[span(0, MAX_REQUEST), span(MAX_REQUEST, 1)], 0), [0..1, 1..2]);
        assert_eq!(requests(&[span(0, MAX_REQUEST + 7)], 0), std::slice::from_ref(&(0..1)));
        assert_eq!(requests(&[], 0), []);
    }

    #[test]
    fn a_request_grows_by_what_is_small_or_goes_on() {
        // 1000 are asked for; a quarter of the limit is 1024.
        let widening = || Widening::new(10_000..11_000, 4096);
        let mut both = widening();
        assert!(both.before(span(9500, 500), 1) && both.after(span(11_000, 1024), 1, false));
        assert!(both.before(span(8976, 500), 1), "within a gap of 32");
        assert!(!both.before(span(8970, 6), 1), "more than a quarter before");
        assert!(!both.after(span(12_057, 1), 1, false), "too far behind");
        assert!(both.after(span(12_056, 1016), 1, false));
        assert!(!both.after(span(13_072, 1), 1, false), "longer than the limit");
        assert_eq!(both.range, 8976..13_072);

        assert!(!widening().after(span(11_000, 1025), 1, false));
        assert!(widening().after(span(11_000, 3096), 1, true));
        assert!(!widening().after(span(11_000, 3097), 1, true));
        assert!(!widening().after(span(10_500, 500), 1, false), "it is in there");
        assert!(!widening().before(span(9900, 200), 1), "it would overlap");
        let mut long = Widening::new(0..5000, 4096);
        assert!(!long.after(span(5000, 1), 1, true));
    }

    #[test]
    fn what_comes_along_is_bounded_as_it_is_decoded_too() {
        let mut zeros = Widening::new(0..10, 4096);
        let taken = (10..).take_while(|at| zeros.after(span(*at, 1), 1000, false)).count();
        assert_eq!(taken, 32, "8 times 4096 bytes");
        let mut tiny = Widening::new(0..10, 1 << 20);
        assert_eq!((10..).take_while(|at| tiny.after(span(*at, 1), 1, false)).count(), MAX_UNITS as usize);
    }

    proptest! {
        #[test]
        fn every_span_is_in_one_request_and_no_gap_is_larger(
            mut spans in prop::collection::vec((0u64..1 << 24, 1u64..1 << 21, any::<bool>()), 0..40),
            gap in 0u64..9000,
        ) {
            spans.sort_unstable();
            let spans: Vec<_> =
                spans.into_iter().map(|(offset, len, alone)| Span { offset, len, alone }).collect();
            let groups = requests(&spans, gap);
            let flat: Vec<_> = groups.iter().cloned().flatten().collect();
            prop_assert_eq!(flat, (0..spans.len()).collect::<Vec<_>>());
            for group in groups {
                let members = &spans[group];
                let range = cover(members);
                let covered = members.iter().all(|s| range.start <= s.offset && s.end() <= range.end);
                prop_assert!(covered);
                if members.len() > 1 {
                    prop_assert!(range.end - range.start <= MAX_REQUEST);
                    prop_assert!(members.iter().all(|span| !span.alone));
                    let mut end = members[0].end();
                    for span in members {
                        prop_assert!(span.offset <= end + gap);
                        end = end.max(span.end());
                    }
                }
            }
        }
    }
}
