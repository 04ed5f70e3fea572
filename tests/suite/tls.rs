//! TLS with clients: which certificate, version and protocol, and that what goes through it is what goes through in the
//! clear. Peers are rustls, openssl and curl.

use ringway_tests::client::{Client, chunked, get};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{BodyKind, Origin, named, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::problem::problem;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::tls::{Authority, Dialer, Kind, Leaf, Wanted, der, listener_tls, shaken};
use ringway_tests::wire::WireError;
use rustls::ProtocolVersion;
use std::process::{Command, Stdio};

/// One authority, one certificate for `localhost`, and a proxy that serves it.
struct Served {
    authority: Authority,
    folder: Folder,
    proxy: Proxy,
}

impl Served {
    fn start(name: &str, driver: Driver, origin: &Origin, more: &str) -> Served {
        Served::configured(name, driver, &Config::to(origin), more)
    }

    fn configured(name: &str, driver: Driver, config: &Config, more: &str) -> Served {
        let folder = Folder::new(&format!("tls-{name}-{}", driver.name()));
        let authority = Authority::new();
        authority.issue_to(&folder, "server", &Leaf::default());
        let proxy =
            Proxy::start(driver, &config.clone().listener(&listener_tls(folder.path(), &["server"], more)));
        Served { authority, folder, proxy }
    }

    #[track_caller]
    fn connect(&self) -> Client {
        Dialer::plain(&self.authority).connect(self.proxy.address(), "localhost")
    }
}

/// A connection and an exchange on each of the combinations.
fn served_as(
    served: &Served,
    name: &str,
    wanted: &Wanted<'_>,
) -> Result<(ProtocolVersion, Option<String>), std::io::Error> {
    let mut client = Dialer::new(&served.authority, wanted).try_connect(served.proxy.address(), name)?;
    client.get("/a").expect(200);
    let shaken = shaken(&client);
    Ok((shaken.version, shaken.alpn))
}

for_each_driver! {
    fn both_versions_and_every_suite(driver) {
        let origin = Origin::start();
        let served = Served::start("versions", driver, &origin, "");
        for (versions, expected) in [
            (&[&rustls::version::TLS13][..], ProtocolVersion::TLSv1_3),
            (&[&rustls::version::TLS12], ProtocolVersion::TLSv1_2),
            (rustls::ALL_VERSIONS, ProtocolVersion::TLSv1_3),
        ] {
            let wanted = Wanted { versions, ..Wanted::default() };
            assert_eq!(served_as(&served, "localhost", &wanted).unwrap().0, expected);
        }
        for suite in rustls::crypto::ring::default_provider().cipher_suites {
            let name = suite.suite().as_str().unwrap().to_owned();
            let versions: &[_] = if suite.tls13().is_some() { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS12] };
            let wanted = Wanted { versions, suites: &[&name], ..Wanted::default() };
            let outcome = served_as(&served, "localhost", &wanted);
            // The certificate's key is of one kind, and TLS 1.2 has suites for each.
            assert_eq!(outcome.is_ok(), !name.contains("_RSA_"), "{name}: {outcome:?}");
        }
        let metrics = served.proxy.metrics();
        assert_eq!(metrics.sum("ringway_tls_handshakes_total", &[("version", "1.2")]), 4.0);
        assert_eq!(metrics.sum("ringway_tls_handshakes_total", &[("version", "1.3")]), 5.0);
        assert_eq!(metrics.sum("ringway_tls_handshakes_failed_total", &[]), 3.0);
        assert_eq!(metrics.sum("ringway_refused_total", &[("reason", "tls_no_common_cipher")]), 3.0);
    }

    fn versions_and_suites_can_be_narrowed(driver) {
        let origin = Origin::start();
        let served = Served::start(
            "narrow",
            driver,
            &origin,
            "min_version: \"1.3\", ciphers: [TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256]",
        );
        let old = Wanted { versions: &[&rustls::version::TLS12], ..Wanted::default() };
        assert!(served_as(&served, "localhost", &old).is_err());
        // Ours is the order that counts: the client would rather have AES-256.
        let mut client = served.connect();
        client.get("/").expect(200);
        let ringway_tests::stream::Stream::Tls(stream) = &client.wire.stream else { panic!() };
        let suite = stream.conn.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        served.proxy.await_metric("ringway_refused_total", &[("reason", "tls_no_common_version")], |n| n == 1.0);
    }

    fn protocols_are_agreed_on(driver) {
        let origin = Origin::start();
        let served = Served::start("alpn", driver, &origin, "alpn: [http/1.1]");
        for (alpn, expected) in [
            (&[][..], Ok(None)),
            (&["http/1.1"][..], Ok(Some("http/1.1"))),
            (&["h3", "http/1.1"][..], Ok(Some("http/1.1"))),
            (&["h3"][..], Err("NoApplicationProtocol")),
        ] {
            let outcome = served_as(&served, "localhost", &Wanted { alpn, ..Wanted::default() });
            match (outcome, expected) {
                (Ok((_, got)), Ok(wanted)) => assert_eq!(got.as_deref(), wanted, "{alpn:?}"),
                (Err(error), Err(fragment)) => assert!(error.to_string().contains(fragment), "{alpn:?}: {error}"),
                (outcome, _) => panic!("{alpn:?}: {outcome:?}"),
            }
        }
        served.proxy.await_metric("ringway_refused_total", &[("reason", "tls_no_common_protocol")], |n| n == 1.0);
    }

    fn certificates_are_chosen_by_name_and_kind(driver) {
        let origin = Origin::start();
        let folder = Folder::new(&format!("tls-sni-{}", driver.name()));
        let authority = Authority::new();
        let issue = |file: &str, names: &[&str], kind| {
            der(&authority.issue_to(&folder, file, &Leaf { names, kind, ..Leaf::default() }))
        };
        let first = issue("first", &["localhost", "first.example.org"], Kind::Ecdsa);
        let first_rsa = issue("first-rsa", &["first.example.org"], Kind::Rsa);
        let exact = issue("exact", &["exact.example.org"], Kind::Ed25519);
        let wild = issue("wild", &["*.example.org"], Kind::Ecdsa);
        let files = ["first", "first-rsa", "exact", "wild"];
        let proxy = Proxy::start(driver, &Config::to(&origin).listener(&listener_tls(folder.path(), &files, "")));
        let any = Dialer::plain(&authority);
        for (name, expected) in [
            ("localhost", &first),
            ("first.example.org", &first),
            ("exact.example.org", &exact),
            ("other.example.org", &wild),
        ] {
            let mut client = any.connect(proxy.address(), name);
            client.get("/").expect(200);
            assert!(shaken(&client).leaf == *expected, "{name}");
        }
        // A wildcard is for one label, and the default for what nothing matches: the client then refuses it.
        for name in ["a.b.example.org", "example.org", "elsewhere.test"] {
            let error = any.try_connect(proxy.address(), name).unwrap_err().to_string();
            assert!(error.contains("not valid for name"), "{name}: {error}");
        }
        // Without a name to ask for (an IP address is none) it is the default too; a client that knows RSA alone gets it.
        let rsa_only = Wanted {
            versions: &[&rustls::version::TLS12],
            suites: &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
            ..Wanted::default()
        };
        let client = Dialer::new(&authority, &rsa_only).connect(proxy.address(), "first.example.org");
        assert!(shaken(&client).leaf == first_rsa);
        let error = any.try_connect(proxy.address(), "127.0.0.1").unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
    }

    /// By the name in the handshake, whatever the Host says.
    fn routes_by_server_name(driver) {
        let (first, other) = (Origin::with(named("first")), Origin::with(named("other")));
        let folder = Folder::new(&format!("tls-routes-{}", driver.name()));
        let authority = Authority::new();
        let leaf = Leaf { names: &["first.example.org", "localhost"], ..Leaf::default() };
        authority.issue_to(&folder, "leaf", &leaf);
        let routes = "- { name: first, match: { server_names: [first.example.org] }, upstream: first }\n\
                      - { name: other, upstream: origin }";
        let config = Config::to(&other).and_upstream("first", &first).routes(routes);
        let proxy = Proxy::start(driver, &config.listener(&listener_tls(folder.path(), &["leaf"], "")));
        let any = Dialer::plain(&authority);
        for (name, expected) in [("first.example.org", "first"), ("localhost", "other")] {
            let mut client = any.connect(proxy.address(), name);
            assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: whatever\r\n\r\n").expect(200).text(), expected, "{name}");
        }
    }

    fn origins_are_told_that_it_was_https(driver) {
        let origin = Origin::start();
        let served = Served::configured("proto", driver, &Config::to(&origin).top("forwarding: { forwarded: true }"), "");
        served.connect().get("/").expect(200);
        let record = origin.only();
        assert_eq!(record.field("x-forwarded-proto"), Some("https"));
        assert!(record.field("forwarded").is_some_and(|field| field.contains("proto=https")), "{record:?}");
    }

    fn bodies_of_every_kind_go_through(driver) within 60 {
        let big = Payload::new(9, 16 << 20);
        let origin = Origin::with(move |exchange| match exchange.target() {
            "/length" => exchange.reply_payload(BodyKind::Length, big),
            "/chunked" => exchange.reply_payload(BodyKind::Chunked(70_000), big),
            "/close" => exchange.reply_payload(BodyKind::UntilClose, big),
            _ => scripted(exchange),
        });
        let served = Served::start("bodies", driver, &origin, "");
        for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
            let dialer = Dialer::new(&served.authority, &Wanted { versions, ..Wanted::default() });
            for target in ["/length", "/chunked", "/close"] {
                let mut client = dialer.connect(served.proxy.address(), "localhost");
                client.send(get(target));
                client.response_of("GET", big).expect(200);
            }
            // Up, and back again.
            let mut client = dialer.connect(served.proxy.address(), "localhost");
            let body = Payload::new(3, 250_000).to_vec();
            client.send(format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
            client.send(&body);
            assert!(client.response("POST").expect(200).body == body);
            client.send("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send(chunked(&body, 9_999));
            assert!(client.response("POST").expect(200).body == body);
            // The origin checks what it gets.
            let (seed, bytes) = (9, 16 << 20);
            client.send(format!("POST /up HTTP/1.1\r\nHost: test\r\nX-Seed: {seed}\r\nContent-Length: {bytes}\r\n\r\n"));
            client.send(big.to_vec());
            client.response("POST").expect(200);
        }
    }

    /// Every byte in a segment of its own, handshake and all.
    fn records_may_be_cut_anywhere(driver) {
        let origin = Origin::start();
        let served = Served::start("cuts", driver, &origin, "");
        for cut in [1, 7] {
            let mut dialer = Dialer::plain(&served.authority);
            dialer.cut = cut;
            let mut client = dialer.connect(served.proxy.address(), "localhost");
            assert_eq!(client.get("/a").expect(200).text(), "GET /a");
            assert_eq!(client.get("/b").expect(200).text(), "GET /b");
        }
    }

    /// Many small records in one segment, with many requests in them.
    fn many_records_may_come_at_once(driver) {
        let origin = Origin::start();
        let served = Served::start("many", driver, &origin, "");
        let mut client = served.connect();
        let ringway_tests::stream::Stream::Tls(stream) = &mut client.wire.stream else { panic!() };
        for index in 0..50 {
            for piece in get(&format!("/{index}")).as_bytes().chunks(5) {
                std::io::Write::write_all(&mut stream.conn.writer(), piece).unwrap();
            }
        }
        client.send("");
        for index in 0..50 {
            assert_eq!(client.response("GET").expect(200).text(), format!("GET /{index}"));
        }
    }

    fn a_body_until_close_ends_with_close_notify_and_a_cut_one_without(driver) {
        let origin = Origin::with(|exchange| {
            if exchange.target() == "/whole" {
                return exchange.reply_payload(BodyKind::UntilClose, Payload::new(1, 50_000));
            }
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\nhello")?;
            Ok(ringway_tests::origin::After::Close)
        });
        let served = Served::start("close", driver, &origin, "");
        let mut client = served.connect();
        client.send(get("/whole"));
        // The strict reader takes the end of a stream without close_notify for an error.
        client.response_of("GET", Payload::new(1, 50_000)).expect(200);
        let mut client = served.connect();
        client.send(get("/cut"));
        assert!(matches!(client.try_response("GET"), Err(WireError::Reset | WireError::Truncated(_) | WireError::Io(_))));
    }

    /// After an upgrade bytes go both ways through both TLS ends at once, and each direction ends by itself.
    fn tunnels_go_through(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst")?;
            loop {
                let now = exchange.wire.buffered().len();
                let bytes = exchange.wire.exactly(now)?;
                exchange.write(bytes)?;
                if exchange.wire.fill()? == 0 {
                    break;
                }
            }
            exchange.write("bye")?;
            exchange.wire.stream.shutdown(std::net::Shutdown::Write)?;
            Ok(ringway_tests::origin::After::Close)
        });
        let behind = Served::start("tunnel-behind", driver, &origin, "");
        let ca = behind.folder.write("ca.pem", behind.authority.pem()).display().to_string();
        let url = format!("https://localhost:{}", behind.proxy.address().port());
        let config = Config::to_urls(&[&url]).upstream(&format!("tls: {{ ca: {ca} }}"));
        let served = Served::configured("tunnel", driver, &config, "");
        let mut client = served.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(client.response_head().unwrap().1, 101);
        assert_eq!(client.wire.exactly(5).unwrap(), b"first");
        for bytes in [1, 100, 40_000, 3] {
            let sent = Payload::new(bytes, bytes).to_vec();
            client.send(&sent);
            assert!(client.wire.exactly(sent.len()).unwrap() == sent);
        }
        let ringway_tests::stream::Stream::Tls(stream) = &mut client.wire.stream else { panic!() };
        stream.conn.send_close_notify();
        client.send("");
        assert_eq!(client.wire.to_end().unwrap(), b"bye");
    }

    /// A client that goes without a word ends its connection, and nothing else.
    fn clients_may_leave_without_close_notify(driver) {
        let origin = Origin::start();
        let served = Served::start("leave", driver, &origin, "");
        let mut client = served.connect();
        client.get("/").expect(200);
        client.half_close();
        drop(client);
        served.proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
        served.connect().get("/").expect(200);
    }

    fn plain_http_on_a_tls_port_is_told_so(driver) {
        let origin = Origin::start();
        let served = Served::start("plain", driver, &origin, "");
        for request in [get("/"), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()] {
            let mut client = served.proxy.connect();
            client.send(request);
            let response = client.response("GET").expect(400);
            assert_eq!(problem(&response).reason, "plain_http_on_tls_port");
            client.expect_end();
        }
        // What is neither gets an alert and an end.
        let mut client = served.proxy.connect();
        client.send([0_u8; 100]);
        let bytes = client.wire.to_end().unwrap_or_default();
        assert!(bytes.is_empty() || bytes[0] == 21, "an alert: {bytes:?}");
        served.proxy.await_metric("ringway_refused_total", &[("reason", "plain_http_on_tls_port")], |n| n >= 2.0);
        served.proxy.await_metric("ringway_refused_total", &[("reason", "tls_malformed")], |n| n == 1.0);
        assert_eq!(origin.request_count(), 0);
        served.proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
    }

    fn clients_are_sent_to_https(driver) {
        let origin = Origin::start();
        for (setting, expected) in [
            ("redirect_to_https: true", "https://example.org/a/../b?c=d"),
            ("redirect_to_https: 8443", "https://example.org:8443/a/../b?c=d"),
        ] {
            let proxy = Proxy::start(driver, &Config::to(&origin).listener(setting));
            let mut client = proxy.connect();
            let response =
                client.ask("GET /a/../b?c=d HTTP/1.1\r\nHost: example.org:8080\r\n\r\n").expect(308);
            assert_eq!(response.field("location"), Some(expected));
            assert_eq!(response.field("strict-transport-security"), None, "not in the clear (RFC 6797 section 7.2)");
            let response = client.ask("OPTIONS * HTTP/1.1\r\nHost: example.org\r\n\r\n").expect(308);
            assert!(response.field("location").is_some_and(|location| location.ends_with('/')));
            client.ask("GET / HTTP/1.0\r\n\r\n").expect(400);
        }
        assert_eq!(origin.request_count(), 0);
    }

    fn browsers_are_told_to_stay(driver) {
        let origin = Origin::start();
        let routes = "- { name: moved, match: { path: { exact: /moved } }, redirect: { path: /there } }\n\
                      - { name: own, match: { path: { exact: /own } }, respond: { body: hi } }\n\
                      - { name: rest, match: { path: { prefix: /origin } }, upstream: origin }";
        let served = Served::configured(
            "hsts",
            driver,
            &Config::to(&origin).routes(routes),
            "hsts: { max_age: 31536000, include_subdomains: true, preload: true }",
        );
        let mut client = served.connect();
        for (target, status) in [("/origin", 200), ("/own", 200), ("/moved", 302), ("/none", 404)] {
            let response = client.get(target).expect(status);
            let expected = Some("max-age=31536000; includeSubDomains; preload");
            assert_eq!(response.field("strict-transport-security"), expected, "{target}");
            if status == 302 {
                assert_eq!(response.field("location"), Some("https://test/there"));
            }
        }
    }

    fn the_log_tells_what_was_negotiated(driver) {
        let origin = Origin::start();
        let folder = Folder::new(&format!("tls-log-{}", driver.name()));
        let log = folder.join("access.log");
        let config = Config::to(&origin).top(&format!("access_log: {{ mode: all, path: {} }}", log.display()));
        let served = Served::configured("log", driver, &config, "");
        served.connect().get("/logged").expect(200);
        let line = ringway_tests::wait::eventually("a line", || {
            std::fs::read_to_string(&log).ok().filter(|text| text.contains("/logged"))
        });
        assert!(line.contains("\"tls_version\":\"1.3\",\"tls_server_name\":\"localhost\""), "{line}");
        drop(served);
    }

    /// What the file holds is stapled as it is; openssl then finds that it can't be read, which proves that it came.
    fn an_ocsp_response_is_stapled(driver) {
        let origin = Origin::start();
        let folder = Folder::new(&format!("tls-ocsp-{}", driver.name()));
        let authority = Authority::new();
        authority.issue_to(&folder, "server", &Leaf::default());
        folder.write("response.der", "no real response");
        let here = folder.path().display();
        for (ocsp, expected) in
            [("", "OCSP response: no response sent"), (", ocsp: response.der", "OCSP response: response parse error")]
        {
            let ocsp = ocsp.replace("response.der", &format!("{here}/response.der"));
            let tls = format!("tls: {{ certificates: [{{ cert: {here}/server.pem, key: {here}/server.key{ocsp} }}] }}");
            let proxy = Proxy::start(driver, &Config::to(&origin).listener(&tls));
            let output = Command::new("openssl")
                .args(["s_client", "-connect", &proxy.address().to_string(), "-servername", "localhost", "-status"])
                .stdin(Stdio::null())
                .output();
            let Ok(output) = output else {
                println!("skipped: openssl is not installed");
                return;
            };
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(text.contains(expected), "{text}");
        }
    }

    fn openssl_and_curl_are_served(driver) {
        let payload = Payload::new(4, 300_000);
        let origin = Origin::with(move |exchange| exchange.reply_payload(BodyKind::Length, payload));
        let served = Served::start("peers", driver, &origin, "");
        let authority = served.folder.write("ca.pem", served.authority.pem());
        let port = served.proxy.address().port();
        for version in ["--tlsv1.3", "--tls-max=1.2", "--http1.1"] {
            let version = version.split('=').collect::<Vec<_>>();
            let output = Command::new("curl")
                .args(["-sS", "--max-time", "10", "--cacert"])
                .arg(&authority)
                .args(version)
                .args(["--connect-to", &format!("localhost:443:127.0.0.1:{port}"), "https://localhost/"])
                .output();
            let Ok(output) = output else {
                println!("skipped: curl is not installed");
                return;
            };
            assert!(output.status.success() && output.stdout == payload.to_vec(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost"])
            .args(["-verify_return_error", "-CAfile"])
            .arg(&authority)
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else {
            println!("skipped: openssl is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
    }
}
