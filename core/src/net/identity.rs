//! Who a client has proved to be with its certificate.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A verified client certificate, as policies and logs need it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientIdentity {
    /// The subject's common name, if it has one.
    pub common_name: Option<Box<str>>,
    /// DNS names.
    pub dns_names: Box<[Box<str>]>,
    /// URIs: where SPIFFE identities stand.
    pub uris: Box<[Box<str>]>,
    /// SHA-256 of the whole certificate, in lower-case hexadecimal digits.
    pub fingerprint: Box<str>,
}

impl ClientIdentity {
    /// Reads a certificate whose chain has been verified. What it does not say stays empty.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut fingerprint = String::with_capacity(64);
        for byte in digest.as_ref() {
            let _ = write!(fingerprint, "{byte:02x}");
        }
        let mut identity = Self { fingerprint: fingerprint.into(), ..Self::default() };
        // It was parsed once already, by whoever verified it.
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return identity };
        identity.common_name =
            parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(Box::from);
        let (mut dns_names, mut uris) = (Vec::new(), Vec::new());
        if let Ok(Some(extension)) = parsed.subject_alternative_name() {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns_names.push(Box::from(*name)),
                    GeneralName::URI(uri) => uris.push(Box::from(*uri)),
                    _ => {}
                }
            }
        }
        (identity.dns_names, identity.uris) = (dns_names.into(), uris.into());
        identity
    }
}
