//! How many requests and bytes are under way, and how fast prefetch and fallback may go.

use std::time::{Duration, Instant};

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

/// No single grant blocks a rate for longer.
const LONGEST_DEBT: Duration = Duration::from_secs(86_400);
