//! 8 shape the request: the head that goes upstream, or to a mirror. Called by `request` while the client's head is
//! still borrowed, and again for each further endpoint that must be named.

use std::net::IpAddr;

use super::connection::Downstream;
use super::core::Bound;
use super::grpc_web;
use super::request::{Exchange, client_ip};
use super::split;
use super::upstream::Endpoint;
use crate::base::fault::Fault;
use crate::config::snapshot::{PathRewrite, Route, UpstreamHost};
use crate::http::framing::BodyLength;
use crate::http::grammar::{parse_decimal, push_decimal};
use crate::http::http1::encode::{ExpectRelay, Persistence, RequestRewrite, TargetRewrite, encode_request};
use crate::http::http1::parse::{Parsed, parse_request};
use crate::http::message::{FieldSet, HeaderSlots, Method, RequestHead, Scheme, Target};
use crate::http::rewrite::{ForwardingValues, routed_path};
use crate::http::upgrade;
use crate::net::platform::Platform;
use crate::net::stream::Transport;

/// Encodes the head again for another endpoint, from the bytes that are still in the buffer.
pub(super) fn encode_again<P: Platform>(
    Exchange { conn, bound, plan }: Exchange<'_, P>,
    filled: &[u8],
    endpoint: &Endpoint<P::Stream>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    const CHANGED: Fault = Fault::ourselves("head_changed", 500);
    let mut slots = HeaderSlots::new();
    let Ok(Parsed::Complete(head)) = parse_request(filled, &mut slots, &bound.head_limits) else {
        return Err(CHANGED);
    };
    let mut scratch = Vec::new();
    let path = routed_path(&head.target, &mut scratch).map_err(|_| CHANGED)?;
    out.clear();
    let Some(destination) = split::destination(&bound.snapshot.routes[plan.route].action, plan.arm) else {
        return Err(CHANGED);
    };
    let request = Request {
        route: plan.route,
        upstream: destination.upstream,
        head: &head,
        path,
        client: client_ip(conn, bound, &head),
        offered: plan.offered.as_deref(),
        drop: plan.hop.fields,
    };
    encode(conn, bound, &request, Some(endpoint), For::Answer, out)
}

/// A request that goes upstream.
#[derive(Clone, Copy)]
pub(super) struct Request<'r, 'h, 'b> {
    /// Index in the snapshot.
    pub(super) route: usize,
    /// Index in the snapshot.
    pub(super) upstream: usize,
    pub(super) head: &'r RequestHead<'h, 'b>,
    /// Normalised.
    pub(super) path: &'r [u8],
    pub(super) client: Option<IpAddr>,
    /// The protocol to offer, if an upgrade was asked for and is allowed.
    pub(super) offered: Option<&'r [u8]>,
    /// Fields that are not passed on.
    pub(super) drop: FieldSet,
}

/// What a head is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// The client's answer.
    Answer,
    /// A mirror: whoever gets it is told that nobody reads the answer, and nobody waits for a 100.
    Mirror,
}

/// What a mirror is told.
const MIRROR_LINE: &[u8] = b"Ringway-Mirror: 1\r\n";

/// How often an OPTIONS may still be passed on, and which field says so. What is no number counts for nothing.
#[cold]
pub(super) fn max_forwards(head: &RequestHead<'_, '_>) -> Option<(usize, u64)> {
    let named = |name: &str| name.eq_ignore_ascii_case("max-forwards");
    let mut found = head.fields.headers.iter().enumerate().filter(|(_, header)| named(header.name));
    match (found.next(), found.next()) {
        (Some((index, header)), None) => Some((index, parse_decimal(header.value)?)),
        _ => None,
    }
}

