//! Certificates made on the spot, P-256 throughout, for tests and for comparisons: nobody else believes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::settings::Identity;

/// A certificate authority and the directory that its files are in.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    root: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Authority {
    /// Writes `NAME.pem`, its certificate, into `directory`, which it makes.
    pub fn create(directory: &Path, name: &str) -> io::Result<Self> {
        let mut params = params(name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, key()?).map_err(io::Error::other)?;
        fs::create_dir_all(directory)?;
        let root = directory.join(format!("{name}.pem"));
        fs::write(&root, issuer.pem())?;
        Ok(Self { issuer, directory: directory.to_owned(), root })
    }

    /// What those who are to believe it read.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes `NAME.pem` and `NAME-key.pem`, a certificate for `hosts` (names or addresses) and its key.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> io::Result<Identity> {
        let key = key()?;
        let params = params(name, hosts)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        let identity = Identity {
            certificates: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}-key.pem")),
        };
        fs::write(&identity.certificates, certificate.pem())?;
        fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }
}

fn params(name: &str, hosts: &[&str]) -> io::Result<CertificateParams> {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).map_err(io::Error::other)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    Ok(params)
}

fn key() -> io::Result<KeyPair> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)
}
