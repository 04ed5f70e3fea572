//! Writes heads afresh: the fields that pass are copied in runs of whole lines, the proxy's own are appended.
//!
//! A run of untouched lines is one memcpy whatever its number of fields, so a typical head costs two or three copies
//! (bench `encode`). What this file writes itself, nobody else may: framing, Connection, Host, Upgrade. Nothing is
//! validated here: heads come validated from `parse`, settings from `rewrite`.

use crate::http::framing::BodyLength;
use crate::http::grammar::push_decimal;
use crate::http::message::{FieldSet, Fields, RequestHead, ResponseHead, Status, Target, Version, Wire};
use crate::http::rewrite::forwarding::push_via;
use crate::http::rewrite::{Forwarding, ForwardingValues, HeaderOps};

/// Room for the lines that we add to a head, so that the output grows at most once.
const ADDED_BYTES_GUESS: usize = 384;

/// What the upstream is told about the future of the connection, or the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    KeepAlive,
    Close,
}

/// What is asked of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetRewrite<'a> {
    /// The client's, in origin-form whatever form it had; CONNECT's and `*` as they are.
    Unchanged,
    /// This path and the client's query.
    Path(&'a [u8]),
    /// This, in whole: starts with '/', holds no space, control character or fragment.
    PathAndQuery(&'a [u8]),
}

/// Whether `Expect: 100-continue` goes on to the upstream. A proxy that answers it by itself drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectRelay {
    Forward,
    Drop,
}

/// Everything that differs between the request that came and the one that goes.
#[derive(Debug, Clone, Copy)]
pub struct RequestRewrite<'a> {
    pub target: TargetRewrite<'a>,
    /// None: the client's, in its place.
    pub host: Option<&'a [u8]>,
    pub ops: &'a HeaderOps,
    /// None: what the client said about itself passes untouched; only for a peer that is trusted as we are.
    pub forwarding: Option<(&'a Forwarding, ForwardingValues<'a>)>,
    /// The framing of the body as it will be sent; usually `head.body`, and then the client's own field is kept.
    pub framing: BodyLength,
    /// The protocol to offer, from `upgrade::offer`.
    pub upgrade: Option<&'a [u8]>,
    pub persistence: Persistence,
    pub expect: ExpectRelay,
    /// Fields that the caller leaves out, on top of all that may not pass.
    pub drop: FieldSet,
    /// Encoded lines, each with its CRLF, that the caller vouches for.
    pub extra: &'a [u8],
}

/// Appends the request head to send upstream, always HTTP/1.1, up to and including the empty line.
///
/// `TE: trailers` is written again when the client sent it, since a proxy that relays trailers must not hide that the
/// client wants them (RFC 9110 section 10.1.4); browsers never send it, so it costs nothing there.
pub fn encode_request(head: &RequestHead<'_>, rewrite: &RequestRewrite<'_>, out: &mut Vec<u8>) {
    out.reserve(head.fields.raw.len() + rewrite.ops.lines().len() + rewrite.extra.len() + ADDED_BYTES_GUESS);
    let mut skip = head.hop_by_hop.union(rewrite.ops.removed_from(&head.fields)).union(rewrite.drop);
    if rewrite.framing != head.body {
        skip = skip.union(head.length_fields);
    }
    if rewrite.expect == ExpectRelay::Drop {
        skip = skip.union(head.expect_fields);
    }
    if let Some((forwarding, _)) = rewrite.forwarding {
        skip = skip.union(forwarding.dropped_from(head));
    }
    let own_host = rewrite.host.is_some()
        || head.host_fields.is_empty()
        || !head.host_fields.into_iter().all(|index| head.fields.is_tidy(index));
    let came = framing_as_it_came(head.body, &head.fields, head.length_fields);
    if came != head.body {
        skip = skip.union(head.length_fields);
    }
    if own_host {
        skip = skip.union(head.host_fields);
    }
    let same_line = rewrite.target == TargetRewrite::Unchanged
        && head.version == Version::Http11
        && !matches!(head.target(), Target::Absolute { .. });
    let from = if same_line && !own_host {
        0
    } else {
        push_request_line(head, rewrite.target, out);
        head.fields.line_start(0)
    };
    if own_host {
        push_line(b"Host: ", rewrite.host.unwrap_or(head.host()), out);
    }
    copy_lines(&head.fields, from, skip, out);
    push_framing(came, rewrite.framing, out);
    if let Some((forwarding, values)) = &rewrite.forwarding {
        forwarding.push_lines(head, values, rewrite.ops, out);
    }
    if rewrite.upgrade.is_some() || head.te_trailers || rewrite.persistence == Persistence::Close {
        push_request_connection(head, rewrite, out);
    }
    out.extend_from_slice(rewrite.ops.lines());
    out.extend_from_slice(rewrite.extra);
    out.extend_from_slice(b"\r\n");
}

