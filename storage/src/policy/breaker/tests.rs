use proptest::prelude::*;

use super::*;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn random() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

/// A breaker that has just failed its trial, at `now`.
fn opened(now: Instant, random: &mut fastrand::Rng) -> Breaker {
    let mut breaker = Breaker::new(FAILURE_LIMIT);
    for _ in 0..FAILURE_LIMIT {
        let pass = breaker.pass(now, random);
        breaker.failed(now, pass, random);
    }
    let trial = breaker.pass(now, random);
    assert!(breaker.failed(now, trial, random));
    assert_eq!(breaker.phase(), Phase::Open);
    breaker
}

/// The trials of a breaker whose endpoint stays dead, each of which fails at once.
fn trials(
    breaker: &mut Breaker,
    from: Instant,
    until: Instant,
    urgency: Urgency,
    random: &mut fastrand::Rng,
) -> Vec<Duration> {
    let mut now = from;
    let mut times = Vec::new();
    while now < until {
        match breaker.admit(now, urgency) {
            Admission::Trial => {
                let trial = breaker.pass(now, random);
                breaker.failed(now, trial, random);
                times.push(now - from);
            }
            Admission::Blocked(next) => now = next,
            Admission::Normal => panic!("a dead endpoint is used"),
        }
    }
    times
}

#[test]
fn old_connections_that_fail_do_not_open_it() {
    let (now, mut random) = (Instant::now(), random());
    let mut breaker = Breaker::new(FAILURE_LIMIT);
    let passes: Vec<_> = (0..20).map(|_| breaker.pass(now, &mut random)).collect();
    let changes = passes.iter().filter(|pass| breaker.failed(now, **pass, &mut random)).count();
    assert_eq!((changes, breaker.phase()), (1, Phase::Suspect));
    assert_eq!(breaker.admit(now, Urgency::Relaxed), Admission::Trial);
    let trial = breaker.pass(now, &mut random);
    assert!(trial.is_trial());
    assert!(matches!(breaker.admit(now, Urgency::Urgent), Admission::Blocked(_)), "a second trial");
    assert!(breaker.succeeded(now, trial));
    assert_eq!((breaker.phase(), breaker.openings()), (Phase::Closed, 0));
}

#[test]
fn a_success_between_failures_keeps_it_closed() {
    let (now, mut random) = (Instant::now(), random());
    let mut breaker = Breaker::new(FAILURE_LIMIT);
    for turn in 0..40u64 {
        // One success to three failures, too few in ten seconds to be a rate.
        let now = now + ms(turn * 1000);
        let pass = breaker.pass(now, &mut random);
        if turn % 4 == 3 {
            breaker.succeeded(now, pass);
        } else {
            assert!(!breaker.failed(now, pass, &mut random), "turn {turn}");
        }
    }
    assert!(breaker.is_closed());
}

#[test]
fn a_high_error_rate_makes_it_suspect_and_an_old_one_does_not() {
    let (zero, mut random) = (Instant::now(), random());
    for (pause, expected) in [(ms(10), Phase::Suspect), (ms(1000), Phase::Closed)] {
        let mut breaker = Breaker::new(FAILURE_LIMIT);
        let mut now = zero;
        for turn in 0..40 {
            now += pause;
            let pass = breaker.pass(now, &mut random);
            if pass.is_trial() {
                break;
            }
            if turn % 2 == 0 {
                breaker.succeeded(now, pass);
            } else {
                breaker.failed(now, pass, &mut random);
            }
        }
        assert_eq!(breaker.phase(), expected, "with {pause:?} between answers");
    }
}

#[test]
fn urgent_trials_find_the_endpoint_within_two_seconds() {
    let (now, mut random) = (Instant::now(), random());
    let mut breaker = opened(now, &mut random);
    let times = trials(&mut breaker, now, now + ms(60_000), Urgency::Urgent, &mut random);
    assert!(times[0] <= ms(1700), "the first one at {:?}", times[0]);
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        assert!((ms(1500)..=ms(1700)).contains(&pause), "a pause of {pause:?}");
    }
}

