//! The PROXY protocol, versions 1 and 2, as the `proxy-protocol.txt` that comes with `HAProxy` defines it: who the client
//! of the proxy before us is, said in front of the connection's first byte.
//!
//! Strict, because what it says decides on access: a header that two receivers could read differently is refused, and
//! after one the connection must be closed (section 2). Whether a peer may send one at all is the listener's business;
//! one that may must send it, so that nobody can choose (section 2 again: no guessing). Sans-IO; called by whoever
//! accepts, and by whoever connects to an origin that wants it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::limits::PROXY_HEADER_BYTES_MAX;
use crate::base::reason::ReasonCode;
use crate::http::grammar::parse_decimal;

pub use crate::http::http1::parse::Parsed;

/// One header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'b> {
    /// Bytes that it took. The connection's own begin there.
    pub bytes: usize,
    pub endpoints: Endpoints<'b>,
    /// Always empty in version 1 and with [`Endpoints::Local`].
    pub tlvs: Tlvs<'b>,
}

/// Between whom the connection is that the sender speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoints<'b> {
    /// The sender's own: a health check. Use the real addresses (section 2.2, command LOCAL).
    Local,
    /// Not said. Use the real addresses.
    Unknown,
    /// Both of one family.
    Inet { source: SocketAddr, destination: SocketAddr },
    /// Paths or abstract names, up to their first NUL; at most 108 bytes.
    Unix { source: &'b [u8], destination: &'b [u8] },
}

impl Endpoints<'_> {
    /// The client's address, where it is one of IP.
    pub fn source(&self) -> Option<SocketAddr> {
        match *self {
            Endpoints::Inet { source, .. } => Some(source),
            Endpoints::Local | Endpoints::Unknown | Endpoints::Unix { .. } => None,
        }
    }

    /// The address that the client connected to, where it is one of IP.
    pub fn destination(&self) -> Option<SocketAddr> {
        match *self {
            Endpoints::Inet { destination, .. } => Some(destination),
            Endpoints::Local | Endpoints::Unknown | Endpoints::Unix { .. } => None,
        }
    }
}

/// What else version 2 says, section 2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tlvs<'b> {
    /// The host name that the client asked for (SNI). Not checked but for being UTF-8.
    pub authority: Option<&'b str>,
    /// The protocol negotiated by ALPN.
    pub alpn: Option<&'b [u8]>,
    /// An opaque name of the connection, at most 128 bytes.
    pub unique_id: Option<&'b [u8]>,
    pub ssl: Option<Ssl<'b>>,
    /// The name of the sender's network namespace.
    pub netns: Option<&'b str>,
    /// Whether there was a CRC32C, which then was right; whether to write one.
    pub checksum: bool,
    /// All TLVs as they came, the unknown ones too, for [`Tlvs::iter`]. The encoder ignores it.
    pub raw: &'b [u8],
}

impl<'b> Tlvs<'b> {
    /// Type and value of each, as they came.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'b [u8])> + use<'b> {
        // Parsing went through all of them.
        TlvIter(self.raw).map_while(Result::ok)
    }
}

/// How the client reached the sender over TLS, section 2.2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ssl<'b> {
    /// A set of `SSL_*`.
    pub client: u8,
    /// 0 if the client sent a certificate and it was verified.
    pub verify: u32,
    /// Such as `TLSv1.3`.
    pub version: Option<&'b str>,
    pub common_name: Option<&'b str>,
    pub cipher: Option<&'b str>,
    pub signature_algorithm: Option<&'b str>,
    pub key_algorithm: Option<&'b str>,
}

/// The client connected over TLS.
pub const SSL_CONNECTED: u8 = 1;
/// It sent a certificate over this connection.
pub const SSL_CERTIFICATE_CONNECTION: u8 = 2;
/// It sent one in this TLS session.
pub const SSL_CERTIFICATE_SESSION: u8 = 4;

impl Ssl<'_> {
    /// The client proved to own a certificate that the sender trusts.
    pub fn is_verified(&self) -> bool {
        let sent = SSL_CERTIFICATE_CONNECTION | SSL_CERTIFICATE_SESSION;
        self.client & SSL_CONNECTED != 0 && self.client & sent != 0 && self.verify == 0
    }
}

