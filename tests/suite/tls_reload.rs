//! Certificates that change while connections are open, and handshakes that don't come to an end.

use ringway_tests::client::Client;
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::Origin;
use ringway_tests::process::Process;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::tls::{Authority, Dialer, Leaf, der, listener_tls, shaken};
use ringway_tests::wait::{eventually, watched};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

struct Served {
    origin: Origin,
    authority: Authority,
    folder: Folder,
    proxy: Proxy,
}

fn served(name: &str, driver: Driver, top: &str) -> Served {
    let (origin, authority) = (Origin::start(), Authority::new());
    let folder = Folder::new(&format!("tls-{name}-{}", driver.name()));
    authority.issue_to(&folder, "server", &Leaf::default());
    let config = Config::to(&origin).top(top).listener(&listener_tls(folder.path(), &["server"], ""));
    let proxy = Proxy::start(driver, &config);
    Served { origin, authority, folder, proxy }
}

for_each_driver! {
    /// Clients that reconnect for every few requests, and those that stay, see no failure while certificates change.
    fn a_new_certificate_drops_nothing(driver) {
        let Served { authority, folder, proxy, origin: _origin } = served("renew", driver, "");
        let stopping = Arc::new(AtomicBool::new(false));
        let address = proxy.address();
        let mut clients = Vec::new();
        for _ in 0..4 {
            let (stopping, authority_dialer) = (Arc::clone(&stopping), Dialer::plain(&authority));
            clients.push(std::thread::spawn(move || {
                let mut answered = 0;
                while !stopping.load(Ordering::Relaxed) {
                    let mut client = authority_dialer.connect(address, "localhost");
                    for _ in 0..5 {
                        client.get("/").expect(200);
                        answered += 1;
                    }
                }
                answered
            }));
        }
        let mut staying = Dialer::plain(&authority).connect(address, "localhost");
        staying.get("/").expect(200);
        for _ in 0..3 {
            let issued = authority.issue(&Leaf::default());
            // Two files can't change at once: in between they don't belong together, and the old ones stay.
            issued.write(&folder, "server");
            let new = der(&issued);
            eventually("the new certificate", || {
                // Without a session to resume, so that a certificate is shown.
                let client = Dialer::plain(&authority).connect(address, "localhost");
                (shaken(&client).leaf == new).then_some(())
            });
            staying.get("/").expect(200);
        }
        stopping.store(true, Ordering::Relaxed);
        let answered: u64 = clients.into_iter().map(|client| client.join().expect("no request failed")).sum();
        assert!(answered > 100, "{answered}");
    }

    fn a_bad_certificate_leaves_the_old_one(driver) {
        let Served { authority, folder, proxy, origin: _origin } = served("bad", driver, "");
        let old = der(&ringway_tests::tls::Issued {
            cert: std::fs::read_to_string(folder.join("server.pem")).unwrap(),
            key: String::new(),
        });
        folder.write("server.pem", "no certificate");
        proxy.await_metric("ringway_tls_reloads_refused_total", &[], |n| n == 1.0);
        let client = Dialer::plain(&authority).connect(proxy.address(), "localhost");
        assert!(shaken(&client).leaf == old);
        let end = proxy.metrics().sum("ringway_tls_certificate_not_after_seconds", &[("listener", "public")]);
        let new = authority.issue(&Leaf { days: 300, ..Leaf::default() });
        new.write(&folder, "server");
        proxy.await_metric("ringway_tls_certificate_not_after_seconds", &[("listener", "public")], |n| n > end);
        let client = Dialer::plain(&authority).connect(proxy.address(), "localhost");
        assert!(shaken(&client).leaf == der(&new));
    }

    fn a_reload_with_a_bad_certificate_is_refused(driver) {
        let Served { origin, authority, folder, proxy } = served("refused", driver, "");
        let other = authority.issue(&Leaf::default());
        folder.write("other.pem", &other.cert);
        folder.write("other.key", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n");
        folder.write("mixed.pem", &other.cert);
        std::fs::copy(folder.join("server.key"), folder.join("mixed.key")).unwrap();
        for (name, expected) in [
            ("other", "other.key: "),
            ("mixed", "the key does not belong to the certificate"),
            ("missing", "missing.pem"),
        ] {
            let config = Config::to(&origin).listener(&listener_tls(folder.path(), &[name], ""));
            let error = proxy.server().reload(&config.to_string()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("listeners[0].tls.certificates[0]."), "{error}");
            assert!(error.contains("test.yaml:"), "it has a line: {error}");
        }
        let mut client = Dialer::plain(&authority).connect(proxy.address(), "localhost");
        client.get("/").expect(200);
    }

    fn a_slow_handshake_ends_in_time(driver) {
        let Served { authority, proxy, folder: _folder, origin: _origin } = served("slow", driver, "timeouts: { tls_handshake: 300ms }");
        let started = Instant::now();
        // Silent, and one that has said something.
        let mut silent = proxy.connect();
        let mut partial = proxy.connect();
        partial.send([22, 3, 1, 2, 0, 1, 0, 1, 252]);
        silent.expect_end();
        partial.expect_end();
        assert!(started.elapsed().as_millis() >= 300, "{:?}", started.elapsed());
        proxy.await_metric("ringway_refused_total", &[("reason", "tls_handshake_timeout")], |n| n == 2.0);
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
        Dialer::plain(&authority).connect(proxy.address(), "localhost").get("/").expect(200);
    }

    fn a_flood_of_slow_handshakes_keeps_nobody_out(driver) {
        let Served { authority, proxy, folder: _folder, origin: _origin } = served("flood", driver, "timeouts: { tls_handshake: 30s }");
        let mut staying = Dialer::plain(&authority).connect(proxy.address(), "localhost");
        let flood: Vec<Client> = (0..500)
            .map(|index| {
                let mut client = proxy.connect();
                client.send(&[22, 3, 1, 2, 0, 1, 0, 1, 252][..index % 10]);
                client
            })
            .collect();
        proxy.await_metric("ringway_downstream_connections", &[], |open| open >= 501.0);
        for _ in 0..5 {
            Dialer::plain(&authority).connect(proxy.address(), "localhost").get("/").expect(200);
            staying.get("/").expect(200);
        }
        drop(flood);
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 1.0);
    }

    /// At the bound new connections wait, and are served when a handshake has ended.
    fn handshakes_are_bounded(driver) {
        let Served { authority, proxy, folder: _folder, origin: _origin } =
            served("bound", driver, "limits: { tls_handshakes: 2 }\ntimeouts: { tls_handshake: 1s }");
        let flood: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 2.0);
        let mut client = Dialer::plain(&authority).connect(proxy.address(), "localhost");
        client.get("/").expect(200);
        assert!(proxy.metrics().sum("ringway_refused_total", &[("reason", "tls_handshake_timeout")]) >= 1.0);
        drop(flood);
    }

    /// Of the real binary, so that only its own memory counts.
    fn an_idle_connection_is_small(driver) within 90 {
        const IDLE: usize = 1_500;
        let (origin, authority) = (Origin::start(), Authority::new());
        let folder = Folder::new(&format!("tls-idle-{}", driver.name()));
        authority.issue_to(&folder, "server", &Leaf::default());
        let file = |name: &str| folder.join(name).display().to_string();
        let mut process = Process::edge([
            "proxy", "--listen", "127.0.0.1:0", "--to", &origin.address().to_string(), "--io", driver.name(),
            "--workers", "1", "--tls-cert", &file("server.pem"), "--tls-key", &file("server.key"),
        ]);
        let address = process.await_output("its address", listening);
        let dialer = Dialer::plain(&authority);
        let connect = || {
            let mut client = dialer.connect(address, "localhost");
            client.get("/").expect(200);
            client
        };
        // Pools, caches and the allocator's own first.
        let warm: Vec<Client> = (0..100).map(|_| connect()).collect();
        let before = process.memory_kib("VmRSS");
        let idle: Vec<Client> = (0..IDLE).map(|_| connect()).collect();
        let after = process.memory_kib("VmRSS");
        let each = (after - before) as f64 / IDLE as f64;
        println!("{each:.1} KiB an idle TLS connection on {}", driver.name());
        assert!(each < 12.0, "{each:.1} KiB an idle connection");
        drop((warm, idle));
    }

    fn the_command_line_serves_and_forwards_tls(driver) {
        let Served { authority, folder, proxy, origin: _origin } = served("cli", driver, "");
        let ca = folder.write("ca.pem", authority.pem()).display().to_string();
        let to = format!("https://localhost:{}", proxy.address().port());
        let file = |name: &str| folder.join(name).display().to_string();
        let (cert, key) = (file("server.pem"), file("server.key"));
        for (trust, status) in [(&["--to-ca", &ca][..], 200), (&["--to-insecure"], 200), (&[], 502)] {
            let mut arguments = vec!["proxy", "--listen", "127.0.0.1:0", "--to", &to, "--io", driver.name()];
            arguments.extend(["--workers", "1", "--tls-cert", &cert, "--tls-key", &key]);
            arguments.extend(trust);
            let mut process = Process::edge(&arguments);
            let address = process.await_output("its address", listening);
            let mut client = Dialer::plain(&authority).connect(address, "localhost");
            client.get("/").expect(status);
            if status == 502 {
                process.await_output("the cause", |text| text.contains("UnknownIssuer").then_some(()));
            }
        }
    }
}

