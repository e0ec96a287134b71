//! Readers, endpoints and the policy between them, on a virtual clock: what the machines do together in an outage.
//!
//! Events lie in a queue ordered by time; nothing sleeps and nothing is random but the policy's own seed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::budget::Rate;
use super::endpoint::{Decision, EndpointSettings, Endpoints, Outcome, Role, Ticket};
use super::retry::{Failure, Tries};
use crate::backend::Priority;

/// Round trip and transfer of a request to an endpoint that is well.
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// The setting `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A reader comes back so soon after its last read.
const THINK: Duration = Duration::from_millis(50);

/// What a busy endpoint serves at once; it answers 429 to more.
const CAPACITY: u32 = 8;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What an endpoint does to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refuses,
    Silent,
    Unavailable,
    Resets,
    /// Well, but serves only [`CAPACITY`] requests at once.
    Busy,
}

impl Fault {
    /// Those that are outages.
    const ALL: [Self; 4] = [Self::Refuses, Self::Silent, Self::Unavailable, Self::Resets];

    /// How soon a request ends, and how.
    fn answer(self) -> (Duration, Failure) {
        match self {
            Self::Refuses => (Duration::from_millis(1), Failure::Connect),
            Self::Silent => (TIMEOUT, Failure::Silent),
            Self::Unavailable => (Duration::from_millis(5), Failure::Overloaded { retry_after: None }),
            Self::Resets => (Duration::from_millis(15), Failure::Broken),
            Self::Busy => (Duration::from_millis(1), Failure::Throttled { retry_after: None }),
        }
    }
}

/// A time of sickness, from the start of the run.
#[derive(Clone, Copy, Debug)]
struct Outage {
    from: Duration,
    to: Duration,
    fault: Fault,
}

/// One reader: from `start` to `stop` one read after another, or a single one.
#[derive(Clone, Copy, Debug)]
struct Reader {
    start: Duration,
    stop: Duration,
    deadline: Duration,
    priority: Priority,
}

/// A read that has ended.
#[derive(Clone, Copy, Debug)]
struct Read {
    reader: usize,
    start: Duration,
    end: Duration,
    ended: Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Expired,
    Shed,
}

enum Event {
    /// A reader begins its next read.
    Begin(usize),
    /// A reader asks what to do now, if it still waits with this number.
    Ask { reader: usize, wait: u64 },
    /// A reader's trial has been silent: it asks for another place.
    Hedge { reader: usize, read: u64 },
    /// A request ends.
    End { reader: usize, read: u64, ticket: Ticket, outcome: Option<Outcome> },
    /// The deadline of a read.
    Deadline { reader: usize, read: u64 },
}

/// A reader's present read.
struct Present {
    tries: Tries,
    start: Duration,
    /// Requests under way.
    running: u32,
}

#[derive(Default)]
struct State {
    present: Option<Present>,
    /// Which read it is, and which wait.
    read: u64,
    wait: u64,
    waiting: bool,
}

struct World {
    zero: Instant,
    now: Duration,
    queue: BTreeMap<(Reverse<Duration>, Reverse<u64>), Event>,
    sequence: u64,
    policy: Endpoints,
    outages: Vec<Vec<Outage>>,
    readers: Vec<Reader>,
    states: Vec<State>,
    reads: Vec<Read>,
    /// When requests reached each endpoint.
    arrivals: Vec<Vec<Duration>>,
    /// Requests that each endpoint is about to answer well.
    serving: Vec<u32>,
}

