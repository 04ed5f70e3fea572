//! The prober over time: thresholds, returns, installs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;

use super::{Act, Server, block_on, say, until};
use crate::base::clock::{Clock as _, Monotonic};
use crate::base::limits::CHECKS_IN_FLIGHT_MAX;
use crate::control::prober::{Failure, Prober, Target};
use crate::net::connect::Address;
use crate::policy::health::check::{HttpProbe, HttpVersion, Probe, Settings};
use crate::policy::health::{Cause, Ejection, Event, Traffic, Verdict};
use crate::proxy::standing::{Standing, Standings};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";

fn settings() -> Settings {
    let http = HttpProbe {
        version: HttpVersion::Http1,
        host: None,
        path: "/".into(),
        expected_statuses: Vec::new(),
    };
    Settings {
        interval_ms: 5,
        jitter_ms_max: 1,
        unhealthy_interval_ms_max: 10,
        timeout_ms: 10_000,
        healthy_threshold: 2,
        unhealthy_threshold: 3,
        ..Settings::new(Probe::Http(http))
    }
}

const EJECTION: Ejection =
    Ejection { base_ms: 1, max_ms: 10, jitter_ms_max: 0, interval_ms: 10_000, percent_max: 100 };

/// A target in an upstream of its own.
fn target(standings: &mut Standings, upstream: &str, address: &Address, check: Option<Settings>) -> Target {
    let upstream: Arc<str> = upstream.into();
    let standing = standings.of(&upstream, address, Verdict::Unchecked, 1);
    standings.keep(|_, _| true);
    Target {
        upstream,
        address: address.clone(),
        authority: "api.test".into(),
        standing,
        check: check.map(Arc::new),
        ejection: None,
        tls: None,
        proxy: None,
    }
}

fn eject(standing: &Standing, clock: Monotonic) {
    let event = Event::Eject { cause: Cause::Latency, draw: 0 };
    standing.apply(event, &EJECTION, clock.now_ms());
    assert_eq!(standing.state().traffic, Traffic::Ejected);
}

#[test]
fn an_endpoint_falls_ill_and_recovers() {
    block_on(async {
        let mut standings = Standings::default();
        let prober = Prober::start(Monotonic::start(), 1);
        let server = Server::start(say(OK)).await;
        let target = target(&mut standings, "api", &server.address, Some(settings()));
        assert!(target.standing.word().is_usable(), "it serves before its first check");
        prober.configure(vec![target.clone()]);
        let seen = until(&prober, |r| r.len() == 1 && r[0].streak.passed >= 2).await;
        assert_eq!((seen[0].state.verdict, seen[0].failed), (Verdict::Healthy, 0));
        assert_eq!(target.standing.word().healthy_since_ms(), Some(1), "it always was");
        server.act.send_replace(say(BUSY));
        let seen = until(&prober, |r| r[0].state.verdict == Verdict::Unhealthy).await;
        assert!(seen[0].streak.failed >= 3 && !target.standing.word().is_usable());
        assert_eq!(seen[0].last.as_ref().unwrap().result, Err(Failure::Status(503)));
        server.act.send_replace(say(OK));
        let seen = until(&prober, |r| r[0].state.verdict == Verdict::Healthy).await;
        assert!(seen[0].streak.passed >= 2 && seen[0].checks > seen[0].failed);
        assert!(target.standing.word().healthy_since_ms() > Some(1), "it starts slowly");
    });
}

#[test]
fn the_first_check_decides_alone_and_a_silent_server_is_ill() {
    block_on(async {
        let mut standings = Standings::default();
        let prober = Prober::start(Monotonic::start(), 1);
        let silent = Server::start(Act::SayAndStay(Vec::new())).await;
        let check = Settings { timeout_ms: 30, interval_ms: 60_000, ..settings() };
        prober.configure(vec![target(&mut standings, "api", &silent.address, Some(check))]);
        let seen = until(&prober, |r| r.len() == 1 && r[0].checks == 1).await;
        assert_eq!(seen[0].state.verdict, Verdict::Unhealthy);
        let last = seen[0].last.as_ref().unwrap();
        assert_eq!(last.result, Err(Failure::Timeout));
        assert!(last.took_ms >= 29, "{last:?}");
    });
}

#[test]
fn an_ejected_endpoint_is_asked_before_it_returns() {
    block_on(async {
        let (clock, mut standings) = (Monotonic::start(), Standings::default());
        let prober = Prober::start(clock, 1);
        // No active check: a connection is enough. Nobody listens on the second one.
        let mut server = Server::start(Act::Close).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut good = target(&mut standings, "good", &server.address, None);
        let mut bad = target(&mut standings, "bad", &Address::Tcp(nobody), None);
        (good.ejection, bad.ejection) = (Some(EJECTION), Some(EJECTION));
        prober.configure(vec![good.clone(), bad.clone()]);
        until(&prober, |r| r.len() == 2).await;
        eject(&good.standing, clock);
        eject(&bad.standing, clock);
        let seen = until(&prober, |r| r.iter().all(|r| r.checks >= 1) && r[0].checks >= 3).await;
        assert_eq!((&*seen[0].upstream, &*seen[1].upstream), ("bad", "good"));
        let (bad, good) = (&seen[0].state, &seen[1].state);
        assert_eq!((bad.traffic, bad.cause), (Traffic::Ejected, Some(Cause::ReturnFailed)));
        assert!(bad.ejections >= 4, "once for its failing, and once for each check: {bad:?}");
        assert_eq!((good.traffic, good.ejections, seen[1].checks), (Traffic::Probing, 1, 1));
        assert_eq!(server.head().await, "", "it was connected to");
    });
}

