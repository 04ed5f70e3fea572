//! Every verdict and every refusal as a table, and what a chain of hops makes of one request.

use std::num::NonZeroU64;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{
    Attempt, BackOff, Body, Budget, BudgetSettings, Charge, Conditions, Failure, Hedge, MethodSet, Methods,
    Place, Refusal, Response, Settings, StatusSet, Verdict, decide, hedge, sent_as,
};
use crate::http::message::Method;

const GET: Attempt = Attempt {
    method: Method::Get,
    body: Body::Replayable,
    response: Response::NotStarted,
    number: 1,
    free: 0,
    arrived_as: 1,
    deadline_ms: None,
    retry_after_ms: None,
};
const POST: Attempt = Attempt { method: Method::Post, ..GET };
const UNSENT: Attempt = Attempt { body: Body::NothingSent, ..POST };
const NOW: u64 = 5_000;

/// All conditions but the list of statuses, in which stands 409; no back-off.
fn settings() -> Settings {
    let mut statuses = StatusSet::EMPTY;
    assert!(statuses.insert(409));
    Settings { conditions: all(), statuses, back_off: BackOff { base_ms: 0, max_ms: 0 }, ..Settings::DEFAULT }
}

fn all() -> Conditions {
    Conditions::NAMES.iter().fold(Conditions::NONE, |set, (_, condition)| set.with(*condition))
}

fn wide() -> Budget {
    Budget::new(BudgetSettings { percent: 100, min_per_second: 100_000, retries_max: 100_000 }, 0)
}

const AGAIN: Result<u64, Refusal> = Ok(0);

/// The verdict as the wait of a retry elsewhere, or the refusal; and that what was not sent, or refused, costs nothing.
fn check(settings: &Settings, failure: Failure, attempt: Attempt, expected: Result<u64, Refusal>) {
    let mut budget = wide();
    let left = budget.retries_left(NOW);
    let verdict = decide(settings, &mut budget, failure, &attempt, NOW, u64::MAX);
    let (wanted, spent) = match expected {
        Ok(after_ms) if attempt.body == Body::NothingSent || failure == Failure::Connect => {
            (Verdict::Again { after_ms, place: Place::Elsewhere, charge: Charge::Unsent }, 0)
        }
        Ok(after_ms) => (Verdict::Again { after_ms, place: Place::Elsewhere, charge: Charge::Budget }, 1),
        Err(refusal) => (Verdict::Stop(refusal), 0),
    };
    assert_eq!(verdict, wanted, "{failure:?} {attempt:?}");
    assert_eq!(
        (left - budget.retries_left(NOW), budget.in_flight()),
        (spent, spent),
        "{failure:?} {attempt:?}"
    );
}

#[test]
fn what_is_configured() {
    use Failure::{Connect, Grpc, PerTryTimeout, Refused, ResetBeforeResponse, Status};
    let cases = [
        (Connect, "connect_failure"),
        (Refused, "refused_stream"),
        (ResetBeforeResponse, "reset"),
        (PerTryTimeout, "per_try_timeout"),
        (Status(502), "gateway_error"),
        (Status(503), "gateway_error"),
        (Status(504), "gateway_error"),
        (Status(500), "5xx"),
        (Status(502), "5xx"),
        (Status(503), "5xx"),
        (Status(504), "5xx"),
        (Status(599), "5xx"),
        (Status(409), "status_codes"),
        (Grpc(1), "cancelled"),
        (Grpc(4), "deadline_exceeded"),
        (Grpc(8), "resource_exhausted"),
        (Grpc(13), "internal"),
        (Grpc(14), "unavailable"),
    ];
    for (failure, _) in cases {
        for (name, condition) in Conditions::NAMES {
            let only = Settings { conditions: condition, ..settings() };
            let expected = if cases.contains(&(failure, name)) { AGAIN } else { Err(Refusal::NotConfigured) };
            check(&only, failure, GET, expected);
        }
        check(&settings(), failure, GET, AGAIN);
        let none = Settings { conditions: Conditions::NONE, ..settings() };
        check(&none, failure, GET, Err(Refusal::NotConfigured));
    }
    for failure in [Status(200), Status(404), Status(600), Status(999), Grpc(0), Grpc(2), Grpc(17), Grpc(255)]
    {
        check(&settings(), failure, GET, Err(Refusal::NotConfigured));
    }
    // What was not sent is as good as a failed connection.
    let connect = Settings { conditions: Conditions::CONNECT_FAILURE, ..settings() };
    check(&connect, ResetBeforeResponse, UNSENT, AGAIN);
    check(&connect, ResetBeforeResponse, GET, Err(Refusal::NotConfigured));
    check(&Settings::DEFAULT, Refused, Attempt { number: 3, ..POST }, Err(Refusal::Attempts));
}

