//! What a listener with TLS is: certificates by name, versions, suites, protocols, who may come in.
//!
//! Made by the control thread, shared by all workers, replaced whole by a reload.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::asked;
use super::certificate::{Certificate, KeyKind};
use super::session::Session;
use super::stream::{Expect, HandshakeError, TlsStream};
use super::tickets::{TicketKeys, Ticketer};
use super::{SERVED, Versions, provider};
use crate::base::backlog::BacklogAccount;
use crate::net::agreed::Protocol;
use crate::net::socket::Socket;

/// Whether clients must show certificates, and which authorities vouch for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientPolicy {
    /// They are not asked.
    Off,
    /// They are asked and need not answer; a wrong answer is refused.
    Optional(Vec<CertificateDer<'static>>),
    /// They must.
    Required(Vec<CertificateDer<'static>>),
}

impl ClientPolicy {
    /// Names what sessions were made under.
    fn context(&self) -> [u8; 32] {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let (word, authorities): (&[u8], &[_]) = match self {
            Self::Off => (b"off", &[]),
            Self::Optional(authorities) => (b"optional", authorities),
            Self::Required(authorities) => (b"required", authorities),
        };
        digest.update(word);
        for authority in authorities {
            digest.update(&(authority.len() as u64).to_be_bytes());
            digest.update(authority);
        }
        let mut context = [0; 32];
        context.copy_from_slice(digest.finish().as_ref());
        context
    }
}

/// Everything that a listener is configured to.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// At least one; the first is shown to clients that ask for no name, or for one that nothing matches.
    pub certificates: Vec<Certificate>,
    /// Versions to agree on.
    pub versions: Versions,
    /// Names of cipher suites, best first; none: all that are sound, in the client's order.
    pub suites: Vec<String>,
    /// Protocols to agree on, best first.
    pub protocols: Vec<Protocol>,
    /// Client certificates.
    pub clients: ClientPolicy,
    /// With what tickets are sealed, and how long one may be used; `None`: no session is taken up again.
    pub tickets: Option<(TicketKeys, Duration)>,
}

/// A compiled listener.
pub struct TlsServer {
    config: Arc<ServerConfig>,
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

impl TlsServer {
    /// Compiles settings.
    ///
    /// # Errors
    /// Suites that no version can use, authorities that are no certificates.
    pub fn new(settings: &ServerSettings) -> Result<Arc<Self>, rustls::Error> {
        let provider = provider(&settings.suites);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&settings.versions.supported())?;
        let verifier = |authorities: &[CertificateDer<'static>]| {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority.clone())?;
            }
            Ok::<_, rustls::Error>(WebPkiClientVerifier::builder_with_provider(roots.into(), provider))
        };
        let built = |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
        let builder = match &settings.clients {
            ClientPolicy::Off => builder.with_no_client_auth(),
            ClientPolicy::Optional(authorities) => builder.with_client_cert_verifier(
                verifier(authorities)?.allow_unauthenticated().build().map_err(built)?,
            ),
            ClientPolicy::Required(authorities) => {
                builder.with_client_cert_verifier(verifier(authorities)?.build().map_err(built)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&settings.certificates)));
        let served = settings.protocols.iter().filter(|protocol| SERVED.contains(protocol));
        config.alpn_protocols = served.map(|protocol| protocol.name().as_bytes().to_vec()).collect();
        // Whoever lists suites means their order; otherwise a client knows best what is cheap for it.
        config.ignore_client_order = !settings.suites.is_empty();
        // Sessions live in tickets, or not at all: a table would need a lock.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &settings.tickets {
            Some((keys, lifetime)) => {
                let context = settings.clients.context();
                config.ticketer = Arc::new(Ticketer { keys: keys.clone(), context, lifetime: *lifetime });
            }
            None => config.send_tls13_tickets = 0,
        }
        Ok(Arc::new(Self { config: Arc::new(config) }))
    }

    pub(super) fn session(&self) -> Result<Session, rustls::Error> {
        UnbufferedServerConnection::new(Arc::clone(&self.config)).map(Session::server)
    }
}

/// Answers a client's handshake. What the connection keeps is on the account. The caller bounds the wait; dropping it closes the socket.
pub async fn accept(
    socket: Socket,
    server: &TlsServer,
    account: &Rc<BacklogAccount>,
) -> Result<TlsStream, HandshakeError> {
    let session = server.session().map_err(HandshakeError::Tls)?;
    TlsStream::handshake(socket, session, Expect::ClientHello, account).await
}

/// Certificates by name: exact, then with the first label as a wildcard, then the default.
struct ByName {
    exact: HashMap<Box<str>, Choice>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Choice>,
    default: Choice,
}

/// Certificates for one name, one for each kind of key, in the order of preference.
type Choice = Vec<(KeyKind, Arc<CertifiedKey>)>;

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exact, wildcard) = (self.exact.len(), self.wildcard.len());
        f.debug_struct("ByName").field("exact", &exact).field("wildcard", &wildcard).finish_non_exhaustive()
    }
}

impl ByName {
    fn new(certificates: &[Certificate]) -> Self {
        let mut by_name = Self { exact: HashMap::new(), wildcard: HashMap::new(), default: Vec::new() };
        for certificate in certificates {
            for name in &certificate.names {
                let choice = match name.strip_prefix("*.") {
                    Some(parent) => by_name.wildcard.entry(parent.into()),
                    None => by_name.exact.entry(name.as_str().into()),
                };
                add(choice.or_default(), certificate);
            }
        }
        // The default is the first certificate, and those of other kinds that share a name with it.
        if let Some(first) = certificates.first() {
            for certificate in certificates {
                if std::ptr::eq(first, certificate)
                    || certificate.names.iter().any(|n| first.names.contains(n))
                {
                    add(&mut by_name.default, certificate);
                }
            }
        }
        by_name
    }

    fn choice(&self, name: Option<&str>) -> &Choice {
        let Some(name) = name else { return &self.default };
        let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(parent).unwrap_or(&self.default)
    }
}

/// The first of a kind stays.
fn add(choice: &mut Choice, certificate: &Certificate) {
    if !choice.iter().any(|(kind, _)| *kind == certificate.kind) {
        choice.push((certificate.kind, Arc::clone(&certificate.certified)));
        choice.sort_by_key(|(kind, _)| *kind);
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // In lower case: rustls has seen to that.
        let name = hello.server_name();
        asked::note_name(name);
        let choice = self.choice(name);
        let fits = |(_, certified): &&(KeyKind, Arc<CertifiedKey>)| {
            certified.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        choice.iter().find(fits).or(choice.first()).map(|(_, certified)| Arc::clone(certified))
    }
}
