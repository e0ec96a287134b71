//! Whose turn it is at an endpoint that has as many requests as it may have.
//!
//! All who wait are woken together and ask in any order; without a line the same ones could win for ever. Invariants:
//! first come, first served, readers before prefetch; who goes away, by whatever way, stands in line no longer.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::backend::Priority;

/// A place in a [`Line`], for as long as it lives.
#[derive(Debug)]
pub(super) struct Place(Arc<()>);

/// Those who wait for room.
#[derive(Debug, Default)]
pub(super) struct Line {
    on_demand: VecDeque<Weak<()>>,
    prefetch: VecDeque<Weak<()>>,
}

impl Line {
    /// A place at the end.
    pub(super) fn join(&mut self, priority: Priority) -> Place {
        let place = Arc::new(());
        let line = self.of(priority);
        line.retain(|other| other.strong_count() > 0);
        line.push_back(Arc::downgrade(&place));
        Place(place)
    }

    /// Whether one of the first `room` is the one with this place or, without a place, somebody new.
    pub(super) fn is_turn(&mut self, priority: Priority, place: Option<&Place>, room: u32) -> bool {
        let readers = match priority {
            Priority::OnDemand => 0,
            Priority::Prefetch => present(&self.on_demand).take(room as usize).count(),
        };
        let ahead = present(self.of(priority))
            .take(room as usize)
            .take_while(|other| {
                place.is_none_or(|place| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&place.0)))
            })
            .count();
        readers + ahead < room as usize
    }

    /// How many stand in line.
    pub(super) fn len(&self) -> u32 {
        let count = present(&self.on_demand).count() + present(&self.prefetch).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn of(&mut self, priority: Priority) -> &mut VecDeque<Weak<()>> {
        match priority {
            Priority::OnDemand => &mut self.on_demand,
            Priority::Prefetch => &mut self.prefetch,
        }
    }
}

fn present(line: &VecDeque<Weak<()>>) -> impl Iterator<Item = &Weak<()>> {
    line.iter().filter(|place| place.strong_count() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON_DEMAND: Priority = Priority::OnDemand;
    const PREFETCH: Priority = Priority::Prefetch;

    #[test]
    fn as_many_as_there_is_room_have_their_turn_in_any_order() {
        let mut line = Line::default();
        let places: Vec<_> = (0..5).map(|_| line.join(ON_DEMAND)).collect();
        let turns: Vec<_> =
            places.iter().rev().map(|place| line.is_turn(ON_DEMAND, Some(place), 2)).collect();
        assert_eq!(turns, [false, false, false, true, true]);
        assert!(!line.is_turn(ON_DEMAND, None, 5), "somebody new goes to the end");
        assert!(line.is_turn(ON_DEMAND, None, 6));
        assert!(!line.is_turn(ON_DEMAND, Some(&places[0]), 0), "no room is nobody's turn");
    }

    #[test]
    fn readers_come_before_prefetch() {
        let mut line = Line::default();
        let prefetch = line.join(PREFETCH);
        let reader = line.join(ON_DEMAND);
        assert!(!line.is_turn(PREFETCH, Some(&prefetch), 1));
        assert!(line.is_turn(ON_DEMAND, Some(&reader), 1) && line.is_turn(PREFETCH, Some(&prefetch), 2));
        drop(reader);
        assert!(line.is_turn(PREFETCH, Some(&prefetch), 1));
    }

    #[test]
    fn who_goes_away_makes_way_and_is_forgotten() {
        let mut line = Line::default();
        let keep = line.join(ON_DEMAND);
        let gone: Vec<_> = (0..1000).map(|_| line.join(ON_DEMAND)).collect();
        let last = line.join(ON_DEMAND);
        assert!(!line.is_turn(ON_DEMAND, Some(&last), 2));
        drop(gone);
        assert!(line.is_turn(ON_DEMAND, Some(&keep), 1) && line.is_turn(ON_DEMAND, Some(&last), 2));
        let _next = line.join(ON_DEMAND);
        assert_eq!(line.on_demand.len(), 3);
    }
}
