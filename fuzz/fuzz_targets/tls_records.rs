//! A TLS connection of ours with itself, over socket pairs, and somebody between who cuts, corrupts, doubles, swaps and
//! drops records as the fuzz bytes say, in the handshake too. Nothing may panic, and no byte is delivered but those that
//! were sent, in order; an orderly end comes only after all of them.
//!
//! The first byte picks the version and whether there are tickets; then one order for each record that passes.
#![no_main]

use std::cell::Cell;
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringway::net::driver::{Executor, IoMode, yield_now};
use ringway::net::stream::{Socket, Transport};
use ringway::net::tls::certificate::Certificate;
use ringway::net::tls::client::{self, ClientSettings, TlsClient, Trust};
use ringway::net::tls::server::{self, ClientPolicy, ServerSettings, TlsServer};
use ringway::net::tls::tickets::TicketKeys;
use ringway::net::tls::{Protocol, TlsStream, Version, Versions};

/// More than one record each way.
const CLIENT_BYTES: usize = 40_000;
const SERVER_BYTES: usize = 21_000;

/// Turns without a byte after which whoever stands between closes.
const QUIET_TURNS_MAX: u32 = 24;

/// For each version, with tickets and without.
static ENDS: OnceLock<[(Arc<TlsServer>, Arc<TlsClient>); 4]> = OnceLock::new();

fn ends() -> [(Arc<TlsServer>, Arc<TlsClient>); 4] {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let certificate =
        Certificate::parse(pem.as_bytes(), key.serialize_pem().as_bytes(), None).expect("a pair");
    [(Version::Tls12, true), (Version::Tls12, false), (Version::Tls13, true), (Version::Tls13, false)].map(
        |(version, tickets)| {
            let versions = Versions { min: version, max: version };
            let server = TlsServer::new(&ServerSettings {
                certificates: vec![certificate.clone()],
                versions,
                suites: Vec::new(),
                protocols: vec![Protocol::Http11],
                clients: ClientPolicy::Off,
                tickets: tickets.then(|| (TicketKeys::random().expect("keys"), Duration::from_secs(600))),
            });
            let client = TlsClient::new(&ClientSettings {
                trust: Trust::Anybody,
                certificate: None,
                versions,
                protocols: vec![Protocol::Http11],
            });
            (server.expect("a server"), client.expect("a client"))
        },
    )
}

/// What one side sends.
fn sent(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ seed).collect()
}

fn pair() -> (Socket, Socket) {
    let (a, b) = UnixStream::pair().expect("a socket pair");
    let ready = |stream: UnixStream| {
        stream.set_nonblocking(true).expect("a mode");
        Socket::new(stream.into()).expect("a runtime")
    };
    (ready(a), ready(b))
}

