//! The admin port: readiness, liveness, the configuration in force, metrics that a strict scraper accepts.

use ringway_tests::client::{Client, get, post};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, scripted};
use ringway_tests::proxy::Proxy;
use ringway_tests::stream::Address;
use ringway_tests::wait::Gate;
use std::os::unix::fs::PermissionsExt as _;

for_each_driver! {
    fn ready_and_live(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for path in ["/ready", "/live"] {
            proxy.admin(path).expect(200);
        }
        proxy.admin("/nothing-here").expect(404);
        let mut client = Client::connect(proxy.admin_address());
        let response = client.ask(&post("/metrics", "x"));
        assert_eq!(response.status, 405, "{:?}", response.head);
        assert!(proxy.admin_address().ip().is_loopback());
    }

    /// A page whose name leads to our address is told off; a name that is configured, and any address, are not.
    fn other_names_are_refused(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for (host, status) in [
            ("test", 200),
            ("localhost:9901", 200),
            ("127.0.0.1", 200),
            ("[::1]:9901", 200),
            ("evil.example", 421),
            ("127.0.0.1.evil.example:9901", 421),
        ] {
            for path in ["/metrics", "/config", "/ready"] {
                let mut client = Client::connect(proxy.admin_address());
                let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
                assert_eq!(answer.status, status, "{host} {path}");
            }
        }
        let mut client = Client::connect(proxy.admin_address());
        client.ask("POST /drain HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n").expect(421);
        proxy.admin("/ready").expect(200);
    }

    /// Reading and acting apart: a listener for everybody, and a socket for those who may act.
    fn actions_have_a_socket_of_their_own(driver) {
        let origin = Origin::start();
        let folder = Folder::new(&format!("admin-actions-{}", driver.name()));
        let socket = folder.join("actions.sock");
        let text = Config::to(&origin).to_string();
        let own = format!("\n  mode: \"0660\"\n  actions: \"unix:{}\"", socket.display());
        let proxy = Proxy::start_text(driver, &text.replace("\n  hosts: [test]", &format!("\n  hosts: [test]{own}")));
        assert_eq!(socket.metadata().expect("a socket").permissions().mode() & 0o777, 0o660);
        let drain = post("/drain", "");
        Client::connect(proxy.admin_address()).ask(&drain).expect(403);
        Client::connect(proxy.admin_address()).get("/metrics").expect(200);
        let mut client = Client::connect(Address::Unix(socket.clone()));
        client.ask("GET /ready HTTP/1.1\r\nHost: anything\r\n\r\n").expect(200);
        client.ask("POST /drain HTTP/1.1\r\nHost: a\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n").expect(403);
        Client::connect(Address::Unix(socket)).ask(&drain).expect(202);
        proxy.wait();
    }

    fn actions_may_be_off(driver) {
        let origin = Origin::start();
        let text = Config::to(&origin).to_string();
        let off = "\n  hosts: [test]\n  actions: off";
        let proxy = Proxy::start_text(driver, &text.replace("\n  hosts: [test]", off));
        for path in ["/drain", "/rate-limits/reset?limit=a&key=b", "/canaries/restart?route=a"] {
            Client::connect(proxy.admin_address()).ask(&post(path, "")).expect(403);
        }
        proxy.admin("/ready").expect(200);
    }

    fn the_configuration_in_force(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).route("timeouts: { request: 7s }"));
        let response = proxy.admin("/config").expect(200);
        assert_eq!(response.field("content-type"), Some("application/json"));
        let shown: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
        let text = shown.to_string();
        assert!(text.contains(&origin.address().to_string()) && text.contains("\"7s\""), "{text}");
        let series = proxy.metrics().series("ringway_snapshot_info").to_vec();
        assert_eq!(series.len(), 1);
        assert!(text.contains(&series[0].labels["hash"]), "the hash in the metrics is the one shown: {text}");
    }

    fn the_driver_is_told(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let metrics = proxy.metrics();
        for name in ["uring", "epoll"] {
            let expected = f64::from(u8::from(name == driver.name()));
            assert_eq!(metrics.one("ringway_io_driver", &[("driver", name)]), Some(expected), "{name}");
        }
    }

    /// Every number is the one that happened, not just some number.
    fn metrics_add_up(driver) {
        let origin = Origin::with(|exchange| match exchange.target() {
            "/404" => exchange.reply(404, &[], "no"),
            "/500" => exchange.reply(500, &[], "oops"),
            _ => scripted(exchange),
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for (target, times) in [("/", 5), ("/404", 3), ("/500", 2)] {
            for _ in 0..times {
                client.get(target);
            }
        }
        client.ask(&post("/", "12345")).expect(200);
        proxy.await_metric("ringway_requests_total", &[], |count| count == 11.0);
        let metrics = proxy.metrics();
        for (code, expected) in [("1xx", 0.0), ("2xx", 6.0), ("3xx", 0.0), ("4xx", 3.0), ("5xx", 2.0)] {
            assert_eq!(metrics.one("ringway_requests_total", &[("code", code)]), Some(expected), "{code}");
        }
        assert_eq!(metrics.kind("ringway_requests_total"), Some("counter"));
        assert_eq!(metrics.kind("ringway_request_duration_seconds"), Some("histogram"));
        assert_eq!(metrics.one("ringway_request_duration_seconds_count", &[]), Some(11.0));
        assert_eq!(metrics.sum("ringway_request_body_bytes_total", &[]), 5.0);
        let bodies = 5 * "GET /".len() + 3 * "no".len() + 2 * "oops".len() + "12345".len();
        assert_eq!(metrics.sum("ringway_response_body_bytes_total", &[]), bodies as f64);
        assert_eq!(metrics.sum("ringway_downstream_connections_total", &[]), 1.0);
        assert_eq!(metrics.sum("ringway_downstream_connections", &[]), 1.0);
        assert_eq!(metrics.sum("ringway_route_requests_total", &[("route", "all")]), 11.0);
        assert_eq!(metrics.sum("ringway_upstream_requests_total", &[]), 11.0);
        assert!(metrics.sum("process_resident_memory_bytes", &[]) > 1e6);
        assert!(metrics.sum("ringway_uptime_seconds", &[]) >= 0.0);
        assert_eq!(metrics.sum("ringway_workers_silent", &[]), 0.0);
    }

    fn what_is_going_on_is_shown(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        origin.await_requests(3);
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("ringway_requests_active", &[]), 3.0);
        assert_eq!(metrics.sum("ringway_upstream_requests_active", &[]), 3.0);
        gate.open();
        for client in &mut clients {
            client.response("GET").expect(200);
        }
        proxy.await_metric("ringway_requests_active", &[], |active| active == 0.0);
        proxy.await_metric("ringway_upstream_connections_idle", &[], |idle| idle == 3.0);
    }
}
