//! Which endpoint a request goes to now, or what it waits for.
//!
//! Owns the endpoints of one backend in the order they are preferred: mirrors or a proxy, then the origin; each with its
//! [`Breaker`] and its [`Limit`]. Invariants: a request goes to the first endpoint that can have it, and after a failure to
//! another one at once; an endpoint whose breaker is open gets trials and nothing else; every wait ends at the request's
//! deadline. Having a favourite and leaving it are both sticky: the first healthy endpoint is asked by everybody, and one
//! that fell out is returned to ever more slowly while another serves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::between;
use super::breaker::{Admission, Breaker, FAILURE_LIMIT, Pass, Phase, Urgency};
use super::budget::Rate;
use super::concurrency::{self, Limit};
use super::line::Line;
use super::retry::{Failure, Tries};
use crate::backend::Priority;
use crate::lock;

/// Prefetch waits for an endpoint to come back for so long, measured from its opening; later it is shed.
const PREFETCH_PATIENCE: Duration = Duration::from_secs(10);

/// A trial that has said nothing for so long, while another endpoint could serve, is joined by a request there.
const TRIAL_PATIENCE: Duration = Duration::from_millis(300);

/// Where one request at a time is too much there is a pause after each: up to this, doubled each time.
const CROWDED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// An endpoint that could not be used at all comes last for so long.
const UNUSABLE: Duration = Duration::from_secs(30);

/// Who waits behind others while there is room looks again so soon whether they are still there.
const LINE_PATIENCE: Duration = Duration::from_millis(100);

/// An endpoint of a backend: its place in the list that [`Endpoints::new`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIndex(pub usize);

/// What an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A copy of the origin.
    Mirror,
    /// Asks the origin for us.
    Proxy,
    /// Where the blobs are at home.
    Origin,
}

impl Role {
    /// Its name in metrics, logs and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Proxy => "proxy",
            Self::Origin => "origin",
        }
    }
}

/// What is known of an endpoint beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// What it is.
    pub role: Role,
    /// Failures in a row that make it suspect.
    pub failure_limit: u32,
    /// Its requests at once.
    pub concurrency: concurrency::Settings,
}

impl EndpointSettings {
    /// The defaults of an endpoint with this role.
    pub fn new(role: Role) -> Self {
        Self { role, failure_limit: FAILURE_LIMIT, concurrency: concurrency::Settings::default() }
    }
}

/// What a request does next.
#[derive(Debug)]
pub enum Decision {
    /// It is sent.
    Send(Ticket),
    /// It waits until then, or until [`Endpoints::report`] or [`Endpoints::abandon`] returns true; then it asks again.
    Wait {
        /// Never after the deadline.
        until: Instant,
        /// For logs and spans.
        why: Waiting,
    },
    /// Prefetch only: it is given up, since the outage lasts or readers need the room.
    Shed,
    /// Its deadline has passed.
    Expired,
    /// It has failed; the caller knows its last failure.
    GiveUp(GivenUp),
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For other requests to end: the endpoint has as many as it may have.
    Room,
    /// It failed, and lets some time pass.
    Backoff,
    /// The endpoint asked to be left alone (`Retry-After`).
    Throttled,
    /// For its turn to go past a proxy that is well.
    Bypass,
    /// For an endpoint to come back.
    Outage,
}

impl Waiting {
    /// Its name in traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Backoff => "backoff",
            Self::Throttled => "throttled",
            Self::Bypass => "bypass",
            Self::Outage => "outage",
        }
    }
}

/// Why a request is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The read has used up its tries (`retry_limit`).
    Spent,
    /// All endpoints refused it, or the origin's answer is final.
    Refused,
}

/// A request that is under way. It has to be given back to the machine it came from, once, whatever happens.
#[derive(Debug)]
#[must_use = "a ticket that is not given back occupies its endpoint for ever"]
pub struct Ticket {
    endpoint: EndpointIndex,
    phase: Phase,
    pass: Pass,
    priority: Priority,
    sent: Instant,
    hedge: Option<Instant>,
}

impl Ticket {
    /// Where to send it.
    pub fn endpoint(&self) -> EndpointIndex {
        self.endpoint
    }

