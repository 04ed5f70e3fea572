//! The diagram as tables of moments, and the promises about permits over random schedules.

use std::num::NonZeroU8;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::Outcome::{Error, Success};
use super::{Breaker, Outcome, Permit, Settings, State};

/// A window of 1 s, 4 requests, half of them errors or three quarters slower than 100 ms; 500 ms up to 1.5 s; 2 probes.
const SETTINGS: Settings = Settings {
    window_ms: 1_000,
    requests_min: 4,
    error_percent: NonZeroU8::new(50),
    slow_ms: 100,
    slow_percent: NonZeroU8::new(75),
    rejecting_ms: 500,
    rejecting_ms_max: 1_500,
    probes: 2,
};

fn one(breaker: &mut Breaker, outcome: Outcome, latency_ms: u64, now_ms: u64) {
    let permit = breaker.admit(now_ms).unwrap();
    breaker.record(permit, outcome, latency_ms, now_ms);
}

/// A breaker that began to reject at `now_ms`.
fn rejecting(settings: Settings, now_ms: u64) -> Breaker {
    let mut breaker = Breaker::new(settings, now_ms);
    for _ in 0..settings.requests_min {
        one(&mut breaker, Error, 0, now_ms);
    }
    assert_eq!(breaker.state(), State::Rejecting);
    breaker
}

/// Requests as (at, outcome, latency), and the state after the last of them. All before it must leave it admitting.
fn check(requests: &[(u64, Outcome, u64)], expected: State) {
    let mut breaker = Breaker::new(SETTINGS, 0);
    for &(now_ms, outcome, latency_ms) in requests {
        assert_eq!(breaker.state(), State::Admitting, "before {now_ms} of {requests:?}");
        one(&mut breaker, outcome, latency_ms, now_ms);
    }
    assert_eq!(breaker.state(), expected, "{requests:?}");
}

#[test]
fn rates() {
    use State::{Admitting, Rejecting};
    let (good, bad, slow) = ((0, Success, 0), (0, Error, 0), (0, Success, 100));
    check(&[bad; 3], Admitting);
    check(&[bad; 4], Rejecting);
    // The one that makes the number full need not be the one that failed.
    check(&[bad, bad, good, good], Rejecting);
    check(&[bad, good, good, good], Admitting);
    check(&[good, good, good, bad, bad], Admitting);
    check(&[good, good, good, bad, bad, bad], Rejecting);
    check(&[slow, slow, slow, good], Rejecting);
    check(&[slow, slow, good, good], Admitting);
    check(&[(0, Success, 99); 4], Admitting);
    // One that is slow and fails counts for both, and neither rate is added to the other.
    check(&[(0, Error, 100), slow, good, good], Admitting);
    check(&[(0, Error, 100), slow, slow, good], Rejecting);
}

#[test]
fn the_window_slides_by_tenths() {
    use State::{Admitting, Rejecting};
    let at = |now_ms| (now_ms, Error, 0);
    check(&[at(0), at(0), at(0), at(999)], Rejecting);
    check(&[at(0), at(0), at(0), at(1_000)], Admitting);
    check(&[at(99), at(99), at(99), at(1_000)], Admitting);
    check(&[at(100), at(100), at(100), at(1_000)], Rejecting);
    check(&[at(100), at(100), at(100), at(1_099)], Rejecting);
    check(&[at(100), at(100), at(100), at(1_100)], Admitting);
    check(&[at(0), at(300), at(600), at(u64::MAX)], Admitting);
    // A clock that goes backwards counts for the newest bucket.
    check(&[at(500), at(100), at(0), at(450)], Rejecting);
}

#[test]
fn what_is_not_set_does_not_matter() {
    let mut breaker = Breaker::new(Settings { error_percent: None, slow_percent: None, ..SETTINGS }, 0);
    for _ in 0..100 {
        one(&mut breaker, Error, 10_000, 0);
    }
    assert_eq!(breaker.state(), State::Admitting);
    let numbers = breaker.numbers();
    assert_eq!((numbers.requests, numbers.errors, numbers.slow, numbers.trips), (100, 100, 100, 0));
}

