//! Heads: the verdict doesn't depend on the cuts, and what is accepted and encoded is accepted again as the same.
//!
//! The first byte picks the length of the pieces, the second the direction.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::framing::{BodyLength, HeadRule, relay};
use ringway::http::http1::encode::{
    ExpectRelay, Persistence, RequestRewrite, ResponseRewrite, TargetRewrite, encode_request, encode_response,
};
use ringway::http::http1::parse::{HeadLimits, Parsed, head_end_hint, parse_request, parse_response};
use ringway::http::message::{FieldSet, HeadIndex, Method, RequestHead, Version, Wire};
use ringway::http::rewrite::{HeaderOps, normalise_path};

#[derive(Debug, PartialEq, Clone, Copy)]
enum Verdict {
    Accept(usize, BodyLength),
    Refuse(HeadRule),
    Partial,
}

const LIMITS: HeadLimits = HeadLimits { header_bytes: 512, header_count: 16, uri_bytes: 64 };

fuzz_target!(|data: &[u8]| {
    let [step, direction, bytes @ ..] = data else { return };
    let step = usize::from(*step).max(1);
    if direction & 1 == 0 {
        settle(bytes, step, request);
        let mut slots = HeadIndex::default();
        if let Ok(Parsed::Complete(head)) = parse_request(bytes, &mut slots, &LIMITS) {
            assert!(head_end_hint(bytes, 0).is_some_and(|end| end <= head.head_bytes));
            same_again(&head);
            reads_plainly(&head);
            let mut scratch = Vec::new();
            let mut again = Vec::new();
            if let Ok(path) = normalise_path(head.target().path(), &mut scratch) {
                assert_eq!(normalise_path(path, &mut again), Ok(path));
            }
        }
    } else {
        let to = if direction & 2 == 0 { Method::Get } else { Method::Head };
        settle(bytes, step, |bytes| response(bytes, to));
        let mut slots = HeadIndex::default();
        if let Ok(Parsed::Complete(head)) = parse_response(bytes, &mut slots, to, &LIMITS) {
            let ops = HeaderOps::default();
            let mut out = Vec::new();
            let rewrite = ResponseRewrite {
                ops: &ops,
                framing: relay(head.body, Version::Http11),
                client: Version::Http11,
                persistence: Persistence::KeepAlive,
                upgrade: None,
                via: None,
                wire: Wire::Http1,
                date: b"now",
                extra: b"",
            };
            encode_response(&head, &rewrite, &mut out);
            let mut slots = HeadIndex::default();
            match parse_response(&out, &mut slots, to, &HeadLimits::default()) {
                Ok(Parsed::Complete(second)) => {
                    assert_eq!((second.head_bytes, second.status), (out.len(), head.status));
                    assert_eq!(second.body, rewrite.framing);
                }
                other => panic!("{}: {other:?}", out.escape_ascii()),
            }
        }
    }
});

/// Whole and in pieces, the verdict is the same.
fn settle(bytes: &[u8], step: usize, verdict: impl Fn(&[u8]) -> Verdict) {
    let whole = verdict(bytes);
    let mut seen = 0;
    let in_pieces = loop {
        seen = (seen + step).min(bytes.len());
        match verdict(&bytes[..seen]) {
            Verdict::Partial if seen < bytes.len() => {}
            settled => break settled,
        }
    };
    assert_eq!(in_pieces, whole);
}

fn request(bytes: &[u8]) -> Verdict {
    match parse_request(bytes, &mut HeadIndex::default(), &LIMITS) {
        Ok(Parsed::Complete(head)) => Verdict::Accept(head.head_bytes, head.body),
        Ok(Parsed::Partial) => Verdict::Partial,
        Err(error) => Verdict::Refuse(error.rule),
    }
}

fn response(bytes: &[u8], to: Method) -> Verdict {
    match parse_response(bytes, &mut HeadIndex::default(), to, &LIMITS) {
        Ok(Parsed::Complete(head)) => Verdict::Accept(head.head_bytes, head.body),
        Ok(Parsed::Partial) => Verdict::Partial,
        Err(error) => Verdict::Refuse(error.rule),
    }
}

fn same_again(head: &RequestHead<'_>) {
    let ops = HeaderOps::default();
    let rewrite = RequestRewrite {
        target: TargetRewrite::Unchanged,
        // An HTTP/1.0 request may come without Host; the upstream's name takes its place then.
        host: head.host().is_empty().then_some(&b"upstream"[..]),
        ops: &ops,
        drop: FieldSet::EMPTY,
        forwarding: None,
        framing: head.body,
        upgrade: None,
        persistence: Persistence::KeepAlive,
        expect: ExpectRelay::Forward,
        extra: b"",
    };
    let mut out = Vec::new();
    encode_request(head, &rewrite, &mut out);
    let mut slots = HeadIndex::default();
    match parse_request(&out, &mut slots, &HeadLimits::default()) {
        Ok(Parsed::Complete(second)) => {
            assert_eq!((second.head_bytes, second.body), (out.len(), head.body));
            assert_eq!((second.method_text(), second.version), (head.method_text(), Version::Http11));
            assert_eq!(second.target().query(), head.target().query());
        }
        other => panic!("{}: {other:?}", out.escape_ascii()),
    }
}

/// What is accepted, the plainest reader imaginable reads the same way.
fn reads_plainly(head: &RequestHead<'_>) {
    let raw = head.fields.raw;
    assert!(raw.ends_with(b"\r\n\r\n"));
    let line_feeds = memchr::memchr_iter(b'\n', raw).filter(|&at| raw[at - 1] == b'\r').count();
    let stray = raw.iter().filter(|&&byte| byte == b'\n' || byte == b'\r').count() - 2 * line_feeds;
    assert_eq!((line_feeds, stray), (head.fields.len() + 2, 0));
    let count = |name: &str| head.fields.values(name).count();
    assert!(count("content-length") + count("transfer-encoding") <= 1 && count("host") <= 1);
}
