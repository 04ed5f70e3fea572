//! The generator against an origin that speaks TLS.

use std::{net::TcpListener, process::Command, sync::Arc, thread, time::Duration};

use ringway_bench::{
    load::{self, Digest, Request, Target},
    net::Address,
    origin::{Handshakes, pattern},
    runtime::Io,
    tls::settings::{ClientSettings, Resumption, ServerSettings, Trust, Version},
};

use crate::support::{Certificates, config, load, start_tls_origin};

fn https(origin: std::net::SocketAddr, path: &str, requests: u64, tls: ClientSettings) -> load::Config {
    let mut config = config(origin, path, requests);
    config.targets = vec![Target::parse(&format!("https://{origin}{path}"), 1).expect("a URL")];
    config.tls = tls;
    config
}

/// What the origin counts comes a moment after what the client has seen: it ends a handshake by reading.
fn counted(handshakes: &Arc<Handshakes>) -> (u64, u64) {
    (handshakes.full(), handshakes.resumed())
}

#[test]
fn versions_are_negotiated_and_told() {
    let certificates = Certificates::new("versions");
    let (origin, _) = start_tls_origin(certificates.server());
    let cases = [
        (Version::Tls12, Version::Tls12, "TLSv1.2", "TLS_ECDHE_ECDSA"),
        (Version::Tls13, Version::Tls13, "TLSv1.3", "TLS13_"),
        (Version::Tls12, Version::Tls13, "TLSv1.3", "TLS13_"),
    ];
    for (version_min, version_max, version, cipher) in cases {
        for io in [Io::Auto, Io::Epoll] {
            let tls = ClientSettings { version_min, version_max, ..certificates.believed() };
            let mut config = https(origin, "/bytes/1000", 50, tls);
            config.connections = 4;
            config.io = io;
            config.check.digest = Digest::Exactly(pattern::digest(1000));
            let report = load(&config);
            assert_eq!((report.requests, report.errors_sum()), (50, 0), "{version}: {report:?}");
            let tls = report.tls.expect("it was https");
            assert_eq!((tls.version, tls.alpn.as_deref()), (Some(version), Some("http/1.1")));
            assert!(tls.cipher.expect("a suite").starts_with(cipher), "{version}");
            assert_eq!(tls.handshakes_full + tls.handshakes_resumed, 4);
        }
    }
}

#[test]
fn resumption_is_counted_at_both_ends() {
    let certificates = Certificates::new("resumption");
    for version_max in [Version::Tls12, Version::Tls13] {
        for resumption in [Resumption::On, Resumption::Off] {
            let (origin, at_origin) = start_tls_origin(certificates.server());
            let tls = ClientSettings { version_max, resumption, ..certificates.believed() };
            let mut config = https(origin, "/bytes/100", 60, tls);
            config.connections = 4;
            config.requests_per_connection = Some(1);
            let report = load(&config);
            assert_eq!((report.requests, report.errors_sum()), (60, 0), "{report:?}");
            assert_eq!(report.connections_opened, 60);
            let tls = report.tls.expect("it was https");
            // Each of the four begins with a full one, unless another was done by then.
            match resumption {
                Resumption::On => assert!((1..=4).contains(&tls.handshakes_full), "{tls:?}"),
                Resumption::Off => assert_eq!(tls.handshakes_full, 60),
            }
            assert_eq!(tls.handshakes_full + tls.handshakes_resumed, 60);
            // The origin has answered all of them, so it has counted all of them.
            assert_eq!(counted(&at_origin), (tls.handshakes_full, tls.handshakes_resumed), "{version_max:?}");
        }
    }
}

#[test]
fn certificates_are_verified_unless_told_otherwise() {
    let certificates = Certificates::new("verified");
    let (origin, _) = start_tls_origin(certificates.server());
    let elsewhere = certificates.authority.issue("elsewhere", &["elsewhere.test"]).expect("a certificate");
    let (stranger, _) = start_tls_origin(ServerSettings { identity: elsewhere, client_roots: None });
    let insecure = ClientSettings { trust: Trust::Everyone, ..ClientSettings::default() };
    let named = |url: &str, address| Target::parse_to(url, 1, Address::Tcp(address)).expect("a URL");

    let good = [
        ("by address", named(&format!("https://{origin}/bytes/9"), origin), certificates.believed()),
        ("by name", named("https://bench.test/bytes/9", origin), certificates.believed()),
        ("by another name", named("https://elsewhere.test/bytes/9", stranger), certificates.believed()),
        ("insecure", named("https://nobody.test/bytes/9", stranger), insecure),
    ];
    for (case, target, tls) in good {
        let mut config = https(origin, "/", 5, tls);
        config.targets = vec![target];
        let report = load(&config);
        assert_eq!((report.requests, report.errors_sum()), (5, 0), "{case}: {report:?}");
    }

    let bad = [
        (
            "unknown authority",
            named("https://bench.test/", origin),
            ClientSettings::default(),
            "UnknownIssuer",
        ),
        ("wrong name", named("https://bench.test/", stranger), certificates.believed(), "bench.test"),
    ];
    for (case, target, tls, reason) in bad {
        // The system's authorities may be missing here; any that did not sign this will do.
        let other = Certificates::new("verified-other");
        let trust = match tls.trust {
            Trust::System => Trust::File(other.authority.root().to_owned()),
            trust => trust,
        };
        let mut config = https(origin, "/", 2, ClientSettings { trust, ..tls });
        config.targets = vec![target];
        let report = load(&config);
        assert_eq!(
            (report.requests, report.errors["tls"], report.errors_sum()),
            (0, 2, 2),
            "{case}: {report:?}"
        );
        let told = report.tls.and_then(|tls| tls.first_error).expect("a reason");
        assert!(told.contains(reason) && told.lines().count() == 1, "{case}: {told}");
    }
}