#[test]
fn from_rejecting_to_admitting() {
    let mut breaker = rejecting(SETTINGS, 1_000);
    assert_eq!(breaker.admit(1_000).unwrap_err().retry_after_ms, 500);
    assert_eq!(breaker.admit(1_499).unwrap_err().retry_after_ms, 1);
    let (first, second) = (breaker.admit(1_500).unwrap(), breaker.admit(1_510).unwrap());
    assert_eq!((breaker.state(), breaker.numbers().since_ms), (State::Probing, 1_500));
    assert_eq!(breaker.admit(1_520).unwrap_err().retry_after_ms, 490);
    breaker.record(first, Success, 5, 1_530);
    // One has succeeded, one is away: no third is needed.
    assert!(breaker.admit(1_540).is_err());
    breaker.record(second, Success, 5, 1_550);
    assert_eq!(breaker.state(), State::Admitting);
    let numbers = breaker.numbers();
    assert_eq!((numbers.requests, numbers.trips, numbers.rejected, numbers.since_ms), (0, 1, 4, 1_550));
    // What happened before is forgotten.
    one(&mut breaker, Error, 0, 1_560);
    assert_eq!(breaker.state(), State::Admitting);
}

#[test]
fn rejecting_grows_while_probes_fail() {
    let mut breaker = rejecting(SETTINGS, 0);
    let mut now_ms = 500;
    for (rejecting_ms, outcome, latency_ms) in [(1_000, Error, 0), (1_500, Success, 100), (1_500, Error, 0)] {
        assert!(breaker.admit(now_ms - 1).is_err());
        one(&mut breaker, outcome, latency_ms, now_ms);
        assert_eq!((breaker.state(), breaker.numbers().rejecting_ms), (State::Rejecting, rejecting_ms));
        now_ms += rejecting_ms;
    }
    one(&mut breaker, Success, 0, now_ms);
    one(&mut breaker, Success, 0, now_ms);
    assert_eq!((breaker.state(), breaker.numbers().rejecting_ms), (State::Admitting, 500));
    assert_eq!(breaker.numbers().trips, 4);
}

#[test]
fn permits_of_another_epoch_count_for_nothing() {
    let mut breaker = Breaker::new(SETTINGS, 0);
    let early: Vec<Permit> = (0..6).map(|_| breaker.admit(0).unwrap()).collect();
    for _ in 0..4 {
        one(&mut breaker, Error, 0, 0);
    }
    let mut early = early.into_iter();
    breaker.record(early.next().unwrap(), Success, 0, 10);
    breaker.record(early.next().unwrap(), Error, 0, 10);
    assert_eq!((breaker.state(), breaker.numbers().requests), (State::Rejecting, 4));
    let probe = breaker.admit(500).unwrap();
    breaker.record(early.next().unwrap(), Success, 0, 510);
    breaker.record(early.next().unwrap(), Error, 0, 510);
    breaker.release(early.next().unwrap());
    let numbers = breaker.numbers();
    assert_eq!((numbers.state, numbers.probes_in_flight, numbers.probes_succeeded), (State::Probing, 1, 0));
    let other = breaker.admit(520).unwrap();
    breaker.record(probe, Error, 0, 530);
    // Its fellow comes back in the next time of probing, and is not of it.
    let _probe = breaker.admit(1_530).unwrap();
    breaker.record(other, Success, 0, 1_540);
    assert_eq!((breaker.numbers().probes_in_flight, breaker.numbers().probes_succeeded), (1, 0));
}

#[test]
fn a_released_probe_frees_its_place_and_proves_nothing() {
    let mut breaker = rejecting(SETTINGS, 0);
    for _ in 0..10 {
        let (first, second) = (breaker.admit(500).unwrap(), breaker.admit(500).unwrap());
        assert!(breaker.admit(500).is_err());
        breaker.release(first);
        breaker.release(second);
    }
    assert_eq!((breaker.state(), breaker.numbers().probes_succeeded), (State::Probing, 0));
    one(&mut breaker, Success, 0, 510);
    one(&mut breaker, Success, 0, 510);
    assert_eq!(breaker.state(), State::Admitting);
}

#[test]
fn a_lost_probe_costs_its_place_for_a_while() {
    let mut breaker = rejecting(SETTINGS, 0);
    drop((breaker.admit(500).unwrap(), breaker.admit(600).unwrap()));
    assert_eq!(breaker.admit(1_099).unwrap_err().retry_after_ms, 1);
    let late = breaker.admit(1_100).unwrap();
    assert_eq!(breaker.state(), State::Probing);
    drop(breaker.admit(1_100).unwrap());
    // An upstream whose answers take longer than the time of rejecting recovers, too.
    drop(breaker.admit(1_600).unwrap());
    breaker.record(late, Success, 0, 1_700);
    one(&mut breaker, Success, 0, 1_700);
    assert_eq!(breaker.state(), State::Admitting);
}