#[test]
fn an_active_check_decides_on_the_return() {
    block_on(async {
        let (clock, mut standings) = (Monotonic::start(), Standings::default());
        let prober = Prober::start(clock, 1);
        let server = Server::start(say(BUSY)).await;
        // Without a return to decide on, the next check would come in a minute.
        let check = Settings { interval_ms: 60_000, unhealthy_threshold: 9, ..settings() };
        let mut target = target(&mut standings, "api", &server.address, Some(check));
        target.ejection = Some(EJECTION);
        eject(&target.standing, clock);
        prober.configure(vec![target.clone()]);
        until(&prober, |r| r.len() == 1 && r[0].state.cause == Some(Cause::ReturnFailed)).await;
        server.act.send_replace(say(OK));
        let seen = until(&prober, |r| r[0].state.traffic == Traffic::Probing).await;
        assert!(seen[0].checks >= 2 && seen[0].streak.passed == 1, "{seen:?}");
        // It was unhealthy by its first check, and one success is not enough for that to end.
        assert!(!target.standing.word().may_probe());
    });
}

#[test]
fn installs_keep_what_stays_and_let_go_what_leaves() {
    block_on(async {
        let (clock, mut standings) = (Monotonic::start(), Standings::default());
        let prober = Prober::start(clock, 1);
        let (one, two) = (Server::start(say(OK)).await, Server::start(say(BUSY)).await);
        let stays = target(&mut standings, "api", &one.address, Some(settings()));
        let leaves = target(&mut standings, "api", &two.address, Some(settings()));
        prober.configure(vec![stays.clone(), leaves.clone(), stays.clone()]);
        let before = until(&prober, |r| r.len() == 2 && r.iter().all(|r| r.checks >= 3)).await;
        let of = |address: &Address| before.iter().find(|r| r.address == *address).unwrap().checks;
        prober.configure(vec![stays.clone()]);
        let after = until(&prober, |r| r.len() == 1).await;
        assert!(after[0].address == one.address && after[0].checks >= of(&one.address));
        // Another question is asked at once; the counts go on and the verdict stays until there is an answer.
        let anew = Settings { interval_ms: 60_000, unhealthy_threshold: 1, ..settings() };
        let anew = Target { check: Some(Arc::new(anew)), ..stays.clone() };
        one.act.send_replace(say(BUSY));
        prober.configure(vec![anew]);
        let after = until(&prober, |r| r[0].state.verdict == Verdict::Unhealthy).await;
        assert!(after[0].checks > of(&one.address));
        // What is configured no more has no say any more.
        eject(&stays.standing, clock);
        prober.configure(vec![Target { check: None, ejection: None, ..stays.clone() }]);
        until(&prober, |r| r.len() == 1 && !r[0].is_checked).await;
        let state = stays.standing.state();
        assert_eq!((state.verdict, state.traffic), (Verdict::Unchecked, Traffic::Admitting));
        assert_eq!(stays.standing.cohort().ejected(), 0);
    });
}

#[test]
fn checks_under_way_are_bounded() {
    block_on(async {
        let mut standings = Standings::default();
        let prober = Prober::start(Monotonic::start(), 1);
        let mut server = Server::start(Act::SayAndStay(Vec::new())).await;
        let check = Settings { interval_ms: 60_000, ..settings() };
        let all = CHECKS_IN_FLIGHT_MAX + 40;
        let targets =
            (0..all).map(|n| target(&mut standings, &format!("u{n}"), &server.address, Some(check.clone())));
        prober.configure(targets.collect());
        for _ in 0..CHECKS_IN_FLIGHT_MAX {
            server.head().await;
        }
        assert_eq!(server.open.load(Ordering::Relaxed), CHECKS_IN_FLIGHT_MAX as u64);
        // All that wait hear of the change and close; their places are taken by the rest.
        server.act.send_replace(say(OK));
        let seen = until(&prober, |r| r.len() == all && r.iter().all(|r| r.checks == 1)).await;
        assert_eq!(seen.iter().filter(|r| r.failed == 1).count(), CHECKS_IN_FLIGHT_MAX);
        assert_eq!(server.open_max.load(Ordering::Relaxed), CHECKS_IN_FLIGHT_MAX as u64);
    });
}

#[test]
fn a_dropped_prober_closes_its_connections() {
    block_on(async {
        let mut standings = Standings::default();
        let prober = Prober::start(Monotonic::start(), 1);
        let mut server = Server::start(Act::SayAndStay(Vec::new())).await;
        prober.configure(vec![target(&mut standings, "api", &server.address, Some(settings()))]);
        server.head().await;
        drop(prober);
        while server.open.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    });
}
