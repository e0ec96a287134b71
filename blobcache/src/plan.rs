//! Which ranges to ask the backend for. Pure.

use std::ops::Range;

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
