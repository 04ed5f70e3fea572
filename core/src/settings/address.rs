//! Addresses as the file writes them. Pure text: nothing is resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    Ip(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    /// The host in lower case. The control thread resolves it.
    Name {
        host: Arc<str>,
        port: u16,
    },
    Unix(PathBuf),
}

/// A host, or all below one. In lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Box<str>),
    /// What follows the `*`, with its dot: `.example.org`. Fits any number of labels before it, but one at least.
    Wildcard(Box<str>),
}

/// Why a text is no address. Its `Display` is the sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressError {
    NoPort,
    BadPort(String),
    PortZero,
    NotAnIp(String),
    BadHost(String),
    BadIpv6,
    BareIpv6,
    Scheme(String),
    HasPath,
    HasUserinfo,
    UnixPath,
    UnixTooLong,
    HostWithPort,
    HostWithPath,
    BadWildcard,
}

/// `ip:port`, `[ipv6]:port` or `unix:/path`. Port 0 (any free one) is for tests and tools.
pub(crate) fn listen_address(text: &str) -> Result<ListenAddress, AddressError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(ListenAddress::Unix);
    }
    if text.contains("://") {
        return Err(AddressError::Scheme(text.split("://").next().unwrap_or_default().to_owned()));
    }
    let (host, port) = host_port(text)?;
    let port = port.ok_or(AddressError::NoPort)?;
    let ip = if host.starts_with('[') { IpAddr::V6(ipv6(host)?) } else { ipv4(host)? };
    Ok(ListenAddress::Ip(SocketAddr::new(ip, port)))
}

/// Whether an endpoint's address says how to speak to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointScheme {
    Http,
    Https,
    /// It leaves that to the upstream's settings.
    Unsaid,
}

/// What the text of an endpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointText {
    pub(crate) address: EndpointAddress,
    pub(crate) scheme: EndpointScheme,
    /// Host or address, without brackets, in lower case.
    pub(crate) host: String,
    /// 0 for a unix socket.
    port: u16,
}

impl EndpointText {
    /// What a Host field says, given the port that goes without saying.
    pub(crate) fn authority(&self, scheme_port: u16) -> Arc<str> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let bare = self.port == scheme_port || self.port == 0;
        if bare { host.into() } else { format!("{host}:{}", self.port).into() }
    }
}

/// The address of an endpoint.
pub(crate) fn endpoint_address(text: &str) -> Result<EndpointText, AddressError> {
    if let Some(path) = text.strip_prefix("unix:") {
        let address = unix_path(path).map(EndpointAddress::Unix)?;
        return Ok(EndpointText {
            address,
            scheme: EndpointScheme::Unsaid,
            host: "localhost".into(),
            port: 0,
        });
    }
    let (scheme, authority, default_port) = match text.split_once("://") {
        // `h2c` is http that speaks HTTP/2 from the start; `upstream_http2` makes something of it.
        Some(("http" | "h2c", rest)) => {
            (EndpointScheme::Http, rest.strip_suffix('/').unwrap_or(rest), Some(80))
        }
        Some(("https", rest)) => (EndpointScheme::Https, rest.strip_suffix('/').unwrap_or(rest), Some(443)),
        Some((scheme, _)) => return Err(AddressError::Scheme(scheme.to_owned())),
        None => (EndpointScheme::Unsaid, text, None),
    };
    if authority.contains(['/', '?', '#']) {
        return Err(AddressError::HasPath);
    }
    if authority.contains('@') {
        return Err(AddressError::HasUserinfo);
    }
    let (host, port) = host_port(authority)?;
    let port = port.or(default_port).ok_or(AddressError::NoPort)?;
    if port == 0 {
        return Err(AddressError::PortZero);
    }
    let address = if host.starts_with('[') {
        EndpointAddress::Ip(SocketAddr::new(IpAddr::V6(ipv6(host)?), port))
    } else if let Ok(ip) = host.parse() {
        EndpointAddress::Ip(SocketAddr::new(IpAddr::V4(ip), port))
    } else {
        EndpointAddress::Name { host: dns_name(host)?.into(), port }
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Ok(EndpointText { address, scheme, host, port })
}

/// A host of `match.hosts`: a name, an address, or `*.` and a name.
pub(crate) fn host_pattern(text: &str) -> Result<HostPattern, AddressError> {
    if text.contains('/') {
        return Err(AddressError::HostWithPath);
    }
    if text.starts_with('[') {
        let (host, port) = host_port(text)?;
        if port.is_some() {
            return Err(AddressError::HostWithPort);
        }
        return Ok(HostPattern::Exact(format!("[{}]", ipv6(host)?).into()));
    }
    if text.contains(':') {
        return Err(if text.parse::<Ipv6Addr>().is_ok() {
            AddressError::BareIpv6
        } else {
            AddressError::HostWithPort
        });
    }
    if let Some(rest) = text.strip_prefix("*.") {
        if rest.contains('*') {
            return Err(AddressError::BadWildcard);
        }
        return Ok(HostPattern::Wildcard(format!(".{}", dns_name(rest)?).into()));
    }
    if text.contains('*') {
        return Err(AddressError::BadWildcard);
    }
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        return Ok(HostPattern::Exact(text.into()));
    }
    Ok(HostPattern::Exact(dns_name(text)?.into()))
}

