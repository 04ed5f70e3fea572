//! Single looks and changes of state; whole roll-outs are in `simulation_tests`.

use super::*;

const MS: u64 = 1_000;

/// Both arms' counters and the time, fed by hand.
struct Hand {
    decider: Decider,
    baseline: Tally,
    canary: Tally,
    now_ms: u64,
}

fn hand(settings: Settings) -> Hand {
    let mut hand = Hand {
        decider: Decider::new(settings, None),
        baseline: Tally::default(),
        canary: Tally::default(),
        now_ms: 50_000,
    };
    assert_eq!(hand.tick(0).unwrap().why.reason, Reason::Started);
    hand
}

fn counted(tally: &mut Tally, requests: u64, errors: u64, ms: u64) {
    for request in 0..requests {
        let outcome = if request < errors { Outcome::Error } else { Outcome::Success };
        tally.record(outcome, ms * MS + request % 1_000);
    }
}

impl Hand {
    fn tick(&mut self, passed_ms: u64) -> Option<Decision> {
        self.now_ms += passed_ms;
        self.decider.tick(self.now_ms, &self.baseline, &self.canary)
    }

    /// A second with so many requests and errors of both arms, in some milliseconds.
    fn second(&mut self, baseline: (u64, u64, u64), canary: (u64, u64, u64)) -> Option<Decision> {
        counted(&mut self.baseline, baseline.0, baseline.1, baseline.2);
        counted(&mut self.canary, canary.0, canary.1, canary.2);
        self.tick(1_000)
    }
}

#[test]
fn one_look_says() {
    let check = |baseline: (u64, u64, u64), canary: (u64, u64, u64), verdict: Verdict| {
        let mut hand = hand(Settings { interval_ms: 0, ..Settings::default() });
        let decision = hand.second(baseline, canary);
        let (found, why) = hand.decider.look();
        let found = decision.as_ref().map_or(found, |decision| decision.verdict);
        assert_eq!(found, verdict, "{baseline:?} {canary:?}: {why}");
    };
    let usual = (100_000, 100, 20);
    check(usual, (5_000, 5, 20), Verdict::Good);
    check(usual, (0, 0, 20), Verdict::Unclear(Lack::Requests));
    check(usual, (99, 0, 20), Verdict::Unclear(Lack::Requests));
    check(usual, (200, 0, 20), Verdict::Unclear(Lack::Evidence));
    check((0, 0, 0), (5_000, 5, 20), Verdict::Unclear(Lack::BaselineRequests));
    check(usual, (5_000, 500, 20), Verdict::Bad(Fault::ErrorShare));
    check(usual, (5_000, 150, 20), Verdict::Bad(Fault::ErrorsAboveBaseline));
    check(usual, (5_000, 55, 20), Verdict::Unclear(Lack::Evidence));
    check(usual, (5_000, 5, 60), Verdict::Bad(Fault::Latency));
    check(usual, (5_000, 5, 29), Verdict::Good);
    // Twice as long, but no more than the floor: 4 and 8 ms.
    check((100_000, 100, 4), (5_000, 5, 8), Verdict::Good);
    check((100_000, 30_000, 20), (5_000, 1_500, 20), Verdict::Unclear(Lack::BothFail));
    check((100_000, 30_000, 20), (5_000, 2_500, 20), Verdict::Bad(Fault::ErrorsAboveBaseline));
    // Seven requests, all failed, are enough; one is not.
    check(usual, (1, 1, 20), Verdict::Unclear(Lack::Requests));
    check(usual, (7, 7, 20), Verdict::Bad(Fault::ErrorsAboveBaseline));
}

