//! The translation both ways: tables, every cut, and random messages that must come back as they went.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, request, response};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use super::absorb::{Absorber, Event};
use super::corpus::{After, REQUESTS, Verdict, library_parts};
use super::render::{self, chunk_head};
use super::{Asked, Framing, Malformed, websocket_accept, websocket_key};
use crate::http::chunked::ChunkError;
use crate::http::framing::{BodyLength, HeadRule};
use crate::http::http1::parse::{HeadLimits, Parsed, parse_request, parse_response};
use crate::http::message::{HeadIndex, Method, Scheme};

const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

const GENEROUS: HeadLimits = HeadLimits { header_bytes: 1 << 20, header_count: 128, uri_bytes: 1 << 20 };

fn asked(method: Method) -> Asked {
    Asked { method, websocket_key: None }
}

fn asked_websocket() -> Asked {
    Asked { method: Method::Get, websocket_key: Some(websocket_key(KEY)) }
}

/// What the parser must say of a message that was rendered with `framing`.
fn length_of(framing: Framing) -> BodyLength {
    match framing {
        Framing::None | Framing::Tunnel => BodyLength::None,
        Framing::Length(length) => BodyLength::Length(length),
        Framing::Chunked => BodyLength::Chunked,
    }
}

/// The strict parser reads exactly one head, with this framing.
fn check_request_head(text: &[u8], framing: Framing) {
    let mut slots = HeadIndex::default();
    match parse_request(text, &mut slots, &GENEROUS) {
        Ok(Parsed::Complete(head)) => {
            assert_eq!(
                (head.head_bytes, head.body),
                (text.len(), length_of(framing)),
                "{}",
                text.escape_ascii()
            );
            assert_eq!(
                framing == Framing::Tunnel,
                head.method == Method::Connect || head.upgrade() == Some(b"websocket"),
                "{}",
                text.escape_ascii()
            );
        }
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

#[test]
fn the_corpus_of_requests() {
    for case in REQUESTS {
        let names: Vec<_> =
            case.fields.iter().map(|(name, value)| (*name, value.escape_ascii().to_string())).collect();
        let Some((parts, protocol)) = library_parts(case.fields) else {
            assert_eq!(case.verdict, Verdict::Unrepresentable, "{names:?}");
            continue;
        };
        let mut out = b"before".to_vec();
        let end_of_stream = case.after == After::Nothing;
        let got = render::request(&parts, protocol.as_deref(), end_of_stream, KEY, &mut out);
        let text = &out[6..];
        match (case.verdict, got) {
            (Verdict::Accept(framing, head), Ok(got)) => {
                assert_eq!((String::from_utf8_lossy(text), got), (head.into(), framing), "{names:?}");
                check_request_head(text, got);
            }
            (Verdict::Refuse(why), Err(got)) => assert_eq!((got, text), (why, &b""[..]), "{names:?}"),
            (verdict, got) => panic!("{names:?}: {got:?}, not {verdict:?}"),
        }
    }
}

#[test]
fn a_request_may_not_name_a_protocol_without_connect() {
    let (parts, ()) = Request::get("https://a/").body(()).unwrap().into_parts();
    let got = render::request(&parts, Some("websocket"), true, KEY, &mut Vec::new());
    assert_eq!(got, Err(Malformed::ProtocolMisplaced));
}

#[test]
fn fields_are_counted() {
    for (count, accepted) in [(126, true), (127, true), (128, false)] {
        let (mut parts, ()) = Request::get("https://a/").body(()).unwrap().into_parts();
        for index in 0..count {
            parts.headers.append("x", HeaderValue::from(index));
        }
        let mut out = Vec::new();
        let got = render::request(&parts, None, true, KEY, &mut out);
        if accepted {
            check_request_head(&out, got.unwrap());
        } else {
            assert_eq!(got, Err(HeadRule::TooManyFields.into()));
        }
    }
}

fn response_parts(status: u16, fields: &[(&str, &str)]) -> response::Parts {
    let mut builder = Response::builder().status(status);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

/// Status, fields, what was asked, whether the stream ended; framing, head.
type ResponseRow<'a> = (u16, &'a [(&'a str, &'a str)], Asked, bool, Result<(Framing, &'a str), Malformed>);

#[test]
fn responses_are_rendered() {
    use Framing::{Chunked, Length, None, Tunnel};
    let (get, head, connect) = (asked(Method::Get), asked(Method::Head), asked(Method::Connect));
    let websocket = asked_websocket();
    let table: &[ResponseRow<'_>] = &[
        (200, &[], get, true, Ok((Length(0), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))),
        (200, &[], get, false, Ok((Chunked, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))),
        (
            200,
            &[("content-length", "5")],
            get,
            false,
            Ok((Length(5), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")),
        ),
        (
            299,
            &[("content-length", "0")],
            get,
            true,
            Ok((Length(0), "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n")),
        ),
        (200, &[("content-length", "5")], get, true, Err(Malformed::LengthMismatch)),
        (
            200,
            &[("content-length", "5"), ("content-length", "5")],
            get,
            false,
            Err(HeadRule::LengthRepeated.into()),
        ),
        (200, &[("content-length", "x")], get, false, Err(HeadRule::LengthInvalid.into())),
        (
            200,
            &[("content-length", "5"), ("trailer", "x")],
            get,
            false,
            Ok((Chunked, "HTTP/1.1 200 OK\r\ntrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ),
        (
            200,
            &[("content-type", "application/grpc"), ("content-length", "5")],
            get,
            false,
            Ok((
                Chunked,
                "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n",
            )),
        ),
        (
            200,
            &[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("host", "x")],
            get,
            true,
            Ok((
                Length(0),
                "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nhost: x\r\nContent-Length: 0\r\n\r\n",
            )),
        ),
        // No body.
        (
            200,
            &[("content-length", "5")],
            head,
            true,
            Ok((None, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")),
        ),
        (200, &[], head, true, Ok((None, "HTTP/1.1 200 OK\r\n\r\n"))),
        (204, &[("content-length", "0")], get, true, Ok((None, "HTTP/1.1 204 No Content\r\n\r\n"))),
        (
            304,
            &[("content-length", "5")],
            get,
            true,
            Ok((None, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")),
        ),
        (304, &[], get, false, Ok((None, "HTTP/1.1 304 Not Modified\r\n\r\n"))),
        // Interim.
        (103, &[("link", "</a>")], get, false, Ok((None, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"))),
        (100, &[("content-length", "5")], get, false, Ok((None, "HTTP/1.1 100 Continue\r\n\r\n"))),
        (100, &[], get, true, Err(Malformed::InterimEnds)),
        (101, &[], get, false, Err(Malformed::SwitchingProtocols)),
        (101, &[], websocket, false, Err(Malformed::SwitchingProtocols)),
        // Tunnels.
        (200, &[("content-length", "5")], connect, false, Ok((Tunnel, "HTTP/1.1 200 OK\r\n\r\n"))),
        (403, &[], connect, true, Ok((Length(0), "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))),
        (
            200,
            &[("sec-websocket-protocol", "x"), ("sec-websocket-accept", "forged")],
            websocket,
            false,
            Ok((
                Tunnel,
                "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-protocol: x\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n",
            )),
        ),
        (
            403,
            &[],
            websocket,
            false,
            Ok((Chunked, "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ),
        // Fields of a connection.
        (200, &[("connection", "close")], get, false, Err(Malformed::ConnectionField)),
        (200, &[("transfer-encoding", "chunked")], get, false, Err(Malformed::ConnectionField)),
        (200, &[("x", "a ")], get, false, Err(Malformed::ValueSpace)),
        (200, &[("content_length", "5")], get, false, Err(HeadRule::FramingImpostor.into())),
    ];
    let accept = String::from_utf8(websocket_accept(&websocket_key(KEY)).to_vec()).unwrap();
    for (status, fields, asked, end_of_stream, expected) in table {
        let parts = response_parts(*status, fields);
        let mut out = Vec::new();
        let got = render::response(&parts, asked, *end_of_stream, &mut out);
        let text = String::from_utf8(out).unwrap();
        let expected = expected.map(|(framing, head)| (framing, head.replace("{accept}", &accept)));
        assert_eq!(got.map(|framing| (framing, text.clone())), expected, "{status} {fields:?}");
        let Ok(framing) = got else {
            assert_eq!(text, "");
            continue;
        };
        let mut slots = HeadIndex::default();
        let Ok(Parsed::Complete(read)) = parse_response(text.as_bytes(), &mut slots, asked.method, &GENEROUS)
        else {
            panic!("{text}");
        };
        assert_eq!((read.head_bytes, read.body), (text.len(), length_of(framing)), "{text}");
    }
}

/// RFC 6455 section 1.3.
#[test]
fn the_sample_key_gets_the_sample_accept() {
    assert_eq!(&websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(&websocket_key(*b"the sample nonce"), b"dGhlIHNhbXBsZSBub25jZQ==");
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_lowercase(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

/// Framing, trailers; what is written.
type EndRow<'a> = (Framing, &'a [(&'a str, &'a str)], Result<&'a str, Malformed>);

#[test]
fn bodies_end() {
    let long = "x".repeat(8 * 1024);
    let table: &[EndRow<'_>] = &[
        (Framing::None, &[], Ok("")),
        (Framing::Length(5), &[("x", "y")], Ok("")),
        (Framing::Tunnel, &[], Ok("")),
        (Framing::Chunked, &[], Ok("0\r\n\r\n")),
        (Framing::Chunked, &[("grpc-status", "0"), ("x", "")], Ok("0\r\ngrpc-status: 0\r\nx: \r\n\r\n")),
        (
            Framing::Chunked,
            &[
                ("content-length", "5"),
                ("host", "a"),
                ("x-forwarded-for", "1"),
                ("authorization", "b"),
                ("te", "trailers"),
                ("x", "y"),
            ],
            Ok("0\r\nx: y\r\n\r\n"),
        ),
        (Framing::Chunked, &[("transfer-encoding", "chunked")], Err(Malformed::ConnectionField)),
        (Framing::Chunked, &[("connection", "close")], Err(Malformed::ConnectionField)),
        (Framing::Chunked, &[("x\"", "y")], Err(HeadRule::FieldName.into())),
        (Framing::Chunked, &[("x", "y ")], Err(Malformed::ValueSpace)),
        (Framing::Chunked, &[("x", &long)], Err(Malformed::TrailersTooLong)),
    ];
    for (framing, trailers, expected) in table {
        let mut out = b"before".to_vec();
        let got = render::end(*framing, Some(&map(trailers)), &mut out);
        assert_eq!(
            got.map(|()| String::from_utf8_lossy(&out[6..])),
            expected.map(Into::into),
            "{trailers:?}"
        );
        if got.is_err() {
            assert_eq!(out, b"before");
        }
    }
    let mut out = Vec::new();
    render::end(Framing::Chunked, None, &mut out).unwrap();
    assert_eq!(out, b"0\r\n\r\n");
}

#[test]
fn chunk_heads() {
    for (len, expected) in [(0, ""), (1, "1\r\n"), (0x4000, "4000\r\n"), (usize::MAX, "ffffffffffffffff\r\n")]
    {
        let mut out = Vec::new();
        chunk_head(len, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

/// All that an absorber says about `input`, given in pieces of `cut` bytes, of which flow control takes `window` at a
/// time: one line for each event, neighbouring data joined, ends noted.
fn absorb(mut absorber: Absorber, input: &[u8], cut: usize, window: usize) -> Result<Vec<String>, Malformed> {
    let mut said: Vec<String> = Vec::new();
    let mut data = Vec::new();
    let mut held: Vec<u8> = Vec::new();
    let flush = |data: &mut Vec<u8>, said: &mut Vec<String>| {
        if !data.is_empty() {
            said.push(format!("data {}", data.escape_ascii()));
            data.clear();
        }
    };
    for piece in input.chunks(cut) {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            let (used, event) = absorber.step(&held)?;
            let mut taken = 0;
            let Some(event) = event else {
                assert_eq!(used, held.len(), "everything is done with when there is no event");
                held.clear();
                break;
            };
            if let Event::Data { bytes, end } = &event {
                assert_eq!(bytes.as_ptr(), held[used..].as_ptr(), "data is where it was");
                taken = bytes.len().min(window);
                data.extend_from_slice(&bytes[..taken]);
                absorber.took(taken);
                if *end && taken == bytes.len() {
                    assert!(absorber.is_ended());
                    flush(&mut data, &mut said);
                    said.push("end".into());
                } else {
                    assert!(!absorber.is_ended());
                }
            } else {
                flush(&mut data, &mut said);
                said.extend(describe(&event));
            }
            held.drain(..used + taken);
        }
    }
    flush(&mut data, &mut said);
    if let Some(event) = absorber.finish()? {
        said.extend(describe(&event));
    }
    assert!(absorber.is_ended() && absorber.finish().is_ok_and(|event| event.is_none()));
    Ok(said)
}

fn fields_of(map: &HeaderMap) -> String {
    map.iter().fold(String::new(), |line, (name, value)| {
        line + &format!(" {name}={}", value.as_bytes().escape_ascii())
    })
}

fn describe(event: &Event<'_>) -> Vec<String> {
    let (mut line, end) = match event {
        Event::Interim(head) => {
            (format!("interim {}{}", head.status().as_u16(), fields_of(head.headers())), false)
        }
        Event::Response { head, end } => {
            (format!("{}{}", head.status().as_u16(), fields_of(head.headers())), *end)
        }
        Event::Request { head, end, protocol, websocket_key } => {
            let protocol = protocol.map(|name| format!(" :protocol={name}")).unwrap_or_default();
            let key = websocket_key.map(|key| format!(" key={}", key.escape_ascii())).unwrap_or_default();
            let line =
                format!("{} {}{protocol}{key}{}", head.method(), head.uri(), fields_of(head.headers()));
            assert_eq!(head.version(), http::Version::HTTP_2);
            (line, *end)
        }
        Event::Data { .. } => return Vec::new(),
        Event::Trailers(map) => (format!("trailers{}", fields_of(map)), true),
        Event::End => (String::new(), true),
    };
    let mut lines = Vec::new();
    if !line.is_empty() {
        lines.push(std::mem::take(&mut line));
    }
    if end {
        lines.push("end".into());
    }
    lines
}

/// At every cut and some windows, the absorber says the same.
fn check_absorb(make: impl Fn() -> Absorber, input: &str, expected: Result<&[&str], Malformed>) {
    let expected = expected.map(|lines| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>());
    for cut in 1..=input.len().max(1) {
        for window in [1, 3, usize::MAX] {
            let got = absorb(make(), input.as_bytes(), cut, window);
            assert_eq!(got, expected, "{input:?} cut {cut} window {window}");
        }
    }
}

#[test]
fn requests_are_absorbed_at_every_cut() {
    let table: &[(&str, Result<&[&str], Malformed>)] = &[
        (
            "GET /a?b HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nX: 1\r\nx: 2\r\n\r\n",
            Ok(&["GET https://a.example/a?b accept=*/* x=1 x=2", "end"]),
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a:1\r\n\r\n", Ok(&["OPTIONS https://a:1* ", "end"])),
        ("GET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", Ok(&["GET https://b/", "end"])),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X\r\nX: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
             Proxy-Connection: x\r\nEmpty:\r\n\r\n",
            Ok(&["GET https://a/ empty= te=trailers", "end"]),
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: gzip\r\n\r\n", Ok(&["GET https://a/", "end"])),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            Ok(&["POST https://a/ content-length=5", "data hello", "end"]),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            Ok(&["POST https://a/ content-length=0", "end"]),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
            Ok(&["POST https://a/", "data hello!", "end"]),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Ok(&["POST https://a/", "end"]),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\n!\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n",
            Ok(&["POST https://a/", "data !", "trailers x-sum=1", "end"]),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n!\r\n0\r\nContent-Length: 1\r\n\r\n",
            Ok(&["POST https://a/", "data !", "end"]),
        ),
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nX: 1\r\n\r\nbytes",
            Ok(&["CONNECT a.example:443 x=1", "data bytes", "end"]),
        ),
        (
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nframes",
            Ok(&[
                "CONNECT https://a/chat :protocol=websocket key=dGhlIHNhbXBsZSBub25jZQ== sec-websocket-version=13",
                "data frames",
                "end",
            ]),
        ),
        // Another upgrade can't be asked for in HTTP/2: an ordinary request.
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp/1\r\n\r\n",
            Ok(&["GET https://a/", "end"]),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: short\r\n\r\n",
            Err(Malformed::WebSocketKey),
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", Err(Malformed::AfterEnd)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nab", Err(Malformed::AfterEnd)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na", Err(Malformed::Cut)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na", Err(Malformed::Cut)),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            Err(Malformed::Cut),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
            Err(Malformed::Chunk(ChunkError::Size)),
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n", Err(Malformed::Cut)),
        ("GET / HTTP/1.1\r\n\r\n", Err(Malformed::Head(HeadRule::HostMissing))),
        ("", Err(Malformed::Cut)),
    ];
    for (input, expected) in table {
        let trimmed: Result<Vec<&str>, _> =
            expected.map(|lines| lines.iter().map(|line| line.trim()).collect());
        check_absorb(|| Absorber::request(Scheme::Https), input, trimmed.as_deref().map_err(|&error| error));
    }
}

/// What was asked, the bytes; what is said of them.
type AbsorbRow<'a> = (Asked, &'a str, Result<&'a [&'a str], Malformed>);

#[test]
fn responses_are_absorbed_at_every_cut() {
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let (get, head, connect) = (asked(Method::Get), asked(Method::Head), asked(Method::Connect));
    let websocket = asked_websocket();
    let accept = String::from_utf8(websocket_accept(&websocket_key(KEY)).to_vec()).unwrap();
    let good = format!("{SWITCH}Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: x\r\n\r\nframes");
    let forged = format!("{SWITCH}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
    let bare = format!("{SWITCH}\r\n");
    let table: &[AbsorbRow<'_>] = &[
        (
            get,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\nConnection: close\r\n\r\nhi",
            Ok(&["200 content-length=2 date=now", "data hi", "end"]),
        ),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok(&["200 content-length=0", "end"])),
        (
            get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            Ok(&["200 set-cookie=a set-cookie=b", "data hi", "end"]),
        ),
        (
            get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n",
            Ok(&["200", "data hi", "trailers grpc-status=0", "end"]),
        ),
        (get, "HTTP/1.1 200 OK\r\n\r\nuntil close", Ok(&["200", "data until close", "end"])),
        (
            get,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            Ok(&["interim 100", "interim 103 link=x", "204", "end"]),
        ),
        (head, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Ok(&["200 content-length=9", "end"])),
        (head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(&["200", "end"])),
        (get, "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", Ok(&["304 etag=x", "end"])),
        (connect, "HTTP/1.1 200 OK\r\n\r\nbytes", Ok(&["200", "data bytes", "end"])),
        (
            connect,
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 1\r\n\r\nx",
            Ok(&["403 content-length=1", "data x", "end"]),
        ),
        (websocket, &good, Ok(&["200 sec-websocket-protocol=x", "data frames", "end"])),
        (websocket, &forged, Err(Malformed::WebSocketAccept)),
        (websocket, &bare, Err(Malformed::WebSocketAccept)),
        (get, &good, Err(Malformed::SwitchUnasked)),
        (
            websocket,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp/1\r\n\r\n",
            Err(Malformed::SwitchUnasked),
        ),
        // A 200 would open the tunnel in HTTP/2, so the client is told that the handshake failed.
        (
            websocket,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            Ok(&["502 content-length=2", "data hi", "end"]),
        ),
        (
            websocket,
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            Ok(&["403 content-length=0", "end"]),
        ),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", Err(Malformed::Cut)),
        (get, "HTTP/1.1 100 Continue\r\n\r\n", Err(Malformed::Cut)),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx", Err(Malformed::AfterEnd)),
        (get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", Err(Malformed::AfterEnd)),
    ];
    for (asked, input, expected) in table {
        check_absorb(|| Absorber::response(*asked), input, *expected);
    }
}

#[test]
fn the_end_rides_on_the_last_data() {
    let input = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let mut absorber = Absorber::response(asked(Method::Get));
    let Ok((head_bytes, Some(Event::Response { end: false, .. }))) = absorber.step(input) else { panic!() };
    let rest = &input[head_bytes..];
    let Ok((3, Some(Event::Data { bytes: b"hi", end: true }))) = absorber.step(rest) else { panic!() };
    // Only a part went: what is left carries the end.
    absorber.took(1);
    assert!(!absorber.is_ended());
    let Ok((0, Some(Event::Data { bytes: b"i", end: true }))) = absorber.step(&rest[4..]) else { panic!() };
    absorber.took(1);
    assert!(absorber.is_ended());
    assert!(matches!(absorber.step(&rest[5..9]), Ok((4, None))));
    assert!(matches!(absorber.step(&rest[9..]), Ok((3, None))));
    assert!(matches!(absorber.step(b""), Ok((0, None))));
    assert!(matches!(absorber.step(b"x"), Err(Malformed::AfterEnd)));
    // What follows the end isn't swallowed with it.
    let mut absorber = Absorber::response(asked(Method::Get));
    let (head_bytes, _) = absorber.step(input).unwrap();
    let (used, _) = absorber.step(&input[head_bytes..]).unwrap();
    absorber.took(2);
    let rest = [&input[head_bytes + used + 2..], b"x"].concat();
    assert!(matches!(absorber.step(&rest), Err(Malformed::AfterEnd)));
}

#[test]
fn nothing_is_held_between_pieces_that_are_whole() {
    assert!(size_of::<Absorber>() <= 128, "{}", size_of::<Absorber>());
    let mut absorber = Absorber::response(asked(Method::Get));
    for (piece, held) in [
        (&b"HTTP/1.1 200 OK\r\nTransfer-Enc"[..], 29),
        (b"oding: chunked\r\n\r\n", 0),
        (b"1", 1),
        (b"\r\n", 0),
    ] {
        absorber.step(piece).unwrap();
        assert_eq!(absorber.held().len(), held);
        assert!(held > 0 || absorber.held().capacity() == 0);
    }
}

#[test]
fn a_head_without_end_is_refused() {
    let mut absorber = Absorber::response(asked(Method::Get));
    let mut given = 0;
    let mut piece: &[u8] = b"HTTP/1.1 200 OK\r\nX: ";
    loop {
        match absorber.step(piece) {
            Ok((used, None)) => assert_eq!(used, piece.len()),
            other => {
                assert!(matches!(other, Err(Malformed::Head(HeadRule::HeadTooLarge))), "{other:?}");
                break;
            }
        }
        given += piece.len();
        assert!(given < 1 << 20);
        piece = &[b'x'; 4096];
    }
}

fn name() -> impl Strategy<Value = String> {
    let known = prop_oneof![
        Just("accept"),
        Just("cookie"),
        Just("content-type"),
        Just("user-agent"),
        Just("x_under"),
        Just("te"),
        Just("trailer"),
        Just("expect"),
        Just("sec-websocket-key"),
        Just("sec-websocket-version"),
        Just("http2-settings"),
    ];
    prop_oneof![2 => known.prop_map(str::to_owned), 1 => "[a-z][a-z0-9-]{0,12}"]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"trailers".to_vec()),
        Just(b"100-continue".to_vec()),
        Just(b"application/grpc".to_vec()),
        "[ -~]{0,20}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn request_strategy() -> impl Strategy<Value = (request::Parts, Option<String>)> {
    let method = prop_oneof![
        4 => prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("OPTIONS"), Just("CONNECT"), Just("TRACE"), Just("PUT")]
            .prop_map(str::to_owned),
        1 => "[A-Z!a-z-]{1,10}",
    ];
    let authority =
        prop_oneof![Just("a.example".to_owned()), "[a-z0-9.@:_-]{1,12}", Just("[::1]:80".to_owned())];
    let path = prop_oneof![Just("*".to_owned()), Just("/".to_owned()), "/[!-~]{0,20}", "[!-~]{1,8}"];
    let fields = prop::collection::vec((name(), value()), 0..8);
    let length =
        prop_oneof![3 => Just(None), 1 => Just(Some("0".to_owned())), 2 => "[0-9]{1,4}".prop_map(Some)];
    let host = prop_oneof![3 => Just(None), 1 => Just(Some("a.example".to_owned()))];
    let shape = (any::<bool>(), any::<bool>(), any::<bool>());
    (method, authority, path, fields, length, host, shape).prop_filter_map(
        "the library refuses it",
        |(method, authority, path, fields, length, host, (named, secure, websocket))| {
            let mut list: Vec<(&str, &[u8])> = vec![(":method", method.as_bytes())];
            let plain_connect = method == "CONNECT" && !websocket;
            if method == "CONNECT" && websocket {
                list.push((":protocol", b"websocket"));
            }
            if !plain_connect {
                list.push((":scheme", if secure { b"https" } else { b"http" }));
                list.push((":path", path.as_bytes()));
            }
            if named {
                list.push((":authority", authority.as_bytes()));
            }
            list.extend(fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
            list.extend(length.as_ref().map(|length| ("content-length", length.as_bytes())));
            list.extend(host.as_ref().map(|host| ("host", host.as_bytes())));
            library_parts(&list)
        },
    )
}

/// What must come back: Host is in the URI, cookies are one field, what only HTTP/1.1 needs is gone.
fn expected_fields(parts: &request::Parts, framing: Framing, key: bool) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (name, value) in &parts.headers {
        match name.as_str() {
            // In the URI, in the framing; the rest never outlives a connection.
            "host"
            | "content-length"
            | "http2-settings"
            | "proxy"
            | "proxy-authenticate"
            | "proxy-authorization" => {}
            "sec-websocket-key" | "sec-websocket-accept" | "te" if key => {}
            "te" if fields.iter().any(|(name, _)| name == "te") => {}
            "cookie" => cookies.push(value.as_bytes()),
            name => fields.push((name.to_owned(), value.as_bytes().to_vec())),
        }
    }
    if parts.headers.contains_key("cookie") {
        cookies.retain(|cookie| !cookie.is_empty());
        fields.push(("cookie".into(), cookies.join(&b"; "[..])));
    }
    if let Framing::Length(length) = framing {
        fields.push(("content-length".into(), length.to_string().into_bytes()));
    }
    if key && !parts.headers.contains_key("sec-websocket-version") {
        fields.push(("sec-websocket-version".into(), b"13".to_vec()));
    }
    fields.sort();
    fields
}

proptest! {
    /// Out of HTTP/2 and back: refused, or one head for the strict parser, and the same request again.
    #[test]
    fn requests_come_back((parts, protocol) in request_strategy(), end_of_stream in any::<bool>(), cut in 1usize..80) {
        let mut out = Vec::new();
        let Ok(framing) = render::request(&parts, protocol.as_deref(), end_of_stream, KEY, &mut out) else {
            prop_assert_eq!(out.len(), 0);
            return Ok(());
        };
        check_request_head(&out, framing);
        let mut absorber = Absorber::request(Scheme::Https);
        let mut event = None;
        for piece in out.chunks(cut) {
            let (used, got) = absorber.step(piece).unwrap();
            prop_assert_eq!(used, piece.len());
            event = got;
        }
        let Some(Event::Request { head, end, protocol: again, websocket_key: key }) = event else {
            panic!("no request: {event:?}");
        };
        prop_assert_eq!(head.method(), &parts.method);
        prop_assert_eq!(again, protocol.as_deref());
        prop_assert_eq!(key, protocol.as_ref().map(|_| websocket_key(KEY)));
        prop_assert_eq!(end, matches!(framing, Framing::None | Framing::Length(0)));
        let host = parts.uri.authority().map_or_else(
            || parts.headers["host"].to_str().unwrap(),
            http::uri::Authority::as_str,
        );
        prop_assert_eq!(head.uri().authority().unwrap().as_str(), host);
        prop_assert_eq!(head.uri().path(), parts.uri.path());
        prop_assert_eq!(head.uri().query(), parts.uri.query());
        let mut got: Vec<_> =
            head.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        got.sort();
        prop_assert_eq!(got, expected_fields(&parts, framing, key.is_some()));
    }

    /// A body in any pieces, rendered, absorbed in any pieces: the same bytes and trailers.
    #[test]
    fn bodies_come_back(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        trailers in prop::collection::vec(("x-[a-z]{1,8}", "[!-~]{1,8}"), 0..4),
        known in any::<bool>(),
        cut in 1usize..60,
        window in 1usize..60,
    ) {
        let content = pieces.concat();
        let length = content.len().to_string();
        let fields: &[(&str, &str)] = if known { &[("content-length", &length)] } else { &[] };
        let asked = asked(Method::Get);
        let mut out = Vec::new();
        let framing = render::response(&response_parts(200, fields), &asked, false, &mut out).unwrap();
        for piece in &pieces {
            if framing == Framing::Chunked {
                chunk_head(piece.len(), &mut out);
            }
            out.extend_from_slice(piece);
            if framing == Framing::Chunked && !piece.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
        }
        let trailers: Vec<_> = trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let trailers = map(&trailers);
        render::end(framing, Some(&trailers), &mut out).unwrap();
        let got = absorb(Absorber::response(asked), &out, cut, window).unwrap();
        let mut expected = vec![format!("200{}", if known { format!(" content-length={length}") } else { String::new() })];
        if !content.is_empty() {
            expected.push(format!("data {}", content.escape_ascii()));
        }
        if framing == Framing::Chunked && !trailers.is_empty() {
            expected.push(format!("trailers{}", fields_of(&trailers)));
        }
        expected.push("end".into());
        prop_assert_eq!(got, expected);
    }
}
