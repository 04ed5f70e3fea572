//! What HTTP costs per message, without a socket: parse, encode, and both together; HTTP/2 in HTTP/1.1 form and back;
//! chunks; the path.
//!
//! Run: `cargo bench -p ringway --bench http`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringway::http::chunked::{ChunkEvent, ChunkedDecoder, LAST_CHUNK, encode_chunk};
use ringway::http::framing::{FramingFields, StartLine, body_length, content_length, relay};
use ringway::http::http1::encode::{
    ExpectRelay, Persistence, RequestRewrite, ResponseRewrite, TargetRewrite, encode_request, encode_response,
};
use ringway::http::http1::parse::{HeadLimits, Parsed, head_end_hint, parse_request, parse_response};
use ringway::http::http2::absorb::{Absorber, Event};
use ringway::http::http2::{Asked, render};
use ringway::http::message::{
    FieldSet, HeadIndex, Method, RequestHead, ResponseHead, Scheme, Status, Version, Wire,
};
use ringway::http::rewrite::{Forwarding, ForwardingValues, HeaderOps, normalise_path};

/// Ten fields of about 50 bytes, as a browser sends them.
const BROWSER: &[u8] = b"GET /articles/2026/11/ringway?utm_source=feed HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Referer: https://www.example.com/articles\r\n\
    Sec-Fetch-Dest: document\r\n\
    If-None-Match: \"5e1d-61f0c1b8a3c40\"\r\n\r\n";

const MINIMAL: &[u8] = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx\r\n\
    Date: Mon, 23 Nov 2026 04:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 1024\r\n\
    Connection: keep-alive\r\n\
    Last-Modified: Sun, 22 Nov 2026 10:00:00 GMT\r\n\
    ETag: \"5e1d-61f0c1b8a3c40\"\r\n\
    Cache-Control: max-age=60\r\n\
    Vary: Accept-Encoding\r\n\
    Accept-Ranges: bytes\r\n\r\n";

const DATE: &[u8] = b"Mon, 23 Nov 2026 04:00:00 GMT";

fn with_request<T>(bytes: &[u8], then: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let mut slots = HeadIndex::default();
    match parse_request(bytes, &mut slots, &HeadLimits::default()) {
        Ok(Parsed::Complete(head)) => then(&head),
        other => panic!("{other:?}"),
    }
}

fn with_response<T>(bytes: &[u8], then: impl FnOnce(&ResponseHead<'_>) -> T) -> T {
    let mut slots = HeadIndex::default();
    match parse_response(bytes, &mut slots, Method::Get, &HeadLimits::default()) {
        Ok(Parsed::Complete(head)) => then(&head),
        other => panic!("{other:?}"),
    }
}

fn request_rewrite<'a>(
    head: &RequestHead<'_>,
    ops: &'a HeaderOps,
    forwarding: Option<&'a Forwarding>,
) -> RequestRewrite<'a> {
    let values = ForwardingValues {
        peer_ip: b"192.0.2.17",
        client_ip: b"192.0.2.17",
        scheme: Scheme::Https,
        wire: Wire::Http1,
    };
    RequestRewrite {
        target: TargetRewrite::Unchanged,
        host: None,
        ops,
        forwarding: forwarding.map(|forwarding| (forwarding, values)),
        framing: head.body,
        upgrade: None,
        persistence: Persistence::KeepAlive,
        expect: ExpectRelay::Forward,
        drop: FieldSet::EMPTY,
        extra: b"",
    }
}

fn response_rewrite<'a>(head: &ResponseHead<'_>, ops: &'a HeaderOps) -> ResponseRewrite<'a> {
    ResponseRewrite {
        ops,
        framing: relay(head.body, Version::Http11),
        client: Version::Http11,
        persistence: Persistence::KeepAlive,
        upgrade: None,
        via: None,
        wire: Wire::Http1,
        date: DATE,
        extra: b"",
    }
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, bytes) in [("request_10_fields", BROWSER), ("request_minimal", MINIMAL)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| with_request(black_box(bytes), |head| black_box(head).head_bytes));
        });
    }
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response_10_fields", |b| {
        b.iter(|| with_response(black_box(RESPONSE), |head| black_box(head).head_bytes));
    });
    // What httparse takes of it; the rest is checking, classification and framing.
    group.throughput(Throughput::Bytes(BROWSER.len() as u64));
    group.bench_function("httparse_alone_10_fields", |b| {
        b.iter(|| {
            let mut slots = [const { std::mem::MaybeUninit::uninit() }; 128];
            let mut request = httparse::Request::new(&mut []);
            black_box(request.parse_with_uninit_headers(black_box(BROWSER), &mut slots))
        });
    });
    group.bench_function("head_end_hint", |b| b.iter(|| head_end_hint(black_box(BROWSER), 0)));
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let mut out = Vec::with_capacity(4096);
    let nothing = HeaderOps::default();
    let ops =
        HeaderOps::compile(&["Cookie"], &[("X-Env", "prod")], &[("X-Edge", "1")]).expect("valid operations");
    let forwarding = Forwarding { via: Some("ringway".into()), ..Forwarding::default() };
    with_request(BROWSER, |head| {
        for (name, rewrite) in [
            ("request_10_fields_plain", request_rewrite(head, &nothing, None)),
            ("request_10_fields_forwarding", request_rewrite(head, &nothing, Some(&forwarding))),
            ("request_10_fields_ops", request_rewrite(head, &ops, Some(&forwarding))),
        ] {
            group.bench_function(name, |b| {
                b.iter(|| {
                    out.clear();
                    encode_request(black_box(head), black_box(&rewrite), &mut out);
                    out.len()
                });
            });
        }
    });
    with_response(RESPONSE, |head| {
        let rewrite = response_rewrite(head, &nothing);
        group.bench_function("response_10_fields", |b| {
            b.iter(|| {
                out.clear();
                encode_response(black_box(head), black_box(&rewrite), &mut out);
                out.len()
            });
        });
    });
    group.finish();
}

