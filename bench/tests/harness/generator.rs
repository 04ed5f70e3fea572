//! The generator tells the truth: about stalls, about what is wrong with responses, about its own counts.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ringway_bench::{
    load::{
        self, Arrivals, Digest, Error, Extent, Observer, Pace, Request, Target, Unobserved,
        stats::{Report, Second, Totals},
    },
    net::Address,
    origin::{self, Stall, pattern},
    runtime::Io,
};

use crate::support::{config, dead_address, load, start_origin};

type Change = fn(&mut load::Config);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn the_open_loop_shows_a_stall_that_the_closed_loop_hides() {
    let stall = Stall { period: ms(1000), length: ms(200) };
    let origin = start_origin(Some(stall), Io::Auto);
    let mut config = config(origin, "/bytes/100", 0);
    config.extent = Extent::For(ms(2000));
    config.connections = 4;
    let closed = load(&config);
    config.connections = 256;
    config.pace = Pace::Open { rate_per_s: 500.0, arrivals: Arrivals::Constant };
    let open = load(&config);

    // A fifth of the time nothing is answered: a fifth of those who come must wait, up to 200 ms.
    assert!(open.latency.p90_us > 50_000.0, "open loop: {:?}", open.latency);
    assert!(open.latency.p99_us > 150_000.0, "open loop: {:?}", open.latency);
    // Four connections wait twice; thousands of requests between the stalls bury that.
    assert!(closed.latency.p99_us < 100_000.0, "closed loop: {:?}", closed.latency);
    assert!(closed.latency.max_us > 100_000.0, "closed loop: {:?}", closed.latency);
    assert_eq!((open.errors_sum(), closed.errors_sum()), (0, 0));
    // The rate was kept, so latency is all that a stall costs.
    assert_eq!(open.requests + open.unsent, 1000);
}

#[test]
fn a_lack_of_connections_counts_as_latency_too() {
    // One connection, 20 ms a response: 50 a second at most, and 200 a second are due.
    let origin = start_origin(None, Io::Auto);
    let mut config = config(origin, "/bytes/1?delay=20", 0);
    config.extent = Extent::For(ms(1000));
    config.pace = Pace::Open { rate_per_s: 200.0, arrivals: Arrivals::Constant };
    let report = load(&config);
    let service = report.service.expect("an open loop has it");
    assert!(report.latency.p50_us > 2.0 * service.p50_us, "{:?}, {service:?}", report.latency);
    assert_eq!(report.requests + report.unsent, 200);
    assert!(report.unsent >= 150 && service.min_us >= 20_000.0, "{}, {service:?}", report.unsent);
}

#[test]
fn what_is_wrong_with_a_response_is_told_apart() {
    let origin = start_origin(None, Io::Auto);
    let check = |path: &str, change: Change| {
        let mut config = config(origin, path, 4);
        change(&mut config);
        load(&config)
    };
    let cases: &[(&str, Change, &str)] = &[
        ("/status/503", |_| (), "status"),
        ("/status/204", |c| c.check.status = Some(200), "status"),
        ("/bytes/10?truncate=5", |_| (), "wrong_length"),
        ("/bytes/10?chunked=3&truncate=5", |_| (), "wrong_length"),
        ("/bytes/100000?reset=50000", |_| (), "wrong_length"),
        ("/bytes/10", |c| c.check.body_bytes = Some(11), "wrong_length"),
        ("/bytes/10?corrupt", |c| c.check.digest = Digest::Exactly(pattern::digest(10)), "wrong_digest"),
        ("/bytes/10?reset", |_| (), "reset"),
        ("/bytes/10?delay=10000", |c| c.timeout = ms(10), "timeout"),
        ("/bytes/10?trickle=1,10000", |c| c.timeout = ms(10), "timeout"),
    ];
    for (path, change, kind) in cases {
        let report = check(path, *change);
        assert_eq!(
            (report.errors[kind], report.errors_sum(), report.requests),
            (4, 4, 0),
            "{path}: {report:?}"
        );
    }
    let right: &[(&str, Change)] = &[
        ("/bytes/10", |c| c.check.digest = Digest::Exactly(pattern::digest(10))),
        ("/bytes/3000000", |c| c.check.digest = Digest::Exactly(pattern::digest(3_000_000))),
        ("/bytes/3000000", |c| c.check.body_bytes = Some(3_000_000)),
        ("/bytes/3000000?chunked=100000", |c| c.check.body_bytes = Some(3_000_000)),
        ("/bytes/10?unframed", |c| c.check.digest = Digest::Exactly(pattern::digest(10))),
        ("/bytes/70000?chunked=999", |c| c.check.digest = Digest::SameAsFirst),
        ("/status/204", |_| ()),
        ("/bytes/10", |c| c.request.method = "HEAD".to_owned()),
        ("/bytes/10", |c| c.io = Io::Epoll),
        ("/bytes/3000000", |c| c.io = Io::Epoll),
    ];
    for (path, change) in right {
        let report = check(path, *change);
        assert_eq!((report.requests, report.errors_sum()), (4, 0), "{path}: {report:?}");
    }
}

