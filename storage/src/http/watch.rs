//! What happens at one endpoint: counted for metrics, and told in the log when its breaker turns.
//!
//! Invariant: an outage is one line when it begins, one a minute while somebody asks for what cannot be had, and one when
//! it is over, however many requests fail meanwhile; an endpoint that cannot be used is a line a minute; no name and no line holds a secret.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::Error;
use crate::lock;
use crate::metrics::Counter;
use crate::policy::breaker::Phase;
use crate::policy::endpoint::{Health, Role};

/// An outage that lasts is told of again after so long.
const REMINDER: Duration = Duration::from_secs(60);

/// How a try ended: one request of a read to one endpoint, with all that it led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryOutcome {
    /// The bytes came.
    Success,
    /// No connection.
    Connect,
    /// The connection broke.
    Broken,
    /// The connection stood still.
    Silent,
    /// No such host, no TLS, or a certificate that is not good enough for either side.
    Unusable,
    /// 5xx.
    ServerError,
    /// 429.
    Throttled,
    /// The blob is not there.
    NotFound,
    /// The blob may not be read.
    Denied,
    /// The answer was not the range that was asked for.
    WrongAnswer,
    /// Another answer that brings nothing.
    Refused,
    /// Nobody waited for it any more, or the deadline came.
    Abandoned,
}

impl TryOutcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Success,
        Self::Connect,
        Self::Broken,
        Self::Silent,
        Self::Unusable,
        Self::ServerError,
        Self::Throttled,
        Self::NotFound,
        Self::Denied,
        Self::WrongAnswer,
        Self::Refused,
        Self::Abandoned,
    ];

    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Silent => "silent",
            Self::Unusable => "unusable",
            Self::ServerError => "server_error",
            Self::Throttled => "throttled",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::WrongAnswer => "wrong_answer",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }

    fn of(result: &Result<(), Failure>) -> Self {
        result.as_ref().map_or_else(Self::of_failure, |()| Self::Success)
    }

    pub(crate) fn of_failure(failure: &Failure) -> Self {
        match failure {
            Failure::Connect(_) => Self::Connect,
            Failure::Broken(_) => Self::Broken,
            Failure::Silent(_) => Self::Silent,
            Failure::Unusable(_) | Failure::NotTls(_) => Self::Unusable,
            Failure::Server { .. } | Failure::Overloaded { .. } => Self::ServerError,
            Failure::Throttled { .. } => Self::Throttled,
            Failure::Refused(error) | Failure::Final(error) => match error {
                Error::NotFound { .. } => Self::NotFound,
                Error::Denied { .. } => Self::Denied,
                Error::Corrupt { .. } => Self::WrongAnswer,
                _ => Self::Refused,
            },
            Failure::Late => Self::Abandoned,
        }
    }
}

/// An endpoint of a backend, and how it is.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// As errors and log lines call it: the place of the origin, `mirror ADDRESS` or `proxy ADDRESS`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its breaker, and what it is asked to do.
    pub health: Health,
    /// Tries that ended, by [`TryOutcome`].
    pub tries: [u64; TryOutcome::ALL.len()],
    /// Tries after one of the same read that had failed, there or elsewhere.
    pub retries: u64,
    /// Tries beside one of the same read that had said nothing yet.
    pub hedges: u64,
    /// HTTP requests: what tries consist of, where they were led to, and health checks.
    pub requests: u64,
    /// Bytes of bodies that came, those of failed tries and of errors included.
    pub received_bytes: u64,
}

/// Why a try is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is the first of its read.
    First,
    /// One before has failed.
    Retry,
    /// One before has said nothing yet.
    Hedge,
}

impl Reason {
    /// Its name in traces.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
        }
    }
}

/// Watches one endpoint.
#[derive(Debug)]
pub(crate) struct Watch {
    name: String,
    role: Role,
    tries: [Counter; TryOutcome::ALL.len()],
    retries: Counter,
    hedges: Counter,
    requests: Counter,
    received: Arc<Counter>,
    outage: Mutex<Option<Outage>>,
    /// When it was last told that the endpoint cannot be used.
    unusable: Mutex<Option<Instant>>,
}

/// An outage that was told of.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    told: Instant,
}

impl Watch {
    /// Nothing has happened yet at the endpoint of this name.
    pub(crate) fn new(name: String, role: Role) -> Self {
        Self {
            name,
            role,
            tries: Default::default(),
            retries: Counter::default(),
            hedges: Counter::default(),
            requests: Counter::default(),
            received: Arc::default(),
            outage: Mutex::default(),
            unusable: Mutex::default(),
        }
    }

    /// A try is sent.
    pub(crate) fn sent(&self, reason: Reason) {
        match reason {
            Reason::First => {}
            Reason::Retry => self.retries.increment(),
            Reason::Hedge => self.hedges.increment(),
        }
    }

    /// An HTTP request is sent; what is returned counts the bytes of its answer.
    pub(crate) fn request(&self) -> Arc<Counter> {
        self.requests.increment();
        self.received.clone()
    }

    /// A try has ended, and the endpoint's health is now `health`. The calls for an endpoint come in the order in which
    /// its health changed.
    pub(crate) fn ended(&self, now: Instant, health: &Health, result: &Result<(), Failure>) {
        let outcome = TryOutcome::of(result);
        self.tries[outcome as usize].increment();
        // Of the origin, the reads that fail tell. Without this, nobody would hear that a mirror is never used.
        if let (TryOutcome::Unusable, Err(failure), Role::Mirror | Role::Proxy) = (outcome, result, self.role)
        {
            let mut told = lock(&self.unusable);
            if told.is_none_or(|told| now.saturating_duration_since(told) >= REMINDER) {
                *told = Some(now);
                tracing::warn!(endpoint = self.name, %failure, "the endpoint cannot be used, others are asked");
            }
        }
        let mut outage = lock(&self.outage);
        match (&mut *outage, health.open_since) {
            (None, Some(since)) => {
                *outage = Some(Outage { since, told: now });
                let failure = result.as_ref().err().map(tracing::field::display);
                tracing::warn!(
                    endpoint = self.name,
                    failure,
                    openings = health.openings,
                    "circuit breaker open: the endpoint is left alone, but for trials"
                );
            }
            (Some(lasting), Some(_)) if now.saturating_duration_since(lasting.told) >= REMINDER => {
                lasting.told = now;
                let failure = result.as_ref().err().map(tracing::field::display);
                tracing::warn!(
                    endpoint = self.name,
                    failure,
                    open_seconds = seconds(lasting.since, now),
                    "circuit breaker still open"
                );
            }
            (Some(over), None) if health.phase == Phase::Closed => {
                tracing::info!(
                    endpoint = self.name,
                    open_seconds = seconds(over.since, now),
                    "circuit breaker closed: the endpoint answers again"
                );
                *outage = None;
            }
            _ => {}
        }
    }

    /// A try was given up, or cut off by its deadline before that said anything.
    pub(crate) fn abandoned(&self) {
        self.tries[TryOutcome::Abandoned as usize].increment();
    }

    /// All that was counted, beside what the policy knows.
    pub(crate) fn status(&self, health: Health) -> EndpointStatus {
        EndpointStatus {
            name: self.name.clone(),
            role: self.role,
            health,
            tries: std::array::from_fn(|outcome| self.tries[outcome].get()),
            retries: self.retries.get(),
            hedges: self.hedges.get(),
            requests: self.requests.get(),
            received_bytes: self.received.get(),
        }
    }
}

/// Seconds with one decimal.
fn seconds(since: Instant, now: Instant) -> f64 {
    (now.saturating_duration_since(since).as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
