//! A TLS connection of ours with itself, over socket pairs, and somebody between who cuts, corrupts, doubles, swaps and
//! drops records as the fuzz bytes say, in the handshake too. Nothing may panic, and no byte is delivered but those that
//! were sent, in order; an orderly end comes only after all of them.
//!
//! Or one of our ends with a peer that finishes the handshake and then sends records of any type and content, fragments
//! of handshake messages above all, under the connection's own keys. Nothing may panic.
//!
//! The first byte picks the version, whether there are tickets, and which of the two it is; then come the orders: one for
//! each record that passes, or each record of the peer's.
#![no_main]

#[path = "../../core/src/net/tls/forge.rs"]
mod forge;

use std::cell::Cell;
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringway::base::backlog::BacklogAccount;
use ringway::net::driver::{Executor, IoMode, yield_now};
use ringway::net::stream::{Socket, Transport};
use ringway::net::tls::certificate::Certificate;
use ringway::net::tls::client::{self, ClientSettings, TlsClient, Trust};
use ringway::net::tls::server::{self, ClientPolicy, ServerSettings, TlsServer};
use ringway::net::tls::tickets::TicketKeys;
use ringway::net::tls::{Protocol, TlsStream, Version, Versions};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, Connection, ContentType, RootCertStore, ServerConfig, ServerConnection,
};

use forge::Forger;

/// More than one record each way.
const CLIENT_BYTES: usize = 40_000;
const SERVER_BYTES: usize = 21_000;

/// Turns without a byte after which whoever stands between closes.
const QUIET_TURNS_MAX: u32 = 24;

/// Ends of one version.
struct Ends {
    server: Arc<TlsServer>,
    client: Arc<TlsClient>,
    their_server: Arc<ServerConfig>,
    their_client: Arc<ClientConfig>,
}

/// For each version, with tickets and without.
static ENDS: OnceLock<[Ends; 4]> = OnceLock::new();

fn ends() -> [Ends; 4] {
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
            let spoken = match version {
                Version::Tls12 => &rustls::version::TLS12,
                Version::Tls13 => &rustls::version::TLS13,
            };
            let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("PEM");
            let mut roots = RootCertStore::empty();
            roots.add(chain[0].clone()).expect("an authority");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut their_client = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[spoken])
                .expect("a version")
                .with_root_certificates(roots)
                .with_no_client_auth();
            their_client.enable_secret_extraction = true;
            let mut their_server = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[spoken])
                .expect("a version")
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .expect("a certificate");
            their_server.enable_secret_extraction = true;
            Ends {
                server: server.expect("a server"),
                client: client.expect("a client"),
                their_server: Arc::new(their_server),
                their_client: Arc::new(their_client),
            }
        },
    )
}

/// What one side sends.
fn sent(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ seed).collect()
}

/// An account that never runs short.
fn unbounded() -> Rc<BacklogAccount> {
    BacklogAccount::new(u64::MAX)
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

/// A peer's handshake, to its end. None: it has failed.
async fn shake(mut peer: Connection, socket: &Socket) -> Option<Forger> {
    let mut buffer = [0; 8_192];
    let mut turns = 0;
    while peer.is_handshaking() || peer.wants_write() {
        let mut out = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut out).ok()?;
        }
        // A socket pair takes a flight at once.
        socket.try_write(&out).ok().filter(|n| *n == out.len())?;
        match socket.try_read(&mut buffer) {
            Ok(0) => return None,
            Ok(n) => {
                let mut rest = &buffer[..n];
                while !rest.is_empty() {
                    peer.read_tls(&mut rest).ok()?;
                    peer.process_new_packets().ok()?;
                }
            }
            Err(_) => yield_now().await,
        }
        turns += 1;
        assert!(turns < 10_000, "a handshake without an end");
    }
    let suite = peer.negotiated_cipher_suite()?;
    let secrets = match peer {
        Connection::Client(peer) => peer.dangerous_extract_secrets(),
        Connection::Server(peer) => peer.dangerous_extract_secrets(),
    };
    Some(Forger::new(suite, secrets.ok()?.tx))
}

