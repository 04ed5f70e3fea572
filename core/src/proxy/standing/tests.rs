use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use proptest::prelude::*;

use super::{Admission, Applied, Comparison, Observer, Settings, Standing, Standings, Ticket};
use crate::net::connect::Address;
use crate::policy::health::{Cause, Ejection, Event, Traffic, Verdict};
use crate::policy::outlier::{self, LocalOrigin, Outcome, SuccessRate};

const SETTINGS: Settings = Settings {
    outlier: outlier::Settings {
        consecutive_5xx: Some(3),
        consecutive_gateway_failure: None,
        consecutive_local_origin_failure: None,
        local_origin: LocalOrigin::Joined,
        success_rate: None,
        failure_percentage: None,
        latency: None,
    },
    ejection: Ejection { base_ms: 100, max_ms: 1_000, jitter_ms_max: 0, interval_ms: 50, percent_max: 50 },
};

fn address(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], port).into())
}

/// So many endpoints of one upstream, at ports 0 and up.
fn endpoints(count: u16) -> (Standings, Vec<Arc<Standing>>) {
    let mut standings = Standings::default();
    let name: Arc<str> = "api".into();
    let all = (0..count).map(|port| standings.of(&name, &address(port), Verdict::Unchecked, 1)).collect();
    standings.keep(|_, _| true);
    (standings, all)
}

fn eject(standing: &Standing, now_ms: u64) -> Applied {
    standing.apply(Event::Eject { cause: Cause::Consecutive5xx, draw: 0 }, &SETTINGS.ejection, now_ms)
}

/// One attempt from its begin to its end.
fn attempt(observer: &Observer, outcome: Outcome, now_ms: u64) -> Option<Applied> {
    let ticket = observer.begin();
    observer.finish(ticket, outcome, 10, &SETTINGS, now_ms, || 0)
}

#[test]
fn out_by_a_row_and_back_by_a_check_and_one_request_on_every_worker() {
    let (_standings, all) = endpoints(2);
    let [one, other] = [0, 0].map(|_| Observer::new(Arc::clone(&all[0])));
    assert_eq!(attempt(&one, Outcome::ServerError, 10), None);
    assert_eq!(attempt(&one, Outcome::ServerError, 10), None);
    assert_eq!(attempt(&other, Outcome::ServerError, 10), None, "each worker counts its own row");
    assert!(matches!(attempt(&one, Outcome::ServerError, 10), Some(Applied::Changed { .. })));
    assert_eq!((one.admission(), other.admission()), (Admission::Closed, Admission::Closed));
    assert_eq!(all[0].word().healthy_since_ms(), None);
    // Its time is over, but only a check opens it, and that for one request on each worker.
    assert_eq!(one.admission(), Admission::Closed);
    all[0].apply(Event::ReturnPassed, &SETTINGS.ejection, 109);
    assert_eq!(one.admission(), Admission::Closed, "a millisecond early");
    all[0].apply(Event::ReturnPassed, &SETTINGS.ejection, 110);
    let trial = one.begin();
    assert_eq!((trial, one.admission(), one.begin()), (Ticket::Trial, Admission::Closed, Ticket::Unheard));
    assert_eq!(other.admission(), Admission::Trial);
    // A trial whose client left says nothing, and makes room for the next.
    one.abandon(trial);
    let trial = one.begin();
    assert_eq!(trial, Ticket::Trial);
    let their_trial = other.begin();
    let back = one.finish(trial, Outcome::Success, 10, &SETTINGS, 120, || 0);
    assert!(matches!(back, Some(Applied::Changed { .. })));
    assert_eq!(all[0].word().healthy_since_ms(), Some(120));
    assert_eq!((one.admission(), other.admission()), (Admission::Open, Admission::Open));
    let late = other.finish(their_trial, Outcome::Timeout, 10, &SETTINGS, 125, || 0);
    assert_eq!(late, Some(Applied::Unchanged), "the first trial has decided");
    assert_eq!(all[0].cohort().ejected(), 0);
}

#[test]
fn a_failed_trial_ejects_for_longer() {
    let (_standings, all) = endpoints(2);
    let observer = Observer::new(Arc::clone(&all[0]));
    eject(&all[0], 10);
    all[0].apply(Event::ReturnPassed, &SETTINGS.ejection, 110);
    attempt(&observer, Outcome::ConnectFailure, 150);
    let state = all[0].state();
    assert_eq!((state.traffic, state.cause, state.at_ms), (Traffic::Ejected, Some(Cause::TrialFailed), 350));
    assert_eq!((observer.admission(), all[0].cohort().ejected()), (Admission::Closed, 1));
}