    /// What its breaker thought of the endpoint when it was sent.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it must not use a connection that was used before.
    pub fn needs_new_connection(&self) -> bool {
        self.pass.is_trial()
    }

    /// If no byte has come by then: keep it running and call [`Endpoints::choose`] for the same request once more; unless
    /// that says [`Decision::Send`] too, go on waiting for this one. What comes first is used. Only trials have it: they
    /// ask an endpoint that is likely dead, and their reader should not wait for its timeout. A trial that was overtaken
    /// is best left running, its bytes dropped: its outcome is what was wanted.
    pub fn hedge_at(&self) -> Option<Instant> {
        self.hedge
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it came.
    Success,
    /// It failed.
    Failure(Failure),
}

/// What is known of an endpoint, for metrics, logs and the control API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its breaker.
    pub phase: Phase,
    /// Since when it is left alone, if it is.
    pub open_since: Option<Instant>,
    /// How often its breaker has opened.
    pub openings: u64,
    /// No requests before this, if it asked so and the time has not come.
    pub paused_until: Option<Instant>,
    /// The last ping was answered, or there are none.
    pub pings: bool,
    /// False for a while after [`Failure::Unusable`]: the others are preferred.
    pub usable: bool,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests allowed at once.
    pub limit: u32,
    /// Requests that wait for others to end.
    pub waiting: u32,
}

#[derive(Debug)]
struct Endpoint {
    role: Role,
    breaker: Breaker,
    limit: Limit,
    /// Those who wait for the limit.
    line: Line,
    /// `Retry-After`, or what we make of it when nobody says how long.
    paused: Option<Instant>,
    /// 429s since a success that fewer requests at once did not help against.
    crowded: u32,
    pings: bool,
    /// [`Failure::Unusable`]: the others are preferred until then.
    unusable: Option<Instant>,
}

impl Endpoint {
    fn is_usable(&self, now: Instant) -> bool {
        self.unusable.is_none_or(|until| until <= now)
    }

    fn paused(&self, now: Instant) -> Option<Instant> {
        self.paused.filter(|paused| *paused > now)
    }

    fn health(&self, now: Instant) -> Health {
        Health {
            phase: self.breaker.phase(),
            open_since: self.breaker.open_since(),
            openings: self.breaker.openings(),
            paused_until: self.paused(now),
            pings: self.pings,
            usable: self.is_usable(now),
            in_flight: self.limit.in_flight(),
            limit: self.limit.limit(),
            waiting: self.line.len(),
        }
    }

    /// Would be sent a request like any other.
    fn serves(&self, now: Instant) -> bool {
        self.breaker.is_closed() && self.paused(now).is_none()
    }
}

/// What stands in the way of one endpoint.
struct Obstacle {
    until: Instant,
    why: Waiting,
}

/// The endpoints of one backend.
#[derive(Debug)]
pub struct Endpoints {
    endpoints: Vec<Endpoint>,
    bypass: Arc<Mutex<Rate>>,
    random: fastrand::Rng,
}

