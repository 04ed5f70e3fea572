//! The answers that are our own: problem documents, configured responses, redirects. The only place where a fault
//! becomes a response.

use std::fmt::Write as _;

use super::grpc_web::Call;
use super::record::Record;
use crate::base::fault::Fault;
use crate::config::snapshot::{Redirect, RedirectTarget, Respond, Scheme};
use crate::http::grpc::{TrailersOnly, encode_trailers_only, is_grpc, status_from_fault};
use crate::http::http1::encode::{Payload, Persistence, SimpleResponse, encode_simple_response};
use crate::http::message::{Method, RequestHead, Status, Target, Version};

/// Which gRPC a client speaks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grpc {
    /// By HTTP/2 or what is like it, with trailers.
    Plain,
    /// gRPC-Web, whether it is translated or not.
    Web(Call),
}

/// What of the client's request decides the shape of any answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requester {
    pub(super) version: Version,
    pub(super) method: Method,
    /// It calls by gRPC, whose clients look for a status of their own kind.
    pub(super) grpc: Option<Grpc>,
}

impl Requester {
    /// For a request whose head could not be read.
    pub(super) const UNKNOWN: Self = Self { version: Version::Http11, method: Method::Other, grpc: None };

    pub(super) fn of(head: &RequestHead<'_>) -> Self {
        // gRPC knows no other method, so that no other request pays for the look.
        let content_type = if head.method == Method::Post { head.header("content-type") } else { None };
        let grpc = content_type.and_then(|content_type| {
            if is_grpc(content_type) {
                return Some(Grpc::Plain);
            }
            Call::of(head, content_type).map(Grpc::Web)
        });
        Self { version: head.version, method: head.method, grpc }
    }

    fn payload(self) -> Payload {
        if self.method == Method::Head { Payload::Withhold } else { Payload::Send }
    }
}

/// What all answers on one connection have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common<'a> {
    /// The Date field's value.
    pub(super) date: &'a [u8],
    /// How the client got here: a redirect that names no scheme keeps to it.
    pub(super) secure: bool,
    /// Field lines that the listener adds to every response.
    pub(super) fields: &'a [u8],
}

/// Appends a problem document (RFC 9457) for a fault, or for a gRPC call its status: the reason code and the request's id, so that a client's report
/// can be matched with the log; nothing of the inside.
pub(super) fn problem(
    fault: Fault,
    record: &Record,
    requester: Requester,
    persistence: Persistence,
    common: &Common<'_>,
    out: &mut Vec<u8>,
) {
    let status = Status(fault.status);
    let mut body = String::with_capacity(160);
    let _ = writeln!(
        body,
        "{{\"type\":\"about:blank\",\"title\":\"{}\",\"status\":{},\"reason\":\"{}\",\"request_id\":\"{:016x}\"}}",
        status.reason(),
        fault.status,
        fault.reason.code(),
        record.id
    );
    let mut extra = format!("X-Request-Id: {:016x}\r\n", record.id);
    if matches!(fault.status, 429 | 503) {
        let _ = write!(extra, "Retry-After: {}\r\n", record.retry_after_s);
    }
    let mut extra = extra.into_bytes();
    if fault.status == 405 {
        // RFC 9110 section 15.5.6.
        extra.extend_from_slice(ALLOW);
    }
    extra.extend_from_slice(&record.limit_lines);
    extra.extend_from_slice(common.fields);
    if let Some(grpc) = requester.grpc {
        let response = TrailersOnly {
            status: status_from_fault(fault),
            message: fault.reason.code(),
            content_type: match grpc {
                Grpc::Plain => b"application/grpc",
                Grpc::Web(call) => call.content_type(),
            },
            persistence,
            date: common.date,
            extra: &extra,
        };
        encode_trailers_only(&response, out);
        return;
    }
    let response = SimpleResponse {
        status,
        content_type: "application/problem+json",
        body: body.as_bytes(),
        payload: requester.payload(),
        client: requester.version,
        persistence,
        date: common.date,
        extra: &extra,
    };
    encode_simple_response(&response, out);
}

/// Methods that the proxy knows of. Which of them a resource has, its origin knows.
const ALLOW: &[u8] = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";

/// Appends the answer to an OPTIONS that goes no further (`Max-Forwards: 0`, RFC 9110 section 7.6.2).
pub(super) fn options(
    requester: Requester,
    persistence: Persistence,
    common: &Common<'_>,
    out: &mut Vec<u8>,
) {
    let extra = [ALLOW, common.fields].concat();
    let response = SimpleResponse {
        status: Status(200),
        content_type: "text/plain",
        body: b"",
        payload: requester.payload(),
        client: requester.version,
        persistence,
        date: common.date,
        extra: &extra,
    };
    encode_simple_response(&response, out);
}

