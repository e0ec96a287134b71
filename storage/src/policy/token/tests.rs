use super::*;

const LIFE: Duration = Duration::from_secs(600);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A key with the token 1, fetched at `now`.
fn fetched(now: Instant) -> Life<u32> {
    let mut life = Life::new(1);
    let Need::Fetch(fetch) = life.need(now) else { panic!("nothing to fetch") };
    life.fetched(now, fetch, 1, LIFE);
    life
}

/// Uses the token each `pause` until `to`, over a service that answers at once; the times of its requests.
fn requests(
    life: &mut Life<u32>,
    zero: Instant,
    from: Duration,
    to: Duration,
    pause: Duration,
    length: Duration,
) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut time = from;
    while time < to {
        let now = zero + time;
        match life.need(now) {
            Need::Use(_) => {}
            Need::Fetch(fetch) | Need::Renew(_, fetch) => {
                times.push(time);
                life.fetched(now, fetch, times.len() as u32, length);
            }
            other => panic!("{other:?} at {time:?}"),
        }
        time += pause;
    }
    times
}

#[test]
fn a_thousand_backends_make_few_requests_and_none_once_complete() {
    let zero = Instant::now();
    for length in [secs(4), secs(60), secs(300), secs(600), secs(3600)] {
        // A thousand keys, each used all the time; then a thousand users of one key.
        for (keys, pause) in [(1000, length / 200), (1, length / 200_000)] {
            let mut all = Vec::new();
            for seed in 0..keys {
                let mut life = Life::new(seed);
                let times = requests(&mut life, zero, Duration::ZERO, length * 10, pause, length);
                assert!((10..=17).contains(&times.len()), "life {length:?}: {} requests", times.len());
                // Complete: nobody needs it for a long time, and nothing is asked for until somebody does.
                assert!(life.is_idle(zero + length * 12));
                all.extend(times);
            }
            // They all began in one moment; they do not stay together.
            all.retain(|time| *time > length * 5);
            all.sort();
            let crowd = (0..all.len())
                .map(|first| all[first..].partition_point(|time| *time < all[first] + length / 100))
                .max();
            assert!(
                crowd.is_some_and(|crowd| crowd as u64 <= 1 + keys / 10),
                "life {length:?}: {crowd:?} at once"
            );
        }
    }
}

#[test]
fn the_margin_is_twenty_seconds_or_a_quarter() {
    let zero = Instant::now();
    for (length, margin) in [(secs(600), secs(20)), (secs(40), secs(10)), (secs(80), secs(20))] {
        let earliest = length - margin - length / 10;
        let mut early = Vec::new();
        for seed in 0..200 {
            let mut life = Life::new(seed);
            let times = requests(&mut life, zero, Duration::ZERO, length, length / 1000, length);
            assert_eq!(times.len(), 2);
            assert!(
                times[1] >= earliest && times[1] <= length - margin + length / 1000,
                "{length:?}: {times:?}"
            );
            early.push(times[1]);
        }
        let (first, last) = (early.iter().min().unwrap(), early.iter().max().unwrap());
        assert!(*last - *first > length / 12, "no jitter: {first:?} to {last:?}");
    }
}

#[test]
fn one_fetch_at_a_time_and_the_old_token_meanwhile() {
    let zero = Instant::now();
    let mut life = Life::new(1);
    let Need::Fetch(first) = life.need(zero) else { panic!("nothing to fetch") };
    assert!((0..100).all(|_| matches!(life.need(zero + secs(1)), Need::Wait(_))));
    life.fetched(zero + secs(1), first, 1, LIFE);
    let late = zero + LIFE - secs(10);
    let Need::Renew(1, renewal) = life.need(late) else { panic!("not renewed") };
    assert!((0..100).all(|_| matches!(life.need(late), Need::Use(1))));
    // The fetch hangs beyond the end of the token: nobody uses that any more, and after 30 s somebody else tries.
    assert!(matches!(life.need(zero + LIFE), Need::Wait(until) if until == late + FETCH_PATIENCE));
    let Need::Fetch(second) = life.need(late + FETCH_PATIENCE) else { panic!("waits for ever") };
    life.failed(late + secs(31), renewal, Fault::Unavailable, None);
    assert!(matches!(life.need(late + secs(31)), Need::Wait(_)), "the second is under way");
    life.fetched(late + secs(32), second, 2, LIFE);
    assert!(matches!(life.need(late + secs(33)), Need::Use(2)));
}

#[test]
fn an_abandoned_fetch_is_made_by_the_next() {
    let zero = Instant::now();
    let mut life: Life<u32> = Life::new(1);
    let Need::Fetch(fetch) = life.need(zero) else { panic!("nothing to fetch") };
    life.abandoned(fetch);
    assert!(matches!(life.need(zero), Need::Fetch(_)));
}

