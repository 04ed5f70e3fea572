//! Uploads whose origin does not read: what they hold is counted and bounded, and keeps no other stream, client or worker
//! from going on.

use h2::Reason;
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::h2::Failure;
use ringway_tests::h2::client::{Client, Stream, Then, request};
use ringway_tests::h2::origin::Origin as Multiplexed;
use ringway_tests::origin::Origin;
use ringway_tests::payload::Payload;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::tls::{Authority, Dialer, Leaf, listener_tls};
use ringway_tests::wait::{Gate, PATIENCE};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

/// More than any window is by default.
const UPLOAD_BYTES: u64 = 1 << 20;

/// An origin that reads no body before the gate is open.
fn unreading() -> (Multiplexed, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Multiplexed::with(move |exchange| {
        held.wait();
        exchange.read_body()?;
        exchange.reply(200, &[], "")
    });
    (origin, gate)
}

/// `/stalled` to an origin that does not read, and everything else to one that does. Nobody is timed out.
fn start(driver: Driver, stalled: &Multiplexed, origin: &Origin, top: &str, listener: &str) -> Proxy {
    let config = stalled
        .config()
        .and_upstream("reading", origin)
        .top("timeouts: { body_idle: off, response_head: off, request: off }")
        .routes(
            "- { name: stalled, match: { path: { exact: /stalled } }, upstream: origin }\n\
             - { name: all, upstream: reading }",
        );
    Proxy::start(driver, &config.top(top).listener(listener))
}

/// An upload that is under way.
struct Upload {
    stream: Stream,
    payload: Payload,
    sent_bytes: u64,
    /// How the proxy ended it.
    ended: Option<Failure>,
}

impl Upload {
    fn begin(client: &Client, seed: u64) -> Upload {
        let head = request("POST", "/stalled", &[("x-seed", &seed.to_string())]);
        let stream = client.open(head, Then::More);
        Upload { stream, payload: Payload::new(seed, UPLOAD_BYTES), sent_bytes: 0, ended: None }
    }

    /// Sends what the windows have room for. Says whether that was anything.
    fn push(&mut self) -> bool {
        let left = (self.payload.bytes - self.sent_bytes) as usize;
        if self.ended.is_some() || left == 0 {
            return false;
        }
        let room = self.stream.room(left.min(64 << 10));
        let mut piece = vec![0; room];
        self.payload.fill(self.sent_bytes, &mut piece);
        if room > 0
            && let Err(failure) = self.stream.try_send(piece, Then::More)
        {
            self.ended = Some(failure);
            return true;
        }
        self.sent_bytes += room as u64;
        room > 0
    }

    /// Sends the rest.
    fn finish(mut self) {
        let mut rest = vec![0; (self.payload.bytes - self.sent_bytes) as usize];
        self.payload.fill(self.sent_bytes, &mut rest);
        self.stream.send(rest, Then::End);
        self.stream.response().expect(200);
    }
}

/// Sends until nothing has moved for some round trips. `look` is called in each.
fn push_all(client: &Client, uploads: &mut [Upload], mut look: impl FnMut()) {
    let mut quiet = 0;
    while quiet < 20 {
        let moved = uploads.iter_mut().filter_map(|upload| upload.push().then_some(())).count() > 0;
        client.ping().expect("the connection stays");
        look();
        quiet = if moved { 0 } else { quiet + 1 };
    }
}

#[track_caller]
fn nothing_is_held(proxy: &Proxy) {
    for gauge in ["ringway_requests_active", "ringway_buffers_taken", "ringway_backlog_bytes"] {
        proxy.await_metric(gauge, &[], |held| held == 0.0);
    }
}