/// The browser's request as an HTTP/2 library gives it.
fn browser_parts() -> http::request::Parts {
    with_request(BROWSER, |head| {
        let mut builder = http::Request::builder()
            .uri("https://www.example.com/articles/2026/11/ringway?utm_source=feed")
            .version(http::Version::HTTP_2);
        for header in head.fields.iter() {
            if !matches!(header.name, b"Host" | b"Connection") {
                builder = builder.header(header.name, header.value);
            }
        }
        builder.body(()).expect("a valid request").into_parts().0
    })
}

/// What HTTP/2 costs on top: the head in HTTP/1.1 form, and back to fields.
fn http2(c: &mut Criterion) {
    let mut group = c.benchmark_group("h2");
    let mut out = Vec::with_capacity(4096);
    let parts = browser_parts();
    group.bench_function("render_request_10_fields", |b| {
        b.iter(|| {
            out.clear();
            render::request(black_box(&parts), None, true, [0; 16], &mut out)
        });
    });
    let asked = Asked { method: Method::Get, websocket_key: None };
    let response = {
        let (head, _) = absorb_response(&asked, RESPONSE);
        head.into_parts().0
    };
    group.bench_function("render_response_10_fields", |b| {
        b.iter(|| {
            out.clear();
            render::response(black_box(&response), &asked, false, &mut out)
        });
    });
    group.bench_function("absorb_response_10_fields", |b| {
        b.iter(|| absorb_response(&asked, black_box(RESPONSE)));
    });
    group.bench_function("absorb_request_10_fields", |b| {
        b.iter(|| match Absorber::request(Scheme::Https).step(black_box(BROWSER)) {
            Ok((_, Some(Event::Request { head, .. }))) => head,
            other => panic!("{other:?}"),
        });
    });
    let mut body = Vec::new();
    encode_chunk(&[b'x'; 1024], &mut body);
    body.extend_from_slice(LAST_CHUNK);
    let chunked_head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    group.bench_function("absorb_chunked_1_kib", |b| {
        b.iter_batched_ref(
            || {
                let mut absorber = Absorber::response(asked);
                absorber.step(chunked_head).expect("a valid head");
                absorber
            },
            |absorber| match absorber.step(black_box(&body)) {
                Ok((used, Some(Event::Data { bytes, end: true }))) => {
                    let data_bytes = bytes.len();
                    absorber.took(data_bytes);
                    absorber.step(&body[used + data_bytes..]).expect("the end").0
                }
                other => panic!("{other:?}"),
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn absorb_response(asked: &Asked, bytes: &[u8]) -> (http::Response<()>, usize) {
    match Absorber::response(*asked).step(bytes) {
        Ok((used, Some(Event::Response { head, .. }))) => (head, used),
        other => panic!("{other:?}"),
    }
}

/// One exchange's worth of heads: both parsed, both written.
fn exchange(c: &mut Criterion) {
    let mut out = Vec::with_capacity(4096);
    let nothing = HeaderOps::default();
    let forwarding = Forwarding::default();
    c.bench_function("exchange/heads_10_fields_each", |b| {
        b.iter(|| {
            out.clear();
            with_request(black_box(BROWSER), |head| {
                encode_request(head, &request_rewrite(head, &nothing, Some(&forwarding)), &mut out);
            });
            with_response(black_box(RESPONSE), |head| {
                encode_response(head, &response_rewrite(head, &nothing), &mut out);
            });
            out.len()
        });
    });
}

fn chunked(c: &mut Criterion) {
    let mut wire = Vec::new();
    for _ in 0..16 {
        encode_chunk(&[b'x'; 1024], &mut wire);
    }
    wire.extend_from_slice(LAST_CHUNK);
    let mut group = c.benchmark_group("chunked");
    group.throughput(Throughput::Bytes(16 * 1024));
    group.bench_function("decode_16_kib_by_1_kib", |b| {
        b.iter(|| {
            let mut decoder = ChunkedDecoder::new();
            let (mut at, mut data_bytes) = (0, 0);
            loop {
                match decoder.next(black_box(&wire[at..])) {
                    Ok(ChunkEvent::Size { bytes, .. } | ChunkEvent::DataEnd { bytes }) => at += bytes,
                    Ok(ChunkEvent::Data { bytes }) => {
                        at += bytes;
                        data_bytes += bytes;
                    }
                    Ok(ChunkEvent::End { .. }) => return data_bytes,
                    other => panic!("{other:?}"),
                }
            }
        });
    });
    group.finish();
}

fn path(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for (name, path) in [
        ("plain", &b"/articles/2026/11/ringway.html"[..]),
        ("escaped", b"/articles/%7Euser/../2026/a%2fb.html"),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                Vec::new,
                |scratch| normalise_path(black_box(path), scratch).map(<[u8]>::len),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The decision alone, and with the reading of the field that it mostly hangs on. `parse` includes both.
fn framing(c: &mut Criterion) {
    let start = StartLine::Response { to: Method::Get, status: Status(200), version: Version::Http11 };
    c.bench_function("framing: body length of a response", |b| {
        let fields = FramingFields { content_length: Some(1024), chunked: false };
        b.iter(|| body_length(black_box(start), black_box(fields)));
    });
    c.bench_function("framing: read Content-Length and decide", |b| {
        b.iter(|| {
            let length = content_length(black_box(b"1024")).ok();
            body_length(black_box(start), FramingFields { content_length: length, chunked: false })
        });
    });
}

criterion_group!(benches, framing, parse, encode, http2, exchange, chunked, path);
criterion_main!(benches);
