//! Decisions, one worker or two at a time; the protocol under load is in `simulation_tests` and `loom_tests`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::simulation_tests::Draw;
use super::table::{SEATS, Table};
use super::*;
use crate::base::limits::RATE_LIMITS_PER_REQUEST_MAX;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn rate(count: u32, window_ms: u64, burst: u32) -> Rate {
    Rate::new(count, Duration::from_millis(window_ms), burst).unwrap()
}

fn hasher() -> KeyHasher {
    KeyHasher::new([3, 4])
}

fn rule(name: &str, rate: Rate) -> Rule {
    Rule::new(name, &hasher(), rate, Vec::new())
}

fn of<'a>(rule: &'a Rule, key: &'a str, cost: u32) -> Check<'a> {
    Check { rule, key: hasher().key(rule.id, &[key.as_bytes()]), cost }
}

fn one_worker() -> (Arc<Node>, Worker) {
    let node = Arc::new(Node::new(1, 1_000));
    (Arc::clone(&node), Worker::new(node, 64))
}

fn admits(worker: &mut Worker, checks: &[Check<'_>], now_ns: u64) -> bool {
    worker.check(checks, now_ns).verdict == Verdict::Admit
}

fn retry_after(wait_ns: u64) -> Verdict {
    Verdict::Reject { retry_after_ns: Some(wait_ns) }
}

#[test]
fn rates_that_are_none() {
    for (count, window_ms, burst, expected) in [
        (0, 1_000, 1, Err(RateRefusal::Zero)),
        (1, 1_000, 0, Err(RateRefusal::NoBurst)),
        (1, 0, 1, Err(RateRefusal::Window)),
        (1, 31 * 86_400_000, 1, Err(RateRefusal::Window)),
        (2_500_001, 1_000, 1, Err(RateRefusal::TooFast)),
        (2_500_000, 1_000, u32::MAX, Ok(100)),
        (3, 1_000, 1, Ok(83_333_334)),
        (1, 30 * 86_400_000, 1, Ok(648_000_000_000_000)),
        (1, 30 * 86_400_000, 1_000, Err(RateRefusal::TooSlow)),
    ] {
        let got = Rate::new(count, Duration::from_millis(window_ms), burst);
        assert_eq!(got.map(|rate| rate.interval_ticks()), expected, "{count} each {window_ms} ms, {burst}");
    }
    assert!(RateRefusal::Zero.to_string().contains("use deny"));
}

#[test]
fn a_table_of_moments() {
    let (_, mut worker) = one_worker();
    let two_a_second = rule("r", rate(2, 1_000, 3));
    for (at_ns, cost, verdict, left) in [
        (SECOND, 2, Verdict::Admit, 1),
        (SECOND, 2, retry_after(SECOND / 2), 1),
        (SECOND, 1, Verdict::Admit, 0),
        (SECOND, 4, Verdict::Reject { retry_after_ns: None }, 0),
        (SECOND, 0, Verdict::Admit, 0),
        (SECOND * 3 / 2 - 4, 1, retry_after(4), 0),
        (SECOND * 3 / 2, 1, Verdict::Admit, 0),
        (SECOND, 1, retry_after(SECOND / 2), 0),
        (100 * SECOND, 3, Verdict::Admit, 0),
        (u64::MAX, 1, Verdict::Reject { retry_after_ns: None }, 3),
    ] {
        let outcome = worker.check(&[of(&two_a_second, "k", cost)], at_ns);
        assert_eq!((outcome.verdict, outcome.remaining()), (verdict, left), "{cost} at {at_ns}");
    }
    let mut counts = worker.counts();
    counts.visits = 0;
    assert_eq!(counts, Counts { admitted: 5, rejected: 5, ..Counts::default() });
}

#[test]
fn a_refused_request_costs_nothing_and_the_strictest_limit_answers() {
    let (node, mut worker) = one_worker();
    let (wide, narrow, slow) = (
        rule("wide", rate(1_000, 1_000, 5_000)),
        rule("narrow", rate(1, 1_000, 2)),
        rule("slow", rate(1, 60_000, 3)),
    );
    let checks = [of(&wide, "k", 1), of(&narrow, "k", 1), of(&slow, "k", 1)];
    for left in [1, 0] {
        let outcome = worker.check(&checks, SECOND);
        assert_eq!((outcome.verdict, outcome.strictest, outcome.remaining()), (Verdict::Admit, 1, left));
    }
    for _ in 0..1_000 {
        let outcome = worker.check(&checks, SECOND);
        assert_eq!((outcome.verdict, outcome.strictest), (retry_after(SECOND), 1));
    }
    worker.release();
    assert_eq!(node.state(&wide, checks[0].key, SECOND).tokens, 4_998);
    assert_eq!(node.state(&slow, checks[2].key, SECOND).tokens, 1);
    assert!(admits(&mut worker, &checks, 2 * SECOND));
    // Both refuse: the one with the longer wait answers, in whatever order they stand.
    for (checks, strictest) in [(checks, 2), ([checks[2], checks[0], checks[1]], 0)] {
        let outcome = worker.check(&checks, 2 * SECOND);
        assert_eq!((outcome.verdict, outcome.strictest), (retry_after(59 * SECOND), strictest));
    }
    let many = vec![of(&wide, "other", 1); RATE_LIMITS_PER_REQUEST_MAX + 1];
    assert!(!admits(&mut worker, &many, SECOND), "more than fit is not less than all");
    assert!(admits(&mut worker, &[], SECOND));
}

#[test]
fn leased_tokens_go_back_when_another_limit_refuses() {
    let (node, mut worker) = one_worker();
    let (wide, narrow) = (rule("wide", rate(1_000, 1_000, 5_000)), rule("narrow", rate(1, 1_000, 1)));
    let checks = [of(&wide, "k", 1), of(&narrow, "k", 1)];
    // The first limit's key is warm: the worker holds tokens of it.
    for _ in 0..20 {
        assert!(admits(&mut worker, &checks[..1], SECOND));
    }
    assert!(node.state(&wide, checks[0].key, SECOND).held > 0);
    assert!(admits(&mut worker, &checks, SECOND));
    for _ in 0..500 {
        assert!(!admits(&mut worker, &checks, SECOND));
    }
    worker.release();
    let state = node.state(&wide, checks[0].key, SECOND);
    assert_eq!((state.tokens, state.held), (5_000 - 21, 0));
}

#[test]
fn a_shadow_only_counts() {
    let (_, mut worker) = one_worker();
    let mut shadow = rule("shadow", rate(1, 1_000, 1));
    shadow.mode = Mode::Shadow;
    shadow.on_excess = OnExcess::Delay { wait_ms_max: 60_000 };
    let real = rule("real", rate(1, 1_000, 4));
    for (checks, bit) in
        [([of(&shadow, "k", 1), of(&real, "k", 1)], 0), ([of(&real, "l", 1), of(&shadow, "l", 1)], 1)]
    {
        for (i, expected) in [0, 1 << bit, 1 << bit, 1 << bit].into_iter().enumerate() {
            let outcome = worker.check(&checks, SECOND);
            assert_eq!((outcome.verdict, outcome.shadow_refused), (Verdict::Admit, expected), "request {i}");
            assert_eq!(checks[outcome.strictest].rule.name, real.name);
        }
        assert!(!admits(&mut worker, &checks, SECOND));
    }
    assert!(worker.counts().shadow_refused >= 6);
}

/// What clients are told: the time until there is a token more, and to the refused until they may come again.
#[test]
fn the_next_token_is_told() {
    let (_, mut worker) = one_worker();
    // A token each 6 minutes.
    let hundred = rule("r", rate(100, 36_000_000, 100));
    let token_ns = 360 * SECOND;
    let mut ask = |cost, at_ns| {
        let outcome = worker.check(&[of(&hundred, "k", cost)], at_ns);
        (outcome.remaining(), outcome.more_in_ns())
    };
    assert_eq!(ask(0, SECOND), (100, None), "full");
    assert_eq!(ask(1, SECOND), (99, Some(token_ns)));
    assert_eq!(ask(0, SECOND + token_ns / 4), (99, Some(token_ns * 3 / 4)));
    assert_eq!(ask(99, SECOND + token_ns / 4), (0, Some(token_ns * 3 / 4)));
    assert_eq!(ask(1, SECOND + token_ns / 4), (0, Some(token_ns * 3 / 4)));
    assert_eq!(
        ask(3, SECOND + token_ns * 3 / 2),
        (1, Some(token_ns * 3 / 2)),
        "refused, until three are there"
    );
    let mut shaped = rule("shaped", rate(10, 1_000, 1));
    shaped.on_excess = OnExcess::Delay { wait_ms_max: 250 };
    let told: Vec<_> = (0..3)
        .map(|_| worker.check(&[of(&shaped, "k", 1)], 36_000 * SECOND).more_in_ns().unwrap() / MS)
        .collect();
    assert_eq!(told, [100, 200, 300]);
}

#[test]
fn too_early_requests_wait_their_turn() {
    let (_, mut worker) = one_worker();
    let mut shaped = rule("shaped", rate(10, 1_000, 1));
    shaped.on_excess = OnExcess::Delay { wait_ms_max: 250 };
    let check = [of(&shaped, "k", 1)];
    for wait_ms in [0, 100, 200] {
        let expected = if wait_ms == 0 { Verdict::Admit } else { Verdict::Delay { wait_ns: wait_ms * MS } };
        assert_eq!(worker.check(&check, SECOND).verdict, expected);
    }
    assert_eq!(worker.check(&check, SECOND).verdict, retry_after(300 * MS));
    assert_eq!(worker.check(&check, SECOND + 60 * MS).verdict, Verdict::Delay { wait_ns: 240 * MS });
    // Several: the longest wait, and a refusal takes no one's place in the queue.
    let strict = rule("strict", rate(1, 1_000, 1));
    let both = [of(&shaped, "m", 1), of(&strict, "m", 1)];
    assert!(admits(&mut worker, &both, 2 * SECOND));
    assert_eq!(worker.check(&both, 2 * SECOND).verdict, retry_after(SECOND));
    assert_eq!(worker.check(&both[..1], 2 * SECOND).verdict, Verdict::Delay { wait_ns: 100 * MS });
}

#[test]
fn costs_that_are_known_afterwards_are_owed() {
    let (node, mut worker) = one_worker();
    let by_response = rule("bytes", rate(10, 1_000, 10));
    let before = [of(&by_response, "k", 0)];
    let state = |node: &Node, at| node.state(&by_response, before[0].key, at).tokens;
    assert!(admits(&mut worker, &before, SECOND));
    worker.charge(&of(&by_response, "k", 25), SECOND);
    assert_eq!(state(&node, SECOND), -15);
    assert_eq!(worker.check(&before, SECOND).verdict, retry_after(SECOND * 3 / 2));
    assert!(admits(&mut worker, &before, SECOND * 5 / 2));
    worker.charge(&of(&by_response, "k", u32::MAX), SECOND * 5 / 2);
    assert_eq!(state(&node, SECOND * 5 / 2), -30 * 86_400 * 10, "30 days and no more");
    worker.charge(&of(&by_response, "fresh", 0), SECOND);
    worker.charge(&of(&by_response, "fresh", 3), SECOND * 5 / 2);
    assert!(!admits(&mut worker, &[of(&by_response, "fresh", 8)], SECOND * 5 / 2));
    assert!(admits(&mut worker, &[of(&by_response, "fresh", 7)], SECOND * 5 / 2));
    assert_eq!(worker.counts().uncharged, 0);
}

#[test]
fn the_state_of_a_key_and_its_reset() {
    let (node, mut worker) = one_worker();
    let daily = rule("daily", rate(1, 86_400_000, 2));
    let check = [of(&daily, "k", 1)];
    let full = KeyState { tokens: 2, held: 0, full_in_ns: 0, shared: false };
    assert_eq!(node.state(&daily, check[0].key, SECOND), full);
    assert!(!node.reset(&daily, check[0].key, SECOND), "nothing to reset");
    assert!(admits(&mut worker, &check, SECOND) && admits(&mut worker, &check, SECOND));
    assert!(!admits(&mut worker, &check, SECOND));
    let state = node.state(&daily, check[0].key, SECOND);
    assert_eq!((state.tokens, state.full_in_ns), (0, 2 * 86_400 * SECOND));
    assert_eq!(node.keys_in_use(SECOND), 1);
    assert!(node.reset(&daily, check[0].key, SECOND));
    assert_eq!(node.state(&daily, check[0].key, SECOND), full);
    let soon = SECOND + LEASE_IDLE_NS;
    assert!(admits(&mut worker, &check, soon) && admits(&mut worker, &check, soon));
    assert!(!admits(&mut worker, &check, soon));
}

#[test]
fn a_reset_leaves_out_what_workers_hold() {
    let (node, mut worker) = one_worker();
    let wide = rule("wide", rate(1_000, 1_000, 5_000));
    let check = [of(&wide, "k", 1)];
    for _ in 0..3_000 {
        assert!(admits(&mut worker, &check, SECOND));
    }
    let held = node.state(&wide, check[0].key, SECOND).held;
    assert!(held > 0);
    assert!(node.reset(&wide, check[0].key, SECOND));
    assert_eq!(node.state(&wide, check[0].key, SECOND).tokens, 5_000 - i64::from(held));
    let more = (0..6_000).filter(|_| admits(&mut worker, &check, SECOND)).count();
    assert!(more <= 5_000, "{more}");
}

/// A limit's rate as reloads change it.
struct Reloads {
    revisions: Revisions,
    now_ns: u64,
}

impl Reloads {
    fn new() -> Self {
        Self { revisions: Revisions::default(), now_ns: SECOND }
    }

    fn rule(&mut self, rate: Rate) -> Rule {
        let revision = self.revisions.take_over([("r", rate)].into_iter(), &hasher(), self.now_ns);
        rule("r", rate).counted_by(&revision[0])
    }
}

fn admitted(worker: &mut Worker, rule: &Rule, now_ns: u64) -> u32 {
    let mut count = 0;
    while admits(worker, &[of(rule, "k", 1)], now_ns) {
        count += 1;
    }
    count
}

const DAY: u64 = 86_400_000;

#[test]
fn a_reload_keeps_the_share_that_was_used() {
    for (before, used, after, left) in [
        (rate(100, DAY, 100), 100, rate(100, 60_000, 100), 0),
        (rate(100, 60_000, 100), 100, rate(100, DAY, 100), 0),
        (rate(100, DAY, 100), 50, rate(100, 60_000, 100), 50),
        (rate(100, 60_000, 100), 50, rate(100, DAY, 100), 50),
        (rate(1, 1_000, 10), 6, rate(1, 1_000, 20), 8),
        (rate(1, 1_000, 10), 6, rate(10, 1_000, 100), 40),
        (rate(1, 1_000, 10), 6, rate(10, 1_000, 10), 4),
        (rate(10, 1_000, 10), 6, rate(1, 1_000, 10), 4),
        (rate(1, 1_000, 10), 6, rate(1, 1_000, 5), 2),
        (rate(2_500_000, 1_000, 1), 1, rate(1, 1_000, 1_000), 0),
        (rate(1, 1_000, 1_000), 500, rate(2_500_000, 1_000, 2), 1),
    ] {
        let (_, mut worker) = one_worker();
        let mut reloads = Reloads::new();
        let old = reloads.rule(before);
        for _ in 0..used {
            assert!(admits(&mut worker, &[of(&old, "k", 1)], SECOND));
        }
        worker.release();
        let new = reloads.rule(after);
        assert_eq!(admitted(&mut worker, &new, SECOND), left, "{used} of {before:?}, then {after:?}");
        let Verdict::Reject { retry_after_ns: Some(wait_ns) } =
            worker.check(&[of(&new, "k", 1)], SECOND).verdict
        else {
            panic!("there is nothing left")
        };
        let token_ns = lease::nanoseconds(after.interval_ticks());
        assert!(wait_ns <= token_ns, "{before:?}, then {after:?}: {wait_ns} ns");
        // After the time that it takes to fill, nothing is left of the old rate.
        let full_ns = SECOND + lease::nanoseconds(after.fill_ticks());
        assert_eq!(admitted(&mut worker, &new, full_ns), after.burst(), "{before:?}, then {after:?}");
    }
}

#[test]
fn debt_beyond_the_bucket_is_forgiven_when_the_rate_changes() {
    let (node, mut worker) = one_worker();
    let mut reloads = Reloads::new();
    let old = reloads.rule(rate(10, DAY, 10));
    worker.charge(&of(&old, "k", 10_000), SECOND);
    let new = reloads.rule(rate(10, 60_000, 10));
    assert_eq!(node.state(&new, of(&new, "k", 1).key, SECOND).tokens, 0);
    assert_eq!(worker.check(&[of(&new, "k", 1)], SECOND).verdict, retry_after(6 * SECOND));
}

/// What was used is carried over from the moment of the reload, whenever the key comes again.
#[test]
fn a_key_that_comes_long_after_a_reload_has_waited_under_the_new_rate() {
    for (seconds_later, expected) in [(0, 0), (30, 50), (60, 100), (3_600, 100)] {
        let (node, mut worker) = one_worker();
        let mut reloads = Reloads::new();
        let old = reloads.rule(rate(100, DAY, 100));
        assert_eq!(admitted(&mut worker, &old, SECOND), 100);
        // Two reloads while the key is away: 1,000 an hour for no time, then 100 a minute.
        reloads.rule(rate(1_000, 3_600_000, 1_000));
        let new = reloads.rule(rate(100, 60_000, 100));
        let now_ns = SECOND + seconds_later * SECOND;
        assert_eq!(node.state(&new, of(&new, "k", 1).key, now_ns).tokens, i64::from(expected));
        assert_eq!(admitted(&mut worker, &new, now_ns), expected, "{seconds_later} s later");
    }
}

/// A request that came before a reload asks by the rate that it was given, of a bucket that another worker has carried over.
#[test]
fn workers_that_take_a_reload_over_one_after_the_other_count_in_one_bucket() {
    for (before, after) in
        [(rate(100, DAY, 100), rate(100, 60_000, 100)), (rate(100, 60_000, 100), rate(1_000, DAY, 1_000))]
    {
        let node = Arc::new(Node::new(2, 1_000));
        let [mut ahead, mut behind] = [0, 1].map(|_| Worker::new(Arc::clone(&node), 64));
        let mut reloads = Reloads::new();
        let old = reloads.rule(before);
        for _ in 0..20 {
            assert!(admits(&mut behind, &[of(&old, "k", 1)], SECOND));
        }
        let new = reloads.rule(after);
        ahead.release();
        let share = after.burst() / 100;
        for _ in 0..30 * share {
            assert!(admits(&mut ahead, &[of(&new, "k", 1)], SECOND));
        }
        ahead.release();
        // A response that says afterwards what its request took.
        behind.charge(&of(&old, "k", 10 * share), SECOND);
        assert_eq!(admitted(&mut behind, &old, SECOND), 40 * share);
        assert_eq!(admitted(&mut ahead, &new, SECOND), 0);
        behind.release();
        assert_eq!(node.state(&new, of(&new, "k", 1).key, SECOND).held, 0);
        assert_eq!(behind.counts().busy, 0);
    }
}

#[test]
fn a_lease_that_is_out_when_the_rate_changes_comes_back() {
    let node = Arc::new(Node::new(2, 1_000));
    let [mut ahead, mut behind] = [0, 1].map(|_| Worker::new(Arc::clone(&node), 64));
    let mut reloads = Reloads::new();
    let old = reloads.rule(rate(1, 1_000, 5_000));
    for _ in 0..1_000 {
        assert!(admits(&mut behind, &[of(&old, "k", 1)], SECOND));
    }
    let held = node.state(&old, of(&old, "k", 1).key, SECOND).held;
    assert!(held > 0);
    let new = reloads.rule(rate(1, 1_000, 10_000));
    let left = admitted(&mut ahead, &new, SECOND);
    assert!((8_000 - 2 * held - 2..=8_000).contains(&left), "{left}, {held} held");
    behind.release();
    ahead.release();
    let state = node.state(&new, of(&new, "k", 1).key, SECOND);
    assert_eq!((state.held, state.tokens), (0, 0));
}

#[test]
fn a_limit_that_comes_back_is_what_it_was_until_its_buckets_are_full() {
    for (away_s, expected) in [(0, 0), (5, 5), (10, 10), (3_600, 10)] {
        let (_, mut worker) = one_worker();
        let mut reloads = Reloads::new();
        let old = reloads.rule(rate(1, 1_000, 10));
        assert_eq!(admitted(&mut worker, &old, SECOND), 10);
        reloads.revisions.take_over(std::iter::empty(), &hasher(), SECOND);
        reloads.now_ns = SECOND + away_s * SECOND;
        let new = reloads.rule(rate(1, 1_000, 10));
        assert_eq!(admitted(&mut worker, &new, reloads.now_ns), expected, "{away_s} s away");
        let again = reloads.rule(rate(2, 1_000, 20));
        assert_eq!(admitted(&mut worker, &again, reloads.now_ns), 0, "{away_s} s away");
    }
}

/// However often the rate changes, no word is read by a rate that it was not written by.
#[test]
fn revisions_run_out_without_being_mixed_up() {
    let (_, mut worker) = one_worker();
    let mut reloads = Reloads::new();
    let old = reloads.rule(rate(100, DAY, 100));
    assert_eq!(admitted(&mut worker, &old, SECOND), 100);
    let mut ids = std::collections::HashSet::new();
    for i in 0..600_u32 {
        let rate = rate(100 + i % 2, 60_000 + u64::from(i), 100);
        let rule = reloads.rule(rate);
        assert!(ids.insert(format!("{:?}", rule.id)), "{i}");
        let got = admitted(&mut worker, &rule, SECOND);
        let begins_anew = i + 1 == 256 || i + 1 == 512;
        assert_eq!(got, if begins_anew { 100 } else { 0 }, "change {i}");
    }
}

#[test]
fn limits_that_are_gone_are_kept_in_mind_up_to_a_bound() {
    let mut revisions = Revisions::default();
    let slow = rate(1, DAY, 100);
    let names: Vec<String> =
        (0..3 * crate::base::limits::RATE_LIMITS_GONE_MAX).map(|i| i.to_string()).collect();
    let first = revisions.take_over(names.iter().map(|name| (&**name, slow)), &hasher(), SECOND);
    let same = revisions.take_over(names.iter().map(|name| (&**name, slow)), &hasher(), SECOND);
    assert_eq!(first, same);
    for at in 1..=names.len() {
        let left = names[at..].iter().map(|name| (&**name, slow));
        revisions.take_over(left, &hasher(), SECOND + at as u64);
    }
    let last = names.last().unwrap();
    let known = |revisions: &mut Revisions, name: &str, was: &Revision| {
        *revisions.take_over([(name, slow)].into_iter(), &hasher(), DAY * MS)[0] == *was
    };
    assert!(known(&mut revisions, last, first.last().unwrap()));
    assert!(!known(&mut revisions, &names[0], &first[0]), "the longest gone begins anew");
}

#[test]
fn another_size_of_the_table_takes_over_what_was_counted() {
    let (old, mut worker) = one_worker();
    let wide = rule("wide", rate(1, 1_000, 5_000));
    for _ in 0..1_000 {
        assert!(admits(&mut worker, &[of(&wide, "k", 1)], SECOND));
    }
    for i in 0..500 {
        assert!(admits(&mut worker, &[of(&wide, &i.to_string(), 2_000)], SECOND));
    }
    let new = Arc::new(Node::new(1, 10_000));
    new.take_over(&old, SECOND);
    let state = |key: &str| new.state(&wide, of(&wide, key, 1).key, SECOND);
    assert!((4_000 - 64..=4_000).contains(&state("k").tokens), "{:?}", state("k"));
    assert_eq!(state("k").held, 0);
    for i in 0..500 {
        assert_eq!(
            state(&i.to_string()),
            KeyState { tokens: 3_000, held: 0, full_in_ns: 2_000 * SECOND, shared: false }
        );
    }
    assert_eq!(new.keys_in_use(SECOND), 501);
    // What is full again needs no seat.
    let later = Node::new(1, 10_000);
    later.take_over(&old, 3_000 * SECOND);
    assert_eq!(later.keys_in_use(SECOND), 0);
}

#[test]
fn a_set_is_two_lines_wherever_its_memory_is() {
    for keys in [0, 1, 7, 8, 1_000] {
        let mut asked = Vec::new();
        let table: Table = Table::within(keys, 3, |words| {
            asked.push(words);
            (0..words).map(|_| AtomicU64::new(0)).collect()
        });
        let sets = keys.div_ceil(SEATS).max(1);
        assert_eq!(asked, [sets * 16 + 15, 8], "{keys}");
        assert_eq!(table.bytes(), asked.iter().sum::<usize>() * 8, "{keys}");
        for set in 0..sets {
            let [first, last] = [0, SEATS - 1].map(|i| table.at((set * SEATS + i) as u32));
            let [first, last] = [first, last].map(|word| std::ptr::from_ref(word).addr() % 128);
            // Behind the floor, the keys and the lock.
            assert_eq!([first, last], [9 * 8, 15 * 8], "{keys}");
        }
    }
}

#[test]
fn what_is_not_used_goes_back() {
    let node = Arc::new(Node::new(2, 100));
    let (mut one, mut two) = (Worker::new(Arc::clone(&node), 64), Worker::new(Arc::clone(&node), 64));
    let wide = rule("wide", rate(1, 1_000, 2_000));
    let check = [of(&wide, "k", 1)];
    for _ in 0..100 {
        assert!(admits(&mut one, &check, SECOND));
    }
    let held = node.state(&wide, check[0].key, SECOND).held;
    assert!((1..=10).contains(&held), "a hundredth of the burst for each of two: {held}");
    assert!(one.counts().visits < 20, "{:?}", one.counts());
    one.tick(SECOND + LEASE_IDLE_NS - 4);
    assert_eq!(node.state(&wide, check[0].key, SECOND).held, held);
    one.tick(SECOND + LEASE_IDLE_NS);
    assert_eq!(node.state(&wide, check[0].key, SECOND).held, 0);
    let rest = (0..3_000).filter(|_| admits(&mut two, &check, SECOND + LEASE_IDLE_NS)).count();
    assert_eq!(rest, 1_900, "not a token was lost");
}

#[test]
fn a_refused_key_is_refused_without_asking() {
    let (_, mut worker) = one_worker();
    let slow = rule("slow", rate(1, 1_000, 1));
    let check = [of(&slow, "k", 1)];
    assert!(admits(&mut worker, &check, SECOND));
    let visits = worker.counts().visits;
    for i in 0..100_000 {
        assert!(!admits(&mut worker, &check, SECOND + i * 40));
    }
    assert!(worker.counts().visits - visits <= 2, "{:?}", worker.counts());
}

/// A flood of keys, more than there are seats or not: honest keys with a seat get exactly their due; those that come during
/// the flood get no more than it, and exactly it if there are seats for all (with far too few, next to nothing). `RINGWAY_FLOOD` says how many keys.
#[test]
fn a_flood_of_keys() {
    let flood: u64 = std::env::var("RINGWAY_FLOOD").map_or(300_000, |n| n.parse().expect("a number"));
    for (seats, enough) in [(flood * 3 / 2, true), (flood / 20, false)] {
        let node = Arc::new(Node::new(1, seats as usize));
        let bytes = node.bytes();
        let mut worker = Worker::new(Arc::clone(&node), 8_192);
        let minutely = rule("r", rate(60, 60_000, 10));
        let honest = |i: u64| KeyHash::of((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let check = |hash| [Check { rule: &minutely, key: hash, cost: 1 }];
        let (early, late) = (0..100, 100..200_u64);
        let mut admitted = [0_u64; 200];
        let mut draw = Draw(7);
        for i in early.clone() {
            admitted[i as usize] += u64::from(admits(&mut worker, &check(honest(i)), SECOND));
        }
        // Ten seconds; each honest key asks ten times a second, from the start or from the middle on.
        for step in 0..100 {
            let now = SECOND + step * SECOND / 10;
            for _ in 0..flood / 100 {
                worker.check(&check(KeyHash::of(draw.next())), now);
            }
            let awake = if step < 50 { early.clone() } else { 0..late.end };
            for i in awake {
                admitted[i as usize] += u64::from(admits(&mut worker, &check(honest(i)), now));
            }
        }
        let due = |i: u64| if i < 100 { 10 + 9 } else { 10 + 4 };
        for i in 0..200 {
            let got = admitted[i as usize];
            assert!(got <= due(i), "key {i}: {got} of {}", due(i));
            assert!(got == due(i) || !(enough || i < 100), "key {i}: {got} of {}", due(i));
        }
        let late_share = admitted[100..].iter().sum::<u64>() as f64 / (14.0 * 100.0);
        println!(
            "{flood} keys, {seats} seats, {bytes} bytes: shared {}, keys that came late got {late_share:.3}",
            worker.counts().shared
        );
        assert_eq!(node.bytes(), bytes);
        assert_eq!(enough, worker.counts().shared == 0);
    }
}

/// Nobody escapes by being forgotten: a key that floods the table itself and comes back gets its due, not more.
#[test]
fn eviction_is_no_escape() {
    let node = Arc::new(Node::new(1, 70));
    let mut worker = Worker::new(Arc::clone(&node), 16);
    let slow = rule("slow", rate(1, 1_000, 2));
    let hash = |i: u64| hasher().key(slow.id, &[&i.to_le_bytes()]);
    let check = |i| [Check { rule: &slow, key: hash(i), cost: 1 }];
    let (mut admitted, mut other) = (0, 1);
    for step in 0..10_000_u64 {
        let now = SECOND + step * MS;
        admitted += u64::from(admits(&mut worker, &check(0), now));
        for _ in 0..20 {
            other += 1;
            worker.check(&check(other), now);
        }
    }
    assert_eq!(admitted, 2 + 9, "ten seconds but a millisecond");
}

#[test]
fn the_heaviest_keys_are_known_by_name() {
    // Both keys stay in the worker's cache between two uses, among forty that don't come back.
    let mut worker = Worker::new(Arc::new(Node::new(1, 1_000)), 256);
    let wide = rule("wide", rate(1_000, 1_000, 5_000));
    let mut draw = Draw(5);
    for i in 0..20_000_u64 {
        let cold = draw.next().to_string();
        worker.check(&[of(&wide, &cold, 1)], SECOND + i);
        for (every, name) in [(10, "heavy"), (40, "less heavy")] {
            if i % every == 0 {
                worker.check(&[of(&wide, name, 1)], SECOND + i);
                if let Some(key) = worker.unnamed() {
                    worker.name(key, name.as_bytes());
                }
            }
        }
        assert_eq!(worker.unnamed(), None, "keys used once are not among them");
    }
    let top = worker.heaviest(2);
    assert_eq!(
        top.iter().map(|h| h.text.as_slice()).collect::<Vec<_>>(),
        [b"heavy".as_slice(), b"less heavy"]
    );
    assert!((1_980..=2_000).contains(&top[0].count), "{top:?}");
    worker.fade();
    assert!(worker.heaviest(1)[0].count <= 1_000);
}

#[test]
fn odd_configurations_are_warned_of() {
    use KeyPart::*;
    let make = |name: &str, count, burst, key: &[KeyPart]| Rule {
        key: key.to_vec(),
        ..rule(name, rate(count, 1_000, burst))
    };
    let header = || Header("x-key".into());
    let shadow = Rule { mode: Mode::Shadow, ..make("b", 5, 5, &[ClientAddress]) };
    let dear = Rule { cost: 11, ..make("a", 10, 10, &[]) };
    let up_to_client = |rule: &str| Warning::UpToClient { rule: rule.into() };
    let never = |rule: &str, by: &str| Warning::NeverApplies { rule: rule.into(), by: by.into() };
    for (rules, expected) in [
        (vec![make("a", 10, 10, &[ClientAddress])], vec![]),
        (vec![make("a", 10, 10, &[header()])], vec![up_to_client("a")]),
        (vec![make("a", 10, 10, &[header(), Path])], vec![up_to_client("a")]),
        (vec![make("a", 10, 10, &[header(), Consumer])], vec![]),
        (vec![make("a", 10, 10, &[])], vec![]),
        (vec![make("a", 10, 10, &[ClientAddress]), make("b", 5, 5, &[ClientAddress])], vec![never("a", "b")]),
        (
            vec![make("a", 10, 10, &[ClientAddress, Route]), make("b", 10, 5, &[ClientAddress])],
            vec![never("a", "b")],
        ),
        (vec![make("a", 10, 10, &[ClientAddress]), make("b", 5, 5, &[ClientAddress, Route])], vec![]),
        (vec![make("a", 10, 10, &[ClientAddress]), make("b", 5, 50, &[ClientAddress])], vec![]),
        (vec![make("a", 10, 10, &[ClientAddress]), shadow], vec![]),
        (vec![make("a", 5, 5, &[Consumer]), make("b", 5, 5, &[Consumer])], vec![never("b", "a")]),
        (vec![dear], vec![Warning::CostAboveBurst { rule: "a".into() }]),
    ] {
        let got = warnings(&rules);
        assert_eq!(got, expected, "{rules:?}");
        assert!(got.iter().all(|warning| warning.to_string().starts_with("limit ")));
    }
}

/// Two real threads on one key for as long as the rate is the bound: exact together, whatever the interleaving was.
#[test]
fn two_threads_on_one_key() {
    for burst in [1_u32, 100, 50_000] {
        let wide = rule("wide", rate(1_000, 1_000, burst));
        let node = Arc::new(Node::new(2, 100));
        let admitted: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (node, wide) = (Arc::clone(&node), &wide);
                    scope.spawn(move || {
                        let mut worker = Worker::new(node, 64);
                        let check = [of(wide, "k", 1)];
                        // Each thread's clock runs by itself; both end at the same reading.
                        let count = (0..100_000)
                            .filter(|i| admits(&mut worker, &check, SECOND + i * 100_000))
                            .count();
                        worker.release();
                        count as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let last = SECOND + 99_999 * 100_000;
        let hash = of(&wide, "k", 1).key;
        assert_eq!(node.state(&wide, hash, last).held, 0);
        let most = u64::from(burst) + 9_999;
        assert!(admitted <= most, "{admitted} of {most}");
    }
}