#[test]
fn a_service_that_fails_is_asked_seldom_while_the_token_lives_and_soon_after() {
    let zero = Instant::now();
    let mut life = fetched(zero);
    let (mut before, mut after) = (0, 0);
    let start = LIFE - secs(20);
    for milliseconds in 0..80_000 {
        let time = start + Duration::from_millis(milliseconds);
        let now = zero + time;
        match life.need(now) {
            Need::Use(_) => assert!(time < LIFE),
            Need::Renew(_, fetch) => {
                before += 1;
                life.failed(now, fetch, Fault::Unavailable, None);
            }
            Need::Fetch(fetch) => {
                assert!(time >= LIFE);
                after += 1;
                life.failed(now, fetch, Fault::Unavailable, None);
            }
            Need::Wait(until) => assert!(until > now && until <= now + URGENT.1),
            Need::Denied(_) => panic!("nobody was denied"),
        }
    }
    assert!((3..=7).contains(&before), "{before} requests in 20 s with a token");
    // A second and a half apart: found within two seconds of its return.
    assert!((35..=42).contains(&after), "{after} requests in 60 s without one");
}

#[test]
fn dead_credentials_are_shown_ever_more_seldom() {
    let zero = Instant::now();
    let mut life: Life<u32> = Life::new(1);
    let mut count = 0;
    for second in 0..7200 {
        let now = zero + secs(second);
        match life.need(now) {
            Need::Fetch(fetch) => {
                count += 1;
                life.failed(now, fetch, Fault::Denied, None);
            }
            Need::Denied(until) => assert!(until > now && until <= now + secs(600)),
            other => panic!("{other:?}"),
        }
    }
    assert!((15..=35).contains(&count), "{count} requests in two hours");
}

#[test]
fn tokens_that_are_refused_at_once_do_not_make_a_storm() {
    let zero = Instant::now();
    let mut life: Life<u32> = Life::new(1);
    let mut count = 0;
    for second in 0..3600 {
        let now = zero + secs(second);
        if let Need::Fetch(fetch) = life.need(now) {
            count += 1;
            life.fetched(now, fetch, count, LIFE);
            life.refused(now, &count);
        }
    }
    assert!((8..=25).contains(&count), "{count} requests in an hour");
}

#[test]
fn a_token_that_was_good_and_is_revoked_is_replaced_at_once() {
    let zero = Instant::now();
    let mut life = fetched(zero);
    let now = zero + secs(60);
    life.refused(now, &7);
    assert!(matches!(life.need(now), Need::Use(1)), "another one was refused");
    life.refused(now, &1);
    assert!(matches!(life.need(now), Need::Fetch(_)));
}

#[test]
fn a_registry_whose_clock_is_ahead_is_waited_for_and_not_given_up() {
    // Tokens of five seconds, which it takes for ended after two.
    let zero = Instant::now();
    let mut life: Life<u64> = Life::new(1);
    let (mut came, mut count, mut denied) = (zero, 0, 0);
    for tenth in 0..600 {
        let now = zero + Duration::from_millis(tenth * 100);
        match life.need(now) {
            Need::Fetch(fetch) | Need::Renew(_, fetch) => {
                count += 1;
                life.fetched(now, fetch, count, secs(5));
                came = now;
            }
            Need::Use(token) if now < came + secs(2) => life.accepted(&token),
            Need::Use(token) => life.refused(now, &token),
            Need::Wait(until) => assert!(until <= now + URGENT.1),
            Need::Denied(_) => denied += 1,
        }
    }
    assert_eq!(denied, 0);
    assert!((15..=20).contains(&count), "{count} tokens in a minute");
}

#[test]
fn a_token_that_took_longer_to_come_than_it_lives_serves_those_who_waited() {
    let zero = Instant::now();
    let mut life: Life<u32> = Life::new(1);
    let Need::Fetch(fetch) = life.need(zero) else { panic!("nothing to fetch") };
    let late = zero + secs(3);
    life.fetched(late, fetch, 1, Duration::ZERO);
    assert!(matches!(life.need(late), Need::Use(1) | Need::Renew(1, _)));
    // Refused, it is not the credential's fault.
    life.refused(late, &1);
    assert!(matches!(life.need(late), Need::Wait(_)));
}

#[test]
fn a_service_that_asks_to_be_left_alone_is() {
    let zero = Instant::now();
    let mut life: Life<u32> = Life::new(1);
    for (asked, waits) in [(secs(7), secs(7)), (secs(86_400), LONGEST_RETRY_AFTER)] {
        let Need::Fetch(fetch) = life.need(zero) else { panic!("nothing to fetch") };
        life.failed(zero, fetch, Fault::Unavailable, Some(asked));
        assert!(matches!(life.need(zero), Need::Wait(until) if until == zero + waits));
        life = Life::new(1);
    }
}

#[test]
fn a_credential_that_somebody_vouches_for_is_shown_at_once() {
    let zero = Instant::now();
    let mut life: Life<u32> = Life::new(1);
    let Need::Fetch(fetch) = life.need(zero) else { panic!("nothing to fetch") };
    life.failed(zero, fetch, Fault::Denied, None);
    assert!(matches!(life.need(zero), Need::Denied(_)));
    life.pardon();
    assert!(matches!(life.need(zero), Need::Fetch(_)));
}

#[test]
fn absurd_lives_are_bounded() {
    let zero = Instant::now();
    for (told, taken) in [(Duration::ZERO, SHORTEST_LIFE), (Duration::MAX, LONGEST_LIFE)] {
        let mut life = Life::new(1);
        let Need::Fetch(fetch) = life.need(zero) else { panic!("nothing to fetch") };
        life.fetched(zero, fetch, 1, told);
        assert!(matches!(life.need(zero + taken / 2), Need::Use(1)));
        assert!(!matches!(life.need(zero + taken), Need::Use(_) | Need::Renew(..)), "used after its end");
    }
}