#[test]
fn what_was_under_way_before_says_nothing_of_after() {
    let (_standings, all) = endpoints(2);
    let observer = Observer::new(Arc::clone(&all[0]));
    let old: Vec<Ticket> = (0..9).map(|_| observer.begin()).collect();
    attempt(&observer, Outcome::ServerError, 10);
    attempt(&observer, Outcome::ServerError, 10);
    eject(&all[0], 10);
    for ticket in &old[..4] {
        assert_eq!(observer.finish(*ticket, Outcome::Timeout, 10, &SETTINGS, 20, || 0), None);
    }
    all[0].apply(Event::ReturnPassed, &SETTINGS.ejection, 110);
    attempt(&observer, Outcome::Success, 120);
    for ticket in &old[4..] {
        assert_eq!(observer.finish(*ticket, Outcome::Timeout, 10, &SETTINGS, 130, || 0), None);
    }
    // The row that had begun before is forgotten too.
    assert_eq!(attempt(&observer, Outcome::ServerError, 140), None);
    assert_eq!(observer.admission(), Admission::Open);
}

#[test]
fn checks_and_outlier_detection_are_independent() {
    let (_standings, all) = endpoints(2);
    let observer = Observer::new(Arc::clone(&all[0]));
    let apply = |event, now_ms| {
        all[0].apply(event, &SETTINGS.ejection, now_ms);
    };
    apply(Event::Checked(Verdict::Unhealthy), 5);
    assert_eq!((observer.admission(), observer.begin()), (Admission::Closed, Ticket::Unheard));
    assert_eq!(all[0].cohort().ejected(), 0, "an unhealthy one takes no place of the cap");
    eject(&all[0], 10);
    apply(Event::Checked(Verdict::Healthy), 20);
    assert_eq!(observer.admission(), Admission::Closed);
    apply(Event::Checked(Verdict::Unhealthy), 30);
    apply(Event::ReturnPassed, 110);
    assert_eq!(observer.admission(), Admission::Closed, "probing, but unhealthy");
    apply(Event::Checked(Verdict::Healthy), 120);
    assert_eq!(observer.admission(), Admission::Trial);
}

#[test]
fn the_cap_holds_and_those_who_leave_give_up_their_place() {
    let (mut standings, all) = endpoints(4);
    let cohort = || all[0].cohort();
    assert!(matches!(eject(&all[0], 10), Applied::Changed { .. }));
    assert!(matches!(eject(&all[1], 10), Applied::Changed { .. }));
    assert_eq!((eject(&all[2], 10), eject(&all[1], 10)), (Applied::AtCap, Applied::Unchanged));
    assert!(all[2].word().is_usable());
    // Probing is not back yet.
    all[1].apply(Event::ReturnPassed, &SETTINGS.ejection, 110);
    assert_eq!((cohort().ejected(), eject(&all[2], 110)), (2, Applied::AtCap));
    // The first leaves: two of three may not be out, one is.
    standings.keep(|_, a| *a != address(0));
    assert_eq!((cohort().endpoints(), cohort().ejected()), (3, 1));
    assert_eq!(eject(&all[2], 120), Applied::AtCap);
    all[1].apply(Event::TrialPassed, &SETTINGS.ejection, 130);
    assert!(matches!(eject(&all[2], 140), Applied::Changed { .. }));
    // One that has left is changed by nobody, and one that comes again begins anew.
    all[0].apply(Event::ReturnPassed, &SETTINGS.ejection, 500);
    assert_eq!(all[0].state().traffic, Traffic::Ejected);
    let again = standings.of(&"api".into(), &address(0), Verdict::Unhealthy, 500);
    assert!(!Arc::ptr_eq(&again, &all[0]) && !again.word().is_usable() && !again.word().is_out());
    let same = standings.of(&"api".into(), &address(2), Verdict::Unhealthy, 500);
    assert!(Arc::ptr_eq(&same, &all[2]));
    assert_eq!(standings.cohorts().map(|(name, c)| (&**name, c.ejected())).collect::<Vec<_>>(), [("api", 1)]);
    standings.keep(|_, _| false);
    assert_eq!((cohort().ejected(), standings.cohorts().count()), (0, 0));
}