impl World {
    /// Runs until nothing happens any more.
    fn run(outages: &[Vec<Outage>], readers: &[Reader], seed: u64) -> Self {
        let last = outages.len() - 1;
        let settings: Vec<_> = (0..outages.len())
            .map(|index| EndpointSettings::new(if index == last { Role::Origin } else { Role::Mirror }))
            .collect();
        let bypass = Arc::new(Mutex::new(Rate::new(1.0, 1.0)));
        let mut world = Self {
            zero: Instant::now(),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            policy: Endpoints::new(&settings, bypass, seed),
            outages: outages.to_vec(),
            readers: readers.to_vec(),
            states: readers.iter().map(|_| State::default()).collect(),
            reads: Vec::new(),
            arrivals: vec![Vec::new(); outages.len()],
            serving: vec![0; outages.len()],
        };
        for (index, reader) in readers.iter().enumerate() {
            world.at(reader.start, Event::Begin(index));
        }
        while let Some(((Reverse(time), _), event)) = world.queue.pop_last() {
            assert!(time >= world.now, "time runs backwards");
            world.now = time;
            world.happens(event);
        }
        for health in world.policy.health(world.zero + world.now) {
            assert_eq!(health.in_flight, 0, "a request was never given back");
        }
        assert!(world.states.iter().all(|state| state.present.is_none()), "a read has no end");
        world
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((Reverse(time), Reverse(self.sequence)), event);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Begin(index) => {
                let reader = self.readers[index];
                let deadline = self.now + reader.deadline;
                let tries = Tries::new(reader.priority, self.zero + deadline, Attempts::new());
                let state = &mut self.states[index];
                state.read += 1;
                state.present = Some(Present { tries, start: self.now, running: 0 });
                let read = state.read;
                self.at(deadline, Event::Deadline { reader: index, read });
                self.ask(index);
            }
            Event::Ask { reader, wait } => {
                if self.states[reader].waiting && self.states[reader].wait == wait {
                    self.ask(reader);
                }
            }
            Event::Hedge { reader, read } => {
                if self.states[reader].read == read && self.states[reader].present.is_some() {
                    self.ask(reader);
                }
            }
            Event::Deadline { reader, read } => {
                if self.states[reader].read == read && self.states[reader].present.is_some() {
                    self.ended(reader, Ended::Expired);
                }
            }
            Event::End { reader, read, ticket, outcome } => self.request_ended(reader, read, ticket, outcome),
        }
    }

    fn ask(&mut self, index: usize) {
        let now = self.zero + self.now;
        let state = &mut self.states[index];
        state.waiting = false;
        let Some(present) = &mut state.present else { return };
        match self.policy.choose(now, &mut present.tries) {
            Decision::Send(ticket) => {
                present.running += 1;
                let read = state.read;
                if let Some(hedge) = ticket.hedge_at() {
                    self.at(hedge - self.zero, Event::Hedge { reader: index, read });
                }
                self.send(index, read, ticket);
            }
            // A hedge that may not be sent: what runs goes on.
            _ if present.running > 0 => {}
            Decision::Wait { until, .. } => {
                assert!(until > now && until <= present.tries.deadline, "a wait outside the read's time");
                state.waiting = true;
                state.wait += 1;
                let wait = state.wait;
                self.at(until - self.zero, Event::Ask { reader: index, wait });
            }
            Decision::Shed => self.ended(index, Ended::Shed),
            Decision::Expired => self.ended(index, Ended::Expired),
            Decision::GiveUp(why) => panic!("gave up: {why:?}"),
        }
    }

    fn send(&mut self, reader: usize, read: u64, ticket: Ticket) {
        let endpoint = ticket.endpoint().0;
        self.arrivals[endpoint].push(self.now);
        let busy = self.serving[endpoint] >= CAPACITY;
        let sick = self.outages[endpoint].iter().find(|outage| {
            (outage.from..outage.to).contains(&self.now) && (outage.fault != Fault::Busy || busy)
        });
        let (end, outcome) = match sick {
            None => (self.now + ROUND_TRIP, Some(Outcome::Success)),
            Some(outage) => {
                let (time, failure) = outage.fault.answer();
                (self.now + time, Some(Outcome::Failure(failure)))
            }
        };
        let Some(present) = &self.states[reader].present else { return };
        let deadline = present.tries.deadline - self.zero;
        let (end, outcome) = if end <= deadline {
            (end, outcome)
        } else {
            // Cut off by the read's deadline: it says something only if the silence was long.
            let silence = deadline - self.now;
            (deadline, (silence > secs(1)).then_some(Outcome::Failure(Failure::Silent)))
        };
        if outcome == Some(Outcome::Success) {
            self.serving[endpoint] += 1;
        }
        self.at(end, Event::End { reader, read, ticket, outcome });
    }

    fn request_ended(&mut self, index: usize, read: u64, ticket: Ticket, outcome: Option<Outcome>) {
        let now = self.zero + self.now;
        if outcome == Some(Outcome::Success) {
            self.serving[ticket.endpoint().0] -= 1;
        }
        let state = &mut self.states[index];
        let is_present = state.read == read;
        let mut present = state.present.as_mut().filter(|_| is_present);
        if let Some(present) = &mut present {
            present.running -= 1;
        }
        let wake = match outcome {
            Some(outcome) => {
                self.policy.report(now, ticket, present.map(|present| &mut present.tries), outcome)
            }
            None => self.policy.abandon(ticket),
        };
        if is_present && self.states[index].present.is_some() {
            match outcome {
                Some(Outcome::Success) => self.ended(index, Ended::Done),
                _ => self.ask(index),
            }
        }
        if wake {
            for reader in 0..self.states.len() {
                if self.states[reader].waiting {
                    let wait = self.states[reader].wait;
                    self.at(self.now, Event::Ask { reader, wait });
                }
            }
        }
    }

    fn ended(&mut self, index: usize, ended: Ended) {
        let reader = self.readers[index];
        let state = &mut self.states[index];
        state.waiting = false;
        let Some(present) = state.present.take() else { return };
        self.reads.push(Read { reader: index, start: present.start, end: self.now, ended });
        let next = self.now + THINK;
        if next < reader.stop {
            self.at(next, Event::Begin(index));
        }
    }

    /// Requests that reached an endpoint in a time.
    fn arrivals(&self, endpoint: usize, from: Duration, to: Duration) -> usize {
        self.arrivals[endpoint].iter().filter(|time| (from..to).contains(*time)).count()
    }

    fn of_reader(&self, reader: usize) -> Vec<Read> {
        self.reads.iter().copied().filter(|read| read.reader == reader).collect()
    }
}