/// What a peer sends next.
fn forged(forger: &mut Forger, orders: &mut std::slice::Iter<'_, u8>) -> Option<Vec<u8>> {
    let kind = *orders.next()?;
    let bytes = orders.next().map_or(0, |n| usize::from(n % 24));
    let content: Vec<u8> = orders.by_ref().take(bytes).copied().collect();
    Some(match kind % 8 {
        0..3 => forger.record(ContentType::Handshake, &content),
        3 => forger.record(ContentType::Alert, &content),
        4 => forger.record(ContentType::ApplicationData, &content),
        5 => forger.record(ContentType::ChangeCipherSpec, &content),
        // In the clear, with its length right and wrong.
        6 => [&[kind / 8 + 16, 3, 3, 0, content.len() as u8][..], &content].concat(),
        _ => content,
    })
}

/// What the stream's owner does between two records. Nothing is read after an end of ours, for rustls asserts, in builds
/// with debug assertions, that no bad record comes after that.
fn act(stream: &TlsStream, order: u8) {
    match order % 8 {
        0 => drop(stream.try_write(b"something")),
        1 => drop(stream.peek()),
        2 => {}
        _ => while matches!(stream.try_read(&mut [0; 64]), Ok(n) if n > 0) {},
    }
}

/// One of our ends and a peer that forges.
async fn hostile(ends: &Ends, ours_serves: bool, closes: bool, mut orders: std::slice::Iter<'_, u8>) {
    let (near, far) = pair();
    let name = "localhost".try_into().expect("a name");
    let peer: Connection = if ours_serves {
        ClientConnection::new(Arc::clone(&ends.their_client), "localhost".try_into().expect("a name"))
            .expect("a client")
            .into()
    } else {
        ServerConnection::new(Arc::clone(&ends.their_server)).expect("a server").into()
    };
    let connector = ends.client.connector();
    let (stream, forger) = (Cell::new(None), Cell::new(None));
    let ours = async {
        stream.set(if ours_serves {
            server::accept(near, &ends.server, &unbounded()).await.ok()
        } else {
            client::connect(near, &connector, &name, &unbounded()).await.ok()
        });
    };
    let theirs = async { forger.set(shake(peer, &far).await) };
    all(ours, theirs, std::future::ready(())).await;
    let stream = stream.take().expect("a handshake that nobody has disturbed");
    let mut forger = forger.take().expect("keys");
    while let Some(record) = forged(&mut forger, &mut orders) {
        if far.try_write(&record).is_err() {
            break;
        }
        act(&stream, orders.next().copied().unwrap_or(7));
    }
    if closes {
        stream.shutdown_write();
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, orders @ ..] = data else { return };
    let ends = &ENDS.get_or_init(ends)[usize::from(*kind % 4)];
    if kind / 4 % 2 == 1 {
        let mut executor = Executor::new(IoMode::Epoll).expect("a runtime");
        return executor
            .run(hostile(ends, kind / 8 % 2 == 1, kind / 16 % 2 == 1, orders.iter()))
            .expect("nothing panics");
    }
    let Ends { server, client, .. } = ends;
    let (from_client, from_server) = (sent(1, CLIENT_BYTES), sent(2, SERVER_BYTES));
    let mut executor = Executor::new(IoMode::Epoll).expect("a runtime");
    let finished = Cell::new(0);
    let run = executor.run(async {
        let ((near, a), (b, far)) = (pair(), pair());
        let connector = client.connector();
        let name = "localhost".try_into().expect("a name");
        let asking = async {
            if let Ok(stream) = client::connect(near, &connector, &name, &unbounded()).await {
                talk(stream, &from_client, &from_server).await;
            }
            finished.set(finished.get() + 1);
        };
        let answering = async {
            if let Ok(stream) = server::accept(far, server, &unbounded()).await {
                talk(stream, &from_server, &from_client).await;
            }
            finished.set(finished.get() + 1);
        };
        all(asking, answering, between(a, b, orders)).await;
    });
    run.expect("no panic");
    assert_eq!(finished.get(), 2);
});
