//! Two sessions talk to each other in memory, with their bytes cut anywhere.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rustls::pki_types::ServerName;

use super::certificate::{Certificate, KeyKind, Part, Problem, chain_of};
use super::client::{Authorities, ClientSettings, TlsClient, Trust};
use super::scratch::{self, Outgoing};
use super::server::{ClientPolicy, ServerSettings, TlsServer};
use super::session::{Plaintext, Session};
use super::tickets::TicketKeys;
use super::{Protocol, Version, Versions, suite_name};

const NAME: &str = "localhost";

fn issued(key: &rcgen::KeyPair, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn pair(versions: Versions, tickets: bool) -> (Arc<TlsServer>, Arc<TlsClient>) {
    let (pem, key) = issued(&rcgen::KeyPair::generate().unwrap(), &[NAME]);
    let server = TlsServer::new(&ServerSettings {
        certificates: vec![Certificate::parse(pem.as_bytes(), key.as_bytes(), None).unwrap()],
        versions,
        suites: Vec::new(),
        protocols: vec![Protocol::Http11],
        clients: ClientPolicy::Off,
        tickets: tickets.then(|| (TicketKeys::random().unwrap(), Duration::from_secs(600))),
    });
    let client = TlsClient::new(&ClientSettings {
        trust: Trust::Authorities(Authorities::of(&chain_of(pem.as_bytes()).unwrap())),
        certificate: None,
        versions: Versions::default(),
        protocols: vec![Protocol::Http11],
    });
    (server.unwrap(), client.unwrap())
}

/// One end, as a stream would hold it.
struct End {
    session: Session,
    /// Sent, not yet received by the other.
    wire: Vec<u8>,
    got: Vec<u8>,
}

impl End {
    fn new(session: Session) -> Self {
        Self { session, wire: Vec::new(), got: Vec::new() }
    }

    fn act(&mut self, act: impl FnOnce(&mut Session, &mut Outgoing) -> Result<(), rustls::Error>) {
        scratch::with(|scratch| {
            act(&mut self.session, &mut scratch.outbound).unwrap();
            self.wire.extend_from_slice(scratch.outbound.filled());
        });
    }

    /// Receives some bytes for a caller with so much room.
    fn receive(&mut self, bytes: &[u8], room: usize) -> Result<(), rustls::Error> {
        let mut received = self.session.held().to_vec();
        received.extend_from_slice(bytes);
        let (mut into, mut rest) = (vec![0; room], Vec::new());
        scratch::with(|scratch| {
            let mut plaintext = Plaintext::new(&mut into, &mut rest);
            let outcome = self.session.receive(&mut received, &mut plaintext, &mut scratch.outbound);
            let filled = plaintext.filled();
            self.got.extend_from_slice(&into[..filled]);
            self.got.extend_from_slice(&rest);
            self.wire.extend_from_slice(scratch.outbound.filled());
            outcome
        })
    }
}

/// Moves bytes until neither end has any, in pieces of the sizes given, in turn.
fn settle(a: &mut End, b: &mut End, cuts: &[usize], room: usize) -> Result<(), rustls::Error> {
    let mut sizes = cuts.iter().copied().cycle();
    while !a.wire.is_empty() || !b.wire.is_empty() {
        for up in [true, false] {
            let (from, to) = if up { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
            let bytes = std::mem::take(&mut from.wire);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(rest.len().min(sizes.next().unwrap().max(1)));
                to.receive(piece, room)?;
                rest = more;
            }
        }
    }
    Ok(())
}

fn connected(server: &TlsServer, client: &TlsClient, cuts: &[usize]) -> (End, End) {
    connected_by(server, &client.connector(), cuts)
}

fn connected_by(server: &TlsServer, connector: &super::client::Connector, cuts: &[usize]) -> (End, End) {
    let mut server = End::new(server.session().unwrap());
    let mut client = End::new(connector.session(ServerName::try_from(NAME).unwrap()).unwrap());
    client.act(Session::start);
    settle(&mut server, &mut client, cuts, 0).unwrap();
    assert!(!server.session.is_handshaking() && !client.session.is_handshaking());
    assert_eq!(client.session.common().unwrap().alpn_protocol(), Some(&b"http/1.1"[..]));
    (server, client)
}

const TLS12: Versions = Versions { min: Version::Tls12, max: Version::Tls12 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the pieces, the same bytes arrive, and nothing is kept afterwards.
    #[test]
    fn bytes_survive_any_cuts(
        cuts in prop::collection::vec(prop_oneof![1_usize..8, 1_usize..600, 1_usize..40_000], 1..12),
        room in prop_oneof![Just(0_usize), 1_usize..100, Just(16 * 1024)],
        messages in prop::collection::vec((any::<bool>(), 1_usize..70_000), 1..6),
        old in any::<bool>(),
    ) {
        let (server, client) = pair(if old { TLS12 } else { Versions::default() }, true);
        let (mut server, mut client) = connected(&server, &client, &cuts);
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        for (index, (up, bytes)) in messages.into_iter().enumerate() {
            let message: Vec<u8> = (0..bytes).map(|at| (at * 31 + index) as u8).collect();
            let (from, sent) = if up { (&mut client, &mut to_server) } else { (&mut server, &mut to_client) };
            from.act(|session, out| session.encrypt(&message, out));
            sent.extend_from_slice(&message);
            if index % 2 == 0 {
                settle(&mut server, &mut client, &cuts, room).unwrap();
            }
        }
        settle(&mut server, &mut client, &cuts, room).unwrap();
        prop_assert!(server.got == to_server && client.got == to_client);
        for end in [&server, &client] {
            prop_assert!(end.session.held().is_empty());
        }
        server.act(Session::close_notify);
        settle(&mut server, &mut client, &cuts, room).unwrap();
        prop_assert!(client.session.peer_closed() && !server.session.peer_closed());
        // The other half lives on (RFC 8446 section 6.1).
        client.act(|session, out| session.encrypt(b"last words", out));
        settle(&mut server, &mut client, &cuts, room).unwrap();
        prop_assert!(server.got.ends_with(b"last words"));
        client.act(Session::close_notify);
        settle(&mut server, &mut client, &cuts, room).unwrap();
        prop_assert!(server.session.peer_closed());
    }

    /// One flipped bit anywhere in what is received is an error or a wait for more, never other bytes.
    #[test]
    fn forged_records_are_refused(at in 0_usize..3_000, bit in 0_u32..8) {
        let (server, client) = pair(Versions::default(), false);
        let (mut server, mut client) = connected(&server, &client, &[usize::MAX]);
        let message = vec![7; 2_900];
        client.act(|session, out| session.encrypt(&message, out));
        let mut bytes = std::mem::take(&mut client.wire);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let outcome = server.receive(&bytes, 16 * 1024);
        if at < 3 {
            // Type and version outside the encryption say nothing in TLS 1.3 (RFC 8446 section 5.1).
            prop_assert!(server.got.is_empty() || server.got == message);
            return Ok(());
        }
        prop_assert!(server.got.is_empty());
        // A longer length, or the rest of a shorter one, may leave it waiting.
        prop_assert!(outcome.is_err() || !server.session.held().is_empty());
        prop_assert!(outcome.is_ok() || !server.wire.is_empty(), "an alert is sent");
    }
}

#[test]
fn a_session_is_resumed_on_both_versions() {
    for versions in [Versions::default(), TLS12] {
        let (server, client) = pair(versions, true);
        let connector = client.connector();
        for (attempt, kind) in
            [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed].into_iter().enumerate()
        {
            let (server, client) = connected_by(&server, &connector, &[usize::MAX]);
            assert_eq!(
                server.session.common().unwrap().handshake_kind(),
                Some(kind),
                "{versions:?} {attempt}"
            );
            assert_eq!(
                client.session.common().unwrap().handshake_kind(),
                Some(kind),
                "{versions:?} {attempt}"
            );
        }
    }
}

#[test]
fn no_tickets_no_resumption() {
    let (server, client) = pair(Versions::default(), false);
    let connector = client.connector();
    for _ in 0..2 {
        let (server, _) = connected_by(&server, &connector, &[usize::MAX]);
        assert_eq!(server.session.common().unwrap().handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn certificates_and_keys_are_checked_together() {
    let (key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let (pem, key_pem) = issued(&key, &["A.example.org", "*.b.example.org"]);
    let ed25519 = issued(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), &["c"]);
    let parsed = Certificate::parse(pem.as_bytes(), key_pem.as_bytes(), None).unwrap();
    assert_eq!(parsed.names, ["a.example.org", "*.b.example.org"]);
    assert_eq!(parsed.kind, KeyKind::Ecdsa);
    let other_kind = Certificate::parse(ed25519.0.as_bytes(), ed25519.1.as_bytes(), None).unwrap();
    assert_eq!(other_kind.kind, KeyKind::Ed25519);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (chain, key, part, expected) in [
        ("", key_pem.as_str(), Part::Chain, "no certificate"),
        (&key_pem, &key_pem, Part::Chain, "no certificate"),
        (not_der, &key_pem, Part::Chain, "it is no certificate"),
        (&pem, "", Part::Key, "no private key"),
        (&pem, &pem, Part::Key, "no private key"),
        (&pem, encrypted, Part::Key, "encrypted"),
        (&pem, &other.serialize_pem(), Part::Key, "does not belong"),
        (
            &pem,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            Part::Key,
            "no supported kind",
        ),
    ] {
        let (found, problem) = Certificate::parse(chain.as_bytes(), key.as_bytes(), None).unwrap_err();
        assert_eq!(found, part, "{problem}");
        assert!(problem.to_string().contains(expected), "{problem}");
    }
    assert!(matches!(chain_of(b"-----BEGIN CERTIFICATE-----\n").unwrap_err(), Problem::BadPem(_)));
}

#[test]
fn suites_go_by_the_names_that_a_configuration_may_use() {
    let ours: Vec<String> = rustls::crypto::ring::default_provider()
        .cipher_suites
        .iter()
        .map(|suite| suite_name(*suite))
        .collect();
    assert_eq!(ours, crate::config::CIPHERS);
}