/// Sends everything and reads everything, by turns, until the other side ends or breaks. Whoever has both said and heard
/// all closes and reads no more: rustls asserts, in builds with debug assertions, that no bad record comes after that.
async fn talk(stream: TlsStream, ours: &[u8], theirs: &[u8]) {
    let (mut out, mut got) = (ours, 0);
    let mut buffer = [0; 3_001];
    loop {
        if !out.is_empty() {
            match stream.try_write(&out[..out.len().min(9_000)]) {
                Ok(n) => out = &out[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => out = &[],
            }
        } else if got == theirs.len() && !stream.has_unsent() {
            stream.shutdown_write();
            return;
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => {
                assert_eq!(got, theirs.len(), "an orderly end in the midst of it");
                return;
            }
            Ok(n) => {
                assert!(got + n <= theirs.len(), "more than was sent");
                assert!(buffer[..n] == theirs[got..got + n], "other bytes than were sent, at {got}");
                got += n;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => yield_now().await,
            Err(_) => return,
        }
    }
}

/// One direction between the two.
#[derive(Default)]
struct Way {
    /// Received, not yet a whole record.
    partial: Vec<u8>,
    /// To be sent.
    out: Vec<u8>,
    /// A record that waits for the next one to overtake it.
    held: Vec<u8>,
}

impl Way {
    fn pass(&mut self, from: &Socket, to: &Socket, orders: &mut std::slice::Iter<'_, u8>) -> bool {
        let mut moved = false;
        let mut buffer = [0; 8_192];
        while let Ok(n) = from.try_read(&mut buffer) {
            if n == 0 {
                break;
            }
            moved = true;
            self.partial.extend_from_slice(&buffer[..n]);
        }
        while let [_, _, _, high, low, ..] = self.partial[..] {
            let record_bytes = 5 + usize::from(u16::from_be_bytes([high, low]));
            if self.partial.len() < record_bytes {
                break;
            }
            let record: Vec<u8> = self.partial.drain(..record_bytes).collect();
            self.order(record, orders);
        }
        let whole = self.out.len();
        // Cut where the orders say, so that the far side sees parts of records.
        let cut = if whole > 0 {
            orders.next().map_or(whole, |cut| whole.min(usize::from(*cut) * 7 + 1))
        } else {
            0
        };
        if let Ok(n) = to.try_write(&self.out[..cut]) {
            moved |= n > 0;
            self.out.drain(..n);
        }
        moved
    }

    fn order(&mut self, mut record: Vec<u8>, orders: &mut std::slice::Iter<'_, u8>) {
        match orders.next().map_or(0, |order| order % 16) {
            10 => {
                let (at, flip) = (orders.next().copied().unwrap_or(9), orders.next().copied().unwrap_or(1));
                let at = usize::from(at) * 13 % record.len();
                record[at] ^= flip;
            }
            11 => {
                self.out.extend_from_slice(&record);
            }
            12 => {
                let held = std::mem::replace(&mut self.held, record);
                self.out.extend_from_slice(&held);
                return;
            }
            13 => return,
            14 => {
                let at = usize::from(orders.next().copied().unwrap_or(3)).min(record.len());
                record.truncate(at);
            }
            15 => {
                let extra = orders.next().copied().unwrap_or(0);
                record.extend((0..extra % 32).map(|index| index ^ extra));
            }
            _ => {}
        }
        self.out.extend_from_slice(&record);
        self.out.append(&mut self.held);
    }
}

/// Stands between until nothing moves any more, then closes both.
async fn between(a: Socket, b: Socket, orders: &[u8]) {
    let mut orders = orders.iter();
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut quiet = 0;
    while quiet < QUIET_TURNS_MAX {
        let moved = up.pass(&a, &b, &mut orders) | down.pass(&b, &a, &mut orders);
        quiet = if moved { 0 } else { quiet + 1 };
        yield_now().await;
    }
}

/// All three to their end.
async fn all(a: impl Future<Output = ()>, b: impl Future<Output = ()>, c: impl Future<Output = ()>) {
    let (mut a, mut b, mut c) = (pin!(a), pin!(b), pin!(c));
    let mut done = [false; 3];
    std::future::poll_fn(|cx| {
        done[0] = done[0] || a.as_mut().poll(cx).is_ready();
        done[1] = done[1] || b.as_mut().poll(cx).is_ready();
        done[2] = done[2] || c.as_mut().poll(cx).is_ready();
        if done == [true; 3] { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fuzz_target!(|data: &[u8]| {
    let [kind, orders @ ..] = data else { return };
    let (server, client) = &ENDS.get_or_init(ends)[usize::from(*kind % 4)];
    let (from_client, from_server) = (sent(1, CLIENT_BYTES), sent(2, SERVER_BYTES));
    let mut executor = Executor::new(IoMode::Epoll).expect("a runtime");
    let finished = Cell::new(0);
    let run = executor.run(async {
        let ((near, a), (b, far)) = (pair(), pair());
        let connector = client.connector();
        let name = "localhost".try_into().expect("a name");
        let asking = async {
            if let Ok(stream) = client::connect(near, &connector, &name).await {
                talk(stream, &from_client, &from_server).await;
            }
            finished.set(finished.get() + 1);
        };
        let answering = async {
            if let Ok(stream) = server::accept(far, server).await {
                talk(stream, &from_server, &from_client).await;
            }
            finished.set(finished.get() + 1);
        };
        all(asking, answering, between(a, b, orders)).await;
    });
    run.expect("no panic");
    assert_eq!(finished.get(), 2);
});