#[test]
fn rules_can_be_left_out() {
    let check = |errors: Option<Errors>,
                 latency: Option<Latency>,
                 canary: (u64, u64, u64),
                 verdict: Verdict| {
        let mut hand = hand(Settings { errors, latency, interval_ms: 0, ..Settings::default() });
        let decision = hand.second((100_000, 100, 20), canary);
        assert_eq!(decision.map_or(hand.decider.look().0, |d| d.verdict), verdict, "{errors:?} {latency:?}");
    };
    let Settings { errors, latency, .. } = Settings::default();
    let bad = (5_000, 2_500, 900);
    check(None, None, bad, Verdict::Good);
    check(None, latency, bad, Verdict::Bad(Fault::Latency));
    check(errors, None, (5_000, 5, 900), Verdict::Good);
    let relative = Some(Errors { share_max: 1.0, above_baseline_max: 0.01 });
    check(relative, None, bad, Verdict::Bad(Fault::ErrorsAboveBaseline));
    let absolute = Some(Errors { share_max: 0.05, above_baseline_max: 1.0 });
    check(absolute, None, (5_000, 100, 900), Verdict::Good);
}

#[test]
fn it_moves_on_when_the_time_is_over() {
    let mut hand = hand(Settings { interval_ms: 10_000, confirm: 3, ..Settings::default() });
    let mut moves = Vec::new();
    for _ in 0..45 {
        if let Some(decision) = hand.second((10_000, 10, 20), (5_000, 5, 20)) {
            moves.push((decision.why.reason, decision.from_bp, decision.to_bp, decision.at_ms - 50_000));
        }
    }
    let expected = [
        (Reason::Judged, 100, 100, 5_000),
        (Reason::Advanced, 100, 500, 10_000),
        (Reason::Judged, 500, 500, 15_000),
        (Reason::Advanced, 500, 2_500, 20_000),
        (Reason::Judged, 2_500, 2_500, 25_000),
        (Reason::Advanced, 2_500, 5_000, 30_000),
        (Reason::Judged, 5_000, 5_000, 35_000),
        (Reason::Promoted, 5_000, 10_000, 40_000),
    ];
    assert_eq!(moves, expected);
    assert_eq!(hand.decider.share_bp(), WHOLE_BP);
    // Nothing that comes later takes it back.
    assert_eq!(hand.second((0, 0, 0), (50_000, 50_000, 20)), None);
    assert_eq!(hand.decider.share_bp(), WHOLE_BP);
}

#[test]
fn good_must_last() {
    let mut hand = hand(Settings { interval_ms: 0, confirm: 4, ..Settings::default() });
    for _ in 0..3 {
        hand.second((10_000, 10, 20), (5_000, 5, 20));
    }
    assert_eq!((hand.decider.share_bp(), hand.decider.saved().good_in_a_row), (100, 3));
    // Close to the bound: neither good nor bad, and it begins to count anew.
    hand.second((10_000, 10, 20), (5_000, 210, 20));
    assert_eq!((hand.decider.share_bp(), hand.decider.saved().good_in_a_row), (100, 0));
    // Nor does it in this window, however well it does: ten minutes by default.
    for _ in 0..594 {
        assert_eq!(hand.second((10_000, 10, 20), (5_000, 5, 20)), None);
    }
    for _ in 0..6 {
        hand.second((10_000, 10, 20), (5_000, 5, 20));
    }
    assert_eq!(hand.decider.share_bp(), 500);
}

#[test]
fn a_rollback_stays_until_restarted() {
    let settings = Settings::default();
    let mut hand = hand(settings.clone());
    let decision = hand.second((10_000, 10, 20), (5_000, 500, 20)).unwrap();
    assert_eq!((decision.why.reason, decision.from_bp, decision.to_bp), (Reason::RolledBack, 100, 0));
    for _ in 0..100 {
        assert_eq!(hand.second((10_000, 10, 20), (5_000, 5, 20)), None);
    }
    hand.decider.configure(Settings { interval_ms: 1, ..settings.clone() });
    assert_eq!(hand.decider.share_bp(), 0, "other settings, but the same canary");
    let saved = hand.decider.saved().clone();
    assert_eq!(Decider::new(settings.clone(), Some(saved.clone())).share_bp(), 0);
    let another = Settings { identity: 7, ..settings };
    assert_eq!(Decider::new(another.clone(), Some(saved)).share_bp(), 100);
    hand.decider.restart();
    assert_eq!(hand.decider.share_bp(), 100);
    hand.second((10_000, 10, 20), (5_000, 500, 20));
    assert_eq!(hand.second((10_000, 10, 20), (5_000, 500, 20)).unwrap().why.reason, Reason::RolledBack);
    hand.decider.configure(another);
    assert_eq!(hand.decider.share_bp(), 100);
}

