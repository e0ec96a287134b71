//! The bytes of one request, dealt out to its units as they come. Pure.

use bytes::{Bytes, BytesMut};

use crate::plan::{self, Span};

/// What has come of each unit of a request.
///
/// Invariant: a unit is handed out once, with exactly the bytes of its span.
pub(crate) struct Deal {
    /// Bytes before this one have come.
    at: u64,
    units: Vec<Unit>,
    /// Units before this one have been handed out.
    first: usize,
}

struct Unit {
    span: Span,
    bytes: BytesMut,
    is_dealt: bool,
}

impl Deal {
    /// `spans` are those of the units, ascending by offset.
    pub(crate) fn new(spans: &[Span]) -> Self {
        let unit = |span: &Span| Unit { span: *span, bytes: BytesMut::new(), is_dealt: false };
        Self { at: plan::cover(spans).start, units: spans.iter().map(unit).collect(), first: 0 }
    }

    /// Takes a piece of the object that begins at `at`; returns the units that are whole now, by index. A piece that is not
    /// the next one is ignored: [`Deal::rest`] has it.
    pub(crate) fn take(&mut self, at: u64, piece: &Bytes) -> Vec<(usize, Bytes)> {
        let mut whole = Vec::new();
        if at != self.at {
            return whole;
        }
        let start = at;
        self.at += piece.len() as u64;
        for (index, unit) in self.units.iter_mut().enumerate().skip(self.first) {
            if unit.span.offset >= self.at {
                break;
            }
            let (from, to) = (unit.span.offset.max(start), unit.span.end().min(self.at));
            if unit.is_dealt || from >= to {
                continue;
            }
            let bytes = piece.slice((from - start) as usize..(to - start) as usize);
            let is_last = to == unit.span.end();
            let bytes = match (is_last, unit.bytes.is_empty()) {
                (true, true) => bytes,
                (_, is_first) => {
                    if is_first {
                        unit.bytes.reserve(unit.span.len as usize);
                    }
                    unit.bytes.extend_from_slice(&bytes);
                    if !is_last {
                        continue;
                    }
                    std::mem::take(&mut unit.bytes).freeze()
                }
            };
            unit.is_dealt = true;
            whole.push((index, bytes));
        }
        while self.units.get(self.first).is_some_and(|unit| unit.is_dealt) {
            self.first += 1;
        }
        whole
    }

    /// The units that have not been handed out, from all bytes of the request, of which the first stands at `start`. What came
    /// piece by piece of them is forgotten: it may have been of another request.
    pub(crate) fn rest(&mut self, start: u64, bytes: &Bytes) -> Vec<(usize, Bytes)> {
        let units = self.units.iter_mut().enumerate().skip(self.first);
        let rest = units.filter(|(_, unit)| !unit.is_dealt).map(|(index, unit)| {
            unit.is_dealt = true;
            let from = (unit.span.offset.saturating_sub(start) as usize).min(bytes.len());
            let to = from.saturating_add(unit.span.len as usize).min(bytes.len());
            (index, bytes.slice(from..to))
        });
        rest.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(offset: u64, len: u64) -> Span {
        Span { offset, len, alone: false }
    }

    fn object(range: std::ops::Range<u64>) -> Bytes {
        range.map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn a_unit_is_dealt_as_soon_as_it_is_whole() {
        let mut deal = Deal::new(&[span(10, 5), span(15, 5), span(22, 3), span(25, 5)]);
        assert!(deal.take(10, &object(10..14)).is_empty());
        assert_eq!(deal.take(14, &object(14..21)), [(0, object(10..15)), (1, object(15..20))]);
        assert_eq!(deal.take(21, &object(21..26)), [(2, object(22..25))]);
        assert!(deal.take(10, &object(10..30)).is_empty(), "of a request that began anew");
        assert_eq!(deal.rest(10, &object(10..30)), [(3, object(25..30))]);
        assert!(deal.rest(10, &object(10..30)).is_empty());
    }

    #[test]
    fn bytes_that_are_missing_make_a_unit_short() {
        let mut deal = Deal::new(&[span(10, 5), span(15, 5)]);
        assert_eq!(deal.rest(10, &object(10..12)), [(0, object(10..12)), (1, Bytes::new())]);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_every_unit_gets_its_bytes_once(
            mut spans in prop::collection::vec((0u64..500, 1u64..100), 1..20),
            cuts in prop::collection::vec(1u64..50, 0..200),
        ) {
            spans.sort_unstable();
            let spans: Vec<_> = spans.into_iter().map(|(offset, len)| span(offset, len)).collect();
            let range = plan::cover(&spans);
            let (mut deal, mut at, mut dealt) = (Deal::new(&spans), range.start, Vec::new());
            for len in cuts {
                let end = range.end.min(at + len);
                for (index, bytes) in deal.take(at, &object(at..end)) {
                    prop_assert!(spans[index].end() > at && spans[index].end() <= end);
                    prop_assert_eq!(bytes, object(spans[index].offset..spans[index].end()));
                    dealt.push(index);
                }
                at = end;
            }
            for (index, bytes) in deal.rest(range.start, &object(range.clone())) {
                prop_assert!(spans[index].end() > at);
                prop_assert_eq!(bytes, object(spans[index].offset..spans[index].end()));
                dealt.push(index);
            }
            dealt.sort_unstable();
            prop_assert_eq!(dealt, (0..spans.len()).collect::<Vec<_>>());
        }
    }
}