/// Why a header is refused. The connection must be closed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The stream starts with neither version's signature.
    Signature,
    /// A first line that is none of version 1.
    Line,
    /// A line of version 1 without an end in 107 bytes.
    LineTooLong,
    /// An address of version 1 that isn't one of its family in canonical form.
    Address,
    /// A port of version 1 beyond 65,535 or with leading zeros.
    Port,
    /// The signature of version 2 with another version.
    Version,
    /// A command other than LOCAL and PROXY.
    Command,
    /// An address family or transport that isn't defined.
    Family,
    /// A header of version 2 that is too short for its addresses, or beyond `PROXY_HEADER_BYTES_MAX`.
    Length,
    /// A TLV that runs over its end, or whose value can't be one of its type.
    Tlv,
    /// A TLV that says twice what can be said once.
    TlvRepeated,
    /// The CRC32C is wrong.
    Checksum,
}

impl Malformed {
    /// A stable code for logs and metrics.
    pub fn reason(self) -> ReasonCode {
        match self {
            Malformed::Signature => ReasonCode::ProxySignature,
            Malformed::Line => ReasonCode::ProxyLine,
            Malformed::LineTooLong => ReasonCode::ProxyLineTooLong,
            Malformed::Address => ReasonCode::ProxyAddress,
            Malformed::Port => ReasonCode::ProxyPort,
            Malformed::Version => ReasonCode::ProxyVersion,
            Malformed::Command => ReasonCode::ProxyCommand,
            Malformed::Family => ReasonCode::ProxyFamily,
            Malformed::Length => ReasonCode::ProxyLength,
            Malformed::Tlv => ReasonCode::ProxyTlv,
            Malformed::TlvRepeated => ReasonCode::ProxyTlvRepeated,
            Malformed::Checksum => ReasonCode::ProxyChecksum,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PROXY header refused: {}", self.reason())
    }
}

impl std::error::Error for Malformed {}

/// Section 2.2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length.
const V2_FIXED_BYTES: usize = 16;

const V1_PREFIX: &[u8] = b"PROXY ";

/// Section 2.1: the longest line, CRLF included.
const V1_BYTES_MAX: usize = 107;

/// Section 2.2: what a Unix address takes on the wire.
const UNIX_BYTES: usize = 108;

/// Section 2.2.5.
const UNIQUE_ID_BYTES_MAX: usize = 128;

const TLV_ALPN: u8 = 0x01;
const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_VERSION: u8 = 0x21;
const TLV_SSL_COMMON_NAME: u8 = 0x22;
const TLV_SSL_CIPHER: u8 = 0x23;
const TLV_SSL_SIGNATURE_ALGORITHM: u8 = 0x24;
const TLV_SSL_KEY_ALGORITHM: u8 = 0x25;
const TLV_NETNS: u8 = 0x30;

/// Parses the header at the start of a connection. A header must be there: bytes that start none are refused.
pub fn parse(bytes: &[u8]) -> Result<Parsed<Header<'_>>, Malformed> {
    if starts_alike(bytes, SIGNATURE) {
        if bytes.len() < V2_FIXED_BYTES { check_v2_start(bytes) } else { parse_v2(bytes) }
    } else if starts_alike(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else {
        Err(Malformed::Signature)
    }
}

/// One is a prefix of the other.
fn starts_alike(bytes: &[u8], signature: &[u8]) -> bool {
    let count = bytes.len().min(signature.len());
    bytes[..count] == signature[..count]
}

/// `"PROXY" SP ( "TCP4" / "TCP6" ) SP source SP destination SP port SP port CRLF`, or `"PROXY UNKNOWN" anything CRLF`.
fn parse_v1(bytes: &[u8]) -> Result<Parsed<Header<'_>>, Malformed> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let line = match memchr::memchr2(b'\r', b'\n', window) {
        Some(end) => match window[end..] {
            [b'\r', b'\n', ..] => &window[..end],
            [b'\r'] if end + 1 < V1_BYTES_MAX => return Ok(Parsed::Partial),
            [b'\r'] => return Err(Malformed::LineTooLong),
            _ => return Err(Malformed::Line),
        },
        None if window.len() == V1_BYTES_MAX => return Err(Malformed::LineTooLong),
        None => return Ok(Parsed::Partial),
    };
    let text = std::str::from_utf8(&line[V1_PREFIX.len()..]).map_err(|_| Malformed::Line)?;
    let endpoints = if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        Endpoints::Unknown
    } else {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(Malformed::Line);
        let family = word()?;
        let (source, destination) = (word()?, word()?);
        let (source_port, destination_port) = (word()?, word()?);
        if words.next().is_some() {
            return Err(Malformed::Line);
        }
        let address = |text: &str| -> Result<IpAddr, Malformed> {
            match family {
                "TCP4" => text.parse().map(IpAddr::V4).map_err(|_| Malformed::Address),
                "TCP6" => text.parse().map(IpAddr::V6).map_err(|_| Malformed::Address),
                _ => Err(Malformed::Line),
            }
        };
        Endpoints::Inet {
            source: SocketAddr::new(address(source)?, port(source_port)?),
            destination: SocketAddr::new(address(destination)?, port(destination_port)?),
        }
    };
    Ok(Parsed::Complete(Header { bytes: line.len() + 2, endpoints, tlvs: Tlvs::default() }))
}

