//! Peers that are slow, that stall, and that leave at the worst moment: no hang, no leak, no truncated body passed off
//! as whole, no dirty connection used again, and no more held for a slow reader than the kernel's buffers and ours.

use ringway_tests::client::{Client, chunked, get, post};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, BodyKind, Exchange, Origin, Outcome, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, PATIENCE, eventually};
use ringway_tests::wire::WireError;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

/// What the proxy itself may hold for one exchange: a buffer each way, a splice pipe, and room to spare.
const HELD_BYTES_MAX: u64 = 1 << 20;

/// Several times what can pile up in all buffers together.
const ENDLESS: u64 = 160 << 20;

/// What a reader that stopped can make pile up on its way: in the kernel's receive buffers, which it grows for a fast
/// sender (half of `tcp_rmem` is window), in its send buffers, and with the proxy.
fn piled_up_bytes_max() -> u64 {
    let largest = |name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("Linux");
        text.split_whitespace().nth(2).and_then(|max| max.parse().ok()).expect("three numbers")
    };
    let all = largest("tcp_rmem") + 2 * largest("tcp_wmem") + HELD_BYTES_MAX;
    assert!(
        all < ENDLESS / 2,
        "{all} bytes of kernel buffers: the bodies here are too small to show anything"
    );
    all
}

/// A write that takes longer than this has hit back-pressure.
const STALLED: Duration = Duration::from_millis(500);

/// Writes a payload until a write stalls, reports how far it got, and goes on when the gate opens.
fn write_until_stalled(
    exchange: &mut Exchange<'_>,
    payload: Payload,
    stalled_at: &mpsc::Sender<u64>,
    go_on: &Gate,
) -> Outcome {
    use std::io::Write;
    exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", payload.bytes))?;
    exchange.wire.stream.write_patience(STALLED)?;
    let mut piece = vec![0; 64 * 1024];
    let mut sent = 0;
    let mut told = false;
    while sent < payload.bytes {
        let now = (payload.bytes - sent).min(piece.len() as u64) as usize;
        payload.fill(sent, &mut piece[..now]);
        match exchange.wire.stream.write(&piece[..now]) {
            Ok(count) => sent += count as u64,
            Err(error) => match WireError::from(error) {
                WireError::TimedOut if !told => {
                    told = true;
                    let _ = stalled_at.send(sent);
                    go_on.wait();
                    exchange.wire.stream.write_patience(PATIENCE)?;
                }
                failure => return Err(failure),
            },
        }
    }
    Ok(After::KeepAlive)
}

