//! Every pairing of HTTP/1.1 and HTTP/2 on the two sides: what a message means must not depend on how it travels.

use bytes::Bytes;
use h2::Reason;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2 as two;
use ringway_tests::h2::client::{Then, connect, connect_to, request};
use ringway_tests::h2::origin::Length;
use ringway_tests::h2::{Failure, raw};
use ringway_tests::origin::{self as one, After, BodyKind};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::wait::{Gate, eventually};
use ringway_tests::wire::{Framing, WireError};
use std::fmt::Write as _;

/// What one side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    One,
    Two,
}

/// Client, origin.
const PAIRS: [(Wire, Wire); 4] =
    [(Wire::One, Wire::One), (Wire::One, Wire::Two), (Wire::Two, Wire::One), (Wire::Two, Wire::Two)];

/// What an origin of either kind does: the same for the same path.
enum Origin {
    One(one::Origin),
    Two(two::origin::Origin),
}

/// A request as an origin of either kind has seen it.
#[derive(Debug)]
struct Arrived {
    method: String,
    target: String,
    host: String,
    fields: Vec<(String, String)>,
    body_bytes: u64,
    trailers: Vec<(String, String)>,
    whole: bool,
}

impl Arrived {
    fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }
}

/// An answer as a client of either kind has seen it.
#[derive(Debug)]
struct Seen {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    interim: Vec<u16>,
}

impl Seen {
    fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }
}

fn all<'f>(fields: &'f [(String, String)], name: &str) -> Vec<&'f str> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
}

fn list(map: &http::HeaderMap) -> Vec<(String, String)> {
    map.iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect()
}

/// The last part of a path, as a number.
fn number(path: &str) -> u64 {
    path.rsplit('/').next().and_then(|part| part.parse().ok()).expect("a number at the end of the path")
}

const SEED: u64 = 11;

fn play_one(exchange: &mut one::Exchange<'_>) -> one::Outcome {
    let path = exchange.target().split('?').next().unwrap_or_default().to_owned();
    exchange.read_body()?;
    match path.split('/').nth(1).unwrap_or_default() {
        "status" => exchange.reply(number(&path) as u16, &[], "the body of a status"),
        "told" => exchange.reply_payload(BodyKind::Length, Payload::new(SEED, number(&path))),
        "untold" => exchange.reply_payload(BodyKind::Chunked(50_000), Payload::new(SEED, number(&path))),
        "trailers" => {
            exchange.write(
                "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                 4\r\nbody\r\n0\r\nX-Sum: 4\r\nX-Two: a\r\nX-Two: b\r\n\r\n",
            )?;
            Ok(After::KeepAlive)
        }
        "many" => {
            let fields: Vec<_> = (0..number(&path)).map(|index| format!("X-Many-{index}")).collect();
            let fields: Vec<_> = fields.iter().map(|name| (name.as_str(), "v")).collect();
            exchange.reply(200, &fields, "many")
        }
        "hints" => {
            for link in ["</a>", "</b>"] {
                exchange.write(format!("HTTP/1.1 103 Early Hints\r\nLink: {link}\r\n\r\n"))?;
            }
            exchange.reply(200, &[], "hinted")
        }
        "fields" => {
            let mut fields: Vec<(String, String)> =
                (0..60).map(|index| (format!("X-Many-{index}"), "v".repeat(index))).collect();
            fields.push(("Set-Cookie".into(), "a=1".into()));
            fields.push(("Set-Cookie".into(), "b=2".into()));
            fields.push(("Connection".into(), "X-Mine".into()));
            fields.push(("X-Mine".into(), "1".into()));
            fields.push(("Keep-Alive".into(), "timeout=5".into()));
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            exchange.reply(200, &fields, "fields")
        }
        _ => one::scripted(exchange),
    }
}

fn play_two(exchange: &mut two::origin::Exchange) -> two::origin::Outcome {
    let path = exchange.path().to_owned();
    exchange.read_body()?;
    match path.split('/').nth(1).unwrap_or_default() {
        "status" => exchange.reply(number(&path) as u16, &[], "the body of a status"),
        "told" => exchange.reply_payload(Length::Told, Payload::new(SEED, number(&path))),
        "untold" => exchange.reply_payload(Length::Untold, Payload::new(SEED, number(&path))),
        "trailers" => {
            exchange.answer(200, &[("trailer", "x-sum")], Then::More)?;
            exchange.send("body", Then::More)?;
            exchange.send_trailers(&[("x-sum", "4"), ("x-two", "a"), ("x-two", "b")])
        }
        "many" => {
            let fields: Vec<_> = (0..number(&path)).map(|index| format!("x-many-{index}")).collect();
            let fields: Vec<_> = fields.iter().map(|name| (name.as_str(), "v")).collect();
            exchange.reply(200, &fields, "many")
        }
        "hints" => {
            exchange.interim(103, &[("link", "</a>")])?;
            exchange.interim(103, &[("link", "</b>")])?;
            exchange.reply(200, &[], "hinted")
        }
        "fields" => {
            let mut fields: Vec<(String, String)> =
                (0..60).map(|index| (format!("x-many-{index}"), "v".repeat(index))).collect();
            fields.push(("set-cookie".into(), "a=1".into()));
            fields.push(("set-cookie".into(), "b=2".into()));
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            exchange.reply(200, &fields, "fields")
        }
        _ => two::origin::scripted(exchange),
    }
}

impl Origin {
    fn start(wire: Wire) -> Origin {
        match wire {
            Wire::One => Origin::One(one::Origin::with(play_one)),
            Wire::Two => Origin::Two(two::origin::Origin::with(play_two)),
        }
    }

