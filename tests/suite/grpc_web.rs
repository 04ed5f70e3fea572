//! gRPC-Web through the proxy: calls of browsers reach a gRPC server as gRPC's, and answers come back with their
//! trailers in the body. Every call is made by HTTP/1.1 and by HTTP/2, in the binary form and in text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::Reason;
use ringway_tests::client::{Client, chunked};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::Failure;
use ringway_tests::h2::client::{Client as Two, Then, request};
use ringway_tests::h2::origin::{Exchange, Origin, Outcome};
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::wait::Gate;
use ringway_tests::wire::{BodyEnd, Framing};
use std::fmt::Write as _;

const ONE: &str = "HTTP/1.1";
const TWO: &str = "HTTP/2";
const BINARY: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";

/// Each way to call.
const WAYS: [(&str, &str); 4] = [(ONE, BINARY), (ONE, TEXT), (TWO, BINARY), (TWO, TEXT)];

/// A message as gRPC frames it.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// What a browser sends of these pieces.
fn written(form: &str, pieces: &[&[u8]]) -> Vec<u8> {
    match form {
        BINARY => pieces.concat(),
        _ => pieces.iter().flat_map(|piece| STANDARD.encode(piece).into_bytes()).collect(),
    }
}

/// What a browser reads in a body: groups of four characters, each by itself where there is padding.
#[track_caller]
fn read(form: &str, body: &[u8]) -> Vec<u8> {
    if form == BINARY {
        return body.to_vec();
    }
    assert_eq!(body.len() % 4, 0, "{:?}", String::from_utf8_lossy(body));
    body.chunks(4).flat_map(|group| STANDARD.decode(group).expect("a group of base64")).collect()
}

/// The messages of a body, and its trailers.
#[track_caller]
fn frames(form: &str, body: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
    let bytes = read(form, body);
    let (mut messages, mut trailers) = (Vec::new(), None);
    let mut rest = &bytes[..];
    while let [flags, a, b, c, d, tail @ ..] = rest {
        assert_eq!(trailers, None, "a frame behind the trailers");
        let (frame, tail) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        match flags {
            0 => messages.push(frame.to_vec()),
            0x80 => trailers = Some(String::from_utf8(frame.to_vec()).expect("text")),
            other => panic!("flags {other}"),
        }
        rest = tail;
    }
    assert_eq!(rest, b"", "a cut frame");
    (messages, trailers)
}

/// An answer as a client has it.
#[derive(Debug)]
struct Seen {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Seen {
    #[track_caller]
    fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let first = values.next().map(|(_, value)| value.as_str());
        assert_eq!(values.next(), None, "{name} is repeated");
        first
    }

    /// A failure that the proxy tells in gRPC's words.
    #[track_caller]
    fn failed(&self, form: &str, code: &str, reason: &str) {
        assert_eq!((self.status, self.field("content-type")), (200, Some(form)), "{self:?}");
        assert_eq!((self.field("grpc-status"), self.field("grpc-message")), (Some(code), Some(reason)));
        assert_eq!(self.body, b"");
    }
}

/// A call: a form, the fields besides its Content-Type, and the bytes of its body.
struct Call<'a> {
    path: &'a str,
    content_type: &'a str,
    fields: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

