//! Smuggling through HTTP/2: header lists that have been used to make an HTTP/1.1 origin see what the front did not,
//! and what this proxy makes of each.
//!
//! Plain constants, so that the end-to-end suites send the same lists through sockets. Every bug in the translation
//! becomes a case here before it is fixed.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, request};

use super::{Framing, Malformed};
use crate::http::framing::HeadRule;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on with this framing and this head.
    Accept(Framing, &'static str),
    Refuse(Malformed),
    /// The types that HTTP/2 messages come in can't hold it: the library resets the stream.
    Unrepresentable,
}

/// What stands after the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// `END_STREAM` is on the head.
    Nothing,
    /// DATA, maybe.
    Body,
}

/// A header list as a client sends it.
#[derive(Debug, Clone, Copy)]
pub struct RequestCase {
    pub fields: &'static [(&'static str, &'static [u8])],
    pub after: After,
    pub verdict: Verdict,
}

const fn accept(
    after: After,
    fields: &'static [(&'static str, &'static [u8])],
    framing: Framing,
    head: &'static str,
) -> RequestCase {
    RequestCase { fields, after, verdict: Verdict::Accept(framing, head) }
}

const fn refuse(
    after: After,
    fields: &'static [(&'static str, &'static [u8])],
    why: Malformed,
) -> RequestCase {
    RequestCase { fields, after, verdict: Verdict::Refuse(why) }
}

const fn never(after: After, fields: &'static [(&'static str, &'static [u8])]) -> RequestCase {
    RequestCase { fields, after, verdict: Verdict::Unrepresentable }
}

const fn rule(rule: HeadRule) -> Malformed {
    Malformed::Head(rule)
}

/// The request that the library would make of a header list, with `:protocol` apart; None where its types, or its
/// checks on pseudo-header fields, refuse it. Mirrors h2 0.4 (`load` in frame/headers.rs, `convert_poll_message` in
/// server.rs), but for its checks on connection-specific fields, which `render` makes by itself.
pub fn library_parts(fields: &[(&str, &[u8])]) -> Option<(request::Parts, Option<String>)> {
    let (mut method, mut scheme, mut authority, mut path, mut protocol) = (None, None, None, None, None);
    let mut map = HeaderMap::new();
    for &(name, value) in fields {
        let slot = match name {
            ":method" => &mut method,
            ":scheme" => &mut scheme,
            ":authority" => &mut authority,
            ":path" => &mut path,
            ":protocol" => &mut protocol,
            _ => {
                let name = HeaderName::from_lowercase(name.as_bytes()).ok()?;
                map.append(name, HeaderValue::from_bytes(value).ok()?);
                continue;
            }
        };
        if !map.is_empty() || slot.replace(value).is_some() {
            return None;
        }
    }
    let method = Method::from_bytes(method?).ok()?;
    let is_plain_connect = method == Method::CONNECT && protocol.is_none();
    if (protocol.is_some() && method != Method::CONNECT)
        || (is_plain_connect && (scheme.is_some() || path.is_some()))
        || (!is_plain_connect && scheme.is_none())
        || path.is_some_and(<[u8]>::is_empty)
    {
        return None;
    }
    let mut uri = http::uri::Parts::default();
    uri.authority = authority.map(Authority::try_from).transpose().ok()?;
    let scheme = scheme.map(Scheme::try_from).transpose().ok()?;
    uri.scheme = scheme.filter(|_| uri.authority.is_some());
    uri.path_and_query = path.map(PathAndQuery::try_from).transpose().ok()?;
    let protocol = protocol.map(|name| String::from_utf8(name.to_vec())).transpose().ok()?;
    let mut request =
        Request::builder().method(method).uri(http::Uri::from_parts(uri).ok()?).body(()).ok()?;
    *request.headers_mut() = map;
    Some((request.into_parts().0, protocol))
}

macro_rules! fields {
    ($($name:literal: $value:literal),* $(,)?) => { &[$(($name, $value as &[u8])),*] };
}

/// `:method`, `:scheme`, `:authority` and `:path` of a plain request, and more.
macro_rules! get {
    ($($name:literal: $value:literal),* $(,)?) => {
        fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/", $($name: $value),*]
    };
}

macro_rules! post {
    ($($name:literal: $value:literal),* $(,)?) => {
        fields![":method": b"POST", ":scheme": b"https", ":authority": b"a.example", ":path": b"/", $($name: $value),*]
    };
}

use After::{Body, Nothing};
use Framing::{Chunked, Length, Tunnel};

