//! When a password that was turned down is shown again.
//!
//! Owns the pauses of one credential at one server. Invariants: a credential that was never accepted since it was turned
//! down is shown ever more seldom; however many requests show it at once, they count as one refusal.

use std::time::{Duration, Instant};

use super::between;

/// The first pause is at most this, and no pause is longer than the second; each is twice the one before.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// The pause after so many refusals before this one: a random part of its upper half.
pub(super) fn pause(random: &mut fastrand::Rng, before: u32) -> Duration {
    let longest = PAUSES.0.saturating_mul(1 << before.min(16)).min(PAUSES.1);
    between(random, longest / 2, longest)
}

/// What became of one credential at one server.
#[derive(Debug)]
pub struct Refusals {
    count: u32,
    resume: Option<Instant>,
    random: fastrand::Rng,
}

impl Refusals {
    /// Never turned down. `seed` should differ between servers.
    pub fn new(seed: u64) -> Self {
        Self { count: 0, resume: None, random: fastrand::Rng::with_seed(seed) }
    }

    /// Not shown before then; `None`: it may be shown now.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.resume.filter(|resume| *resume > now)
    }

    /// It was turned down.
    pub fn refused(&mut self, now: Instant) {
        if self.until(now).is_none() {
            self.resume = Some(now + pause(&mut self.random, self.count));
            self.count = self.count.saturating_add(1);
        }
    }

    /// It was accepted: the past is forgotten.
    pub fn accepted(&mut self) {
        (self.count, self.resume) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_password_is_shown_ever_more_seldom() {
        let zero = Instant::now();
        let mut refusals = Refusals::new(1);
        let mut shown = Vec::new();
        for second in 0..7200 {
            let now = zero + Duration::from_secs(second);
            if refusals.until(now).is_none() {
                shown.push(second);
                // Many at once.
                (0..16).for_each(|_| refusals.refused(now));
            }
        }
        assert!((15..=35).contains(&shown.len()), "{} times in two hours: {shown:?}", shown.len());
        assert!(shown[1] <= 5 && shown.windows(2).all(|pair| pair[1] - pair[0] <= 600), "{shown:?}");
    }

    #[test]
    fn one_that_is_accepted_has_no_past() {
        let zero = Instant::now();
        let mut refusals = Refusals::new(1);
        (0..20).for_each(|turn| refusals.refused(zero + Duration::from_secs(turn * 1000)));
        refusals.accepted();
        let now = zero + Duration::from_secs(30_000);
        assert_eq!(refusals.until(now), None);
        refusals.refused(now);
        assert!(refusals.until(now).is_some_and(|until| until <= now + PAUSES.0));
    }
}