#[test]
fn a_digest_that_changes_is_noticed_without_being_told_the_right_one() {
    let origin = start_origin(None, Io::Auto);
    let mut config = config(origin, "/bytes/10", 10);
    // Two targets have a digest each; the same target must not change its own.
    config.targets.push(Target::parse(&format!("http://{origin}/bytes/11"), 1).expect("a URL"));
    config.check.digest = Digest::SameAsFirst;
    assert_eq!(load(&config).requests, 10);

    let answers = ["aaaa", "aaaa", "aaab", "aaaa"];
    let address =
        scripted_server(&answers.map(|body| format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}")));
    let mut config = crate::support::config(address, "/", 4);
    config.check.digest = Digest::SameAsFirst;
    let report = load(&config);
    assert_eq!((report.requests, report.errors["wrong_digest"]), (3, 1));
}

#[test]
fn what_is_not_http_is_malformed() {
    for answer in
        ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n"]
    {
        let address = scripted_server(&[answer.to_owned()]);
        let report = load(&config(address, "/", 1));
        assert_eq!(report.errors["malformed"], 1, "{answer}");
    }
}

/// Answers one connection's requests with the given bytes, in order. Other connections are accepted and left.
fn scripted_server(answers: &[String]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answers = answers.to_vec();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let mut request = [0; 4096];
            for answer in &answers {
                // The generator looks once whether anybody is there, without a request.
                if socket.read(&mut request).unwrap_or(0) == 0 || socket.write_all(answer.as_bytes()).is_err()
                {
                    break;
                }
            }
        }
    });
    address
}

#[test]
fn requests_are_counted_and_spread() {
    let origin = start_origin(None, Io::Auto);
    let mut plain = config(origin, "/bytes/100", 1001);
    plain.connections = 7;
    plain.threads = 2;
    let report = load(&plain);
    assert_eq!((report.requests, report.body_bytes, report.connections_opened), (1001, 100_100, 7));
    assert_eq!(report.histogram.len(), 1001);

    let mut churning = config(origin, "/bytes/100", 100);
    churning.requests_per_connection = Some(3);
    assert_eq!(load(&churning).connections_opened, 34);

    let mut weighted = config(origin, "/bytes/1", 400);
    weighted.targets[0].weight = 3;
    weighted.targets.push(Target::parse(&format!("http://{origin}/bytes/1000"), 1).expect("a URL"));
    assert_eq!(load(&weighted).body_bytes, 300 + 100 * 1000);

    let mut posting = config(origin, "/bytes/5", 20);
    posting.request = Request { method: "POST".to_owned(), headers: Vec::new(), body: vec![b'x'; 5 << 20] };
    assert_eq!(load(&posting).requests, 20);

    let mut counted = config(origin, "/bytes/5", 50);
    counted.pace = Pace::Open { rate_per_s: 1000.0, arrivals: Arrivals::Poisson };
    let report = load(&counted);
    assert_eq!((report.requests, report.unsent), (50, 0));
}

