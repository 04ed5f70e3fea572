//! Bodies: every kind of framing, both ways, at sizes around every buffer's edge, each byte checked.

use ringway_tests::client::{Client, chunked, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, BodyKind, Exchange, Origin, Outcome};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use ringway_tests::wire::Framing;
use std::thread;

/// Around one pooled buffer (16 KiB), around the pipe and the splice threshold (64 KiB), and well beyond.
const SIZES: [u64; 10] = [0, 1, 1023, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1 << 20];

const LARGE: u64 = 64 << 20;

/// `/KIND/BYTES` answers with that payload, seeded by its size.
fn payloads(exchange: &mut Exchange<'_>) -> Outcome {
    let mut parts = exchange.target()[1..].split('/');
    let kind = match parts.next().expect("a kind") {
        "length" => BodyKind::Length,
        "close" => BodyKind::UntilClose,
        "http10" => BodyKind::Http10,
        chunk_bytes => BodyKind::Chunked(chunk_bytes.parse().expect("a chunk size")),
    };
    let bytes = parts.next().and_then(|b| b.parse().ok()).expect("a size");
    exchange.read_body()?;
    exchange.reply_payload(kind, Payload::new(bytes, bytes))
}

/// Reads and checks the body (`x-seed`), then says how long it was.
fn sink(exchange: &mut Exchange<'_>) -> Outcome {
    let end = exchange.read_body()?;
    exchange.reply(200, &[], end.bytes.to_string())
}

fn upload(client: &mut Client, payload: Payload, chunk_bytes: Option<usize>) {
    let framing = match chunk_bytes {
        None => format!("Content-Length: {}", payload.bytes),
        Some(_) => "Transfer-Encoding: chunked".to_owned(),
    };
    client
        .send(format!("POST /sink HTTP/1.1\r\nHost: test\r\nX-Seed: {}\r\n{framing}\r\n\r\n", payload.seed));
    match chunk_bytes {
        None => payload.pieces(256 * 1024, |piece| client.try_send(piece)).expect("sending a body"),
        Some(chunk_bytes) => {
            let mut framed = Vec::new();
            payload
                .pieces(chunk_bytes, |piece| {
                    let whole = chunked(piece, piece.len());
                    framed.extend_from_slice(&whole[..whole.len() - 5]);
                    if framed.len() < 64 * 1024 {
                        return Ok(());
                    }
                    client.try_send(&std::mem::take(&mut framed))
                })
                .expect("sending chunks");
            framed.extend_from_slice(b"0\r\n\r\n");
            client.send(framed);
        }
    }
    assert_eq!(client.response("POST").expect(200).text(), payload.bytes.to_string());
}

fn download(client: &mut Client, kind: &str, bytes: u64, framing: Framing) {
    client.send(get(&format!("/{kind}/{bytes}")));
    let response = client.response_of("GET", Payload::new(bytes, bytes)).expect(200);
    assert_eq!(response.framing, framing, "{kind} of {bytes} bytes");
}