#[test]
fn what_may_be_repeated() {
    use Failure::{Connect, Grpc, PerTryTimeout, Refused, ResetBeforeResponse, Status};
    let post = Settings { methods: Methods::Listed(MethodSet::EMPTY.with(Method::Post)), ..settings() };
    let any = Settings { methods: Methods::Any, ..settings() };
    for failure in [ResetBeforeResponse, PerTryTimeout, Status(503), Grpc(14)] {
        check(&settings(), failure, GET, AGAIN);
        check(&settings(), failure, POST, Err(Refusal::Method));
        check(&settings(), failure, Attempt { method: Method::Patch, ..GET }, Err(Refusal::Method));
        check(&settings(), failure, Attempt { method: Method::Put, ..GET }, AGAIN);
        check(&any, failure, POST, AGAIN);
        check(&post, failure, POST, AGAIN);
        check(&post, failure, GET, Err(Refusal::Method));
        // Nothing sent: any method.
        check(&settings(), failure, UNSENT, AGAIN);
    }
    for failure in [Connect, Refused] {
        check(&settings(), failure, POST, AGAIN);
        check(&settings(), failure, UNSENT, AGAIN);
        check(&post, failure, GET, AGAIN);
    }
}

#[test]
fn refusals_and_their_order() {
    use Failure::{Connect, Refused, ResetBeforeResponse, Status};
    let mut attempt = Attempt {
        method: Method::Post,
        body: Body::Consumed,
        response: Response::Started,
        number: 3,
        free: 0,
        arrived_as: 2,
        deadline_ms: Some(NOW),
        retry_after_ms: Some(1_001),
    };
    let mut strict = Settings { conditions: Conditions::NONE, ..settings() };
    // Everything is wrong, and is put right one by one.
    check(&strict, Status(503), attempt, Err(Refusal::NotConfigured));
    strict.conditions = all();
    check(&strict, Status(503), attempt, Err(Refusal::ResponseStarted));
    attempt.response = Response::NotStarted;
    check(&strict, Status(503), attempt, Err(Refusal::Nested));
    attempt.arrived_as = 1;
    check(&strict, Status(503), attempt, Err(Refusal::Method));
    attempt.method = Method::Get;
    check(&strict, Status(503), attempt, Err(Refusal::Attempts));
    attempt.number = 2;
    check(&strict, Status(503), attempt, Err(Refusal::BodyConsumed));
    attempt.body = Body::Replayable;
    check(&strict, Status(503), attempt, Err(Refusal::RetryAfter));
    attempt.retry_after_ms = Some(1_000);
    check(&strict, Status(503), attempt, Err(Refusal::Deadline));
    attempt.deadline_ms = Some(NOW + 1_000);
    check(&strict, Status(503), attempt, Err(Refusal::Deadline));
    attempt.deadline_ms = Some(NOW + 1_001);
    check(&strict, Status(503), attempt, Ok(1_000));
    let mut spent = Budget::new(BudgetSettings { percent: 20, min_per_second: 0, retries_max: 0 }, 0);
    let decide = |budget: &mut Budget| decide(&strict, budget, Status(503), &attempt, NOW, 0);
    assert_eq!(decide(&mut spent), Verdict::Stop(Refusal::Budget));
    for _ in 0..5 {
        spent.deposit(NOW);
    }
    assert_eq!(decide(&mut spent), Verdict::Stop(Refusal::RetriesMax));
    // A body that is gone is gone for a failed connection, too; one of which nothing was sent may be of any length.
    check(&settings(), Connect, Attempt { body: Body::Consumed, ..GET }, Err(Refusal::BodyConsumed));
    check(&settings(), Connect, UNSENT, AGAIN);
    // A retry of the hop before is made again only where nothing was sent.
    for (failure, attempt, expected) in [
        (Connect, POST, AGAIN),
        (ResetBeforeResponse, UNSENT, AGAIN),
        (ResetBeforeResponse, GET, Err(Refusal::Nested)),
        (Refused, GET, Err(Refusal::Nested)),
        (Failure::Grpc(14), GET, Err(Refusal::Nested)),
    ] {
        check(&settings(), failure, Attempt { arrived_as: 2, ..attempt }, expected);
    }
    let once = Settings { attempts_max: 1, ..settings() };
    check(&once, Connect, GET, Err(Refusal::Attempts));
    let mut labels: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Refusal::ALL.len());
    assert!(labels.iter().all(|label| label.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())));
}

