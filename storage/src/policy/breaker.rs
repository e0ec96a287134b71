//! Whether an endpoint is used, tried, or left alone.
//!
//! ```text
//!            too many failures             a trial fails
//!   Closed ────────────────────▶ Suspect ───────────────▶ Open ◀──┐ the trial fails
//!     ▲                             │ a trial succeeds      │      │
//!     └─────────────────────────────┴───────────────────────┴── HalfOpen
//! ```
//!
//! A *trial* is a real read of some reader, made on a new connection. In `Suspect` it confirms that the endpoint is ill
//! and not just its old connections, in `Open` it finds out whether the endpoint is back (it is the *probe*); meanwhile
//! nothing else is sent. Invariants: an endpoint is opened only by a failed trial; one trial at a time, and one that has
//! said nothing until the next is due no longer holds that place, though its answer still counts; after the first
//! they are at least 1.5 s apart, and not in step with those of other breakers.
//!
//! How often `Open` is tried depends on who waits. If the reader has nowhere else to go it is *urgent*: each 1.5 to 1.7 s,
//! so that he is served within 2 s of the endpoint's return. If another endpoint serves meanwhile, or nobody waits, the
//! pauses double from 1.6 s to 30 s; an endpoint that opens again within a minute starts with a longer one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::between;

/// An urgent pause, from the start of a trial to the start of the next.
const URGENT: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_millis(1700));

/// The first relaxed pause is at most this; it doubles.
const RELAXED: Duration = Duration::from_millis(1600);

/// No relaxed pause is longer.
const LONGEST_RELAXED: Duration = Duration::from_secs(30);

/// Closed for so long: the past is forgotten.
const STEADY: Duration = Duration::from_secs(60);

/// The error rate is that of the last ten seconds, in slots of one.
const WINDOW: Duration = Duration::from_secs(10);
const SLOT: Duration = Duration::from_secs(1);

/// Fewer answers in the window say nothing about its error rate.
const MIN_ANSWERS: u32 = 20;

/// Failures in a row that make an endpoint suspect, unless its settings say otherwise.
pub const FAILURE_LIMIT: u32 = 5;

/// What a breaker thinks of its endpoint, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Used.
    Closed,
    /// Failed too often; a trial will tell, or is telling.
    Suspect,
    /// Left alone.
    Open,
    /// Left alone but for a trial that is under way.
    HalfOpen,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Suspect, Self::Open, Self::HalfOpen];

    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Suspect => "suspect",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Who wants to know whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A reader who has nowhere else to go.
    Urgent,
    /// Somebody who can go elsewhere or come back later.
    Relaxed,
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Like any other.
    Normal,
    /// As the trial: on a new connection.
    Trial,
    /// Not before this time.
    Blocked(Instant),
}

/// What a request takes with it, and gives back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The state of affairs it was sent in; what has become of older ones does not matter any more.
    epoch: u64,
    /// It is a trial.
    trial: bool,
}

impl Pass {
    /// Whether the request is a trial, which needs a new connection.
    pub fn is_trial(self) -> bool {
        self.trial
    }
}

/// The circuit breaker of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    failure_limit: u32,
    state: State,
    /// Counts changes between used and not used.
    epoch: u64,
    consecutive: u32,
    answers: VecDeque<Slot>,
    /// Openings, each within [`STEADY`] of the closing before.
    relapses: u32,
    /// How often it opened, ever.
    openings: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { since: Option<Instant> },
    Suspect(Trials),
    Open { since: Instant, trials: Trials },
}

/// When the next trial may start.
#[derive(Clone, Copy, Debug)]
struct Trials {
    urgent: Instant,
    relaxed: Instant,
    started: u32,
    running: u32,
}

/// Answers of a second.
#[derive(Clone, Copy, Debug)]
struct Slot {
    start: Instant,
    successes: u32,
    failures: u32,
}

impl Breaker {
    /// A closed breaker that becomes suspicious after `failure_limit` failures in a row, or when half of the answers of
    /// ten seconds are failures.
    pub fn new(failure_limit: u32) -> Self {
        Self {
            failure_limit: failure_limit.max(1),
            state: State::Closed { since: None },
            epoch: 0,
            consecutive: 0,
            answers: VecDeque::new(),
            relapses: 0,
            openings: 0,
        }
    }