/// What may stand in a Host field: a name or an address, and perhaps a port. In lower case.
pub(crate) fn host_field(text: &str) -> Result<String, AddressError> {
    if text.contains(['/', '?', '#']) {
        return Err(AddressError::HostWithPath);
    }
    if text.contains('@') {
        return Err(AddressError::HasUserinfo);
    }
    let (host, port) = host_port(text)?;
    if port == Some(0) {
        return Err(AddressError::PortZero);
    }
    if host.starts_with('[') {
        ipv6(host)?;
    } else if ipv4(host).is_err() {
        dns_name(host)?;
    }
    Ok(text.to_ascii_lowercase())
}

fn host_port(text: &str) -> Result<(&str, Option<u16>), AddressError> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(AddressError::BadIpv6)? + 1;
        let (host, rest) = text.split_at(end);
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(AddressError::BadIpv6),
        }
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return Err(AddressError::BareIpv6),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = port.map(|port| decimal_port(port).ok_or_else(|| AddressError::BadPort(port.to_owned())));
    Ok((host, port.transpose()?))
}

/// `str::parse` would take a leading `+`.
fn decimal_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn ipv4(host: &str) -> Result<IpAddr, AddressError> {
    host.parse().map(IpAddr::V4).map_err(|_| AddressError::NotAnIp(host.to_owned()))
}

fn ipv6(bracketed: &str) -> Result<Ipv6Addr, AddressError> {
    let inner = bracketed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.and_then(|inner| inner.parse().ok()).ok_or(AddressError::BadIpv6)
}

/// RFC 1123 section 2.1, and underscores, which container platforms put in names. In lower case, without the
/// trailing dot.
fn dns_name(host: &str) -> Result<String, AddressError> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name that ends in a number is a mistyped address (WHATWG URL, "ends in a number").
    let numeric =
        name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() <= 253 && name.split('.').all(label_fits) && !numeric {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(AddressError::BadHost(host.to_owned()))
    }
}