#[test]
fn patience() {
    use Failure::{Connect, Refused, Status};
    let after = |ms| Attempt { retry_after_ms: Some(ms), ..GET };
    check(&settings(), Status(503), after(700), Ok(700));
    check(&settings(), Status(503), after(u64::MAX), Err(Refusal::RetryAfter));
    let mut throttled = settings();
    assert!(throttled.statuses.insert(429));
    check(&throttled, Status(429), after(700), Ok(700));
    check(&throttled, Status(429), after(1_001), Err(Refusal::RetryAfter));
    // Elsewhere it has no meaning.
    check(&settings(), Status(502), after(u64::MAX), AGAIN);
    check(&settings(), Connect, after(u64::MAX), AGAIN);
    // The longest draw is added to it.
    let jittered = Settings { back_off: BackOff { base_ms: 20, max_ms: 30 }, ..settings() };
    check(&jittered, Status(503), after(700), Ok(720));
    check(&jittered, Status(503), Attempt { number: 2, ..after(700) }, Ok(730));
    check(&jittered, Refused, GET, Ok(20));
    // The first that reached nobody costs no wait, the second does.
    check(&jittered, Connect, GET, AGAIN);
    check(&jittered, Connect, Attempt { number: 2, ..GET }, Ok(30));
    // Deadlines: a millisecond must be left after the wait.
    let until = |ms| Attempt { deadline_ms: Some(ms), ..GET };
    check(&jittered, Refused, until(NOW + 20), Err(Refusal::Deadline));
    check(&jittered, Refused, until(NOW + 21), Ok(20));
    check(&settings(), Connect, until(NOW - 1), Err(Refusal::Deadline));
}

#[test]
fn stale_connections() {
    let free = Verdict::Again { after_ms: 0, place: Place::Same, charge: Charge::Free };
    let mut empty = Budget::new(BudgetSettings { percent: 0, min_per_second: 0, retries_max: 0 }, 0);
    let never = Settings { conditions: Conditions::NONE, attempts_max: 1, ..settings() };
    for (attempt, expected) in [
        (GET, free),
        (UNSENT, free),
        (POST, Verdict::Stop(Refusal::Method)),
        (Attempt { arrived_as: 2, ..GET }, Verdict::Stop(Refusal::Nested)),
        (Attempt { arrived_as: 2, ..UNSENT }, free),
        (Attempt { body: Body::Consumed, ..GET }, Verdict::Stop(Refusal::BodyConsumed)),
        (Attempt { response: Response::Started, ..GET }, Verdict::Stop(Refusal::ResponseStarted)),
        (Attempt { deadline_ms: Some(NOW), ..GET }, Verdict::Stop(Refusal::Deadline)),
        (Attempt { deadline_ms: Some(NOW + 1), ..GET }, free),
        // The second is a failure like others.
        (Attempt { number: 2, free: 1, ..GET }, Verdict::Stop(Refusal::NotConfigured)),
    ] {
        assert_eq!(decide(&never, &mut empty, Failure::Stale, &attempt, NOW, 0), expected, "{attempt:?}");
    }
    check(&settings(), Failure::Stale, Attempt { number: 2, free: 1, ..GET }, AGAIN);
    let connect = Settings { conditions: Conditions::CONNECT_FAILURE, ..settings() };
    check(&connect, Failure::Stale, Attempt { number: 2, free: 1, ..UNSENT }, AGAIN);
    check(&connect, Failure::Stale, Attempt { number: 2, free: 1, ..GET }, AGAIN);
    let refused = Settings { conditions: Conditions::REFUSED_STREAM, ..settings() };
    check(&refused, Failure::Stale, Attempt { number: 2, free: 1, ..GET }, Err(Refusal::NotConfigured));
    // It took none of the tries.
    check(&settings(), Failure::Connect, Attempt { number: 3, free: 1, ..GET }, AGAIN);
    check(&settings(), Failure::Connect, Attempt { number: 4, free: 1, ..GET }, Err(Refusal::Attempts));
}