impl Endpoints {
    /// Endpoints in the order they are preferred. `bypass` limits, over all backends that share it, the requests that
    /// go to the origin although there is a proxy that is well: 1 a second. `seed` should differ between backends.
    pub fn new(endpoints: &[EndpointSettings], bypass: Arc<Mutex<Rate>>, seed: u64) -> Self {
        let endpoint = |settings: &EndpointSettings| Endpoint {
            role: settings.role,
            breaker: Breaker::new(settings.failure_limit),
            limit: Limit::new(settings.concurrency),
            line: Line::default(),
            paused: None,
            crowded: 0,
            pings: true,
            unusable: None,
        };
        Self {
            endpoints: endpoints.iter().map(endpoint).collect(),
            bypass,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// What the request does next.
    pub fn choose(&mut self, now: Instant, tries: &mut Tries) -> Decision {
        if now >= tries.deadline {
            return Decision::Expired;
        }
        if tries.is_spent() {
            return Decision::GiveUp(GivenUp::Spent);
        }
        let candidates = self.candidates(now, tries);
        if tries.is_over() || candidates.is_empty() {
            return Decision::GiveUp(GivenUp::Refused);
        }
        let mut first: Option<Obstacle> = None;
        for index in candidates {
            let obstacle = match self.try_one(now, index, tries) {
                Ok(ticket) => return Decision::Send(ticket),
                Err(obstacle) => obstacle,
            };
            // An endpoint that is well and busy is waited for: those behind it are there for when it fails.
            if obstacle.why == Waiting::Room {
                return Decision::Wait { until: obstacle.until.min(tries.deadline), why: Waiting::Room };
            }
            if first.as_ref().is_none_or(|first| obstacle.until < first.until) {
                first = Some(obstacle);
            }
        }
        let Some(Obstacle { until, why }) = first else { return Decision::GiveUp(GivenUp::Refused) };
        if tries.priority == Priority::Prefetch && (until >= tries.deadline || self.is_outage_old(now)) {
            return Decision::Shed;
        }
        Decision::Wait { until: until.min(tries.deadline), why }
    }

    /// A request ended. `tries` is that of the request, unless nobody waits for it any more (a trial that lost against
    /// its hedge). True if waiting requests should ask again.
    pub fn report(
        &mut self,
        now: Instant,
        ticket: Ticket,
        tries: Option<&mut Tries>,
        outcome: Outcome,
    ) -> bool {
        let Ticket { endpoint: index, pass, priority, sent, .. } = ticket;
        let Some(endpoint) = self.endpoints.get_mut(index.0) else { return false };
        let was_full = endpoint.limit.is_full();
        let was_closed = endpoint.breaker.is_closed();
        let mut changed = match outcome {
            Outcome::Failure(failure) if failure.is_illness() => {
                endpoint.breaker.failed(now, pass, &mut self.random)
            }
            // Whatever it said, it is there.
            Outcome::Success | Outcome::Failure(_) => endpoint.breaker.succeeded(now, pass),
        };
        match outcome {
            Outcome::Success => {
                endpoint.limit.succeeded();
                endpoint.crowded = 0;
                endpoint.unusable = None;
            }
            Outcome::Failure(failure) => {
                if failure.is_congestion() && !endpoint.limit.throttled(now, sent) && !failure.is_illness() {
                    // Of one that is ill, the breaker sets the pace.
                    let longest = CROWDED.0.saturating_mul(1 << endpoint.crowded.min(8)).min(CROWDED.1);
                    let wait = between(&mut self.random, longest / 2, longest);
                    endpoint.crowded = endpoint.crowded.saturating_add(1);
                    endpoint.paused = endpoint.paused.max(Some(now + wait));
                    changed = true;
                }
                if failure == Failure::Unusable {
                    endpoint.unusable = Some(now + UNUSABLE);
                }
                if let Some(wait) = failure.retry_after() {
                    endpoint.paused = endpoint.paused.max(Some(now + wait));
                    changed = true;
                }
                if let Some(tries) = tries {
                    tries.failed(now, index, failure, pass.is_trial(), &mut self.random);
                }
            }
        }
        if !was_closed && endpoint.breaker.is_closed() {
            endpoint.limit.restart();
        }
        endpoint.limit.end(priority);
        was_full || changed
    }

    /// A request was cancelled, or cut off by its deadline before that said anything of the endpoint. True if waiting
    /// requests should ask again.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(ticket.endpoint.0) else { return false };
        let was_full = endpoint.limit.is_full();
        endpoint.breaker.abandoned(ticket.pass);
        endpoint.limit.end(ticket.priority);
        was_full
    }

    /// A health check, if the endpoint has one, was answered or not. While it is not, the others are preferred. True if
    /// waiting requests should ask again.
    pub fn pinged(&mut self, endpoint: EndpointIndex, answered: bool) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(endpoint.0) else { return false };
        std::mem::replace(&mut endpoint.pings, answered) != answered
    }

    /// What is known of each endpoint, in order.
    pub fn health(&self, now: Instant) -> impl Iterator<Item = Health> {
        self.endpoints.iter().map(move |endpoint| endpoint.health(now))
    }

    /// What is known of one endpoint.
    pub fn health_of(&self, now: Instant, endpoint: EndpointIndex) -> Option<Health> {
        self.endpoints.get(endpoint.0).map(|endpoint| endpoint.health(now))
    }

