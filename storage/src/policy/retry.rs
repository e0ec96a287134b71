//! Whether a failure is worth another try, where, and how soon.
//!
//! Owns the state of one request ([`Tries`]). Invariants: a request waits before it returns to an endpoint that failed it,
//! longer each time, but goes to another endpoint at once; it never returns to one that refused it; and all requests of a
//! read together spend at most the tries of its [`Attempts`].

use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::between;
use super::endpoint::EndpointIndex;
use super::line::Place;
use crate::backend::Priority;

/// The mean first delay is half of this; it doubles with each failure at the same endpoint.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// No delay is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// A server that asks for a longer wait gets this one: it may be wrong about its own return, and readers wait.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// What went wrong with one try, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable, no address, TLS broken off. The endpoint is ill. Retried.
    Connect,
    /// The connection broke before the answer was whole. The endpoint is ill. Retried.
    Broken,
    /// No byte came for the whole timeout or, if the read's deadline was nearer, for more than a second. The endpoint
    /// is ill. Retried.
    Silent,
    /// A 5xx other than 503. The endpoint is ill, and left alone for as long as it asked. Retried.
    Server {
        /// From now on, if the answer said it.
        retry_after: Option<Duration>,
    },
    /// 503. Like [`Failure::Server`], and the endpoint gets fewer requests at once when it is back.
    Overloaded {
        /// From now on, if the answer said it.
        retry_after: Option<Duration>,
    },
    /// 429. The endpoint is well, gets fewer requests at once, and none for as long as it asked. Retried.
    Throttled {
        /// From now on, if the answer said it.
        retry_after: Option<Duration>,
    },
    /// This endpoint will never give these bytes, another may: a mirror without the blob, a certificate that is not
    /// trusted, an answer with another range than asked for. Retried elsewhere only.
    Refused,
    /// Nobody will give these bytes: the origin says that they do not exist, or that we may not read them. Never retried.
    Final,
}

impl Failure {
    /// Whether the endpoint itself is ill, so that its breaker counts it.
    pub fn is_illness(self) -> bool {
        match self {
            Self::Connect | Self::Broken | Self::Silent | Self::Server { .. } | Self::Overloaded { .. } => {
                true
            }
            Self::Throttled { .. } | Self::Refused | Self::Final => false,
        }
    }

    /// Whether the endpoint has more requests than it can do, so that its limit is lowered.
    pub fn is_congestion(self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Overloaded { .. })
    }

    /// How long the endpoint asked to be left alone, but never longer than [`LONGEST_RETRY_AFTER`].
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Server { retry_after }
            | Self::Overloaded { retry_after }
            | Self::Throttled { retry_after } => retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER)),
            Self::Connect | Self::Broken | Self::Silent | Self::Refused | Self::Final => None,
        }
    }
}

/// How long to wait after the `failures`-th failure in a row (from 1): random between nothing and a limit that doubles
/// from 100 ms to 1 s.
pub fn backoff(random: &mut fastrand::Rng, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    between(random, Duration::ZERO, FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY))
}

/// One request and what became of its tries so far.
#[derive(Debug)]
pub struct Tries {
    /// Who waits for it.
    pub priority: Priority,
    /// When its answer becomes useless.
    pub deadline: Instant,
    attempts: Attempts,
    history: Vec<History>,
    /// A try has failed since the last one that was paid for.
    owes: bool,
    /// [`Failure::Final`] was reported.
    over: bool,
    /// Where it stands in line for room.
    place: Option<(EndpointIndex, Place)>,
    /// A trial is under way that may still bring the answer.
    trial: bool,
}

/// What one endpoint did to the request; at most one entry an endpoint.
#[derive(Debug)]
struct History {
    endpoint: EndpointIndex,
    failures: u32,
    /// No try there before.
    resume: Instant,
    refused: bool,
}

impl Tries {
    /// A new request. Its first try is free, the others are taken from `attempts`.
    pub fn new(priority: Priority, deadline: Instant, attempts: Attempts) -> Self {
        Self {
            priority,
            deadline,
            attempts,
            history: Vec::new(),
            owes: false,
            over: false,
            place: None,
            trial: false,
        }
    }

    /// Whether no further try is allowed, wherever.
    pub(super) fn is_spent(&self) -> bool {
        self.owes && self.attempts.is_spent()
    }

    /// Whether no further try can help.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether `endpoint` will never serve this request.
    pub(super) fn is_refused(&self, endpoint: EndpointIndex) -> bool {
        self.at(endpoint).is_some_and(|history| history.refused)
    }

    /// Whether bytes of `endpoint` were wrong: it is asked only when no other can be.
    pub(super) fn avoids(&self, endpoint: EndpointIndex) -> bool {
        self.attempts.avoids(endpoint)
    }

    /// When `endpoint` may be tried again, if it failed before.
    pub(super) fn resume(&self, endpoint: EndpointIndex) -> Option<Instant> {
        self.at(endpoint).map(|history| history.resume)
    }

    /// Its place in the line of `endpoint`.
    pub(super) fn place(&self, endpoint: EndpointIndex) -> Option<&Place> {
        self.place.as_ref().filter(|(at, _)| *at == endpoint).map(|(_, place)| place)
    }

    /// Stands in line at `endpoint` from now on, and nowhere else.
    pub(super) fn stand(&mut self, endpoint: EndpointIndex, join: impl FnOnce() -> Place) {
        // One whose trial is under way asks once and does not wait: its place would keep others waiting.
        if !self.trial && self.place(endpoint).is_none() {
            self.place = Some((endpoint, join()));
        }
    }

    /// A try is sent, and stands in no line.
    pub(super) fn sent(&mut self, trial: bool) {
        self.place = None;
        self.trial |= trial;
    }

    /// Pays for a try that starts now; false if the read has none left.
    pub(super) fn pay(&mut self) -> bool {
        let paid = !self.owes || self.attempts.take();
        self.owes &= !paid;
        paid
    }

    /// A try at `endpoint` failed. A trial needs no pause after it: its breaker sets the pace.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        endpoint: EndpointIndex,
        failure: Failure,
        trial: bool,
        random: &mut fastrand::Rng,
    ) {
        self.owes = true;
        self.trial &= !trial;
        self.over |= failure == Failure::Final;
        let place =
            self.history.iter().position(|history| history.endpoint == endpoint).unwrap_or_else(|| {
                self.history.push(History { endpoint, failures: 0, resume: now, refused: false });
                self.history.len() - 1
            });
        let history = &mut self.history[place];
        history.refused |= failure == Failure::Refused;
        if !trial {
            history.failures = history.failures.saturating_add(1);
            // What the server asked for holds for everybody, and lies with the endpoint.
            history.resume = now + backoff(random, history.failures);
        }
    }

    fn at(&self, endpoint: EndpointIndex) -> Option<&History> {
        self.history.iter().find(|history| history.endpoint == endpoint)
    }
}

#[cfg(test)]
mod tests;