#[test]
fn it_goes_on_from_what_was_saved() {
    let settings = Settings { interval_ms: 10_000, confirm: 3, ..Settings::default() };
    let mut first = hand(settings.clone());
    for _ in 0..15 {
        first.second((10_000, 10, 20), (5_000, 5, 20));
    }
    assert_eq!(first.decider.share_bp(), 500);
    // Another process: counters and clock begin anew.
    let mut second = Hand {
        decider: Decider::new(settings.clone(), Some(first.decider.saved().clone())),
        baseline: Tally::default(),
        canary: Tally::default(),
        now_ms: 1,
    };
    assert_eq!(second.tick(0), None);
    let decisions: Vec<_> = (0..5).filter_map(|_| second.second((10_000, 10, 20), (5_000, 5, 20))).collect();
    assert_eq!((decisions.len(), decisions[0].why.reason), (1, Reason::Advanced));
    assert_eq!(second.now_ms, 5_001, "five seconds were left of the ten");

    let share = |steps: &[u32]| {
        let settings = Settings { steps: steps.to_vec(), ..settings.clone() };
        Decider::new(settings, Some(first.decider.saved().clone())).share_bp()
    };
    assert_eq!(share(&[100, 500, 10_000]), 500);
    assert_eq!(share(&[100, 400, 600]), 400, "never above what was earned");
    assert_eq!(share(&[1_000]), 1_000, "but no lower than the first step");
}

#[test]
fn counters_that_go_back_are_harmless() {
    let mut hand = hand(Settings::default());
    hand.second((10_000, 10, 20), (5_000, 5, 20));
    let before = hand.decider.saved().long.canary.clone();
    // A worker began anew: errors that had been counted are gone, and ten new ones are there.
    hand.canary = Tally::default();
    counted(&mut hand.canary, 10, 10, 20);
    assert_eq!(hand.tick(1_000), None);
    assert_eq!(hand.decider.saved().long.canary, before, "nothing of that second is counted");
    hand.second((10_000, 10, 20), (100, 0, 20));
    assert_eq!(hand.decider.saved().long.canary.tally.requests, 5_100);
    assert_eq!(hand.decider.saved().long.canary.tally.errors, 5);
    hand.baseline = Tally::default();
    assert_eq!(hand.second((3, 0, 20), (100, 0, 20)), None);
    assert_eq!(hand.decider.saved().long.canary.tally.requests, 5_100, "of the other arm neither");
}

#[test]
fn a_clock_that_jumps_carries_nothing_over_its_interval() {
    let mut hand = hand(Settings { confirm: 1, ..Settings::default() });
    hand.second((10_000, 10, 20), (5_000, 5, 20));
    for jump_ms in [86_400_000, u64::MAX - 100_000_000] {
        assert_eq!(hand.tick(jump_ms), None, "{jump_ms}");
    }
    hand.now_ms = 0;
    assert_eq!(hand.tick(0), None);
    assert_eq!(hand.decider.share_bp(), 100);
    assert_eq!(hand.decider.saved().step_ms, 11_000);
    for _ in 0..48 {
        let decision = hand.second((100, 0, 20), (50, 0, 20));
        assert!(decision.is_none_or(|decision| decision.why.reason == Reason::Judged));
    }
    assert_eq!(hand.second((100, 0, 20), (50, 0, 20)).unwrap().why.reason, Reason::Advanced);
}

#[test]
fn windows_double_and_doubt_is_shared_out() {
    let mut hand = hand(Settings { window_ms: 120_000, stalled_after_ms: u64::MAX, ..Settings::default() });
    let mut turns = Vec::new();
    let mut spent = 0.0;
    for second in 1..=900 {
        let before = hand.decider.saved().long.number;
        hand.second((1, 0, 20), (0, 0, 20));
        if hand.decider.saved().long.number != before {
            turns.push(second);
            spent += hand.decider.doubt_bad(&hand.decider.saved().long);
        }
    }
    assert_eq!(turns, [120, 360, 840]);
    // Of one per cent, for five steps, two kinds, two rules and two arms, one half was for the first window.
    assert!(spent < 0.01 / 5.0 / 2.0 / 4.0 / 2.0, "{spent}");
}

