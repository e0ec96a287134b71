use std::io::{self, Write};

use super::*;
use crate::policy::endpoint::{EndpointIndex, EndpointSettings, Endpoints, Outcome};
use crate::policy::{attempts::Attempts, budget::Rate, retry};

/// What is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

/// An endpoint with a real breaker, driven with a virtual clock.
struct Endpoint {
    endpoints: Endpoints,
    watch: Watch,
    now: Instant,
}

impl Endpoint {
    fn new() -> Self {
        let bypass = Arc::new(Mutex::new(Rate::new(1.0, 1.0)));
        let settings = EndpointSettings::new(Role::Origin);
        let watch = Watch::new("registry host/repo".to_owned(), Role::Origin);
        Self { endpoints: Endpoints::new(&[settings], bypass, 1), watch, now: Instant::now() }
    }

    /// One try, as soon as the policy allows one.
    fn attempt(&mut self, result: Result<(), Failure>) {
        let deadline = self.now + Duration::from_secs(3600);
        let attempts = Attempts::new();
        let mut tries = retry::Tries::new(crate::backend::Priority::OnDemand, deadline, attempts);
        let ticket = loop {
            match self.endpoints.choose(self.now, &mut tries) {
                crate::policy::endpoint::Decision::Send(ticket) => break ticket,
                crate::policy::endpoint::Decision::Wait { until, .. } => self.now = until,
                other => panic!("{other:?}"),
            }
        };
        let outcome = match &result {
            Ok(()) => Outcome::Success,
            Err(failure) => Outcome::Failure(failure.verdict().unwrap()),
        };
        self.endpoints.report(self.now, ticket, None, outcome);
        let health = self.endpoints.health_of(self.now, EndpointIndex(0)).unwrap();
        self.watch.ended(self.now, &health, &result);
    }

    fn fail(&mut self) {
        self.attempt(Err(Failure::Connect("connection refused".to_owned())));
    }

    fn status(&self) -> EndpointStatus {
        self.watch.status(self.endpoints.health_of(self.now, EndpointIndex(0)).unwrap())
    }
}

#[test]
fn an_outage_is_told_when_it_begins_once_a_minute_and_when_it_ends() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let mut endpoint = Endpoint::new();
    endpoint.attempt(Ok(()));
    // Five failures make it suspect, and the trial confirms it.
    (0..5).for_each(|_| endpoint.fail());
    assert_eq!(lines.take(), Vec::<String>::new());
    endpoint.fail();
    let opened = lines.take();
    let [line] = &opened[..] else { panic!("{opened:?}") };
    for part in ["WARN", "circuit breaker open", "registry host/repo", "connection refused", "openings=1"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let (start, mut told) = (endpoint.now, 0);
    while endpoint.now < start + Duration::from_secs(150) {
        endpoint.fail();
        let lines = lines.take();
        assert!(lines.iter().all(|line| line.contains("circuit breaker still open")), "{lines:?}");
        told += lines.len();
    }
    assert_eq!(told, 2, "two minutes and a half");
    endpoint.attempt(Ok(()));
    let closed = lines.take();
    let [line] = &closed[..] else { panic!("{closed:?}") };
    for part in ["INFO", "circuit breaker closed", "registry host/repo", "open_seconds=15"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    endpoint.attempt(Ok(()));
    assert_eq!(lines.take(), Vec::<String>::new());
    assert_eq!(endpoint.status().health.openings, 1);
}

#[test]
fn tries_are_counted_by_their_outcome() {
    let mut endpoint = Endpoint::new();
    let denied = || Failure::denied("blob", "no");
    let wrong = || Failure::Refused(Error::corrupt("blob", "wrong range"));
    let missing =
        || Failure::Final(Error::NotFound { what: "blob".to_owned(), place: "registry".to_owned() });
    endpoint.attempt(Ok(()));
    endpoint.attempt(Err(denied()));
    endpoint.attempt(Err(wrong()));
    endpoint.attempt(Err(missing()));
    endpoint.attempt(Err(Failure::Throttled { detail: String::new(), retry_after: None }));
    endpoint.watch.abandoned();
    endpoint.watch.sent(Reason::First);
    endpoint.watch.sent(Reason::Retry);
    endpoint.watch.sent(Reason::Hedge);
    endpoint.watch.request().add(7);
    let status = endpoint.status();
    let seen: Vec<_> = TryOutcome::ALL
        .iter()
        .zip(status.tries)
        .filter(|(_, count)| *count > 0)
        .map(|(outcome, count)| (outcome.name(), count))
        .collect();
    let expected = [
        ("success", 1),
        ("throttled", 1),
        ("not_found", 1),
        ("denied", 1),
        ("wrong_answer", 1),
        ("abandoned", 1),
    ];
    assert_eq!(seen, expected);
    assert_eq!((status.retries, status.hedges, status.requests, status.received_bytes), (1, 1, 1, 7));
}

#[test]
fn outcomes_are_numbered_in_order_and_named_apart() {
    for (number, outcome) in TryOutcome::ALL.into_iter().enumerate() {
        assert_eq!(outcome as usize, number);
        let same = TryOutcome::ALL.iter().filter(|other| other.name() == outcome.name()).count();
        assert_eq!(same, 1, "{}", outcome.name());
    }
}

#[test]
fn a_mirror_that_cannot_be_used_is_told_once_a_minute_and_an_origin_by_its_reads() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let health = Endpoint::new().status().health;
    let (origin, mirror) =
        (Watch::new("o".into(), Role::Origin), Watch::new("mirror m".into(), Role::Mirror));
    let start = Instant::now();
    for second in 0..150 {
        let failure = Err(Failure::Unusable("invalid peer certificate: Expired".to_owned()));
        for watch in [&origin, &mirror] {
            watch.ended(start + Duration::from_secs(second), &health, &failure);
        }
    }
    let told = lines.take();
    assert_eq!(told.len(), 3, "{told:?}");
    let parts = ["WARN", "cannot be used", "mirror m", "Expired"];
    assert!(told.iter().all(|line| parts.iter().all(|part| line.contains(part))), "{told:?}");
}
