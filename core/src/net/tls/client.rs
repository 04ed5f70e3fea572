//! TLS to origins: whom to trust, what to show, which name to ask for.
//!
//! [`TlsClient`] is compiled by the control thread and shared. Each worker makes a [`Connector`] of it, with sessions of
//! its own to take up again: the store that holds them has a lock, which nobody then contends for.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
pub use rustls::pki_types::ServerName;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::Certificate;
use super::session::Session;
use super::stream::{Expect, HandshakeError, TlsStream};
use super::{Versions, provider};
use crate::base::backlog::BacklogAccount;
use crate::base::limits::TLS_CLIENT_SESSIONS_MAX;
use crate::net::agreed::Protocol;
use crate::net::socket::Socket;

/// Whom to take an origin's certificate from.
#[derive(Debug, Clone)]
pub enum Trust {
    /// One that these authorities vouch for, for the name asked for.
    Authorities(Authorities),
    /// Anybody's: whoever sits between us and the origin can read and change everything.
    Anybody,
}

/// Authorities that vouch for origins.
#[derive(Debug, Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// These. What is no authority's certificate is passed over, as bundles hold all sorts of things.
    pub fn of(certificates: &[CertificateDer<'static>]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        Self(Arc::new(roots))
    }

    /// Those that this system trusts. Reads files: not for a worker.
    ///
    /// # Errors
    /// None could be read, and why.
    pub fn of_system() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let authorities = Self::of(&found.certs);
        if authorities.0.is_empty() {
            let error = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
            return Err(error);
        }
        Ok(authorities)
    }
}

/// Everything that connections to an upstream are configured to.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Whom to trust.
    pub trust: Trust,
    /// What to show to an origin that asks.
    pub certificate: Option<Certificate>,
    /// Versions to agree on.
    pub versions: Versions,
    /// Protocols to offer, best first; none: no offer is made.
    pub protocols: Vec<Protocol>,
}

/// Compiled settings, shared by all workers. Two are the same only if they are one.
#[derive(Debug)]
pub struct TlsClient {
    config: ClientConfig,
}

impl TlsClient {
    /// Compiles settings.
    ///
    /// # Errors
    /// No authority to trust, a certificate that can't sign.
    pub fn new(settings: &ClientSettings) -> Result<Arc<Self>, rustls::Error> {
        let provider = provider(&[]);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&settings.versions.supported())?
            .dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = match &settings.trust {
            Trust::Authorities(found) => {
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&found.0), provider)
                    .build()
                    .map_err(|error| rustls::Error::General(error.to_string()))?
            }
            Trust::Anybody => Arc::new(Unverified(provider)),
        };
        let builder = builder.with_custom_certificate_verifier(verifier);
        let mut config = match &settings.certificate {
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(
                rustls::sign::SingleCertAndKey::from(Arc::clone(&certificate.certified)),
            )),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = settings.protocols.iter().map(|p| p.name().as_bytes().to_vec()).collect();
        Ok(Arc::new(Self { config }))
    }

    /// One worker's copy.
    pub fn connector(&self) -> Connector {
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(TLS_CLIENT_SESSIONS_MAX);
        Connector { config: Arc::new(config) }
    }

    /// For the health checks, which offer protocols of their own and take up no session: an origin whose certificate
    /// has expired would not be noticed.
    pub(in crate::net) fn without_sessions(&self) -> ClientConfig {
        let mut config = self.config.clone();
        config.resumption = Resumption::disabled();
        config
    }
}

/// One worker's way to an upstream.
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn session(&self, name: ServerName<'static>) -> Result<Session, rustls::Error> {
        UnbufferedClientConnection::new(Arc::clone(&self.config), name).map(Session::client)
    }
}

/// Opens TLS on a connected socket. What the connection keeps is on the account. The caller bounds the wait; dropping it closes the socket.
pub async fn connect(
    socket: Socket,
    connector: &Connector,
    name: &ServerName<'static>,
    account: &Rc<BacklogAccount>,
) -> Result<TlsStream, HandshakeError> {
    let session = connector.session(name.clone()).map_err(HandshakeError::Tls)?;
    TlsStream::handshake(socket, session, Expect::ServerHello, account).await
}

/// Takes any certificate, but only from who holds its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
