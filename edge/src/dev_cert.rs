//! `ringway-edge dev-cert`: a certificate for one's own machine, to try TLS without asking anybody for one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};

/// For how long it is valid.
const DAYS: u32 = 365;

/// So much earlier than now, for machines whose clock is behind.
const SLACK: Duration = Duration::from_secs(3_600);

/// What it is for unless names are given.
const NAMES: [&str; 4] = ["localhost", "*.localhost", "127.0.0.1", "::1"];

#[derive(Debug, clap::Args)]
pub(crate) struct DevCert {
    /// Host names (`*.` stands for one label) and IP addresses. By default localhost, *.localhost, 127.0.0.1 and ::1.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The folder for cert.pem and key.pem.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
}

impl DevCert {
    /// Makes a self-signed certificate and its key (ECDSA P-256).
    pub(crate) fn run(&self) -> ExitCode {
        let names: Vec<String> = if self.names.is_empty() {
            NAMES.map(str::to_owned).to_vec()
        } else {
            self.names.iter().map(|name| name.to_ascii_lowercase()).collect()
        };
        let (cert, key) = match issue(&names) {
            Ok(made) => made,
            Err(error) => return super::fail(error),
        };
        let (cert_path, key_path) = (self.out.join("cert.pem"), self.out.join("key.pem"));
        if !self.force
            && let Some(there) = [&cert_path, &key_path].into_iter().find(|path| path.exists())
        {
            return super::fail(format_args!("{} is there already; --force replaces it", there.display()));
        }
        for (path, text, mode) in [(&key_path, &key, 0o600), (&cert_path, &cert, 0o644)] {
            if let Err(error) = write(path, text, mode) {
                return super::fail(format_args!("can't write {}: {error}", path.display()));
            }
        }
        let (cert, key) = (cert_path.display(), key_path.display());
        // A name to show: a wildcard is none.
        let host = names.iter().find(|name| !name.starts_with('*')).map_or("localhost", String::as_str);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        println!(
            "{cert} and {key}: for {}, for {DAYS} days, signed by itself.\n\n\
             Serve it:  ringway-edge proxy --listen 127.0.0.1:8443 --to http://127.0.0.1:8080 --tls-cert {cert} --tls-key {key}\n\
             Ask it:    curl --cacert {cert} https://{host}:8443/\n\
             Behind us: ringway-edge proxy --listen 127.0.0.1:8080 --to https://{host}:8443 --to-ca {cert}",
            names.join(", ")
        );
        ExitCode::SUCCESS
    }
}

fn issue(names: &[String]) -> Result<(String, String), String> {
    if let Some(bad) = names.iter().find(|name| !is_name(name)) {
        return Err(format!("`{bad}` is no host name or IP address"));
    }
    let mut params = CertificateParams::new(names).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Ringway development certificate");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    params.not_before = (now - SLACK).into();
    params.not_after = (now + Duration::from_secs(86_400) * DAYS).into();
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let cert = params.self_signed(&key).map_err(|error| error.to_string())?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn is_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.parse::<std::net::IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label))
}

/// Never follows or keeps what is there: a key must not end up in a file that others have open or may read.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{is_name, issue};

    #[test]
    fn names() {
        for (name, expected) in [
            ("localhost", true),
            ("*.localhost", true),
            ("a-b.example.org", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("", false),
            ("*", false),
            ("a.*.org", false),
            ("-a", false),
            ("a..b", false),
            ("a b", false),
            ("https://a", false),
        ] {
            assert_eq!(is_name(name), expected, "{name}");
        }
        assert!(issue(&["a b".to_owned()]).unwrap_err().contains("`a b`"));
        assert!(issue(&["localhost".to_owned(), "::1".to_owned()]).unwrap().1.contains("PRIVATE KEY"));
    }
}