#[test]
fn a_round_compares_and_ejects_no_more_than_allowed() {
    let (_standings, all) = endpoints(6);
    let rule = SuccessRate { minimum_hosts: 6, request_volume: 10, stdev_factor: 0.5 };
    let mut settings = SETTINGS;
    settings.outlier.success_rate = Some(rule);
    settings.outlier.consecutive_5xx = None;
    settings.ejection.percent_max = 20;
    let observers: Vec<Observer> = all.iter().map(|s| Observer::new(Arc::clone(s))).collect();
    let comparison = Comparison::default();
    let load = || {
        for (at, observer) in observers.iter().enumerate() {
            for n in 0..10 {
                // The last fails most, the one before it half as often.
                let failed = n < [0, 0, 0, 0, 3, 6][at];
                let outcome = if failed { Outcome::ServerError } else { Outcome::Success };
                let ticket = observer.begin();
                observer.finish(ticket, outcome, 10, &settings, 10, || 0);
            }
        }
    };
    let round = |now_ms| {
        let mut did = Vec::new();
        comparison.round(observers.iter(), &settings, now_ms, &mut || 0, |observer, applied| {
            let at = observers.iter().position(|o| std::ptr::eq(o, observer)).unwrap();
            did.push((at, matches!(applied, Applied::Changed { .. })));
        });
        did
    };
    load();
    assert_eq!(round(1_000), [], "nobody knows how long the first interval was");
    load();
    assert_eq!(round(1_049), [], "the interval is not over");
    assert_eq!(round(1_050), [(5, true), (4, false)], "the worst goes, the cap holds the other");
    assert_eq!(all[5].state().cause, Some(Cause::SuccessRate));
    load();
    assert_eq!(round(1_100), [], "too few are left to compare");
}

proptest! {
    /// Any order of events keeps the cap, and the count is what the words say.
    #[test]
    fn the_count_is_what_the_words_say(
        steps in prop::collection::vec((0_usize..6, 0_u8..8, 0_u64..200), 0..200),
    ) {
        let (mut standings, all) = endpoints(6);
        let mut now_ms = 1;
        for (at, what, step) in steps {
            now_ms += step;
            match event(what) {
                Some(event) => {
                    all[at].apply(event, &SETTINGS.ejection, now_ms);
                }
                None if at == 5 => standings.keep(|_, a| *a != address(5)),
                None => {}
            }
            let cohort = all[0].cohort();
            let out = all.iter().filter(|s| s.word().is_out()).count() as u32;
            prop_assert_eq!(cohort.ejected(), out);
            prop_assert!(out <= 3);
        }
    }
}

fn event(what: u8) -> Option<Event> {
    Some(match what {
        0..=1 => Event::Eject { cause: Cause::Latency, draw: 0 },
        2 => Event::ReturnPassed,
        3 => Event::ReturnFailed { draw: 0 },
        4 => Event::TrialPassed,
        5 => Event::TrialFailed { draw: 0 },
        6 => Event::Checked(Verdict::Unhealthy),
        _ => return None,
    })
}

/// Threads that do everything at once. Between rounds, when all stand still, the count must be exact; at any time it
/// must be within the cap.
#[test]
fn the_cap_holds_under_races() {
    const THREADS: usize = 4;
    const ROUNDS: u64 = 300;
    let (_standings, all) = endpoints(8);
    let (barrier, broken) = (Barrier::new(THREADS), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..THREADS as u64 {
            let (all, barrier, broken) = (&all, &barrier, &broken);
            scope.spawn(move || {
                let mut draw = thread + 1;
                for round in 0..ROUNDS {
                    for step in 0..200 {
                        draw = draw.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                        let standing = &all[(draw >> 33) as usize % all.len()];
                        if let Some(event) = event((draw >> 40) as u8 % 7) {
                            standing.apply(event, &SETTINGS.ejection, round * 2_000 + step * 10);
                        }
                        if standing.cohort().ejected() > 4 {
                            broken.store(true, Ordering::Relaxed);
                        }
                    }
                    barrier.wait();
                    let out = all.iter().filter(|s| s.word().is_out()).count() as u32;
                    if all[0].cohort().ejected() != out || out > 4 {
                        broken.store(true, Ordering::Relaxed);
                    }
                    barrier.wait();
                }
            });
        }
    });
    assert!(!broken.load(Ordering::Relaxed));
}
