//! What the origin is told about the client: X-Forwarded-*, Forwarded (RFC 7239), X-Real-IP and Via.
//!
//! With no trusted hops, whatever the client said about itself is dropped and replaced, so that no client can pose as
//! another. With trusted hops, the list that they sent grows by one entry at its right end, and what else they said
//! stands. It is for the caller to know whether the peer is a trusted hop; from one that isn't, use 0.

use std::net::{IpAddr, SocketAddr};

use crate::http::grammar::{is_token, list_members};
use crate::http::message::{FieldSet, RequestHead, Scheme, Version, Wire};
use crate::http::rewrite::HeaderOps;

/// Which fields to write, and how far to trust those that come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Proxies between the client and us that add to X-Forwarded-For. 0: believe nothing.
    pub trusted_hops: u8,
    /// Write X-Forwarded-For, -Proto and -Host.
    pub x_forwarded: bool,
    /// Write Forwarded.
    pub forwarded: bool,
    /// Write X-Real-IP.
    pub x_real_ip: bool,
    /// Our name in Via, a token (RFC 9110 section 7.6.3). None: no Via, as for a gateway that hides itself.
    pub via: Option<Box<str>>,
}

impl Default for Forwarding {
    fn default() -> Self {
        Forwarding { trusted_hops: 0, x_forwarded: true, forwarded: false, x_real_ip: false, via: None }
    }
}

/// What is known of one request's origin, rendered once per connection where it can be.
#[derive(Debug, Clone, Copy)]
pub struct ForwardingValues<'a> {
    /// The address of the peer of our socket (or of its PROXY header).
    pub peer_ip: &'a [u8],
    /// The effective client, see `client_address`. Equal to `peer_ip` without trusted hops.
    pub client_ip: &'a [u8],
    pub scheme: Scheme,
    /// What the request came over.
    pub wire: Wire,
}

impl Forwarding {
    /// Whether `via` may be written as it is.
    pub fn via_is_valid(&self) -> bool {
        self.via.as_deref().is_none_or(|name| is_token(name.as_bytes()))
    }

    /// The incoming fields to leave out: all without trust; with trust, those that `push_lines` writes again.
    #[inline]
    pub(crate) fn dropped_from(&self, head: &RequestHead<'_>) -> FieldSet {
        if self.trusted_hops == 0 || head.forwarding.is_empty() {
            return head.forwarding;
        }
        head.fields.places(|header| {
            (self.x_forwarded && header.is("x-forwarded-for"))
                || (self.forwarded && header.is("forwarded"))
                || (self.x_real_ip && header.is("x-real-ip"))
        })
    }

    /// Writes our lines. A name that the route's own operations set or remove is left to them.
    #[inline]
    pub(crate) fn push_lines(
        &self,
        head: &RequestHead<'_>,
        values: &ForwardingValues<'_>,
        ops: &HeaderOps,
        out: &mut Vec<u8>,
    ) {
        let trusted = self.trusted_hops > 0 && !head.forwarding.is_empty();
        let scheme: &[u8] = match values.scheme {
            Scheme::Http => b"http",
            Scheme::Https => b"https",
        };
        if self.x_forwarded {
            if !ops.removes("x-forwarded-for") {
                out.extend_from_slice(b"X-Forwarded-For: ");
                if trusted {
                    push_earlier(head, "x-forwarded-for", out);
                }
                out.extend_from_slice(values.peer_ip);
                out.extend_from_slice(b"\r\n");
            }
            let stands = |name: &str| trusted && head.header(name).is_some() || ops.removes(name);
            if !stands("x-forwarded-proto") {
                out.extend_from_slice(b"X-Forwarded-Proto: ");
                out.extend_from_slice(scheme);
                out.extend_from_slice(b"\r\n");
            }
            if !head.host().is_empty() && !stands("x-forwarded-host") {
                out.extend_from_slice(b"X-Forwarded-Host: ");
                out.extend_from_slice(head.host());
                out.extend_from_slice(b"\r\n");
            }
        }
        if self.forwarded && !ops.removes("forwarded") {
            out.extend_from_slice(b"Forwarded: ");
            if trusted {
                push_earlier(head, "forwarded", out);
            }
            push_forwarded(values.peer_ip, head.host(), scheme, out);
            out.extend_from_slice(b"\r\n");
        }
        if self.x_real_ip && !ops.removes("x-real-ip") {
            out.extend_from_slice(b"X-Real-IP: ");
            out.extend_from_slice(values.client_ip);
            out.extend_from_slice(b"\r\n");
        }
        if let Some(name) = &self.via {
            push_via(values.wire, head.version, name.as_bytes(), out);
        }
    }
}