/// Appends the head that goes upstream.
pub(super) fn encode<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    request: &Request<'_, '_, '_>,
    endpoint: Option<&Endpoint<P::Stream>>,
    purpose: For,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let &Request { head, path, client, .. } = request;
    let route = &bound.snapshot.routes[request.route];
    let rewritten = match &route.rewrite_path {
        PathRewrite::Keep => None,
        rewrite => match rewrite.apply(path) {
            Some(path) => Some(path),
            None => return Err(Fault::policy("rewrite_made_no_path", 400)),
        },
    };
    let target = match (&rewritten, head.target) {
        (_, Target::Authority { .. } | Target::Asterisk) => TargetRewrite::Unchanged,
        (Some(path), _) => TargetRewrite::Path(path),
        // What was routed on is what is sent; the common path is the client's own bytes, which are copied with the rest.
        (None, target) if path.as_ptr() == target.path().as_ptr() && path.len() == target.path().len() => {
            TargetRewrite::Unchanged
        }
        (None, _) => TargetRewrite::Path(path),
    };
    let authority = endpoint.map(Endpoint::authority);
    let host = match (&route.rewrite_host, &bound.snapshot.upstreams[request.upstream].host) {
        (Some(host), _) | (None, UpstreamHost::Literal(host)) => Some(host.as_bytes()),
        (None, UpstreamHost::Endpoint) => authority.as_ref().map(|authority| authority.as_bytes()),
        // HTTP/1.0 needs no Host, but what we send is HTTP/1.1, which does: the origin is told its own name.
        (None, UpstreamHost::Client) if head.host.is_empty() => {
            authority.as_ref().map(|authority| authority.as_bytes())
        }
        (None, UpstreamHost::Client) => None,
    };
    let client_text = client.filter(|ip| Some(*ip) != conn.peer.ip()).map(|ip| ip.to_string());
    let values = ForwardingValues {
        peer_ip: conn.peer_text(),
        client_ip: client_text.as_deref().map_or(conn.peer_text(), str::as_bytes),
        scheme: if conn.stream.tls().is_some() { Scheme::Https } else { Scheme::Http },
        wire: conn.wire,
    };
    let mut lines = Vec::new();
    let shaped =
        if route.grpc_web { grpc_web::shape_request(head, &route.request_headers, &mut lines) } else { None };
    let mut drop = request.drop;
    if head.method == Method::Options
        && let Some((index, forwards)) = max_forwards(head)
    {
        drop.insert(index);
        lines.extend_from_slice(b"Max-Forwards: ");
        push_decimal(forwards.saturating_sub(1), &mut lines);
        lines.extend_from_slice(b"\r\n");
    }
    let mut expect = ExpectRelay::Forward;
    if purpose == For::Mirror {
        lines.extend_from_slice(MIRROR_LINE);
        expect = ExpectRelay::Drop;
    }
    let (head, framing) = shaped.as_ref().map_or((head, head.body), |shaped| (shaped, BodyLength::Chunked));
    let rewrite = RequestRewrite {
        target,
        host,
        ops: &route.request_headers,
        forwarding: Some((bound.forwarding(conn.listener), values)),
        framing,
        upgrade: request.offered,
        persistence: Persistence::KeepAlive,
        expect,
        drop,
        extra: &lines,
    };
    encode_request(head, &rewrite, out);
    Ok(())
}

/// Whether the encoded head names its endpoint, so that another endpoint needs another head.
pub(super) fn names_endpoint<S>(bound: &Bound<S>, request: &Request<'_, '_, '_>) -> bool {
    bound.snapshot.routes[request.route].rewrite_host.is_none()
        && match bound.snapshot.upstreams[request.upstream].host {
            UpstreamHost::Endpoint => true,
            UpstreamHost::Client => request.head.host.is_empty(),
            UpstreamHost::Literal(_) => false,
        }
}

/// The protocol to offer upstream: the first of the client's that the route allows.
pub(super) fn offer<'b>(head: &RequestHead<'_, 'b>, route: &Route) -> Option<&'b [u8]> {
    let offered = upgrade::offer(head, upgrade::UpgradePolicy::Any)?;
    let allowed = route.upgrade.iter().any(|name| offered.eq_ignore_ascii_case(name.as_bytes()));
    let websocket = !offered.eq_ignore_ascii_case(b"websocket") || head.method == Method::Get;
    (allowed && websocket).then_some(offered)
}