fn port(text: &str) -> Result<u16, Malformed> {
    if text.len() > 1 && text.starts_with('0') {
        return Err(Malformed::Port);
    }
    let number = parse_decimal(text.as_bytes()).ok_or(Malformed::Port)?;
    u16::try_from(number).map_err(|_| Malformed::Port)
}

/// Refuses what can be refused before the length is known, so that the verdict doesn't depend on the cut.
fn check_v2_start(bytes: &[u8]) -> Result<Parsed<Header<'_>>, Malformed> {
    if let Some(&version_command) = bytes.get(12) {
        let is_local = command(version_command)?;
        if let Some(&family) = bytes.get(13) {
            address_bytes(family, is_local)?;
        }
    }
    Ok(Parsed::Partial)
}

/// Whether the command is LOCAL.
fn command(version_command: u8) -> Result<bool, Malformed> {
    match (version_command >> 4, version_command & 15) {
        (2, 0) => Ok(true),
        (2, 1) => Ok(false),
        (2, _) => Err(Malformed::Command),
        _ => Err(Malformed::Version),
    }
}

/// What the addresses of a family and transport take. The receiver of LOCAL ignores both (section 2.2).
fn address_bytes(family: u8, is_local: bool) -> Result<usize, Malformed> {
    match (family >> 4, family & 15) {
        _ if is_local => Ok(0),
        (0, 0..=2) => Ok(0),
        (1, 0..=2) => Ok(12),
        (2, 0..=2) => Ok(36),
        (3, 0..=2) => Ok(2 * UNIX_BYTES),
        _ => Err(Malformed::Family),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed<Header<'_>>, Malformed> {
    let (version_command, family) = (bytes[12], bytes[13]);
    let is_local = command(version_command)?;
    let address_bytes = address_bytes(family, is_local)?;
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length < address_bytes || V2_FIXED_BYTES + length > PROXY_HEADER_BYTES_MAX {
        return Err(Malformed::Length);
    }
    let Some(header) = bytes.get(..V2_FIXED_BYTES + length) else {
        return Ok(Parsed::Partial);
    };
    if is_local {
        let (endpoints, tlvs) = (Endpoints::Local, Tlvs::default());
        return Ok(Parsed::Complete(Header { bytes: header.len(), endpoints, tlvs }));
    }
    let (addresses, rest) = header[V2_FIXED_BYTES..].split_at(address_bytes);
    let endpoints = match (family >> 4, family & 15) {
        (1, 1..) => inet::<4>(addresses),
        (2, 1..) => inet::<16>(addresses),
        (3, 1..) => Endpoints::Unix {
            source: until_nul(&addresses[..UNIX_BYTES]),
            destination: until_nul(&addresses[UNIX_BYTES..]),
        },
        // Section 2.2: addresses without a transport mean nothing.
        _ => Endpoints::Unknown,
    };
    let tlvs = parse_tlvs(rest, header)?;
    Ok(Parsed::Complete(Header { bytes: header.len(), endpoints, tlvs }))
}

/// Two addresses of N bytes each, then two ports.
fn inet<const N: usize>(bytes: &[u8]) -> Endpoints<'_>
where
    IpAddr: From<[u8; N]>,
{
    let ip = |at: usize| {
        let mut octets = [0; N];
        octets.copy_from_slice(&bytes[at..at + N]);
        IpAddr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Endpoints::Inet {
        source: SocketAddr::new(ip(0), port(2 * N)),
        destination: SocketAddr::new(ip(N), port(2 * N + 2)),
    }
}

/// An abstract name starts with a NUL, which belongs to it.
fn until_nul(bytes: &[u8]) -> &[u8] {
    let from = usize::from(bytes.first() == Some(&0) && bytes.get(1).is_some_and(|&byte| byte != 0));
    let end = memchr::memchr(0, &bytes[from..]).map_or(bytes.len(), |at| from + at);
    &bytes[..end]
}

struct TlvIter<'b>(&'b [u8]);

impl<'b> Iterator for TlvIter<'b> {
    type Item = Result<(u8, &'b [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let tlv = split_tlv(self.0);
        self.0 = tlv.map_or(&[], |(_, _, rest)| rest);
        Some(tlv.map(|(kind, value, _)| (kind, value)).ok_or(Malformed::Tlv))
    }
}

/// Type, value and what follows.
fn split_tlv(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((kind, value, rest))
}

fn parse_tlvs<'b>(bytes: &'b [u8], header: &'b [u8]) -> Result<Tlvs<'b>, Malformed> {
    let mut tlvs = Tlvs { raw: bytes, ..Tlvs::default() };
    for tlv in TlvIter(bytes) {
        let (kind, value) = tlv?;
        match kind {
            TLV_ALPN => once(&mut tlvs.alpn, value)?,
            TLV_AUTHORITY => once(&mut tlvs.authority, text(value)?)?,
            TLV_UNIQUE_ID if value.len() > UNIQUE_ID_BYTES_MAX => return Err(Malformed::Tlv),
            TLV_UNIQUE_ID => once(&mut tlvs.unique_id, value)?,
            TLV_NETNS => once(&mut tlvs.netns, text(value)?)?,
            TLV_SSL => once(&mut tlvs.ssl, parse_ssl(value)?)?,
            TLV_CRC32C => {
                if tlvs.checksum {
                    return Err(Malformed::TlvRepeated);
                }
                let said = value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Tlv)?;
                if said != checksum_with_zeros(header, value) {
                    return Err(Malformed::Checksum);
                }
                tlvs.checksum = true;
            }
            // NOOP, and what we don't know (section 2.2: must be ignored).
            _ => {}
        }
    }
    Ok(tlvs)
}

