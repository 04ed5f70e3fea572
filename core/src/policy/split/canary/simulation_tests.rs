//! Roll-outs played with drawn requests, second by second. Prints what it found:
//!
//! `cargo test -p ringway --lib policy::split::canary::simulation -- --nocapture --test-threads 1`
//!
//! `RINGWAY_SEED` moves where seeds begin; a failure prints its seed.

use super::{Decider, Decision, Errors, Fault, Outcome, Phase, Reason, Settings, Tally, Verdict};

/// `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(super) struct Draw(pub(super) u64);

impl Draw {
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to below 1.
    #[inline]
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn first_seed() -> u64 {
    std::env::var("RINGWAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// 5 ms and an exponential tail of 5 ms in the mean: the 99th percentile is 28 ms.
fn usual(quantile: f64) -> f64 {
    5_000.0 - 5_000.0 * (1.0 - quantile).ln()
}

/// The slowest twentieth takes three times as long: so does the 99th percentile.
fn dragging(quantile: f64) -> f64 {
    if quantile < 0.95 { usual(quantile) } else { 3.0 * usual(quantile) }
}

/// Latencies at evenly spread quantiles.
fn table(latency: fn(f64) -> f64) -> Vec<u64> {
    (0..4_096).map(|at| latency((f64::from(at) + 0.5) / 4_096.0) as u64).collect()
}

/// What a roll-out did.
struct Played {
    decider: Decider,
    decisions: Vec<Decision>,
    seconds: u64,
    requests: u64,
    errors: u64,
}

impl Played {
    fn count(&self, reason: Reason) -> usize {
        self.decisions.iter().filter(|decision| decision.why.reason == reason).count()
    }

    fn print(&self, title: &str) {
        println!("{title}");
        for Decision { at_ms, from_bp, to_bp, verdict, why } in &self.decisions {
            let (second, reason) = (at_ms / 1_000, why.reason.label());
            println!("  {second:>5} s  {from_bp:>5} -> {to_bp:<5} {reason:<11} [{}] {why}", verdict.label());
        }
    }
}

/// Two arms and their callers.
struct World<E> {
    per_second: u64,
    seconds: u64,
    /// Shares of errors of baseline and canary in a second.
    errors: E,
    latency: [fn(f64) -> f64; 2],
}

impl<E: FnMut(u64, &mut Draw) -> [f64; 2]> World<E> {
    /// Until the roll-out has ended, or the time.
    fn play(mut self, settings: Settings, seed: u64) -> Played {
        let mut draw = Draw(seed.wrapping_mul(0xd134_2543_de82_ef95));
        let tables = self.latency.map(table);
        let mut tallies = [Tally::default(), Tally::default()];
        let mut decider = Decider::new(settings, None);
        let mut decisions: Vec<Decision> = decider.tick(0, &tallies[0], &tallies[1]).into_iter().collect();
        let (mut seconds, mut carry) = (0, 0.0);
        while seconds < self.seconds && matches!(decider.saved().phase, Phase::Trying { .. }) {
            seconds += 1;
            let share = u64::from(decider.share_bp());
            let below = (self.errors)(seconds, &mut draw).map(|share| (share * f64::from(1 << 20)) as u64);
            // Half to one and a half times the usual number.
            carry += self.per_second as f64 * (0.5 + draw.unit());
            let requests = carry as u64;
            carry -= requests as f64;
            for _ in 0..requests {
                let bits = draw.next();
                let arm = usize::from(((bits >> 32) * 10_000) >> 32 < share);
                let outcome = if bits & 0xf_ffff < below[arm] { Outcome::Error } else { Outcome::Success };
                tallies[arm].record(outcome, tables[arm][(bits >> 20) as usize & 0xfff]);
            }
            decisions.extend(decider.tick(seconds * 1_000, &tallies[0], &tallies[1]));
        }
        let requests = tallies[0].requests + tallies[1].requests;
        Played { decider, decisions, seconds, requests, errors: tallies[0].errors + tallies[1].errors }
    }
}

fn constant(baseline: f64, canary: f64) -> impl FnMut(u64, &mut Draw) -> [f64; 2] {
    move |_, _| [baseline, canary]
}

#[test]
fn a_good_one_goes_to_the_end() {
    let mut times = Vec::new();
    for seed in first_seed()..first_seed() + 10 {
        let world = World {
            per_second: 500,
            seconds: 3_600,
            errors: constant(0.001, 0.001),
            latency: [usual, usual],
        };
        let played = world.play(Settings::default(), seed);
        if seed == first_seed() {
            played.print("good, 500 requests a second");
        }
        assert_eq!(played.decider.saved().phase, Phase::Promoted, "seed {seed}");
        let shares: Vec<u32> =
            played.decisions.iter().filter(|d| d.from_bp != d.to_bp).map(|d| d.to_bp).collect();
        assert_eq!(shares, [100, 500, 2_500, 5_000, 10_000], "seed {seed}");
        times.push(played.seconds);
    }
    times.sort_unstable();
    println!("promoted after {times:?} s");
    // Four steps of a minute at least; the first waits for evidence, at five requests a second.
    assert!(times[0] >= 240 && times[9] <= 1_500, "seeds from {}: {times:?}", first_seed());
}

#[test]
fn one_that_fails_is_taken_back_at_once() {
    let mut worst = (0, 0.0_f64);
    for seed in first_seed()..first_seed() + 100 {
        let world =
            World { per_second: 500, seconds: 3_600, errors: constant(0.001, 0.05), latency: [usual, usual] };
        let played = world.play(Settings::default(), seed);
        if seed == first_seed() {
            played.print("5 % errors against 0.1 %");
        }
        assert_eq!(played.decider.saved().phase, Phase::RolledBack, "seed {seed}");
        let last = played.decisions.last().unwrap();
        assert_eq!((last.from_bp, last.to_bp), (100, 0), "seed {seed}");
        let share = played.errors as f64 / played.requests as f64;
        assert!(share < 0.01, "seed {seed}: {share} of all");
        worst = (worst.0.max(played.seconds), worst.1.max(share));
    }
    println!(
        "5 % errors: rolled back within {} s, at most {:.3} % of all requests failed",
        worst.0,
        worst.1 * 100.0
    );
    // 142 s with the usual seeds; other hundreds have had one that took 178.
    assert!(worst.0 <= 300, "{} s", worst.0);
}

#[test]
fn one_that_fails_wholly_is_taken_back_in_seconds() {
    for seed in first_seed()..first_seed() + 100 {
        let world =
            World { per_second: 500, seconds: 600, errors: constant(0.001, 1.0), latency: [usual, usual] };
        let played = world.play(Settings::default(), seed);
        assert_eq!(played.decider.saved().phase, Phase::RolledBack, "seed {seed}");
        assert!(played.seconds <= 8, "seed {seed}: {} s", played.seconds);
    }
}

#[test]
fn one_that_drags_is_taken_back() {
    let mut seconds = Vec::new();
    for seed in first_seed()..first_seed() + 20 {
        let world = World {
            per_second: 500,
            seconds: 3_600,
            errors: constant(0.001, 0.001),
            latency: [usual, dragging],
        };
        let played = world.play(Settings::default(), seed);
        if seed == first_seed() {
            played.print("p99 three times as long");
        }
        let last = played.decisions.last().unwrap();
        assert_eq!(last.verdict, Verdict::Bad(Fault::Latency), "seed {seed}");
        assert_eq!((last.from_bp, last.to_bp), (100, 0), "seed {seed}");
        seconds.push(played.seconds);
    }
    seconds.sort_unstable();
    println!("p99 three times as long: rolled back after {seconds:?} s");
    assert!(seconds[19] <= 240, "{seconds:?}");
}

#[test]
fn one_that_turns_bad_later_is_taken_back() {
    let seed = first_seed();
    let world = World {
        per_second: 500,
        seconds: 3_600,
        errors: |second, _: &mut Draw| if second < 400 { [0.001, 0.001] } else { [0.001, 0.05] },
        latency: [usual, usual],
    };
    let settings = Settings { interval_ms: 600_000, steps: vec![2_500], ..Settings::default() };
    let played = world.play(settings, seed);
    played.print("5 % errors from second 400 on");
    assert_eq!(played.decider.saved().phase, Phase::RolledBack, "seed {seed}");
    assert!(played.seconds <= 440, "seed {seed}: {} s", played.seconds);
}

#[test]
fn what_befalls_both_is_not_laid_to_the_canary() {
    for seed in first_seed()..first_seed() + 20 {
        let world = World {
            per_second: 500,
            seconds: 300,
            errors: constant(0.2, 0.2),
            latency: [dragging, dragging],
        };
        let played = world.play(Settings::default(), seed);
        assert_eq!(played.decider.saved().phase, Phase::Trying { share_bp: 100 }, "seed {seed}");
        assert_eq!(played.decider.saved().verdict, Verdict::Unclear(super::Lack::BothFail), "seed {seed}");
    }
}

#[test]
fn a_noisy_one_neither_flaps_nor_advances() {
    // One percentage point above the baseline is allowed. The canary's errors are that and a little in the mean, but all in
    // bursts, a sixth of the time. Requests in a burst are not independent: the longer bursts are, the more often one
    // has hardly any for as long as an interval and seems good for that time. It must not go on to the end.
    let check = |burst_s: u64, seeds: u64, advanced_max: usize| {
        let (mut rolled_back, mut advanced) = (0, 0);
        for seed in first_seed()..first_seed() + seeds {
            let mut left = 0_u64;
            let errors = move |_: u64, draw: &mut Draw| {
                if left == 0 && draw.unit() < 1.0 / (5 * burst_s) as f64 {
                    left = burst_s + 1;
                }
                left = left.saturating_sub(1);
                [0.001, if left > 0 { 0.06 } else { 0.002 }]
            };
            let world = World { per_second: 500, seconds: 600, errors, latency: [usual, usual] };
            let played = world.play(Settings::default(), seed);
            assert_eq!(played.count(Reason::Promoted), 0, "seed {seed}");
            let mut kinds: Vec<_> = played
                .decisions
                .iter()
                .map(|d| (d.why.step, d.why.reason.label(), d.verdict.label()))
                .collect();
            kinds.sort_unstable();
            assert!(kinds.windows(2).all(|pair| pair[0] != pair[1]), "seed {seed}: {kinds:?}");
            advanced += played.count(Reason::Advanced);
            rolled_back += played.count(Reason::RolledBack);
        }
        println!("bursts of {burst_s} s, {seeds} seeds: {rolled_back} rolled back, {advanced} steps forward");
        assert!(advanced <= advanced_max, "seeds from {}: {advanced}", first_seed());
    };
    check(1, 40, 1);
    check(3, 40, 1);
}

#[test]
fn one_as_good_as_the_baseline_is_not_taken_back() {
    let (mut back, mut promoted) = (0, 0);
    for seed in first_seed()..first_seed() + 200 {
        // No room at all: it may have no more errors than the baseline, and 1 % are many. Latency: a twentieth more.
        let settings = Settings {
            interval_ms: 20_000,
            errors: Some(Errors { share_max: 1.0, above_baseline_max: 0.0 }),
            latency: Some(super::Latency { quantile: 0.9, times_max: 1.0, floor_us: 0 }),
            ..Settings::default()
        };
        let world =
            World { per_second: 600, seconds: 100, errors: constant(0.01, 0.01), latency: [usual, usual] };
        let played = world.play(Settings { steps: vec![5_000], ..settings }, seed);
        back += played.count(Reason::RolledBack);
        promoted += played.count(Reason::Promoted);
    }
    println!("A/A without any room, 200 seeds x 100 looks: {back} rolled back, {promoted} promoted");
    assert!(back <= 2, "seeds from {}", first_seed());
}

#[test]
fn bursts_that_befall_both_take_none_back() {
    let mut back = 0;
    for seed in first_seed()..first_seed() + 200 {
        let mut left = 0_u64;
        let errors = move |_: u64, draw: &mut Draw| {
            if left == 0 && draw.unit() < 0.02 {
                left = 10;
            }
            left = left.saturating_sub(1);
            [if left > 0 { 0.2 } else { 0.002 }; 2]
        };
        let settings = Settings {
            steps: vec![1_000],
            errors: Some(Errors { share_max: 1.0, above_baseline_max: 0.002 }),
            ..Settings::default()
        };
        let world = World { per_second: 200, seconds: 300, errors, latency: [usual, usual] };
        back += world.play(settings, seed).count(Reason::RolledBack);
    }
    println!("A/A, bursts of 20 % errors in both, 200 seeds: {back} rolled back");
    assert!(back <= 2, "seeds from {}", first_seed());
}

#[test]
fn a_whole_roll_out_of_one_as_good_is_not_taken_back() {
    whole_roll_outs(0);
}

/// In two halves, so that neither takes long.
#[test]
fn nor_is_another_hundred() {
    whole_roll_outs(100);
}

fn whole_roll_outs(from: u64) {
    let (mut back, mut promoted, mut looks) = (0, 0, 0);
    for seed in first_seed() + from..first_seed() + from + 100 {
        let world = World {
            per_second: 500,
            seconds: 2_400,
            errors: constant(0.005, 0.005),
            latency: [usual, usual],
        };
        let played = world.play(Settings::default(), seed);
        back += played.count(Reason::RolledBack);
        promoted += played.count(Reason::Promoted);
        looks += played.seconds;
    }
    println!("A/A, whole roll-outs, 100 seeds, {looks} looks: {back} rolled back, {promoted} promoted");
    assert!(back <= 1, "seeds from {}", first_seed());
    assert!(promoted >= 95, "seeds from {}: {promoted}", first_seed());
}

#[test]
fn one_just_beyond_the_bound_is_not_promoted() {
    // At the bound and a twentieth of it beyond: the hardest to tell.
    let (mut past, mut back) = (0, 0);
    for seed in first_seed()..first_seed() + 100 {
        let world =
            World { per_second: 200, seconds: 600, errors: constant(0.01, 0.0205), latency: [usual, usual] };
        let settings = Settings { steps: vec![5_000], ..Settings::default() };
        let played = world.play(settings, seed);
        past += played.count(Reason::Promoted);
        back += played.count(Reason::RolledBack);
    }
    println!("2.05 % errors where 2 % are allowed, 100 seeds: {past} promoted, {back} rolled back");
    assert!(past <= 5, "seeds from {}: {past}", first_seed());
}

#[test]
fn a_quiet_one_holds_and_says_so() {
    let seed = first_seed();
    // A request of the canary every two minutes.
    let world =
        World { per_second: 1, seconds: 7_200, errors: constant(0.001, 0.001), latency: [usual, usual] };
    let played = world.play(Settings::default(), seed);
    played.print("1 request a second");
    assert_eq!(played.decider.saved().phase, Phase::Trying { share_bp: 100 }, "seed {seed}");
    let reasons: Vec<_> = played.decisions.iter().map(|d| d.why.reason).collect();
    assert_eq!(reasons, [Reason::Started, Reason::Stalled], "seed {seed}");
    assert!(
        played.decisions[1].why.to_string().contains("requests of the canary, 100 needed"),
        "seed {seed}"
    );
}
