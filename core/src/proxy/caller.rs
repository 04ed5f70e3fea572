//! What of a request tells callers apart: the client's address, a cookie, the key that a rule hashes.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::snapshot::HashOn;
use crate::http::message::RequestHead;
use crate::http::rewrite::client_address;
use crate::policy::route::spelling;

/// The client by the trusted-hops rule.
pub(super) fn client(peer: Option<IpAddr>, trusted_hops: u8, head: &RequestHead<'_>) -> Option<IpAddr> {
    if trusted_hops == 0 || head.forwarding.is_empty() {
        return peer;
    }
    let fallback = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let client = client_address(head.fields.values("x-forwarded-for"), fallback, trusted_hops);
    if client.is_unspecified() { peer } else { Some(client) }
}

/// Gives what a rule hashes to `with`, if the request has it.
pub(super) fn with_hashed<T>(
    on: &HashOn,
    head: &RequestHead<'_>,
    client: Option<IpAddr>,
    with: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    match on {
        HashOn::Host => Some(with(&spelling::host(head.host()))),
        HashOn::Header(name) => head.header(name).map(with),
        HashOn::Cookie(name) => cookie(head.fields.values("cookie"), name.as_bytes()).map(with),
        HashOn::ClientAddress => client.map(|client| match client.to_canonical() {
            IpAddr::V4(address) => with(&address.octets()),
            IpAddr::V6(address) => with(&address.octets()),
        }),
    }
}

/// The value of the first cookie of this name (RFC 6265 section 5.4).
pub(super) fn cookie<'v>(values: impl IntoIterator<Item = &'v [u8]>, name: &[u8]) -> Option<&'v [u8]> {
    values.into_iter().flat_map(|value| value.split(|&byte| byte == b';')).find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        (pair[..equals].trim_ascii() == name).then(|| pair[equals + 1..].trim_ascii())
    })
}