fn parse_ssl(bytes: &[u8]) -> Result<Ssl<'_>, Malformed> {
    let (&client, rest) = bytes.split_first().ok_or(Malformed::Tlv)?;
    let (&verify, rest) = rest.split_first_chunk().ok_or(Malformed::Tlv)?;
    let mut ssl = Ssl { client, verify: u32::from_be_bytes(verify), ..Ssl::default() };
    for tlv in TlvIter(rest) {
        let (kind, value) = tlv?;
        match kind {
            TLV_SSL_VERSION => once(&mut ssl.version, text(value)?)?,
            TLV_SSL_COMMON_NAME => once(&mut ssl.common_name, text(value)?)?,
            TLV_SSL_CIPHER => once(&mut ssl.cipher, text(value)?)?,
            TLV_SSL_SIGNATURE_ALGORITHM => once(&mut ssl.signature_algorithm, text(value)?)?,
            TLV_SSL_KEY_ALGORITHM => once(&mut ssl.key_algorithm, text(value)?)?,
            _ => {}
        }
    }
    Ok(ssl)
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::TlvRepeated),
    }
}

fn text(value: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(value).map_err(|_| Malformed::Tlv)
}

/// Appends a header of version 1. It has no word for LOCAL and Unix addresses: they are UNKNOWN.
pub fn encode_v1(endpoints: &Endpoints<'_>, out: &mut Vec<u8>) {
    let Endpoints::Inet { source, destination } = endpoints else {
        out.extend_from_slice(b"PROXY UNKNOWN\r\n");
        return;
    };
    let (source_ip, destination_ip) = one_family(source.ip(), destination.ip());
    let family = if source_ip.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source_ip, destination_ip) = (ip_text(source_ip), ip_text(destination_ip));
    let (source_port, destination_port) = (source.port(), destination.port());
    let line = format!("PROXY {family} {source_ip} {destination_ip} {source_port} {destination_port}\r\n");
    out.extend_from_slice(line.as_bytes());
}

/// Section 2.1 knows groups of hexadecimal digits only, not the dotted form that the last 32 bits may take.
fn ip_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            let [.., high, low] = ip.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        ip => ip.to_string(),
    }
}

/// Both as they are if they are of one family, else the one of IPv4 mapped into IPv6.
fn one_family(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    if one.is_ipv4() == other.is_ipv4() { (one, other) } else { (wide(one), wide(other)) }
}

