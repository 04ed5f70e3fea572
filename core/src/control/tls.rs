//! Certificates, keys and authorities: read from the files that a configuration names, checked, watched, and made into
//! what workers use. Ticket keys, replaced in time.
//!
//! Nothing here changes what is in force: [`Keeper::compile`] makes the next [`Tls`], and whoever asked decides whether
//! to use it. What has not changed is the same object as before, so that pools and sessions survive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::base::limits::TICKET_KEYS_MAX;
use crate::config::Remark;
use crate::config::snapshot::{
    Alpn, CertificateFiles, ClientCertificates, ListenerTls, Snapshot, TlsVersion, Upstream, UpstreamTls,
    Verify,
};
use crate::config::source::file::FileSource;
use crate::net::tls::certificate::{Certificate, Part, chain_of};
use crate::net::tls::client::{Authorities, ClientSettings, ServerName, TlsClient, Trust};
use crate::net::tls::server::{ClientPolicy, ServerSettings, TlsServer};
use crate::net::tls::tickets::{SECRET_BYTES, TicketKeys};
use crate::net::tls::{Protocol, Version, Versions};
use crate::telemetry::metrics::CertificateInfo;

/// What listeners and upstreams of one snapshot use, by their indexes in it.
#[derive(Debug, Default)]
pub(super) struct Tls {
    pub(super) listeners: Vec<Option<Arc<ListenerPart>>>,
    pub(super) upstreams: Vec<Option<Arc<UpstreamPart>>>,
}

impl Tls {
    /// Whether each part is the same object.
    pub(super) fn is(&self, other: &Self) -> bool {
        fn same<T>(a: &[Option<Arc<T>>], b: &[Option<Arc<T>>]) -> bool {
            a.iter()
                .map(|part| part.as_ref().map(Arc::as_ptr))
                .eq(b.iter().map(|part| part.as_ref().map(Arc::as_ptr)))
        }
        same(&self.listeners, &other.listeners) && same(&self.upstreams, &other.upstreams)
    }

    /// When each certificate ends, for metrics.
    pub(super) fn certificates(&self) -> Vec<CertificateInfo> {
        self.listeners.iter().flatten().flat_map(|part| part.certificates.iter().cloned()).collect()
    }
}

/// One listener, and what it was made of.
#[derive(Debug)]
pub(super) struct ListenerPart {
    name: Arc<str>,
    settings: ListenerTls,
    contents: Vec<Content>,
    /// Which random ticket keys are in it.
    generation: u64,
    certificates: Vec<CertificateInfo>,
    pub(super) server: Arc<TlsServer>,
}

/// One upstream, and what it was made of.
#[derive(Debug)]
pub(super) struct UpstreamPart {
    name: Arc<str>,
    settings: UpstreamTls,
    http2: bool,
    contents: Vec<Content>,
    pub(super) client: Arc<TlsClient>,
    /// For each endpoint of the snapshot.
    pub(super) names: Vec<Option<ServerName<'static>>>,
}

/// What a file held when it was last read. Compared by identity: a file that is read again is another one only if it
/// has changed.
type Content = Arc<[u8]>;

fn same_contents(a: &[Content], b: &[Content]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Random ticket keys of one listener.
struct Rotating {
    keys: TicketKeys,
    generation: u64,
    since: Instant,
    every: Duration,
}

/// Files and ticket keys, kept for as long as the process runs.
#[derive(Default)]
pub(super) struct Keeper {
    files: BTreeMap<PathBuf, (FileSource, Result<Content, String>)>,
    tickets: HashMap<Arc<str>, Rotating>,
    system: Option<Authorities>,
    changed: bool,
}

/// What was found to say about files.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<Remark>,
    pub(super) warnings: Vec<Remark>,
}

impl Findings {
    fn error(&mut self, at: &str, message: impl Into<String>) {
        self.errors.push(Remark { path: at.to_owned(), message: message.into(), hint: None });
    }

    fn warn(&mut self, at: &str, message: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.warnings.push(Remark { path: at.to_owned(), message: message.into(), hint });
    }
}

impl Keeper {
    /// Looks at all files in use.
    pub(super) fn poll(&mut self) {
        for (source, kept) in self.files.values_mut() {
            if let Some(read) = source.poll() {
                *kept = read.map(Content::from).map_err(|error| error.to_string());
                self.changed = true;
            }
        }
    }