#[test]
fn client_certificates_are_shown() {
    let certificates = Certificates::new("clients");
    let client_roots = Some(certificates.authority.root().to_owned());
    let (origin, _) = start_tls_origin(ServerSettings { client_roots, ..certificates.server() });
    let identity = certificates.authority.issue("client", &["client.test"]).expect("a certificate");
    for version_max in [Version::Tls12, Version::Tls13] {
        let anonymous = ClientSettings { version_max, ..certificates.believed() };
        let known = ClientSettings { identity: Some(identity.clone()), ..anonymous.clone() };
        let report = load(&https(origin, "/bytes/9", 3, known));
        assert_eq!((report.requests, report.errors_sum()), (3, 0), "{report:?}");
        // With TLS 1.3 the client learns of its refusal after its own part of the handshake.
        let report = load(&https(origin, "/bytes/9", 3, anonymous));
        assert_eq!((report.requests, report.errors["tls"]), (0, 3), "{version_max:?}: {report:?}");
        let told = report.tls.and_then(|tls| tls.first_error).expect("a reason");
        assert!(told.contains("alert") || told.contains("Alert"), "{told}");
    }
}

type Change = fn(&mut load::Config);

#[test]
fn responses_are_checked_as_without_tls() {
    let certificates = Certificates::new("checked");
    let (origin, _) = start_tls_origin(certificates.server());
    let right: &[(&str, Change)] = &[
        ("/bytes/3000000", |c| c.check.body_bytes = Some(3_000_000)),
        ("/bytes/3000000", |c| c.check.digest = Digest::Exactly(pattern::digest(3_000_000))),
        ("/bytes/70000?chunked=999", |c| c.check.digest = Digest::Exactly(pattern::digest(70_000))),
        ("/bytes/10?unframed", |c| c.check.digest = Digest::Exactly(pattern::digest(10))),
        ("/bytes/10?close", |_| ()),
        ("/bytes/10", |c| c.request.method = "HEAD".to_owned()),
        ("/bytes/5", |c| {
            c.request = Request { method: "POST".to_owned(), headers: Vec::new(), body: vec![b'x'; 5 << 20] }
        }),
    ];
    for (path, change) in right {
        let mut config = https(origin, path, 4, certificates.believed());
        change(&mut config);
        let report = load(&config);
        assert_eq!((report.requests, report.errors_sum()), (4, 0), "{path}: {report:?}");
    }
    let wrong: &[(&str, Change, &str)] = &[
        ("/status/503", |_| (), "status"),
        ("/bytes/10?truncate=5", |_| (), "wrong_length"),
        ("/bytes/100000?reset=50000", |_| (), "wrong_length"),
        ("/bytes/10?corrupt", |c| c.check.digest = Digest::Exactly(pattern::digest(10)), "wrong_digest"),
        ("/bytes/10?reset", |_| (), "reset"),
        ("/bytes/10?delay=10000", |c| c.timeout = Duration::from_millis(20), "timeout"),
    ];
    for (path, change, kind) in wrong {
        let mut config = https(origin, path, 4, certificates.believed());
        change(&mut config);
        let report = load(&config);
        assert_eq!(
            (report.errors[kind], report.errors_sum(), report.requests),
            (4, 4, 0),
            "{path}: {report:?}"
        );
    }
}

#[test]
fn a_server_without_tls_is_an_error_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for socket in listener.incoming() {
            use std::io::{Read, Write};
            let mut socket = socket.expect("a connection");
            let mut hello = [0; 4096];
            // The generator looks once whether anybody is there, and sends nothing.
            if socket.read(&mut hello).unwrap_or(0) > 0 {
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        }
    });
    let report =
        load(&https(address, "/", 2, ClientSettings { trust: Trust::Everyone, ..ClientSettings::default() }));
    assert_eq!((report.errors["tls"], report.errors_sum()), (2, 2), "{report:?}");
    assert!(report.tls.expect("it was https").version.is_none());
}

#[test]
fn the_command_line_tells_what_was_negotiated() {
    let certificates = Certificates::new("command-line");
    let (origin, _) = start_tls_origin(certificates.server());
    let root = certificates.authority.root().to_str().expect("text").to_owned();
    let bench = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringway-bench")).arg("load").args(arguments).output();
        let output = output.expect("the program under test");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let address = origin.to_string();
    let name = "https://bench.test/bytes/10";
    let (code, text) =
        bench(&[name, "--connect-to", &address, "--cacert", &root, "-n", "8", "-c", "2", "--tls-max", "1.2"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("TLSv1.2, TLS_ECDHE") && text.contains("http/1.1"), "{text}");
    assert!(text.contains("https://bench.test/bytes/10"), "{text}");
    let (code, text) = bench(&[
        name,
        "--connect-to",
        &address,
        "-k",
        "-n",
        "8",
        "-c",
        "1",
        "--tls-resumption",
        "off",
        "--requests-per-connection",
        "1",
    ]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("8 full, 0 resumed"), "{text}");
    let (code, text) =
        bench(&["https://127.0.0.2/", "--connect-to", &address, "--cacert", &root, "-n", "2", "-c", "1"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("first TLS error") && text.contains("tls 2"), "{text}");
}
