//! Peers that finish the handshake and then send records that no sound peer sends. Whatever comes, the stream ends by
//! itself: nothing panics, and nobody else notices.

use std::cell::Cell;
use std::io::{ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, ContentType, RootCertStore, ServerConfig, ServerConnection,
};

use super::certificate::{Certificate, chain_of};
use super::client::{self, Authorities, ClientSettings, TlsClient, Trust};
use super::forge::Forger;
use super::server::{self, ClientPolicy, ServerSettings, TlsServer};
use super::{Protocol, TlsStream, Version, Versions};
use crate::base::backlog::BacklogAccount;
use crate::base::limits::TURN_RECEIVES;
use crate::net::driver::{Executor, IoMode, spawn, yield_now};
use crate::net::stream::{Socket, Transport as _};

/// The end that is ours.
#[derive(Debug, Clone, Copy)]
enum Ours {
    Server,
    Client,
}

/// What the owner of the stream does when reading has come to nothing.
#[derive(Debug, Clone, Copy)]
enum After {
    Write,
    Close,
    Peek,
    Drop,
}

/// Ends of both kinds for one version.
struct World {
    our_server: Arc<TlsServer>,
    our_client: Arc<TlsClient>,
    their_server: Arc<ServerConfig>,
    their_client: Arc<ClientConfig>,
}

impl World {
    fn new(version: Version) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let (pem, key) = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let chain = chain_of(pem.as_bytes()).unwrap();
        let versions = Versions { min: version, max: version };
        let our_server = TlsServer::new(&ServerSettings {
            certificates: vec![Certificate::parse(pem.as_bytes(), key.as_bytes(), None).unwrap()],
            versions,
            suites: Vec::new(),
            protocols: vec![Protocol::Http11],
            clients: ClientPolicy::Off,
            tickets: None,
        });
        let our_client = TlsClient::new(&ClientSettings {
            trust: Trust::Authorities(Authorities::of(&chain)),
            certificate: None,
            versions,
            protocols: vec![Protocol::Http11],
        });
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut their_client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions.supported())
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        their_client.enable_secret_extraction = true;
        let mut their_server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions.supported())
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        their_server.enable_secret_extraction = true;
        Self {
            our_server: our_server.unwrap(),
            our_client: our_client.unwrap(),
            their_server: Arc::new(their_server),
            their_client: Arc::new(their_client),
        }
    }

    /// A stream of ours after its handshake, and the peer's socket and keys.
    async fn shaken(&self, ours: Ours) -> (TlsStream, UnixStream, Forger) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let near = Socket::new(near.into()).unwrap();
        let name: ServerName<'static> = "localhost".try_into().unwrap();
        let peer: Connection = match ours {
            Ours::Server => {
                ClientConnection::new(Arc::clone(&self.their_client), name.clone()).unwrap().into()
            }
            Ours::Client => ServerConnection::new(Arc::clone(&self.their_server)).unwrap().into(),
        };
        let peer = std::thread::spawn(|| shake(peer, far));
        let account = BacklogAccount::new(u64::MAX);
        let stream = match ours {
            Ours::Server => server::accept(near, &self.our_server, &account).await,
            Ours::Client => client::connect(near, &self.our_client.connector(), &name, &account).await,
        };
        let (far, forger) = peer.join().unwrap();
        (stream.unwrap(), far, forger)
    }
}

/// Leads a peer of rustls' own through its handshake, and takes its keys away.
fn shake(mut peer: Connection, mut socket: UnixStream) -> (UnixStream, Forger) {
    peer.complete_io(&mut socket).unwrap();
    assert!(!peer.is_handshaking() && !peer.wants_write());
    let suite = peer.negotiated_cipher_suite().unwrap();
    let secrets = match peer {
        Connection::Client(peer) => peer.dangerous_extract_secrets(),
        Connection::Server(peer) => peer.dangerous_extract_secrets(),
    };
    (socket, Forger::new(suite, secrets.unwrap().tx))
}

/// Reads until there is no more.
fn read_all(stream: &TlsStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let (mut got, mut buffer) = (Vec::new(), [0; 100]);
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return (got, Ok(())),
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) => return (got, Err(error.kind())),
        }
    }
}

/// A record as bytes on the wire, without encryption.
fn raw(content_type: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![content_type, 3, 3, (content.len() >> 8) as u8, content.len() as u8];
    record.extend_from_slice(content);
    record
}

