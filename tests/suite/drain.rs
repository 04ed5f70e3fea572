//! Leaving without dropping anything: no new connections, answers that say close, requests in flight finished, and an
//! end to patience.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::raw::{PREFACE, Raw, flag, get as get_frame, settings};
use ringway_tests::load::{Load, OnClose};
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, eventually};
use ringway_tests::wire::WireError;
use std::time::{Duration, Instant};

#[track_caller]
fn await_refusal(proxy: &Proxy) {
    eventually("no new connections", || {
        // A connection in the kernel's queue at the moment of the close is reset: not accepted either.
        Client::try_connect(&proxy.address().into())
            .map_or(true, |mut client| {
                let _ = client.try_send(get("/").as_bytes());
                client.try_response("GET").is_err()
            })
            .then_some(())
    });
}

for_each_driver! {
    fn under_load_nothing_fails(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).workers(2));
        let load = Load::start(proxy.address(), 8, "/", OnClose::Leave);
        load.await_answers(200);
        proxy.server().drain();
        let tally = load.join();
        assert_eq!(tally.failures, Vec::<String>::new());
        assert_eq!(tally.closes, 8, "each client is told, by Connection: close on an answer");
        let started = Instant::now();
        proxy.wait();
        assert!(started.elapsed() < Duration::from_secs(5), "nobody is left to wait for");
    }

    fn a_request_in_flight_is_finished(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            if exchange.target() == "/in-flight" {
                held.wait();
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(get("/in-flight"));
        origin.await_requests(1);
        proxy.server().drain();
        await_refusal(&proxy);
        gate.open();
        let response = client.response("GET").expect(200);
        assert_eq!(response.text(), "GET /in-flight");
        assert!(response.closes(), "{:?}", response.head);
        client.expect_end();
        proxy.wait();
    }

    fn a_body_in_flight_is_finished(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
        origin.await_requests(1);
        proxy.server().drain();
        await_refusal(&proxy);
        client.send("world");
        assert_eq!(client.response("POST").expect(200).text(), "helloworld");
        client.expect_end();
        proxy.wait();
    }

    fn idle_connections_do_not_hold_it_up(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut clients: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.get("/").expect(200);
        }
        proxy.server().drain();
        for client in &mut clients {
            client.expect_end();
        }
        proxy.wait();
        // The pooled upstream connection is closed as well.
        origin.await_ended(origin.accepted());
    }

    fn patience_ends(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { drain: 300ms }"));
        let mut client = proxy.connect();
        client.send(get("/endless"));
        origin.await_requests(1);
        let started = Instant::now();
        proxy.server().drain();
        let cut = client.try_response("GET").map(|response| response.status);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(290), "cut after {took:?}, before its time");
        assert!(took < Duration::from_secs(3), "cut after {took:?}");
        assert!(matches!(cut, Ok(503) | Err(WireError::Closed | WireError::Reset)), "{cut:?}");
        proxy.wait();
        gate.open();
    }

    fn a_tunnel_ends_with_patience(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")?;
            exchange.wire.to_end()?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { drain: 300ms }"));
        let mut client = proxy.connect();
        client
            .ask("GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
            .expect(101);
        proxy.server().drain();
        client.expect_open(Duration::from_millis(100));
        client.expect_end();
        proxy.wait();
        origin.await_ended(1);
    }

    /// A load balancer in front must learn of it before the connections are refused, or at least as soon.
    fn readiness_ends_at_once(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        assert_eq!(proxy.admin("/ready").status, 200);
        let mut client = proxy.connect();
        client.send(get("/"));
        origin.await_requests(1);
        proxy.server().drain();
        eventually("the end of readiness", || (proxy.admin("/ready").status == 503).then_some(()));
        assert_eq!(proxy.admin("/live").status, 200, "leaving is no illness");
        gate.open();
        client.response("GET").expect(200);
        proxy.wait();
    }

    fn a_stop_has_no_patience(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(get("/"));
        origin.await_requests(1);
        let started = Instant::now();
        drop(proxy);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        let cut = client.try_response("GET").map(|response| response.status);
        assert!(matches!(cut, Ok(503) | Err(WireError::Closed | WireError::Reset)), "{cut:?}");
        gate.open();
    }

    /// Who has asked for nothing holds up nothing: silent connections, half a preface, and clients of HTTP/2 that answer
    /// neither SETTINGS nor PING. Their own time-outs are longer than what is waited for here.
    fn silent_clients_do_not_hold_it_up(driver) {
        let origin = Origin::start();
        let config = Config::to(&origin).top("timeouts: { request_head: 1h, keep_alive_idle: 1h, drain: 1h }");
        let proxy = Proxy::start(driver, &config);
        let silent: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
        let mut half_greeted = Raw::connect(proxy.address());
        half_greeted.send(PREFACE);
        let mut greeted = Raw::connect(proxy.address());
        greeted.send([PREFACE, &settings(&[])].concat());
        let mut served = Raw::connect(proxy.address());
        served.send([PREFACE, &settings(&[]), &get_frame(1, "/")].concat());
        served.await_frame("the answer's end", |frame| frame.stream == 1 && frame.has(flag::END_STREAM));
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 6.0);
        proxy.server().drain();
        // A test that hangs fails.
        proxy.wait();
        assert_eq!(served.to_end().goaway, Some(0), "it was told");
        drop((silent, half_greeted, greeted));
    }

    /// A head that has begun to come is a request in flight.
    fn half_a_head_is_waited_for(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send("GET /slow HTTP/1.1\r\nHos");
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 1.0);
        proxy.await_metric("ringway_kept_bytes", &[], |kept| kept > 0.0);
        proxy.server().drain();
        client.expect_open(Duration::from_secs(2));
        client.send("t: test\r\n\r\n");
        assert_eq!(client.response("GET").expect(200).text(), "GET /slow");
        client.expect_end();
        proxy.wait();
    }
}
