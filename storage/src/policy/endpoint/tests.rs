use super::*;
use crate::policy::attempts::Attempts;

const FIRST: EndpointIndex = EndpointIndex(0);
const SECOND: EndpointIndex = EndpointIndex(1);
const OVERLOADED: Failure = Failure::Overloaded { retry_after: None };

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn endpoints(roles: &[Role]) -> Endpoints {
    let settings: Vec<_> = roles.iter().map(|role| EndpointSettings::new(*role)).collect();
    Endpoints::new(&settings, Arc::new(Mutex::new(Rate::new(1.0, 1.0))), 1)
}

fn tries(now: Instant, priority: Priority) -> Tries {
    Tries::new(priority, now + ms(60_000), Attempts::new())
}

fn on_demand(now: Instant) -> Tries {
    tries(now, Priority::OnDemand)
}

#[track_caller]
fn sent(decision: Decision) -> Ticket {
    match decision {
        Decision::Send(ticket) => ticket,
        other => panic!("{other:?}, expected to send"),
    }
}

#[track_caller]
fn waits(decision: Decision) -> (Instant, Waiting) {
    match decision {
        Decision::Wait { until, why } => (until, why),
        other => panic!("{other:?}, expected to wait"),
    }
}

/// One request that fails at the endpoint it is sent to.
fn fail(endpoints: &mut Endpoints, now: Instant, tries: &mut Tries, failure: Failure) -> EndpointIndex {
    let ticket = sent(endpoints.choose(now, tries));
    let endpoint = ticket.endpoint();
    endpoints.report(now, ticket, Some(tries), Outcome::Failure(failure));
    endpoint
}

/// Makes `endpoint` fail until its breaker is open; the others answer.
fn kill(endpoints: &mut Endpoints, mut now: Instant, endpoint: EndpointIndex) -> Instant {
    let is_open = |endpoints: &Endpoints, now| {
        endpoints.health(now).nth(endpoint.0).is_some_and(|health| health.phase == Phase::Open)
    };
    for _ in 0..1000 {
        if is_open(endpoints, now) {
            return now;
        }
        let mut tries = on_demand(now);
        if let Decision::Send(ticket) = endpoints.choose(now, &mut tries) {
            let dies = ticket.endpoint() == endpoint;
            let outcome = if dies { Outcome::Failure(Failure::Connect) } else { Outcome::Success };
            endpoints.report(now, ticket, Some(&mut tries), outcome);
        }
        now += ms(1);
    }
    panic!("its breaker does not open");
}

#[test]
fn the_first_is_preferred_and_a_failure_goes_elsewhere_at_once() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Mirror, Role::Origin]);
    for _ in 0..10 {
        let mut tries = on_demand(now);
        let ticket = sent(endpoints.choose(now, &mut tries));
        assert_eq!(ticket.endpoint(), FIRST);
        endpoints.report(now, ticket, Some(&mut tries), Outcome::Success);
    }
    let mut tries = on_demand(now);
    assert_eq!(fail(&mut endpoints, now, &mut tries, Failure::Broken), FIRST);
    assert_eq!(fail(&mut endpoints, now, &mut tries, Failure::Broken), SECOND);
    let (until, why) = waits(endpoints.choose(now, &mut tries));
    assert!(why == Waiting::Backoff && until > now && until <= now + ms(100), "{:?}", until - now);
    assert!(sent(endpoints.choose(until, &mut tries)).endpoint() <= SECOND);
}

#[test]
fn bytes_that_failed_their_digest_are_fetched_elsewhere_first() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Mirror, Role::Origin]);
    let attempts = Attempts::new();
    attempts.sent_by(FIRST);
    attempts.were_wrong();
    let mut tries = Tries::new(Priority::OnDemand, now + ms(60_000), attempts);
    assert_eq!(fail(&mut endpoints, now, &mut tries, Failure::Refused), SECOND);
    assert_eq!(fail(&mut endpoints, now, &mut tries, Failure::Refused), FIRST, "better than nothing");
}

