//! What is tried again and what is not: by condition, method, body, budget, deadline and hop; each refusal with its
//! reason. Counted at the origins, for a proxy's own count proves nothing.

use ringway_tests::client::{get, post};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Exchange, Origin, Outcome, named, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::stream::Address;
use ringway_tests::wait::eventually;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Fails with `status` so many times, and then behaves.
fn failing(status: u16, times: usize) -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    let left = AtomicUsize::new(times);
    move |exchange| {
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if !fails {
            return scripted(exchange);
        }
        exchange.read_body()?;
        exchange.reply(status, &[], "no")
    }
}

/// An address where nobody listens.
fn nobody() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    Address::Tcp(listener.local_addr().expect("its address"))
}

fn refused(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metrics().sum("ringway_retries_refused_total", &[("reason", reason)])
}

for_each_driver! {
    /// By condition: the status that is named is tried again, any other is passed on.
    fn statuses(driver) {
        for (on, status, again) in [
            ("on: [gateway_error]", 503, true),
            ("on: [gateway_error]", 502, true),
            ("on: [gateway_error]", 500, false),
            ("on: ['5xx']", 500, true),
            ("on: [connect_failure]", 503, false),
            ("on: [connect_failure], statuses: [429]", 429, true),
            ("on: [gateway_error]", 404, false),
        ] {
            let origin = Origin::with(failing(status, 1));
            let proxy = Proxy::start(driver, &Config::to(&origin).route(&format!("retry: {{ {on} }}")));
            let response = proxy.get("/");
            assert_eq!(response.status, if again { 200 } else { status }, "{on} {status}");
            assert_eq!(origin.request_count(), if again { 2 } else { 1 }, "{on} {status}");
            if again {
                let second = &origin.requests()[1];
                assert_eq!(second.field("ringway-attempt"), Some("2"), "{on}");
                assert_eq!(origin.requests()[0].field("ringway-attempt"), None, "{on}");
            }
        }
    }

    /// An answer that is not passed on does not cost its connection, if it is in hand whole.
    fn connections_survive_a_retry(driver) {
        let origin = Origin::with(failing(503, 3));
        let proxy = Proxy::start(driver, &Config::to(&origin).route("retry: { attempts: 4, backoff: 1ms, backoff_max: 1ms }"));
        assert_eq!(proxy.get("/").expect(200).text(), "GET /");
        assert_eq!((origin.request_count(), origin.accepted()), (4, 1));
    }

    /// Without settings, an answer is an answer.
    fn nothing_is_tried_again_unasked(driver) {
        let origin = Origin::with(failing(503, 1));
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.get("/").expect(503);
        assert_eq!(origin.request_count(), 1);
        assert_eq!(refused(&proxy, "not_configured"), 1.0);
    }

    fn attempts_are_bounded_and_the_last_answer_counts(driver) {
        let origin = Origin::with(failing(503, 99));
        let config = Config::to(&origin).route("retry: { attempts: 4, backoff: 1ms, backoff_max: 1ms }");
        let proxy = Proxy::start(driver, &config);
        let response = proxy.get("/").expect(503);
        assert_eq!(response.text(), "no", "the origin's own answer, not one of ours");
        assert_eq!(origin.request_count(), 4);
        assert_eq!(refused(&proxy, "attempts"), 1.0);
        assert_eq!(proxy.metrics().sum("ringway_retries_total", &[]), 3.0);
    }

    /// RFC 9110 section 9.2.2: what may have been acted upon is repeated only if that does no harm.
    fn methods(driver) {
        for (setting, request, again) in [
            ("", post("/", "x"), false),
            (", methods: any", post("/", "x"), true),
            ("", "PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx".to_owned(), true),
            ("", "DELETE / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(), true),
            ("", "PATCH / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx".to_owned(), false),
        ] {
            let origin = Origin::with(failing(503, 1));
            let route = format!("retry: {{ on: [gateway_error]{setting} }}");
            let proxy = Proxy::start(driver, &Config::to(&origin).route(&route));
            let response = proxy.connect().ask(&request);
            assert_eq!(response.status, if again { 200 } else { 503 }, "{setting} {request}");
            assert_eq!(refused(&proxy, "method"), if again { 0.0 } else { 1.0 }, "{setting} {request}");
        }
    }

    /// A connection that breaks before a byte of the answer: tried again where that is asked for, and elsewhere.
    fn resets(driver) {
        let broken = Origin::with(|_| Ok(After::Reset));
        let well = Origin::with(named("well"));
        let proxy = Proxy::start(driver, &Config::to_all(&[&broken, &well]).route("retry: {}"));
        for _ in 0..6 {
            assert_eq!(proxy.get("/").expect(200).text(), "well");
        }
        assert!(broken.request_count() >= 2);
        let plain = Proxy::start(driver, &Config::to(&broken));
        assert_eq!(problem(&plain.get("/").expect(502)).reason, "upstream_closed");
        assert_eq!(refused(&plain, "not_configured"), 1.0);
    }

    /// One attempt may take so long, and another endpoint then gets its chance.
    fn a_silent_endpoint_costs_one_attempt(driver) {
        let silent = Origin::with(|exchange| {
            // Until the proxy gives up.
            let _ = exchange.wire.head();
            Ok(After::Close)
        });
        let well = Origin::with(named("well"));
        let config = Config::to_all(&[&silent, &well]).route("retry: { per_try_timeout: 200ms, backoff: 1ms }");
        let proxy = Proxy::start(driver, &config);
        for _ in 0..4 {
            let begun = Instant::now();
            assert_eq!(proxy.get("/").expect(200).text(), "well");
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        }
        assert!(silent.request_count() >= 1);
        let alone = Proxy::start(driver, &Config::to(&silent).route("retry: { attempts: 2, per_try_timeout: 100ms }"));
        assert_eq!(problem(&alone.get("/").expect(504)).reason, "attempt_timeout");
    }

    /// A body of any size, as long as nothing of it was sent: no connection was had.
    fn ten_mebibytes_go_to_the_living(driver) {
        let well = Origin::start();
        let addresses = [nobody(), well.address().clone()];
        let proxy = Proxy::start(driver, &Config::to_addresses(&addresses));
        let payload = Payload::new(7, 10 << 20);
        for _ in 0..4 {
            let mut client = proxy.connect();
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: test\r\nx-seed: 7\r\nContent-Length: {}\r\n\r\n",
                payload.bytes
            ));
            payload.pieces(64 * 1024, |piece| {
                client.send(piece);
                Ok::<_, std::io::Error>(())
            }).expect("the whole body is taken");
            client.response("POST").expect(200);
        }
        assert_eq!(well.request_count(), 4);
        assert!(well.requests().iter().all(|request| request.failure.is_none()));
        assert!(proxy.metrics().sum("ringway_retries_total", &[]) >= 1.0);
    }

    /// A body that was sent is sent again as far as it was kept, framed either way, and byte for byte.
    fn bodies_are_sent_again(driver) {
        for (chunked, bytes, again) in
            [(false, 20_000, true), (true, 20_000, true), (false, 60_000, true), (false, 200_000, false), (true, 200_000, false)]
        {
            let failed = AtomicUsize::new(0);
            let origin = Origin::with(move |exchange| {
                exchange.read_body()?;
                if failed.fetch_add(1, Ordering::SeqCst) == 0 {
                    return exchange.reply(503, &[], "no");
                }
                exchange.reply(200, &[], "yes")
            });
            let proxy = Proxy::start(driver, &Config::to(&origin).route("retry: { methods: any }"));
            let mut client = proxy.connect();
            let payload = Payload::new(3, bytes);
            let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {bytes}") };
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nx-seed: 3\r\n{framing}\r\n\r\n"));
            // So that the body does not come with the head.
            origin.await_requests(1);
            payload.pieces(5_000, |piece| {
                if chunked {
                    client.send(format!("{:x}\r\n", piece.len()));
                }
                client.send(piece);
                if chunked {
                    client.send("\r\n");
                }
                Ok::<_, std::io::Error>(())
            }).expect("sent");
            if chunked {
                client.send("0\r\n\r\n");
            }
            let response = client.response("POST");
            assert_eq!(response.status, if again { 200 } else { 503 }, "{chunked} {bytes}");
            let requests = origin.requests();
            assert_eq!(requests.len(), if again { 2 } else { 1 }, "{chunked} {bytes}");
            for request in &requests {
                assert_eq!(request.failure, None, "{chunked} {bytes}");
                assert_eq!(request.end.as_ref().map(|end| end.bytes), Some(bytes), "{chunked} {bytes}");
            }
            if !again {
                assert_eq!(refused(&proxy, "body_consumed"), 1.0);
            }
            // The client's connection goes on.
            client.get("/next").expect(200);
        }
    }

    /// However many uploads are kept for another attempt, they have a bound together; what finds no room goes on without.
    fn bodies_are_kept_within_a_bound(driver) {
        const BYTES: usize = 150_000;
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            let again = exchange.head.field("ringway-attempt").is_some();
            exchange.reply(if again { 200 } else { 503 }, &[], "")
        });
        let config = Config::to(&origin)
            .top("limits: { memory_per_worker: 1MiB }")
            .route("retry: { methods: any, body_bytes: 256KiB, backoff: 1ms }");
        let proxy = Proxy::start(driver, &config);
        let kept = |wanted: fn(f64) -> bool| proxy.await_metric("ringway_kept_bytes", &[], wanted);
        let upload = || {
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {BYTES}\r\n\r\n"));
            client.send(vec![b'x'; BYTES - 1]);
            client
        };
        let mut first = upload();
        kept(|bytes| bytes >= (BYTES - 1) as f64);
        let mut second = upload();
        proxy.await_metric("ringway_kept_refused_total", &[], |count| count == 1.0);
        let bytes = kept(|_| true);
        assert!(bytes <= f64::from(1 << 18), "{bytes}");
        for (client, status) in [(&mut first, 200), (&mut second, 503)] {
            client.send("x");
            assert_eq!(client.response("POST").status, status);
        }
        assert_eq!(refused(&proxy, "body_consumed"), 1.0);
        kept(|bytes| bytes == 0.0);
        assert_eq!(origin.requests().iter().map(|request| request.body.len()).max(), Some(BYTES));
    }

    /// An origin that asks for patience gets it, or is left alone. What can't be read asks for nothing.
    fn retry_after(driver) {
        for (value, wait, again) in [("1", "2s", true), ("30", "2s", false), ("soon", "2s", true)] {
            let failed = AtomicUsize::new(0);
            let origin = Origin::with(move |exchange| {
                if failed.fetch_add(1, Ordering::SeqCst) == 0 {
                    return exchange.reply(503, &[("Retry-After", value)], "no");
                }
                exchange.reply(200, &[], "yes")
            });
            let route = format!("retry: {{ retry_after_max: {wait}, backoff: 1ms, backoff_max: 1ms }}");
            let proxy = Proxy::start(driver, &Config::to(&origin).route(&route));
            let begun = Instant::now();
            let response = proxy.get("/");
            assert_eq!(response.status, if again { 200 } else { 503 }, "{value}");
            if again {
                let patience = Duration::from_secs(value.parse().unwrap_or(0));
                assert!(begun.elapsed() >= patience, "{value}: {:?}", begun.elapsed());
            } else {
                assert_eq!(refused(&proxy, "retry_after"), 1.0, "{value}");
                assert_eq!(response.field("retry-after"), Some(value));
            }
        }
    }

    /// However many fail, retries are no more than their share of the requests and the floor.
    fn a_storm_stays_within_its_budget(driver) within 60 {
        const REQUESTS: usize = 500;
        let origin = Origin::with(failing(503, usize::MAX));
        let config = Config::to(&origin)
            .upstream("retry_budget: { percent: 20, min_per_second: 1 }")
            .route("retry: { attempts: 4, backoff: 1ms, backoff_max: 1ms }");
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            client.get("/").expect(503);
        }
        let seconds = begun.elapsed().as_secs() as usize + 1;
        let retries = origin.request_count() - REQUESTS;
        let bound = REQUESTS / 5 + 10 + seconds;
        assert!(retries <= bound, "{retries} retries of {REQUESTS} requests in {seconds} s, {bound} are allowed");
        assert!(retries >= REQUESTS / 5, "{retries} retries: the budget is there to be used");
        assert!(refused(&proxy, "budget") > 0.0);
    }

    /// Two proxies in a row, each with three attempts: five requests at the origin at the most, and not nine.
    fn nested_hops_add_up_and_do_not_multiply(driver) {
        let origin = Origin::with(failing(503, usize::MAX));
        let route = "retry: { attempts: 3, backoff: 1ms, backoff_max: 1ms }";
        let inner = Proxy::start(driver, &Config::to(&origin).route(route));
        let url = format!("http://{}", inner.address());
        let outer = Proxy::start(driver, &Config::to_urls(&[&url]).route(route));
        outer.get("/").expect(503);
        let attempts: Vec<_> = origin.requests().iter().map(|r| r.field("ringway-attempt").map(str::to_owned)).collect();
        let expected: Vec<Option<String>> = [None, Some("2"), Some("3"), Some("2"), Some("3")].map(|a| a.map(str::to_owned)).to_vec();
        assert_eq!(attempts, expected);
        assert_eq!(refused(&inner, "nested"), 2.0);
    }

    /// What is left of the time goes upstream, and an inner hop does not work longer than the outer one waits.
    fn deadlines_are_passed_on_and_shortened(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).route("timeouts: { request: 5s }"));
        let ms = |asked: &str| {
            proxy.connect().ask(&format!("GET / HTTP/1.1\r\nHost: test\r\n{asked}\r\n")).expect(200);
            let request = origin.requests().pop().expect("a request");
            request.field("ringway-timeout-ms").expect("the time that is left").parse::<u64>().expect("a number")
        };
        assert!((4_000..=5_000).contains(&ms("")));
        assert!((1..=900).contains(&ms("ringway-timeout-ms: 900\r\n")));
        assert!((4_000..=5_000).contains(&ms("ringway-timeout-ms: 60000\r\n")), "it can't lengthen");
        assert!((4_000..=5_000).contains(&ms("ringway-timeout-ms: soon\r\n")));
        let slow = Origin::with(|exchange| {
            let _ = exchange.wire.head();
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&slow).route("timeouts: { request: 20s }"));
        let begun = Instant::now();
        let request = "GET / HTTP/1.1\r\nHost: test\r\nringway-timeout-ms: 150\r\n\r\n";
        assert_eq!(problem(&proxy.connect().ask(request).expect(504)).reason, "request_timeout");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let request = "GET / HTTP/1.1\r\nHost: test\r\nringway-timeout-ms: 0\r\n\r\n";
        let before = slow.request_count();
        proxy.connect().ask(request).expect(504);
        assert_eq!(slow.request_count(), before, "nobody waits, so nobody works");
    }

    /// A second attempt beside a slow first: the first answer counts, and the slow one is given up.
    fn hedging(driver) {
        let slow = Origin::with(|exchange| {
            let _ = exchange.wire.head();
            Ok(After::Close)
        });
        let well = Origin::with(named("well"));
        let config = Config::to_all(&[&slow, &well]).route("hedge: { after: 100ms }");
        let proxy = Proxy::start(driver, &config);
        for _ in 0..6 {
            let begun = Instant::now();
            assert_eq!(proxy.get("/").expect(200).text(), "well");
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        }
        let metrics = proxy.metrics();
        let (hedges, won) = (metrics.sum("ringway_hedges_total", &[]), metrics.sum("ringway_hedges_won_total", &[]));
        assert_eq!(hedges, slow.request_count() as f64);
        assert!(hedges >= 2.0 && won == hedges, "{won} of {hedges}");
        slow.await_ended(slow.request_count());
        // What may have been acted upon is not sent twice.
        let before = (slow.request_count(), well.request_count());
        let mut posts: Vec<_> = (0..2).map(|_| {
            let mut client = proxy.connect();
            client.send(post("/", "x"));
            client
        }).collect();
        slow.await_requests(before.0 + 1);
        well.await_requests(before.1 + 1);
        proxy.await_metric("ringway_retries_refused_total", &[("reason", "method")], |n| n == 1.0);
        assert_eq!((slow.request_count(), well.request_count()), (before.0 + 1, before.1 + 1));
        posts.clear();
    }

    /// A hedge after 5 ms comes after 5 ms, also among others: not when the worker next happens to look.
    fn a_short_hedge_comes_in_time(driver) within 60 {
        let slow = Origin::with(|exchange| {
            std::thread::park_timeout(Duration::from_millis(300));
            scripted(exchange)
        });
        let well = Origin::start();
        let config = Config::to_all(&[&slow, &well])
            .upstream("retry_budget: { min_per_second: 1000 }")
            .route("hedge: { after: 5ms }");
        let proxy = Proxy::start(driver, &config);
        eventually("a round whose hedges come in time", || {
            let took: Vec<Duration> = std::thread::scope(|scope| {
                let ask = || {
                    let mut client = proxy.connect();
                    let ask = |_| {
                        let begun = Instant::now();
                        client.get("/").expect(200);
                        begun.elapsed()
                    };
                    (0..8).map(ask).collect::<Vec<_>>()
                };
                let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                asking.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
            });
            let mut hedged: Vec<Duration> = took.into_iter().filter(|took| *took >= Duration::from_millis(4)).collect();
            hedged.sort();
            (hedged.len() >= 4 && hedged[hedged.len() / 2] < Duration::from_millis(10)).then_some(())
        });
        assert!(proxy.metrics().sum("ringway_hedges_won_total", &[]) > 0.0);
    }

    /// Both attempts count at the origins, so hedges take from the same budget.
    fn hedges_stay_within_the_budget(driver) {
        let gate = ringway_tests::wait::Gate::new();
        let held = gate.clone();
        let slow = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let gate_two = gate.clone();
        let other = Origin::with(move |exchange| {
            gate_two.wait();
            scripted(exchange)
        });
        let config = Config::to_all(&[&slow, &other])
            .upstream("retry_budget: { percent: 0, min_per_second: 0 }")
            .route("hedge: { after: 50ms }");
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        client.send(get("/"));
        proxy.await_metric("ringway_retries_refused_total", &[("reason", "budget")], |n| n == 1.0);
        gate.open();
        client.response("GET").expect(200);
        assert_eq!(slow.request_count() + other.request_count(), 1);
    }
}