    /// Whether a file has changed, or can't be read any more, since this was asked last.
    pub(super) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Replaces the random ticket keys whose time has come. True if there were any.
    pub(super) fn rotate(&mut self, now: Instant) -> bool {
        let mut rotated = false;
        for tickets in self.tickets.values_mut() {
            if now.duration_since(tickets.since) < tickets.every {
                continue;
            }
            // Without random numbers the old keys serve on; it is tried again in the next round.
            let Ok(keys) = tickets.keys.rotated() else { continue };
            *tickets =
                Rotating { keys, generation: tickets.generation + 1, since: now, every: tickets.every };
            rotated = true;
        }
        rotated
    }

    /// Makes what `snapshot` names. A part that can't be made is missing from the result and has an error, unless
    /// `before` has one by its name, which then stays.
    pub(super) fn compile(&mut self, snapshot: &Snapshot, before: &Tls, now: Instant) -> (Tls, Findings) {
        let mut findings = Findings::default();
        let mut tls = Tls::default();
        for (index, listener) in snapshot.listeners.iter().enumerate() {
            let old = before.listeners.iter().flatten().find(|part| part.name == listener.name);
            let part = listener.tls.as_ref().and_then(|settings| {
                let at = format!("listeners[{index}].tls");
                let made = self.listener(&listener.name, settings, old, &at, now, &mut findings);
                made.or_else(|| old.cloned())
            });
            tls.listeners.push(part);
        }
        for (index, upstream) in snapshot.upstreams.iter().enumerate() {
            let old = before.upstreams.iter().flatten().find(|part| part.name == upstream.name);
            let part = upstream.endpoints.iter().any(|e| e.tls_name.is_some()).then(|| {
                let at = format!("upstreams[{index}]");
                self.upstream(upstream, old, &at, &mut findings).or_else(|| old.cloned())
            });
            tls.upstreams.push(part.flatten());
        }
        (tls, findings)
    }

