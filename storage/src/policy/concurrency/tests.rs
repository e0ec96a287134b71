use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn full(limit: &mut Limit) {
    while limit.has_room(Priority::OnDemand) {
        limit.start(Priority::OnDemand);
    }
}

/// All that is under way succeeds.
fn round(limit: &mut Limit) {
    full(limit);
    for _ in 0..limit.in_flight() {
        limit.succeeded();
        limit.end(Priority::OnDemand);
    }
}

#[test]
fn it_grows_fast_until_it_is_first_too_much_and_slowly_after() {
    let now = Instant::now();
    let mut limit = Limit::new(Settings { first: 4, most: 1000 });
    let mut seen = vec![limit.limit()];
    for _ in 0..4 {
        round(&mut limit);
        seen.push(limit.limit());
    }
    assert!(seen.windows(2).all(|pair| pair[1] * 3 >= pair[0] * 4), "not exponential: {seen:?}");
    limit.throttled(now, now);
    let lowered = limit.limit();
    assert_eq!(lowered, seen[4] / 2);
    for _ in 0..10 {
        round(&mut limit);
    }
    assert!((lowered + 3..=lowered + 10).contains(&limit.limit()), "{lowered} became {}", limit.limit());
}

#[test]
fn one_congestion_lowers_it_once() {
    let zero = Instant::now();
    let at = |milliseconds| zero + Duration::from_millis(milliseconds);
    let mut limit = Limit::new(Settings { first: 32, most: 64 });
    for answer in 0..20 {
        limit.throttled(at(100 + answer), at(answer));
    }
    assert_eq!(limit.limit(), 16);
    limit.throttled(at(300), at(200));
    assert_eq!(limit.limit(), 8);
    for turn in 1..20 {
        limit.throttled(at(300 + turn * 10), at(300 + turn * 10));
    }
    assert_eq!(limit.limit(), 1, "never below one");
    assert!(limit.has_room(Priority::Prefetch), "one prefetch is always possible");
}

#[test]
fn prefetch_leaves_half_to_readers() {
    let mut limit = Limit::new(Settings { first: 8, most: 8 });
    while limit.has_room(Priority::Prefetch) {
        limit.start(Priority::Prefetch);
    }
    assert_eq!(limit.in_flight(), 4);
    assert!(limit.has_room(Priority::OnDemand) && limit.is_full());
    full(&mut limit);
    assert_eq!(limit.in_flight(), 8);
}

#[test]
fn an_idle_limit_is_not_raised() {
    let mut limit = Limit::new(Settings::default());
    for _ in 0..100 {
        limit.start(Priority::OnDemand);
        limit.succeeded();
        limit.end(Priority::OnDemand);
    }
    assert_eq!(limit.limit(), Settings::default().first);
}

proptest! {
    #[test]
    fn it_stays_in_its_bounds(first: u32, most in 0u32..200, steps in prop::collection::vec(0u8..5, 0..300)) {
        let zero = Instant::now();
        let mut limit = Limit::new(Settings { first, most });
        for (step, turn) in steps.iter().zip(0u64..) {
            let now = zero + Duration::from_millis(turn);
            match step {
                0 if limit.has_room(Priority::OnDemand) => limit.start(Priority::OnDemand),
                1 if limit.has_room(Priority::Prefetch) => limit.start(Priority::Prefetch),
                2 => limit.end(Priority::OnDemand),
                3 => limit.succeeded(),
                _ => _ = limit.throttled(now, now),
            }
            prop_assert!((1..=most.max(1)).contains(&limit.limit()));
        }
    }
}