impl Call<'_> {
    fn by(&self, wire: &str, proxy: &Proxy) -> Seen {
        if wire == ONE { self.by_one(&mut proxy.connect(), Length::Told) } else { self.by_two(proxy) }
    }

    fn by_one(&self, client: &mut Client, length: Length) -> Seen {
        let mut head =
            format!("POST {} HTTP/1.1\r\nHost: test\r\nContent-Type: {}\r\n", self.path, self.content_type);
        for (name, value) in self.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let bytes = match length {
            Length::Told => {
                [format!("{head}Content-Length: {}\r\n\r\n", self.body.len()).as_bytes(), self.body].concat()
            }
            Length::Untold => {
                [format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes(), &chunked(self.body, 7)]
                    .concat()
            }
        };
        // The proxy may answer, and stop reading, before everything is sent.
        let _ = client.send_split(&bytes, &[head.len() + 30, bytes.len() - bytes.len() / 3]);
        let response = client.response("POST");
        assert_eq!(response.end.trailers, [], "a browser can't read them");
        if self.path.starts_with("/pkg.") && response.field("grpc-status").is_none() && response.status == 200
        {
            assert_eq!(response.framing, Framing::Chunked);
        }
        Seen { status: response.status, fields: response.head.fields, body: response.body }
    }

    fn by_two(&self, proxy: &Proxy) -> Seen {
        let client = Two::connect(proxy.address());
        let mut fields = vec![("content-type", self.content_type)];
        fields.extend(self.fields);
        let mut stream = client.open(request("POST", self.path, &fields), Then::More);
        for piece in self.body.chunks(self.body.len().div_ceil(3).max(1)) {
            if stream.try_send(piece.to_vec(), Then::More).is_err() {
                break;
            }
        }
        let _ = stream.try_send("", Then::End);
        let response = stream.response();
        assert_eq!(response.trailers, None, "a browser can't read them");
        Seen { status: response.status, fields: listed(&response.fields), body: response.body }
    }
}

