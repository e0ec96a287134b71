use proptest::prelude::*;

use super::*;

const ON_DEMAND: Priority = Priority::OnDemand;
const PREFETCH: Priority = Priority::Prefetch;

fn flights(requests: usize, bytes: u64) -> Flights {
    Flights::new(FlightLimits { requests, bytes, queue: 100 })
}

fn flies(boarding: Boarding) -> FlightId {
    match boarding {
        Boarding::Flies(id) => id,
        other => panic!("{other:?}, expected to fly"),
    }
}

fn waits(boarding: Boarding) -> FlightId {
    match boarding {
        Boarding::Waits(id) => id,
        other => panic!("{other:?}, expected to wait"),
    }
}

#[test]
fn one_request_a_second_means_so_many_in_a_minute() {
    let zero = Instant::now();
    let mut rate = Rate::new(1.0, 1.0);
    let taken =
        (0..60_000).filter(|step| rate.take(zero + Duration::from_millis(*step), 1.0).is_ok()).count();
    assert!((60..=61).contains(&taken), "{taken}");
}

#[test]
fn a_large_grant_is_paid_for_before_the_next() {
    let zero = Instant::now();
    // 1 MB/s, of which a tenth of a second's worth at once.
    let mut rate = Rate::new(1e6, 1e5);
    assert_eq!(rate.take(zero, 8e6), Ok(()));
    let next = rate.take(zero, 1.0).unwrap_err();
    assert!((7.85..=7.95).contains(&(next - zero).as_secs_f64()), "{:?}", next - zero);
    assert_eq!(rate.ready(zero), next);
    assert_eq!(rate.take(next, 1.0), Ok(()));
    // A long pause saves up no more than the burst.
    let later = zero + Duration::from_secs(1000);
    let taken = (0..1000).take_while(|_| rate.take(later, 1e4).is_ok()).count();
    assert!((10..=11).contains(&taken), "{taken}");
}

#[test]
fn absurd_rates_do_no_harm() {
    let zero = Instant::now();
    for (per_second, units) in
        [(0.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (1.0, f64::NAN), (1e-300, 1e300)]
    {
        let mut rate = Rate::new(per_second, f64::INFINITY.min(10.0));
        assert_eq!(rate.take(zero, units), Ok(()));
        assert!(rate.ready(zero) - zero <= LONGEST_DEBT, "{per_second} {units}");
    }
}

#[test]
fn a_reader_goes_before_prefetch_that_came_first() {
    let mut flights = flights(2, 1000);
    let first = flies(flights.enter(ON_DEMAND, 10));
    let second = flies(flights.enter(ON_DEMAND, 10));
    let prefetch = waits(flights.enter(PREFETCH, 10));
    let readers = [waits(flights.enter(ON_DEMAND, 10)), waits(flights.enter(ON_DEMAND, 10))];
    assert_eq!(flights.leave(first), [readers[0]]);
    assert_eq!(flights.leave(second), [readers[1]]);
    assert_eq!(flights.leave(readers[0]), [prefetch]);
}

#[test]
fn prefetch_leaves_half_of_everything_to_readers() {
    let mut flights = flights(8, 1000);
    for _ in 0..5 {
        flies(flights.enter(PREFETCH, 100));
        if flights.requests() == 4 {
            break;
        }
    }
    waits(flights.enter(PREFETCH, 100));
    assert_eq!((flights.requests(), flights.bytes()), (4, 400));
    flies(flights.enter(ON_DEMAND, 600));
    waits(flights.enter(ON_DEMAND, 1));
    let mut flights = Flights::new(FlightLimits { requests: 8, bytes: 1000, queue: 100 });
    flies(flights.enter(PREFETCH, u64::MAX));
    assert_eq!(flights.bytes(), 500);
    waits(flights.enter(PREFETCH, 1));
    flies(flights.enter(ON_DEMAND, 500));
}

#[test]
fn a_huge_request_flies_alone_and_is_not_overtaken() {
    let mut flights = flights(8, 1000);
    let small = flies(flights.enter(ON_DEMAND, 1));
    let huge = waits(flights.enter(ON_DEMAND, u64::MAX));
    let after = waits(flights.enter(ON_DEMAND, 1));
    assert_eq!(flights.leave(small), [huge]);
    assert_eq!(flights.leave(huge), [after]);
}

#[test]
fn who_gives_up_makes_way() {
    let mut flights = flights(8, 1000);
    let small = flies(flights.enter(ON_DEMAND, 500));
    let huge = waits(flights.enter(ON_DEMAND, 1000));
    let after = waits(flights.enter(ON_DEMAND, 1));
    assert_eq!(flights.leave(huge), [after]);
    assert_eq!(flights.leave(huge), [], "twice");
    assert_eq!(flights.leave(small), []);
    assert_eq!(flights.leave(after), []);
    assert_eq!((flights.requests(), flights.bytes()), (0, 0));
}

#[test]
fn queues_are_bounded() {
    let mut flights = Flights::new(FlightLimits { requests: 1, bytes: 10, queue: 2 });
    flies(flights.enter(ON_DEMAND, 1));
    for priority in [PREFETCH, ON_DEMAND] {
        for _ in 0..2 {
            waits(flights.enter(priority, 1));
        }
        assert_eq!(flights.enter(priority, 1), Boarding::Refused);
        assert_eq!(flights.waiting(priority), 2);
    }
}

proptest! {
    /// Whatever comes and goes: the limits hold, nobody is lost, and nobody waits who could start.
    #[test]
    fn its_laws_hold_in_any_order(
        steps in prop::collection::vec((0u8..4, any::<usize>(), 0u64..120), 1..300),
        requests in 0usize..6,
        bytes in 0u64..200,
        queue in 0usize..10,
    ) {
        let mut flights = Flights::new(FlightLimits { requests, bytes, queue });
        let (requests, bytes) = (requests.max(1), bytes.max(1));
        let (mut flying, mut waiting) = (Vec::new(), Vec::new());
        for (what, which, size) in steps {
            let priority = if what == 0 { PREFETCH } else { ON_DEMAND };
            let leaver = match what {
                0 | 1 => {
                    match flights.enter(priority, size) {
                        Boarding::Flies(id) => flying.push(id),
                        Boarding::Waits(id) => waiting.push(id),
                        Boarding::Refused => prop_assert_eq!(flights.waiting(priority), queue),
                    }
                    None
                }
                2 if !flying.is_empty() => Some(flying.swap_remove(which % flying.len())),
                3 if !waiting.is_empty() => Some(waiting.swap_remove(which % waiting.len())),
                _ => None,
            };
            for started in leaver.map(|id| flights.leave(id)).unwrap_or_default() {
                let place = waiting.iter().position(|id| *id == started);
                prop_assert!(place.is_some(), "one that did not wait has started");
                flying.push(waiting.swap_remove(place.unwrap_or_default()));
            }
            prop_assert_eq!(flights.requests(), flying.len());
            prop_assert_eq!(flights.waiting(ON_DEMAND) + flights.waiting(PREFETCH), waiting.len());
            prop_assert!(flying.len() <= requests && flights.bytes() <= bytes);
            prop_assert!(waiting.is_empty() || !flying.is_empty(), "all wait and nothing flies");
            prop_assert!(flights.start_next().is_none(), "one waits that could start");
        }
        // All end: all were served.
        while let Some(id) = flying.pop() {
            for started in flights.leave(id) {
                waiting.retain(|id| *id != started);
                flying.push(started);
            }
        }
        prop_assert!(waiting.is_empty());
        prop_assert_eq!((flights.requests(), flights.bytes()), (0, 0));
    }
}