#[test]
fn hedges() {
    let two = Hedge { attempts_max: 2, ..Hedge::DEFAULT };
    let any = Hedge { methods: Methods::Any, ..two };
    for (settings, attempt, expected) in [
        (two, GET, Ok(())),
        (two, Attempt { body: Body::NothingSent, ..GET }, Ok(())),
        (two, POST, Err(Refusal::Method)),
        (any, POST, Ok(())),
        (two, Attempt { number: 2, ..GET }, Err(Refusal::Attempts)),
        (two, Attempt { number: 2, free: 1, ..GET }, Ok(())),
        (two, Attempt { arrived_as: 2, ..GET }, Err(Refusal::Nested)),
        (two, Attempt { body: Body::Consumed, ..GET }, Err(Refusal::BodyConsumed)),
        (two, Attempt { response: Response::Started, ..GET }, Err(Refusal::ResponseStarted)),
        (two, Attempt { deadline_ms: Some(NOW), ..GET }, Err(Refusal::Deadline)),
        (two, Attempt { deadline_ms: Some(NOW + 1), ..GET }, Ok(())),
    ] {
        let mut budget = wide();
        assert_eq!(hedge(&settings, &mut budget, &attempt, NOW), expected, "{attempt:?}");
        assert_eq!(budget.in_flight(), u32::from(expected.is_ok()));
    }
    let mut budget = Budget::new(BudgetSettings { percent: 0, min_per_second: 0, retries_max: 9 }, 0);
    assert_eq!(hedge(&two, &mut budget, &GET, NOW), Err(Refusal::Budget));
    budget.configure(BudgetSettings { percent: 0, min_per_second: 1, retries_max: 1 });
    assert_eq!(hedge(&two, &mut budget, &GET, NOW), Ok(()));
    assert_eq!(hedge(&two, &mut budget, &GET, NOW), Err(Refusal::RetriesMax));
}

#[test]
fn how_long_a_try_may_take() {
    let ms = |ms| NonZeroU64::new(ms);
    for (per_try, left, expected) in [(0, 0, 0), (5, 0, 5), (0, 7, 7), (5, 7, 5), (7, 5, 5)] {
        let settings = Settings { per_try_timeout_ms: ms(per_try), ..Settings::DEFAULT };
        assert_eq!(settings.try_ms(ms(left)), ms(expected), "{per_try} {left}");
    }
}

#[test]
fn back_off_doubles_up_to_its_maximum() {
    let back_off = BackOff { base_ms: 25, max_ms: 250 };
    for (retry, longest) in
        [(0, 25), (1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (64, 250), (u32::MAX, 250)]
    {
        assert_eq!((back_off.wait_ms(retry, 0), back_off.wait_ms(retry, u64::MAX)), (0, longest), "{retry}");
    }
    let widest = BackOff { base_ms: u64::MAX, max_ms: u64::MAX };
    assert_eq!(widest.wait_ms(64, u64::MAX), u64::MAX);
    // Full jitter: even over 0..=25.
    let mut counts = [0_u32; 26];
    for step in 0..26_000_u64 {
        let wait_ms = back_off.wait_ms(1, step * (u64::MAX / 26_000));
        counts[wait_ms as usize] += 1;
    }
    assert!(counts.iter().all(|count| (998..=1_002).contains(count)), "{counts:?}");
}

/// Whether hops tell each other which try they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    Attempts,
    Nothing,
}

