//! HTTP/2 requests that an HTTP/1.1 origin could read as something else (RFC 9113 sections 8.1.1, 8.2 and 10.3): the
//! origin sees exactly the one well-formed request that was meant, or nothing. And frames that break the protocol: the
//! error that RFC 9113 names, on the stream or on the connection, as it says.

use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::raw::{self, Frame, PREFACE, Raw, code, flag, kind, setting};
use ringway_tests::origin::{Origin, Record};
use ringway_tests::proxy::Proxy;
use ringway_tests::wire::WireError;

type Field<'f> = (&'f [u8], &'f [u8]);

/// A GET for `/case`, and these fields.
fn with(fields: &[Field<'static>]) -> Vec<Field<'static>> {
    let mut list = pseudo(&[]);
    list.extend_from_slice(fields);
    list
}

/// The pseudo-fields of a GET for `/case`, with these in place of the ones of the same name; no value: left out.
fn pseudo(changes: &[(&'static [u8], Option<&'static [u8]>)]) -> Vec<Field<'static>> {
    let all: [Field<'static>; 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/case"), (b":authority", b"test")];
    all.into_iter()
        .filter_map(|(name, value)| match changes.iter().find(|(changed, _)| *changed == name) {
            Some((_, None)) => None,
            Some((_, Some(value))) => Some((name, *value)),
            None => Some((name, value)),
        })
        .collect()
}

/// Heads of whole requests that must not be forwarded: each is a stream error, or is answered with a 4xx or 501.
fn malformed_heads() -> Vec<(&'static str, Vec<Field<'static>>)> {
    let mut cases = Vec::new();
    let names: [&[u8]; 14] = [
        b"X-Upper",
        b"x y",
        b"x:y",
        b"",
        b"x\r\ny",
        b"x\ny",
        b"x\0y",
        b"x\ry",
        b" x",
        b"x ",
        b"\xc3\xa4",
        b":",
        b":x",
        b"x\x7f",
    ];
    for name in names {
        cases.push(("a name that is none", with(&[(name, b"value")])));
    }
    let values: [&[u8]; 8] = [
        b"a\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n",
        b"a\nb",
        b"a\rb",
        b"a\0b",
        b"\r\n",
        b"\n",
        b"\0",
        b"a\r\n\r\n",
    ];
    for value in values {
        cases.push(("a value with a line break or NUL", with(&[(b"x-value", value)])));
        cases.push(("a cookie with a line break or NUL", with(&[(b"cookie", value)])));
    }
    for value in [&b" padded"[..], b"padded ", b"\tpadded", b"padded\t", b" "] {
        cases.push(("a value with blanks around it", with(&[(b"x-value", value)])));
    }
    let paths: [&[u8]; 12] = [
        b"/a\r\nX: y",
        b"/a b",
        b"/a\0",
        b"/a\x7f",
        b"/\xc3\xa4",
        b"",
        b"case",
        b"*",
        b"http://other/",
        b"/a HTTP/1.1",
        b"//\r\n",
        b"?query",
    ];
    for path in paths {
        cases.push(("a path that is none", pseudo(&[(b":path", Some(path))])));
    }
    let methods: [&[u8]; 6] = [b"", b"GET /", b"G\r\nET", b"GET\0", b"get", b"G ET"];
    for method in methods {
        cases.push(("a method that is none", pseudo(&[(b":method", Some(method))])));
    }
    let authorities: [&[u8]; 9] = [
        b"test\r\nX: y",
        b"te st",
        b"test\0",
        b"user@test",
        b"test/path",
        b"test:port",
        b"test:99999",
        b"a,b",
        b"test?x",
    ];
    for authority in authorities {
        cases.push(("an authority that is none", pseudo(&[(b":authority", Some(authority))])));
    }
    for scheme in [&b""[..], b"ht tp", b"ftp", b"http\r\n", b"http://evil/?", b"1"] {
        cases.push(("a scheme that is none of ours", pseudo(&[(b":scheme", Some(scheme))])));
    }
    for missing in [&b":method"[..], b":path", b":scheme", b":authority"] {
        cases.push(("a pseudo-field is missing", pseudo(&[(missing, None)])));
    }
    for (name, value) in pseudo(&[]) {
        cases.push(("a pseudo-field twice", [vec![(name, value)], pseudo(&[])].concat()));
        let mut late = pseudo(&[(name, None)]);
        late.extend([(&b"x-regular"[..], &b"1"[..]), (name, value)]);
        cases.push(("a pseudo-field behind a field", late));
    }
    for (name, value) in
        [(&b":status"[..], &b"200"[..]), (b":foo", b"bar"), (b":protocol", b"websocket"), (b":", b"x")]
    {
        cases.push(("a pseudo-field that has no place here", [vec![(name, value)], pseudo(&[])].concat()));
    }
    for (name, value) in [
        (&b"connection"[..], &b"close"[..]),
        (b"connection", b"x-mine"),
        (b"proxy-connection", b"keep-alive"),
        (b"keep-alive", b"timeout=5"),
        (b"upgrade", b"websocket"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b""),
        (b"te", b"gzip"),
        (b"te", b"trailers, chunked"),
    ] {
        cases.push(("a field of the connection", with(&[(name, value)])));
    }
    for (name, value) in [
        (&b"content_length"[..], &b"5"[..]),
        (b"transfer_encoding", b"chunked"),
        (b"transfer-_encoding", b"x"),
    ] {
        if name != b"transfer-_encoding" {
            cases.push(("a name that some take for another", with(&[(name, value)])));
        }
    }
    for value in [
        &b"5"[..],
        b"1",
        b"18446744073709551615",
        b"18446744073709551616",
        b"+0",
        b"-0",
        b"0x0",
        b"0 ",
        b"",
        b"0, 0",
    ] {
        cases.push(("a length of a request that ends with its head", with(&[(b"content-length", value)])));
    }
    cases.push(("two lengths", with(&[(b"content-length", b"0"), (b"content-length", b"0")])));
    cases.push(("two lengths that differ", with(&[(b"content-length", b"0"), (b"content-length", b"5")])));
    cases.push(("another host", with(&[(b"host", b"other")])));
    cases.push((
        "two hosts",
        [pseudo(&[(b":authority", None)]), vec![(b"host", b"test"), (b"host", b"other")]].concat(),
    ));
    cases.push((
        "a host that is none",
        [pseudo(&[(b":authority", None)]), vec![(b"host", b"te st")]].concat(),
    ));
    let connect = |list: &[Field<'static>]| [&[(&b":method"[..], &b"CONNECT"[..])], list].concat();
    cases.push(("CONNECT to nobody", connect(&[])));
    cases.push((
        "CONNECT with a path",
        connect(&[(b":authority", b"test:80"), (b":scheme", b"http"), (b":path", b"/")]),
    ));
    cases.push(("CONNECT without a port", connect(&[(b":authority", b"test")])));
    cases
}

/// Heads that look odd and mean one thing: what the origin must have seen of them.
type Meant = (&'static str, Vec<Field<'static>>, fn(&Record) -> bool);

fn odd_heads() -> Vec<Meant> {
    vec![
        ("te: trailers", with(&[(b"te", b"trailers")]), |seen| seen.head.names("te", "trailers")),
        ("the same host twice", with(&[(b"host", b"test")]), |seen| seen.field("host") == Some("test")),
        (
            "host instead of :authority",
            [pseudo(&[(b":authority", None)]), vec![(b"host", b"test")]].concat(),
            |seen| seen.field("host") == Some("test"),
        ),
        ("an empty value", with(&[(b"x-empty", b"")]), |seen| seen.field("x-empty") == Some("")),
        ("a length of zero", with(&[(b"content-length", b"0")]), |seen| {
            seen.field("content-length") == Some("0")
        }),
        ("bytes beyond ASCII in a value", with(&[(b"x-value", b"\xc3\xa4")]), |seen| {
            seen.head.has("x-value")
        }),
        ("a tab inside a value", with(&[(b"x-value", b"a\tb")]), |seen| {
            seen.field("x-value") == Some("a\tb")
        }),
        ("a colon in a value", with(&[(b"x-value", b"a: b")]), |seen| seen.field("x-value") == Some("a: b")),
        ("https over a plain connection", pseudo(&[(b":scheme", Some(b"https"))]), |seen| {
            seen.field("x-forwarded-proto") == Some("http")
        }),
        ("an escaped line break", pseudo(&[(b":path", Some(b"/case%0d%0aX:%20y"))]), |seen| {
            seen.target().eq_ignore_ascii_case("/case%0d%0aX:%20y") && !seen.head.has("x")
        }),
        ("OPTIONS *", pseudo(&[(b":method", Some(b"OPTIONS")), (b":path", Some(b"*"))]), |seen| {
            seen.target() == "*"
        }),
        ("crumbs", with(&[(b"cookie", b"a=1"), (b"cookie", b"b=2")]), |seen| {
            seen.field("cookie") == Some("a=1; b=2")
        }),
        ("sec-websocket-key without an upgrade", with(&[(b"sec-websocket-key", b"x")]), |seen| {
            !seen.head.has("upgrade")
        }),
        ("an X-Forwarded-For of its own", with(&[(b"x-forwarded-for", b"6.6.6.6")]), |seen| {
            seen.field("x-forwarded-for") == Some("127.0.0.1")
        }),
    ]
}

fn proof(client: &mut Raw, stream: u32) {
    client.send(raw::get(stream, "/honest"));
    let head = client.await_frame("an answer to what is sound", |frame| {
        frame.kind == kind::HEADERS && frame.stream == stream
    });
    assert_eq!(head.status(), 200);
}

/// What the origin has seen besides the honest requests, and how many those were.
fn seen(origin: &Origin) -> (Vec<Record>, usize) {
    let (honest, others): (Vec<_>, Vec<_>) =
        origin.requests().into_iter().partition(|r| r.target() == "/honest");
    (others, honest.len())
}

/// The final word on a stream: its answer's head, its reset, or the connection's GOAWAY.
fn verdict(client: &mut Raw, stream: u32) -> Result<Frame, WireError> {
    loop {
        let frame = client.try_frame()?;
        let of_stream = frame.stream == stream && matches!(frame.kind, kind::HEADERS | kind::RST_STREAM);
        if of_stream || frame.kind == kind::GOAWAY {
            return Ok(frame);
        }
    }
}

const POST: [(&[u8], &[u8]); 4] =
    [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/case"), (b":authority", b"test")];

fn post(fields: &[Field<'_>]) -> Vec<u8> {
    raw::headers(1, 0, &[&POST, fields].concat())
}

for_each_driver! {
    fn malformed_requests_are_refused(driver) within 90 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let cases = malformed_heads();
        assert!(cases.len() > 100, "{} cases", cases.len());
        for (number, (what, fields)) in cases.iter().enumerate() {
            let text: Vec<_> = fields.iter().map(|(n, v)| format!("{}: {}", n.escape_ascii(), v.escape_ascii())).collect();
            // With the end of the stream, and with a request hidden in a body behind.
            for end in [true, false] {
                let context = format!("{what}: {text:?}, ended: {end}");
                let mut client = Raw::greet(proxy.address(), &[]);
                if end {
                    client.send(raw::headers(1, flag::END_STREAM, fields));
                } else {
                    let hidden = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
                    // A length that fits what follows would make some of them sound.
                    if fields.iter().any(|(name, _)| *name == b"content-length") {
                        continue;
                    }
                    client.send([raw::headers(1, 0, fields), raw::data(1, flag::END_STREAM, hidden)].concat());
                }
                let word = verdict(&mut client, 1).unwrap_or_else(|error| panic!("{context}: {error}"));
                match word.kind {
                    kind::HEADERS => {
                        let status = word.status();
                        assert!(matches!(status, 400 | 404 | 405 | 414 | 501), "{context}: {status}");
                    }
                    _ => assert_eq!(word.code(), code::PROTOCOL_ERROR, "{context}"),
                }
                // RFC 9113 section 5.4.2 lets a stream's error be one of the connection; the h2 crate makes use of it.
                if word.kind == kind::GOAWAY {
                    client = Raw::greet(proxy.address(), &[]);
                }
                proof(&mut client, 3);
                let (others, honest) = seen(&origin);
                assert!(others.is_empty(), "{context}: {others:?}");
                assert!(honest > number, "{context}");
            }
        }
    }

    fn odd_requests_mean_one_thing(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for (number, (what, fields, meant)) in odd_heads().into_iter().enumerate() {
            let mut client = Raw::greet(proxy.address(), &[]);
            client.send(raw::headers(1, flag::END_STREAM, &fields));
            let word = verdict(&mut client, 1).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(word.kind, kind::HEADERS, "{what}: {word:?}");
            assert_eq!(word.status(), 200, "{what}");
            let (others, _) = seen(&origin);
            assert_eq!(others.len(), number + 1, "{what}: {others:?}");
            assert!(meant(&others[number]), "{what}: {:?}", others[number].head);
            proof(&mut client, 3);
        }
    }

    /// RFC 9113 section 8.1.1: the length of the DATA frames is the one that was said, or the request is malformed. The
    /// origin may have seen the head by then; it must not see a whole request, nor a second one.
    fn lengths_that_do_not_fit(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let hidden = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
        let table: [(&str, Vec<Vec<u8>>); 6] = [
            ("too little", vec![raw::data(1, flag::END_STREAM, "abc")]),
            ("nothing", vec![raw::data(1, flag::END_STREAM, "")]),
            ("too much at once", vec![raw::data(1, flag::END_STREAM, format!("hello{hidden}"))]),
            ("too much after the end", vec![raw::data(1, 0, "hello"), raw::data(1, flag::END_STREAM, hidden)]),
            ("too much bit by bit", (0..6).map(|_| raw::data(1, 0, "x")).collect()),
            ("trailers too early", vec![raw::data(1, 0, "abc"), raw::headers(1, flag::END_STREAM, &[(b"x-t", b"1")])]),
        ];
        for (what, frames) in table {
            let mut client = Raw::greet(proxy.address(), &[]);
            client.send(post(&[(b"content-length", b"5"), (b"x-case", what.as_bytes())]));
            client.send(frames.concat());
            let word = verdict(&mut client, 1).unwrap_or_else(|error| panic!("{what}: {error}"));
            match word.kind {
                // An origin that has its five bytes may answer before the rest is seen.
                kind::HEADERS => assert!(matches!(word.status(), 200 | 400 | 502), "{what}: {}", word.status()),
                kind::RST_STREAM => assert_eq!(word.code(), code::PROTOCOL_ERROR, "{what}"),
                _ => panic!("{what}: {word:?}"),
            }
            proof(&mut client, 3);
            let others = seen(&origin).0;
            assert!(others.iter().all(|record| record.target() == "/case"), "{what}: {others:?}");
            // One of an earlier case may come to the log after its client was told.
            for record in others.iter().filter(|record| record.field("x-case") == Some(what)) {
                assert_eq!(record.field("content-length"), Some("5"), "{what}");
                let whole = record.end.is_some();
                assert!(!whole || record.body == b"hello" || record.body == b"xxxxx", "{what}: {record:?}");
                assert!(!whole || what.starts_with("too much"), "{what}: a cut body looked whole: {record:?}");
            }
        }
    }

    fn trailers_that_are_refused(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let table: [(&str, Vec<Field<'static>>); 9] = [
            ("a pseudo-field", vec![(b":path", b"/smuggled")]),
            ("a status", vec![(b":status", b"200")]),
            ("an upper-case name", vec![(b"X-Up", b"1")]),
            ("a line break", vec![(b"x-t", b"1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n")]),
            ("a NUL", vec![(b"x-t", b"a\0b")]),
            ("a name with a blank", vec![(b"x t", b"1")]),
            ("transfer-encoding", vec![(b"transfer-encoding", b"chunked")]),
            ("connection", vec![(b"connection", b"x-t"), (b"x-t", b"1")]),
            ("blanks around", vec![(b"x-t", b" 1 ")]),
        ];
        for (what, trailers) in table {
            let before = seen(&origin).0.len();
            let mut client = Raw::greet(proxy.address(), &[]);
            client.send([post(&[]), raw::data(1, 0, "body"), raw::headers(1, flag::END_STREAM, &trailers)].concat());
            let word = verdict(&mut client, 1).unwrap_or_else(|error| panic!("{what}: {error}"));
            match word.kind {
                // The h2 crate drops pseudo-fields that come so late, which leaves a sound request.
                kind::HEADERS => assert!(
                    matches!(word.status(), 400 | 502) || trailers[0].0.starts_with(b":"),
                    "{what}: {}",
                    word.status()
                ),
                _ => assert_eq!(word.code(), code::PROTOCOL_ERROR, "{what}"),
            }
            if word.kind == kind::GOAWAY {
                client = Raw::greet(proxy.address(), &[]);
            }
            proof(&mut client, 3);
            for record in &seen(&origin).0[before..] {
                assert_eq!(record.target(), "/case", "{what}");
                let whole = record.end.as_ref().is_some_and(|end| end.trailers.is_empty());
                assert!(
                    record.end.is_none() || (whole && trailers[0].0.starts_with(b":")),
                    "{what}: the request looked whole: {record:?}"
                );
            }
        }
        // What may come so late is passed on, what may not is left out (RFC 9110 section 6.5.1).
        let mut client = Raw::greet(proxy.address(), &[]);
        let late: [Field<'static>; 4] =
            [(b"x-fine", b"1"), (b"content-length", b"9"), (b"host", b"other"), (b"authorization", b"x")];
        client.send([post(&[]), raw::data(1, 0, "body"), raw::headers(1, flag::END_STREAM, &late)].concat());
        let word = verdict(&mut client, 1).expect("a verdict");
        let record = origin.requests().into_iter().rev().find(|record| record.target() == "/case");
        if word.kind == kind::HEADERS && word.status() == 200 {
            let trailers = record.and_then(|record| record.end).expect("a whole request").trailers;
            let names: Vec<_> = trailers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
            assert_eq!(names, ["x-fine"]);
        }
    }

    /// Errors of the connection, with the codes that RFC 9113 gives them.
    fn broken_frames_end_the_connection(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let open = raw::frame(kind::HEADERS, 0, 1, raw::block(&raw::GET));
        let end = flag::END_HEADERS | flag::END_STREAM;
        let table: Vec<(&str, Vec<u8>, u32)> = vec![
            ("DATA on no stream", raw::data(0, 0, "x"), code::PROTOCOL_ERROR),
            ("DATA on a stream that nobody opened", raw::data(1, 0, "x"), code::PROTOCOL_ERROR),
            ("a head on no stream", raw::frame(kind::HEADERS, end, 0, raw::block(&raw::GET)), code::PROTOCOL_ERROR),
            ("a head on a server's stream", raw::get(2, "/case"), code::PROTOCOL_ERROR),
            ("CONTINUATION of nothing", raw::frame(kind::CONTINUATION, 4, 1, raw::block(&raw::GET)), code::PROTOCOL_ERROR),
            ("another frame inside a head", [open.clone(), raw::ping(1)].concat(), code::PROTOCOL_ERROR),
            ("another stream inside a head", [open.clone(), raw::get(3, "/case")].concat(), code::PROTOCOL_ERROR),
            ("CONTINUATION of another stream", [open, raw::frame(kind::CONTINUATION, 4, 3, [])].concat(), code::PROTOCOL_ERROR),
            ("an index of zero", raw::frame(kind::HEADERS, end, 1, [0x80]), code::COMPRESSION_ERROR),
            ("an index beyond the table", raw::frame(kind::HEADERS, end, 1, [0xff, 0x80, 0x01]), code::COMPRESSION_ERROR),
            ("a table that is too large", raw::frame(kind::HEADERS, end, 1, [0x3f, 0xe1, 0xff, 0x7f]), code::COMPRESSION_ERROR),
            ("a block that ends inside", raw::frame(kind::HEADERS, end, 1, [0x00, 0x05, b'a']), code::COMPRESSION_ERROR),
            ("more padding than frame", raw::frame(kind::HEADERS, end | flag::PADDED, 1, [200, 0x82]), code::PROTOCOL_ERROR),
            ("a frame that is too large", raw::frame(0xbe, 0, 0, vec![0; 16_385]), code::FRAME_SIZE_ERROR),
            ("SETTINGS of five bytes", raw::frame(kind::SETTINGS, 0, 0, [0; 5]), code::FRAME_SIZE_ERROR),
            ("an acknowledgement that says something", raw::frame(kind::SETTINGS, 1, 0, [0; 6]), code::FRAME_SIZE_ERROR),
            ("SETTINGS on a stream", raw::frame(kind::SETTINGS, 0, 1, []), code::PROTOCOL_ERROR),
            ("a window that is too large", raw::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]), code::FLOW_CONTROL_ERROR),
            ("frames that are too small", raw::settings(&[(setting::MAX_FRAME_SIZE, 100)]), code::PROTOCOL_ERROR),
            ("a push of two", raw::settings(&[(setting::ENABLE_PUSH, 2)]), code::PROTOCOL_ERROR),
            ("PING of seven bytes", raw::frame(kind::PING, 0, 0, [0; 7]), code::FRAME_SIZE_ERROR),
            ("PING on a stream", raw::frame(kind::PING, 0, 1, [0; 8]), code::PROTOCOL_ERROR),
            ("WINDOW_UPDATE of nothing", raw::window_update(0, 0), code::PROTOCOL_ERROR),
            ("a window that overflows", raw::window_update(0, 0x7fff_ffff), code::FLOW_CONTROL_ERROR),
            ("WINDOW_UPDATE of three bytes", raw::frame(kind::WINDOW_UPDATE, 0, 0, [0; 3]), code::FRAME_SIZE_ERROR),
            ("a reset of no stream", raw::reset(0, 8), code::PROTOCOL_ERROR),
            ("a reset of a stream that nobody opened", raw::reset(1, 8), code::PROTOCOL_ERROR),
            ("a reset of three bytes", raw::frame(kind::RST_STREAM, 0, 1, [0; 3]), code::FRAME_SIZE_ERROR),
            ("a promise of a client", raw::frame(kind::PUSH_PROMISE, 4, 1, [0, 0, 0, 2]), code::PROTOCOL_ERROR),
            ("GOAWAY on a stream", raw::frame(kind::GOAWAY, 0, 1, [0; 8]), code::PROTOCOL_ERROR),
            ("a stream number that goes back", [raw::get(5, "/honest"), raw::get(3, "/case")].concat(), code::PROTOCOL_ERROR),
        ];
        for (what, bytes, expected) in table {
            let mut client = Raw::greet(proxy.address(), &[]);
            client.send(bytes);
            let end = client.to_end();
            assert_ne!(end.by, WireError::TimedOut, "{what}: {end:?}");
            match end.goaway {
                // The h2 crate has this one word for most of what it can't parse.
                Some(code::PROTOCOL_ERROR) => {}
                Some(told) => assert_eq!(told, expected, "{what}: {end:?}"),
                None => panic!("{what}: no GOAWAY, {end:?}"),
            }
        }
        let (others, _) = seen(&origin);
        assert!(others.is_empty(), "{others:?}");
    }

    /// What an HTTP/1.1 client could try with the preface.
    fn prefaces_that_are_something_else(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let hidden = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
        for bytes in [
            format!("PRI * HTTP/1.1\r\nHost: test\r\n\r\n{hidden}"),
            format!("PRI * HTTP/2.0\r\nHost: test\r\n\r\n{hidden}"),
            format!("PRI * HTTP/2.0\r\n\r\n{hidden}"),
            format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}"),
            format!("GET / HTTP/2.0\r\nHost: test\r\n\r\n{hidden}"),
        ] {
            let mut client = Raw::connect(proxy.address());
            client.send(&bytes);
            let end = client.wire.to_end();
            assert!(!matches!(end, Err(WireError::TimedOut)), "{bytes:?}");
            assert!(origin.requests().iter().all(|record| record.target() != "/smuggled"), "{bytes:?}");
        }
        // Behind an HTTP/1.1 request the preface is data like any other.
        let mut client = proxy.connect();
        client.send([format!("POST /case HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", PREFACE.len()).as_bytes(), PREFACE].concat());
        client.response("POST").expect(200);
        assert_eq!(origin.requests().last().map(|record| record.body.clone()), Some(PREFACE.to_vec()));
    }
}
