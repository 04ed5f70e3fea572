//! The access log: a JSON line for each request that it is meant to have, with what really happened, whatever bytes a
//! client has sent.

use ringway_tests::client::{get, post};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::wait::eventually;
use serde_json::Value;
use std::fs;

/// A proxy that logs into a file of the folder.
fn start(driver: Driver, folder: &Folder, mode: &str, origin: &Origin) -> Proxy {
    let path = folder.join("access.log");
    let log = format!("access_log: {{ mode: {mode}, sample: 0.0, path: \"{}\" }}", path.display());
    let routes = "- { name: users, match: { path: { prefix: /users } }, upstream: origin }";
    Proxy::start(driver, &Config::to(origin).top(&log).routes(routes))
}

/// The lines, once there are this many.
#[track_caller]
fn lines(folder: &Folder, count: usize) -> Vec<Value> {
    eventually(&format!("{count} log lines"), || {
        let text = fs::read_to_string(folder.join("access.log")).unwrap_or_default();
        (text.lines().count() >= count && text.ends_with('\n')).then(|| {
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
                .collect()
        })
    })
}

for_each_driver! {
    /// Which arm of its route's split took a request; a route without arms names none.
    fn arms_are_named(driver) {
        let folder = Folder::new(&format!("log-arms-{}", driver.name()));
        let origin = Origin::start();
        let log = format!("access_log: {{ mode: all, path: \"{}\" }}", folder.join("access.log").display());
        let routes = "- { name: plain, match: { path: { prefix: /plain } }, upstream: origin }\n\
                      - { name: split, split: { active: new, arms: [{ upstream: origin }, { upstream: origin, name: new }] } }";
        let proxy = Proxy::start(driver, &Config::to(&origin).top(&log).routes(routes));
        proxy.get("/").expect(200);
        proxy.get("/plain").expect(200);
        let lines = lines(&folder, 2);
        assert_eq!((&lines[0]["route"], &lines[0]["arm"]), (&"split".into(), &"new".into()));
        assert_eq!((&lines[1]["route"], &lines[1]["arm"]), (&"plain".into(), &Value::Null));
    }

    /// What a gRPC call ended with, whether it came in the head or behind messages.
    fn grpc_calls_say_how_they_ended(driver) {
        let folder = Folder::new(&format!("log-grpc-{}", driver.name()));
        let origin = Origin::with(|exchange| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n";
            exchange.write(match exchange.target() {
                "/users/alone" => format!("{head}grpc-status: 14\r\nContent-Length: 0\r\n\r\n"),
                _ => format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: 13\r\n\r\n"),
            })?;
            Ok(After::KeepAlive)
        });
        let proxy = start(driver, &folder, "all", &origin);
        let mut client = proxy.connect();
        for target in ["alone", "behind"] {
            client.ask(&format!("POST /users/{target} HTTP/1.1\r\nHost: t\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")).expect(200);
        }
        client.get("/users/alone").expect(200);
        let lines = lines(&folder, 3);
        let statuses: Vec<_> = lines.iter().map(|line| &line["grpc_status"]).collect();
        assert_eq!(statuses, [&Value::from(14), &13.into(), &Value::Null]);
    }

    fn all_of_them(driver) {
        let folder = Folder::new(&format!("log-all-{}", driver.name()));
        let origin = Origin::start();
        let proxy = start(driver, &folder, "all", &origin);
        let mut client = proxy.connect();
        client.ask("POST /users/7?q=%22 HTTP/1.1\r\nHost: api.test\r\nUser-Agent: a\"b\\c\r\nContent-Length: 4\r\n\r\nbody").expect(200);
        let refused = problem(&client.get("/none").expect(404));
        let malformed = problem(&proxy.connect().ask("GET / HTTP/1.1\r\nHost : t\r\n\r\n").expect(400));
        let lines = lines(&folder, 3);
        assert_eq!(lines.len(), 3);
        let served = &lines[0];
        for (name, expected) in [
            ("method", "POST"),
            ("target", "/users/7?q=%22"),
            ("host", "api.test"),
            ("user_agent", "a\"b\\c"),
            ("route", "users"),
            ("client", "127.0.0.1"),
        ] {
            assert_eq!(served[name], expected, "{name} in {served}");
        }
        assert_eq!((&served["status"], &served["request_body_bytes"]), (&200.into(), &4.into()), "{served}");
        assert_eq!(served["response_body_bytes"], 4, "{served}");
        assert!(served["duration_us"].is_u64() && served["time_unix_ms"].as_u64() > Some(1_700_000_000_000), "{served}");
        assert!(served.get("reason").is_none(), "{served}");
        // What a client reports is found again, also of a request that could not be read.
        for (line, problem) in [(&lines[1], refused), (&lines[2], malformed)] {
            assert_eq!(line["request_id"], problem.request_id, "{line}");
            assert_eq!(line["reason"], problem.reason, "{line}");
            assert_eq!(line["status"], problem.status, "{line}");
        }
    }

    /// The schema's promise: a sample, and every answer of 500 and above.
    fn a_sample_and_every_failure(driver) {
        let folder = Folder::new(&format!("log-sampled-{}", driver.name()));
        let origin = Origin::with(|exchange| match exchange.target() {
            "/users/500" => exchange.reply(500, &[], "oops"),
            _ => scripted(exchange),
        });
        let proxy = start(driver, &folder, "sampled", &origin);
        let mut client = proxy.connect();
        for _ in 0..20 {
            client.get("/users/1").expect(200);
        }
        client.get("/users/500").expect(500);
        let lines = lines(&folder, 1);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&lines[0]["status"], &lines[0]["target"]), (&500.into(), &"/users/500".into()));
    }

    fn off_is_off(driver) {
        let folder = Folder::new(&format!("log-off-{}", driver.name()));
        let origin = Origin::start();
        let proxy = start(driver, &folder, "off", &origin);
        proxy.connect().ask(&post("/users", "body")).expect(200);
        proxy.get("/none").expect(404);
        drop(proxy);
        let text = fs::read_to_string(folder.join("access.log")).unwrap_or_default();
        assert_eq!(text, "");
    }

    /// Nothing that a client sends can forge a line.
    fn a_client_writes_no_lines(driver) {
        let folder = Folder::new(&format!("log-forged-{}", driver.name()));
        let origin = Origin::start();
        let proxy = start(driver, &folder, "all", &origin);
        let mut client = proxy.connect();
        client.send(b"GET /users/%0a%7b%7d\"},{\"status\":999 HTTP/1.1\r\nHost: test\r\n\r\n");
        let status = client.response("GET").status;
        proxy.connect().send(get("/users/last"));
        client = proxy.connect();
        client.send(b"GET /users HTTP/1.1\r\nHost: test\r\nUser-Agent: \xff\t\"{}\r\n\r\n");
        client.response("GET").expect(200);
        let lines = lines(&folder, 2);
        assert!(lines.iter().all(|line| line["status"] != 999), "{lines:?}");
        assert_eq!(lines[0]["status"], status);
    }
}
