//! What happens to header fields on their way: hop-by-hop ones end here, ours are added and can't be impersonated, all
//! others pass untouched and in order.

use ringway_tests::client::get;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, Record};
use ringway_tests::proxy::Proxy;

/// Sends a GET with these field lines and returns what arrived.
#[track_caller]
fn through(proxy: &Proxy, origin: &Origin, lines: &str) -> Record {
    let before = origin.request_count();
    proxy.connect().ask(&format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).expect(200);
    origin.requests().swap_remove(before)
}

/// Sends what `answer` is to a client and returns what arrived.
fn back(
    driver: ringway_tests::proxy::Driver,
    config: impl Fn(&Origin) -> Config,
    answer: &'static str,
) -> ringway_tests::client::Response {
    let origin = Origin::with(move |exchange| {
        exchange.write(answer)?;
        Ok(After::KeepAlive)
    });
    let proxy = Proxy::start(driver, &config(&origin));
    proxy.get("/").expect(200)
}

const SPOOFED: &str = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";

for_each_driver! {
    /// RFC 9110 section 7.6.1.
    fn hop_by_hop_fields_end_here(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let record = through(
            &proxy,
            &origin,
            "Connection: keep-alive, X-Mine ,x-other\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
             X-Mine: 1\r\nX-OTHER: 2\r\nTE: trailers\r\nUpgrade: foo\r\nX-Kept: 3\r\n",
        );
        for name in ["keep-alive", "proxy-connection", "x-mine", "x-other", "upgrade", "transfer-encoding"] {
            assert!(!record.head.has(name), "{name} in {:?}", record.head);
        }
        assert!(!record.head.names("connection", "x-mine"), "{:?}", record.head);
        assert_eq!(record.field("x-kept"), Some("3"));
    }

    fn hop_by_hop_fields_of_an_answer_end_here(driver) {
        let response = back(
            driver,
            Config::to,
            "HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 2\r\n\
             Content-Length: 0\r\n\r\n",
        );
        for name in ["x-mine", "keep-alive", "connection"] {
            assert!(!response.head.has(name), "{name} in {:?}", response.head);
        }
        assert_eq!(response.field("x-kept"), Some("2"));
    }

    /// A Connection field that names what the origin decides by would let a client strip it. Refusing is fine.
    fn connection_cannot_strip_what_matters(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for name in ["Host", "Content-Length", "Authorization", "Cookie", "X-Forwarded-For", "Forwarded", "Via"] {
            let before = origin.request_count();
            let mut client = proxy.connect();
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: test\r\nConnection: {name}\r\nContent-Length: 4\r\n\
                 Authorization: a\r\nCookie: c=d\r\n\r\nbody"
            ));
            let status = client.response("POST").status;
            if status == 200 {
                let record = origin.requests().swap_remove(before);
                for kept in ["host", "content-length", "authorization", "cookie", "x-forwarded-for", "via"] {
                    assert!(record.head.has(kept), "{kept} is gone after Connection: {name}");
                }
            } else {
                assert_eq!((status, origin.request_count()), (400, before), "Connection: {name}");
            }
        }
    }

    fn everything_else_passes_in_order(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let lines = "X-One: 1\r\nCookie: a=b\r\nX-Two:no blank\r\nAuthorization: Basic Zm9v\r\nX-One: again\r\n\
                     X-Empty: \r\nX_Under: score\r\nx-UTF8: gr\u{fc}n\r\nAccept: */*, text/html;q=0.5\r\n";
        let record = through(&proxy, &origin, lines);
        let ours = ["host", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"];
        let passed: Vec<_> = record
            .head
            .fields
            .iter()
            .filter(|(name, _)| !ours.contains(&name.to_ascii_lowercase().as_str()))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            passed,
            [
                ("X-One", "1"),
                ("Cookie", "a=b"),
                ("X-Two", "no blank"),
                ("Authorization", "Basic Zm9v"),
                ("X-One", "again"),
                ("X-Empty", ""),
                ("X_Under", "score"),
                ("x-UTF8", "gr\u{fc}n"),
                ("Accept", "*/*, text/html;q=0.5"),
            ]
        );
    }

    fn an_answer_passes_in_order(driver) {
        let response = back(
            driver,
            Config::to,
            "HTTP/1.1 200 Fine with me\r\nSet-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2\r\nServer: own\r\n\
             Date: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(response.head.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(response.field("server"), Some("own"));
        assert_eq!(response.field("date"), Some("Mon, 23 Nov 2026 00:00:00 GMT"), "the origin's date stays");
        assert_eq!(response.field("x-a"), Some("1"));
    }

    /// RFC 9110 section 6.6.1: a recipient with a clock adds the Date that is missing.
    fn a_missing_date_is_added(driver) {
        let response = back(driver, Config::to, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let date = response.field("date").expect("a Date").to_owned();
        assert!(date.ends_with(" GMT") && date.len() == 29, "IMF-fixdate: {date:?}");
    }

    fn we_say_who_asked(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let record = through(&proxy, &origin, "");
        assert_eq!(record.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(record.field("x-forwarded-proto"), Some("http"));
        assert_eq!(record.field("x-forwarded-host"), Some("test"));
        assert_eq!(record.field("via"), Some("1.1 ringway"));
        assert_eq!(record.field("host"), Some("test"), "Host passes unless a setting says otherwise");
        assert!(!record.head.has("forwarded"), "off unless asked for");
    }

    /// With no trusted hop, nothing that a client says about who it is gets through.
    fn nobody_impersonates_us(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("forwarding: { forwarded: true }"));
        let record = through(&proxy, &origin, SPOOFED);
        assert_eq!(record.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(record.field("x-forwarded-proto"), Some("http"));
        assert_eq!(record.field("x-forwarded-host"), Some("test"));
        let forwarded = record.field("forwarded").expect("Forwarded").to_owned();
        assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
        let raw = String::from_utf8_lossy(&record.head.raw).into_owned();
        for lie in ["6.6.6.6", "7.7.7.7", "evil", "https"] {
            assert!(!raw.contains(lie), "{lie} in {raw:?}");
        }
    }

    fn what_is_off_is_not_said(driver) {
        let origin = Origin::start();
        let config = Config::to(&origin).top("forwarding: { via: \"off\", x_forwarded: false }");
        let proxy = Proxy::start(driver, &config);
        let record = through(&proxy, &origin, SPOOFED);
        let raw = String::from_utf8_lossy(&record.head.raw).into_owned();
        assert!(!raw.contains("6.6.6.6"), "a client's lie does not pass because we are silent: {raw:?}");
        assert!(!record.head.has("via") && !record.head.has("x-forwarded-for"), "{raw:?}");
    }

    /// Behind trusted proxies their word is kept and ours appended.
    fn trusted_hops_are_believed(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("trusted_hops: 1"));
        let record = through(
            &proxy,
            &origin,
            "X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outside\r\n",
        );
        let chain: Vec<_> = record.head.all("x-forwarded-for").join(", ").split(", ").map(str::to_owned).collect();
        assert_eq!(chain.last().map(String::as_str), Some("127.0.0.1"), "ours comes last: {chain:?}");
        assert!(chain.contains(&"203.0.113.9".to_owned()), "the trusted hop's word is kept: {chain:?}");
        assert_eq!(record.field("x-forwarded-proto"), Some("https"));
        assert_eq!(record.field("x-forwarded-host"), Some("outside"));
    }

    fn via_is_appended(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let record = through(&proxy, &origin, "Via: 1.0 before\r\n");
        assert_eq!(record.head.all("via").join(", "), "1.0 before, 1.1 ringway");
        let response = proxy.get("/");
        assert_eq!(response.head.all("via").join(", "), "1.1 ringway", "on the way back as well");
    }

    fn a_host_may_be_rewritten(driver) {
        let origin = Origin::start();
        let authority = origin.address().to_string().trim_start_matches("http://").to_owned();
        let table = [
            (Config::to(&origin).upstream("host: client"), "test".to_owned()),
            (Config::to(&origin).upstream("host: upstream"), authority),
            (Config::to(&origin).upstream("host: internal.example"), "internal.example".to_owned()),
            (Config::to(&origin).upstream("host: a.example").route("rewrite: { host: b.example }"), "b.example".to_owned()),
        ];
        for (config, expected) in table {
            let proxy = Proxy::start(driver, &config);
            let record = through(&proxy, &origin, "");
            assert_eq!(record.head.all("host"), [expected.as_str()]);
            assert_eq!(record.field("x-forwarded-host"), Some("test"), "the origin can still see what was asked for");
        }
    }

    fn request_fields_can_be_changed(driver) {
        let origin = Origin::start();
        let config = Config::to(&origin).route(
            "request_headers: { set: { X-Set: new, X-Forwarded-Proto: https }, add: { X-Add: [one, two] }, remove: [X-Gone, Cookie] }",
        );
        let proxy = Proxy::start(driver, &config);
        let record = through(
            &proxy,
            &origin,
            "X-SET: old\r\nx-set: older\r\nX-Add: zero\r\nx-gone: 1\r\nCookie: a=b\r\nX-Stay: 1\r\n",
        );
        assert_eq!(record.head.all("x-set"), ["new"]);
        assert_eq!(record.head.all("x-add"), ["zero", "one", "two"]);
        assert!(!record.head.has("x-gone") && !record.head.has("cookie"), "{:?}", record.head);
        assert_eq!(record.field("x-stay"), Some("1"));
        assert_eq!(record.head.all("x-forwarded-proto"), ["https"], "an operator's word is the last");
    }

    fn response_fields_can_be_changed(driver) {
        let response = back(
            driver,
            |origin| {
                Config::to(origin).route(
                    "response_headers: { set: { Server: ringway }, add: { Set-Cookie: c=3 }, remove: [X-Powered-By] }",
                )
            },
            "HTTP/1.1 200 OK\r\nServer: own\r\nset-cookie: a=1\r\nX-Powered-By: magic\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(response.head.all("server"), ["ringway"]);
        assert_eq!(response.head.all("set-cookie"), ["a=1", "c=3"]);
        assert!(!response.head.has("x-powered-by"));
    }

    /// The raw bytes of a value are the origin's business, obs-text included (RFC 9110 section 5.5).
    fn bytes_beyond_ascii_pass(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Raw: \xff\xfe\x80\r\n\r\n");
        client.response("GET").expect(200);
        let raw = origin.only().head.raw;
        assert!(raw.windows(3).any(|window| window == b"\xff\xfe\x80"), "{:?}", String::from_utf8_lossy(&raw));
    }

    fn a_request_without_a_length_gets_none(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(get("/"));
        client.response("GET").expect(200);
        let head = origin.only().head;
        assert!(!head.has("content-length") && !head.has("transfer-encoding"), "{head:?}");
    }
}