#[test]
fn unix_sockets_are_loaded_whatever_the_url_names() {
    let path = std::env::temp_dir().join(format!("ringway-bench-test-load-{}.sock", std::process::id()));
    let listen = vec![Address::Unix(path.clone())];
    let origin = origin::Config { listen, workers: 1, io: Io::Auto, stall: None, tls: None };
    let address = origin::start(&origin).expect("an origin").addresses.remove(0);
    for io in [Io::Auto, Io::Epoll] {
        // The second is longer than what is received at once, and is discarded with a copy there.
        for (target, body_bytes) in [("/bytes/10", 10), ("/bytes/3000000", 3_000_000)] {
            let url = format!("http://no-such-host.invalid{target}");
            let mut config = config(SocketAddr::from(([127, 0, 0, 1], 1)), "/", 12);
            config.targets = vec![Target::parse_to(&url, 1, address.clone()).expect("a URL")];
            config.connections = 3;
            config.io = io;
            config.check.body_bytes = Some(body_bytes);
            let report = load(&config);
            assert_eq!((report.requests, report.connections_opened), (12, 3), "{:?}", report.errors);
            assert_eq!(report.targets, [url]);
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_ringway-bench"))
        .args(["load", "http://x/bytes/1", "-n", "5", "-c", "1", "--unix-socket"])
        .arg(&path)
        .output()
        .expect("the program under test");
    assert!(output.status.success(), "{output:?}");
    std::fs::remove_file(path).expect("our own file");
}

#[test]
fn a_server_that_closes_after_each_response_is_no_error() {
    let origin = start_origin(None, Io::Auto);
    let report = load(&config(origin, "/bytes/10?close", 20));
    assert_eq!((report.requests, report.errors_sum(), report.connections_opened), (20, 0, 20));
}

#[test]
fn a_target_that_goes_away_is_an_error_of_its_own() {
    // The probe is accepted, what follows is refused.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepts_one = thread::spawn(move || drop(listener.accept()));
    let mut config = config(address, "/", 0);
    config.extent = Extent::For(ms(300));
    config.timeout = ms(200);
    let report = load(&config);
    accepts_one.join().expect("one connection");
    assert_eq!(report.requests, 0);
    assert!(report.errors["connect"] + report.errors["reset"] > 0, "{report:?}");
    // It pauses between attempts.
    assert!(report.errors_sum() < 100, "{report:?}");
}

#[test]
fn a_server_that_never_accepts_runs_into_the_deadline() {
    // Some connections wait in the backlog for an answer, the rest for their handshake.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    listener.listen(1).expect("a listener");
    let address = listener.local_addr().expect("an address").as_socket().expect("an IP address");
    let mut config = config(address, "/", 0);
    config.extent = Extent::For(ms(200));
    config.timeout = ms(50);
    config.connections = 8;
    let since = Instant::now();
    let report = load(&config);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert!(report.errors["timeout"] >= 8 && report.errors["timeout"] == report.errors_sum(), "{report:?}");
    assert!(report.latency.min_us >= 50_000.0, "{:?}", report.latency);
}

#[test]
fn what_cannot_be_run_is_refused() {
    let run = |config: &load::Config| load::run(config, &Arc::new(AtomicBool::new(false)), &mut Unobserved);
    let (_bound, dead) = dead_address();
    assert!(matches!(run(&config(dead, "/", 1)), Err(Error::Unreachable { .. })));
    let mut greedy = config(dead, "/", 1);
    greedy.connections = 2_000_000_000;
    assert!(matches!(run(&greedy), Err(Error::Descriptors { .. })));
    let mut thin = config(dead, "/", 1);
    thin.threads = 2;
    assert!(matches!(run(&thin), Err(Error::TooFewConnections { needed: 2, .. })));
    let mut elsewhere = config(start_origin(None, Io::Auto), "/bytes/1", 1);
    elsewhere.cores = vec![1000];
    assert!(matches!(run(&elsewhere), Err(Error::Start(_))));
}

/// Stops the run when the first second has been told.
struct StopEarly(Arc<AtomicBool>);

impl Observer for StopEarly {
    fn second(&mut self, _second: &Second, totals: &Totals) {
        assert!(totals.counts.requests > 0);
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_run_that_is_stopped_reports_what_it_has() {
    let origin = start_origin(None, Io::Auto);
    let mut config = config(origin, "/bytes/10?delay=1", 0);
    config.extent = Extent::For(Duration::from_secs(600));
    config.connections = 4;
    let stop = Arc::new(AtomicBool::new(false));
    let since = Instant::now();
    let report: Report = load::run(&config, &stop, &mut StopEarly(stop.clone())).expect("a report");
    assert!(report.interrupted && report.requests > 0 && since.elapsed() < Duration::from_secs(60));
    // What was under way when it was stopped is nobody's error.
    assert_eq!(report.errors_sum(), 0);
    assert!(report.elapsed_s < 60.0, "{}", report.elapsed_s);
}