fn unix_path(path: &str) -> Result<PathBuf, AddressError> {
    // unix(7): sun_path is 108 bytes, its terminating NUL included.
    const SUN_PATH_BYTES_MAX: usize = 107;
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(AddressError::UnixPath);
    }
    if path.len() > SUN_PATH_BYTES_MAX {
        return Err(AddressError::UnixTooLong);
    }
    Ok(PathBuf::from(path))
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::NoPort => f.write_str("the port is missing"),
            AddressError::BadPort(port) => write!(f, "`{port}` is no port; expected a number up to 65535"),
            AddressError::PortZero => f.write_str("port 0 can't be connected to"),
            AddressError::NotAnIp(host) => {
                write!(f, "`{host}` is no IP address; to listen on every address write 0.0.0.0 or [::]")
            }
            AddressError::BadHost(host) => write!(f, "`{host}` is no host name or IP address"),
            AddressError::BadIpv6 => f.write_str("malformed IPv6 address; write it as in [::1]:8080"),
            AddressError::BareIpv6 => f.write_str("an IPv6 address stands in brackets, as in [::1]"),
            AddressError::Scheme(scheme) => write!(f, "`{scheme}://` is not understood here"),
            AddressError::HasPath => {
                f.write_str("an endpoint has no path; use the route's `rewrite` to change paths")
            }
            AddressError::HasUserinfo => f.write_str("user names don't belong in an address"),
            AddressError::UnixPath => f.write_str("expected an absolute path, as in unix:/run/app.sock"),
            AddressError::UnixTooLong => f.write_str("the path of a unix socket has at most 107 bytes"),
            AddressError::HostWithPort => f.write_str("a host is matched without its port; leave it out"),
            AddressError::HostWithPath => f.write_str("a host has no path; use `match.path`"),
            AddressError::BadWildcard => {
                f.write_str("`*` may only stand for the left-most labels, as in *.example.org")
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::{endpoint_address, host_field, host_pattern, listen_address};

    fn check<T: std::fmt::Debug>(
        parse: impl Fn(&str) -> Result<T, super::AddressError>,
        cases: &[(&str, Result<&str, &str>)],
    ) {
        for (text, expected) in cases {
            match (parse(text), expected) {
                (Ok(value), Ok(fragment)) => {
                    assert!(format!("{value:?}").contains(fragment), "{text}: {value:?}");
                }
                (Err(error), Err(fragment)) => {
                    assert!(error.to_string().contains(fragment), "{text}: {error}");
                }
                (outcome, _) => panic!("{text}: {outcome:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn listen_addresses() {
        check(
            listen_address,
            &[
                ("0.0.0.0:8080", Ok("Ip(0.0.0.0:8080)")),
                ("127.0.0.1:0", Ok("Ip(127.0.0.1:0)")),
                ("[::]:80", Ok("Ip([::]:80)")),
                ("unix:/run/x.sock", Ok("Unix(\"/run/x.sock\")")),
                ("0.0.0.0", Err("port is missing")),
                (":8080", Err("0.0.0.0")),
                ("localhost:8080", Err("`localhost` is no IP address")),
                ("0.0.0.0:65536", Err("`65536` is no port")),
                ("0.0.0.0:+80", Err("`+80` is no port")),
                ("::1:80", Err("brackets")),
                ("[::1", Err("malformed IPv6")),
                ("[::1]80", Err("malformed IPv6")),
                ("http://0.0.0.0:80", Err("`http://` is not understood")),
                ("unix:x.sock", Err("absolute path")),
                ("unix:/run/", Err("absolute path")),
            ],
        );
        assert!(listen_address(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn endpoint_addresses() {
        check(
            |text| {
                endpoint_address(text).map(|e| format!("{:?} {:?} {}", e.address, e.scheme, e.authority(80)))
            },
            &[
                ("http://127.0.0.1:9001", Ok("Ip(127.0.0.1:9001) Http 127.0.0.1:9001")),
                ("http://127.0.0.1/", Ok("Ip(127.0.0.1:80) Http 127.0.0.1")),
                ("http://Users.Internal", Ok("port: 80 } Http users.internal")),
                ("my_app:9000", Ok("port: 9000 } Unsaid my_app:9000")),
                ("[::1]:80", Ok("Ip([::1]:80) Unsaid [::1]")),
                ("unix:/run/x.sock", Ok("Unix(\\\"/run/x.sock\\\") Unsaid localhost")),
                ("users.internal", Err("port is missing")),
                ("127.0.0.1:0", Err("port 0")),
                ("https://a/", Ok("port: 443 } Https a:443")),
                ("https://[::1]:8443", Ok("Ip([::1]:8443) Https [::1]:8443")),
                ("ftp://a", Err("`ftp://`")),
                ("http://a/b", Err("no path")),
                ("http://u:p@a", Err("user names")),
                ("http://a b", Err("no host name")),
                ("http://", Err("no host name")),
                ("http://1.2.3", Err("`1.2.3` is no host name")),
                ("-a:80", Err("no host name")),
                ("a..b:80", Err("no host name")),
            ],
        );
    }

    #[test]
    fn host_patterns() {
        check(
            host_pattern,
            &[
                ("API.example.com", Ok("Exact(\"api.example.com\")")),
                ("example.com.", Ok("Exact(\"example.com\")")),
                ("*.Example.org", Ok("Wildcard(\".example.org\")")),
                ("127.0.0.1", Ok("Exact(\"127.0.0.1\")")),
                ("[::1]", Ok("Exact(\"[::1]\")")),
                ("localhost", Ok("Exact(\"localhost\")")),
                ("*", Err("left-most")),
                ("a.*.org", Err("left-most")),
                ("*a.org", Err("left-most")),
                ("*.*.org", Err("left-most")),
                ("a.org:80", Err("without its port")),
                ("[::1]:80", Err("without its port")),
                ("::1", Err("brackets")),
                ("http://a.org", Err("no path")),
                ("", Err("no host name")),
                ("exämple.org", Err("no host name")),
            ],
        );
        check(
            host_field,
            &[
                ("Users.internal", Ok("users.internal")),
                ("users.internal:8080", Ok("users.internal:8080")),
                ("[::1]:80", Ok("[::1]:80")),
                ("a b", Err("no host name")),
                ("a/b", Err("no path")),
                ("a@b", Err("user names")),
            ],
        );
    }
}