for_each_driver! {
    /// Four of them fill the window that a connection has by default.
    fn stalled_uploads_keep_no_other_stream_waiting(driver) within 60 {
        for count in [4, 8, 20] {
            let (stalled, gate) = unreading();
            let origin = Origin::start();
            let proxy = start(driver, &stalled, &origin, "", "");
            let client = Client::connect(proxy.address());
            let mut uploads: Vec<_> = (0..count).map(|seed| Upload::begin(&client, seed)).collect();
            push_all(&client, &mut uploads, || {});
            assert!(uploads.iter().all(|upload| upload.sent_bytes < UPLOAD_BYTES), "they are not stalled");
            for number in 0..3 {
                let body = Payload::new(100 + number, 100_000).to_vec();
                let started = Instant::now();
                let answer = client.post("/small", body.clone()).expect(200);
                assert!(answer.body == body, "beside {count} stalled uploads");
                // The origin's patience, after which it lets the uploads go, is more.
                assert!(started.elapsed() < PATIENCE / 2, "{:?} beside {count} stalled uploads", started.elapsed());
            }
            // What they hold is more than the connection's window, and counted.
            let held = proxy.metrics().sum("ringway_backlog_bytes", &[]);
            let sent: u64 = uploads.iter().map(|upload| upload.sent_bytes).sum();
            assert!(held > (count * 200) as f64 * 1024.0 && held <= sent as f64, "{held} bytes held of {sent} sent");
            gate.open();
            uploads.into_iter().for_each(Upload::finish);
            assert_eq!(proxy.metrics().sum("ringway_backlog_shed_total", &[]), 0.0);
            nothing_is_held(&proxy);
        }
    }

    /// With the smallest memory. One client's connections take what they may; then the heaviest of its streams are reset,
    /// and another client does not notice.
    fn stalled_uploads_of_many_connections_are_bounded(driver) within 60 {
        const BACKLOG_BYTES_MAX: f64 = 512.0 * 1024.0;
        let (stalled, gate) = unreading();
        let origin = Origin::start();
        let proxy = start(driver, &stalled, &origin, "limits: { memory_per_worker: 1MiB }", "");
        let other = Client::from(Ipv4Addr::new(127, 0, 0, 2), proxy.address());
        let mut held_max = 0.0_f64;
        let mut all = Vec::new();
        // Greeted before: once its uploads hold all buffers that it may have, this client gets none for a greeting.
        let clients: Vec<_> = (0..12).map(|_| Client::connect(proxy.address())).collect();
        for (number, client) in (0..).zip(clients) {
            let mut uploads: Vec<_> = (0..8).map(|seed| Upload::begin(&client, number * 8 + seed)).collect();
            push_all(&client, &mut uploads, || {
                held_max = held_max.max(proxy.metrics().sum("ringway_backlog_bytes", &[]));
            });
            let body = Payload::new(number, 10_000).to_vec();
            assert!(other.post("/small", body.clone()).expect(200).body == body);
            all.push((client, uploads));
        }
        assert!(held_max > BACKLOG_BYTES_MAX / 8.0 && held_max <= BACKLOG_BYTES_MAX, "{held_max}");
        assert!(proxy.metrics().sum("ringway_backlog_shed_total", &[]) > 0.0);
        assert!(proxy.metrics().sum("ringway_refused_total", &[("reason", "h2_backlog")]) > 0.0);
        for (client, uploads) in &mut all {
            assert_eq!(client.ending(), None, "streams are reset, no connection");
            push_all(client, uploads, || {});
        }
        gate.open();
        let mut finished = 0;
        for upload in all.iter_mut().flat_map(|(_, uploads)| uploads.drain(..)) {
            match upload.ended {
                Some(failure) => assert_eq!(failure, Failure::Reset(Reason::ENHANCE_YOUR_CALM)),
                None => drop(upload),
            }
            finished += 1;
        }
        assert_eq!(finished, 96);
        drop(all);
        nothing_is_held(&proxy);
        assert!(other.post("/small", "after all").expect(200).text() == "after all");
    }

    /// A TLS record is decrypted when it is whole; until then its bytes are kept for each client.
    fn parts_of_tls_records_are_counted_and_bounded(driver) within 60 {
        const PART_BYTES: usize = 5 + 16_000;
        let origin = Origin::start();
        let folder = Folder::new(&format!("backlog-tls-{}", driver.name()));
        let authority = Authority::new();
        authority.issue_to(&folder, "server", &Leaf::default());
        let start = |top: &str| {
            let tls = listener_tls(folder.path(), &["server"], "");
            Proxy::start(driver, &Config::to(&origin).listener(&tls).top(top))
        };
        // A ClientHello of 16 KiB, but for its end.
        let mut part = vec![22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
        part.resize(PART_BYTES, 0);
        let partial = |proxy: &Proxy| {
            let mut socket = TcpStream::connect(proxy.address()).expect("a connection");
            socket.write_all(&part).expect("part of a message");
            socket
        };
        let proxy = start("");
        let clients: Vec<_> = (0..20).map(|_| partial(&proxy)).collect();
        let least = (clients.len() * PART_BYTES) as f64;
        proxy.await_metric("ringway_backlog_bytes", &[], |held| held >= least && held < 1.5 * least);
        drop(clients);
        nothing_is_held(&proxy);
        // 256 KiB for the clients of one address.
        let proxy = start("limits: { memory_per_worker: 1MiB }");
        let mut held_max = 0.0_f64;
        let clients: Vec<_> = (0..100)
            .map(|_| {
                held_max = held_max.max(proxy.metrics().sum("ringway_backlog_bytes", &[]));
                partial(&proxy)
            })
            .collect();
        proxy.await_metric("ringway_refused_total", &[("reason", "tls_backlog")], |count| count >= 80.0);
        assert!(held_max > 128.0 * 1024.0 && held_max <= 512.0 * 1024.0, "{held_max} bytes held");
        let mut client = Dialer::plain(&authority).connect(proxy.address(), "localhost");
        client.get("/").expect(200);
        drop(clients);
        nothing_is_held(&proxy);
    }
}
