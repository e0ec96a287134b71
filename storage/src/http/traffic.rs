//! What all backends of the process have under way together: requests and their bytes, in the order that
//! [`Flights`] decides.
//!
//! Invariants: who waits for room is told when there is some, or stops waiting; room is given back by whatever way a
//! request ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::backend::Priority;
use crate::lock;
use crate::policy::budget::{Boarding, FlightId, FlightLimits, Flights};
use crate::trace;

/// Far more than the links of a machine need, and less than it has memory.
const LIMITS: FlightLimits = FlightLimits { requests: 512, bytes: 512 << 20, queue: 16_384 };

/// The requests of the process.
#[derive(Debug)]
pub(crate) struct Traffic(Mutex<State>);

#[derive(Debug)]
struct State {
    flights: Flights,
    waiting: HashMap<FlightId, oneshot::Sender<()>>,
}

/// Room for one request. Dropped, it is somebody else's.
#[derive(Debug)]
pub(crate) struct Room {
    traffic: Arc<Traffic>,
    id: FlightId,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Too many wait already.
    Refused,
    /// The deadline passed.
    Late,
}

/// How much is under way and waits, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests under way.
    pub requests: usize,
    /// Bytes they will bring.
    pub bytes: u64,
    /// Requests of readers that wait for room.
    pub waiting_on_demand: usize,
    /// Requests of prefetch that wait for room.
    pub waiting_prefetch: usize,
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new(LIMITS)
    }
}

impl Traffic {
    fn new(limits: FlightLimits) -> Self {
        Self(Mutex::new(State { flights: Flights::new(limits), waiting: HashMap::new() }))
    }

    /// Waits for room for a request that brings `bytes`.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        priority: Priority,
        bytes: u64,
        deadline: Instant,
    ) -> Result<Room, NoRoom> {
        let (room, turn) = {
            let mut state = self.lock();
            match state.flights.enter(priority, bytes) {
                Boarding::Flies(id) => return Ok(Room { traffic: self.clone(), id }),
                Boarding::Refused => return Err(NoRoom::Refused),
                Boarding::Waits(id) => {
                    let (sender, turn) = oneshot::channel();
                    state.waiting.insert(id, sender);
                    (Room { traffic: self.clone(), id }, turn)
                }
            }
        };
        match tokio::time::timeout_at(deadline.into(), turn).instrument(trace::queue("process")).await {
            Ok(_) => Ok(room),
            Err(_) => Err(NoRoom::Late),
        }
    }

    /// What is under way now.
    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            requests: state.flights.requests(),
            bytes: state.flights.bytes(),
            waiting_on_demand: state.flights.waiting(Priority::OnDemand),
            waiting_prefetch: state.flights.waiting(Priority::Prefetch),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.traffic.lock();
        state.waiting.remove(&self.id);
        for next in state.flights.leave(self.id) {
            if let Some(sender) = state.waiting.remove(&next) {
                // Who has just gone away gives the room back by dropping its own.
                let _ = sender.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn traffic(queue: usize) -> Arc<Traffic> {
        Arc::new(Traffic::new(FlightLimits { requests: 2, bytes: 100, queue }))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn room_passes_on_and_readers_go_first() {
        let traffic = traffic(10);
        let whole = traffic.enter(Priority::OnDemand, 100, soon()).await.unwrap();
        let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let enter = |priority, bytes| {
            let (traffic, order) = (traffic.clone(), order.clone());
            tokio::spawn(async move {
                let room = traffic.enter(priority, bytes, soon()).await.unwrap();
                order.send(priority).unwrap();
                drop(room);
            })
        };
        let prefetch = enter(Priority::Prefetch, 10);
        while traffic.load().waiting_prefetch == 0 {
            tokio::task::yield_now().await;
        }
        let reader = enter(Priority::OnDemand, 100);
        while traffic.load().waiting_on_demand == 0 {
            tokio::task::yield_now().await;
        }
        drop(whole);
        reader.await.unwrap();
        prefetch.await.unwrap();
        assert_eq!(seen.recv().await, Some(Priority::OnDemand));
        assert_eq!(traffic.load(), Load::default());
    }

    #[tokio::test]
    async fn who_does_not_wait_leaves_nothing_behind() {
        let traffic = traffic(1);
        let rooms = (
            traffic.enter(Priority::OnDemand, 50, soon()).await.unwrap(),
            traffic.enter(Priority::OnDemand, 50, soon()).await.unwrap(),
        );
        let late = traffic.enter(Priority::OnDemand, 1, Instant::now() + Duration::from_millis(20)).await;
        assert_eq!(late.unwrap_err(), NoRoom::Late);
        let waits = tokio::spawn({
            let traffic = traffic.clone();
            async move { traffic.enter(Priority::OnDemand, 1, soon()).await.map(drop) }
        });
        while traffic.load().waiting_on_demand == 0 {
            tokio::task::yield_now().await;
        }
        let refused = traffic.enter(Priority::OnDemand, 1, soon()).await;
        assert_eq!(refused.unwrap_err(), NoRoom::Refused, "the queue is bounded");
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        drop(rooms);
        assert_eq!(traffic.load(), Load::default());
        assert!(traffic.lock().waiting.is_empty());
    }
}
