//! 11 shape the response: the head that goes to the client.

use super::exchange::{Answer, Exchange};
use super::grpc_web;
use super::limiting;
use super::retry::{Failed, Next};
use super::upstream::Lease;
use crate::base::reason::ReasonCode;
use crate::http::framing::{BodyLength, relay};
use crate::http::grpc::GrpcStatus;
use crate::http::grpc_web::Encoding;
use crate::http::http1::encode::{Persistence, ResponseRewrite, encode_response};
use crate::http::http1::parse::{Parsed, parse_response};
use crate::http::message::{Status, Version};
use crate::http::upgrade::{Switch, switched};
use crate::net::platform::Platform;

/// A final response's head, encoded for the client.
pub(super) struct Shaped {
    pub(super) from: BodyLength,
    pub(super) to: BodyLength,
    /// The body is gRPC's, and the client wants gRPC-Web's.
    pub(super) web: Option<Encoding>,
    pub(super) head_bytes: usize,
    /// The origin lets its connection live on.
    pub(super) reusable: bool,
    /// The client's lives on.
    pub(super) keep: bool,
    pub(super) switching: bool,
}

/// What the bytes of a response begin with.
pub(super) enum Head {
    NeedMore,
    /// A 1xx to pass on, encoded; nothing if the client must not see it.
    Interim {
        head_bytes: usize,
        bytes: Vec<u8>,
    },
    Final(Shaped),
}

/// 11 shape the response: parses the head and encodes the client's into `out`, replacing what it held.
pub(super) fn shape<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    filled: &[u8],
    answer: &mut Answer<'_>,
) -> Result<Head, Failed<P::Stream>> {
    let &Exchange { conn, bound, plan, route, .. } = exchange;
    let Answer { record, out } = answer;
    let refuse = |reason: ReasonCode| Failed::Fault(exchange.broken(lease, reason));
    let mut index = conn.core.response_index.borrow_mut();
    let head = match parse_response(filled, &mut index, plan.requester.method, &bound.head_limits) {
        Ok(Parsed::Partial) => return Ok(Head::NeedMore),
        Ok(Parsed::Complete(head)) => head,
        Err(error) => return Err(refuse(error.reason())),
    };
    if head.authenticates_connection {
        lease.bind_to_client();
    }
    let tunnel = match switched(&head, plan.offered.as_deref()) {
        Ok(Switch::Tunnel(protocol)) => Some(protocol),
        Ok(Switch::Stay) => None,
        Err(error) => return Err(refuse(error.reason())),
    };
    let final_head = tunnel.is_some() || !head.status.is_informational();
    if final_head {
        exchange.answered(lease, head.status.0);
        if exchange.is_trial() {
            record.answered_ns = conn.core.tick_ns();
            record.sent_ns = lease.sent_ns().unwrap_or(0);
        }
        if plan.requester.grpc.is_some() {
            // Here it is the whole answer. Behind messages it comes as a trailer.
            record.grpc_status = head.header("grpc-status").and_then(GrpcStatus::parse);
        }
        if let Some(next) = exchange.after_response(&head, record) {
            let behind = (filled.len() - head.head_bytes) as u64;
            let whole = match head.body {
                BodyLength::None => behind == 0,
                BodyLength::Length(bytes) => behind == bytes,
                BodyLength::Chunked | BodyLength::UntilClose => false,
            };
            return Err(Failed::Again(Next { clean: whole && head.keep_alive, ..next }));
        }
    }
    let mut lines = Vec::new();
    let call = plan.web.filter(|_| !head.status.is_informational());
    let web = call
        .and_then(|call| grpc_web::shape_response(&head, call.response, &route.response_headers, &mut lines));
    let mut extra = bound.fields(conn.listener);
    let cookie = exchange.cookie(lease).filter(|_| final_head);
    let grant = plan.grant.as_ref().filter(|_| final_head);
    if let Some(grant) = grant {
        grant.settle(conn, bound, |name| head.header(name));
    }
    let told = grant.and_then(|grant| grant.told);
    if web.is_some() || cookie.is_some() || told.is_some() {
        lines.extend_from_slice(extra);
        if let Some(told) = told {
            limiting::append_lines(bound, told, &mut lines);
        }
        lines.extend_from_slice(cookie.as_deref().unwrap_or_default().as_bytes());
        extra = &lines;
    }
    // Without a body there are no trailers either: the status stands in the head.
    let web_body = call.filter(|_| web.is_some() && !head.body.is_empty()).map(|call| call.response);
    let head = web.as_ref().map_or(head, |facts| head.with(facts));
    let came = if web_body.is_some() { BodyLength::Chunked } else { head.body };
    let to = relay(came, plan.requester.version);
    let keep = plan.keep_alive
        && exchange.is_sent()
        && to != BodyLength::UntilClose
        && !conn.core.draining.is_raised();
    let date = conn.core.date(record.started_ns);
    let rewrite = ResponseRewrite {
        ops: &route.response_headers,
        framing: to,
        client: plan.requester.version,
        persistence: if keep { Persistence::KeepAlive } else { Persistence::Close },
        upgrade: tunnel,
        via: bound.snapshot.forwarding.via.as_deref(),
        wire: lease.wire(),
        date: &date,
        extra,
    };
    if !final_head {
        // RFC 9110 section 15.2: never to an HTTP/1.0 client; a 100 only to one that asked for it.
        let wanted =
            plan.requester.version == Version::Http11 && (head.status != Status(100) || plan.expect_continue);
        let mut bytes = Vec::new();
        if wanted {
            encode_response(&head, &rewrite, &mut bytes);
            exchange.continued.set(true);
        }
        return Ok(Head::Interim { head_bytes: head.head_bytes, bytes });
    }
    out.clear();
    encode_response(&head, &rewrite, out);
    record.status = head.status.0;
    Ok(Head::Final(Shaped {
        from: head.body,
        to,
        web: web_body,
        head_bytes: head.head_bytes,
        reusable: head.keep_alive,
        keep,
        switching: tunnel.is_some(),
    }))
}
