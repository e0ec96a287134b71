//! When a bearer token is fetched anew.
//!
//! Owns the life of the token of one key (realm, service, scope, credential). It acts only when somebody needs the token:
//! who has all its data, or is idle, makes no requests. Invariants: one fetch at a time; no token is handed out after its
//! end or after it was refused; a token in use is renewed before its end, and those of many keys not together; a service
//! that fails, or tokens of which none was ever accepted, are met with ever longer pauses.
//!
//! ```text
//!   asked                                 renew                              end
//!     ├───────────────── used ──────────────┼── used, and renewed behind it ───┤
//!     └────────────── life ─ margin ─ jitter┘        margin + jitter
//! ```

use std::time::{Duration, Instant};

use super::between;
use super::refusal;
use super::retry::LONGEST_RETRY_AFTER;

/// A token is renewed so long before its end, or a quarter of its life if that is shorter.
const MARGIN: Duration = Duration::from_secs(20);

/// Lives are taken for at least and at most this: a service that says 0 is not asked without end, and what it says
/// of next year is not believed.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);

/// A fetch that has said nothing for so long does not keep others from trying.
const FETCH_PATIENCE: Duration = Duration::from_secs(30);

/// Pauses after a failed fetch, where there is no token: as short as those of an urgent trial, since readers wait.
const URGENT: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_millis(1700));

/// Where the old token is still good: this, doubled each time.
const RELAXED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A token that is refused so soon after it came is not replaced at once.
const YOUNG: Duration = Duration::from_secs(10);

/// What somebody who needs the token does.
#[derive(Debug)]
pub enum Need<T> {
    /// Uses this one.
    Use(T),
    /// Uses this one, and sees to it that the fetch is made meanwhile.
    Renew(T, Fetch),
    /// Makes the fetch and waits for it.
    Fetch(Fetch),
    /// Waits until then, or until [`Life::fetched`] or [`Life::failed`] was called; then asks again.
    Wait(Instant),
    /// Fails: the credential was turned down, and it is not shown again before this time.
    Denied(Instant),
}

/// A fetch that is under way. It has to be given back to the machine it came from.
#[derive(Debug)]
#[must_use = "a fetch that is not given back keeps others from trying"]
pub struct Fetch {
    number: u64,
    asked: Instant,
}

/// Why a fetch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The service could not be reached, or was ill.
    Unavailable,
    /// It turned the credential down.
    Denied,
}

