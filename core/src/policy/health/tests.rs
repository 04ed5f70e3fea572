use proptest::prelude::*;

use super::{Cause, Ejection, Event, State, Traffic, Verdict, Word, next};

const EJECTION: Ejection =
    Ejection { base_ms: 1_000, max_ms: 2_500, jitter_ms_max: 9, interval_ms: 100, percent_max: 50 };

fn state(verdict: Verdict, traffic: Traffic, ejections: u8, at_ms: u64) -> State {
    let cause = (traffic != Traffic::Admitting).then_some(Cause::Latency);
    State { verdict, traffic, cause, ejections, at_ms, left: false }
}

fn check(before: State, event: Event, now_ms: u64, expected: State) {
    let after = next(before.pack(), event, &EJECTION, now_ms);
    assert_eq!(after.state(), expected, "{before:?} {event:?} at {now_ms}");
}

#[test]
fn every_transition_that_means_something() {
    use Traffic::{Admitting, Ejected, Probing};
    use Verdict::{Healthy, Unchecked, Unhealthy};
    let eject = Event::Eject { cause: Cause::SuccessRate, draw: 23 };
    let with = |cause, s: State| State { cause: Some(cause), ..s };
    let (trial, back) = (Event::TrialFailed { draw: 4 }, Event::ReturnFailed { draw: 0 });
    for (before, event, now_ms, expected) in [
        // The first, with jitter 23 mod 10; then longer; then as long as may be.
        (
            state(Unchecked, Admitting, 0, 5),
            eject,
            50,
            with(Cause::SuccessRate, state(Unchecked, Ejected, 1, 1_053)),
        ),
        (
            state(Healthy, Admitting, 1, 5),
            eject,
            50,
            with(Cause::SuccessRate, state(Healthy, Ejected, 2, 2_053)),
        ),
        (
            state(Healthy, Admitting, 9, 5),
            eject,
            50,
            with(Cause::SuccessRate, state(Healthy, Ejected, 10, 2_553)),
        ),
        (
            state(Healthy, Admitting, 255, 5),
            eject,
            50,
            with(Cause::SuccessRate, state(Healthy, Ejected, 255, 2_553)),
        ),
        // Each healthy interval forgives one; unhealthy ones don't.
        (
            state(Healthy, Admitting, 3, 5),
            eject,
            304,
            with(Cause::SuccessRate, state(Healthy, Ejected, 2, 2_307)),
        ),
        (
            state(Healthy, Admitting, 3, 5),
            eject,
            305,
            with(Cause::SuccessRate, state(Healthy, Ejected, 1, 1_308)),
        ),
        (
            state(Unhealthy, Admitting, 1, 5),
            eject,
            305,
            with(Cause::SuccessRate, state(Unhealthy, Ejected, 2, 2_308)),
        ),
        // Back, by a check and a request.
        (state(Healthy, Ejected, 2, 100), Event::ReturnPassed, 100, state(Healthy, Probing, 2, 100)),
        (
            state(Healthy, Ejected, 1, 100),
            back,
            100,
            with(Cause::ReturnFailed, state(Healthy, Ejected, 2, 2_100)),
        ),
        (
            state(Healthy, Probing, 2, 100),
            trial,
            200,
            with(Cause::TrialFailed, state(Healthy, Ejected, 3, 2_704)),
        ),
        (
            state(Healthy, Probing, 2, 100),
            Event::TrialPassed,
            200,
            with(Cause::Latency, state(Healthy, Admitting, 2, 200)),
        ),
        // Back at once, if it could not be reached and now can.
        (
            with(Cause::ConsecutiveLocalOriginFailure, state(Healthy, Ejected, 1, 900)),
            Event::Reached,
            200,
            with(Cause::ConsecutiveLocalOriginFailure, state(Healthy, Admitting, 1, 200)),
        ),
        (state(Healthy, Ejected, 1, 900), Event::Reached, 200, state(Healthy, Ejected, 1, 900)),
        (state(Healthy, Probing, 1, 100), Event::Reached, 200, state(Healthy, Probing, 1, 100)),
        // Verdicts: the first is no new start, a changed one is, and none touches an ejection.
        (state(Unchecked, Admitting, 0, 5), Event::Checked(Healthy), 50, state(Healthy, Admitting, 0, 5)),
        (
            state(Unchecked, Admitting, 4, 5),
            Event::Checked(Unhealthy),
            205,
            state(Unhealthy, Admitting, 2, 205),
        ),
        (
            state(Unhealthy, Admitting, 2, 205),
            Event::Checked(Healthy),
            900,
            state(Healthy, Admitting, 2, 900),
        ),
        (
            state(Unhealthy, Admitting, 2, 205),
            Event::Checked(Unchecked),
            900,
            state(Unchecked, Admitting, 2, 900),
        ),
        (state(Healthy, Ejected, 1, 500), Event::Checked(Unhealthy), 50, state(Unhealthy, Ejected, 1, 500)),
        (state(Unhealthy, Probing, 1, 40), Event::Checked(Healthy), 50, state(Healthy, Probing, 1, 40)),
        // Configured no more.
        (
            state(Healthy, Ejected, 3, 500),
            Event::Pardon,
            50,
            with(Cause::Latency, state(Healthy, Admitting, 0, 50)),
        ),
        (state(Healthy, Admitting, 3, 40), Event::Pardon, 50, state(Healthy, Admitting, 0, 40)),
        (
            state(Healthy, Ejected, 3, 500),
            Event::Leave,
            50,
            State { left: true, ..state(Healthy, Ejected, 3, 500) },
        ),
    ] {
        check(before, event, now_ms, expected);
    }
}

