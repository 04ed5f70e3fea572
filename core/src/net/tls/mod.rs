//! TLS for clients and to origins, by rustls with ring.
//!
//! `session` is a connection without a socket, [`stream`] puts it on one, [`server`] and [`client`] are what listeners
//! and upstreams are configured to, made by the control thread. A worker reads no file and generates no key.

mod asked;
pub mod certificate;
pub mod client;
#[cfg(test)]
#[allow(unreachable_pub)] // Other crates include it too.
mod forge;
#[cfg(test)]
mod hostile_tests;
mod kept;
mod scratch;
pub mod server;
mod session;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tickets;

pub use stream::{HandshakeError, TlsStream};

pub use super::agreed::{Agreed, Protocol, Version};
pub use super::identity::ClientIdentity;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// Protocols that connections can be served with so far. A listener offers those of its configuration that are here.
pub const SERVED: &[Protocol] = &[Protocol::H2, Protocol::Http11];

/// Versions to agree on, the lowest and the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// At least this one.
    pub min: Version,
    /// At most this one.
    pub max: Version,
}

impl Default for Versions {
    fn default() -> Self {
        Self { min: Version::Tls12, max: Version::Tls13 }
    }
}

impl Versions {
    fn supported(self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(Version::Tls13, &rustls::version::TLS13), (Version::Tls12, &rustls::version::TLS12)];
        all.into_iter().filter(|(v, _)| (self.min..=self.max).contains(v)).map(|(_, s)| s).collect()
    }
}

/// The registered name of a cipher suite, as a configuration writes it.
pub fn suite_name(suite: SupportedCipherSuite) -> String {
    // rustls tells the suites of TLS 1.3 apart by a prefix that no registry knows.
    suite.suite().as_str().unwrap_or_default().replacen("TLS13_", "TLS_", 1)
}

/// ring, with the suites named and in their order; all of its suites for none.
fn provider(suites: &[String]) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    if !suites.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        let by_name = |name: &String| all.iter().copied().find(|suite| suite_name(*suite) == *name);
        provider.cipher_suites = suites.iter().filter_map(by_name).collect();
    }
    Arc::new(provider)
}
