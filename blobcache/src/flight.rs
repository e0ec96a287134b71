//! Single flight: one task works on a key, everybody else who wants the same waits for its result.
//!
//! Invariants: a key is in the map from the moment its leader is made until the leader is dropped, which is
//! after its result has been published where others find it without the flight. A leader that is dropped without a
//! result, because its task panicked or was cancelled, gives everybody an error: nobody waits for ever.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::lock;

/// The flights of one kind of work.
pub(crate) struct Flights<K, T> {
    map: Arc<Mutex<HashMap<K, Arc<Flight<T>>>>>,
}

struct Flight<T> {
    /// Until when the leader works.
    deadline: Instant,
    result: watch::Sender<Option<Result<T>>>,
    /// What of the result somebody waits for.
    asked: Mutex<Vec<u32>>,
}

/// A place to wait for the result of a flight.
pub(crate) struct Ticket<T> {
    deadline: Instant,
    result: watch::Receiver<Option<Result<T>>>,
}

/// The duty to produce the result of a flight.
pub(crate) struct Leader<K: Eq + Hash, T> {
    map: Arc<Mutex<HashMap<K, Arc<Flight<T>>>>>,
    key: K,
    flight: Arc<Flight<T>>,
}

/// What [`Flights::board`] found.
pub(crate) enum Boarding<K: Eq + Hash, T> {
    /// Somebody works on it.
    Joined(Ticket<T>),
    /// Nobody did; now the caller does.
    Opened(Ticket<T>, Leader<K, T>),
    /// It has been published meanwhile.
    Landed,
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    pub(crate) fn new() -> Self {
        Self { map: Arc::default() }
    }

    /// Joins the flight of `key` or opens one that works until `deadline`. `landed` is asked under the lock if
    /// there is none: work that was published before its flight was removed is then found, and not done again.
    pub(crate) fn board(
        &self,
        key: K,
        asked: Option<u32>,
        deadline: Instant,
        landed: impl FnOnce() -> bool,
    ) -> Boarding<K, T> {
        let mut map = lock(&self.map);
        if let Some(flight) = map.get(&key) {
            flight.ask(asked);
            return Boarding::Joined(flight.ticket());
        }
        if landed() {
            return Boarding::Landed;
        }
        let flight = Arc::new(Flight { deadline, result: watch::Sender::new(None), asked: Mutex::default() });
        flight.ask(asked);
        map.insert(key.clone(), Arc::clone(&flight));
        let ticket = flight.ticket();
        Boarding::Opened(ticket, Leader { map: Arc::clone(&self.map), key, flight })
    }
}

impl<T: Clone> Flight<T> {
    fn ticket(&self) -> Ticket<T> {
        Ticket { deadline: self.deadline, result: self.result.subscribe() }
    }

    fn ask(&self, index: Option<u32>) {
        if let Some(index) = index {
            let mut asked = lock(&self.asked);
            if !asked.contains(&index) {
                asked.push(index);
            }
        }
    }
}

impl<T: Clone> Ticket<T> {
    /// The result of the flight. Ends with the leader; the caller bounds its own patience.
    pub(crate) async fn wait(&mut self) -> Result<T> {
        match self.result.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or_else(|| Err(Error::aborted("flight"))),
            Err(_) => Err(Error::aborted("flight")),
        }
    }

    /// Waits until the flight has left the map: who wants to try again would only join it once more before.
    pub(crate) async fn gone(mut self) {
        while self.result.changed().await.is_ok() {}
    }

    /// Until when the leader works.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl<K: Eq + Hash, T> Leader<K, T> {
    pub(crate) fn key(&self) -> &K {
        &self.key
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.flight.deadline
    }

    /// What somebody has asked for so far.
    pub(crate) fn asked(&self) -> Vec<u32> {
        lock(&self.flight.asked).clone()
    }

    /// Answers everybody who waits, and who joins until the leader is dropped.
    pub(crate) fn answer(&self, result: Result<T>) {
        self.flight.result.send_replace(Some(result));
    }
}

impl<K: Eq + Hash, T> Drop for Leader<K, T> {
    fn drop(&mut self) {
        // The entry is this flight's: only a leader removes, and a key has one leader at a time.
        lock(&self.map).remove(&self.key);
        self.flight.result.send_if_modified(|result| {
            let unanswered = result.is_none();
            if unanswered {
                *result = Some(Err(Error::aborted("flight")));
            }
            unanswered
        });
    }
}

/// How often a waiter starts again after a leader that was cut short.
const RESTARTS: u32 = 2;

/// Decides whether a waiter with `deadline` tries again after the flight it waited for failed: yes if the leader
/// had less time than the waiter, or died. A leader that dies each time is not followed for ever.
pub(crate) fn starts_again(error: &Error, leader: Instant, deadline: Instant, restarts: &mut u32) -> bool {
    if Instant::now() >= deadline {
        return false;
    }
    match error.kind() {
        ErrorKind::TimedOut => leader < deadline,
        ErrorKind::Aborted => {
            *restarts += 1;
            *restarts <= RESTARTS
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn one_leads_and_all_get_the_answer() {
        let flights = Flights::<u32, u32>::new();
        let Boarding::Opened(first, leader) = flights.board(1, Some(10), soon(), || false) else { panic!() };
        let Boarding::Joined(second) = flights.board(1, Some(11), soon(), || false) else { panic!() };
        assert_eq!(leader.asked(), [10, 11]);
        leader.answer(Ok(7));
        let Boarding::Joined(third) = flights.board(1, None, soon(), || false) else { panic!() };
        drop(leader);
        for mut ticket in [first, second, third] {
            assert_eq!(ticket.wait().await.unwrap(), 7);
            ticket.gone().await;
        }
        assert!(lock(&flights.map).is_empty());
        assert!(matches!(flights.board(1, None, soon(), || true), Boarding::Landed));
    }

    #[tokio::test]
    async fn a_leader_that_dies_wakes_everybody() {
        let flights = Flights::<u32, u32>::new();
        let Boarding::Opened(mut first, leader) = flights.board(1, None, soon(), || false) else { panic!() };
        let Boarding::Joined(mut second) = flights.board(1, None, soon(), || false) else { panic!() };
        let dies = std::thread::spawn(move || {
            let _leader = leader;
            panic!("on purpose");
        });
        assert!(dies.join().is_err());
        assert_eq!(first.wait().await.unwrap_err().kind(), ErrorKind::Aborted);
        assert_eq!(second.wait().await.unwrap_err().kind(), ErrorKind::Aborted);
        assert!(matches!(flights.board(1, None, soon(), || false), Boarding::Opened(..)));
    }

    #[test]
    fn only_a_leader_with_less_time_is_outlived() {
        let (early, late) = (Instant::now() + Duration::from_secs(1), soon());
        let timed_out = Error::timed_out("x", Duration::ZERO);
        assert!(starts_again(&timed_out, early, late, &mut 0));
        assert!(!starts_again(&timed_out, late, late, &mut 0));
        assert!(!starts_again(&timed_out, early, Instant::now(), &mut 0));
        let (aborted, mut restarts) = (Error::aborted("x"), 0);
        let tries = (0..10).filter(|_| starts_again(&aborted, late, late, &mut restarts)).count();
        assert_eq!(tries, 2);
        assert!(!starts_again(&Error::corrupt("x", ""), early, late, &mut 0));
    }
}