    /// Forgets the files and keys that `snapshot` does not name.
    pub(super) fn forget_others(&mut self, snapshot: &Snapshot) {
        let mut named: HashSet<&Path> = HashSet::new();
        for tls in snapshot.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            named.extend(tls.certificates.iter().flat_map(paths_of));
            match &tls.clients {
                ClientCertificates::Off => {}
                ClientCertificates::Optional(ca) | ClientCertificates::Required(ca) => {
                    named.insert(ca);
                }
            }
            named.extend(tls.tickets.iter().filter_map(|tickets| tickets.keys.as_deref()));
        }
        for upstream in &snapshot.upstreams {
            named.extend(upstream.tls.ca.as_deref());
            named.extend(upstream.tls.certificate.iter().flat_map(paths_of));
        }
        self.files.retain(|path, _| named.contains(path.as_path()));
        self.tickets.retain(|name, _| snapshot.listeners.iter().any(|l| l.name == *name && l.tls.is_some()));
    }

    fn listener(
        &mut self,
        name: &Arc<str>,
        settings: &ListenerTls,
        old: Option<&Arc<ListenerPart>>,
        at: &str,
        now: Instant,
        findings: &mut Findings,
    ) -> Option<Arc<ListenerPart>> {
        let before = findings.errors.len();
        let mut contents = Vec::new();
        let mut certificates = Vec::new();
        for (index, files) in settings.certificates.iter().enumerate() {
            let at = format!("{at}.certificates[{index}]");
            certificates.extend(self.certificate(files, &at, ["cert", "key"], &mut contents, findings));
        }
        let clients = match &settings.clients {
            ClientCertificates::Off => Some(ClientPolicy::Off),
            ClientCertificates::Optional(ca) => self
                .authorities(ca, &format!("{at}.client_ca"), &mut contents, findings)
                .map(ClientPolicy::Optional),
            ClientCertificates::Required(ca) => self
                .authorities(ca, &format!("{at}.client_ca"), &mut contents, findings)
                .map(ClientPolicy::Required),
        };
        let mut generation = 0;
        let tickets = settings.tickets.as_ref().and_then(|tickets| {
            let keys = if let Some(path) = &tickets.keys {
                self.ticket_keys(path, &format!("{at}.tickets.keys"), &mut contents, findings)?
            } else {
                let rotating = self.random_keys(name, tickets.rotate, now, at, findings)?;
                generation = rotating.generation;
                rotating.keys.clone()
            };
            // Two rotations: the time for which a key that has just been replaced still opens.
            Some((keys, tickets.rotate * 2))
        });
        if findings.errors.len() > before {
            return None;
        }
        duplicates(&certificates, at, findings);
        if let Some(old) = old
            && old.settings == *settings
            && old.generation == generation
            && same_contents(&old.contents, &contents)
        {
            return Some(Arc::clone(old));
        }
        let infos = settings
            .certificates
            .iter()
            .zip(&certificates)
            .map(|(files, certificate)| CertificateInfo {
                listener: Arc::clone(name),
                certificate: files.cert.display().to_string(),
                not_after_s: certificate.not_after_s,
            })
            .collect();
        let compiled = TlsServer::new(&ServerSettings {
            certificates,
            versions: versions(settings.min_version, settings.max_version),
            suites: settings.ciphers.clone(),
            protocols: settings.alpn.iter().copied().map(protocol).collect(),
            clients: clients?,
            tickets,
        });
        match compiled {
            Ok(server) => Some(Arc::new(ListenerPart {
                name: Arc::clone(name),
                settings: settings.clone(),
                contents,
                generation,
                certificates: infos,
                server,
            })),
            Err(error) => {
                findings.error(at, format!("these settings can't be used: {error}"));
                None
            }
        }
    }

    fn upstream(
        &mut self,
        upstream: &Upstream,
        old: Option<&Arc<UpstreamPart>>,
        at: &str,
        findings: &mut Findings,
    ) -> Option<Arc<UpstreamPart>> {
        let before = findings.errors.len();
        let settings = &upstream.tls;
        let mut contents = Vec::new();
        let certificate = settings.certificate.as_ref().and_then(|files| {
            let at = format!("{at}.tls");
            self.certificate(files, &at, ["client_cert", "client_key"], &mut contents, findings)
        });
        let trust = match (settings.verify, &settings.ca) {
            (Verify::Insecure, _) => Some(Trust::Anybody),
            (Verify::Full, Some(ca)) => {
                let field = format!("{at}.tls.ca");
                let found = self.authorities(ca, &field, &mut contents, findings)?;
                Some(Trust::Authorities(Authorities::of(&found)))
            }
            (Verify::Full, None) => self.system(at, findings).map(Trust::Authorities),
        };
        let mut names = Vec::with_capacity(upstream.endpoints.len());
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            let Some(text) = &endpoint.tls_name else {
                names.push(None);
                continue;
            };
            let name = ServerName::try_from(text.to_string());
            if name.is_err() {
                let field = format!("{at}.endpoints[{index}]");
                findings.error(&field, format!("`{text}` can't be a name in a certificate"));
            }
            names.push(name.ok());
        }
        if findings.errors.len() > before {
            return None;
        }
        let http2 = upstream.http2.is_some();
        let client = match old {
            Some(old)
                if old.settings == *settings
                    && old.http2 == http2
                    && same_contents(&old.contents, &contents) =>
            {
                if old.names == names {
                    return Some(Arc::clone(old));
                }
                Arc::clone(&old.client)
            }
            _ => {
                let made = TlsClient::new(&ClientSettings {
                    trust: trust?,
                    certificate,
                    versions: versions(settings.min_version, settings.max_version),
                    // Nothing but what is to be spoken: an origin must not choose otherwise.
                    protocols: vec![if http2 { Protocol::H2 } else { Protocol::Http11 }],
                });
                match made {
                    Ok(client) => client,
                    Err(error) => {
                        findings
                            .error(&format!("{at}.tls"), format!("these settings can't be used: {error}"));
                        return None;
                    }
                }
            }
        };
        let name = Arc::clone(&upstream.name);
        Some(Arc::new(UpstreamPart { name, settings: settings.clone(), http2, contents, client, names }))
    }

    /// A chain and its key, with whatever is to be said of them. `fields` are the settings' names of the two.
    fn certificate(
        &mut self,
        files: &CertificateFiles,
        at: &str,
        fields: [&str; 2],
        contents: &mut Vec<Content>,
        findings: &mut Findings,
    ) -> Option<Certificate> {
        let [chain_at, key_at] = fields.map(|field| format!("{at}.{field}"));
        let chain = self.content(&files.cert, &chain_at, contents, findings);
        let key = self.content(&files.key, &key_at, contents, findings);
        let ocsp = match &files.ocsp {
            Some(path) => Some(self.content(path, &format!("{at}.ocsp"), contents, findings)?.to_vec()),
            None => None,
        };
        let (chain, key) = (chain?, key?);
        if others_may_read(&files.key) {
            let message = format!("{}: every user of this machine may read the key", files.key.display());
            findings.warn(&key_at, message, Some("chmod o-r"));
        }
        let certificate = match Certificate::parse(&chain, &key, ocsp) {
            Ok(certificate) => certificate,
            Err((part, problem)) => {
                let (field, path) = match part {
                    Part::Chain => (&chain_at, &files.cert),
                    Part::Key => (&key_at, &files.key),
                };
                findings.error(field, format!("{}: {problem}", path.display()));
                return None;
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let path = files.cert.display();
        if certificate.not_after_s < now {
            let date = date(certificate.not_after_s);
            findings.warn(&chain_at, format!("{path}: expired on {date}, peers will refuse it"), None);
        } else if certificate.not_before_s > now {
            let date = date(certificate.not_before_s);
            findings.warn(&chain_at, format!("{path}: not valid before {date}, peers will refuse it"), None);
        }
        Some(certificate)
    }

    fn authorities(
        &mut self,
        path: &Path,
        at: &str,
        contents: &mut Vec<Content>,
        findings: &mut Findings,
    ) -> Option<Vec<crate::net::tls::certificate::Der>> {
        let content = self.content(path, at, contents, findings)?;
        match chain_of(&content) {
            Ok(authorities) => Some(authorities),
            Err(problem) => {
                findings.error(at, format!("{}: {problem}", path.display()));
                None
            }
        }
    }

    /// The system's authorities, read once.
    fn system(&mut self, at: &str, findings: &mut Findings) -> Option<Authorities> {
        if self.system.is_none() {
            match Authorities::of_system() {
                Ok(found) => self.system = Some(found),
                Err(error) => findings.errors.push(Remark {
                    path: at.to_owned(),
                    message: format!("the authorities that this system trusts can't be read: {error}"),
                    hint: Some(
                        "install the package ca-certificates, or name a file with `tls.ca`".to_owned(),
                    ),
                }),
            }
        }
        self.system.clone()
    }

    fn random_keys(
        &mut self,
        listener: &Arc<str>,
        every: Duration,
        now: Instant,
        at: &str,
        findings: &mut Findings,
    ) -> Option<&Rotating> {
        if !self.tickets.contains_key(listener) {
            let Ok(keys) = TicketKeys::random() else {
                findings.error(at, "this system has no random numbers");
                return None;
            };
            self.tickets.insert(Arc::clone(listener), Rotating { keys, generation: 1, since: now, every });
        }
        let rotating = self.tickets.get_mut(listener)?;
        rotating.every = every;
        Some(rotating)
    }

    fn ticket_keys(
        &mut self,
        path: &Path,
        at: &str,
        contents: &mut Vec<Content>,
        findings: &mut Findings,
    ) -> Option<TicketKeys> {
        let content = self.content(path, at, contents, findings)?;
        if others_may_read(path) {
            let message = format!("{}: every user of this machine may read the keys", path.display());
            findings.warn(at, message, Some("chmod o-r"));
        }
        match secrets(&content) {
            Ok(secrets) => Some(TicketKeys::of_secrets(&secrets)),
            Err(error) => {
                findings.error(at, format!("{}: {error}", path.display()));
                None
            }
        }
    }

    fn content(
        &mut self,
        path: &Path,
        at: &str,
        contents: &mut Vec<Content>,
        findings: &mut Findings,
    ) -> Option<Content> {
        let (_, kept) = self.files.entry(path.to_owned()).or_insert_with(|| {
            let mut source = FileSource::new(path);
            let read = match source.poll() {
                Some(Ok(bytes)) => Ok(Content::from(bytes)),
                Some(Err(error)) => Err(error.to_string()),
                None => Err(format!("can't read {}", path.display())),
            };
            (source, read)
        });
        match kept {
            Ok(content) => {
                contents.push(Arc::clone(content));
                Some(Arc::clone(content))
            }
            Err(error) => {
                findings.error(at, error.clone());
                None
            }
        }
    }
}

fn paths_of(files: &CertificateFiles) -> impl Iterator<Item = &Path> {
    [Some(&files.cert), Some(&files.key), files.ocsp.as_ref()].into_iter().flatten().map(PathBuf::as_path)
}

/// Names that a certificate of the same kind has already: the later one is never shown for them.
fn duplicates(certificates: &[Certificate], at: &str, findings: &mut Findings) {
    let mut seen = HashMap::new();
    for (index, certificate) in certificates.iter().enumerate() {
        for name in &certificate.names {
            let first = *seen.entry((name, certificate.kind)).or_insert(index);
            if first != index {
                let kind = certificate.kind;
                let message = format!(
                    "certificates[{first}] has `{name}` too, also with {kind}: this one is not used for it"
                );
                findings.warn(&format!("{at}.certificates[{index}].cert"), message, None);
            }
        }
    }
}

fn others_may_read(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

fn versions(min: TlsVersion, max: TlsVersion) -> Versions {
    let version = |version| match version {
        TlsVersion::Tls12 => Version::Tls12,
        TlsVersion::Tls13 => Version::Tls13,
    };
    Versions { min: version(min), max: version(max) }
}

fn protocol(alpn: Alpn) -> Protocol {
    match alpn {
        Alpn::H2 => Protocol::H2,
        Alpn::Http11 => Protocol::Http11,
    }
}

/// Ticket keys, one a line; empty lines and those that start with `#` count for nothing.
fn secrets(content: &[u8]) -> Result<Vec<[u8; SECRET_BYTES]>, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not text".to_owned())?;
    let mut secrets = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad =
            || format!("line {} is no key: expected {} hexadecimal digits", number + 1, SECRET_BYTES * 2);
        let digits = line.as_bytes();
        if digits.len() != SECRET_BYTES * 2 {
            return Err(bad());
        }
        let mut secret = [0; SECRET_BYTES];
        for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| (digit as char).to_digit(16).ok_or_else(bad);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        secrets.push(secret);
    }
    match secrets.len() {
        0 => Err("there is no key in it".to_owned()),
        1..=TICKET_KEYS_MAX => Ok(secrets),
        many => Err(format!("{many} keys; at most {TICKET_KEYS_MAX} are accepted")),
    }
}

