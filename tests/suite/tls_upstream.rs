//! TLS with origins: whom we trust, what we show, and which connections may be used again.

use ringway_tests::client::{get, post};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{BodyKind, Origin, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::problem::problem;
use ringway_tests::process::Process;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::tls::{Authority, Leaf, Raw, listener_tls, serve_raw};
use ringway_tests::wait::{Gate, eventually};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// An origin behind TLS: another proxy of ours, with a plain origin behind it.
struct Behind {
    front: Proxy,
    folder: Folder,
    authority: Authority,
    origin: Origin,
}

fn behind(name: &str, driver: Driver, leaf: &Leaf<'_>, origin: Origin, more: &str) -> Behind {
    let authority = Authority::new();
    let folder = Folder::new(&format!("tls-up-{name}-{}", driver.name()));
    folder.write("ca.pem", authority.pem());
    authority.issue_to(&folder, "server", leaf);
    let front =
        Proxy::start(driver, &Config::to(&origin).listener(&listener_tls(folder.path(), &["server"], more)));
    Behind { front, folder, authority, origin }
}

impl Behind {
    fn url(&self) -> String {
        format!("https://localhost:{}", self.front.address().port())
    }

    fn config(&self, more: &str) -> Config {
        to(&self.url(), &format!("{}{more}", self.ca()))
    }

    fn ca(&self) -> String {
        format!("ca: {}", self.folder.join("ca.pem").display())
    }
}

fn to(url: &str, tls: &str) -> Config {
    Config::to_urls(&[url]).upstream(&format!("tls: {{ {tls} }}"))
}

/// Reads one request's head.
fn read_head(raw: &mut Raw) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match raw.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

for_each_driver! {
    fn a_good_origin_is_used_and_its_connection_kept(driver) within 60 {
        let big = Payload::new(8, 16 << 20);
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| match exchange.target() {
            "/big" => exchange.reply_payload(BodyKind::Length, big),
            "/close" => exchange.reply_payload(BodyKind::UntilClose, big),
            "/wait" => {
                held.wait();
                scripted(exchange)
            }
            _ => scripted(exchange),
        });
        let behind = behind("good", driver, &Leaf::default(), origin, "");
        let proxy = Proxy::start(driver, &behind.config(""));
        let mut client = proxy.connect();
        for _ in 0..5 {
            assert_eq!(client.get("/a").expect(200).text(), "GET /a");
        }
        assert_eq!(behind.front.metrics().sum("ringway_tls_handshakes_total", &[]), 1.0);
        assert_eq!(proxy.metrics().sum("ringway_upstream_reused_total", &[]), 4.0);
        client.send("POST /up HTTP/1.1\r\nHost: test\r\nX-Seed: 8\r\nContent-Length: 16777216\r\n\r\n");
        client.send(big.to_vec());
        client.response("POST").expect(200);
        for target in ["/big", "/close"] {
            let mut client = proxy.connect();
            client.send(get(target));
            client.response_of("GET", big).expect(200);
        }
        // While the kept connection is busy a second one is opened, and takes up its session.
        let seen = behind.origin.request_count();
        client.send(get("/wait"));
        behind.origin.await_requests(seen + 1);
        proxy.get("/a").expect(200);
        gate.open();
        client.response("GET").expect(200);
        assert!(behind.front.metrics().sum("ringway_tls_handshakes_total", &[("resumed", "true")]) >= 1.0);
        drop(behind.authority);
    }

    fn origins_must_prove_who_they_are(driver) {
        let long_ago = Leaf { days: -3, ..Leaf::default() };
        let expired = behind("expired", driver, &long_ago, Origin::start(), "");
        let good = behind("verify", driver, &Leaf::default(), Origin::start(), "");
        let strange = format!("ca: {}", expired.folder.join("ca.pem").display());
        for (config, reason) in [
            (good.config(""), None),
            (good.config(", server_name: LOCALHOST"), None),
            (good.config(", server_name: elsewhere.test"), Some("tls_certificate_other_name")),
            (good.config(", server_name: 127.0.0.1"), Some("tls_certificate_other_name")),
            (expired.config(""), Some("tls_certificate_expired")),
            (to(&good.url(), &strange), Some("tls_certificate_unknown_ca")),
            (Config::to_urls(&[&good.url()]), Some("tls_certificate_unknown_ca")),
            (to(&good.url(), "verify: insecure"), None),
            (to(&expired.url(), "verify: insecure, server_name: elsewhere.test"), None),
        ] {
            let proxy = Proxy::start(driver, &config);
            let response = proxy.get("/");
            match reason {
                None => assert_eq!(response.status, 200, "{config}"),
                Some(reason) => {
                    assert_eq!((response.status, problem(&response).reason.as_str()), (502, "upstream_tls_failed"));
                    let counted = proxy.metrics().sum("ringway_refused_total", &[("reason", reason)]);
                    assert!(counted >= 1.0, "{reason}\n{config}");
                }
            }
        }
    }

    fn an_origin_without_tls_and_tls_without_an_origin(driver) {
        let behind = behind("mixed", driver, &Leaf::default(), Origin::start(), "");
        let answering = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = answering.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut socket in answering.incoming().flatten() {
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                let _ = socket.read_to_end(&mut Vec::new());
            }
        });
        let proxy = Proxy::start(driver, &to(&format!("https://localhost:{port}"), &behind.ca()));
        assert_eq!(problem(&proxy.get("/").expect(502)).reason, "upstream_tls_failed");
        // A handshake that gets no answer is part of the time to connect.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", silent.local_addr().unwrap().port());
        let config = to(&url, &behind.ca()).top("timeouts: { connect: 200ms }");
        let proxy = Proxy::start(driver, &config);
        assert_eq!(problem(&proxy.get("/").expect(504)).reason, "upstream_connect_timeout");
        // And plain HTTP to the TLS port: the origin says what is wrong.
        let front = behind.front.address();
        let proxy = Proxy::start(driver, &Config::to_urls(&[&format!("http://{front}")]));
        assert_eq!(problem(&proxy.get("/").expect(400)).reason, "plain_http_on_tls_port");
    }

    fn clients_of_origins_show_their_certificate(driver) {
        let origin = Origin::start();
        let clients = Authority::new();
        let shared = Folder::new(&format!("tls-up-clients-{}", driver.name()));
        shared.write("clients.pem", clients.pem());
        clients.issue_to(&shared, "client", &Leaf { common_name: "proxy", ..Leaf::default() });
        let more =
            format!("client_certificates: required, client_ca: {}", shared.join("clients.pem").display());
        let behind = behind("mutual", driver, &Leaf::default(), origin, &more);
        let file = |name: &str| shared.join(name).display().to_string();
        let shown = format!(", client_cert: {}, client_key: {}", file("client.pem"), file("client.key"));
        Proxy::start(driver, &behind.config(&shown)).get("/").expect(200);
        let without = Proxy::start(driver, &behind.config(""));
        let response = without.get("/").expect(502);
        // With TLS 1.3 the refusal comes after our end of the handshake: what breaks then is the exchange.
        let reason = problem(&response).reason;
        assert!(["upstream_tls_failed", "upstream_closed", "upstream_reset"].contains(&reason.as_str()), "{reason}");
    }

    /// The proxy gets another certificate under load: no request fails, no count is lost, and what comes later is said
    /// under the new one.
    fn a_rotated_client_certificate_costs_no_request(driver) within 90 {
        let (old, new) = (Authority::new(), Authority::new());
        let shared = Folder::new(&format!("tls-up-rotate-{}", driver.name()));
        shared.write("clients.pem", format!("{}{}", old.pem(), new.pem()));
        let leaf = Leaf { common_name: "proxy", ..Leaf::default() };
        old.issue_to(&shared, "client", &leaf);
        let file = |name: &str| shared.join(name).display().to_string();
        let more = format!("client_certificates: required, client_ca: {}", file("clients.pem"));
        let behind = behind("rotate", driver, &Leaf::default(), Origin::start(), &more);
        let shown = format!(", client_cert: {}, client_key: {}", file("client.pem"), file("client.key"));
        let proxy = Proxy::start(driver, &behind.config(&shown));
        let stopping = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (mut client, stopping) = (proxy.connect(), Arc::clone(&stopping));
                std::thread::spawn(move || {
                    let mut answered = 0;
                    while !stopping.load(Ordering::Relaxed) {
                        client.get("/").expect(200);
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        let requests = || proxy.metrics().sum("ringway_upstream_requests_total", &[]);
        let handshakes = || behind.front.metrics().sum("ringway_tls_handshakes_total", &[]);
        eventually("some load", || (requests() > 20.0).then_some(()));
        let before = requests();
        new.issue_to(&shared, "client", &leaf);
        // Four clients need four connections, unless those may not be used again.
        eventually("connections under the new certificate", || (handshakes() > 4.0).then_some(()));
        // From here on who has only the old one is refused.
        shared.write("clients.pem", new.pem());
        eventually("the other authority", || {
            let strange = proxy.metrics().sum("ringway_upstream_requests_total", &[]);
            (strange > before + 20.0).then_some(())
        });
        stopping.store(true, Ordering::Relaxed);
        let answered: u32 = clients.into_iter().map(|client| client.join().expect("no request failed")).sum();
        assert_eq!(requests(), f64::from(answered), "no count is lost");
        // Those of the old certificate are closed little by little.
        eventually("the end of the old connections", || {
            let open = proxy.metrics().sum("ringway_upstream_connections", &[]);
            (open <= 4.0).then_some(())
        });
        drop(behind.origin);
    }

    /// What was opened with other settings is not used again; what was opened with the same is.
    fn a_reload_parts_connections_by_their_settings(driver) {
        let behind = behind("reload", driver, &Leaf { names: &["localhost", "other.test"], ..Leaf::default() }, Origin::start(), "");
        let proxy = Proxy::start(driver, &behind.config(""));
        let mut client = proxy.connect();
        let handshakes = || behind.front.metrics().sum("ringway_tls_handshakes_total", &[]);
        client.get("/").expect(200);
        proxy.reload(&behind.config("").top("forwarding: { forwarded: true }"));
        client.get("/").expect(200);
        assert_eq!(handshakes(), 1.0, "nothing of TLS has changed");
        for (change, expected) in [(", server_name: other.test", 2.0), (", min_version: \"1.3\"", 3.0), ("", 4.0)] {
            proxy.reload(&behind.config(change));
            client.get("/").expect(200);
            client.get("/").expect(200);
            assert_eq!(handshakes(), expected, "{change}");
        }
        // The file of the authorities changes: connections that others vouched for go.
        behind.folder.write("ca.pem", format!("{}{}", behind.authority.pem(), Authority::new().pem()));
        eventually("another handshake", || {
            client.get("/").expect(200);
            (handshakes() == 5.0).then_some(())
        });
        drop(behind.origin);
    }

    /// The end of a body that only the close delimits must be told from a cut.
    fn an_end_without_close_notify_is_a_cut(driver) {
        let authority = Authority::new();
        let folder = Folder::new(&format!("tls-up-cut-{}", driver.name()));
        folder.write("ca.pem", authority.pem());
        let ca = format!("ca: {}", folder.join("ca.pem").display());
        let origin = |whole: bool, response: &'static str| {
            serve_raw(&authority.issue(&Leaf::default()), move |mut raw| {
                if read_head(&mut raw) {
                    raw.write_all(response.as_bytes()).unwrap();
                    if whole {
                        raw.conn.send_close_notify();
                    }
                    let _ = raw.flush();
                }
            })
        };
        let until_close = "HTTP/1.1 200 OK\r\n\r\nhello";
        for (whole, response, arrives) in [
            (true, until_close, true),
            (false, until_close, false),
            (false, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
        ] {
            let address = origin(whole, response);
            let proxy = Proxy::start(driver, &to(&format!("https://localhost:{}", address.port()), &ca));
            let mut client = proxy.connect();
            client.send(get("/"));
            let outcome = client.try_response("GET");
            assert_eq!(outcome.is_ok(), arrives, "{whole} {response:?}: {outcome:?}");
            if !arrives {
                proxy.await_metric("ringway_refused_total", &[("reason", "upstream_reset_in_body")], |n| n == 1.0);
            }
        }
    }

    /// Records that are the connection's own (here: new keys) are no reason to drop a kept connection.
    fn records_without_data_leave_a_kept_connection_usable(driver) {
        let authority = Authority::new();
        let folder = Folder::new(&format!("tls-up-keys-{}", driver.name()));
        folder.write("ca.pem", authority.pem());
        let ca = format!("ca: {}", folder.join("ca.pem").display());
        let address = serve_raw(&authority.issue(&Leaf::default()), |mut raw| {
            while read_head(&mut raw) {
                raw.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
                let _ = raw.flush();
                raw.conn.refresh_traffic_keys().unwrap();
                let _ = raw.flush();
            }
        });
        let proxy = Proxy::start(driver, &to(&format!("https://localhost:{}", address.port()), &ca));
        let mut client = proxy.connect();
        for _ in 0..4 {
            client.ask(&post("/", "")).expect(200);
        }
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("ringway_upstream_connects_total", &[]), 1.0);
        assert_eq!(metrics.sum("ringway_upstream_stale_total", &[]), 0.0);
    }

    /// Keys and tickets that come over an idle connection are no response; plaintext is, and half a record may be one.
    fn what_an_idle_connection_says(driver) {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let authority = Authority::new();
        let folder = Folder::new(&format!("tls-up-idle-{}", driver.name()));
        folder.write("ca.pem", authority.pem());
        let ca = format!("ca: {}", folder.join("ca.pem").display());
        for (what, reused) in [("keys", true), ("response", false), ("half a record", false)] {
            let said = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&said);
            let address = serve_raw(&authority.issue(&Leaf::default()), move |mut raw| {
                // Else the second write would wait in the kernel for the first one's acknowledgement.
                raw.sock.set_nodelay(true).unwrap();
                while read_head(&mut raw) {
                    raw.write_all(ANSWER).unwrap();
                    let _ = raw.flush();
                    match what {
                        "keys" => raw.conn.refresh_traffic_keys().unwrap(),
                        "response" => raw.write_all(ANSWER).unwrap(),
                        _ => raw.sock.write_all(&[23, 3, 3, 0, 64, 1, 2, 3]).unwrap(),
                    }
                    let _ = raw.flush();
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
            let proxy = Proxy::start(driver, &to(&format!("https://localhost:{}", address.port()), &ca));
            for number in 1..=4 {
                assert_eq!(proxy.get("/").expect(200).text(), "hi");
                eventually("what it says", || (said.load(Ordering::SeqCst) == number).then_some(()));
            }
            let metrics = proxy.metrics();
            let connects = metrics.sum("ringway_upstream_connects_total", &[]);
            assert_eq!(connects, if reused { 1.0 } else { 4.0 }, "{what}");
            let unsolicited = metrics.sum("ringway_upstream_unsolicited_total", &[]);
            assert!(if reused { unsolicited == 0.0 } else { unsolicited >= 3.0 }, "{what}: {unsolicited}");
        }
    }

    fn nginx_is_an_origin(driver) {
        if Command::new("nginx").arg("-v").output().is_err() {
            println!("skipped: nginx is not installed");
            return;
        }
        let authority = Authority::new();
        let folder = Folder::new(&format!("tls-up-nginx-{}", driver.name()));
        folder.write("ca.pem", authority.pem());
        authority.issue_to(&folder, "server", &Leaf::default());
        std::fs::create_dir(folder.join("files")).unwrap();
        let payload = Payload::new(2, 3 << 20);
        std::fs::write(folder.join("files").join("file"), payload.to_vec()).unwrap();
        let (_nginx, port) = nginx(&folder);
        for version in ["1.2", "1.3"] {
            let tls = format!(
                "ca: {}, min_version: \"{version}\", max_version: \"{version}\"",
                folder.join("ca.pem").display()
            );
            let proxy = Proxy::start(driver, &to(&format!("https://localhost:{port}"), &tls));
            let mut client = proxy.connect();
            for _ in 0..3 {
                client.send(get("/file"));
                client.response_of("GET", payload).expect(200);
            }
            assert_eq!(proxy.metrics().sum("ringway_upstream_connects_total", &[]), 1.0, "{version}");
        }
    }
}

/// nginx with TLS on a free port.
fn nginx(folder: &Folder) -> (Process, u16) {
    let here = folder.path().display();
    // nginx takes no port 0: another process may take this one first, then the next attempt has another.
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\nevents {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
             fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;\n\
             server {{ listen 127.0.0.1:{port} ssl; root {here}/files; ssl_protocols TLSv1.2 TLSv1.3;\n\
             ssl_certificate {here}/server.pem; ssl_certificate_key {here}/server.key; }} }}\n"
        );
        let file = folder.write("nginx.conf", text);
        let process =
            Process::spawn(Command::new("nginx").arg("-p").arg(Path::new(folder.path())).arg("-c").arg(file));
        let up = eventually("nginx, or its end", || {
            let up = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            (up || process.stderr().contains("[emerg]")).then_some(up)
        });
        if up {
            return (process, port);
        }
    }
    panic!("no port for nginx");
}
