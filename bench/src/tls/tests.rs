//! Two sessions that talk over memory, in pieces of any size.

use std::{path::PathBuf, sync::Arc};

use proptest::prelude::*;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};

use super::{
    Handshake, Outgoing, Session,
    authority::Authority,
    settings::{BadSettings, ClientSettings, Identity, ServerSettings, Trust, Version},
};

struct Files {
    authority: Authority,
    directory: PathBuf,
    identity: Identity,
}

impl Files {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("ringway-bench-tls-{test}-{}", std::process::id()));
        let authority = Authority::create(&directory, "root").expect("a directory");
        let identity = authority.issue("server", &["bench.test"]).expect("a certificate");
        Self { authority, directory, identity }
    }

    fn settings(&self) -> (ClientSettings, ServerSettings) {
        let trust = Trust::File(self.authority.root().to_owned());
        let server = ServerSettings { identity: self.identity.clone(), client_roots: None };
        (ClientSettings { trust, ..ClientSettings::default() }, server)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn build(client: &ClientSettings, server: &ServerSettings) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let client = client.build(&["http/1.1"]).unwrap_or_else(|e| panic!("{e}"));
    (Arc::new(client), Arc::new(server.build(&["http/1.1"]).unwrap_or_else(|e| panic!("{e}"))))
}

/// One end with what it has received and what it has to say.
struct End {
    session: Session,
    out: Outgoing,
    plain: Vec<u8>,
}