/// From nothing to a served request, with the commands that are printed.
#[test]
fn a_certificate_for_this_machine() {
    watched("a_certificate_for_this_machine", 120, || {
        let folder = Folder::new("tls-dev-cert");
        let out = folder.path().display().to_string();
        let made = Process::edge(["dev-cert", "--out", &out]).finish();
        assert!(made.status.success() && made.stdout.contains("curl --cacert"), "{made:?}");
        let again = Process::edge(["dev-cert", "--out", &out]).finish();
        assert!(!again.status.success() && again.stderr.contains("--force"), "{again:?}");
        let named = Process::edge(["dev-cert", "--out", &out, "--force", "localhost", "*.test", "127.0.0.1"])
            .finish();
        assert!(named.status.success(), "{named:?}");
        let mode = std::fs::metadata(folder.join("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let wrong = Process::edge(["dev-cert", "--out", &out, "--force", "a b"]).finish();
        assert!(!wrong.status.success() && wrong.stderr.contains("`a b`"), "{wrong:?}");
        let origin = Origin::start();
        let file = |name: &str| folder.join(name).display().to_string();
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        let to = origin.address().to_string();
        let mut process = Process::edge([
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--to",
            &to,
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--workers",
            "1",
        ]);
        let address = process.await_output("its address", listening);
        let output =
            Command::new("curl").args(["-sS", "--cacert", &cert, &format!("https://{address}/")]).output();
        let output = output.expect("curl runs");
        assert_eq!(output.stdout, b"GET /", "{output:?}");
    });
}

/// `check` reads the files that are named, and says of each what a start would.
#[test]
fn check_looks_into_the_files() {
    watched("check_looks_into_the_files", 120, || {
        let folder = Folder::new("tls-check");
        let authority = Authority::new();
        authority.issue_to(&folder, "old", &Leaf { days: -5, ..Leaf::default() });
        authority.issue_to(&folder, "new", &Leaf::default());
        std::fs::set_permissions(folder.join("new.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        folder.write("broken.pem", "nothing");
        let head = "version: 1\nroutes: [{ name: r, respond: {} }]\nlisteners:\n  - name: a\n    address: 127.0.0.1:0\n    ";
        let check = |names: &[&str]| {
            let text = format!("{head}{}\n", listener_tls(folder.path(), names, ""));
            let file = folder.write("ringway.yaml", text).display().to_string();
            Process::edge(["check", "--config", &file]).finish()
        };
        let warned = check(&["old", "new"]);
        assert!(warned.status.success(), "{warned:?}");
        for expected in [
            "old.pem: expired on ",
            "new.key: every user of this machine may read the key",
            "certificates[0] has `localhost` too, also with ECDSA",
        ] {
            assert!(warned.stderr.contains(expected), "{}", warned.stderr);
        }
        let refused = check(&["broken", "missing"]);
        assert!(!refused.status.success());
        for expected in
            ["there is no certificate in it", "missing.pem", "ringway.yaml:6:", "certificates[1].cert"]
        {
            assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        }
    });
}

/// The address in the line that says where the process listens.
fn listening(text: &str) -> Option<SocketAddr> {
    let line = text.lines().find(|line| line.contains("listening on"))?;
    line.split_whitespace().find_map(|word| word.parse().ok())
}