/// A reader that reads without end while the run lasts.
fn busy(deadline: Duration) -> Reader {
    Reader { start: Duration::ZERO, stop: secs(60), deadline, priority: Priority::OnDemand }
}

/// A reader that reads once.
fn once(start: Duration, deadline: Duration) -> Reader {
    Reader { start, stop: start, deadline, priority: Priority::OnDemand }
}

const OUTAGE: (Duration, Duration) = (secs(5), secs(35));

fn outage(fault: Fault) -> Vec<Vec<Outage>> {
    vec![vec![Outage { from: OUTAGE.0, to: OUTAGE.1, fault }]]
}

#[test]
fn an_outage_of_thirty_seconds_is_met_with_few_requests() {
    for fault in Fault::ALL {
        for deadline in [secs(10), secs(60)] {
            for seed in 0..4 {
                let world = World::run(&outage(fault), &vec![busy(deadline); 50], seed);
                let arrived = world.arrivals(0, OUTAGE.0, OUTAGE.1);
                assert!(arrived <= 100 + 30, "{fault:?}, {deadline:?}, seed {seed}: {arrived} requests");
                assert!(
                    arrived >= 15,
                    "{fault:?}, {deadline:?}, seed {seed}: only {arrived} requests, no probes"
                );
            }
        }
    }
}

#[test]
fn reads_fail_at_their_deadline_and_not_before() {
    for fault in Fault::ALL {
        let world = World::run(&outage(fault), &vec![busy(secs(10)); 50], 1);
        let failed: Vec<_> = world.reads.iter().filter(|read| read.ended != Ended::Done).collect();
        assert!(failed.len() >= 100, "{fault:?}: only {} reads failed in 30 s", failed.len());
        for read in failed {
            let took = read.end - read.start;
            assert!((secs(9)..=secs(11)).contains(&took), "{fault:?}: {read:?}");
        }
    }
}

#[test]
fn reads_with_a_long_deadline_survive_the_outage() {
    for fault in Fault::ALL {
        let world = World::run(&outage(fault), &vec![busy(secs(60)); 50], 2);
        let lost: Vec<_> = world.reads.iter().filter(|read| read.ended != Ended::Done).collect();
        assert!(lost.is_empty(), "{fault:?}: {lost:?}");
        let latest = world.reads.iter().filter(|read| read.start < OUTAGE.1).map(|read| read.end).max();
        // A silent trial may be given up only at its timeout; its reader has been served through a hedge by then.
        assert!(
            latest.is_some_and(|end| end <= OUTAGE.1 + secs(3)),
            "{fault:?}: the last one ended at {latest:?}"
        );
    }
}