type Made = fn(&mut Forger) -> Vec<u8>;

const FRAGMENTS: [(&str, Made); 7] = [
    ("one byte", |forger| forger.record(ContentType::Handshake, &[24])),
    ("a header cut", |forger| forger.record(ContentType::Handshake, &[4, 0, 1])),
    ("a header", |forger| forger.record(ContentType::Handshake, &[24, 0, 0, 1])),
    ("part of a ticket", |forger| forger.record(ContentType::Handshake, &[4, 0, 0, 100, 1, 2, 3])),
    ("two parts", |forger| {
        let mut records = forger.record(ContentType::Handshake, &[4, 0, 0]);
        records.extend(forger.record(ContentType::Handshake, &[100, 1]));
        records
    }),
    ("a whole bad message and a part", |forger| {
        forger.record(ContentType::Handshake, &[20, 0, 0, 1, 0, 24, 0, 0, 1, 0, 24])
    }),
    ("nothing", |forger| forger.record(ContentType::Handshake, &[])),
];

const SEQUELS: [(&str, Made); 9] = [
    ("a warning", |forger| forger.record(ContentType::Alert, &[1, 90])),
    ("a fatal alert", |forger| forger.record(ContentType::Alert, &[2, 40])),
    ("close_notify", |forger| forger.record(ContentType::Alert, &[1, 0])),
    ("application data", |forger| forger.record(ContentType::ApplicationData, b"GET / HTTP/1.1\r\n\r\n")),
    ("garbage", |_| raw(23, &[7; 40])),
    ("no record", |_| b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ("more of a message", |forger| forger.record(ContentType::Handshake, &[24, 255, 255, 255, 255, 255])),
    ("change_cipher_spec", |_| raw(20, &[1])),
    ("nothing and data and the end", |forger| {
        let mut records = forger.record(ContentType::Handshake, &[]);
        records.extend(forger.record(ContentType::ApplicationData, b"data"));
        records.extend(forger.record(ContentType::Alert, &[1, 0]));
        records
    }),
];

#[test]
fn a_fragment_of_a_handshake_message_ends_its_own_connection_only() {
    for version in [Version::Tls12, Version::Tls13] {
        let world = World::new(version);
        Executor::new(IoMode::Epoll)
            .unwrap()
            .run(async {
                for ours in [Ours::Server, Ours::Client] {
                    for (fragment, first) in FRAGMENTS {
                        for (sequel, second) in SEQUELS {
                            for (apart, after) in [
                                (true, After::Drop),
                                (true, After::Write),
                                (true, After::Close),
                                (true, After::Peek),
                                (false, After::Drop),
                                (false, After::Write),
                            ] {
                                let case =
                                    format!("{version:?} {ours:?} {fragment}, {sequel}, {apart}, {after:?}");
                                let (stream, mut peer, mut forger) = world.shaken(ours).await;
                                peer.write_all(&first(&mut forger)).unwrap();
                                let (mut got, mut end) = (Vec::new(), Err(ErrorKind::WouldBlock));
                                if apart {
                                    (got, end) = read_all(&stream);
                                    assert!(got.is_empty(), "{case}");
                                }
                                if end == Err(ErrorKind::WouldBlock) {
                                    peer.write_all(&second(&mut forger)).unwrap();
                                    (got, end) = read_all(&stream);
                                }
                                // Whoever sent no fragment at all may say what a sound peer may, and what goes on with a
                                // message may be part of one that is not too large.
                                let goes_on =
                                    sequel == "more of a message" && end == Err(ErrorKind::WouldBlock);
                                if fragment != "nothing" && !goes_on {
                                    assert_eq!(
                                        (&got[..], end),
                                        (&b""[..], Err(ErrorKind::InvalidData)),
                                        "{case}"
                                    );
                                }
                                let broken = end == Err(ErrorKind::InvalidData);
                                match after {
                                    After::Drop => {}
                                    After::Write => {
                                        let wrote = stream.try_write(b"an answer");
                                        assert_eq!(wrote.is_err(), broken, "{case}: {wrote:?}");
                                    }
                                    After::Close => stream.shutdown_write(),
                                    After::Peek => drop(stream.peek()),
                                }
                                assert_eq!(read_all(&stream).1, end, "{case}: said again");
                                drop(stream);
                            }
                        }
                    }
                }
            })
            .unwrap();
    }
}

#[test]
fn what_no_handshake_message_is_that_long_ends_the_connection() {
    for version in [Version::Tls12, Version::Tls13] {
        let world = World::new(version);
        Executor::new(IoMode::Epoll)
            .unwrap()
            .run(async {
                for ours in [Ours::Server, Ours::Client] {
                    // More than may be held, in records that are each a part of one message; and the same between empty ones.
                    for empty in [false, true] {
                        let (stream, mut peer, mut forger) = world.shaken(ours).await;
                        let mut records = 0;
                        let mut end = Err(ErrorKind::WouldBlock);
                        peer.write_all(&forger.record(ContentType::Handshake, &[24, 0, 255, 254])).unwrap();
                        while end == Err(ErrorKind::WouldBlock) {
                            if empty {
                                peer.write_all(&forger.record(ContentType::Handshake, &[])).unwrap();
                            }
                            peer.write_all(&forger.record(ContentType::Handshake, &[0; 30])).unwrap();
                            end = read_all(&stream).1;
                            records += 1;
                            assert!(records < 4_000, "{version:?} {ours:?}");
                        }
                        assert_eq!(end, Err(ErrorKind::InvalidData), "{version:?} {ours:?}");
                        assert!(stream.try_write(b"more").is_err());
                    }
                }
            })
            .unwrap();
    }
}

#[test]
fn the_forger_forges_what_is_understood() {
    for version in [Version::Tls12, Version::Tls13] {
        let world = World::new(version);
        Executor::new(IoMode::Epoll)
            .unwrap()
            .run(async {
                for ours in [Ours::Server, Ours::Client] {
                    let (stream, mut peer, mut forger) = world.shaken(ours).await;
                    peer.write_all(&forger.record(ContentType::ApplicationData, b"hello")).unwrap();
                    assert_eq!(read_all(&stream), (b"hello".to_vec(), Err(ErrorKind::WouldBlock)));
                    peer.write_all(&forger.record(ContentType::Alert, &[1, 0])).unwrap();
                    assert_eq!(read_all(&stream), (Vec::new(), Ok(())));
                }
            })
            .unwrap();
    }
}

/// An origin may send as many tickets as it likes. None of them is plaintext, and a read ends with each whole record, so
/// there is always more to receive and never anything to wait for.
#[test]
fn records_without_plaintext_are_received_in_turns() {
    /// What one receive takes at least after a handshake: eight of the records below.
    const RECEIVE_BYTES: usize = 512;
    const RECORDS: usize = 2_048;
    let world = World::new(Version::Tls13);
    let turns = Rc::new(Cell::new(0));
    let of_others = Rc::clone(&turns);
    Executor::new(IoMode::Epoll)
        .unwrap()
        .run(async {
            let (stream, mut peer, mut forger) = world.shaken(Ours::Client).await;
            assert_eq!(read_all(&stream), (Vec::new(), Err(ErrorKind::WouldBlock)));
            // RFC 8446 section 4.6.1: lifetime, age_add, nonce, ticket, extensions.
            let mut ticket = vec![4, 0, 0, 38, 0, 0, 9, 9, 0, 0, 0, 0, 1, 7, 0, 24];
            ticket.resize(ticket.len() + 24 + 2, 0);
            let mut records = Vec::new();
            for _ in 0..RECORDS {
                records.extend(forger.record(ContentType::Handshake, &ticket));
            }
            assert_eq!(records.len(), RECORDS * RECEIVE_BYTES / 8);
            records.extend(forger.record(ContentType::ApplicationData, b"at last"));
            peer.set_nonblocking(true).unwrap();
            peer.write_all(&records).unwrap();
            spawn(async move {
                loop {
                    of_others.set(of_others.get() + 1);
                    yield_now().await;
                }
            });
            let mut buffer = [0; 64];
            loop {
                match stream.try_read(&mut buffer) {
                    Ok(n) => break assert_eq!(&buffer[..n], b"at last"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                stream.readable().await.unwrap();
            }
        })
        .unwrap();
    let least = RECORDS / 8 / TURN_RECEIVES - 1;
    assert!(turns.get() >= least, "{} turns of others, {least} wanted", turns.get());
}
