//! The heads of a call that comes as gRPC-Web and goes upstream as gRPC, and of its response on the way back.
//!
//! Which calls do is the route's to say; `phases`, `response` and `respond` ask here. The bodies change in
//! [`Flow`](crate::http::flow::Flow), in the same pump as all others: both stream, each within one buffer and what that
//! comes to. So a call is tried again, bounded and timed as any other request.

use crate::http::grpc_web::{
    Encoding, REQUEST_FIELDS_DROPPED, WebType, push_request_type, push_response_type,
};
use crate::http::message::{
    FieldSet, Fields, Method, RequestFacts, RequestHead, ResponseFacts, ResponseHead,
};
use crate::http::rewrite::HeaderOps;

/// A call by gRPC-Web: how its two bodies are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) request: Encoding,
    pub(super) response: Encoding,
}

impl Call {
    /// Of a POST; `None` if this is another Content-Type.
    pub(super) fn of(head: &RequestHead<'_>, content_type: &[u8]) -> Option<Self> {
        let web = WebType::parse(content_type)?;
        Some(Self { request: web.encoding, response: web.response_encoding(head.header("accept")) })
    }

    /// The Content-Type of an answer that is all head.
    pub(super) fn content_type(self) -> &'static [u8] {
        match self.response {
            Encoding::Binary => b"application/grpc-web",
            Encoding::Text => b"application/grpc-web-text",
        }
    }
}

/// What the head of a call says as gRPC's, and its Content-Type appended to `lines`; None for any other request. The body
/// goes chunked. A Content-Type that the route sets itself comes before ours.
pub(super) fn shape_request(
    head: &RequestHead<'_>,
    ops: &HeaderOps,
    lines: &mut Vec<u8>,
) -> Option<RequestFacts> {
    if head.method != Method::Post {
        return None;
    }
    let web = WebType::parse(head.header(CONTENT_TYPE)?)?;
    if !ops.removes(CONTENT_TYPE) {
        lines.extend_from_slice(b"Content-Type: ");
        push_request_type(&web, lines);
        lines.extend_from_slice(b"\r\n");
    }
    let dropped = named(&head.fields, REQUEST_FIELDS_DROPPED);
    // Browsers can't ask for trailers; we do, who read them.
    Some(RequestFacts { te_trailers: true, hop_by_hop: head.hop_by_hop.union(dropped), ..*head.facts() })
}

/// What the head of a response says as gRPC-Web's, and its Content-Type appended to `lines`; None for one that isn't gRPC's, or
/// has a content coding, behind whose end nothing can be written: it passes as it is.
pub(super) fn shape_response(
    head: &ResponseHead<'_>,
    encoding: Encoding,
    ops: &HeaderOps,
    lines: &mut Vec<u8>,
) -> Option<ResponseFacts> {
    let coded = |value: &[u8]| !value.eq_ignore_ascii_case(b"identity");
    if head.fields.values("content-encoding").any(coded) {
        return None;
    }
    let mut content_type = Vec::new();
    if !push_response_type(head.header(CONTENT_TYPE)?, encoding, &mut content_type) {
        return None;
    }
    if !ops.removes(CONTENT_TYPE) {
        lines.extend_from_slice(b"Content-Type: ");
        lines.extend_from_slice(&content_type);
        lines.extend_from_slice(b"\r\n");
    }
    let dropped = named(&head.fields, &[CONTENT_TYPE, "trailer"]);
    Some(ResponseFacts { hop_by_hop: head.hop_by_hop.union(dropped), ..*head.facts() })
}

const CONTENT_TYPE: &str = "content-type";

fn named(fields: &Fields<'_>, names: &[&str]) -> FieldSet {
    fields.places(|header| names.iter().any(|name| header.is(name)))
}