    fn config(&self) -> Config {
        match self {
            Origin::One(origin) => Config::to(origin),
            Origin::Two(origin) => origin.config(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Origin::One(origin) => origin.request_count(),
            Origin::Two(origin) => origin.request_count(),
        }
    }

    /// The request that came last, once it has been read whole.
    #[track_caller]
    fn last(&self) -> Arrived {
        let index = self.count() - 1;
        match self {
            Origin::One(origin) => {
                let record = origin.await_finished(index);
                assert_eq!(record.failure, None);
                let end = record.end.clone().unwrap_or_default();
                Arrived {
                    method: record.method().into(),
                    target: record.target().into(),
                    host: record.field("host").unwrap_or_default().into(),
                    fields: record.head.fields.clone(),
                    body_bytes: end.bytes,
                    trailers: end.trailers,
                    whole: record.end.is_some(),
                }
            }
            Origin::Two(origin) => {
                let record = origin.await_finished(index);
                assert_eq!(record.failure, None);
                assert_eq!(record.scheme.as_deref(), Some("http"));
                assert_eq!(record.field("host"), None, "the authority stands in :authority alone");
                Arrived {
                    method: record.method,
                    target: record.target,
                    host: record.authority.unwrap_or_default(),
                    fields: list(&record.fields),
                    body_bytes: record.body_bytes,
                    trailers: record.trailers.as_ref().map(list).unwrap_or_default(),
                    whole: record.whole,
                }
            }
        }
    }
}

/// One request, without saying how it travels.
#[derive(Clone, Copy, Debug)]
struct Ask<'a> {
    method: &'a str,
    target: &'a str,
    fields: &'a [(&'a str, &'a str)],
    body: Option<(Length, Payload)>,
    trailers: &'a [(&'a str, &'a str)],
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Ask { method: "GET", target: "/", fields: &[], body: None, trailers: &[] }
    }
}

impl Ask<'_> {
    fn get(target: &str) -> Ask<'_> {
        Ask { target, ..Ask::default() }
    }

    fn by(&self, wire: Wire, proxy: &Proxy) -> Seen {
        match wire {
            Wire::One => self.by_one(proxy),
            Wire::Two => self.by_two(proxy),
        }
    }

    fn by_one(&self, proxy: &Proxy) -> Seen {
        let mut client = proxy.connect();
        let mut head = format!("{} {} HTTP/1.1\r\nHost: test\r\n", self.method, self.target);
        for (name, value) in self.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some((_, payload)) = self.body {
            let _ = write!(head, "X-Seed: {}\r\n", payload.seed);
        }
        match self.body {
            None => client.send(head + "\r\n"),
            Some((Length::Told, payload)) => {
                client.send(format!("{head}Content-Length: {}\r\n\r\n", payload.bytes));
                payload.pieces(64 * 1024, |piece| client.try_send(piece)).expect("sending");
            }
            Some((Length::Untold, payload)) => {
                client.send(head + "Transfer-Encoding: chunked\r\n\r\n");
                let chunk =
                    |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                payload.pieces(64 * 1024, |piece| client.try_send(&chunk(piece))).expect("sending");
                client.send("0\r\n");
                for (name, value) in self.trailers {
                    client.send(format!("{name}: {value}\r\n"));
                }
                client.send("\r\n");
            }
        }
        let response = match self.payload() {
            Some(payload) => client.response_of(self.method, payload),
            None => client.response(self.method),
        };
        Seen {
            status: response.status,
            interim: response.interim.iter().map(|head| head.parts().1.parse().expect("a status")).collect(),
            fields: response.head.fields,
            body: response.body,
            trailers: response.end.trailers,
        }
    }

    fn by_two(&self, proxy: &Proxy) -> Seen {
        let client = two::client::Client::connect(proxy.address());
        let mut asked = request(self.method, self.target, self.fields);
        let mut stream = match self.body {
            None => client.open(asked, Then::End),
            Some((length, payload)) => {
                let map = asked.headers_mut();
                map.insert("x-seed", payload.seed.into());
                if length == Length::Told {
                    map.insert("content-length", payload.bytes.into());
                }
                let mut stream = client.open(asked, Then::More);
                let sent = payload.pieces(64 * 1024, |piece| stream.try_send(piece.to_vec(), Then::More));
                if sent == Err(Failure::Reset(Reason::NO_ERROR)) {
                    // It is answered already.
                } else if self.trailers.is_empty() {
                    let ended = sent.and_then(|()| stream.try_send("", Then::End));
                    // All bytes that it told are there, so it may be answered, and over, before its end is said.
                    let over = length == Length::Told
                        && matches!(&ended, Err(Failure::Broken(why)) if why.contains("inactive stream"));
                    assert!(
                        over || ended == Ok(()) || ended == Err(Failure::Reset(Reason::NO_ERROR)),
                        "{ended:?}"
                    );
                } else {
                    assert_eq!(sent, Ok(()));
                    stream.send_trailers(self.trailers);
                }
                stream
            }
        };
        let mut interim = Vec::new();
        if self.target.starts_with("/hints") {
            interim.extend((0..2).map(|_| stream.interim().status().as_u16()));
        }
        let (parts, ()) = stream.head().into_parts();
        let mut body = Vec::new();
        match self.payload() {
            Some(payload) => stream.body_of(payload),
            None => stream.body_into(&mut |piece| body.extend_from_slice(piece)).expect("a whole body"),
        }
        let trailers = stream.trailers().expect("an orderly end").as_ref().map(list).unwrap_or_default();
        Seen { status: parts.status.as_u16(), fields: list(&parts.headers), body, trailers, interim }
    }

    /// The payload that the target asks for.
    fn payload(&self) -> Option<Payload> {
        let large = self.target.starts_with("/told/") || self.target.starts_with("/untold/");
        (large && self.method == "GET").then(|| Payload::new(SEED, number(self.target)))
    }
}

/// Runs this for each pairing, on a proxy of its own.
fn for_each_pair(
    driver: Driver,
    config: impl Fn(Config) -> Config,
    check: impl Fn(Wire, &Proxy, &Origin, &str),
) {
    for (from, to) in PAIRS {
        let origin = Origin::start(to);
        let proxy = Proxy::start(driver, &config(origin.config()));
        check(from, &proxy, &origin, &format!("{from:?} to {to:?}"));
    }
}