#[test]
fn what_retrying_cannot_mend_is_told_at_once() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Mirror, Role::Origin]);
    let mut missing = on_demand(now);
    assert_eq!(fail(&mut endpoints, now, &mut missing, Failure::Final), FIRST);
    assert!(matches!(endpoints.choose(now, &mut missing), Decision::GiveUp(GivenUp::Refused)));
    let mut refused = on_demand(now);
    assert_eq!(fail(&mut endpoints, now, &mut refused, Failure::Refused), FIRST);
    assert_eq!(fail(&mut endpoints, now, &mut refused, Failure::Refused), SECOND);
    assert!(matches!(endpoints.choose(now, &mut refused), Decision::GiveUp(GivenUp::Refused)));
    let attempts = Attempts::new();
    attempts.limit(1);
    let mut limited = Tries::new(Priority::OnDemand, now + ms(60_000), attempts);
    fail(&mut endpoints, now, &mut limited, Failure::Broken);
    fail(&mut endpoints, now, &mut limited, Failure::Broken);
    assert!(matches!(endpoints.choose(now, &mut limited), Decision::GiveUp(GivenUp::Spent)));
    let mut late = on_demand(now);
    late.deadline = now;
    assert!(matches!(endpoints.choose(now, &mut late), Decision::Expired));
    assert!(endpoints.health(now).all(|health| health.phase == Phase::Closed), "the endpoints are well");
}

#[test]
fn while_another_serves_a_dead_one_is_tried_seldom_and_with_a_hedge() {
    let mut endpoints = endpoints(&[Role::Mirror, Role::Origin]);
    let start = kill(&mut endpoints, Instant::now(), FIRST);
    let mut trials = 0;
    for step in 0..60_000 {
        let now = start + ms(step);
        let mut tries = on_demand(now);
        let ticket = sent(endpoints.choose(now, &mut tries));
        if ticket.endpoint() == SECOND {
            endpoints.report(now, ticket, Some(&mut tries), Outcome::Success);
            continue;
        }
        trials += 1;
        assert!(ticket.needs_new_connection());
        assert_eq!(ticket.hedge_at(), Some(now + TRIAL_PATIENCE));
        let hedge = sent(endpoints.choose(now + TRIAL_PATIENCE, &mut tries));
        assert_eq!(hedge.endpoint(), SECOND);
        endpoints.report(now + TRIAL_PATIENCE, hedge, Some(&mut tries), Outcome::Success);
        // It lost, and goes on to its end.
        endpoints.report(now + ms(5000), ticket, None, Outcome::Failure(Failure::Silent));
    }
    assert!((3..=8).contains(&trials), "{trials} trials in a minute");
}

#[test]
fn all_dead_means_one_trial_and_everybody_else_waits() {
    let mut endpoints = endpoints(&[Role::Origin]);
    let start = kill(&mut endpoints, Instant::now(), FIRST);
    let (until, why) = waits(endpoints.choose(start, &mut on_demand(start)));
    assert!(why == Waiting::Outage && until <= start + ms(1700));
    let mut prober = on_demand(until);
    let trial = sent(endpoints.choose(until, &mut prober));
    assert!(trial.needs_new_connection());
    for _ in 0..50 {
        assert_eq!(waits(endpoints.choose(until, &mut on_demand(until))).1, Waiting::Outage);
    }
    assert!(endpoints.report(until, trial, Some(&mut prober), Outcome::Success), "nobody is woken");
    assert!(!sent(endpoints.choose(until, &mut on_demand(until))).needs_new_connection());
}

#[test]
fn too_many_requests_is_a_wait_and_no_death() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Origin]);
    for _ in 0..20 {
        let mut tries = on_demand(now);
        fail(&mut endpoints, now, &mut tries, Failure::Throttled { retry_after: None });
    }
    let health = endpoints.health(now).next();
    assert!(health.is_some_and(|health| health.phase == Phase::Closed && health.limit < 16), "{health:?}");
    let mut tries = on_demand(now);
    fail(&mut endpoints, now, &mut tries, Failure::Throttled { retry_after: Some(ms(7000)) });
    let (until, why) = waits(endpoints.choose(now, &mut on_demand(now)));
    assert_eq!((until - now, why), (ms(7000), Waiting::Throttled));
    assert!(matches!(endpoints.choose(until, &mut on_demand(now)), Decision::Send(_)));
}

#[test]
fn a_wait_asked_for_sends_readers_to_the_next_endpoint() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Mirror, Role::Origin]);
    let mut tries = on_demand(now);
    fail(&mut endpoints, now, &mut tries, Failure::Overloaded { retry_after: Some(ms(7000)) });
    assert_eq!(sent(endpoints.choose(now, &mut on_demand(now))).endpoint(), SECOND);
    let back = now + ms(7000);
    assert_eq!(sent(endpoints.choose(back, &mut on_demand(back))).endpoint(), FIRST);
}

