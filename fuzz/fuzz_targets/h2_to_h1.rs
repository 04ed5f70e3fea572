//! Requests of HTTP/2 in HTTP/1.1 form: refused, or exactly one head that the strict parser takes with the same framing,
//! and that reads back as the same request.
//!
//! The first byte says whether the stream ended with its head; then fields, parted by 0x1e, name and value by 0x1f.
//! Pseudo-header fields have their names, so the fuzzer plays with them too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::framing::BodyLength;
use ringway::http::grammar::trim;
use ringway::http::http1::parse::{HeadLimits, Parsed, parse_request};
use ringway::http::http2::absorb::{Absorber, Event};
use ringway::http::http2::corpus::library_parts;
use ringway::http::http2::{Framing, render};
use ringway::http::message::{HeadIndex, Method, Scheme};

const LIMITS: HeadLimits = HeadLimits { header_bytes: 1 << 20, header_count: 128, uri_bytes: 1 << 20 };

fuzz_target!(|data: &[u8]| {
    let [flags, data @ ..] = data else { return };
    let end_of_stream = flags & 1 == 0;
    let fields: Vec<(&str, &[u8])> = data
        .split(|&byte| byte == 0x1e)
        .filter_map(|field| {
            let at = field.iter().position(|&byte| byte == 0x1f)?;
            Some((std::str::from_utf8(&field[..at]).ok()?, &field[at + 1..]))
        })
        .collect();
    let Some((parts, protocol)) = library_parts(&fields) else { return };
    let mut out = Vec::new();
    let Ok(framing) = render::request(&parts, protocol.as_deref(), end_of_stream, [7; 16], &mut out) else {
        assert!(out.is_empty());
        return;
    };
    let mut slots = HeadIndex::default();
    let head = match parse_request(&out, &mut slots, &LIMITS) {
        Ok(Parsed::Complete(head)) => head,
        other => panic!("{}: {other:?}", out.escape_ascii()),
    };
    let body = match framing {
        Framing::None | Framing::Tunnel => BodyLength::None,
        Framing::Length(length) => BodyLength::Length(length),
        Framing::Chunked => BodyLength::Chunked,
    };
    assert_eq!((head.head_bytes, head.body), (out.len(), body), "{}", out.escape_ascii());
    // Every field that passes is one of the client's, or one of the few that the form needs.
    for header in head.fields.iter() {
        let sent = parts.headers.get_all(std::str::from_utf8(header.name).unwrap()).iter().any(|value| value.as_bytes() == header.value);
        let ours = ["host", "connection", "upgrade", "te", "content-length", "transfer-encoding", "cookie"];
        let ours = ours.iter().any(|name| header.name.eq_ignore_ascii_case(name.as_bytes()))
            || header.name.to_ascii_lowercase().starts_with(b"sec-websocket-");
        assert!(sent || ours, "{}: {}", header.name.escape_ascii(), out.escape_ascii());
        assert_eq!(trim(header.value), header.value);
    }
    let is_websocket = protocol.is_some();
    assert_eq!(framing == Framing::Tunnel, head.method == Method::Connect || is_websocket);
    assert_eq!(head.upgrade().is_some(), is_websocket);

    // The Uri type takes what the parser took, since all of it came out of one.
    match Absorber::request(Scheme::Https).step(&out) {
        Ok((used, Some(Event::Request { head: again, protocol: named, .. }))) => {
            assert_eq!(used, out.len());
            assert_eq!((again.method(), named), (&parts.method, protocol.as_ref().map(|_| "websocket")));
            if framing == Framing::Tunnel && !is_websocket {
                assert_eq!(again.uri().authority(), parts.uri.authority());
            } else {
                assert_eq!(again.uri().path_and_query().map(|path| path.as_str()), Some(target(&parts)));
            }
            if let Some(authority) = parts.uri.authority() {
                assert_eq!(again.uri().authority(), Some(authority));
            }
        }
        other => panic!("{}: {other:?}", out.escape_ascii()),
    }
});

fn target(parts: &http::request::Parts) -> &str {
    parts.uri.path_and_query().expect("it was rendered").as_str()
}
