//! A certificate chain and its key, read from PEM and checked: what a listener shows to clients, or we to an origin.
//!
//! Takes bytes; whoever calls has read the files. Refuses what could only fail later: an empty chain, a key of an
//! unknown kind, a key that is another certificate's.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// One certificate, as it is sent.
pub type Der = CertificateDer<'static>;

/// The kind of a key, in the order in which we prefer to sign: by cost, and as far as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// P-256, P-384.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ecdsa => "ECDSA",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
        })
    }
}

/// What is wrong with a certificate or key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// No certificate in it.
    NoCertificate,
    /// Not PEM, or cut short.
    BadPem(String),
    /// Not a certificate.
    BadCertificate(String),
    /// No private key in it.
    NoKey,
    /// The key is encrypted, and there is nobody to ask for its passphrase.
    EncryptedKey,
    /// Neither ECDSA (P-256, P-384) nor Ed25519 nor RSA (2048 bits and more).
    UnknownKey(String),
    /// The key is not the first certificate's.
    OtherKey,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("there is no certificate in it"),
            Self::BadPem(error) => write!(f, "it is not PEM: {error}"),
            Self::BadCertificate(error) => write!(f, "it is no certificate: {error}"),
            Self::NoKey => f.write_str("there is no private key in it"),
            Self::EncryptedKey => {
                f.write_str("the key is encrypted; store it decrypted, readable by this user alone")
            }
            Self::UnknownKey(error) => {
                write!(
                    f,
                    "the key is of no supported kind (ECDSA P-256 or P-384, Ed25519, RSA from 2048 bits): {error}"
                )
            }
            Self::OtherKey => f.write_str("the key does not belong to the certificate"),
        }
    }
}

impl std::error::Error for Problem {}

/// A chain and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Names that it is valid for, in lower case; `*.` stands for one label.
    pub names: Vec<String>,
    /// Its key's kind.
    pub kind: KeyKind,
    /// Seconds since 1970 from which on it is valid.
    pub not_before_s: i64,
    /// Seconds since 1970 until which it is valid.
    pub not_after_s: i64,
    pub(super) certified: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads a chain (leaf first) and the leaf's key; `ocsp` is a DER response to be stapled.
    ///
    /// # Errors
    /// The first thing that is wrong, and in which of the two.
    pub fn parse(chain: &[u8], key: &[u8], ocsp: Option<Vec<u8>>) -> Result<Self, (Part, Problem)> {
        let chain = chain_of(chain).map_err(|problem| (Part::Chain, problem))?;
        let key = key_of(key).map_err(|problem| (Part::Key, problem))?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| (Part::Key, Problem::UnknownKey(error.to_string())))?;
        let kind = match signer.algorithm() {
            SignatureAlgorithm::RSA => KeyKind::Rsa,
            SignatureAlgorithm::ED25519 => KeyKind::Ed25519,
            _ => KeyKind::Ecdsa,
        };
        let (names, not_before_s, not_after_s) = {
            let bad = |error: String| (Part::Chain, Problem::BadCertificate(error));
            let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|error| bad(error.to_string()))?;
            let validity = leaf.validity();
            (names_of(&leaf), validity.not_before.timestamp(), validity.not_after.timestamp())
        };
        let mut certified = CertifiedKey::new(chain, signer);
        // `Unknown` would mean that the key can't tell; ring's all can.
        certified.keys_match().map_err(|_| (Part::Key, Problem::OtherKey))?;
        certified.ocsp = ocsp;
        Ok(Self { names, kind, not_before_s, not_after_s, certified: Arc::new(certified) })
    }
}

/// Which of the files a problem is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The certificates'.
    Chain,
    /// The key's.
    Key,
}

/// All certificates of a PEM text; at least one.
pub fn chain_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| Problem::BadPem(error.to_string()))?;
    if chain.is_empty() { Err(Problem::NoCertificate) } else { Ok(chain) }
}

fn key_of(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    use rustls::pki_types::pem::Error;
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) if pem.windows(9).any(|word| word == b"ENCRYPTED") => {
            Err(Problem::EncryptedKey)
        }
        Err(Error::NoItemsFound) => Err(Problem::NoKey),
        Err(error) => Err(Problem::BadPem(error.to_string())),
    }
}

/// The DNS names; for a certificate without any, the common name, as nothing else says whose it is.
fn names_of(leaf: &X509Certificate<'_>) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(Some(extension)) = leaf.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
        return names;
    }
    let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    names.extend(common.map(str::to_ascii_lowercase));
    names
}