#[test]
fn settings_at_their_edges_do_not_panic() {
    for steps in [vec![], vec![10_000], vec![u32::MAX]] {
        let mut decider = Decider::new(Settings { steps: steps.clone(), ..Settings::default() }, None);
        let decision = decider.tick(0, &Tally::default(), &Tally::default()).unwrap();
        assert_eq!((decision.why.reason, decision.to_bp), (Reason::Promoted, WHOLE_BP), "{steps:?}");
        assert_eq!(decider.tick(1, &Tally::default(), &Tally::default()), None);
    }
    // What a store gave may be nonsense.
    let mut saved = Decider::new(Settings::default(), None).saved().clone();
    saved.long.canary.tally.errors = u64::MAX;
    saved.long.canary.squares = f64::NAN;
    saved.long.number = u32::MAX;
    saved.step_ms = u64::MAX;
    let mut decider = Decider::new(Settings::default(), Some(saved));
    for now_ms in 0..3 {
        let _ = decider.tick(now_ms, &Tally::default(), &Tally::default());
    }
}

#[test]
fn it_says_why() {
    let why = Why {
        reason: Reason::Advanced,
        step: 2,
        steps: 4,
        share_bp: 500,
        to_bp: 2_500,
        canary_requests: 10_000,
        baseline_requests: 100_000,
        requests_min: 100,
        errors: Some(ErrorFigures {
            canary: Share { seen: 0.0021, low: 0.001, high: 0.009 },
            baseline: Share { seen: 0.002, low: 0.0019, high: 0.0021 },
            allowed: 0.012,
        }),
        latency: Some(LatencyFigures {
            quantile: 0.99,
            canary: Span { low_us: 31_000, high_us: 33_000 },
            baseline: Span { low_us: 30_000, high_us: 34_000 },
        }),
        confidence: 0.999,
        good_in_a_row: 3,
        confirm: 3,
        step_ms: 60_000,
        interval_ms: 60_000,
    };
    let check = |why: &Why, words: &str| assert_eq!(why.to_string(), words);
    check(
        &why,
        "step 2 of 4 (5 % -> 25 %): errors 0.21 % (at most 0.9 % with 99.9 % confidence, 1.2 % allowed) \
         against 0.2 %, p99 31-33 ms against 30-34 ms, 3 good verdicts in a row",
    );
    check(
        &Why { reason: Reason::RolledBack, to_bp: 0, good_in_a_row: 0, ..why.clone() },
        "step 2 of 4 (5 % -> 0 %): errors 0.21 % (1.2 % allowed) against 0.2 %, p99 31-33 ms against 30-34 ms",
    );
    let errors = why
        .errors
        .map(|errors| ErrorFigures { canary: Share { seen: 0.05, low: 0.0131, high: 0.1 }, ..errors });
    check(
        &Why { reason: Reason::RolledBack, to_bp: 0, errors, latency: None, good_in_a_row: 0, ..why.clone() },
        "step 2 of 4 (5 % -> 0 %): errors 5 % (at least 1.31 % with 99.9 % confidence, 1.2 % allowed) \
         against 0.2 %",
    );
    let latency = Some(LatencyFigures {
        quantile: 0.999,
        canary: Span { low_us: 0, high_us: u64::MAX },
        baseline: Span { low_us: 120, high_us: 160 },
    });
    check(
        &Why { reason: Reason::Stalled, to_bp: 500, canary_requests: 3, good_in_a_row: 0, ..why.clone() },
        "step 2 of 4 (5 %): 3 requests of the canary, 100 needed; no decision for 60 s",
    );
    check(
        &Why { reason: Reason::Judged, to_bp: 500, errors: None, latency, good_in_a_row: 1, ..why },
        "step 2 of 4 (5 %): p99.9 0 ms or more against 120-160 us, 1 good verdict",
    );
}