fn listed(fields: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| value.to_str().expect("visible ASCII").to_owned();
    fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

#[derive(Clone, Copy)]
enum Length {
    Told,
    Untold,
}

/// A server of gRPC, whose methods are the paths.
fn server(exchange: &mut Exchange) -> Outcome {
    let path = exchange.path().to_owned();
    let grpc = [("content-type", "application/grpc+proto"), ("x-own", "1"), ("trailer", "grpc-status")];
    exchange.read_body()?;
    match path.as_str() {
        // The request's bytes back, cut as the windows like it.
        "/pkg.Echo/Unary" => {
            exchange.answer(200, &grpc, Then::More)?;
            let body = exchange.record().body;
            exchange.send(body, Then::More)?;
            exchange.send_trailers(&[("grpc-status", "0"), ("grpc-message", ""), ("content-length", "7")])
        }
        // As many messages as are asked for, each a little longer, in pieces that respect nothing.
        "/pkg.Echo/Stream" => {
            exchange.answer(200, &grpc, Then::More)?;
            let bytes: Vec<u8> = (0..40_u8).flat_map(|index| message(&streamed(index))).collect();
            for (index, piece) in bytes.chunks(1_789).enumerate() {
                let cut = index % piece.len();
                exchange.send(piece[..cut].to_vec(), Then::More)?;
                exchange.send(piece[cut..].to_vec(), Then::More)?;
            }
            exchange.send_trailers(&[("grpc-status", "11"), ("grpc-message", "no more")])
        }
        "/pkg.Echo/None" => exchange.answer(
            200,
            &[("content-type", "application/grpc"), ("grpc-status", "5"), ("grpc-message", "none")],
            Then::End,
        ),
        "/pkg.Echo/Html" => exchange.reply(404, &[("content-type", "text/html")], "<p>no such page"),
        "/pkg.Echo/Coded" => {
            exchange.reply(200, &[("content-type", "application/grpc"), ("content-encoding", "gzip")], "zip")
        }
        _ => exchange.reply(200, &[("content-type", "text/plain")], "plain"),
    }
}

fn streamed(index: u8) -> Vec<u8> {
    vec![index; usize::from(index) * 97]
}

fn translating(origin: &Origin) -> Config {
    origin.config().route("grpc_web: true")
}

fn start(driver: Driver) -> (Origin, Proxy) {
    let origin = Origin::with(server);
    let proxy = Proxy::start(driver, &translating(&origin));
    (origin, proxy)
}

for_each_driver! {
    fn unary_calls(driver) {
        let (origin, proxy) = start(driver);
        let (one, two) = (message(b"hello"), message(&vec![7; 40_000]));
        for (index, (wire, form)) in WAYS.into_iter().enumerate() {
            let body = written(form, &[&one, &two[..1], &two[1..]]);
            let fields = [("x-grpc-web", "1"), ("accept-encoding", "gzip, br"), ("te", "trailers")];
            let content_type = format!("{form}+proto");
            let call = Call { path: "/pkg.Echo/Unary", content_type: &content_type, fields: &fields[..], body: &body };
            let seen = call.by(wire, &proxy);
            assert_eq!((seen.status, seen.field("content-type")), (200, Some(content_type.as_str())), "{wire}");
            assert_eq!((seen.field("x-own"), seen.field("trailer"), seen.field("content-length")), (Some("1"), None, None));
            assert_eq!(seen.field("grpc-status"), None, "it is not known yet");
            let (messages, trailers) = frames(form, &seen.body);
            assert_eq!(messages, [b"hello".to_vec(), vec![7; 40_000]], "{wire} {form}");
            assert_eq!(trailers.as_deref(), Some("grpc-status: 0\r\ngrpc-message: \r\n"), "{wire} {form}");
            let arrived = origin.await_finished(index);
            assert_eq!((arrived.field("content-type"), arrived.field("te")), (Some("application/grpc+proto"), Some("trailers")));
            assert_eq!((arrived.field("accept-encoding"), arrived.field("content-length")), (None, None));
            assert_eq!(arrived.field("x-grpc-web"), Some("1"));
            assert!(arrived.whole && arrived.body == [&one[..], &two].concat(), "{wire} {form}");
        }
    }

    fn the_response_comes_as_it_is_accepted(driver) {
        let (origin, proxy) = start(driver);
        let one = message(b"hello");
        for (index, (wire, form)) in WAYS.into_iter().enumerate() {
            let other = if form == BINARY { TEXT } else { BINARY };
            let fields = [("accept", format!("text/html, {other}+proto"))];
            let fields = [(fields[0].0, fields[0].1.as_str())];
            let call = Call { path: "/pkg.Echo/Unary", content_type: form, fields: &fields, body: &written(form, &[&one]) };
            let seen = call.by(wire, &proxy);
            assert_eq!(seen.field("content-type"), Some(format!("{other}+proto").as_str()), "{wire} {form}");
            assert_eq!(frames(other, &seen.body).0, [b"hello"]);
            assert_eq!(origin.await_finished(index).field("accept"), None);
        }
    }

    fn server_streams_at_every_cut(driver) {
        let (_origin, proxy) = start(driver);
        let expected: Vec<_> = (0..40).map(streamed).collect();
        for (wire, form) in WAYS {
            let body = written(form, &[&message(b"")]);
            let call = Call { path: "/pkg.Echo/Stream", content_type: form, fields: &[], body: &body };
            let (messages, trailers) = frames(form, &call.by(wire, &proxy).body);
            assert!(messages == expected, "{wire} {form}: {:?}", messages.iter().map(Vec::len).collect::<Vec<_>>());
            assert_eq!(trailers.as_deref(), Some("grpc-status: 11\r\ngrpc-message: no more\r\n"), "{wire} {form}");
        }
    }

    /// A browser shows each message as it comes: the server waits for the client to have read the one before.
    fn messages_are_not_held_back(driver) {
        for (wire, form) in WAYS {
            let gate = Gate::new();
            let held = gate.clone();
            let origin = Origin::with(move |exchange| {
                exchange.read_body()?;
                exchange.answer(200, &[("content-type", "application/grpc")], Then::More)?;
                exchange.send(message(b"first"), Then::More)?;
                assert!(held.wait(), "nobody read the first message");
                exchange.send(message(b"second"), Then::More)?;
                exchange.send_trailers(&[("grpc-status", "0")])
            });
            let proxy = Proxy::start(driver, &translating(&origin));
            let mut body = Vec::new();
            let mut sink = |piece: &[u8]| {
                body.extend_from_slice(piece);
                if body == written(form, &[&message(b"first")]) {
                    gate.open();
                }
            };
            if wire == ONE {
                let mut client = proxy.connect();
                client.send(format!("POST /pkg.A/B HTTP/1.1\r\nHost: test\r\nContent-Type: {form}\r\nContent-Length: 0\r\n\r\n"));
                client.response_into("POST", &mut sink).expect("an answer");
            } else {
                let client = Two::connect(proxy.address());
                let mut stream = client.open(request("POST", "/pkg.A/B", &[("content-type", form)]), Then::End);
                stream.head();
                stream.body_into(&mut sink).expect("a whole body");
            }
            let (messages, trailers) = frames(form, &body);
            assert_eq!(messages, [&b"first"[..], b"second"], "{wire} {form}");
            assert_eq!(trailers.as_deref(), Some("grpc-status: 0\r\n"));
        }
    }

    fn a_status_in_the_head_stays_there(driver) {
        let (_origin, proxy) = start(driver);
        for (wire, form) in WAYS {
            let body = written(form, &[&message(b"x")]);
            Call { path: "/pkg.Echo/None", content_type: form, fields: &[], body: &body }.by(wire, &proxy).failed(form, "5", "none");
        }
    }

    fn what_is_not_grpc_passes(driver) {
        let (origin, proxy) = start(driver);
        for (wire, form) in WAYS {
            let body = written(form, &[&message(b"x")]);
            let call = Call { path: "/pkg.Echo/Html", content_type: form, fields: &[], body: &body };
            let seen = call.by(wire, &proxy);
            assert_eq!((seen.status, seen.field("content-type")), (404, Some("text/html")), "{wire} {form}");
            assert_eq!((seen.field("content-length"), &seen.body[..]), (Some("15"), &b"<p>no such page"[..]));
            // Behind a content coding no frame can be written.
            let seen = Call { path: "/pkg.Echo/Coded", ..call }.by(wire, &proxy);
            assert_eq!((seen.field("content-type"), &seen.body[..]), (Some("application/grpc"), &b"zip"[..]));
        }
        // Nor are other requests of the route touched.
        for (method, content_type) in [("POST", "application/json"), ("PUT", TEXT), ("POST", "application/grpc-webx")] {
            let before = origin.request_count();
            let mut client = proxy.connect();
            client.ask(&format!("{method} /other HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\nAccept: */*\r\nContent-Length: 2\r\n\r\n{{}}")).expect(200);
            let arrived = origin.await_finished(before);
            assert_eq!((arrived.field("content-type"), arrived.field("te")), (Some(content_type), None));
            assert_eq!((arrived.field("accept"), &arrived.body[..]), (Some("*/*"), &b"{}"[..]));
        }
        // gRPC itself.
        let client = Two::connect(proxy.address());
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let mut stream = client.open(request("POST", "/pkg.Echo/Unary", &fields), Then::More);
        stream.send(message(b"x"), Then::End);
        let response = stream.response().expect(200);
        assert_eq!((response.field("content-type"), &response.body[..]), (Some("application/grpc+proto"), &message(b"x")[..]));
        assert_eq!(response.trailers.expect("trailers")["grpc-status"], "0");
    }

    fn it_is_off_unless_asked_for(driver) {
        let origin = Origin::with(server);
        let proxy = Proxy::start(driver, &origin.config());
        for (index, (wire, form)) in WAYS.into_iter().enumerate() {
            let body = written(form, &[&message(b"x")]);
            let call = Call { path: "/untouched", content_type: form, fields: &[("accept", "*/*")], body: &body };
            assert_eq!(call.by(wire, &proxy).body, b"plain");
            let arrived = origin.await_finished(index);
            assert_eq!((arrived.field("content-type"), arrived.field("accept")), (Some(form), Some("*/*")));
            assert_eq!(arrived.body, body);
        }
    }

    fn requests_come_chunked_too_and_connections_are_kept(driver) {
        let (origin, proxy) = start(driver);
        let mut client = proxy.connect();
        for form in [BINARY, TEXT, BINARY, TEXT] {
            let sent = message(&[3; 5_000]);
            let body = written(form, &[&sent[..1], &sent[1..]]);
            let call = Call { path: "/pkg.Echo/Unary", content_type: form, fields: &[], body: &body };
            let seen = call.by_one(&mut client, Length::Untold);
            assert!(frames(form, &seen.body).0 == [[3; 5_000]], "{form}: {:?}", (&seen.fields, seen.body.len()));
        }
        assert_eq!(origin.accepted(), 1);
    }

    fn a_client_without_chunks_reads_until_the_end(driver) {
        let (_origin, proxy) = start(driver);
        for form in [BINARY, TEXT] {
            let body = written(form, &[&message(b"old")]);
            let mut client = proxy.connect();
            let head = format!("POST /pkg.Echo/Unary HTTP/1.0\r\nHost: test\r\nContent-Type: {form}\r\nContent-Length: {}\r\n\r\n", body.len());
            client.send([head.as_bytes(), &body].concat());
            let response = client.response("POST").expect(200);
            assert_eq!(response.framing, Framing::UntilClose);
            let (messages, trailers) = frames(form, &response.body);
            assert_eq!((messages.len(), trailers.as_deref()), (1, Some("grpc-status: 0\r\ngrpc-message: \r\n")));
        }
    }

    fn our_failures_are_told_as_grpc_does(driver) {
        // A port that nobody listens on.
        let dead = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        for translate in ["true", "false"] {
            let config = Config::to_addresses(&[dead.into()]).upstream("protocol: http2").route(&format!("grpc_web: {translate}"));
            let proxy = Proxy::start(driver, &config);
            for (wire, form) in WAYS {
                let body = written(form, &[&message(b"x")]);
                let call = Call { path: "/pkg.A/B", content_type: form, fields: &[], body: &body };
                call.by(wire, &proxy).failed(form, "14", "upstream_connect_failed");
            }
        }
    }

    fn what_is_no_base64_is_refused(driver) {
        let (origin, proxy) = start(driver);
        let good = STANDARD.encode(message(&vec![1; 60_000]));
        let late = format!("{}!!!!", &good[..60_000]);
        let cut = &good[..good.len() - 2];
        for (reason, bodies) in [("grpc_web_base64", ["AAAAAA*A", &late]), ("grpc_web_truncated", ["AAAAA", cut])] {
            for body in bodies {
                for wire in [ONE, TWO] {
                    let call = Call { path: "/pkg.Echo/Unary", content_type: TEXT, fields: &[], body: body.as_bytes() };
                    call.by(wire, &proxy).failed(TEXT, "13", reason);
                }
            }
            proxy.await_metric("ringway_refused_total", &[("reason", reason)], |count| count == 4.0);
        }
        assert!(origin.requests().iter().all(|request| !request.whole), "no server takes a cut request for a whole one");
    }

    fn a_request_has_its_bound(driver) {
        let origin = Origin::with(server);
        let proxy = Proxy::start(driver, &translating(&origin).route("limits: { body_bytes: 40KiB }"));
        for (wire, form) in WAYS {
            // The bound is on what the client writes.
            let room = if form == BINARY { 40 * 1024 } else { 30 * 1024 };
            let body = written(form, &[&message(&vec![1; room - 5])]);
            assert_eq!(body.len(), 40 * 1024);
            let call = Call { path: "/pkg.Echo/Unary", content_type: form, fields: &[], body: &body };
            assert_eq!(frames(form, &call.by(wire, &proxy).body).0[0].len(), room - 5);
            let more = [&body[..], b"AAAA"].concat();
            Call { body: &more, ..call }.by(wire, &proxy).failed(form, "8", "body_too_large");
            let call = Call { path: "/pkg.Echo/Unary", content_type: form, fields: &[], body: &more };
            if wire == ONE {
                call.by_one(&mut proxy.connect(), Length::Untold).failed(form, "8", "body_too_large");
            }
        }
    }

    fn a_client_that_stalls_is_given_up(driver) {
        let origin = Origin::with(server);
        let proxy = Proxy::start(driver, &translating(&origin).top("timeouts: { body_idle: 200ms }"));
        let mut client = proxy.connect();
        client.send(format!("POST /pkg.Echo/Unary HTTP/1.1\r\nHost: test\r\nContent-Type: {TEXT}\r\nContent-Length: 100\r\n\r\nAAAA"));
        let response = client.response("POST").expect(200);
        assert_eq!((response.field("grpc-status"), response.field("grpc-message")), (Some("4"), Some("request_body_timeout")));
        assert_eq!(response.end, BodyEnd::default());
        assert!(response.closes());
    }

    fn a_client_that_leaves_ends_the_call(driver) {
        for form in [BINARY, TEXT] {
            let origin = Origin::with(|exchange| {
                exchange.read_body()?;
                exchange.answer(200, &[("content-type", "application/grpc")], Then::More)?;
                // Until the client's leaving is felt here.
                while exchange.send(message(&[0; 10_000]), Then::More).is_ok() {}
                exchange.await_reset().map(drop)
            });
            let proxy = Proxy::start(driver, &translating(&origin));
            let client = Two::connect(proxy.address());
            let mut stream = client.open(request("POST", "/pkg.A/B", &[("content-type", form)]), Then::End);
            stream.head();
            stream.chunk().expect("a piece").expect("not the end");
            stream.reset(Reason::CANCEL);
            proxy.await_metric("ringway_active_requests", &[], |count| count == 0.0);
            proxy.await_metric("ringway_refused_total", &[("reason", "client_gone")], |count| count == 1.0);
        }
    }

    /// A cut answer must not look whole: without the frame of trailers, and with the connection reset.
    fn a_server_that_breaks_off_cuts_the_answer(driver) {
        for (wire, form) in WAYS {
            let gate = Gate::new();
            let held = gate.clone();
            let origin = Origin::with(move |exchange| {
                exchange.read_body()?;
                exchange.answer(200, &[("content-type", "application/grpc")], Then::More)?;
                exchange.send(message(b"only"), Then::More)?;
                // A reset overtakes what has not been read.
                assert!(held.wait(), "nobody read the message");
                exchange.reset(Reason::INTERNAL_ERROR)
            });
            let proxy = Proxy::start(driver, &translating(&origin));
            if wire == ONE {
                let mut client = proxy.connect();
                client.send(format!("POST /pkg.A/B HTTP/1.1\r\nHost: test\r\nContent-Type: {form}\r\nContent-Length: 0\r\n\r\n"));
                let cut = client.response_into("POST", &mut |_| gate.open());
                assert!(cut.is_err(), "{cut:?}");
            } else {
                let client = Two::connect(proxy.address());
                let mut stream = client.open(request("POST", "/pkg.A/B", &[("content-type", form)]), Then::End);
                stream.head();
                let cut = stream.body_into(&mut |_| gate.open());
                assert!(matches!(cut, Err(Failure::Reset(_))), "{cut:?}");
            }
            proxy.await_metric("ringway_refused_total", &[("reason", "upstream_reset_in_body")], |count| count == 1.0);
        }
    }

    /// What was in hand with its head is sent once more, made into gRPC from its start.
    fn a_refused_call_is_made_again(driver) {
        for form in [BINARY, TEXT] {
            let origin = Origin::with(|exchange| match exchange.index {
                0 => exchange.reset(Reason::REFUSED_STREAM),
                _ => server(exchange),
            });
            let proxy = Proxy::start(driver, &translating(&origin));
            let body = written(form, &[&message(b"again")]);
            let head = format!("POST /pkg.Echo/Unary HTTP/1.1\r\nHost: test\r\nContent-Type: {form}\r\nContent-Length: {}\r\n\r\n", body.len());
            let mut client = proxy.connect();
            client.send([head.as_bytes(), &body].concat());
            let response = client.response("POST").expect(200);
            assert_eq!(response.field("grpc-message"), None, "{form}");
            assert_eq!(frames(form, &response.body).0, [b"again"], "{form}");
            assert_eq!((origin.request_count(), &origin.await_finished(1).body[..]), (2, &message(b"again")[..]));
        }
    }
}
