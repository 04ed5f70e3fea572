//! From HTTP/2 to HTTP/1.1 form.
//!
//! What is written here is always one head that `http1::parse` accepts, with the framing that is returned; or nothing
//! is written and the message is refused. Size limits are not this file's: the parser has them from the configuration.
//! Called for each stream by whoever holds it, with the DATA between [`chunk_head`]s when the framing says so.

use http::header::HeaderMap;
use http::{request, response};

use crate::base::limits::{HEADER_COUNT_MAX, TRAILER_BYTES_MAX};
use crate::http::chunked::{LAST_CHUNK_SIZE, encode_chunk_size, is_forbidden_trailer};
use crate::http::framing::{HeadRule, content_length, length_is_void};
use crate::http::grammar::{eq_folding_underscore, is_token, push_decimal, split_authority};
use crate::http::http1::parse::check_method;
use crate::http::message::{Method, Status};

pub use super::{Asked, Framing, Malformed};
use super::{websocket_accept, websocket_key};

/// Appends the request's head in HTTP/1.1 form; nothing when it is refused.
///
/// `protocol` is `:protocol` (RFC 8441), `end_of_stream` whether the stream ended with the head, and `key` 16 random
/// bytes for the Sec-WebSocket-Key that HTTP/2 doesn't have; [`websocket_key`] tells its text.
///
/// A body of unknown length is chunked. One of known length is too when it may have trailers (gRPC, or a Trailer
/// field): they survive in chunked framing only. `TE: trailers` speaks of the response's trailers, and Firefox sends it
/// with everything, so it doesn't cost a request its Content-Length.
pub fn request(
    parts: &request::Parts,
    protocol: Option<&str>,
    end_of_stream: bool,
    key: [u8; 16],
    out: &mut Vec<u8>,
) -> Result<Framing, Malformed> {
    let start = out.len();
    let written = push_request(parts, protocol, end_of_stream, key, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends a response's head, interim or final; nothing when it is refused.
pub fn response(
    parts: &response::Parts,
    to: &Asked,
    end_of_stream: bool,
    out: &mut Vec<u8>,
) -> Result<Framing, Malformed> {
    let start = out.len();
    let written = push_response(parts, to, end_of_stream, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends what stands before `len` bytes of data in a chunked body; behind them comes CRLF. Nothing for no bytes,
/// since an empty chunk would end the body: then there must be no CRLF either.
#[inline]
pub fn chunk_head(len: usize, out: &mut Vec<u8>) {
    if len > 0 {
        encode_chunk_size(len as u64, out);
    }
}

/// Appends the end of a body: the last chunk with the trailers if it is chunked, otherwise nothing, and the trailers
/// are lost, which HTTP allows at any time (RFC 9110 section 6.5.1). Nothing is appended when they are refused.
pub fn end(framing: Framing, trailers: Option<&HeaderMap>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    if framing != Framing::Chunked {
        return Ok(());
    }
    let start = out.len();
    out.extend_from_slice(LAST_CHUNK_SIZE);
    let written = trailers.map_or(Ok(()), |trailers| push_trailers(trailers, out));
    match written {
        Ok(()) => out.extend_from_slice(b"\r\n"),
        Err(_) => out.truncate(start),
    }
    written
}

/// What a request asks for, which decides its start line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Connect,
    WebSocket,
}

fn push_request(
    parts: &request::Parts,
    protocol: Option<&str>,
    end_of_stream: bool,
    key: [u8; 16],
    out: &mut Vec<u8>,
) -> Result<Framing, Malformed> {
    let method_text = parts.method.as_str().as_bytes();
    let method = Method::from_text(method_text);
    let kind = match (method, protocol) {
        (Method::Connect, None) => Kind::Connect,
        (Method::Connect, Some(name)) if name.eq_ignore_ascii_case("websocket") => Kind::WebSocket,
        (Method::Connect, Some(_)) => return Err(Malformed::ProtocolUnknown),
        (_, Some(_)) => return Err(Malformed::ProtocolMisplaced),
        (_, None) => Kind::Plain,
    };
    if method == Method::Other {
        check_method(method_text)?;
    }
    out.reserve(size_hint(&parts.headers) + parts.uri.path().len());
    let start = out.len();
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    push_request_line(parts, kind, method_text, authority, out)?;
    let mut head = Head { start, line_count: 1, ..Head::new(Direction::Request(kind)) };
    if let Some(authority) = authority {
        head.push_line(b"Host", authority, out);
        head.host = Some(authority);
    }
    head.push_fields(&parts.headers, out)?;
    if head.host.is_none() {
        return Err(HeadRule::HostMissing.into());
    }
    let framing = request_framing(&head, kind, method, end_of_stream)?;
    if kind == Kind::WebSocket {
        head.push_line(b"Connection", b"Upgrade", out);
        head.push_line(b"Upgrade", b"websocket", out);
        head.push_line(b"Sec-WebSocket-Key", &websocket_key(key), out);
        if !head.has_websocket_version {
            head.push_line(b"Sec-WebSocket-Version", b"13", out);
        }
    } else if head.te_trailers {
        head.push_line(b"TE", b"trailers", out);
        head.push_line(b"Connection", b"TE", out);
    }
    head.push_framing(framing, out);
    head.close(out)?;
    Ok(framing)
}

/// RFC 9113 section 8.3.1. Scheme and path of a plain CONNECT can't be there: the `http` crate has no such URI but the
/// absolute one, which is refused here.
fn push_request_line(
    parts: &request::Parts,
    kind: Kind,
    method_text: &[u8],
    authority: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    if let Some(authority) = authority
        && split_authority(authority).is_none()
    {
        return Err(HeadRule::TargetAuthority.into());
    }
    if let Some(scheme) = parts.uri.scheme_str()
        && !scheme.eq_ignore_ascii_case("https")
        && !scheme.eq_ignore_ascii_case("http")
    {
        return Err(HeadRule::TargetScheme.into());
    }
    let target = if kind == Kind::Connect {
        match authority.map(|authority| (authority, split_authority(authority))) {
            Some((authority, Some((_, Some(port))))) if port != 0 && parts.uri.scheme().is_none() => {
                authority
            }
            _ => return Err(HeadRule::TargetAuthority.into()),
        }
    } else {
        // `path` is empty where the URI has none; `path_and_query` says "/" for that, too.
        if parts.uri.path().is_empty() {
            return Err(Malformed::PathMissing);
        }
        let target = parts.uri.path_and_query().ok_or(Malformed::PathMissing)?.as_str().as_bytes();
        check_path(target, kind, method_text)?;
        target
    };
    out.extend_from_slice(if kind == Kind::WebSocket { b"GET" } else { method_text });
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    Ok(())
}

/// Starts with '/', or is `*` with OPTIONS; visible ASCII without '#' only.
fn check_path(target: &[u8], kind: Kind, method_text: &[u8]) -> Result<(), HeadRule> {
    match target {
        [b'/', ..] => {}
        b"*" if kind == Kind::Plain && method_text == b"OPTIONS" => {}
        _ => return Err(HeadRule::TargetForm),
    }
    if target.iter().all(|&byte| byte > b' ' && byte < 0x7f && byte != b'#') {
        return Ok(());
    }
    Err(match target.iter().find(|&&byte| byte <= b' ' || byte >= 0x7f) {
        Some(byte) if byte.is_ascii() => HeadRule::TargetControl,
        Some(_) => HeadRule::TargetNonAscii,
        None => HeadRule::TargetFragment,
    })
}

fn request_framing(
    head: &Head<'_>,
    kind: Kind,
    method: Method,
    end_of_stream: bool,
) -> Result<Framing, Malformed> {
    let bodiless = kind != Kind::Plain || method == Method::Trace;
    if bodiless && head.length.is_some_and(|length| length > 0) {
        return Err(HeadRule::MethodWithBody.into());
    }
    if kind != Kind::Plain {
        return Ok(Framing::Tunnel);
    }
    let framing = match (head.length, end_of_stream) {
        (Some(1..), true) => return Err(Malformed::LengthMismatch),
        (Some(0), true) => Framing::Length(0),
        // RFC 9110 section 8.6: a method that anticipates content says that there is none.
        (None, true) if matches!(method, Method::Post | Method::Put | Method::Patch) => Framing::Length(0),
        (None, true) => Framing::None,
        (Some(length), false) if !head.may_trail => Framing::Length(length),
        (_, false) => Framing::Chunked,
    };
    if bodiless && framing == Framing::Chunked {
        return Err(HeadRule::MethodWithBody.into());
    }
    Ok(framing)
}

fn push_response(
    parts: &response::Parts,
    to: &Asked,
    end_of_stream: bool,
    out: &mut Vec<u8>,
) -> Result<Framing, Malformed> {
    let status = Status(parts.status.as_u16());
    if status == Status::SWITCHING_PROTOCOLS {
        return Err(Malformed::SwitchingProtocols);
    }
    if status.is_informational() && end_of_stream {
        return Err(Malformed::InterimEnds);
    }
    // RFC 8441 section 5: a 2xx to an extended CONNECT is what 101 is in HTTP/1.1.
    let switched = to.websocket_key.filter(|_| status.is_success());
    let status = if switched.is_some() { Status::SWITCHING_PROTOCOLS } else { status };
    out.reserve(size_hint(&parts.headers));
    let start = out.len();
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(u64::from(status.0), out);
    out.push(b' ');
    out.extend_from_slice(status.reason().as_bytes());
    out.extend_from_slice(b"\r\n");
    let direction = if switched.is_some() { Direction::Switch } else { Direction::Response };
    let mut head = Head { start, line_count: 1, ..Head::new(direction) };
    head.push_fields(&parts.headers, out)?;
    if let Some(key) = switched {
        head.push_line(b"Connection", b"Upgrade", out);
        head.push_line(b"Upgrade", b"websocket", out);
        head.push_line(b"Sec-WebSocket-Accept", &websocket_accept(&key), out);
        head.close(out)?;
        return Ok(Framing::Tunnel);
    }
    let connected = to.method == Method::Connect && status.is_success();
    let ends_with_head = to.method == Method::Head
        || status.is_informational()
        || status == Status::NO_CONTENT
        || status == Status::NOT_MODIFIED;
    let framing = match (head.length, end_of_stream) {
        _ if connected => Framing::Tunnel,
        _ if ends_with_head => Framing::None,
        (Some(1..), true) => return Err(Malformed::LengthMismatch),
        (_, true) => Framing::Length(0),
        (Some(length), false) if !head.may_trail => Framing::Length(length),
        (_, false) => Framing::Chunked,
    };
    match (framing, head.length) {
        // What a GET would have got, RFC 9110 section 8.6.
        (Framing::None, Some(length)) if !length_is_void(to.method, status) => {
            head.push_framing(Framing::Length(length), out);
        }
        _ => head.push_framing(framing, out),
    }
    head.close(out)?;
    Ok(framing)
}

fn push_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    let mut line_count = 0;
    for (name, value) in trailers {
        let name = name.as_str();
        if is_connection_field(name) {
            return Err(Malformed::ConnectionField);
        }
        if !is_token(name.as_bytes()) {
            return Err(HeadRule::FieldName.into());
        }
        check_value_ends(value.as_bytes())?;
        if is_forbidden_trailer(name.as_bytes()) {
            continue;
        }
        for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
        line_count += 1;
    }
    if out.len() - start + 2 > TRAILER_BYTES_MAX || line_count > HEADER_COUNT_MAX {
        return Err(Malformed::TrailersTooLong);
    }
    check_line_count(&out[start..], line_count)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request(Kind),
    Response,
    /// A response that opens a WebSocket.
    Switch,
}

/// A head that is being written, and what its fields said.
struct Head<'p> {
    direction: Direction,
    /// Where it starts in the output.
    start: usize,
    /// Start line included, empty line not.
    line_count: usize,
    host: Option<&'p [u8]>,
    length: Option<u64>,
    te_trailers: bool,
    may_trail: bool,
    has_websocket_version: bool,
}

impl<'p> Head<'p> {
    fn new(direction: Direction) -> Self {
        Head {
            direction,
            start: 0,
            line_count: 0,
            host: None,
            length: None,
            te_trailers: false,
            may_trail: false,
            has_websocket_version: false,
        }
    }

    /// Writes the fields, except those that this file writes by itself, and checks all.
    fn push_fields(&mut self, fields: &'p HeaderMap, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let is_request = matches!(self.direction, Direction::Request(_));
        let is_websocket = matches!(self.direction, Direction::Request(Kind::WebSocket) | Direction::Switch);
        let mut in_cookie = false;
        for (name, value) in fields {
            let (name, value) = (name.as_str(), value.as_bytes());
            check_value_ends(value)?;
            match name {
                "connection" | "proxy-connection" | "keep-alive" | "transfer-encoding" | "upgrade" => {
                    return Err(Malformed::ConnectionField);
                }
                "content-length" => {
                    if self.length.replace(content_length(value)?).is_some() {
                        return Err(HeadRule::LengthRepeated.into());
                    }
                    continue;
                }
                "te" => {
                    if value != b"trailers" {
                        return Err(Malformed::Te);
                    }
                    self.te_trailers = true;
                    continue;
                }
                "host" if is_request => {
                    self.check_host(value, fields)?;
                    if self.host.replace(value).is_some() {
                        continue;
                    }
                }
                // RFC 9113 section 8.2.3. The map gives the crumbs one after another.
                "cookie" if is_request => {
                    if in_cookie && !value.is_empty() {
                        out.truncate(out.len() - 2);
                        // Not behind an empty crumb.
                        if !out.ends_with(b" ") {
                            out.extend_from_slice(b"; ");
                        }
                        out.extend_from_slice(value);
                        out.extend_from_slice(b"\r\n");
                    }
                    if in_cookie {
                        continue;
                    }
                    in_cookie = true;
                }
                "content-type" => self.may_trail |= value.starts_with(b"application/grpc"),
                "trailer" => self.may_trail = true,
                "expect" if is_request && !value.eq_ignore_ascii_case(b"100-continue") => {
                    return Err(HeadRule::ExpectUnknown.into());
                }
                // HTTP/2 doesn't use these (RFC 8441 section 5); what somebody sends all the same is not ours.
                "sec-websocket-key" | "sec-websocket-accept" if is_websocket => continue,
                "sec-websocket-version" => self.has_websocket_version = true,
                // The `http` crate takes '"' for a part of a name.
                _ if !is_token(name.as_bytes()) => return Err(HeadRule::FieldName.into()),
                _ if is_framing_impostor(name.as_bytes()) => return Err(HeadRule::FramingImpostor.into()),
                _ => {}
            }
            self.push_line(name.as_bytes(), value, out);
        }
        Ok(())
    }

    /// `:authority` is what the request is for, and Host must not say otherwise (RFC 9113 section 8.3.1).
    fn check_host(&self, value: &[u8], fields: &HeaderMap) -> Result<(), HeadRule> {
        if fields.get_all(http::header::HOST).iter().nth(1).is_some() {
            return Err(HeadRule::HostRepeated);
        }
        match self.host {
            Some(authority) if !authority.eq_ignore_ascii_case(value) => Err(HeadRule::HostMismatch),
            None if split_authority(value).is_none() => Err(HeadRule::HostInvalid),
            _ => Ok(()),
        }
    }

    #[inline]
    fn push_line(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
        self.line_count += 1;
    }

    fn push_framing(&mut self, framing: Framing, out: &mut Vec<u8>) {
        match framing {
            Framing::None | Framing::Tunnel => return,
            Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Length(length) => {
                out.extend_from_slice(b"Content-Length: ");
                push_decimal(length, out);
                out.extend_from_slice(b"\r\n");
            }
        }
        self.line_count += 1;
    }

    /// Writes the empty line and looks over the whole once more.
    fn close(self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        check_line_count(&out[self.start..], self.line_count)?;
        if self.line_count - 1 > HEADER_COUNT_MAX {
            return Err(HeadRule::TooManyFields.into());
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// No value brought a line of its own. The `http` crate's types rule it out; smuggling is worth a second look, and one
/// pass over the whole is cheaper than one over each value. A CR alone is refused by the parser that reads this.
#[inline]
fn check_line_count(text: &[u8], line_count: usize) -> Result<(), Malformed> {
    if memchr::memchr_iter(b'\n', text).count() == line_count { Ok(()) } else { Err(Malformed::LineBreak) }
}

#[inline]
fn check_value_ends(value: &[u8]) -> Result<(), Malformed> {
    match value {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => Err(Malformed::ValueSpace),
        _ => Ok(()),
    }
}

fn is_connection_field(name: &str) -> bool {
    matches!(name, "connection" | "proxy-connection" | "keep-alive" | "transfer-encoding" | "upgrade")
}

/// Names that servers which fold '_' to '-' take for framing.
#[inline]
fn is_framing_impostor(name: &[u8]) -> bool {
    matches!(name.len(), 14 | 17)
        && (eq_folding_underscore(name, b"content-length")
            || eq_folding_underscore(name, b"transfer-encoding"))
}

/// About what a head with these fields takes, so that the output grows at most once.
fn size_hint(fields: &HeaderMap) -> usize {
    192 + 64 * fields.len()
}
