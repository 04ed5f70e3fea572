//! The TLS settings of listeners and upstreams. What the named files hold is checked by the control thread, which
//! reads them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::Compiler;
use crate::config::raw;
use crate::config::snapshot::{
    CertificateFiles, ClientCertificates, ListenerTls, Tickets, UpstreamTls, Verify,
};
use crate::settings::address::{EndpointScheme, EndpointText, host_field};
use crate::settings::report::{At, ProblemKind, nearest};

/// Registered names of the cipher suites that can be had, best first; those of TLS 1.3 are the first three.
pub const CIPHERS: [&str; 9] = [
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

const CIPHERS_OF_TLS13: usize = 3;

/// RFC 6797 wants a year of whoever asks to be built into browsers (hstspreload.org).
const PRELOAD_MAX_AGE_S: u32 = 31_536_000;

impl Compiler<'_> {
    pub(super) fn listener_tls(&mut self, item: &At<'_>, listener: &raw::Listener) -> Option<ListenerTls> {
        let tls = listener.tls.as_ref()?;
        let at = item.field("tls");
        if listener.redirect_to_https.is_some_and(|to| to != raw::RedirectToHttps::Enabled(false)) {
            let redirect = item.field("redirect_to_https");
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &redirect,
                    "a listener with `tls` would redirect to itself without end",
                )
                .on_key()
                .with(&at);
        }
        let list = at.field("certificates");
        let certificates = tls
            .certificates
            .iter()
            .enumerate()
            .map(|(index, files)| {
                let entry = list.index(index);
                CertificateFiles {
                    cert: self.file(&entry.field("cert"), &files.cert),
                    key: self.file(&entry.field("key"), &files.key),
                    ocsp: files.ocsp.as_ref().map(|path| self.file(&entry.field("ocsp"), path)),
                }
            })
            .collect();
        self.versions(&at, tls.min_version, tls.max_version);
        let ciphers = self.ciphers(&at, tls);
        let alpn = at.field("alpn");
        for (index, protocol) in tls.alpn.iter().enumerate() {
            if tls.alpn[..index].contains(protocol) {
                self.bad_value(&alpn.index(index), "the protocol is there twice");
            }
        }
        Some(ListenerTls {
            certificates,
            min_version: tls.min_version,
            max_version: tls.max_version,
            ciphers,
            alpn: tls
                .alpn
                .iter()
                .copied()
                .filter(|p| listener.http2.enabled || *p != raw::Alpn::H2)
                .collect(),
            clients: self.clients(&at, tls),
            tickets: match &tls.tickets {
                raw::Tickets::Off(_) => None,
                raw::Tickets::On(settings) => {
                    let tickets = at.field("tickets");
                    let rotate = settings.rotate.as_std();
                    // RFC 8446 section 4.6.1: a ticket lives at most a week, and it may live for two rotations.
                    if !(60..=302_400).contains(&rotate.as_secs()) {
                        self.bad_value(&tickets.field("rotate"), "expected 1m to 84h");
                    }
                    let keys = settings.keys.as_ref().map(|path| self.file(&tickets.field("keys"), path));
                    Some(Tickets { keys, rotate })
                }
            },
            hsts: tls.hsts.as_ref().map(|hsts| self.hsts(&at.field("hsts"), hsts)).unwrap_or_default(),
        })
    }

    fn clients(&mut self, at: &At<'_>, tls: &raw::ListenerTls) -> ClientCertificates {
        let field = at.field("client_ca");
        let ca = tls.client_ca.as_ref().map(|path| self.file(&field, path));
        match (tls.client_certificates, ca) {
            (raw::ClientCertificates::Off, None) => ClientCertificates::Off,
            (raw::ClientCertificates::Off, Some(_)) => {
                self.errors
                    .add(
                        ProblemKind::Conflict,
                        &field,
                        "`client_ca` has no effect while clients are not asked",
                    )
                    .on_key()
                    .hint("set `client_certificates` to `optional` or `required`");
                ClientCertificates::Off
            }
            (raw::ClientCertificates::Optional, Some(ca)) => ClientCertificates::Optional(ca),
            (raw::ClientCertificates::Required, Some(ca)) => ClientCertificates::Required(ca),
            (raw::ClientCertificates::Optional | raw::ClientCertificates::Required, None) => {
                self.errors
                    .add(
                        ProblemKind::MissingField,
                        at,
                        "the field `client_ca` is missing: nobody vouches for clients",
                    )
                    .on_key();
                ClientCertificates::Off
            }
        }
    }

    fn ciphers(&mut self, at: &At<'_>, tls: &raw::ListenerTls) -> Vec<String> {
        let Some(names) = &tls.ciphers else { return Vec::new() };
        let list = at.field("ciphers");
        let mut usable = false;
        for (index, name) in names.iter().enumerate() {
            let entry = list.index(index);
            if names[..index].contains(name) {
                self.bad_value(&entry, format_args!("`{name}` is there twice"));
            }
            let Some(known) = CIPHERS.iter().position(|known| known == name) else {
                let message = match nearest(name, CIPHERS) {
                    Some(near) => format!("unknown cipher suite `{name}`, did you mean `{near}`?"),
                    None => format!("unknown cipher suite `{name}`"),
                };
                let all = CIPHERS.join(", ");
                self.errors.add(ProblemKind::UnknownName, &entry, message).hint(format!("known: {all}"));
                usable = true;
                continue;
            };
            let is_tls13 = known < CIPHERS_OF_TLS13;
            usable |= if is_tls13 {
                tls.max_version == raw::TlsVersion::Tls13
            } else {
                tls.min_version == raw::TlsVersion::Tls12
            };
        }
        if !usable {
            self.bad_value(&list, "none of these belongs to a version that is allowed: nobody could connect");
        }
        names.clone()
    }

    fn versions(&mut self, at: &At<'_>, min: raw::TlsVersion, max: raw::TlsVersion) {
        if min > max {
            let field = at.field("min_version");
            self.errors
                .add(ProblemKind::Conflict, &field, "`min_version` is newer than `max_version`")
                .with(&at.field("max_version"));
        }
    }

    fn hsts(&mut self, at: &At<'_>, hsts: &raw::Hsts) -> Box<str> {
        if hsts.preload && (!hsts.include_subdomains || hsts.max_age < PRELOAD_MAX_AGE_S) {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &at.field("preload"),
                    "browsers take no host into their list without `include_subdomains` and a `max_age` of a year",
                )
                .hint(format!("max_age: {PRELOAD_MAX_AGE_S}, include_subdomains: true"));
        }
        let mut line = format!("Strict-Transport-Security: max-age={}", hsts.max_age);
        if hsts.include_subdomains {
            line.push_str("; includeSubDomains");
        }
        if hsts.preload {
            line.push_str("; preload");
        }
        line.push_str("\r\n");
        line.into()
    }

    pub(super) fn redirect_to_https(&mut self, item: &At<'_>, listener: &raw::Listener) -> Option<u16> {
        match listener.redirect_to_https {
            None | Some(raw::RedirectToHttps::Enabled(false)) => None,
            Some(raw::RedirectToHttps::Enabled(true)) => Some(443),
            Some(raw::RedirectToHttps::Port(0)) => {
                self.bad_value(&item.field("redirect_to_https"), "port 0 can't be connected to");
                None
            }
            Some(raw::RedirectToHttps::Port(port)) => Some(port),
        }
    }

    pub(super) fn upstream_tls(&mut self, item: &At<'_>, upstream: &raw::Upstream) -> UpstreamTls {
        let defaults = raw::UpstreamTls::default();
        let at = item.field("tls");
        let tls = upstream.tls.as_ref().unwrap_or(&defaults);
        self.versions(&at, tls.min_version, tls.max_version);
        if tls.verify == Verify::Insecure {
            self.warnings
                .add(
                    ProblemKind::Suspicious,
                    &at.field("verify"),
                    "endpoints are not verified: anybody on the way can pose as one, read and change everything",
                )
                .hint("name the authority that signed their certificates with `ca`");
            if tls.ca.is_some() {
                self.errors
                    .add(
                        ProblemKind::Conflict,
                        &at.field("ca"),
                        "`ca` has no effect while nothing is verified",
                    )
                    .on_key()
                    .with(&at.field("verify"));
            }
        }
        let certificate = match (&tls.client_cert, &tls.client_key) {
            (Some(cert), Some(key)) => Some(CertificateFiles {
                cert: self.file(&at.field("client_cert"), cert),
                key: self.file(&at.field("client_key"), key),
                ocsp: None,
            }),
            (None, None) => None,
            (one, _) => {
                let (has, lacks) =
                    if one.is_some() { ("client_cert", "client_key") } else { ("client_key", "client_cert") };
                let message = format_args!("`{has}` needs `{lacks}`");
                self.errors.add(ProblemKind::MissingField, &at.field(has), message).on_key();
                None
            }
        };
        UpstreamTls {
            ca: tls.ca.as_ref().map(|path| self.file(&at.field("ca"), path)),
            verify: tls.verify,
            certificate,
            min_version: tls.min_version,
            max_version: tls.max_version,
        }
    }

    /// The name that one endpoint must prove, if TLS is spoken to it.
    pub(super) fn tls_name(
        &mut self,
        item: &At<'_>,
        at: &At<'_>,
        upstream: &raw::Upstream,
        endpoint: &EndpointText,
    ) -> Option<Arc<str>> {
        let Some(tls) = &upstream.tls else {
            return (endpoint.scheme == EndpointScheme::Https).then(|| endpoint.host.as_str().into());
        };
        let field = item.field("tls");
        if endpoint.scheme == EndpointScheme::Http {
            self.errors
                .add(ProblemKind::Conflict, at, "`http://` is plain HTTP, but the upstream has `tls`")
                .hint("write https://, or leave the scheme out")
                .with(&field);
        }
        let Some(name) = &tls.server_name else { return Some(endpoint.host.as_str().into()) };
        let is_name = name.parse::<IpAddr>().is_ok() || (!name.contains(':') && host_field(name).is_ok());
        if !is_name {
            let message = format_args!("`{name}` is no host name or IP address");
            self.bad_value(&field.field("server_name"), message);
        }
        Some(name.to_ascii_lowercase().into())
    }

    fn file(&mut self, at: &At<'_>, path: &str) -> PathBuf {
        if path.is_empty() || path.contains('\0') {
            self.bad_value(at, "expected the path of a file");
        }
        PathBuf::from(path)
    }
}
