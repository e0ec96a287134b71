//! How many requests an endpoint gets at once.
//!
//! Owns the count of requests that are under way at one endpoint, and their limit: one more with each success until the
//! endpoint first says that it is too much, then one more each round trip, halved whenever it says so again. Invariants:
//! the limit lies in 1 to [`Settings::most`]; one congestion halves it once, however many requests report it; prefetch
//! holds at most half of it (but may hold one), so that a reader finds room.

use std::time::Instant;

use crate::backend::Priority;

/// Bounds of a [`Limit`], in requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The limit of an endpoint that nothing is known of.
    pub first: u32,
    /// No limit is higher.
    pub most: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { first: 16, most: 64 }
    }
}

/// The limit of one endpoint and what it is used for.
#[derive(Debug)]
pub struct Limit {
    settings: Settings,
    /// Requests; fractions add up to one more.
    limit: f64,
    on_demand: u32,
    prefetch: u32,
    lowered: Option<Instant>,
}

impl Limit {
    /// Nothing under way.
    pub fn new(settings: Settings) -> Self {
        let most = settings.most.max(1);
        let settings = Settings { first: settings.first.clamp(1, most), most };
        Self { settings, limit: f64::from(settings.first), on_demand: 0, prefetch: 0, lowered: None }
    }

    /// Requests allowed at once.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.on_demand + self.prefetch
    }

    /// How many more may start.
    pub fn room(&self, priority: Priority) -> u32 {
        let room = self.limit().saturating_sub(self.in_flight());
        match priority {
            Priority::OnDemand => room,
            Priority::Prefetch => room.min((self.limit() / 2).max(1).saturating_sub(self.prefetch)),
        }
    }

    /// Whether one more may start.
    pub fn has_room(&self, priority: Priority) -> bool {
        self.room(priority) > 0
    }

    /// One starts. Allowed beyond the limit too, for the trial of a breaker.
    pub fn start(&mut self, priority: Priority) {
        *self.count(priority) += 1;
    }

    /// Whether somebody may be waiting for room.
    pub fn is_full(&self) -> bool {
        !self.has_room(Priority::Prefetch)
    }

    /// One ended, however.
    pub fn end(&mut self, priority: Priority) {
        let count = self.count(priority);
        *count = count.saturating_sub(1);
    }

    /// One succeeded; called before [`Limit::end`]. A limit that is not half used is not raised: nothing was proven.
    pub fn succeeded(&mut self) {
        if self.in_flight().saturating_mul(2) < self.limit() {
            return;
        }
        let step = if self.lowered.is_some() { 1.0 / self.limit } else { 1.0 };
        self.limit = (self.limit + step).min(f64::from(self.settings.most));
    }

    /// The endpoint said that it is too much (429, 503) to a request that was sent at `sent`. False if fewer are not
    /// possible: one at a time is still too much.
    pub fn throttled(&mut self, now: Instant, sent: Instant) -> bool {
        // Sent before the last lowering: the same congestion.
        if self.lowered.is_some_and(|lowered| sent < lowered) {
            return true;
        }
        let could_be_less = self.limit() > 1;
        self.limit = (self.limit / 2.0).max(1.0);
        self.lowered = Some(now);
        could_be_less
    }

    /// The endpoint has come back from an outage: not everybody at once.
    pub fn restart(&mut self) {
        self.limit = self.limit.min(f64::from(self.settings.first));
    }

    fn count(&mut self, priority: Priority) -> &mut u32 {
        match priority {
            Priority::OnDemand => &mut self.on_demand,
            Priority::Prefetch => &mut self.prefetch,
        }
    }
}

#[cfg(test)]
mod tests;