#[rustfmt::skip]
pub const REQUESTS: &[RequestCase] = &[
    // Plain requests.
    accept(Nothing, get![], Framing::None, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    accept(Nothing, fields![":method": b"GET", ":scheme": b"http", ":path": b"/", "host": b"a.example"], Framing::None, "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
    accept(Nothing, get!["host": b"A.example"], Framing::None, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    accept(Nothing, get!["accept": b"*/*", "x": b"1", "x": b"2"], Framing::None, "GET / HTTP/1.1\r\nHost: a.example\r\naccept: */*\r\nx: 1\r\nx: 2\r\n\r\n"),
    accept(Nothing, get!["empty": b""], Framing::None, "GET / HTTP/1.1\r\nHost: a.example\r\nempty: \r\n\r\n"),
    accept(Nothing, get!["te": b"trailers"], Framing::None, "GET / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\n\r\n"),
    accept(Nothing, fields![":method": b"GET", ":scheme": b"HTTPS", ":authority": b"[::1]:8443", ":path": b"/a?b=c%20d"], Framing::None, "GET /a?b=c%20d HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n"),
    accept(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example:", ":path": b"/"], Framing::None, "GET / HTTP/1.1\r\nHost: a.example:\r\n\r\n"),
    accept(Nothing, fields![":method": b"OPTIONS", ":scheme": b"https", ":authority": b"a.example", ":path": b"*"], Framing::None, "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    accept(Nothing, fields![":method": b"M-SEARCH", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"], Framing::None, "M-SEARCH / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    accept(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"//b.example/"], Framing::None, "GET //b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    // The fragment never gets this far.
    accept(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/a#/../admin"], Framing::None, "GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    // Cookie crumbs.
    accept(Nothing, get!["cookie": b"a=1", "x": b"y", "cookie": b"b=2", "cookie": b"c=3"], Framing::None, "GET / HTTP/1.1\r\nHost: a.example\r\ncookie: a=1; b=2; c=3\r\nx: y\r\n\r\n"),
    accept(Nothing, get!["cookie": b"", "cookie": b"b=2", "cookie": b"", "cookie": b":"], Framing::None, "GET / HTTP/1.1\r\nHost: a.example\r\ncookie: b=2; :\r\n\r\n"),
    // Bodies.
    accept(Nothing, post![], Length(0), "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"),
    accept(Nothing, post!["content-length": b"0"], Length(0), "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"),
    accept(Body, post![], Chunked, "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"),
    accept(Body, get![], Chunked, "GET / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"),
    accept(Body, post!["content-length": b"5"], Length(5), "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n"),
    accept(Body, post!["content-length": b"0005"], Length(5), "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n"),
    accept(Body, post!["content-length": b"5", "te": b"trailers"], Length(5), "POST / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\nContent-Length: 5\r\n\r\n"),
    accept(Body, post!["content-length": b"5", "trailer": b"x-sum"], Chunked, "POST / HTTP/1.1\r\nHost: a.example\r\ntrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"),
    accept(Body, post!["content-length": b"5", "content-type": b"application/grpc+proto"], Chunked, "POST / HTTP/1.1\r\nHost: a.example\r\ncontent-type: application/grpc+proto\r\nTransfer-Encoding: chunked\r\n\r\n"),
    accept(Body, post!["expect": b"100-continue", "content-length": b"5"], Length(5), "POST / HTTP/1.1\r\nHost: a.example\r\nexpect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
    // Content-Length that lies: H2.CL.
    refuse(Nothing, post!["content-length": b"5"], Malformed::LengthMismatch),
    refuse(Nothing, get!["content-length": b"18446744073709551615"], Malformed::LengthMismatch),
    refuse(Body, post!["content-length": b"5", "content-length": b"5"], rule(HeadRule::LengthRepeated)),
    refuse(Body, post!["content-length": b"5", "content-length": b"6"], rule(HeadRule::LengthRepeated)),
    refuse(Body, post!["content-length": b"5, 5"], rule(HeadRule::LengthRepeated)),
    refuse(Body, post!["content-length": b"5,6"], rule(HeadRule::LengthRepeated)),
    refuse(Body, post!["content-length": b"+5"], rule(HeadRule::LengthInvalid)),
    refuse(Body, post!["content-length": b"-1"], rule(HeadRule::LengthInvalid)),
    refuse(Body, post!["content-length": b"0x5"], rule(HeadRule::LengthInvalid)),
    refuse(Body, post!["content-length": b""], rule(HeadRule::LengthInvalid)),
    refuse(Body, post!["content-length": b"18446744073709551616"], rule(HeadRule::LengthOverflow)),
    refuse(Body, post!["content-length": b" 5"], Malformed::ValueSpace),
    refuse(Body, post!["content_length": b"5"], rule(HeadRule::FramingImpostor)),
    // Transfer-Encoding: H2.TE.
    refuse(Body, post!["transfer-encoding": b"chunked"], Malformed::ConnectionField),
    refuse(Body, post!["content-length": b"5", "transfer-encoding": b"chunked"], Malformed::ConnectionField),
    refuse(Nothing, get!["transfer-encoding": b"identity"], Malformed::ConnectionField),
    refuse(Nothing, get!["transfer-encoding": b""], Malformed::ConnectionField),
    refuse(Body, post!["transfer_encoding": b"chunked"], rule(HeadRule::FramingImpostor)),
    never(Body, post!["transfer-encoding ": b"chunked"]),
    never(Body, post!["Transfer-Encoding": b"chunked"]),
    never(Body, post!["transfer-encoding:chunked": b""]),
    never(Body, post!["transfer-encoding\t": b"chunked"]),
    never(Body, post!["\ntransfer-encoding": b"chunked"]),
    // Other fields that belong to a connection.
    refuse(Nothing, get!["connection": b"close"], Malformed::ConnectionField),
    refuse(Nothing, get!["connection": b"Content-Length"], Malformed::ConnectionField),
    refuse(Nothing, get!["connection": b""], Malformed::ConnectionField),
    refuse(Nothing, get!["proxy-connection": b"keep-alive"], Malformed::ConnectionField),
    refuse(Nothing, get!["keep-alive": b"timeout=5"], Malformed::ConnectionField),
    refuse(Nothing, get!["upgrade": b"h2c"], Malformed::ConnectionField),
    refuse(Nothing, get!["te": b"trailers, chunked"], Malformed::Te),
    refuse(Nothing, get!["te": b"Trailers"], Malformed::Te),
    refuse(Nothing, get!["te": b"gzip"], Malformed::Te),
    // Line breaks and other controls in values and names: a request in a value.
    never(Nothing, get!["x": b"a\r\nTransfer-Encoding: chunked"]),
    never(Nothing, get!["x": b"a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n"]),
    never(Nothing, get!["x": b"a\nContent-Length: 5"]),
    never(Nothing, get!["x": b"a\rb"]),
    never(Nothing, get!["x": b"a\0b"]),
    never(Nothing, get!["x": b"a\x7fb"]),
    never(Nothing, get!["cookie": b"a=1", "cookie": b"b\r\nx: y"]),
    never(Nothing, get!["x: y\r\nz": b"a"]),
    never(Nothing, get!["x y": b"a"]),
    never(Nothing, get!["x:": b"a"]),
    never(Nothing, get!["": b"a"]),
    never(Nothing, get!["X-Upper": b"a"]),
    never(Nothing, get!["x\u{e9}": b"a"]),
    refuse(Nothing, get!["x\"": b"a"], rule(HeadRule::FieldName)),
    refuse(Nothing, get!["x": b" a"], Malformed::ValueSpace),
    refuse(Nothing, get!["x": b"a\t"], Malformed::ValueSpace),
    refuse(Nothing, get!["x": b" "], Malformed::ValueSpace),
    // The method.
    never(Nothing, fields![":method": b"GET /admin HTTP/1.1\r\nx: y", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET /", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"]),
    never(Nothing, fields![":method": b"", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"]),
    never(Nothing, fields![":scheme": b"https", ":authority": b"a.example", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":method": b"POST", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"]),
    refuse(Nothing, fields![":method": b"get", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"], rule(HeadRule::MethodInvalid)),
    refuse(Nothing, fields![":method": b"GET!", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"], rule(HeadRule::MethodInvalid)),
    refuse(Nothing, fields![":method": b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"], rule(HeadRule::MethodTooLong)),
    refuse(Body, fields![":method": b"TRACE", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"], rule(HeadRule::MethodWithBody)),
    refuse(Body, fields![":method": b"TRACE", ":scheme": b"https", ":authority": b"a.example", ":path": b"/", "content-length": b"1"], rule(HeadRule::MethodWithBody)),
    // The path.
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/ HTTP/1.1\r\nHost: b.example\r\n\r\nGET /admin"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/a b"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/a\tb"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/a\0"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/a\r"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/a\x7f"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b""]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"admin"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"http://b.example/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"@b.example/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/", ":path": b"/admin"]),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"?a"], rule(HeadRule::TargetForm)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"*"], rule(HeadRule::TargetForm)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/\xc3\xa9"], rule(HeadRule::TargetNonAscii)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", "host": b"a.example"], Malformed::PathMissing),
    // Who is asked.
    refuse(Nothing, get!["host": b"b.example"], rule(HeadRule::HostMismatch)),
    refuse(Nothing, get!["host": b"a.example:443"], rule(HeadRule::HostMismatch)),
    refuse(Nothing, get!["host": b""], rule(HeadRule::HostMismatch)),
    refuse(Nothing, get!["host": b"a.example", "host": b"b.example"], rule(HeadRule::HostRepeated)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":path": b"/", "host": b"a.example", "host": b"a.example"], rule(HeadRule::HostRepeated)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":path": b"/"], rule(HeadRule::HostMissing)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":path": b"/", "host": b""], rule(HeadRule::HostInvalid)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":path": b"/", "host": b"a, b"], rule(HeadRule::HostInvalid)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"user@a.example", ":path": b"/"], rule(HeadRule::TargetAuthority)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"user:pw@a.example:1", ":path": b"/"], rule(HeadRule::TargetAuthority)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example:65536", ":path": b"/"], rule(HeadRule::TargetAuthority)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b":443", ":path": b"/"], rule(HeadRule::TargetAuthority)),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example:x", ":path": b"/"], rule(HeadRule::TargetAuthority)),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example/admin?", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example\r\nx: y", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example b", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":authority": b"b.example", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a%41.example", ":path": b"/"]),
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"https", ":authority": b"a,b", ":path": b"/"], rule(HeadRule::TargetAuthority)),
    // The scheme.
    refuse(Nothing, fields![":method": b"GET", ":scheme": b"ftp", ":authority": b"a.example", ":path": b"/"], rule(HeadRule::TargetScheme)),
    never(Nothing, fields![":method": b"GET", ":scheme": b"https://b.example/?", ":authority": b"a.example", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":scheme": b"http\r\nx: y", ":authority": b"a.example", ":path": b"/"]),
    never(Nothing, fields![":method": b"GET", ":authority": b"a.example", ":path": b"/"]),
    never(Nothing, fields!["x": b"y", ":method": b"GET", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"]),
    // Expectations.
    refuse(Body, post!["expect": b"200-ok"], rule(HeadRule::ExpectUnknown)),
    // CONNECT.
    accept(Body, fields![":method": b"CONNECT", ":authority": b"a.example:443"], Tunnel, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"),
    accept(Body, fields![":method": b"CONNECT", ":authority": b"a.example:443", "content-length": b"0"], Tunnel, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"),
    refuse(Body, fields![":method": b"CONNECT", ":authority": b"a.example"], rule(HeadRule::TargetAuthority)),
    refuse(Body, fields![":method": b"CONNECT", ":authority": b"a.example:0"], rule(HeadRule::TargetAuthority)),
    refuse(Body, fields![":method": b"CONNECT", "host": b"a.example:443"], rule(HeadRule::TargetAuthority)),
    refuse(Body, fields![":method": b"CONNECT", ":authority": b"a.example:443", "host": b"b.example:443"], rule(HeadRule::HostMismatch)),
    refuse(Body, fields![":method": b"CONNECT", ":authority": b"a.example:443", "content-length": b"5"], rule(HeadRule::MethodWithBody)),
    never(Body, fields![":method": b"CONNECT", ":scheme": b"https", ":authority": b"a.example:443", ":path": b"/"]),
    // Extended CONNECT.
    accept(Body, fields![":method": b"CONNECT", ":protocol": b"websocket", ":scheme": b"https", ":authority": b"a.example", ":path": b"/chat", "sec-websocket-version": b"13", "sec-websocket-protocol": b"x"], Tunnel,
        "GET /chat HTTP/1.1\r\nHost: a.example\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"),
    accept(Body, fields![":method": b"CONNECT", ":protocol": b"WebSocket", ":scheme": b"https", ":authority": b"a.example", ":path": b"/", "sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==", "te": b"trailers"], Tunnel,
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    refuse(Body, fields![":method": b"CONNECT", ":protocol": b"connect-udp", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"], Malformed::ProtocolUnknown),
    refuse(Body, fields![":method": b"CONNECT", ":protocol": b"websocket\r\nx: y", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"], Malformed::ProtocolUnknown),
    refuse(Body, fields![":method": b"CONNECT", ":protocol": b"websocket", ":scheme": b"https", ":authority": b"a.example", ":path": b"*"], rule(HeadRule::TargetForm)),
    refuse(Body, fields![":method": b"CONNECT", ":protocol": b"websocket", ":scheme": b"https", ":authority": b"a.example", ":path": b"/", "content-length": b"5"], rule(HeadRule::MethodWithBody)),
    refuse(Body, fields![":method": b"CONNECT", ":protocol": b"websocket", ":scheme": b"https", ":authority": b"a.example", ":path": b"/", "connection": b"Upgrade"], Malformed::ConnectionField),
    never(Body, fields![":method": b"GET", ":protocol": b"websocket", ":scheme": b"https", ":authority": b"a.example", ":path": b"/"]),
    never(Body, fields![":method": b"CONNECT", ":protocol": b"websocket", ":authority": b"a.example", ":path": b"/"]),
];