#[test]
fn what_comes_too_late_or_too_early_means_nothing() {
    use Traffic::{Admitting, Ejected, Probing};
    let eject = Event::Eject { cause: Cause::Consecutive5xx, draw: 1 };
    let all = |t| state(Verdict::Healthy, t, 1, 100);
    for (before, event, now_ms) in [
        (all(Ejected), eject, 200),
        (all(Probing), eject, 200),
        (all(Ejected), Event::ReturnPassed, 99),
        (all(Ejected), Event::ReturnFailed { draw: 1 }, 99),
        (all(Admitting), Event::ReturnPassed, 200),
        (all(Admitting), Event::ReturnFailed { draw: 1 }, 200),
        (all(Probing), Event::ReturnFailed { draw: 1 }, 200),
        (all(Admitting), Event::TrialPassed, 200),
        (all(Admitting), Event::TrialFailed { draw: 1 }, 200),
        (all(Ejected), Event::TrialPassed, 200),
        (all(Ejected), Event::TrialFailed { draw: 1 }, 200),
        (State { left: true, ..all(Admitting) }, eject, 200),
        (State { left: true, ..all(Ejected) }, Event::ReturnPassed, 200),
        (State { left: true, ..all(Probing) }, Event::TrialPassed, 200),
    ] {
        check(before, event, now_ms, before);
    }
}

#[test]
fn what_readers_see() {
    use Traffic::{Admitting, Ejected, Probing};
    use Verdict::{Healthy, Unchecked, Unhealthy};
    for (verdict, traffic, usable, may_probe) in [
        (Unchecked, Admitting, true, false),
        (Healthy, Admitting, true, false),
        (Unhealthy, Admitting, false, false),
        (Unchecked, Ejected, false, false),
        (Healthy, Ejected, false, false),
        (Unhealthy, Ejected, false, false),
        (Unchecked, Probing, false, true),
        (Healthy, Probing, false, true),
        (Unhealthy, Probing, false, false),
    ] {
        let state = state(verdict, traffic, 0, 77);
        let word = state.pack();
        assert_eq!(word.is_usable(), usable, "{state:?}");
        assert_eq!(state.is_usable(), usable, "{state:?}");
        assert_eq!(word.may_probe(), may_probe, "{state:?}");
        assert_eq!(word.healthy_since_ms(), usable.then_some(77), "{state:?}");
        assert_eq!(word.is_out(), traffic != Admitting, "{state:?}");
        assert_eq!(word.is_return_due(77), traffic == Ejected, "{state:?}");
        assert!(!word.is_return_due(76) && !State { left: true, ..state }.pack().is_return_due(99));
    }
}