fn push_request_line(head: &RequestHead<'_>, target: TargetRewrite<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method_text());
    out.push(b' ');
    match (target, head.target()) {
        (TargetRewrite::PathAndQuery(text), Target::Origin { .. } | Target::Absolute { .. }) => {
            out.extend_from_slice(text);
        }
        (TargetRewrite::Path(path), Target::Origin { query, .. } | Target::Absolute { query, .. }) => {
            push_path(path, query, out);
        }
        // RFC 9112 section 3.2.4: an OPTIONS for a whole server.
        (TargetRewrite::Unchanged, Target::Absolute { path: b"", query: None, .. })
            if head.method_text() == b"OPTIONS" =>
        {
            out.push(b'*');
        }
        (TargetRewrite::Unchanged, Target::Absolute { query, .. }) => {
            push_path(head.path(), query, out);
        }
        (TargetRewrite::Unchanged, Target::Origin { .. })
        | (_, Target::Authority { .. } | Target::Asterisk) => {
            out.extend_from_slice(head.target_text());
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn push_path(path: &[u8], query: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(path);
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

#[cold]
fn push_request_connection(head: &RequestHead<'_>, rewrite: &RequestRewrite<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Connection: ");
    let mut separator: &[u8] = b"";
    let close = rewrite.persistence == Persistence::Close;
    for (named, option) in
        [(close, &b"close"[..]), (rewrite.upgrade.is_some(), b"Upgrade"), (head.te_trailers, b"TE")]
    {
        if named {
            out.extend_from_slice(separator);
            out.extend_from_slice(option);
            separator = b", ";
        }
    }
    out.extend_from_slice(b"\r\n");
    if let Some(protocol) = rewrite.upgrade {
        push_line(b"Upgrade: ", protocol, out);
    }
    if head.te_trailers {
        out.extend_from_slice(b"TE: trailers\r\n");
    }
}

/// Everything that differs between the response that came and the one that goes.
#[derive(Debug, Clone, Copy)]
pub struct ResponseRewrite<'a> {
    pub ops: &'a HeaderOps,
    /// The framing of the body as it will be sent, from `framing::relay`.
    pub framing: BodyLength,
    /// The version that the client spoke.
    pub client: Version,
    pub persistence: Persistence,
    /// The protocol switched to, with 101; what the origin insists on, with 426 (RFC 9110 section 15.5.22).
    pub upgrade: Option<&'a [u8]>,
    /// Our name in Via.
    pub via: Option<&'a str>,
    /// What the response came over.
    pub wire: Wire,
    /// The time as an IMF-fixdate, written if the origin sent no Date (RFC 9110 section 6.6.1).
    pub date: &'a [u8],
    /// Encoded lines, each with its CRLF, that the caller vouches for.
    pub extra: &'a [u8],
}

/// Appends the response head to send downstream, always HTTP/1.1 (RFC 9110 section 6.2: our version, not the client's),
/// up to and including the empty line. A body that ends with the connection makes it say `close`, whatever was asked.
pub fn encode_response(head: &ResponseHead<'_>, rewrite: &ResponseRewrite<'_>, out: &mut Vec<u8>) {
    out.reserve(head.fields.raw.len() + rewrite.ops.lines().len() + rewrite.extra.len() + ADDED_BYTES_GUESS);
    let mut skip = head.hop_by_hop.union(rewrite.ops.removed_from(&head.fields));
    let came = framing_as_it_came(head.body, &head.fields, head.length_fields);
    if rewrite.framing != head.body || came != head.body {
        skip = skip.union(head.length_fields);
    }
    let from = if head.version == Version::Http11 && !head.reason().is_empty() {
        0
    } else {
        push_status_line(head.status, head.reason(), out);
        head.fields.line_start(0)
    };
    copy_lines(&head.fields, from, skip, out);
    push_framing(came, rewrite.framing, out);
    if let Some(name) = rewrite.via {
        push_via(rewrite.wire, head.version, name.as_bytes(), out);
    }
    if !head.has_date && !head.status.is_informational() {
        push_line(b"Date: ", rewrite.date, out);
    }
    match rewrite.upgrade {
        Some(protocol) => {
            let closing =
                rewrite.persistence == Persistence::Close || rewrite.framing == BodyLength::UntilClose;
            if closing && !head.status.is_informational() {
                out.extend_from_slice(b"Connection: close\r\n");
            }
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            push_line(b"Upgrade: ", protocol, out);
        }
        None if head.status.is_informational() => {}
        None if rewrite.framing == BodyLength::UntilClose => out.extend_from_slice(b"Connection: close\r\n"),
        None => push_response_connection(rewrite.client, rewrite.persistence, out),
    }
    out.extend_from_slice(rewrite.ops.lines());
    out.extend_from_slice(rewrite.extra);
    out.extend_from_slice(b"\r\n");
}

/// A response that the proxy makes by itself.
#[derive(Debug, Clone, Copy)]
pub struct SimpleResponse<'a> {
    pub status: Status,
    /// Left out when the body is empty.
    pub content_type: &'a str,
    pub body: &'a [u8],
    pub payload: Payload,
    pub client: Version,
    pub persistence: Persistence,
    pub date: &'a [u8],
    /// Encoded lines, each with its CRLF, that the caller vouches for.
    pub extra: &'a [u8],
}

/// Whether the body is sent, or only its length told: to HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    Send,
    Withhold,
}

/// Appends head and body. 1xx and 204 get neither a body nor a length (RFC 9110 section 8.6), 304 no body.
pub fn encode_simple_response(response: &SimpleResponse<'_>, out: &mut Vec<u8>) {
    let status = response.status;
    out.reserve(response.body.len() + response.extra.len() + ADDED_BYTES_GUESS);
    push_status_line(status, b"", out);
    if !status.is_informational() {
        push_line(b"Date: ", response.date, out);
    }
    let bodiless = status.is_informational() || status == Status::NO_CONTENT;
    if !bodiless {
        if !response.body.is_empty() {
            push_line(b"Content-Type: ", response.content_type.as_bytes(), out);
        }
        if status != Status::NOT_MODIFIED {
            push_length(response.body.len() as u64, out);
        }
    }
    if !status.is_informational() {
        push_response_connection(response.client, response.persistence, out);
    }
    out.extend_from_slice(response.extra);
    out.extend_from_slice(b"\r\n");
    if response.payload == Payload::Send && !bodiless && status != Status::NOT_MODIFIED {
        out.extend_from_slice(response.body);
    }
}

fn push_status_line(status: Status, reason: &[u8], out: &mut Vec<u8>) {
    let reason = if reason.is_empty() { status.reason().as_bytes() } else { reason };
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(u64::from(status.0), out);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// RFC 9112 section 9.3: an HTTP/1.1 client stays unless told otherwise, an HTTP/1.0 client must be told to.
#[inline]
fn push_response_connection(client: Version, persistence: Persistence, out: &mut Vec<u8>) {
    match (client, persistence) {
        (Version::Http11, Persistence::KeepAlive) => {}
        (Version::Http10, Persistence::KeepAlive) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (_, Persistence::Close) => out.extend_from_slice(b"Connection: close\r\n"),
    }
}

/// The framing that came, as far as its line can pass on as it stands: a Content-Length with white space around its value
/// is written anew, for a reader that takes a tab amiss would look for the body's end elsewhere.
#[inline]
fn framing_as_it_came(came: BodyLength, fields: &Fields<'_>, length_fields: FieldSet) -> BodyLength {
    match came {
        BodyLength::Length(_) if !length_fields.into_iter().all(|index| fields.is_tidy(index)) => {
            BodyLength::UntilClose
        }
        _ => came,
    }
}

/// Content-Length passes as the sender wrote it when it is still true; Transfer-Encoding never passes by itself.
#[inline]
fn push_framing(came: BodyLength, goes: BodyLength, out: &mut Vec<u8>) {
    match goes {
        BodyLength::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyLength::Length(length) if goes != came => push_length(length, out),
        BodyLength::Length(_) | BodyLength::None | BodyLength::UntilClose => {}
    }
}

fn push_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn push_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Copies the lines from offset `from` on, except those in `skip`: one copy for each run between skipped lines.
#[inline]
fn copy_lines(fields: &Fields<'_>, from: usize, skip: FieldSet, out: &mut Vec<u8>) {
    let mut start = from;
    for index in skip {
        let end = fields.line_start(index);
        if end > start {
            out.extend_from_slice(&fields.raw[start..end]);
        }
        start = fields.line_start(index + 1);
    }
    out.extend_from_slice(&fields.raw[start..fields.line_start(fields.len())]);
}