/// One more member for Via; earlier lines stay, since a list may be spread over lines (RFC 9110 section 5.3).
pub(crate) fn push_via(wire: Wire, received: Version, name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(match (wire, received) {
        (Wire::Http2, _) => b"Via: 2.0 ",
        (Wire::Http1, Version::Http10) => b"Via: 1.0 ",
        (Wire::Http1, Version::Http11) => b"Via: 1.1 ",
    });
    out.extend_from_slice(name);
    out.extend_from_slice(b"\r\n");
}

/// The values so far, joined into one line: some origins read only the first or only the last line of a list.
fn push_earlier(head: &RequestHead<'_>, name: &str, out: &mut Vec<u8>) {
    for value in head.fields.values(name).filter(|value| !value.is_empty()) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
}

/// One element of Forwarded, RFC 7239 section 4. What isn't a token is quoted; neither an address nor an authority can
/// hold a quote or a backslash.
fn push_forwarded(ip: &[u8], host: &[u8], scheme: &[u8], out: &mut Vec<u8>) {
    if ip.contains(&b':') {
        out.extend_from_slice(b"for=\"[");
        out.extend_from_slice(ip);
        out.extend_from_slice(b"]\"");
    } else {
        out.extend_from_slice(b"for=");
        out.extend_from_slice(ip);
    }
    if is_token(host) {
        out.extend_from_slice(b";host=");
        out.extend_from_slice(host);
    } else if !host.is_empty() {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(scheme);
}

/// The client's address as far as it can be trusted: the entry `trusted_hops` from the right end of X-Forwarded-For
/// (given as its field values in order). The peer's own address without trust, when the list is shorter than the
/// trust, or when the entry is no address. The same rule as Envoy's `xff_num_trusted_hops`.
pub fn client_address<'a>(
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    peer: IpAddr,
    trusted_hops: u8,
) -> IpAddr {
    let Some(skip) = usize::from(trusted_hops).checked_sub(1) else {
        return peer;
    };
    let entry = forwarded_for.rev().flat_map(|value| list_members(value).rev()).nth(skip);
    entry.and_then(parse_address).unwrap_or(peer)
}

/// An address, with or without a port, an IPv6 one with or without brackets.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Forwarding, client_address, push_forwarded};

    #[test]
    fn addresses() {
        let table: &[(&[&str], u8, &str)] = &[
            (&[], 0, "9.9.9.9"),
            (&["1.1.1.1"], 0, "9.9.9.9"),
            (&["1.1.1.1"], 1, "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1"], 1, "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1,2.2.2.2"], 2, "1.1.1.1"),
            (&["6.6.6.6", "1.1.1.1", " 2.2.2.2 ,"], 2, "1.1.1.1"),
            (&["1.1.1.1"], 2, "9.9.9.9"),
            (&[], 1, "9.9.9.9"),
            (&["nonsense"], 1, "9.9.9.9"),
            (&["1.1.1.1:80"], 1, "1.1.1.1"),
            (&["[2001:db8::1]:80"], 1, "2001:db8::1"),
            (&["[2001:db8::1]"], 1, "2001:db8::1"),
            (&["2001:db8::1"], 1, "2001:db8::1"),
            (&["\u{e9}"], 1, "9.9.9.9"),
        ];
        let peer = "9.9.9.9".parse().unwrap();
        for (values, hops, expected) in table {
            let expected: IpAddr = expected.parse().unwrap();
            let found = client_address(values.iter().map(|value| value.as_bytes()), peer, *hops);
            assert_eq!(found, expected, "{values:?} {hops}");
        }
    }

    #[test]
    fn forwarded_elements() {
        let table: &[(&str, &str, &str)] = &[
            ("1.2.3.4", "a.example", "for=1.2.3.4;host=a.example;proto=https"),
            ("1.2.3.4", "a.example:80", "for=1.2.3.4;host=\"a.example:80\";proto=https"),
            ("2001:db8::1", "[::1]", "for=\"[2001:db8::1]\";host=\"[::1]\";proto=https"),
            ("1.2.3.4", "", "for=1.2.3.4;proto=https"),
        ];
        for (ip, host, expected) in table {
            let mut out = Vec::new();
            push_forwarded(ip.as_bytes(), host.as_bytes(), b"https", &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), *expected);
        }
    }

    #[test]
    fn via_names() {
        for (via, valid) in [(None, true), (Some("edge-1"), true), (Some("a b"), false), (Some(""), false)] {
            let forwarding = Forwarding { via: via.map(Into::into), ..Forwarding::default() };
            assert_eq!(forwarding.via_is_valid(), valid, "{via:?}");
        }
    }
}