#[test]
fn relaxed_trials_become_seldom_and_a_relapse_starts_seldom() {
    let (now, mut random) = (Instant::now(), random());
    let mut breaker = opened(now, &mut random);
    let end = now + ms(600_000);
    let times = trials(&mut breaker, now, end, Urgency::Relaxed, &mut random);
    assert!((20..=45).contains(&times.len()), "{} trials in ten minutes", times.len());
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest.is_some_and(|pause| pause <= LONGEST_RELAXED && pause > ms(15_000)), "{longest:?}");
    // It comes back for ten seconds, five times.
    let mut now = end;
    for _ in 0..5 {
        now += LONGEST_RELAXED;
        let trial = breaker.pass(now, &mut random);
        assert!(breaker.succeeded(now, trial));
        now += ms(10_000);
        for _ in 0..=FAILURE_LIMIT {
            let pass = breaker.pass(now, &mut random);
            breaker.failed(now, pass, &mut random);
        }
        assert_eq!(breaker.phase(), Phase::Open);
    }
    match breaker.admit(now, Urgency::Relaxed) {
        Admission::Blocked(next) => assert!(next - now >= ms(15_000), "tried again after {:?}", next - now),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_silent_trial_makes_room_and_may_still_succeed() {
    let (now, mut random) = (Instant::now(), random());
    let mut breaker = opened(now, &mut random);
    let first_at = now + ms(2000);
    assert_eq!(breaker.admit(first_at, Urgency::Urgent), Admission::Trial);
    let first = breaker.pass(first_at, &mut random);
    assert_eq!(breaker.phase(), Phase::HalfOpen);
    assert!(matches!(breaker.admit(first_at + ms(1400), Urgency::Urgent), Admission::Blocked(_)));
    let second_at = first_at + ms(1700);
    assert_eq!(breaker.admit(second_at, Urgency::Urgent), Admission::Trial);
    let second = breaker.pass(second_at, &mut random);
    assert!(!breaker.failed(second_at, second, &mut random));
    assert!(breaker.succeeded(second_at + ms(100), first), "the slow one counts");
    assert!(breaker.is_closed());
}

#[test]
fn outcomes_from_before_the_outage_do_not_count_after_it() {
    let (now, mut random) = (Instant::now(), random());
    let mut breaker = Breaker::new(FAILURE_LIMIT);
    let old: Vec<_> = (0..30).map(|_| breaker.pass(now, &mut random)).collect();
    let (first, late) = old.split_at(FAILURE_LIMIT as usize);
    for pass in first {
        breaker.failed(now, *pass, &mut random);
    }
    let trial = breaker.pass(now, &mut random);
    assert!(!breaker.succeeded(now, late[0]), "an old connection's success is no trial's");
    assert_eq!(breaker.phase(), Phase::Suspect);
    assert!(breaker.succeeded(now, trial));
    for pass in &late[1..] {
        assert!(!breaker.failed(now, *pass, &mut random));
    }
    assert!(breaker.is_closed());
}

#[test]
fn readers_who_give_up_do_not_speed_up_trials() {
    let (zero, mut random) = (Instant::now(), random());
    let mut breaker = opened(zero, &mut random);
    let mut count = 0;
    for step in 0..10_000 {
        let now = zero + ms(step);
        if breaker.admit(now, Urgency::Urgent) == Admission::Trial {
            let trial = breaker.pass(now, &mut random);
            breaker.abandoned(trial);
            count += 1;
        }
    }
    assert!((5..=7).contains(&count), "{count} trials in ten seconds");
}

#[test]
fn of_a_thousand_breakers_a_tenth_at_most_tries_in_any_tenth_of_a_second() {
    for urgency in [Urgency::Urgent, Urgency::Relaxed] {
        let now = Instant::now();
        // They all lose their endpoint in the same moment.
        let mut times: Vec<Duration> = (0..1000)
            .flat_map(|seed| {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut breaker = opened(now, &mut random);
                trials(&mut breaker, now, now + ms(30_000), urgency, &mut random)
            })
            .collect();
        times.sort();
        let crowd = (0..times.len())
            .map(|first| times[first..].partition_point(|time| *time < times[first] + ms(100)))
            .max();
        assert!(crowd.is_some_and(|crowd| (10..=100).contains(&crowd)), "{urgency:?}: {crowd:?} in 100 ms");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send,
    Succeed(usize),
    Fail(usize),
    Abandon(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Send),
        1 => any::<usize>().prop_map(Step::Succeed),
        4 => any::<usize>().prop_map(Step::Fail),
        1 => any::<usize>().prop_map(Step::Abandon),
        2 => (0u64..4000).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens in whatever order: it opens by a failed trial only, closes by a successful one only, starts
    /// no trial sooner than 1.5 s after the one before (but the first ones of `Suspect` and `Open`), and always says
    /// when to come again.
    #[test]
    fn its_laws_hold_in_any_order(steps in prop::collection::vec(step(), 1..400), seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut breaker = Breaker::new(3);
        let mut now = Instant::now();
        let mut out: Vec<Pass> = Vec::new();
        let mut last_trial: Option<Instant> = None;
        for step in steps {
            let before = breaker.phase();
            let mut ended = None;
            match step {
                Step::Send => match breaker.admit(now, Urgency::Urgent) {
                    Admission::Blocked(next) => prop_assert!(next > now && next <= now + ms(1700)),
                    admission => {
                        let pass = breaker.pass(now, &mut random);
                        prop_assert_eq!(pass.is_trial(), admission == Admission::Trial);
                        if pass.is_trial() {
                            prop_assert!(last_trial.is_none_or(|last| now - last >= ms(1500)));
                            last_trial = Some(now);
                        }
                        out.push(pass);
                    }
                },
                Step::Pass(time) => now += ms(time),
                Step::Succeed(which) | Step::Fail(which) | Step::Abandon(which) if !out.is_empty() => {
                    let pass = out.swap_remove(which % out.len());
                    match step {
                        Step::Succeed(_) => _ = breaker.succeeded(now, pass),
                        Step::Fail(_) => _ = breaker.failed(now, pass, &mut random),
                        _ => breaker.abandoned(pass),
                    }
                    ended = Some((pass, step));
                }
                Step::Succeed(_) | Step::Fail(_) | Step::Abandon(_) => {}
            }
            let after = breaker.phase();
            let was_out = matches!(before, Phase::Open | Phase::HalfOpen);
            let is_out = matches!(after, Phase::Open | Phase::HalfOpen);
            if !was_out && is_out {
                prop_assert_eq!(before, Phase::Suspect);
                prop_assert!(matches!(ended, Some((pass, Step::Fail(_))) if pass.is_trial()));
                last_trial = None;
            }
            if before != Phase::Closed && after == Phase::Closed {
                prop_assert!(matches!(ended, Some((pass, Step::Succeed(_))) if pass.is_trial()));
                last_trial = None;
            }
            prop_assert!(!(was_out && after == Phase::Suspect));
            prop_assert!(breaker.answers.len() <= 11);
        }
    }
}