impl End {
    fn new(session: Session) -> Self {
        Self { session, out: Outgoing::default(), plain: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), rustls::Error> {
        let mut buffer = vec![0; 128 * 1024];
        let lead = self.session.lead_in(&mut buffer)?;
        buffer[lead..lead + bytes.len()].copy_from_slice(bytes);
        let plain = &mut self.plain;
        self.session.receive(&mut buffer[..lead + bytes.len()], &mut self.out, |piece| {
            plain.extend_from_slice(piece);
        })
    }

    fn flush(&mut self) -> Vec<u8> {
        let bytes = self.out.bytes().to_vec();
        self.out.clear();
        bytes
    }
}

/// Carries bytes in pieces of `piece` until both are silent.
fn settle(client: &mut End, server: &mut End, piece: usize) -> Result<(), rustls::Error> {
    loop {
        let (there, back) = (client.flush(), server.flush());
        if there.is_empty() && back.is_empty() {
            return Ok(());
        }
        there.chunks(piece).try_for_each(|bytes| server.take(bytes))?;
        back.chunks(piece).try_for_each(|bytes| client.take(bytes))?;
    }
}

fn pair(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (End, End) {
    let name = ServerName::try_from("bench.test").expect("a name");
    let mut client = End::new(Session::client(client, name).expect("a good configuration"));
    client.take(&[]).expect("the first flight");
    (client, End::new(Session::server(server).expect("a good configuration")))
}

#[test]
fn handshakes_are_full_then_resumed() {
    let files = Files::new("handshakes");
    for (version_max, name) in [(Version::Tls12, "TLSv1.2"), (Version::Tls13, "TLSv1.3")] {
        let (client, server) = files.settings();
        let (client, server) = build(&ClientSettings { version_max, ..client }, &server);
        for expected in [Handshake::Full, Handshake::Resumed, Handshake::Resumed] {
            let (mut client, mut server) = pair(&client, &server);
            settle(&mut client, &mut server, 16 * 1024).expect("a handshake");
            for end in [&client, &server] {
                assert!(end.session.is_established());
                assert_eq!(end.session.handshake(), Some(expected), "{name}");
                let negotiated = end.session.negotiated().expect("an outcome");
                assert_eq!((negotiated.version, negotiated.alpn.as_deref()), (name, Some("http/1.1")));
            }
            assert!(client.session.has_peer_certificate() && !server.session.has_peer_certificate());
        }
    }
}

#[test]
fn the_end_is_told_from_a_cut() {
    let files = Files::new("end");
    let (client, server) = files.settings();
    let (client, server) = build(&client, &server);
    let (mut client, mut server) = pair(&client, &server);
    settle(&mut client, &mut server, 1024).expect("a handshake");
    server.session.encrypt(b"all", &mut server.out).expect("established");
    server.session.close(&mut server.out).expect("established");
    let wire = server.flush();
    client.take(&wire[..wire.len() - 1]).expect("good records");
    assert_eq!((client.plain.as_slice(), client.session.is_closed()), (b"all".as_slice(), false));
    client.take(&wire[wire.len() - 1..]).expect("a good record");
    assert!(client.session.is_closed());
}

#[test]
fn what_was_tampered_with_is_refused_with_an_alert() {
    let files = Files::new("tampered");
    let (client, server) = files.settings();
    let (client, server) = build(&client, &server);
    let (mut client, mut server) = pair(&client, &server);
    settle(&mut client, &mut server, 1024).expect("a handshake");
    server.session.encrypt(b"bytes", &mut server.out).expect("established");
    let mut wire = server.flush();
    *wire.last_mut().expect("a record") ^= 1;
    assert_eq!(client.take(&wire), Err(rustls::Error::DecryptError));
    assert!(client.plain.is_empty());
    let alert = client.flush();
    assert!(matches!(server.take(&alert), Err(rustls::Error::AlertReceived(_))), "{alert:?}");
    // Nothing may be sent before the handshake's end either.
    let (mut early, _) = pair(
        &build(&files.settings().0, &files.settings().1).0,
        &build(&files.settings().0, &files.settings().1).1,
    );
    early.flush();
    assert_eq!(early.session.encrypt(b"x", &mut early.out), Err(rustls::Error::HandshakeNotComplete));
}

#[test]
fn bad_files_and_versions_are_refused() {
    let files = Files::new("refused");
    let (client, server) = files.settings();
    let (root, key) = (files.authority.root().to_owned(), files.identity.key.clone());
    let nowhere = PathBuf::from("/nonexistent");
    let refused = |change: &dyn Fn(&mut ClientSettings)| {
        let mut settings = client.clone();
        change(&mut settings);
        settings.build(&[]).expect_err("it should be refused")
    };
    let backwards = refused(&|s| (s.version_min, s.version_max) = (Version::Tls13, Version::Tls12));
    assert!(matches!(backwards, BadSettings::NoVersion));
    let unreadable = refused(&|s| s.trust = Trust::File(nowhere.clone()));
    assert!(unreadable.to_string().starts_with("/nonexistent: "), "{unreadable}");
    let no_root = refused(&|s| s.trust = Trust::File(key.clone()));
    assert!(matches!(no_root, BadSettings::NoCertificate(_)));
    let no_key = refused(&|s| {
        s.identity = Some(Identity { certificates: root.clone(), key: root.clone() });
    });
    assert!(no_key.to_string().ends_with("no private key in it"), "{no_key}");
    let other = files.authority.issue("other", &["other.test"]).expect("a certificate");
    let identity = Identity { key: other.key, ..server.identity };
    let mismatched = ServerSettings { identity, client_roots: None }.build(&[]);
    assert!(matches!(mismatched, Err(BadSettings::Unusable(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn data_arrive_whole_in_pieces_of_any_size(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 1..4),
        piece in prop_oneof![1..40_usize, 1000..70_000_usize],
    ) {
        let files = Files::new("pieces");
        let (client, server) = files.settings();
        let (client, server) = build(&client, &server);
        let (mut client, mut server) = pair(&client, &server);
        settle(&mut client, &mut server, piece).expect("a handshake");
        for message in &messages {
            client.session.encrypt(message, &mut client.out).expect("established");
            server.session.encrypt(message, &mut server.out).expect("established");
        }
        settle(&mut client, &mut server, piece).expect("good records");
        let expected = messages.concat();
        prop_assert!(client.plain == expected && server.plain == expected);
        prop_assert!(client.session.partial.is_empty() && server.session.partial.is_empty());
    }
}