/// The life of the token of one key.
#[derive(Debug)]
pub struct Life<T> {
    token: Option<Token<T>>,
    /// The number of the last fetch, and when it started if it is under way.
    number: u64,
    fetching: Option<Instant>,
    /// No fetch before.
    resume: Option<Instant>,
    /// The last failure, and how many there were in a row.
    fault: Option<(Fault, u32)>,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Token<T> {
    value: T,
    came: Instant,
    renew: Instant,
    end: Instant,
    /// Its end, if it was made in the moment it was asked for. By then it may be over, and nobody to blame.
    earliest_end: Instant,
    /// The registry has accepted it.
    proven: bool,
}

impl<T: Clone + PartialEq> Life<T> {
    /// No token yet. `seed` should differ between keys and processes.
    pub fn new(seed: u64) -> Self {
        Self {
            token: None,
            number: 0,
            fetching: None,
            resume: None,
            fault: None,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Somebody needs the token now.
    pub fn need(&mut self, now: Instant) -> Need<T> {
        let held = self.token.as_ref().filter(|token| now < token.end);
        let held = held.map(|token| (token.value.clone(), now >= token.renew));
        let busy = self.fetching.map(|since| since + FETCH_PATIENCE).filter(|until| *until > now);
        let pause = self.resume.filter(|resume| *resume > now);
        match (held, busy, pause) {
            (Some((value, true)), None, None) => Need::Renew(value, self.start(now)),
            (Some((value, _)), _, _) => Need::Use(value),
            (None, Some(until), _) => Need::Wait(until),
            (None, None, Some(until)) if self.is_denied() => Need::Denied(until),
            (None, None, Some(until)) => Need::Wait(until),
            (None, None, None) => Need::Fetch(self.start(now)),
        }
    }

    /// The service gave `value` with this life, which counts from when it was asked: it may have made it any time after.
    /// Those who waited for it get it, however long it took.
    pub fn fetched(&mut self, now: Instant, fetch: Fetch, value: T, life: Duration) {
        self.returned(&fetch);
        let life = life.clamp(SHORTEST_LIFE, LONGEST_LIFE);
        let early = MARGIN.min(life / 4) + between(&mut self.random, Duration::ZERO, life / 10);
        // Pauses after refusals go on: only a token that is accepted shows that the credential is good.
        self.fault = self.fault.filter(|(fault, _)| *fault == Fault::Denied);
        self.resume = None;
        let (renew, earliest_end) = (fetch.asked + (life - early), fetch.asked + life);
        let end = earliest_end.max(now + SHORTEST_LIFE);
        self.token = Some(Token { value, came: now, renew, end, earliest_end, proven: false });
    }

    /// The fetch failed; the service may have asked to be left alone for some time. The old token stays in use for as
    /// long as it lives.
    pub fn failed(&mut self, now: Instant, fetch: Fetch, fault: Fault, retry_after: Option<Duration>) {
        self.returned(&fetch);
        self.pause(now, fault);
        let asked = retry_after.map(|wait| now + wait.min(LONGEST_RETRY_AFTER));
        self.resume = self.resume.max(asked);
    }

    /// Nobody waits for the fetch any more, and it said nothing.
    pub fn abandoned(&mut self, fetch: Fetch) {
        self.returned(&fetch);
    }

    /// The registry turned down a request with `value`: it is not handed out again.
    pub fn refused(&mut self, now: Instant, value: &T) {
        let Some(token) = self.token.take_if(|token| token.value == *value) else { return };
        if now.saturating_duration_since(token.came) >= YOUNG {
            self.fault = None;
            self.resume = None;
        } else if token.proven || now >= token.earliest_end {
            // It ended sooner than we thought: clocks differ. Readers wait for the next one.
            self.pause(now, Fault::Unavailable);
        } else {
            self.pause(now, Fault::Denied);
        }
    }

    /// The registry accepted a request with `value`.
    pub fn accepted(&mut self, value: &T) {
        if let Some(token) = self.token.as_mut().filter(|token| !token.proven && token.value == *value) {
            token.proven = true;
            self.fault = None;
        }
    }

    /// Somebody has said anew that the credential is good: it is shown at once.
    pub fn pardon(&mut self) {
        if self.is_denied() {
            self.fault = None;
            self.resume = None;
        }
    }

    /// Whether there is neither a token that is good nor a fetch nor a pause: the key may be forgotten.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.fetching.is_none()
            && self.resume.is_none_or(|resume| resume <= now)
            && self.token.as_ref().is_none_or(|token| token.end <= now)
    }

    fn is_denied(&self) -> bool {
        matches!(self.fault, Some((Fault::Denied, _)))
    }

    fn start(&mut self, now: Instant) -> Fetch {
        self.number += 1;
        self.fetching = Some(now);
        Fetch { number: self.number, asked: now }
    }

    fn returned(&mut self, fetch: &Fetch) {
        // One that lasted too long has been replaced.
        if fetch.number == self.number {
            self.fetching = None;
        }
    }

    fn pause(&mut self, now: Instant, fault: Fault) {
        let before = self.fault.filter(|(last, _)| *last == fault).map_or(0, |(_, count)| count);
        self.fault = Some((fault, before.saturating_add(1)));
        let is_held = self.token.as_ref().is_some_and(|token| now < token.end);
        let mut resume = now
            + match fault {
                Fault::Denied => refusal::pause(&mut self.random, before),
                Fault::Unavailable if is_held => {
                    let longest = RELAXED.0.saturating_mul(1 << before.min(16)).min(RELAXED.1);
                    between(&mut self.random, longest / 2, longest)
                }
                Fault::Unavailable => between(&mut self.random, URGENT.0, URGENT.1),
            };
        // When the old token ends readers wait: then the pause is not longer than theirs would be.
        if let (Fault::Unavailable, Some(token)) = (fault, &self.token)
            && is_held
        {
            resume = resume.min(token.end.max(now + URGENT.0));
        }
        self.resume = Some(resume);
    }
}

#[cfg(test)]
mod tests;
