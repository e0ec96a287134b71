use super::*;

const HERE: EndpointIndex = EndpointIndex(0);
const THERE: EndpointIndex = EndpointIndex(1);

fn limited(retry_limit: u32) -> Attempts {
    let attempts = Attempts::new();
    attempts.limit(retry_limit);
    attempts
}

fn tries(attempts: Attempts) -> (Instant, Tries) {
    let now = Instant::now();
    (now, Tries::new(Priority::OnDemand, now + Duration::from_secs(60), attempts))
}

#[test]
fn delays_double_to_a_second_and_use_the_whole_range() {
    let mut random = fastrand::Rng::with_seed(1);
    for (failures, limit) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (30, 1000), (u32::MAX, 1000)]
    {
        let limit = Duration::from_millis(limit);
        let delays: Vec<_> = (0..1000).map(|_| backoff(&mut random, failures)).collect();
        let shortest = delays.iter().min().copied();
        let longest = delays.iter().max().copied();
        assert!(shortest.is_some_and(|delay| delay < limit / 20), "after {failures}: {shortest:?}");
        assert!(
            longest.is_some_and(|delay| delay <= limit && delay > limit / 20 * 19),
            "after {failures}: {longest:?}"
        );
    }
}

#[test]
fn the_tries_of_a_read_are_shared_by_its_requests() {
    let attempts = limited(3);
    let mut random = fastrand::Rng::with_seed(1);
    let (now, mut whole) = tries(attempts.clone());
    assert!(whole.pay(), "the first one is free");
    for _ in 0..2 {
        whole.failed(now, HERE, Failure::Broken, false, &mut random);
        assert!(!whole.is_spent() && whole.pay());
    }
    // It is split in three; the parts share the one try that is left.
    let paid = (0..3).filter(|_| attempts.take()).count();
    assert_eq!(paid, 1);
    assert!(attempts.is_spent());
    let (now, mut part) = tries(attempts);
    assert!(part.pay());
    part.failed(now, HERE, Failure::Broken, false, &mut random);
    assert!(part.is_spent() && !part.pay(), "a part tries again on nobody's account");
    assert!(part.is_spent(), "asking twice changes nothing");
}

#[test]
fn one_endpoint_s_failure_delays_nothing_elsewhere() {
    let mut random = fastrand::Rng::with_seed(1);
    let (now, mut tries) = tries(Attempts::new());
    for _ in 0..10 {
        tries.failed(now, HERE, Failure::Silent, false, &mut random);
    }
    assert!(tries.resume(HERE).is_some_and(|resume| resume > now));
    assert_eq!(tries.resume(THERE), None);
    tries.failed(now, THERE, Failure::Refused, false, &mut random);
    assert!(tries.is_refused(THERE) && !tries.is_refused(HERE) && !tries.is_over());
    tries.failed(now, THERE, Failure::Final, false, &mut random);
    assert!(tries.is_over());
}

#[test]
fn an_absurd_retry_after_is_capped() {
    let retry_after = Some(Duration::MAX);
    for failure in [
        Failure::Server { retry_after },
        Failure::Overloaded { retry_after },
        Failure::Throttled { retry_after },
    ] {
        assert_eq!(failure.retry_after(), Some(LONGEST_RETRY_AFTER));
    }
    assert_eq!(Failure::Throttled { retry_after: None }.retry_after(), None);
}