#[test]
fn a_fresh_read_succeeds_within_two_seconds_of_the_return() {
    for fault in Fault::ALL {
        for seed in 0..10 {
            let mut readers = vec![busy(secs(10)); 50];
            readers.push(once(OUTAGE.1, secs(10)));
            // Nobody was there to probe before this one.
            let alone = [once(secs(6), secs(2)), once(OUTAGE.1, secs(10))];
            for readers in [&readers[..], &alone] {
                let world = World::run(&outage(fault), readers, seed);
                let fresh = world.of_reader(readers.len() - 1)[0];
                assert_eq!(fresh.ended, Ended::Done, "{fault:?}, seed {seed}");
                let took = fresh.end - fresh.start;
                assert!(took <= secs(2), "{fault:?}, seed {seed}: {took:?} after the return");
            }
        }
    }
}

#[test]
fn a_lone_reader_is_served_soon_after_the_return() {
    for fault in Fault::ALL {
        for seed in 0..10 {
            let world = World::run(&outage(fault), &[once(secs(6), secs(60))], seed);
            let read = world.of_reader(0)[0];
            assert_eq!(read.ended, Ended::Done, "{fault:?}, seed {seed}");
            let late = read.end.saturating_sub(OUTAGE.1);
            // Until five failures have made the endpoint suspect, silence costs a timeout each: it is over by then.
            assert!(late <= secs(2), "{fault:?}, seed {seed}: {late:?} after the return");
        }
    }
}

#[test]
fn a_mirror_that_dies_and_returns_twenty_times_costs_no_read() {
    for seed in 0..4 {
        let outages = (0..20u64)
            .map(|turn| {
                let from = secs(2 + turn * 6);
                let fault = Fault::ALL[(turn as usize + seed as usize) % Fault::ALL.len()];
                Outage { from, to: from + secs(3), fault }
            })
            .collect();
        let reader = Reader { stop: secs(130), ..busy(secs(10)) };
        let world = World::run(&[outages, Vec::new()], &[reader; 50], seed);
        let lost: Vec<_> = world.reads.iter().filter(|read| read.ended != Ended::Done).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?}");
        let slowest = world.reads.iter().map(|read| read.end - read.start).max();
        assert!(slowest.is_some_and(|took| took <= TIMEOUT + secs(1)), "seed {seed}: {slowest:?}");
        assert!(
            world.arrivals(1, Duration::ZERO, secs(130)) > 1000,
            "seed {seed}: the second one did not serve"
        );
        // Returned to when it is back.
        assert!(
            world.arrivals(0, secs(5), secs(130)) > 100,
            "seed {seed}: the first one was given up for good"
        );
    }
}

#[test]
fn prefetch_is_deferred_and_then_shed() {
    let prefetch = |start| Reader { priority: Priority::Prefetch, ..once(start, secs(300)) };
    // Early in the outage, and late.
    let readers: Vec<_> =
        vec![busy(secs(60)); 20].into_iter().chain([prefetch(secs(7)), prefetch(secs(30))]).collect();
    let world = World::run(&outage(Fault::Refuses), &readers, 3);
    let early = world.of_reader(20)[0];
    assert_eq!(early.ended, Ended::Shed);
    assert!(early.end - early.start >= secs(3), "not deferred: {early:?}");
    let late = world.of_reader(21)[0];
    assert_eq!((late.ended, late.end), (Ended::Shed, late.start));
}

#[test]
fn a_busy_endpoint_is_used_to_the_full_and_not_stormed() {
    let outages = [vec![Outage { from: Duration::ZERO, to: secs(100), fault: Fault::Busy }]];
    for seed in 0..4 {
        let world = World::run(&outages, &[busy(secs(10)); 50], seed);
        let lost: Vec<_> = world.reads.iter().filter(|read| read.ended != Ended::Done).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?}");
        // Sixty seconds.
        let possible = 60 * 1000 / ROUND_TRIP.as_millis() as usize * CAPACITY as usize;
        let (served, sent) = (world.reads.len(), world.arrivals(0, Duration::ZERO, secs(100)));
        assert!(served * 10 >= possible * 6, "seed {seed}: {served} of {possible} possible reads");
        assert!((sent - served) * 10 <= sent, "seed {seed}: {served} of {sent} requests were served");
    }
}