/// Appends a header of version 2 with the fields of `tlvs` that are there; nothing if it would be too long. LOCAL is
/// sent without any.
pub fn encode_v2(endpoints: &Endpoints<'_>, tlvs: &Tlvs<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    let written = push_v2(endpoints, tlvs, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn push_v2(endpoints: &Endpoints<'_>, tlvs: &Tlvs<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    out.extend_from_slice(SIGNATURE);
    match endpoints {
        Endpoints::Local => {
            out.extend_from_slice(&[0x20, 0, 0, 0]);
            return Ok(());
        }
        Endpoints::Unknown => out.extend_from_slice(&[0x21, 0, 0, 0]),
        Endpoints::Inet { source, destination } => {
            let ips = one_family(source.ip(), destination.ip());
            out.extend_from_slice(&[0x21, if ips.0.is_ipv4() { 0x11 } else { 0x21 }, 0, 0]);
            for ip in [ips.0, ips.1] {
                match ip {
                    IpAddr::V4(ip) => out.extend_from_slice(&Ipv4Addr::octets(&ip)),
                    IpAddr::V6(ip) => out.extend_from_slice(&Ipv6Addr::octets(&ip)),
                }
            }
            for port in [source.port(), destination.port()] {
                out.extend_from_slice(&port.to_be_bytes());
            }
        }
        Endpoints::Unix { source, destination } => {
            out.extend_from_slice(&[0x21, 0x31, 0, 0]);
            for path in [source, destination] {
                let zeros = UNIX_BYTES.checked_sub(path.len()).ok_or(Malformed::Length)?;
                out.extend_from_slice(path);
                out.extend_from_slice(&[0; UNIX_BYTES][..zeros]);
            }
        }
    }
    // The checksum stands first, where a receiver finds it at once.
    if tlvs.checksum {
        push_tlv(TLV_CRC32C, &[0; 4], out)?;
    }
    let checksum_end = out.len();
    push_all(
        &[
            (TLV_ALPN, tlvs.alpn),
            (TLV_AUTHORITY, tlvs.authority.map(str::as_bytes)),
            (TLV_UNIQUE_ID, tlvs.unique_id),
            (TLV_NETNS, tlvs.netns.map(str::as_bytes)),
        ],
        out,
    )?;
    if tlvs.unique_id.is_some_and(|id| id.len() > UNIQUE_ID_BYTES_MAX) {
        return Err(Malformed::Tlv);
    }
    if let Some(ssl) = &tlvs.ssl {
        let mut value = vec![ssl.client];
        value.extend_from_slice(&ssl.verify.to_be_bytes());
        push_all(
            &[
                (TLV_SSL_VERSION, ssl.version.map(str::as_bytes)),
                (TLV_SSL_COMMON_NAME, ssl.common_name.map(str::as_bytes)),
                (TLV_SSL_CIPHER, ssl.cipher.map(str::as_bytes)),
                (TLV_SSL_SIGNATURE_ALGORITHM, ssl.signature_algorithm.map(str::as_bytes)),
                (TLV_SSL_KEY_ALGORITHM, ssl.key_algorithm.map(str::as_bytes)),
            ],
            &mut value,
        )?;
        push_tlv(TLV_SSL, &value, out)?;
    }
    let length = out.len() - start - V2_FIXED_BYTES;
    if V2_FIXED_BYTES + length > PROXY_HEADER_BYTES_MAX {
        return Err(Malformed::Length);
    }
    let length = u16::try_from(length).map_err(|_| Malformed::Length)?;
    out[start + 14..start + 16].copy_from_slice(&length.to_be_bytes());
    if tlvs.checksum {
        let sum = crc32c(0, &out[start..]);
        out[checksum_end - 4..checksum_end].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

fn push_all(tlvs: &[(u8, Option<&[u8]>)], out: &mut Vec<u8>) -> Result<(), Malformed> {
    for &(kind, value) in tlvs {
        if let Some(value) = value {
            push_tlv(kind, value, out)?;
        }
    }
    Ok(())
}

fn push_tlv(kind: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let length = u16::try_from(value.len()).map_err(|_| Malformed::Length)?;
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// The header's CRC32C as if the four bytes of `value`, a part of it, were zero (section 2.2.4).
fn checksum_with_zeros(header: &[u8], value: &[u8]) -> u32 {
    let start = value.as_ptr().addr() - header.as_ptr().addr();
    let before = crc32c(0, &header[..start]);
    crc32c(crc32c(before, &[0; 4]), &header[start + 4..])
}

/// CRC32C of RFC 3720 appendix B.4, one byte at a time: a header has some hundred bytes, once a connection.
fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    static TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut rest = index as u32;
            let mut bit = 0;
            while bit < 8 {
                rest = if rest & 1 == 1 { rest >> 1 ^ 0x82f6_3b78 } else { rest >> 1 };
                bit += 1;
            }
            table[index] = rest;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!before, |sum, &byte| TABLE[((sum ^ u32::from(byte)) & 0xff) as usize] ^ sum >> 8)
}

#[cfg(test)]
mod tests;
