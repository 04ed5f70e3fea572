use super::{BodyExpected, Malformed, Progress, ResponseReader, query_value, split_url};
use proptest::prelude::{ProptestConfig, any, proptest};

/// Status, body, keep-alive, bytes left over.
type Read<'a> = (u16, &'a str, bool, usize);

/// Feeds `wire` cut at `step` bytes; returns (status, body, keep-alive, bytes left over) or the refusal.
fn read(wire: &[u8], step: usize, expected: BodyExpected) -> Result<(u16, Vec<u8>, bool, usize), Malformed> {
    let mut reader = ResponseReader::new(expected);
    let mut body = Vec::new();
    let mut at = 0;
    while at < wire.len() {
        let end = wire.len().min(at + step);
        match reader.feed(&wire[at..end], |b| body.extend_from_slice(b))? {
            Progress::NeedMore => at = end,
            Progress::Complete { consumed } => {
                assert_eq!(reader.body_bytes(), body.len() as u64);
                return Ok((
                    reader.head().status,
                    body,
                    reader.head().keep_alive,
                    wire.len() - at - consumed,
                ));
            }
        }
    }
    assert!(reader.ends_at_close(), "unfinished: {:?}", String::from_utf8_lossy(wire));
    Ok((reader.head().status, body, reader.head().keep_alive, 0))
}

#[test]
fn responses_are_read_the_same_at_every_cut() {
    const AS_FRAMED: BodyExpected = BodyExpected::AsFramed;
    let cases: &[(&str, BodyExpected, Read<'_>)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", AS_FRAMED, (200, "hello", true, 0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", AS_FRAMED, (200, "he", true, 3)),
        ("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", AS_FRAMED, (204, "", false, 0)),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", AS_FRAMED, (304, "", true, 0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", BodyExpected::Never, (200, "", true, 0)),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            AS_FRAMED,
            (200, "hello0123456789", true, 0),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nEtag: 1\r\nA: b\r\n\r\n",
            AS_FRAMED,
            (200, "x", true, 0),
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            AS_FRAMED,
            (200, "x", true, 0),
        ),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", AS_FRAMED, (200, "to the end", false, 0)),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", AS_FRAMED, (200, "x", false, 0)),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
            AS_FRAMED,
            (200, "x", true, 0),
        ),
    ];
    for (wire, expected, (status, body, keep_alive, _)) in cases {
        for step in 1..=wire.len() {
            let got = read(wire.as_bytes(), step, *expected).expect("well-formed");
            assert_eq!(
                (got.0, got.1.as_slice(), got.2),
                (*status, body.as_bytes(), *keep_alive),
                "{wire:?} at {step}"
            );
        }
    }
    for (wire, expected, (.., left)) in cases {
        assert_eq!(read(wire.as_bytes(), wire.len(), *expected).expect("well-formed").3, *left, "{wire:?}");
    }
}

#[test]
fn what_cannot_be_framed_is_refused() {
    let cases: &[(&str, Malformed)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Malformed::Framing),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", Malformed::Framing),
        ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", Malformed::Framing),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::Framing),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Malformed::Framing),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", Malformed::Chunk),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy", Malformed::Chunk),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1111111111111111\r\n", Malformed::Chunk),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Malformed::Chunk),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Malformed::Upgrade),
        ("SSH-2.0-OpenSSH\r\n", Malformed::Head),
    ];
    for (wire, refusal) in cases {
        assert_eq!(read(wire.as_bytes(), wire.len(), BodyExpected::AsFramed), Err(*refusal), "{wire:?}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(super::HEAD_BYTES_MAX));
    assert_eq!(read(endless.as_bytes(), 1000, BodyExpected::AsFramed), Err(Malformed::HeadTooLong));
}

#[test]
fn a_repeated_head_means_the_same_and_a_changed_one_does_not() {
    let mut reader = ResponseReader::new(BodyExpected::AsFramed);
    for (wire, status, body_bytes) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, 3),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, 3),
        ("HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nabcd", 500, 4),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, 3),
    ] {
        reader.start(BodyExpected::AsFramed);
        assert_eq!(reader.feed(wire.as_bytes(), |_| ()), Ok(Progress::Complete { consumed: wire.len() }));
        assert_eq!((reader.head().status, reader.body_bytes()), (status, body_bytes));
    }
    // The same head after a HEAD request has no body, remembered or not.
    reader.start(BodyExpected::Never);
    let wire = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(reader.feed(wire.as_bytes(), |_| ()), Ok(Progress::Complete { consumed: wire.len() }));
}

#[test]
fn discarded_bytes_count_as_body() {
    let mut reader = ResponseReader::new(BodyExpected::AsFramed);
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789";
    assert_eq!(reader.feed(head, |_| ()), Ok(Progress::NeedMore));
    assert_eq!(reader.opaque_bytes(), 90);
    assert!(!reader.skip(89));
    assert!(reader.skip(1));
    assert_eq!(reader.body_bytes(), 100);
}

#[test]
fn urls_are_split() {
    let parts = |url| split_url(url).map(|p| (p.scheme, url[p.authority].to_owned(), url[p.path].to_owned()));
    let text = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(parts("http://a:1/b?c=d#e"), text("http", "a:1", "/b?c=d"));
    assert_eq!(parts("HTTP://[::1]:80"), text("http", "[::1]:80", ""));
    assert_eq!(parts("http://a?x"), text("http", "a", "?x"));
    for bad in ["", "a:1/b", "http://", "http:///x", "http://a/b c", "http://a/\r\nX: y"] {
        assert_eq!(parts(bad), None, "{bad:?}");
    }
}

#[test]
fn query_values_are_found() {
    assert_eq!(query_value("a=1&b&cc=2=3", "a"), Some("1"));
    assert_eq!(query_value("a=1&b&cc=2=3", "b"), Some(""));
    assert_eq!(query_value("a=1&b&cc=2=3", "cc"), Some("2=3"));
    assert_eq!(query_value("a=1&b&cc=2=3", "c"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn bytes_from_a_peer_never_panic(noise: Vec<u8>, step in 1usize..64, chunked in any::<bool>()) {
        let mut wire = if chunked { b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec() } else { Vec::new() };
        wire.extend_from_slice(&noise);
        let mut reader = ResponseReader::new(BodyExpected::AsFramed);
        for piece in wire.chunks(step) {
            if !matches!(reader.feed(piece, |_| ()), Ok(Progress::NeedMore)) { break; }
        }
    }
}
