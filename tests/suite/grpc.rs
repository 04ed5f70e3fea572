//! gRPC through the proxy, by other people's implementation of it on both sides (grpcio, on gRPC's C core): calls of all
//! four kinds, metadata, errors in trailers alone, deadlines, and cancellation from either side. What is asked and
//! expected stands in `tests/peers/grpc_peer.py`.

use h2::Reason;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::Failure;
use ringway_tests::h2::client::{Client, Then, request};
use ringway_tests::h2::origin::Origin;
use ringway_tests::process::Process;
use ringway_tests::proxy::{Driver, Proxy};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/grpc_peer.py");

/// Whether grpcio can be had; `.ci/run` installs it.
fn grpcio() -> bool {
    let asked = Command::new("python3").args(["-c", "import grpc"]).output();
    let there = asked.is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: grpcio is not installed (pip install grpcio)");
    }
    there
}

struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let mut process = Process::spawn(Command::new("python3").arg(SCRIPT).arg("server"));
        let port = process.await_output("a port (is grpcio there? pip install grpcio)", |output| {
            output.lines().find_map(|line| line.strip_prefix("port ")?.trim().parse::<u16>().ok())
        });
        Server { process, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn config(&self) -> Config {
        Config::to_addresses(&[self.address.into()]).upstream("protocol: http2")
    }
}

/// Runs these cases of the client, each of which must say that it is fine.
#[track_caller]
fn ask(address: SocketAddr, cases: &[&str]) {
    let address = address.to_string();
    let client = Process::spawn(Command::new("python3").args([SCRIPT, "client", &address]).args(cases));
    let finished = client.finish();
    let expected: Vec<_> = cases.iter().map(|case| format!("{case}: ok")).collect();
    let said: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(said, expected, "{}", finished.stderr);
    assert!(finished.status.success(), "{}", finished.stderr);
}

#[track_caller]
fn through(driver: Driver, config: impl FnOnce(Config) -> Config, cases: &[&str]) {
    if !grpcio() {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::start(driver, &config(server.config()));
    ask(proxy.address(), cases);
    proxy.await_metric("ringway_requests_active", &[], |active| active == 0.0);
    proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
    assert!(server.process.stderr().is_empty(), "{}", server.process.stderr());
}

for_each_driver! {
    fn unary_calls(driver) within 60 {
        through(driver, |config| config, &["unary_calls", "compression", "parallel_calls"]);
    }

    fn metadata(driver) within 60 {
        through(driver, |config| config, &["metadata", "large_metadata"]);
    }

    fn errors(driver) within 60 {
        through(driver, |config| config, &["trailers_only_errors", "late_errors", "a_server_that_ends_the_chat"]);
    }

    fn streams(driver) within 60 {
        through(driver, |config| config, &["client_streaming", "server_streaming", "bidirectional_streaming"]);
    }

    fn deadlines_and_cancellation(driver) within 60 {
        through(driver, |config| config, &["deadlines", "cancelled_by_the_client"]);
    }

    /// What the proxy refuses comes as a status of gRPC, with the reason code as its message.
    fn refusals_of_our_own(driver) within 60 {
        through(driver, |config| config.route("timeouts: { request: 300ms }"), &["too_slow"]);
        let only = "- { name: only, match: { path: { prefix: /other } }, upstream: origin }";
        through(driver, |config| config.routes(only), &["no_route"]);
        if !grpcio() {
            return;
        }
        let gone = Origin::start();
        let config = gone.config();
        drop(gone);
        let proxy = Proxy::start(driver, &config);
        ask(proxy.address(), &["nobody_there"]);
    }

    /// The client's own deadline bounds the exchange: an origin that does not know of it is not waited for.
    fn a_deadline_that_the_origin_does_not_heed(driver) {
        let origin = Origin::with(|exchange| {
            assert!(exchange.head.headers.contains_key("grpc-timeout"));
            exchange.read_body()?;
            Err(Failure::Reset(exchange.await_reset()?))
        });
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "300m")];
        let started = Instant::now();
        let mut call = client.open(request("POST", "/ringway.Test/Wait", &fields), Then::More);
        call.send(vec![0; 5], Then::End);
        let answer = call.response().expect(200);
        assert!(started.elapsed() >= Duration::from_millis(290), "{:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        // Trailers-Only: the status stands in the head, and nothing follows it.
        assert_eq!(answer.field("grpc-status"), Some("4"), "{:?}", answer.fields);
        assert_eq!(answer.field("grpc-message"), Some("request_timeout"), "{:?}", answer.fields);
        assert_eq!(answer.field("content-type"), Some("application/grpc"));
        assert!(answer.body.is_empty());
        assert_eq!(origin.await_failed(0), Failure::Reset(Reason::CANCEL), "the origin is told");
    }

    fn a_stream_that_is_cut(driver) within 60 {
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            exchange.answer(200, &[("content-type", "application/grpc")], Then::More)?;
            // One message, and half of another.
            exchange.send(b"\0\0\0\0\x01a\0\0\0\0\x09half".as_slice(), Then::More)?;
            exchange.cut();
            exchange.await_reset().map(drop)
        });
        let proxy = Proxy::start(driver, &origin.config());
        ask(proxy.address(), &["cut_in_the_middle"]);
    }

    /// A gRPC client keeps one connection for hours: that it is replaced now and then must not be felt.
    fn connections_that_age(driver) within 60 {
        let ageing = |config: Config| config.listener("requests_per_connection_max: 20");
        through(driver, ageing, &["connections_that_age"]);
    }
}