for_each_driver! {
    fn responses_with_a_length(driver) {
        let origin = Origin::with(payloads);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for bytes in SIZES {
            download(&mut client, "length", bytes, Framing::Length(bytes));
        }
        assert_eq!(origin.accepted(), 1, "a body read to its end leaves the connection clean");
    }

    fn responses_in_chunks(driver) {
        let origin = Origin::with(payloads);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for chunk_bytes in ["7", "1000", "16384", "65536", "300000"] {
            for bytes in SIZES {
                download(&mut client, chunk_bytes, bytes, Framing::Chunked);
            }
        }
        for bytes in [0, 1, 1023, 16_385] {
            download(&mut client, "1", bytes, Framing::Chunked);
        }
        assert_eq!(origin.accepted(), 1, "a last chunk leaves the connection clean");
    }

    /// RFC 9112 section 6.3 rule 8 upstream; towards an HTTP/1.1 client the end must not hang on a close, which a
    /// truncation would look like.
    fn responses_until_close_become_chunks(driver) {
        let origin = Origin::with(payloads);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for kind in ["close", "http10"] {
            for bytes in SIZES {
                download(&mut client, kind, bytes, Framing::Chunked);
            }
        }
        assert_eq!(origin.accepted(), 2 * SIZES.len());
    }

    fn requests_with_a_length(driver) {
        let origin = Origin::with(sink);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for bytes in SIZES {
            upload(&mut client, Payload::new(bytes + 1, bytes), None);
        }
        assert_eq!(origin.accepted(), 1);
        for record in origin.requests() {
            assert!(record.head.has("content-length") && !record.head.has("transfer-encoding"), "{:?}", record.head);
        }
    }

    fn requests_in_chunks(driver) {
        let origin = Origin::with(sink);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for chunk_bytes in [7, 1000, 16_384, 65_536, 300_000] {
            for bytes in SIZES {
                upload(&mut client, Payload::new(bytes + 1, bytes), Some(chunk_bytes));
            }
        }
        for bytes in [0, 1, 1023, 16_385] {
            upload(&mut client, Payload::new(bytes + 1, bytes), Some(1));
        }
        assert_eq!(origin.accepted(), 1);
        for record in origin.requests() {
            assert_eq!(record.head.field("transfer-encoding"), Some("chunked"));
        }
    }

    fn sixty_four_mebibytes_down_with_a_length(driver) within 60 {
        let origin = Origin::with(payloads);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        download(&mut proxy.connect(), "length", LARGE, Framing::Length(LARGE));
    }

    fn sixty_four_mebibytes_down_in_chunks(driver) within 60 {
        let origin = Origin::with(payloads);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        download(&mut proxy.connect(), "100000", LARGE, Framing::Chunked);
    }

    fn sixty_four_mebibytes_down_until_close(driver) within 60 {
        let origin = Origin::with(payloads);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        download(&mut proxy.connect(), "close", LARGE, Framing::Chunked);
    }

    fn sixty_four_mebibytes_up_with_a_length(driver) within 60 {
        let origin = Origin::with(sink);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        upload(&mut proxy.connect(), Payload::new(3, LARGE), None);
    }

    fn sixty_four_mebibytes_up_in_chunks(driver) within 60 {
        let origin = Origin::with(sink);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        upload(&mut proxy.connect(), Payload::new(3, LARGE), Some(100_000));
    }

    /// Both directions at once: the origin sends each piece back as it comes, long before the request's end.
    fn both_ways_at_once(driver) {
        const BYTES: u64 = 8 << 20;
        let origin = Origin::with(|exchange| {
            exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"))?;
            let mut back = exchange.wire.stream.try_clone()?;
            let mut failed = None;
            exchange.stream_body(&mut |piece| {
                if let Err(error) = std::io::Write::write_all(&mut back, piece) {
                    failed = Some(error);
                }
            })?;
            failed.map_or(Ok(After::KeepAlive), |error| Err(error.into()))
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let payload = Payload::new(11, BYTES);
        let mut client = proxy.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {BYTES}\r\n\r\n"));
        let mut sending = Client { wire: ringway_tests::wire::Wire::new(client.wire.stream.try_clone().unwrap()) };
        let sender = thread::spawn(move || payload.pieces(64 * 1024, |piece| sending.try_send(piece)));
        client.response_of("POST", payload).expect(200);
        sender.join().unwrap().expect("the whole body is taken");
    }

    fn a_body_in_single_bytes(driver) {
        let origin = Origin::with(sink);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let payload = Payload::new(5, 400);
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: test\r\nX-Seed: 5\r\n";
        client.send(format!("{head}Content-Length: 400\r\n\r\n"));
        client.send_bytewise(&payload.to_vec()).unwrap();
        assert_eq!(client.response("POST").expect(200).text(), "400");
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        client.send_bytewise(&chunked(&payload.to_vec(), 9)).unwrap();
        assert_eq!(client.response("POST").expect(200).text(), "400");
    }

    /// RFC 9112 section 7.1.1: extensions are hop-by-hop; passing them on is a way to smuggle.
    fn chunk_extensions_end_here(driver) {
        let origin = Origin::with(|exchange| {
            let end = exchange.read_body()?;
            assert_eq!(end.bytes, 6);
            exchange.write(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n3;q=\"x;y\"\r\ndef\r\n0;z\r\n\r\n",
            )?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let response = proxy.connect().ask(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
             3;one=two\r\nabc\r\n3;x=\"a;b\"\r\ndef\r\n0;last\r\n\r\n",
        );
        assert_eq!(response.clone().expect(200).text(), "abcdef");
        assert!(response.end.extensions.is_empty(), "{:?}", response.end);
        assert_eq!(origin.only().end.expect("a whole body").extensions, Vec::<String>::new());
    }

    fn trailers_pass_both_ways(driver) {
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            exchange.write(
                "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 123\r\n\r\n",
            )?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let request = "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\n0\r\nX-Up: 1\r\nX-Up: 2\r\n\r\n";
        let response = client.ask(request).expect(200);
        let lower = |fields: &[(String, String)]| -> Vec<(String, String)> {
            fields.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone())).collect()
        };
        assert_eq!(lower(&response.end.trailers), [("x-sum".to_owned(), "123".to_owned())]);
        let up = origin.only().end.expect("a whole body").trailers;
        assert_eq!(lower(&up), [("x-up".to_owned(), "1".to_owned()), ("x-up".to_owned(), "2".to_owned())]);
        client.get("/").expect(200);
    }

    /// RFC 9110 section 6.5.1: framing, routing and authentication have no place in a trailer. Refusing the message
    /// is fine, and so is dropping the field; passing it on is not.
    fn a_trailer_cannot_smuggle_a_field(driver) {
        let forbidden = ["Content-Length: 3", "Transfer-Encoding: chunked", "Host: evil", "Authorization: x", "Connection: close"];
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            exchange.reply(200, &[], "fine")
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for field in forbidden {
            let mut client = proxy.connect();
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{field}\r\nX-Fine: 1\r\n\r\n"
            ));
            let response = client.response("POST");
            assert!(matches!(response.status, 200 | 400), "{field}: {}", response.head.start_line);
        }
        let name = |field: &str| field.split(':').next().unwrap_or("").to_ascii_lowercase();
        for end in origin.requests().iter().filter_map(|record| record.end.as_ref()) {
            let passed = end.trailers.iter().find(|(n, _)| forbidden.iter().any(|f| name(f) == n.to_ascii_lowercase()));
            assert_eq!(passed, None);
        }
    }
}