    /// For metrics and logs.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::Suspect(_) => Phase::Suspect,
            State::Open { trials, .. } if trials.running > 0 => Phase::HalfOpen,
            State::Open { .. } => Phase::Open,
        }
    }

    /// Whether requests are sent as usual.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Since when the endpoint is left alone, if it is.
    pub fn open_since(&self) -> Option<Instant> {
        match self.state {
            State::Open { since, .. } => Some(since),
            State::Closed { .. } | State::Suspect(_) => None,
        }
    }

    /// How often it has opened.
    pub fn openings(&self) -> u64 {
        self.openings
    }

    /// Whether a request may be sent now. It changes nothing; [`Breaker::pass`] does.
    pub fn admit(&self, now: Instant, urgency: Urgency) -> Admission {
        let trials = match self.state {
            State::Closed { .. } => return Admission::Normal,
            State::Suspect(trials) | State::Open { trials, .. } => trials,
        };
        let due = match urgency {
            Urgency::Urgent => trials.urgent,
            Urgency::Relaxed => trials.relaxed,
        };
        if due <= now { Admission::Trial } else { Admission::Blocked(due) }
    }

    /// A request is sent, as [`Breaker::admit`] has just allowed.
    pub fn pass(&mut self, now: Instant, random: &mut fastrand::Rng) -> Pass {
        let relapses = self.relapses;
        let trial = match &mut self.state {
            State::Closed { .. } => false,
            State::Suspect(trials) | State::Open { trials, .. } => {
                trials.start(now, relapses, random);
                true
            }
        };
        Pass { epoch: self.epoch, trial }
    }

    /// The endpoint answered. True if it is used again.
    pub fn succeeded(&mut self, now: Instant, pass: Pass) -> bool {
        if self.is_closed() {
            self.consecutive = 0;
            self.slot(now).successes += 1;
            return false;
        }
        self.returned(pass);
        if !pass.trial || pass.epoch != self.epoch {
            return false;
        }
        self.state = State::Closed { since: Some(now) };
        self.epoch += 1;
        self.consecutive = 0;
        self.answers.clear();
        true
    }

    /// The endpoint failed in a way that makes it ill. True if it is used no longer, or is left alone from now on.
    pub fn failed(&mut self, now: Instant, pass: Pass, random: &mut fastrand::Rng) -> bool {
        self.returned(pass);
        if pass.epoch != self.epoch {
            return false;
        }
        match self.state {
            State::Closed { since } => {
                self.consecutive = self.consecutive.saturating_add(1);
                self.slot(now).failures += 1;
                if self.consecutive < self.failure_limit && !self.is_rate_high() {
                    return false;
                }
                // The trial is due at once.
                let trials = Trials { urgent: now, relaxed: now, started: 0, running: 0 };
                let steady = since.is_none_or(|since| now.saturating_duration_since(since) >= STEADY);
                self.relapses = if steady { 0 } else { self.relapses.saturating_add(1) };
                self.state = State::Suspect(trials);
                self.epoch += 1;
                true
            }
            State::Suspect(before) if pass.trial => {
                let trials = Trials::after_opening(now, self.relapses, before.running, random);
                self.state = State::Open { since: now, trials };
                self.openings += 1;
                true
            }
            // A trial that fails changes nothing: the next one's time was set when it started.
            State::Suspect(_) | State::Open { .. } => false,
        }
    }

    /// The request ended without saying anything of the endpoint. The next trial keeps its time, lest readers who give
    /// up one after another make one trial after another.
    pub fn abandoned(&mut self, pass: Pass) {
        self.returned(pass);
    }

    /// A trial of the present epoch is under way no longer.
    fn returned(&mut self, pass: Pass) {
        if let State::Suspect(trials) | State::Open { trials, .. } = &mut self.state
            && pass.trial
            && pass.epoch == self.epoch
        {
            trials.running = trials.running.saturating_sub(1);
        }
    }

    fn is_rate_high(&self) -> bool {
        let (successes, failures) = self
            .answers
            .iter()
            .fold((0u32, 0u32), |(good, bad), slot| (good + slot.successes, bad + slot.failures));
        successes + failures >= MIN_ANSWERS && failures >= successes
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        while self.answers.front().is_some_and(|slot| now.saturating_duration_since(slot.start) >= WINDOW) {
            self.answers.pop_front();
        }
        let fits = self.answers.back().is_some_and(|slot| now.saturating_duration_since(slot.start) < SLOT);
        if !fits {
            self.answers.push_back(Slot { start: now, successes: 0, failures: 0 });
        }
        let last = self.answers.len() - 1;
        &mut self.answers[last]
    }
}

impl Trials {
    /// The first trial of an endpoint that has just opened comes at a random point of the pause: many breakers that
    /// open together then keep a constant rate, instead of one wave after another.
    fn after_opening(now: Instant, relapses: u32, running: u32, random: &mut fastrand::Rng) -> Self {
        let urgent = between(random, URGENT.0, URGENT.1).mul_f64(random.f64());
        let relaxed = relaxed(relapses);
        let relaxed = between(random, if relapses == 0 { Duration::ZERO } else { relaxed / 2 }, relaxed);
        Self { urgent: now + urgent, relaxed: now + relaxed, started: 0, running }
    }

    fn start(&mut self, now: Instant, relapses: u32, random: &mut fastrand::Rng) {
        self.started = self.started.saturating_add(1);
        self.running += 1;
        let relaxed = relaxed(relapses.saturating_add(self.started));
        self.urgent = now + between(random, URGENT.0, URGENT.1);
        self.relaxed = now + between(random, relaxed / 2, relaxed);
    }
}

/// The longest relaxed pause after so many doublings.
fn relaxed(doublings: u32) -> Duration {
    RELAXED.saturating_mul(1 << doublings.min(8)).min(LONGEST_RELAXED)
}

#[cfg(test)]
mod tests;