#[test]
fn a_full_endpoint_is_waited_for_and_its_end_wakes() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Mirror, Role::Origin]);
    let mut tickets = Vec::new();
    let full = loop {
        match endpoints.choose(now, &mut on_demand(now)) {
            Decision::Send(ticket) => tickets.push(ticket),
            other => break other,
        }
    };
    assert_eq!((waits(full).1, tickets.len()), (Waiting::Room, 16));
    assert!(tickets.iter().all(|ticket| ticket.endpoint() == FIRST));
    assert!(tickets.pop().is_some_and(|ticket| endpoints.abandon(ticket)), "nobody is woken");
    assert_eq!(sent(endpoints.choose(now, &mut on_demand(now))).endpoint(), FIRST);
}

#[test]
fn going_past_a_proxy_that_is_well_is_limited_and_past_a_dead_one_is_not() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Proxy, Role::Origin]);
    let mut past = 0;
    for _ in 0..4 {
        let mut tries = on_demand(now);
        assert_eq!(fail(&mut endpoints, now, &mut tries, OVERLOADED), FIRST);
        match endpoints.choose(now, &mut tries) {
            Decision::Send(ticket) => {
                assert_eq!(ticket.endpoint(), SECOND);
                endpoints.report(now, ticket, Some(&mut tries), Outcome::Success);
                past += 1;
            }
            other => assert!(waits(other).0 <= now + ms(1000)),
        }
    }
    assert!((1..=2).contains(&past), "{past} went past");
    let now = kill(&mut endpoints, now + ms(5000), FIRST);
    for _ in 0..10 {
        let mut tries = on_demand(now);
        let ticket = sent(endpoints.choose(now, &mut tries));
        assert_eq!(ticket.endpoint(), SECOND);
        endpoints.report(now, ticket, Some(&mut tries), Outcome::Success);
    }
}

#[test]
fn prefetch_never_goes_past_a_proxy_that_is_well() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Proxy, Role::Origin]);
    let mut prefetch = tries(now, Priority::Prefetch);
    assert_eq!(fail(&mut endpoints, now, &mut prefetch, OVERLOADED), FIRST);
    assert_eq!(waits(endpoints.choose(now, &mut prefetch)).1, Waiting::Backoff);
    let mut prefetch = tries(now, Priority::Prefetch);
    let later = now + ms(1000);
    assert_eq!(fail(&mut endpoints, later, &mut prefetch, Failure::Refused), FIRST);
    assert!(matches!(endpoints.choose(later, &mut prefetch), Decision::Shed));
}

#[test]
fn an_endpoint_that_does_not_answer_pings_comes_last() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Mirror, Role::Origin]);
    assert!(endpoints.pinged(FIRST, false) && !endpoints.pinged(FIRST, false));
    let mut tries = on_demand(now);
    assert_eq!(fail(&mut endpoints, now, &mut tries, Failure::Refused), SECOND);
    assert_eq!(fail(&mut endpoints, now, &mut tries, Failure::Refused), FIRST);
    assert!(endpoints.pinged(FIRST, true));
    assert_eq!(sent(endpoints.choose(now, &mut on_demand(now))).endpoint(), FIRST);
}

#[test]
fn room_is_given_in_the_order_of_coming_and_a_place_is_lost_with_its_request() {
    let now = Instant::now();
    let mut endpoints = endpoints(&[Role::Origin]);
    let mut tickets: Vec<_> = (0..16).map(|_| sent(endpoints.choose(now, &mut on_demand(now)))).collect();
    let (mut first, mut second) = (on_demand(now), on_demand(now));
    for tries in [&mut first, &mut second] {
        assert_eq!(waits(endpoints.choose(now, tries)), (tries.deadline, Waiting::Room));
    }
    assert!(tickets.pop().is_some_and(|ticket| endpoints.abandon(ticket)));
    // Woken together, the second asks first; then the first is cancelled, which nobody tells.
    let (until, why) = waits(endpoints.choose(now, &mut second));
    assert_eq!((until, why), (now + LINE_PATIENCE, Waiting::Room));
    drop(first);
    assert!(!sent(endpoints.choose(until, &mut second)).needs_new_connection());
}
