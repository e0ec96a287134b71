//! How many requests and bytes are under way, and how fast prefetch and fallback may go.
//!
//! [`Flights`] bounds what is under way and decides who is next; [`Rate`] bounds units a second, bytes of prefetch or
//! requests past a proxy. Invariants of `Flights`: never more than its limits; a reader never waits behind prefetch that
//! has not started; prefetch holds at most half; within a priority, first come first served.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::backend::Priority;

/// No single grant blocks a [`Rate`] for longer.
const LONGEST_DEBT: Duration = Duration::from_secs(86_400);

/// A rate with a burst, as a leaky bucket that may be overdrawn once: what is asked for is granted whole as soon as
/// nothing is owed, and whoever comes next waits for it to be paid. So one large read needs no splitting, and the mean
/// rate holds all the same.
#[derive(Debug)]
pub struct Rate {
    /// Units a second.
    per_second: f64,
    /// Units that may be had at once after a pause.
    burst: f64,
    /// When everything granted so far is paid for, if that lies ahead.
    paid: Option<Instant>,
}

impl Rate {
    /// `per_second` units a second (at least one a day), of which those of `burst` may come at once.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second: per_second.max(1.0 / 86_400.0), burst: burst.max(0.0), paid: None }
    }

    /// When the next units can be had: now, or later.
    pub fn ready(&self, now: Instant) -> Instant {
        let Some(paid) = self.paid else { return now };
        let credit = Duration::from_secs_f64(self.burst / self.per_second);
        paid.checked_sub(credit).map_or(now, |ready| ready.max(now))
    }

    /// Takes `units`, or says when to come again.
    pub fn take(&mut self, now: Instant, units: f64) -> Result<(), Instant> {
        let ready = self.ready(now);
        if ready > now {
            return Err(ready);
        }
        let cost =
            Duration::try_from_secs_f64(units / self.per_second).unwrap_or(LONGEST_DEBT).min(LONGEST_DEBT);
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + cost);
        Ok(())
    }
}

/// Bounds of [`Flights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightLimits {
    /// Requests under way.
    pub requests: usize,
    /// Bytes they will bring. A larger request counts as this much, and so flies alone.
    pub bytes: u64,
    /// Requests of one priority that wait.
    pub queue: usize,
}

/// A request that flies or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId(u64);

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boarding {
    /// It starts now; [`Flights::leave`] when it has ended.
    Flies(FlightId),
    /// It starts when `leave` names it; `leave` for itself if it gives up before.
    Waits(FlightId),
    /// Too many wait already: it is refused.
    Refused,
}

/// What is under way at once.
#[derive(Debug)]
pub struct Flights {
    limits: FlightLimits,
    next: u64,
    flying: BTreeMap<FlightId, (Priority, u64)>,
    on_demand: Use,
    prefetch: Use,
}

/// What one priority uses and wants.
#[derive(Debug, Default)]
struct Use {
    requests: usize,
    bytes: u64,
    queue: VecDeque<(FlightId, u64)>,
}

impl Flights {
    /// Nothing under way. At least one request and one byte are always allowed.
    pub fn new(limits: FlightLimits) -> Self {
        let limits = FlightLimits { requests: limits.requests.max(1), bytes: limits.bytes.max(1), ..limits };
        Self { limits, next: 0, flying: BTreeMap::new(), on_demand: Use::default(), prefetch: Use::default() }
    }

    /// Requests under way.
    pub fn requests(&self) -> usize {
        self.flying.len()
    }

    /// Bytes under way.
    pub fn bytes(&self) -> u64 {
        self.on_demand.bytes + self.prefetch.bytes
    }

    /// Requests of this priority that wait.
    pub fn waiting(&self, priority: Priority) -> usize {
        match priority {
            Priority::OnDemand => self.on_demand.queue.len(),
            Priority::Prefetch => self.prefetch.queue.len(),
        }
    }

    /// A request for `bytes` wants to start.
    pub fn enter(&mut self, priority: Priority, bytes: u64) -> Boarding {
        let id = FlightId(self.next);
        self.next += 1;
        let queue_limit = self.limits.queue;
        let most = self.most(priority).1;
        let queue = &mut self.of(priority).queue;
        let is_behind = !queue.is_empty();
        queue.push_back((id, bytes.min(most)));
        // Whoever could start has started already, so only the newcomer can.
        if !is_behind && self.start_next() == Some(id) {
            return Boarding::Flies(id);
        }
        let queue = &mut self.of(priority).queue;
        if queue.len() > queue_limit {
            queue.pop_back();
            return Boarding::Refused;
        }
        Boarding::Waits(id)
    }

    /// A request has ended, or gives up waiting. Returns the requests that start now.
    pub fn leave(&mut self, id: FlightId) -> Vec<FlightId> {
        match self.flying.remove(&id) {
            Some((priority, bytes)) => {
                let used = self.of(priority);
                used.requests -= 1;
                used.bytes -= bytes;
            }
            None => {
                self.on_demand.queue.retain(|(waiting, _)| *waiting != id);
                self.prefetch.queue.retain(|(waiting, _)| *waiting != id);
            }
        }
        std::iter::from_fn(|| self.start_next()).collect()
    }

    /// Starts the first in line if there is room for it.
    fn start_next(&mut self) -> Option<FlightId> {
        let priority = if self.on_demand.queue.is_empty() { Priority::Prefetch } else { Priority::OnDemand };
        let (requests, bytes) = self.most(priority);
        let total = self.bytes();
        let room = self.flying.len() < self.limits.requests;
        let most = self.limits.bytes;
        let used = self.of(priority);
        let (id, wanted) = *used.queue.front()?;
        // Nothing overflows: no request wants more than there is.
        let fits = wanted <= most - total && wanted <= bytes - used.bytes;
        if !room || used.requests >= requests || !fits {
            return None;
        }
        used.queue.pop_front();
        used.requests += 1;
        used.bytes += wanted;
        self.flying.insert(id, (priority, wanted));
        Some(id)
    }

    /// Requests and bytes that one priority may hold.
    fn most(&self, priority: Priority) -> (usize, u64) {
        match priority {
            Priority::OnDemand => (self.limits.requests, self.limits.bytes),
            Priority::Prefetch => ((self.limits.requests / 2).max(1), (self.limits.bytes / 2).max(1)),
        }
    }

    fn of(&mut self, priority: Priority) -> &mut Use {
        match priority {
            Priority::OnDemand => &mut self.on_demand,
            Priority::Prefetch => &mut self.prefetch,
        }
    }
}

#[cfg(test)]
mod tests;