#[test]
fn the_cap() {
    for (percent_max, endpoints, expected) in [
        (0, 100, 0),
        (10, 0, 0),
        (10, 1, 0),
        (10, 2, 1),
        (10, 9, 1),
        (10, 20, 2),
        (10, 29, 2),
        (99, 2, 1),
        (99, 100, 99),
        (100, 1, 1),
        (100, 7, 7),
        (50, u32::MAX, u32::MAX / 2),
    ] {
        let ejection = Ejection { percent_max, ..EJECTION };
        assert_eq!(ejection.ejected_max(endpoints), expected, "{percent_max} % of {endpoints}");
    }
}

fn states() -> impl Strategy<Value = State> {
    let verdict = prop::sample::select(vec![Verdict::Unchecked, Verdict::Healthy, Verdict::Unhealthy]);
    let traffic = prop::sample::select(vec![Traffic::Admitting, Traffic::Ejected, Traffic::Probing]);
    let cause = prop::option::of(prop::sample::select(Cause::ALL.to_vec()));
    (verdict, traffic, cause, any::<u8>(), 0..1_u64 << 47, any::<bool>()).prop_map(
        |(verdict, traffic, cause, ejections, at_ms, left)| State {
            verdict,
            traffic,
            cause,
            ejections,
            at_ms,
            left,
        },
    )
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        (prop::sample::select(Cause::ALL.to_vec()), any::<u64>())
            .prop_map(|(cause, draw)| Event::Eject { cause, draw }),
        Just(Event::Reached),
        Just(Event::ReturnPassed),
        any::<u64>().prop_map(|draw| Event::ReturnFailed { draw }),
        Just(Event::TrialPassed),
        any::<u64>().prop_map(|draw| Event::TrialFailed { draw }),
        prop::sample::select(vec![Verdict::Unchecked, Verdict::Healthy, Verdict::Unhealthy])
            .prop_map(Event::Checked),
        Just(Event::Pardon),
    ]
}

proptest! {
    #[test]
    fn a_word_unpacks_to_what_was_packed(state in states()) {
        prop_assert_eq!(state.pack().state(), state);
        prop_assert_eq!(Word::from_bits(state.pack().bits()).state(), state);
    }

    /// Words are not read from a peer, but no bits of one may panic either.
    #[test]
    fn no_bits_and_no_times_panic(bits in any::<u64>(), event in events(), base in any::<u64>(), now in any::<u64>()) {
        let ejection = Ejection { base_ms: base, max_ms: now, jitter_ms_max: base, interval_ms: 0, percent_max: 200 };
        let _ = next(Word::from_bits(bits), event, &ejection, now);
    }

    /// Whatever has happened, an ejection ends within the longest time that is configured, and then a passed check, a
    /// passed request and a good verdict bring the endpoint back.
    #[test]
    fn an_endpoint_can_always_come_back(steps in prop::collection::vec((events(), 0_u64..5_000), 0..60)) {
        let (mut word, mut now) = (Word::new(Verdict::Unchecked, 1), 1);
        for (event, step) in steps {
            now += step;
            word = next(word, event, &EJECTION, now);
            if word.state().traffic == Traffic::Ejected {
                prop_assert!(word.state().at_ms <= now + EJECTION.max_ms + EJECTION.jitter_ms_max);
            }
        }
        now += EJECTION.max_ms + EJECTION.jitter_ms_max;
        for event in [Event::Reached, Event::ReturnPassed, Event::TrialPassed, Event::Checked(Verdict::Healthy)] {
            word = next(word, event, &EJECTION, now);
        }
        prop_assert!(word.is_usable() && !word.is_out());
    }
}
