//! TLS for tests: an authority that issues what a test asks for, and a client of rustls' own that shows what was
//! negotiated. The engine's TLS code is not used here.

use crate::client::Client;
use crate::folder::Folder;
use crate::forge::Forger;
use crate::stream::Stream;
use crate::wait::PATIENCE;
use crate::wire::Wire;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

static AUTHORITIES: AtomicUsize = AtomicUsize::new(0);

/// Somebody who vouches for others.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ecdsa,
    Ed25519,
    Rsa,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    pub names: &'a [&'a str],
    pub uris: &'a [&'a str],
    pub common_name: &'a str,
    pub kind: Kind,
    /// In days from now; below 0 it has expired.
    pub days: i64,
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        Leaf { names: &["localhost"], uris: &[], common_name: "", kind: Kind::Ecdsa, days: 30 }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of the same name they would be taken for one another, and one's signatures for bad ones of the other.
        let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("test authority {number}"));
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn issue(&self, leaf: &Leaf<'_>) -> Issued {
        let names: Vec<String> = leaf.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        for uri in leaf.uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("a URI")));
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !leaf.common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        }
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_secs(86_400);
        params.not_before = (now - day * 400).into();
        params.not_after = if leaf.days < 0 {
            now - day * leaf.days.unsigned_abs() as u32
        } else {
            now + day * leaf.days as u32
        }
        .into();
        let key = match leaf.kind {
            Kind::Ecdsa => KeyPair::generate(),
            Kind::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Kind::Rsa => KeyPair::from_pem(&rsa_key()),
        }
        .expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { cert, key: key.serialize_pem() }
    }

    /// Issues, and writes `NAME.pem` and `NAME.key` into a folder.
    pub fn issue_to(&self, folder: &Folder, name: &str, leaf: &Leaf<'_>) -> Issued {
        let issued = self.issue(leaf);
        issued.write(folder, name);
        issued
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key`.
    pub fn write(&self, folder: &Folder, name: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        folder.write(&format!("{name}.pem"), &self.cert);
        let key = folder.write(&format!("{name}.key"), &self.key);
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    }
}

/// ring makes no RSA keys, openssl does.
fn rsa_key() -> String {
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .output();
    let made = made.expect("openssl runs");
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("PEM")
}

/// The line of a listener's `tls` with these certificates, by the names that they were written under.
pub fn listener_tls(folder: &Path, names: &[&str], more: &str) -> String {
    let folder = folder.display();
    let certificates: Vec<String> = names
        .iter()
        .map(|name| format!("{{ cert: {folder}/{name}.pem, key: {folder}/{name}.key }}"))
        .collect();
    let comma = if more.is_empty() { "" } else { ", " };
    format!("tls: {{ certificates: [{}]{comma}{more} }}", certificates.join(", "))
}

/// How a test's client speaks TLS. Sessions are remembered, so a second connection resumes.
#[derive(Clone, Debug)]
pub struct Dialer {
    config: Arc<ClientConfig>,
    /// Bytes of one write; the socket's own bounds if 0.
    pub cut: usize,
}

/// What a test's client wants.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    pub versions: &'a [&'static SupportedProtocolVersion],
    pub alpn: &'a [&'a str],
    pub certificate: Option<&'a Issued>,
    pub suites: &'a [&'a str],
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Wanted { versions: rustls::ALL_VERSIONS, alpn: &[], certificate: None, suites: &[] }
    }
}

impl Dialer {
    pub fn new(authority: &Authority, wanted: &Wanted<'_>) -> Dialer {
        let mut provider = rustls::crypto::ring::default_provider();
        if !wanted.suites.is_empty() {
            let name = |suite: &rustls::SupportedCipherSuite| suite.suite().as_str().unwrap_or_default();
            provider.cipher_suites.retain(|suite| wanted.suites.contains(&name(suite)));
        }
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM"))
            .expect("an authority");
        let builder = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(wanted.versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match wanted.certificate {
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM"),
                )
                .expect("a client certificate"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = wanted.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(64);
        config.enable_secret_extraction = true;
        Dialer { config: Arc::new(config), cut: 0 }
    }

    /// Trusting this authority, and with nothing special.
    pub fn plain(authority: &Authority) -> Dialer {
        Dialer::new(authority, &Wanted::default())
    }

    #[track_caller]
    pub fn connect(&self, address: SocketAddr, name: &str) -> Client {
        self.try_connect(address, name).unwrap_or_else(|error| panic!("TLS to {address} as {name}: {error}"))
    }

    /// Connects and shakes hands; the error is rustls' or the socket's.
    pub fn try_connect(&self, address: SocketAddr, name: &str) -> io::Result<Client> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut socket = Cut { socket, bytes: if self.cut == 0 { usize::MAX } else { self.cut } };
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Client { wire: Wire::new(Stream::Tls(Box::new(StreamOwned::new(connection, socket)))) })
    }
}

/// Takes the keys away from a connection after its handshake, for records that rustls would not send.
pub fn forge(connection: rustls::Connection) -> Forger {
    let suite = connection.negotiated_cipher_suite().expect("a finished handshake");
    let secrets = match connection {
        rustls::Connection::Client(connection) => connection.dangerous_extract_secrets(),
        rustls::Connection::Server(connection) => connection.dangerous_extract_secrets(),
    };
    Forger::new(suite, secrets.expect("secrets").tx)
}

/// A socket that takes so many bytes at a time.
#[derive(Debug)]
pub struct Cut {
    pub socket: TcpStream,
    bytes: usize,
}

impl Read for Cut {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.read(into)
    }
}

impl Write for Cut {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let n = from.len().min(self.bytes);
        let wrote = self.socket.write(&from[..n])?;
        if n < from.len() {
            // Lets the other side run between two pieces on a busy machine.
            std::thread::yield_now();
        }
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a client's handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaken {
    pub version: rustls::ProtocolVersion,
    pub alpn: Option<String>,
    pub resumed: bool,
    pub leaf: Vec<u8>,
}

/// What was negotiated on a client's connection.
#[track_caller]
pub fn shaken(client: &Client) -> Shaken {
    let Stream::Tls(stream) = &client.wire.stream else { panic!("no TLS on this connection") };
    let connection = &stream.conn;
    Shaken {
        version: connection.protocol_version().expect("a version"),
        alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        leaf: connection
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(|leaf| leaf.to_vec())
            .unwrap_or_default(),
    }
}

/// The certificate in PEM as it is sent.
pub fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.cert.as_bytes()).expect("PEM").to_vec()
}

/// A server's end of one connection, without HTTP.
pub type Raw = StreamOwned<ServerConnection, TcpStream>;

/// Serves TLS 1.3 with this certificate on a port of its own, each connection by `serve` on a thread of its own, until
/// the test's process ends.
pub fn serve_raw(issued: &Issued, serve: impl Fn(Raw) + Send + Sync + 'static) -> SocketAddr {
    let provider = rustls::crypto::ring::default_provider();
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).expect("PEM")],
            PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM"),
        )
        .expect("a certificate");
    config.enable_secret_extraction = true;
    let (config, serve) = (Arc::new(config), Arc::new(serve));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (config, serve) = (Arc::clone(&config), Arc::clone(&serve));
            std::thread::spawn(move || {
                socket.set_read_timeout(Some(PATIENCE)).expect("socket options");
                let connection = ServerConnection::new(config).expect("a connection");
                serve(StreamOwned::new(connection, socket));
            });
        }
    });
    address
}