fn two_client(proxy: &Proxy) -> two::client::Client {
    two::client::Client::connect(proxy.address())
}

for_each_driver! {
    fn methods(driver) {
        for_each_pair(driver, |config| config, |from, proxy, origin, pair| {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "HEAD"] {
                let seen = Ask { method, target: "/a/b?c=d&e=%20", ..Ask::default() }.by(from, proxy);
                assert_eq!(seen.status, 200, "{method}, {pair}: {seen:?}");
                let expected = if method == "HEAD" { String::new() } else { format!("{method} /a/b?c=d&e=%20") };
                assert_eq!(String::from_utf8_lossy(&seen.body), expected, "{method}, {pair}");
                let arrived = origin.last();
                assert_eq!((arrived.method.as_str(), arrived.target.as_str()), (method, "/a/b?c=d&e=%20"), "{pair}");
                assert_eq!((arrived.host.as_str(), arrived.body_bytes), ("test", 0), "{method}, {pair}");
            }
        });
    }

    fn statuses(driver) {
        for_each_pair(driver, |config| config, |from, proxy, _, pair| {
            for status in [200_u16, 201, 204, 206, 226, 301, 304, 400, 404, 418, 500, 503, 599] {
                for method in ["GET", "HEAD", "POST"] {
                    let target = format!("/status/{status}");
                    let seen = Ask { method, target: &target, ..Ask::default() }.by(from, proxy);
                    assert_eq!(seen.status, status, "{method}, {pair}: {seen:?}");
                    let bodiless = method == "HEAD" || status == 204 || status == 304;
                    assert_eq!(seen.body, if bodiless { b"".as_slice() } else { b"the body of a status" }, "{status} to {method}, {pair}");
                    let length = seen.all("content-length");
                    if status == 204 {
                        assert_eq!(length, Vec::<&str>::new(), "{pair}: RFC 9110 section 8.6");
                    } else if status != 304 {
                        assert_eq!(length, ["20"], "{status} to {method}, {pair}");
                    }
                }
            }
        });
    }

    fn bodies_to_the_client(driver) within 90 {
        for_each_pair(driver, |config| config, |from, proxy, _, pair| {
            for bytes in [0_u64, 1, 1_000, 16_384, 65_535, 65_536, 1 << 20, 16 << 20] {
                for (told, kind) in [(true, "told"), (false, "untold")] {
                    let seen = Ask::get(&format!("/{kind}/{bytes}")).by(from, proxy);
                    assert_eq!(seen.status, 200, "{kind} {bytes}, {pair}");
                    let expected = told.then(|| bytes.to_string());
                    let length = seen.all("content-length");
                    // An empty body that ends with its head has a known length all the same.
                    if bytes > 0 {
                        assert_eq!(length, Vec::from_iter(expected.as_deref()), "{kind} {bytes}, {pair}");
                    }
                    assert_eq!(seen.trailers, []);
                }
            }
        });
    }

    fn bodies_to_the_origin(driver) within 90 {
        for_each_pair(driver, |config| config, |from, proxy, origin, pair| {
            for bytes in [0_u64, 1, 1_000, 16_384, 65_535, 65_536, 1 << 20, 16 << 20] {
                for length in [Length::Told, Length::Untold] {
                    let body = Some((length, Payload::new(bytes + 1, bytes)));
                    // The answer is short, so that it does not come back as a body of its own.
                    let seen = Ask { method: "POST", target: "/status/201", body, ..Ask::default() }.by(from, proxy);
                    assert_eq!(seen.status, 201, "{length:?} {bytes}, {pair}");
                    let arrived = origin.last();
                    assert!(arrived.whole, "{arrived:?}");
                    assert_eq!(arrived.body_bytes, bytes, "{length:?}, {pair}");
                    let told = arrived.all("content-length");
                    if length == Length::Told {
                        assert_eq!(told, [bytes.to_string()], "{pair}");
                    } else if bytes > 0 {
                        assert_eq!(told, Vec::<&str>::new(), "{pair}");
                    }
                }
            }
        });
    }

    fn trailers_of_an_answer(driver) {
        for_each_pair(driver, |config| config, |from, proxy, _, pair| {
            let seen = Ask { target: "/trailers", fields: &[("te", "trailers")], ..Ask::default() };
            let seen = if from == Wire::One {
                Ask { fields: &[("TE", "trailers"), ("Connection", "TE")], ..seen }.by(from, proxy)
            } else {
                seen.by(from, proxy)
            };
            assert_eq!((seen.status, seen.body.as_slice()), (200, b"body".as_slice()), "{pair}");
            let sum = all(&seen.trailers, "x-sum");
            let two = all(&seen.trailers, "x-two");
            assert_eq!((sum, two), (vec!["4"], vec!["a", "b"]), "{pair}: {:?}", seen.trailers);
            assert_eq!(seen.all("trailer"), ["x-sum"], "{pair}");
        });
    }

    fn trailers_of_a_request(driver) {
        for_each_pair(driver, |config| config, |from, proxy, origin, pair| {
            let trailers = [("x-sum", "9"), ("x-two", "a"), ("x-two", "b")];
            let body = Some((Length::Untold, Payload::new(2, 100_000)));
            let ask = Ask { method: "POST", target: "/status/200", fields: &[("trailer", "x-sum")], body, trailers: &trailers };
            assert_eq!(ask.by(from, proxy).status, 200, "{pair}");
            let arrived = origin.last();
            assert_eq!(arrived.body_bytes, 100_000, "{pair}");
            assert_eq!(all(&arrived.trailers, "x-sum"), ["9"], "{pair}: {:?}", arrived.trailers);
            assert_eq!(all(&arrived.trailers, "x-two"), ["a", "b"], "{pair}: {:?}", arrived.trailers);
        });
    }

    fn early_hints(driver) {
        for_each_pair(driver, |config| config, |from, proxy, _, pair| {
            let seen = Ask::get("/hints").by(from, proxy);
            assert_eq!((seen.status, seen.interim.as_slice()), (200, [103, 103].as_slice()), "{pair}: {seen:?}");
            assert_eq!(seen.body, b"hinted", "{pair}");
        });
    }

    /// The client must be told to go on before its body is waited for, and the origin's 100 is what tells it.
    fn expect_continue(driver) {
        for_each_pair_expecting(driver);
    }

    fn fields_of_a_request(driver) {
        for_each_pair(driver, |config| config, |from, proxy, origin, pair| {
            let many: Vec<(String, String)> = (0..70).map(|i| (format!("x-many-{i}"), "v".repeat(i))).collect();
            let mut fields: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            fields.extend([("x-twice", "a"), ("x-twice", "b"), ("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")]);
            fields.push(("te", "trailers"));
            if from == Wire::One {
                fields.extend([("connection", "x-mine, te"), ("x-mine", "1"), ("keep-alive", "timeout=5")]);
            }
            let seen = Ask { fields: &fields, ..Ask::default() }.by(from, proxy);
            assert_eq!(seen.status, 200, "{pair}: {seen:?}");
            let arrived = origin.last();
            for (name, value) in &many {
                assert_eq!(arrived.all(name), [value.as_str()], "{name}, {pair}");
            }
            assert_eq!(arrived.all("x-twice").join(", "), "a, b", "{pair}");
            assert_eq!(arrived.all("x-forwarded-for"), ["127.0.0.1"], "{pair}");
            assert_eq!(arrived.all("x-forwarded-proto"), ["http"], "{pair}");
            assert_eq!(arrived.all("x-forwarded-host"), ["test"], "{pair}");
            assert_eq!(arrived.all("forwarded"), Vec::<&str>::new(), "{pair}");
            // RFC 9110 section 7.6.3: the version that the message was received in.
            let via = if from == Wire::Two { "2.0 ringway" } else { "1.1 ringway" };
            assert_eq!(arrived.all("via"), [via], "{pair}");
            for name in ["x-mine", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding"] {
                assert_eq!(arrived.all(name), Vec::<&str>::new(), "{name}, {pair}");
            }
        });
    }

    fn fields_of_an_answer(driver) {
        for_each_pair(driver, |config| config, |from, proxy, origin, pair| {
            let seen = Ask::get("/fields").by(from, proxy);
            assert_eq!((seen.status, seen.body.as_slice()), (200, b"fields".as_slice()), "{pair}");
            for index in 0..60 {
                assert_eq!(seen.all(&format!("x-many-{index}")), ["v".repeat(index)], "{pair}");
            }
            assert_eq!(seen.all("set-cookie"), ["a=1", "b=2"], "{pair}: cookies are never joined");
            assert_eq!(seen.all("date").len(), 1, "{pair}: RFC 9110 section 6.6.1");
            let via = if matches!(origin, Origin::Two(_)) { "2.0 ringway" } else { "1.1 ringway" };
            assert_eq!(seen.all("via"), [via], "{pair}");
            for name in ["x-mine", "keep-alive", "transfer-encoding"] {
                assert_eq!(seen.all(name), Vec::<&str>::new(), "{name}, {pair}");
            }
            if from == Wire::Two {
                assert_eq!(seen.all("connection"), Vec::<&str>::new(), "{pair}");
            }
        });
    }

    fn large_heads(driver) {
        for_each_pair(driver, |config| config, |from, proxy, origin, pair| {
            let value = "v".repeat(15_000);
            let seen = Ask { fields: &[("x-large", &value)], ..Ask::default() }.by(from, proxy);
            assert_eq!(seen.status, 200, "{pair}: {seen:?}");
            assert_eq!(origin.last().all("x-large"), [value.as_str()], "{pair}");
            let before = origin.count();
            let value = "v".repeat(17_000);
            let seen = Ask { fields: &[("x-large", &value)], ..Ask::default() }.by(from, proxy);
            assert_eq!(seen.status, 431, "{pair}: {seen:?}");
            assert_eq!(origin.count(), before, "{pair}");
        });
    }

    /// A head has a place for 128 fields, and we add some. Whatever the number, a message passes whole or is refused.
    fn as_many_fields_as_can_be(driver) within 60 {
        let many = |fields: &[(String, String)]| {
            fields.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-many-")).count()
        };
        for_each_pair(driver, |config| config.top("limits: { header_count: 128 }"), |from, proxy, origin, pair| {
            let (mut requests_to, mut answers_to) = (0, 0);
            for count in [64, 110].into_iter().chain(115..=131) {
                let names: Vec<_> = (0..count).map(|index| format!("x-many-{index}")).collect();
                let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
                let before = origin.count();
                let seen = Ask { fields: &fields, ..Ask::default() }.by(from, proxy);
                match seen.status {
                    200 => {
                        assert_eq!(many(&origin.last().fields), count, "{pair}, a request");
                        assert_eq!(requests_to, 0, "{pair}: {requests_to} fields are refused, {count} pass");
                    }
                    431 => {
                        let problem = String::from_utf8_lossy(&seen.body).into_owned();
                        assert!(from == Wire::Two || problem.contains("header_count"), "{pair}: {problem}");
                        assert_eq!(origin.count(), before, "{pair}, {count} fields");
                        requests_to = requests_to.max(count);
                    }
                    other => panic!("{pair}: {other} to {count} fields"),
                }
                let seen = Ask::get(&format!("/many/{count}")).by(from, proxy);
                match seen.status {
                    200 => {
                        assert_eq!(many(&seen.fields), count, "{pair}, an answer");
                        assert_eq!(answers_to, 0, "{pair}: {answers_to} fields are refused, {count} pass");
                    }
                    502 => {
                        let problem = String::from_utf8_lossy(&seen.body).into_owned();
                        // As the origin's head, or as ours, which has more.
                        let told = ["header_count", "upstream_h2_malformed"];
                        assert!(told.iter().any(|reason| problem.contains(reason)), "{pair}: {problem}");
                        answers_to = answers_to.max(count);
                    }
                    other => panic!("{pair}: {other} for an answer of {count} fields"),
                }
            }
            assert_eq!((requests_to, answers_to), (131, 131), "{pair}: a bound that nothing reaches");
        });
    }

    /// RFC 9113 section 8.2.3: crumbs are put together with "; " before they go where that is not known.
    fn cookie_crumbs_become_one_cookie(driver) {
        for_each_pair(driver, |config| config, |from, proxy, origin, pair| {
            if from == Wire::One {
                return;
            }
            let fields = [("cookie", "a=1"), ("x-between", "y"), ("cookie", "b=2"), ("cookie", "c=3; d=4")];
            assert_eq!(Ask { fields: &fields, ..Ask::default() }.by(from, proxy).status, 200);
            let cookies = origin.last().all("cookie").join("; ");
            assert_eq!(cookies, "a=1; b=2; c=3; d=4", "{pair}");
            if let Origin::One(_) = origin {
                assert_eq!(origin.last().all("cookie").len(), 1, "{pair}");
            }
        });
    }

    fn refusals_of_our_own(driver) {
        for_each_pair(driver, |config| config.routes("- { name: only, match: { path: { prefix: /only } }, upstream: origin }"), |from, proxy, origin, pair| {
            let seen = Ask::get("/none").by(from, proxy);
            assert_eq!(seen.status, 404, "{pair}");
            assert_eq!(seen.all("content-type"), ["application/problem+json"], "{pair}");
            let body = Some((Length::Untold, Payload::new(1, 10)));
            assert_eq!(Ask { method: "POST", target: "/none", body, ..Ask::default() }.by(from, proxy).status, 404, "{pair}");
            assert_eq!(origin.count(), 0);
            assert_eq!(Ask::get("/only").by(from, proxy).status, 200, "{pair}");
        });
    }

    /// An HTTP/2 client of an origin that dies in the middle of a body sees a reset, never an end.
    fn an_answer_that_is_cut(driver) {
        // Cut at once, what is queued is dropped in favour of the reset, and maybe the head with it.
        let gate = Gate::new();
        let held = gate.clone();
        let one = one::Origin::with(move |exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
            held.wait();
            Ok(After::Close)
        });
        let other = Gate::new();
        let held = other.clone();
        let two = two::origin::Origin::with(move |exchange| {
            exchange.answer(200, &[], Then::More)?;
            exchange.send("half", Then::More)?;
            held.wait();
            exchange.reset(Reason::INTERNAL_ERROR)
        });
        for (config, gate) in [(Config::to(&one), gate), (two.config(), other)] {
            let proxy = Proxy::start(driver, &config);
            let client = two_client(&proxy);
            let mut stream = client.open(request("GET", "/", &[]), Then::End);
            stream.head();
            assert_eq!(stream.chunk().expect("the half").as_deref(), Some(&b"half"[..]));
            gate.open();
            assert_eq!(stream.chunk(), Err(Failure::Reset(Reason::INTERNAL_ERROR)));
            proxy.await_metric("ringway_refused_total", &[], |cuts| cuts == 1.0);
            let metrics = proxy.metrics();
            let reasons = ["upstream_body_truncated", "upstream_reset_in_body", "body_truncated"];
            let counted: f64 =
                reasons.iter().map(|reason| metrics.sum("ringway_refused_total", &[("reason", reason)])).sum();
            assert_eq!(counted, 1.0, "{:?}", metrics.series("ringway_refused_total"));
        }
    }

    fn an_origin_that_resets_before_it_answers(driver) {
        let origin = two::origin::Origin::with(|exchange| exchange.reset(Reason::INTERNAL_ERROR));
        let proxy = Proxy::start(driver, &origin.config());
        let response = two_client(&proxy).get("/").expect(502);
        assert_eq!(proxy.get("/").expect(502).status, response.status);
        assert_eq!(origin.request_count(), 2, "an origin that has acted on it is not asked again");
        assert_eq!(origin.accepted(), 1, "a stream's end is not its connection's");
    }

    /// A client that cancels while it is answered: the origin is told, and other streams are not touched.
    fn a_client_that_cancels_in_an_answer(driver) {
        let one = one::Origin::with(|exchange| {
            if exchange.target() != "/endless" {
                return one::scripted(exchange);
            }
            exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
            loop {
                exchange.write(&chunk)?;
            }
        });
        let two = two::origin::Origin::with(|exchange| {
            if exchange.path() != "/endless" {
                return two::origin::scripted(exchange);
            }
            exchange.answer(200, &[], Then::More)?;
            loop {
                exchange.send(Bytes::from_static(&[b'x'; 5_000]), Then::More)?;
            }
        });
        for config in [Config::to(&one), two.config()] {
            let proxy = Proxy::start(driver, &config);
            let client = two_client(&proxy);
            let mut stream = client.open(request("GET", "/endless", &[]), Then::End);
            stream.head();
            stream.chunk().expect("a piece of the body");
            stream.reset(Reason::CANCEL);
            client.get("/after").expect(200);
            proxy.await_metric("ringway_refused_total", &[("reason", "client_gone")], |gone| gone == 1.0);
            proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        }
        assert!(matches!(one.await_finished(0).failure, Some(WireError::Reset | WireError::Io(_))));
        assert_eq!(two.await_finished(0).failure, Some(Failure::Reset(Reason::CANCEL)));
    }

    /// While the origin thinks, and while it pauses: either way it is told, however the request was sent.
    fn a_client_that_cancels_while_nothing_comes(driver) {
        let one = one::Origin::with(|exchange| {
            exchange.read_body()?;
            if exchange.target() == "/pause" {
                exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
            }
            // The end of the connection, or a time-out if nobody tells.
            exchange.wire.fill()?;
            Ok(After::Close)
        });
        let two = two::origin::Origin::with(|exchange| {
            exchange.read_body()?;
            if exchange.path() == "/pause" {
                exchange.answer(200, &[], Then::More)?;
                exchange.send("first", Then::More)?;
            }
            Err(Failure::Reset(exchange.await_reset()?))
        });
        for config in [Config::to(&one), two.config()] {
            let proxy = Proxy::start(driver, &config);
            let client = two_client(&proxy);
            for target in ["/think", "/pause"] {
                for body in ["", "body"] {
                    let mut stream = client.open(request("POST", target, &[]), Then::More);
                    // A request that is whole at once takes another way through the proxy than one in pieces.
                    client.ping().expect("the head is there");
                    stream.send(body, Then::End);
                    if target == "/pause" {
                        stream.head();
                        assert_eq!(stream.chunk().expect("a piece").as_deref(), Some(&b"first"[..]));
                    } else {
                        proxy.await_metric("ringway_upstream_requests_active", &[], |active| active == 1.0);
                    }
                    stream.reset(Reason::CANCEL);
                    proxy.await_metric("ringway_requests_active", &[], |active| active == 0.0);
                }
            }
            proxy.await_metric("ringway_refused_total", &[("reason", "client_gone")], |gone| gone == 4.0);
            proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        }
        one.await_ended(4);
        for index in 0..4 {
            assert_eq!(two.await_failed(index), Failure::Reset(Reason::CANCEL));
        }
    }

    /// The same over HTTP/1.1, where the end of the connection may say it, and does once it was waited for long enough.
    fn a_plain_client_that_leaves_while_nothing_comes(driver) {
        let origin = two::origin::Origin::with(|exchange| {
            exchange.read_body()?;
            Err(Failure::Reset(exchange.await_reset()?))
        });
        let proxy = Proxy::start(driver, &origin.config().top("timeouts: { half_closed: 1s }"));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n");
        origin.await_requests(1);
        client.send("body");
        origin.await_finished(0);
        drop(client);
        assert_eq!(origin.await_failed(0), Failure::Reset(Reason::CANCEL));
    }

    fn a_client_that_cancels_its_request(driver) {
        let one = one::Origin::with(one::scripted);
        let two = two::origin::Origin::with(two::origin::scripted);
        for config in [Config::to(&one), two.config()] {
            let proxy = Proxy::start(driver, &config);
            let client = two_client(&proxy);
            let mut stream = client.open(request("POST", "/cut", &[]), Then::More);
            stream.send("half of it", Then::More);
            eventually("the request at its origin", || (one.request_count() + two.request_count() > 0).then_some(()));
            if config.to_string().contains("http2") {
                two.await_requests(1);
            }
            stream.reset(Reason::CANCEL);
            proxy.await_metric("ringway_refused_total", &[("reason", "client_gone_in_body")], |gone| gone == 1.0);
            client.get("/after").expect(200);
        }
        let cut = one.await_finished(0);
        assert!(matches!(cut.failure, Some(WireError::Truncated(_) | WireError::Reset)), "{cut:?}");
        assert!(cut.end.is_none(), "a cut body must not look whole");
        assert_eq!(two.await_finished(0).failure, Some(Failure::Reset(Reason::CANCEL)));
    }

    /// An answer before the request is over: the client gets it whole, and is told that the rest is not wanted (RFC
    /// 9113 section 8.1).
    fn an_early_answer(driver) {
        let one = one::Origin::with(|exchange| {
            exchange.abandon_body();
            exchange.reply(413, &[("Connection", "close")], "too much")?;
            Ok(After::Close)
        });
        // What the h2 crate makes of an answer to a request that nobody reads: RST_STREAM with NO_ERROR.
        let two = two::origin::Origin::with(|exchange| exchange.reply(413, &[], "too much"));
        for config in [Config::to(&one), two.config()] {
            let proxy = Proxy::start(driver, &config);
            let client = two_client(&proxy);
            let mut stream = client.open(request("POST", "/", &[]), Then::More);
            // The answer may be there already, and with it the wish not to be sent any more.
            let _ = stream.try_send("the beginning", Then::More);
            assert_eq!(stream.response().expect(413).text(), "too much");
            assert_eq!(stream.await_reset(), Ok(Reason::NO_ERROR), "{config}");
            client.ping().expect("the connection lives");
        }
    }

    /// A reader that stops holds up its own stream, and neither its connection nor the one to the origin.
    fn a_slow_reader_stops_nobody_else(driver) {
        let bytes = 4 << 20;
        for_each_pair(driver, |config| config, |from, proxy, _, pair| {
            if from == Wire::One {
                return;
            }
            let settings = two::client::Settings { stream_window: Some(65_535), connection_window: Some(16 << 20) };
            let client = two::client::Client::with(proxy.address(), settings);
            let target = format!("/untold/{bytes}");
            let mut slow: Vec<_> =
                (0..3).map(|_| client.open(request("GET", &target, &[]), Then::End)).collect();
            for stream in &mut slow {
                stream.head();
                let mut held = 0;
                while held < 65_535 {
                    held += stream.chunk_held().expect("a piece").expect("not the end").len();
                }
            }
            for _ in 0..3 {
                let mut stream = client.open(request("GET", "/untold/1000000", &[]), Then::End);
                stream.head();
                stream.body_of(Payload::new(SEED, 1_000_000));
            }
            for (number, stream) in slow.iter_mut().enumerate() {
                let mut checker = Payload::new(SEED, bytes).checker();
                let mut first = vec![0; 65_535];
                Payload::new(SEED, bytes).fill(0, &mut first);
                checker.feed(&first);
                stream.release(65_535);
                stream.body_into(&mut |piece| checker.feed(piece)).unwrap_or_else(|e| panic!("{number}, {pair}: {e}"));
                checker.verdict().unwrap_or_else(|wrong| panic!("{number}, {pair}: {wrong}"));
            }
        });
    }

    /// The same upwards: an origin that does not read one request's body reads the others'.
    fn a_slow_origin_stops_only_its_own_stream(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = two::origin::Origin::with(move |exchange| {
            if exchange.path() == "/slow" {
                held.wait();
            }
            exchange.read_body()?;
            exchange.reply(200, &[], "")
        });
        let proxy = Proxy::start(driver, &origin.config());
        let client = two_client(&proxy);
        let mut slow = client.open(request("POST", "/slow", &[]), Then::More);
        let mut sent = 0;
        // Until the windows are full all along the way, and stay so.
        eventually("full windows", || {
            let room = slow.room(16_384).min(16_384);
            if room > 0 {
                slow.send(vec![b'x'; room], Then::More);
                sent += room;
                return None;
            }
            client.ping().expect("the connection lives");
            (slow.room(1) == 0).then_some(())
        });
        for _ in 0..3 {
            let mut stream = client.open(request("POST", "/quick", &[("x-seed", "4")]), Then::More);
            stream.send_payload(Payload::new(4, 2_000_000)).expect("the others are read");
            stream.response().expect(200);
        }
        gate.open();
        slow.send("", Then::End);
        slow.response().expect(200);
        let record = origin.requests().into_iter().find(|record| record.target == "/slow").expect("a record");
        assert_eq!(record.body_bytes, sent as u64);
    }

    /// Streams whose readers have stopped hold no more than their windows and a bounded number of buffers, and keep
    /// nobody waiting who shares their one connection to an HTTP/2 origin.
    fn stalled_streams_hold_little(driver) within 60 {
        for_each_pair(driver, |config| config, |from, proxy, _, pair| {
            if from == Wire::One {
                return;
            }
            let settings = two::client::Settings { stream_window: Some(1_000), connection_window: Some(16 << 20) };
            let client = two::client::Client::with(proxy.address(), settings);
            let mut streams: Vec<_> =
                (0..100).map(|_| client.open(request("GET", "/told/200000", &[]), Then::End)).collect();
            for stream in &mut streams {
                stream.head();
                stream.chunk_held().expect("a piece").expect("not the end");
            }
            let taken = proxy.metrics().sum("ringway_buffers_taken", &[]);
            assert!(taken <= 200.0, "{taken} buffers for 100 stalled streams, {pair}");
            proxy.get("/").expect(200);
            drop(streams);
            proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        });
    }

    /// RFC 8441: a WebSocket over HTTP/2 to an origin that knows it as an upgrade of HTTP/1.1.
    fn a_websocket_to_an_http1_origin(driver) {
        let origin = one::Origin::with(websocket_one);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let client = two_client(&proxy);
        assert!(client.may_extend_connect());
        let fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")];
        let mut stream = client.open(connect_to("websocket", "/chat?x=1", &fields), Then::More);
        let head = stream.head();
        assert_eq!(head.status(), 200);
        for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
            assert_eq!(two::values(head.headers(), name), Vec::<&str>::new(), "{name}");
        }
        assert_eq!(two::value(head.headers(), "sec-websocket-protocol"), Some("chat"));
        echoes(&mut stream);
        let arrived = origin.only();
        assert_eq!((arrived.method(), arrived.target()), ("GET", "/chat?x=1"));
        assert_eq!(arrived.field("upgrade"), Some("websocket"));
        assert_eq!(arrived.field("sec-websocket-version"), Some("13"));
        assert_eq!(arrived.field("sec-websocket-protocol"), Some("chat"));
        assert_eq!(arrived.field("sec-websocket-key").map(str::len), Some(24));
        client.ping().expect("the connection lives on");
    }

    fn a_websocket_to_an_http2_origin(driver) {
        let settings = two::origin::Settings { extended_connect: true, ..two::origin::Settings::default() };
        let origin = two::origin::Origin::announcing(settings, websocket_two);
        let proxy = Proxy::start(driver, &origin.config());
        let client = two_client(&proxy);
        let mut stream = client.open(connect_to("websocket", "/chat", &[]), Then::More);
        assert_eq!(stream.head().status(), 200);
        echoes(&mut stream);
        let arrived = origin.only();
        assert_eq!((arrived.method.as_str(), arrived.protocol.as_deref()), ("CONNECT", Some("websocket")));
        assert_eq!((arrived.target.as_str(), arrived.authority.as_deref()), ("/chat", Some("test")));
        assert_eq!(arrived.field("sec-websocket-key"), None);
        // And the same from HTTP/1.1.
        let mut client = proxy.connect();
        let response = client
            .ask(
                "GET /chat HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            )
            .expect(101);
        assert_eq!(response.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        client.send("over both");
        assert_eq!(client.wire.exactly(9).expect("the echo"), b"over both");
        client.half_close();
        assert_eq!(client.wire.to_end().expect("an orderly end"), b"bye");
    }

    /// A 2xx would open the tunnel in the client's eyes (RFC 8441 section 5), so an origin that ignores the upgrade must
    /// not be repeated.
    fn a_websocket_that_is_not_one(driver) {
        let one = one::Origin::start();
        let two = two::origin::Origin::start();
        let refusing = Config::to(&one).route("upgrade: []");
        for (config, whose) in [(Config::to(&one), "the origin's"), (refusing, "ours"), (two.config(), "HTTP/2's")] {
            let proxy = Proxy::start(driver, &config);
            let client = two_client(&proxy);
            let mut stream = client.open(connect_to("websocket", "/", &[]), Then::More);
            let status = stream.head().status().as_u16();
            assert!(status >= 400, "{whose} refusal looks like a success: {status}");
            client.get("/after").expect(200);
        }
        let unknown = Proxy::start(driver, &Config::to(&one));
        let client = two_client(&unknown);
        let mut stream = client.open(connect_to("something", "/", &[]), Then::More);
        assert_eq!(stream.head().status(), 501, "RFC 9220 section 3");
    }

    fn connect_on_a_route_for_it(driver) {
        let origin = one::Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).route("connect: true"));
        let client = two_client(&proxy);
        let mut stream = client.open(connect("test:80"), Then::More);
        let head = stream.head();
        assert_eq!(head.status(), 200);
        assert_eq!(two::values(head.headers(), "content-length"), Vec::<&str>::new());
        let inner = "GET /inner HTTP/1.1\r\nHost: inner\r\nX-Own: 1\r\n\r\n";
        stream.send(inner, Then::More);
        let mut answer = Vec::new();
        while !answer.ends_with(b"GET /inner") {
            answer.extend_from_slice(&stream.chunk().expect("the answer").expect("not the end"));
        }
        assert_eq!(String::from_utf8_lossy(&origin.only().head.raw), inner);
        stream.send("", Then::End);
        origin.await_ended(1);
        assert_eq!(stream.chunk(), Ok(None));
        // And where no route allows it.
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let refused = two_client(&proxy).open(connect("test:80"), Then::More).response().expect(405);
        assert_eq!(refused.reason(), "connect_refused");
    }

    /// Padding is flow-controlled with the data that it stands beside, and is not part of it.
    fn padded_data_and_heads(driver) {
        let origin = one::Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = raw::Raw::greet(proxy.address(), &[]);
        let post: [(&[u8], &[u8]); 4] =
            [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/p"), (b":authority", b"t")];
        let head = [&[7], raw::block(&post).as_slice(), &[0; 7]].concat();
        let flags = raw::flag::END_HEADERS | raw::flag::PADDED;
        client.send(raw::frame(raw::kind::HEADERS, flags, 1, head));
        // More than a window of padding in all.
        for _ in 0..300 {
            client.send(raw::frame(raw::kind::DATA, raw::flag::PADDED, 1, [&[250, b'd'][..], &[0; 250]].concat()));
        }
        client.send(raw::data(1, raw::flag::END_STREAM, ""));
        let head = client.await_frame("the answer", |frame| frame.kind == raw::kind::HEADERS);
        assert_eq!(head.status(), 200);
        assert_eq!(origin.await_finished(0).body, vec![b'd'; 300]);
    }
}