#[test]
fn new_settings() {
    let mut breaker = Breaker::new(SETTINGS, 0);
    for _ in 0..3 {
        one(&mut breaker, Error, 0, 0);
    }
    breaker.configure(Settings { requests_min: 5, ..SETTINGS }, 10);
    assert_eq!(breaker.numbers().requests, 3);
    one(&mut breaker, Error, 0, 10);
    assert_eq!(breaker.state(), State::Admitting);
    breaker.configure(Settings { window_ms: 2_000, ..SETTINGS }, 20);
    assert_eq!(breaker.numbers().requests, 0);
    let mut breaker = rejecting(Settings { probes: 5, ..SETTINGS }, 0);
    for _ in 0..3 {
        one(&mut breaker, Success, 0, 500);
    }
    // Fewer probes than have succeeded already: the next one decides.
    breaker.configure(Settings { rejecting_ms: 700, probes: 2, ..SETTINGS }, 510);
    assert_eq!((breaker.state(), breaker.numbers().rejecting_ms), (State::Probing, 700));
    one(&mut breaker, Success, 0, 520);
    assert_eq!(breaker.state(), State::Admitting);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Admit,
    Record(Outcome, u64),
    Release,
    Lose,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<(Step, prop::sample::Index)>> {
    let step = prop_oneof![
        6 => Just(Step::Admit),
        3 => (0_u64..150).prop_map(|ms| Step::Record(Success, ms)),
        3 => (0_u64..150).prop_map(|ms| Step::Record(Error, ms)),
        1 => Just(Step::Release),
        1 => Just(Step::Lose),
        3 => (0_u64..300).prop_map(Step::Wait),
    ];
    prop::collection::vec((step, any::<prop::sample::Index>()), 1..400)
}

proptest! {
    /// Whatever happens: while rejecting, nothing goes through before its time; probes away that nobody lost are no
    /// more than were allowed; and whoever waits for long enough and brings successes is let through again.
    #[test]
    fn over_any_schedule(steps in steps()) {
        let mut breaker = Breaker::new(SETTINGS, 0);
        let (mut now_ms, mut held, mut lost) = (0, Vec::<Permit>::new(), 0);
        for (step, index) in steps {
            match step {
                Step::Admit => {
                    let before = breaker.numbers();
                    match breaker.admit(now_ms) {
                        Ok(permit) => {
                            let early = before.state == State::Rejecting
                                && now_ms < before.since_ms + before.rejecting_ms;
                            prop_assert!(!early);
                            held.push(permit);
                        }
                        Err(rejected) => {
                            prop_assert!(breaker.state() != State::Admitting);
                            prop_assert!((1..=SETTINGS.rejecting_ms_max).contains(&rejected.retry_after_ms));
                            prop_assert_eq!(breaker.numbers().rejected, before.rejected + 1);
                        }
                    }
                }
                Step::Wait(ms) => now_ms += ms,
                _ if held.is_empty() => {}
                Step::Record(outcome, ms) => {
                    let permit = held.swap_remove(index.index(held.len()));
                    breaker.record(permit, outcome, ms, now_ms);
                }
                Step::Release => breaker.release(held.swap_remove(index.index(held.len()))),
                Step::Lose => {
                    lost += 1;
                    drop(held.swap_remove(index.index(held.len())));
                }
            }
            let numbers = breaker.numbers();
            prop_assert!(numbers.errors <= numbers.requests && numbers.slow <= numbers.requests);
            prop_assert_eq!(numbers.requests, breaker.buckets.iter().map(|b| b.requests).sum::<u32>());
            if numbers.state == State::Probing {
                prop_assert!(numbers.probes_in_flight + numbers.probes_succeeded <= SETTINGS.probes);
                let away = held.iter().filter(|permit| permit.epoch == breaker.epoch).count();
                prop_assert!(lost > 0 || away >= numbers.probes_in_flight as usize);
            }
        }
        now_ms += SETTINGS.rejecting_ms_max;
        for _ in 0..SETTINGS.probes {
            if breaker.state() != State::Admitting {
                one(&mut breaker, Success, 0, now_ms);
            }
        }
        prop_assert_eq!(breaker.state(), State::Admitting);
    }
}