/// The day of a time, as in 2026-11-23. Civil-from-days after Howard Hinnant.
fn date(unix_s: i64) -> String {
    let z = unix_s.div_euclid(86_400) + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{:02}", doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::{date, secrets};

    #[test]
    fn dates() {
        for (unix, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (4_102_444_799, "2099-12-31"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(date(unix), expected);
        }
    }

    #[test]
    fn ticket_keys_are_read_line_by_line() {
        let key = "0123456789abcdefABCDEF0123456789".repeat(2);
        let nine = format!("{key}\n").repeat(9);
        for (text, expected) in [
            (format!("# new first\n{key}\n\n  {key}  \n"), Ok(2)),
            (key.clone(), Ok(1)),
            (String::new(), Err("no key in it")),
            ("# none\n".to_owned(), Err("no key in it")),
            (format!("{key}\n{}", &key[1..]), Err("line 2 is no key")),
            (format!("{}+0", &key[2..]), Err("line 1 is no key")),
            (nine, Err("9 keys; at most 8")),
        ] {
            match (secrets(text.as_bytes()), expected) {
                (Ok(secrets), Ok(count)) => {
                    assert_eq!(secrets.len(), count);
                    assert_eq!(secrets[0][..4], [0x01, 0x23, 0x45, 0x67]);
                }
                (Err(error), Err(fragment)) => assert!(error.contains(fragment), "{error}"),
                (outcome, _) => panic!("{text}: {outcome:?}"),
            }
        }
        assert!(secrets(&[0xff]).unwrap_err().contains("not text"));
    }
}