    /// The endpoints that may ever serve the request, the best first.
    fn candidates(&self, now: Instant, tries: &Tries) -> Vec<EndpointIndex> {
        let mut candidates: Vec<EndpointIndex> =
            (0..self.endpoints.len()).map(EndpointIndex).filter(|index| !tries.is_refused(*index)).collect();
        candidates.sort_by_key(|index| {
            let endpoint = &self.endpoints[index.0];
            (tries.avoids(*index), !endpoint.is_usable(now), !endpoint.pings)
        });
        candidates
    }

    fn try_one(&mut self, now: Instant, index: EndpointIndex, tries: &mut Tries) -> Result<Ticket, Obstacle> {
        let others_serve = self.others_serve(now, index, tries);
        let bypasses = self.bypasses(now, index);
        let endpoint = &mut self.endpoints[index.0];
        if let Some(until) = endpoint.paused(now) {
            return Err(Obstacle { until, why: Waiting::Throttled });
        }
        let urgency = if tries.priority == Priority::OnDemand && !others_serve {
            Urgency::Urgent
        } else {
            Urgency::Relaxed
        };
        match endpoint.breaker.admit(now, urgency) {
            Admission::Blocked(until) => return Err(Obstacle { until, why: Waiting::Outage }),
            // The breaker sets the pace; the request's own would only add to it.
            Admission::Trial => {}
            Admission::Normal => {
                if let Some(until) = tries.resume(index).filter(|resume| *resume > now) {
                    return Err(Obstacle { until, why: Waiting::Backoff });
                }
                let room = endpoint.limit.room(tries.priority);
                if !endpoint.line.is_turn(tries.priority, tries.place(index), room) {
                    let priority = tries.priority;
                    tries.stand(index, || endpoint.line.join(priority));
                    // With no room at all, the end of a request wakes. With some, it is somebody else's, who may go
                    // away without a word.
                    let until = if room > 0 { now + LINE_PATIENCE } else { tries.deadline };
                    return Err(Obstacle { until, why: Waiting::Room });
                }
                if bypasses && tries.priority == Priority::Prefetch {
                    return Err(Obstacle { until: tries.deadline, why: Waiting::Bypass });
                }
                if bypasses {
                    let mut bypass = lock(&self.bypass);
                    bypass.take(now, 1.0).map_err(|until| Obstacle { until, why: Waiting::Bypass })?;
                }
            }
        }
        if !tries.pay() {
            // Another request of the read has taken the last try since `is_spent` was asked.
            return Err(Obstacle { until: now, why: Waiting::Backoff });
        }
        let pass = endpoint.breaker.pass(now, &mut self.random);
        let phase = endpoint.breaker.phase();
        endpoint.limit.start(tries.priority);
        tries.sent(pass.is_trial());
        let hedge =
            pass.is_trial().then(|| match (others_serve, endpoint.breaker.admit(now, Urgency::Urgent)) {
                (false, Admission::Blocked(next)) => next,
                _ => now + TRIAL_PATIENCE,
            });
        Ok(Ticket { endpoint: index, phase, pass, priority: tries.priority, sent: now, hedge })
    }

    /// Whether the request could go to an endpoint other than `index`.
    fn others_serve(&self, now: Instant, index: EndpointIndex, tries: &Tries) -> bool {
        self.endpoints.iter().enumerate().any(|(other, endpoint)| {
            other != index.0
                && endpoint.serves(now)
                && !tries.is_refused(EndpointIndex(other))
                && !tries.avoids(EndpointIndex(other))
        })
    }

    /// Whether sending to `index` goes past a proxy that is well.
    fn bypasses(&self, now: Instant, index: EndpointIndex) -> bool {
        let is_well =
            |endpoint: &Endpoint| endpoint.breaker.is_closed() && endpoint.pings && endpoint.is_usable(now);
        self.endpoints[index.0].role == Role::Origin
            && self.endpoints.iter().any(|endpoint| endpoint.role == Role::Proxy && is_well(endpoint))
    }

    /// Whether every endpoint has been left alone for so long that prefetch does not wait for one.
    fn is_outage_old(&self, now: Instant) -> bool {
        self.endpoints.iter().all(|endpoint| {
            let since = endpoint.breaker.open_since();
            since.is_some_and(|since| now.saturating_duration_since(since) >= PREFETCH_PATIENCE)
        })
    }
}

#[cfg(test)]
mod tests;
