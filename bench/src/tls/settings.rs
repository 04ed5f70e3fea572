//! What flags and files say about TLS, made into rustls' configurations.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{self, CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};

/// Where Debian and most others keep the certificates of public authorities.
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Tickets kept for one server name: more than connections that a thread has.
const TICKETS_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Version {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

/// Whether a new connection takes up a session of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Resumption {
    #[default]
    On,
    Off,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those signed by the authorities in [`SYSTEM_ROOTS`].
    #[default]
    System,
    /// Those signed by the authorities in this PEM file, or themselves in it.
    File(PathBuf),
    /// Anybody's, for any name. The peer must still hold the key of what it shows.
    Everyone,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificates: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    pub trust: Trust,
    pub identity: Option<Identity>,
    pub version_min: Version,
    pub version_max: Version,
    pub resumption: Resumption,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            identity: None,
            version_min: Version::Tls12,
            version_max: Version::Tls13,
            resumption: Resumption::On,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    pub identity: Identity,
    /// Clients must show a certificate of these authorities.
    pub client_roots: Option<PathBuf>,
}

#[derive(Debug)]
pub enum BadSettings {
    Unreadable(PathBuf, pem::Error),
    /// The file can be read and has no certificate in it.
    NoCertificate(PathBuf),
    /// No version is both at least the lowest and at most the highest.
    NoVersion,
    /// The certificates, the key, or both together are not what TLS can use.
    Unusable(rustls::Error),
    /// The certificate authorities for clients are not usable.
    ClientRoots(rustls::server::VerifierBuilderError),
}

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, pem::Error::Io(cause)) => write!(f, "{}: {cause}", path.display()),
            Self::Unreadable(path, pem::Error::NoItemsFound) => {
                write!(f, "{}: no private key in it", path.display())
            }
            Self::Unreadable(path, cause) => write!(f, "{}: {cause}", path.display()),
            Self::NoCertificate(path) => write!(f, "{}: no certificate in it", path.display()),
            Self::NoVersion => f.write_str("the lowest TLS version is above the highest"),
            Self::Unusable(cause) => write!(f, "certificate and key: {cause}"),
            Self::ClientRoots(cause) => write!(f, "authorities for clients: {cause}"),
        }
    }
}

impl std::error::Error for BadSettings {}

impl From<BadSettings> for io::Error {
    fn from(bad: BadSettings) -> Self {
        Self::new(io::ErrorKind::InvalidInput, bad)
    }
}

impl ClientSettings {
    /// `alpn` in the order of preference. The sessions to be resumed are those of this configuration alone.
    pub fn build(&self, alpn: &[&str]) -> Result<ClientConfig, BadSettings> {
        let versions: &[&SupportedProtocolVersion] = match (self.version_min, self.version_max) {
            (Version::Tls12, Version::Tls12) => &[&rustls::version::TLS12],
            (Version::Tls12, Version::Tls13) => &[&rustls::version::TLS13, &rustls::version::TLS12],
            (Version::Tls13, Version::Tls13) => &[&rustls::version::TLS13],
            (Version::Tls13, Version::Tls12) => return Err(BadSettings::NoVersion),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(BadSettings::Unusable)?;
        let builder = match &self.trust {
            Trust::System => builder.with_root_certificates(roots(Path::new(SYSTEM_ROOTS))?),
            Trust::File(path) => builder.with_root_certificates(roots(path)?),
            Trust::Everyone => {
                let verifier = Believing { schemes: provider().signature_verification_algorithms };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (certificates, key) = identity.read()?;
                builder.with_client_auth_cert(certificates, key).map_err(BadSettings::Unusable)?
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = self.resumption();
        Ok(config)
    }

    /// The same configuration with sessions of its own, for another thread.
    pub fn apart(&self, config: &ClientConfig) -> ClientConfig {
        let mut config = config.clone();
        config.resumption = self.resumption();
        config
    }

    fn resumption(&self) -> rustls::client::Resumption {
        match self.resumption {
            Resumption::Off => rustls::client::Resumption::disabled(),
            Resumption::On => rustls::client::Resumption::store(Arc::new(Sessions::default())),
        }
    }
}

impl ServerSettings {
    pub fn build(&self, alpn: &[&str]) -> Result<ServerConfig, BadSettings> {
        let (certificates, key) = self.identity.read()?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(BadSettings::Unusable)?;
        let builder = match &self.client_roots {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                builder.with_client_cert_verifier(verifier.build().map_err(BadSettings::ClientRoots)?)
            }
        };
        let mut config = builder.with_single_cert(certificates, key).map_err(BadSettings::Unusable)?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Without state: a load of new connections would push sessions out of any table.
        config.ticketer = ring::Ticketer::new().map_err(BadSettings::Unusable)?;
        Ok(config)
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BadSettings> {
        let unreadable = |cause| BadSettings::Unreadable(self.key.clone(), cause);
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(unreadable)?;
        Ok((certificates(&self.certificates)?, key))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadSettings> {
    let unreadable = |cause| BadSettings::Unreadable(path.to_owned(), cause);
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    match found.map_err(unreadable)? {
        none if none.is_empty() => Err(BadSettings::NoCertificate(path.to_owned())),
        found => Ok(found),
    }
}

fn roots(path: &Path) -> Result<RootCertStore, BadSettings> {
    let mut roots = RootCertStore::empty();
    // A system's collection may hold some that webpki does not take; the others still count.
    roots.add_parsable_certificates(certificates(path)?);
    if roots.is_empty() { Err(BadSettings::NoCertificate(path.to_owned())) } else { Ok(roots) }
}

/// Sessions of one thread's connections. rustls' own store keeps eight tickets for a name: when 64 connections of a
/// load begin anew in the same moment, most of them would find none.
#[derive(Default)]
struct Sessions(Mutex<HashMap<ServerName<'static>, ServerSessions>>);

#[derive(Default)]
struct ServerSessions {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// Each is for one use (RFC 8446, appendix C.4).
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn with<T>(&self, name: &ServerName<'_>, act: impl FnOnce(&mut ServerSessions) -> T) -> T {
        // A panic elsewhere leaves no half-made entry behind. The lock is never contended: one thread has it.
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(servers.entry(name.to_owned()).or_default())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.with(&name, |server| server.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(name, |server| server.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.with(&name, |server| server.tls12 = Some(session));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(name, |server| server.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.with(name, |server| server.tls12 = None);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.with(&name, |server| {
            if server.tickets.len() == TICKETS_MAX {
                server.tickets.pop_front();
            }
            server.tickets.push_back(ticket);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(name, |server| server.tickets.pop_back())
    }
}

/// For `--insecure`: believes any certificate, but not that somebody has its key.
#[derive(Debug)]
struct Believing {
    schemes: crypto::WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.supported_schemes()
    }
}