/// The HTTP/1.1 end of a WebSocket: echoes until the peer's end, then says `bye`.
fn websocket_one(exchange: &mut one::Exchange<'_>) -> one::Outcome {
    let key = exchange.head.field("sec-websocket-key").unwrap_or_default().to_owned();
    let accept = accept(&key);
    exchange.write(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    ))?;
    loop {
        let now = exchange.wire.buffered().len();
        let bytes = exchange.wire.exactly(now)?;
        exchange.write(bytes)?;
        if exchange.wire.fill()? == 0 {
            break;
        }
    }
    exchange.write("bye")?;
    Ok(After::Close)
}

/// RFC 6455 section 4.2.2.
fn accept(key: &str) -> String {
    use base64::Engine as _;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

fn websocket_two(exchange: &mut two::origin::Exchange) -> two::origin::Outcome {
    exchange.answer(200, &[], Then::More)?;
    while let Some(piece) = exchange.chunk()? {
        exchange.send(piece, Then::More)?;
    }
    exchange.send("bye", Then::End)
}

/// What is sent into the tunnel comes back, also in bulk, and each direction ends by itself.
fn echoes(stream: &mut two::client::Stream) {
    let payload = Payload::new(9, 600_000);
    for (sent, text) in [("hello".to_owned(), true), ("x".repeat(100_000), false)] {
        stream.send(sent.clone(), Then::More);
        let mut back = Vec::new();
        while back.len() < sent.len() {
            back.extend_from_slice(&stream.chunk().expect("the echo").expect("not the end"));
        }
        assert!(back == sent.as_bytes(), "the echo of {} bytes, text: {text}", sent.len());
    }
    let mut checker = payload.checker();
    let mut back = 0;
    payload
        .pieces(50_000, |piece| {
            stream.try_send(piece.to_vec(), Then::More)?;
            let until = back + piece.len();
            while back < until {
                let echoed = stream.chunk()?.expect("not the end");
                checker.feed(&echoed);
                back += echoed.len();
            }
            Ok::<_, Failure>(())
        })
        .expect("the echo");
    checker.verdict().unwrap_or_else(|wrong| panic!("{wrong}"));
    stream.send("", Then::End);
    assert_eq!(stream.chunk().expect("the last words"), Some(Bytes::from_static(b"bye")));
    assert_eq!(stream.chunk(), Ok(None));
}

fn for_each_pair_expecting(driver: Driver) {
    let one = one::Origin::with(|exchange| {
        assert!(exchange.head.names("expect", "100-continue"), "{:?}", exchange.head);
        if exchange.target() == "/refuse" {
            exchange.abandon_body();
            exchange.reply(417, &[], "no")?;
            return Ok(After::Close);
        }
        exchange.write("HTTP/1.1 100 Continue\r\n\r\n")?;
        one::scripted(exchange)
    });
    let two = two::origin::Origin::with(|exchange| {
        assert_eq!(two::values(&exchange.head.headers, "expect"), ["100-continue"]);
        if exchange.path() == "/refuse" {
            return exchange.reply(417, &[], "no");
        }
        exchange.interim(100, &[])?;
        two::origin::scripted(exchange)
    });
    for config in [Config::to(&one), two.config()] {
        let proxy = Proxy::start(driver, &config);
        let client = two_client(&proxy);
        let expecting =
            |target| request("POST", target, &[("expect", "100-continue"), ("content-length", "4")]);
        let mut stream = client.open(expecting("/"), Then::More);
        assert_eq!(stream.interim().status(), 100);
        stream.send("body", Then::End);
        assert_eq!(stream.response().expect(200).text(), "body");
        let mut stream = client.open(expecting("/refuse"), Then::More);
        assert_eq!(stream.response().expect(417).text(), "no");
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(client.response_head().expect("an interim answer").1, 100);
        client.send("body");
        let response = client.response("POST").expect(200);
        assert_eq!((response.text().as_str(), response.framing), ("body", Framing::Length(4)));
    }
}