/// Appends a configured response.
pub(super) fn configured(
    respond: &Respond,
    requester: Requester,
    persistence: Persistence,
    common: &Common<'_>,
    out: &mut Vec<u8>,
) {
    let mut extra = Vec::new();
    for (name, value) in &respond.headers {
        line(name, value, &mut extra);
    }
    extra.extend_from_slice(common.fields);
    let response = SimpleResponse {
        status: Status(respond.status),
        content_type: &respond.content_type,
        body: &respond.body,
        payload: requester.payload(),
        client: requester.version,
        persistence,
        date: common.date,
        extra: &extra,
    };
    encode_simple_response(&response, out);
}

/// Appends a redirect; false if the request leaves nothing to make a location of (HTTP/1.0 without Host).
pub(super) fn redirect(
    redirect: &Redirect,
    head: &RequestHead<'_>,
    path: &[u8],
    persistence: Persistence,
    common: &Common<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let Some(location) = location(&redirect.target, head, path, common.secure) else { return false };
    moved(redirect.status, &location, head, persistence, common, out);
    true
}

/// Appends a redirect to the same URL with `https` on this port; false if the request does not say which host.
pub(super) fn to_https(
    port: u16,
    head: &RequestHead<'_>,
    persistence: Persistence,
    common: &Common<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let target = RedirectTarget::Parts {
        scheme: Some(Scheme::Https),
        host: None,
        port: Some(port).filter(|port| *port != 443),
        path: None,
    };
    // As the client sent it: nothing is looked up by it here.
    let path = match head.target() {
        Target::Asterisk => b"/",
        _ => head.target().path(),
    };
    let Some(location) = location(&target, head, path, false) else { return false };
    // 308 keeps the method and the body (RFC 9110 section 15.4.9).
    moved(308, &location, head, persistence, common, out);
    true
}

fn moved(
    status: u16,
    location: &[u8],
    head: &RequestHead<'_>,
    persistence: Persistence,
    common: &Common<'_>,
    out: &mut Vec<u8>,
) {
    let mut extra = Vec::with_capacity(location.len() + common.fields.len() + 16);
    line("Location", location, &mut extra);
    extra.extend_from_slice(common.fields);
    let requester = Requester::of(head);
    let response = SimpleResponse {
        status: Status(status),
        content_type: "text/plain",
        body: b"",
        payload: requester.payload(),
        client: requester.version,
        persistence,
        date: common.date,
        extra: &extra,
    };
    encode_simple_response(&response, out);
}

fn line(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Where a redirect leads; `None` if the request does not say which host.
pub(super) fn location(
    target: &RedirectTarget,
    head: &RequestHead<'_>,
    path: &[u8],
    secure: bool,
) -> Option<Vec<u8>> {
    let (scheme, host, port, new_path) = match target {
        RedirectTarget::Location(text) => return Some(text.as_bytes().to_vec()),
        RedirectTarget::Parts { scheme, host, port, path } => (scheme, host, port, path),
    };
    let (asked_host, asked_port) = split_port(head.host());
    let host_name = host.as_deref().map_or(asked_host, str::as_bytes);
    if host_name.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(64 + path.len());
    out.extend_from_slice(match scheme {
        Some(Scheme::Https) => b"https://",
        None if secure => b"https://",
        Some(Scheme::Http) | None => b"http://",
    });
    out.extend_from_slice(host_name);
    match port {
        Some(port) => out.extend_from_slice(format!(":{port}").as_bytes()),
        None if scheme.is_none() && host.is_none() => out.extend_from_slice(asked_port),
        None => {}
    }
    out.extend_from_slice(new_path.as_deref().map_or(path, str::as_bytes));
    if let Some(query) = head.target().query() {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    Some(out)
}

/// Host and `:port`; the colons of a bracketed IPv6 address are its own.
fn split_port(authority: &[u8]) -> (&[u8], &[u8]) {
    match authority.iter().rposition(|&b| b == b':') {
        Some(at) if !authority[at..].contains(&b']') => authority.split_at(at),
        _ => (authority, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::split_port;

    #[test]
    fn ports() {
        for (authority, host, port) in [
            ("a:80", "a", ":80"),
            ("a", "a", ""),
            ("[::1]:8", "[::1]", ":8"),
            ("[::1]", "[::1]", ""),
            ("", "", ""),
        ] {
            assert_eq!(split_port(authority.as_bytes()), (host.as_bytes(), port.as_bytes()));
        }
    }
}