for_each_driver! {
    fn a_slow_reader_stops_the_fast_writer(driver) within 60 {
        let payload = Payload::new(1, ENDLESS);
        let (tell, stalled_at) = mpsc::channel();
        let tell = Mutex::new(tell);
        let gate = Gate::new();
        let go_on = gate.clone();
        let origin = Origin::with(move |exchange| {
            let tell = tell.lock().unwrap().clone();
            write_until_stalled(exchange, payload, &tell, &go_on)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = Client::connect_narrow(proxy.address(), 64 * 1024);
        client.send(get("/"));
        let sent = stalled_at.recv_timeout(PATIENCE).expect("the writer is stopped");
        let bound = piled_up_bytes_max();
        assert!(sent < bound, "{sent} bytes taken for a client that reads none, of at most {bound}");
        gate.open();
        client.response_of("GET", payload).expect(200);
    }

    /// A Unix socket's buffers do not grow, so that the bound is a tight one: what remains is the way to the client.
    fn a_slow_reader_stops_a_writer_on_a_unix_socket(driver) within 60 {
        let payload = Payload::new(1, ENDLESS);
        let (tell, stalled_at) = mpsc::channel();
        let tell = Mutex::new(tell);
        let gate = Gate::new();
        let go_on = gate.clone();
        let folder = Folder::new(&format!("slow-{}", driver.name()));
        let origin = Origin::on_unix(&folder.join("origin"), move |exchange| {
            let tell = tell.lock().unwrap().clone();
            write_until_stalled(exchange, payload, &tell, &go_on)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = Client::connect_narrow(proxy.address(), 64 * 1024);
        client.send(get("/"));
        let sent = stalled_at.recv_timeout(PATIENCE).expect("the writer is stopped");
        // tcp_wmem's usual maximum of 4 MiB, the Unix socket's 208 KiB, and ours.
        assert!(sent < (5 << 20) + HELD_BYTES_MAX, "{sent} bytes taken for a client that reads none");
        gate.open();
        client.response_of("GET", payload).expect(200);
    }

    fn a_slow_origin_stops_the_fast_client(driver) within 60 {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            exchange.wire.stream.receive_buffer(64 * 1024)?;
            held.wait();
            let end = exchange.read_body()?;
            exchange.reply(200, &[], end.bytes.to_string())
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let payload = Payload::new(2, ENDLESS);
        let mut client = proxy.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nX-Seed: 2\r\nContent-Length: {ENDLESS}\r\n\r\n"));
        client.wire.stream.write_patience(STALLED).unwrap();
        let bound = piled_up_bytes_max();
        let mut sent = 0;
        let mut piece = vec![0; 64 * 1024];
        loop {
            payload.fill(sent, &mut piece);
            match std::io::Write::write(&mut client.wire.stream, &piece) {
                Ok(count) => sent += count as u64,
                Err(error) => {
                    assert_eq!(WireError::from(error), WireError::TimedOut);
                    break;
                }
            }
            assert!(sent < bound, "{sent} bytes taken for an origin that reads none, of at most {bound}");
        }
        gate.open();
        client.wire.stream.write_patience(PATIENCE).unwrap();
        while sent < ENDLESS {
            let now = (ENDLESS - sent).min(piece.len() as u64) as usize;
            payload.fill(sent, &mut piece[..now]);
            client.send(&piece[..now]);
            sent += now as u64;
        }
        assert_eq!(client.response("POST").expect(200).text(), ENDLESS.to_string());
    }

    fn a_client_that_leaves_in_its_body_takes_the_upstream_connection_with_it(driver) {
        for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
            let origin = Origin::start();
            let proxy = Proxy::start(driver, &Config::to(&origin));
            for reset in [false, true] {
                let before = origin.request_count();
                let mut client = proxy.connect();
                client.send(format!("POST /part HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n5\r\nhello"));
                origin.await_requests(before + 1);
                if reset { client.reset() } else { drop(client) }
                let record = origin.await_finished(before);
                assert!(
                    matches!(record.failure, Some(WireError::Truncated(_) | WireError::Reset)),
                    "half a body must not look whole: {record:?}"
                );
            }
            assert_eq!(proxy.get("/next").expect(200).text(), "GET /next");
            assert_eq!(origin.accepted(), 3, "a connection with half a request on it is not used again");
        }
    }

    fn a_client_that_leaves_in_the_answer_stops_the_origin(driver) {
        let origin = Origin::with(|exchange| match exchange.target() {
            "/endless" => exchange.reply_payload(BodyKind::Length, Payload::new(1, 1 << 40)),
            _ => scripted(exchange),
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for reset in [false, true] {
            let before = origin.request_count();
            let mut client = proxy.connect();
            client.send(get("/endless"));
            assert_eq!(client.response_head().expect("a head").1, 200);
            client.wire.exactly(100_000).expect("the start of the body");
            if reset { client.reset() } else { drop(client) }
            let failure = origin.await_finished(before).failure;
            assert!(matches!(failure, Some(WireError::Reset)), "the origin can stop: {failure:?}");
        }
        proxy.get("/next").expect(200);
        assert_eq!(origin.accepted(), 3);
    }

    fn a_client_that_leaves_before_the_answer_costs_nothing(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            if exchange.target() == "/held" {
                held.wait();
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(get("/held"));
        origin.await_requests(1);
        client.reset();
        // Whether the proxy notices at once or only when it writes, the count goes back to nothing.
        gate.open();
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
        for number in 0..10 {
            assert_eq!(proxy.get(&format!("/{number}")).expect(200).text(), format!("GET /{number}"));
        }
    }

    fn an_origin_that_leaves_before_its_head_is_a_bad_gateway(driver) {
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            match exchange.target() {
                "/close" => Ok(After::Close),
                "/reset" => Ok(After::Reset),
                "/half-head-close" => {
                    exchange.write("HTTP/1.1 200 OK\r\nContent-Le")?;
                    Ok(After::Close)
                }
                "/half-head-reset" => {
                    exchange.write("HTTP/1.1 200 OK\r\nContent-Le")?;
                    Ok(After::Reset)
                }
                _ => exchange.reply(200, &[], "fine"),
            }
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for target in ["/close", "/reset", "/half-head-close", "/half-head-reset"] {
            // POST, since nobody may send it twice.
            client.ask(&post(target, "body")).expect(502);
            assert_eq!(client.get("/fine").expect(200).text(), "fine", "the client's connection survives {target}");
        }
        let times = |target: &str| origin.requests().iter().filter(|r| r.target() == target).count();
        assert_eq!([times("/close"), times("/reset"), times("/half-head-close"), times("/half-head-reset")], [1; 4]);
    }

    fn an_origin_that_leaves_in_its_body_truncates_the_answer(driver) {
        let origin = Origin::with(|exchange| {
            let target = exchange.target().to_owned();
            let head = if target.starts_with("/length") { "Content-Length: 100000" } else { "Transfer-Encoding: chunked" };
            exchange.write(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n400\r\n"))?;
            exchange.write(vec![b'x'; 0x400])?;
            Ok(if target.ends_with("reset") { After::Reset } else { After::Close })
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for target in ["/length/close", "/length/reset", "/chunked/close", "/chunked/reset"] {
            let mut client = proxy.connect();
            client.send(get(target));
            let got = client.try_response("GET").map(|response| (response.status, response.end.bytes));
            let cut = matches!(got, Err(WireError::Truncated(_) | WireError::Reset));
            // A reset may overtake the head, which nobody has seen then.
            let overtaken = target.ends_with("reset") && matches!(got, Ok((502, _)));
            assert!(cut || overtaken, "{target}: {got:?}");
        }
    }

    /// RFC 9110 section 7.5 and 10.1.1: an answer may come while the body is still being sent; the client must get it.
    fn an_early_answer_reaches_a_client_that_still_sends(driver) {
        let origin = Origin::with(|exchange| {
            exchange.abandon_body();
            exchange.write("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly")?;
            // Leaves with an orderly end of its own, and takes nothing more.
            exchange.wire.stream.shutdown(std::net::Shutdown::Write)?;
            exchange.wire.stream.receive_buffer(16 * 1024)?;
            while exchange.wire.fill()? != 0 {}
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
            let piece = chunked(&[b'x'; 1000], 1000);
            client.send(&piece[..piece.len() - 5]);
            // The rest of the body may be refused (a close) or thrown away; the answer comes first either way.
            assert_eq!(client.response("POST").expect(413).text(), "early");
        }
        proxy.get("/next").expect(413);
    }

    /// An early answer on a connection that stays open upstream: it still has half a request on it.
    fn an_early_answer_does_not_leave_a_dirty_connection(driver) {
        let origin = Origin::with(|exchange| {
            if exchange.target() == "/early" {
                exchange.reply(200, &[], "early")?;
                // Reads on to the end of the body, if one comes.
                exchange.read_body()?;
                return Ok(After::KeepAlive);
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send("POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
        assert_eq!(client.response("POST").expect(200).text(), "early");
        drop(client);
        for number in 0..5 {
            assert_eq!(proxy.get(&format!("/{number}")).expect(200).text(), format!("GET /{number}"));
        }
    }

    /// A client that has said all it has to say still gets its answer (RFC 9112 section 9.6 is about servers; TCP's
    /// half-close is no abort).
    fn a_half_closed_client_is_answered(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            exchange.read_body()?;
            exchange.reply_payload(BodyKind::Length, Payload::new(9, 500_000))
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(post("/", "body"));
        client.half_close();
        origin.await_requests(1);
        gate.open();
        client.response_of("POST", Payload::new(9, 500_000)).expect(200);
        client.expect_end();
    }

    fn a_half_head_and_a_close_is_nothing(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for part in ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: test\r\n"] {
            let mut client = proxy.connect();
            client.send(part);
            client.half_close();
            let rest = client.wire.to_end();
            // Nothing, or a 400: both are fine, an answer from the origin is not.
            assert!(rest.as_ref().is_ok_and(|r| r.is_empty() || r.starts_with(b"HTTP/1.1 400 ")), "{part:?}: {rest:?}");
        }
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
        assert_eq!(origin.request_count(), 0);
    }

    /// Extra bytes after an answer belong to no request: the next client must not get them.
    fn an_origin_that_says_too_much_poisons_nobody(driver) {
        let origin = Origin::with(|exchange| {
            if exchange.target() == "/poison" {
                exchange.write(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
                )?;
                return Ok(After::KeepAlive);
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for _ in 0..5 {
            assert_eq!(proxy.get("/poison").expect(200).text(), "ok");
            assert_eq!(proxy.get("/clean").expect(200).text(), "GET /clean");
        }
    }

    fn a_hundred_clients_leaving_at_random_points_leak_nothing(driver) {
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            exchange.reply_payload(BodyKind::Chunked(5000), Payload::new(1, 200_000))
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let request = post("/", "0123456789");
        for number in 0..100 {
            let mut client = proxy.connect();
            let sent = number * 7 % (request.len() + 1);
            client.send(&request.as_bytes()[..sent]);
            if sent == request.len() {
                let _ = client.wire.exactly(number * 1999 % 150_000);
            }
            if number % 2 == 0 { client.reset() } else { drop(client) }
        }
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
        // Upstream connections that were cut are closed; at most the clean ones stay pooled.
        eventually("closed upstream connections", || (origin.accepted() - origin.ended() <= 2).then_some(()));
        client_is_served(&proxy);
    }
}

fn client_is_served(proxy: &Proxy) {
    let mut client = proxy.connect();
    client.send(get("/"));
    client.response_of("GET", Payload::new(1, 200_000)).expect(200);
}