/// The tries that a leaf behind `depth` hops sees of one request if it fails each in the same way.
fn tries(depth: u32, arrived_as: u32, telling: Telling, attempts_max: u32, failure: Failure) -> u64 {
    let settings = Settings { attempts_max, ..settings() };
    let mut budget = wide();
    let (mut seen, mut attempt, mut sent_before) = (0, Attempt { arrived_as, ..GET }, 0);
    loop {
        let number = if telling == Telling::Attempts { sent_as(arrived_as, sent_before) } else { 1 };
        seen += if depth == 1 { 1 } else { tries(depth - 1, number, telling, attempts_max, failure) };
        sent_before += 1;
        match decide(&settings, &mut budget, failure, &attempt, NOW, 0) {
            Verdict::Again { charge, .. } => {
                attempt.number += 1;
                attempt.free += u32::from(charge == Charge::Free);
            }
            Verdict::Stop(_) => return seen,
        }
    }
}

#[test]
fn a_chain_of_hops_does_not_multiply() {
    for depth in 1..=5 {
        for attempts_max in 1..=5 {
            let (d, r) = (u64::from(depth), u64::from(attempts_max));
            for failure in [Failure::Status(503), Failure::PerTryTimeout, Failure::Refused, Failure::Grpc(14)]
            {
                assert_eq!(
                    tries(depth, 1, Telling::Attempts, attempts_max, failure),
                    r + (d - 1) * (r - 1),
                    "{depth} hops of {attempts_max} tries, {failure:?}"
                );
            }
            // Without the field it would be this.
            assert_eq!(tries(depth, 1, Telling::Nothing, attempts_max, Failure::Status(503)), r.pow(depth));
            // A leaf that acts upon a request and closes without an answer costs one more a hop.
            assert_eq!(
                tries(depth, 1, Telling::Attempts, attempts_max, Failure::Stale),
                r + (d - 1) * (r - 1) + d
            );
            assert_eq!(tries(depth, 2, Telling::Attempts, attempts_max, Failure::Status(503)), 1);
        }
    }
}

proptest! {
    /// Whatever the facts: what is sent again is in hand, in time, within its tries, and harmless to repeat; what it
    /// took of the budget is what the verdict says.
    #[test]
    fn over_any_facts(
        failure in prop_oneof![
            Just(Failure::Connect),
            Just(Failure::Refused),
            Just(Failure::Stale),
            Just(Failure::ResetBeforeResponse),
            Just(Failure::PerTryTimeout),
            prop_oneof![Just(503), any::<u16>()].prop_map(Failure::Status),
            any::<u8>().prop_map(Failure::Grpc),
        ],
        method in prop::sample::select(vec![Method::Get, Method::Post, Method::Delete, Method::Other]),
        body in prop::sample::select(vec![Body::NothingSent, Body::Replayable, Body::Consumed]),
        started in prop::bool::weighted(0.1),
        (number, free, arrived_as) in (1_u32..6, 0_u32..2, 1_u32..3),
        deadline_ms in prop::option::of(any::<u64>()),
        retry_after_ms in prop::option::of(0_u64..2_000),
        (now_ms, draw) in (any::<u64>(), any::<u64>()),
    ) {
        let response = if started { Response::Started } else { Response::NotStarted };
        let attempt = Attempt { method, body, response, number, free, arrived_as, deadline_ms, retry_after_ms };
        let settings = Settings { back_off: BackOff::DEFAULT, ..settings() };
        let mut budget = wide();
        let verdict = decide(&settings, &mut budget, failure, &attempt, now_ms, draw);
        if let Verdict::Again { after_ms, place, charge } = verdict {
            let unsent = body == Body::NothingSent || failure == Failure::Connect;
            prop_assert!(!started && body != Body::Consumed);
            prop_assert!(unsent || (arrived_as == 1 && (method.is_idempotent() || failure == Failure::Refused)));
            prop_assert!(deadline_ms.is_none_or(|at| now_ms.saturating_add(after_ms) < at));
            prop_assert!(after_ms <= settings.retry_after_ms_max + settings.back_off.max_ms);
            prop_assert_eq!(charge == Charge::Free, failure == Failure::Stale && free == 0);
            prop_assert_eq!(charge == Charge::Free, place == Place::Same);
            prop_assert!(charge == Charge::Free || number - free < settings.attempts_max);
            prop_assert_eq!(charge == Charge::Unsent, unsent && charge != Charge::Free);
            prop_assert_eq!(budget.in_flight(), u32::from(charge == Charge::Budget));
        } else {
            prop_assert_eq!(budget.in_flight(), 0);
        }
    }
}
