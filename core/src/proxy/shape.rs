//! 8 shape the request: the head that goes upstream, or to a mirror. Called by `phases` while the client's head is
//! still borrowed, and again for each further endpoint that must be named.

use super::core::Bound;
use super::downstream::Downstream;
use super::grpc_web;
use super::plan::Plan;
use super::upstream::Endpoint;
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::config::snapshot::{PathRewrite, Route, UpstreamHost};
use crate::http::framing::BodyLength;
use crate::http::grammar::{parse_decimal, push_decimal};
use crate::http::http1::encode::{ExpectRelay, Persistence, RequestRewrite, TargetRewrite, encode_request};
use crate::http::message::{Method, RequestHead, Scheme, Target};
use crate::http::rewrite::ForwardingValues;
use crate::http::upgrade;
use crate::net::platform::Platform;
use crate::net::stream::Transport;

/// Encodes the head for an endpoint that it names.
pub(super) fn encode_for<P: Platform>(
    request: &Request<'_, P>,
    endpoint: &Endpoint<P::Stream>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    out.clear();
    encode(request, &To::Endpoint(endpoint), out)
}

/// A request that goes upstream.
pub(super) struct Request<'r, P: Platform> {
    pub(super) conn: &'r Downstream<P>,
    pub(super) bound: &'r Bound<P::Stream>,
    pub(super) plan: &'r Plan,
    pub(super) head: RequestHead<'r>,
    /// Index in the snapshot: the request's own upstream, or a mirror.
    pub(super) upstream: usize,
}

impl<'r, P: Platform> Request<'r, P> {
    /// One that goes where its plan says.
    pub(super) fn new(
        conn: &'r Downstream<P>,
        bound: &'r Bound<P::Stream>,
        plan: &'r Plan,
        head: RequestHead<'r>,
    ) -> Self {
        let upstream = plan.destination.map_or(0, |destination| destination.upstream);
        Self { conn, bound, plan, head, upstream }
    }
}

/// Whom a head is encoded for.
pub(super) enum To<'e, S> {
    /// Any endpoint of the request's upstream: the head names none.
    Anybody,
    Endpoint(&'e Endpoint<S>),
    /// An endpoint of a mirror: whoever gets it is told that nobody reads the answer, and nobody waits for a 100.
    Mirror(&'e Endpoint<S>),
}

/// What a mirror is told.
const MIRROR_LINE: &[u8] = b"Ringway-Mirror: 1\r\n";

/// How often an OPTIONS may still be passed on, and which field says so. What is no number counts for nothing.
#[cold]
pub(super) fn max_forwards(head: &RequestHead<'_>) -> Option<(usize, u64)> {
    let mut found = head.fields.iter().enumerate().filter(|(_, header)| header.is("max-forwards"));
    match (found.next(), found.next()) {
        (Some((index, header)), None) => Some((index, parse_decimal(header.value)?)),
        _ => None,
    }
}

/// Appends the head that goes upstream.
pub(super) fn encode<P: Platform>(
    request: &Request<'_, P>,
    to: &To<'_, P::Stream>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let &Request { conn, bound, plan, ref head, .. } = request;
    let (endpoint, mirror) = match *to {
        To::Anybody => (None, false),
        To::Endpoint(endpoint) => (Some(endpoint), false),
        To::Mirror(endpoint) => (Some(endpoint), true),
    };
    let path = plan.path(head);
    let route = &bound.snapshot.routes[plan.route];
    let rewritten = match &route.rewrite_path {
        PathRewrite::Keep => None,
        rewrite => match rewrite.apply(path) {
            Some(path) => Some(path),
            None => return Err(Fault::policy(ReasonCode::RewriteMadeNoPath, 400)),
        },
    };
    let target = match (&rewritten, head.target()) {
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
        (None, UpstreamHost::Client) if head.host().is_empty() => {
            authority.as_ref().map(|authority| authority.as_bytes())
        }
        (None, UpstreamHost::Client) => None,
    };
    let client_text = plan.client.filter(|ip| Some(*ip) != conn.peer.ip()).map(|ip| ip.to_string());
    let values = ForwardingValues {
        peer_ip: conn.peer_text(),
        client_ip: client_text.as_deref().map_or(conn.peer_text(), str::as_bytes),
        scheme: if conn.stream.tls().is_some() { Scheme::Https } else { Scheme::Http },
        wire: conn.wire,
    };
    let mut lines = Vec::new();
    let shaped =
        if route.grpc_web { grpc_web::shape_request(head, &route.request_headers, &mut lines) } else { None };
    let mut drop = plan.hop.fields;
    if head.method == Method::Options
        && let Some((index, forwards)) = max_forwards(head)
    {
        drop.insert(index);
        lines.extend_from_slice(b"Max-Forwards: ");
        push_decimal(forwards.saturating_sub(1), &mut lines);
        lines.extend_from_slice(b"\r\n");
    }
    let mut expect = ExpectRelay::Forward;
    if mirror {
        lines.extend_from_slice(MIRROR_LINE);
        expect = ExpectRelay::Drop;
    }
    let (head, framing) = match &shaped {
        Some(facts) => (&head.with(facts), BodyLength::Chunked),
        None => (head, head.body),
    };
    let rewrite = RequestRewrite {
        target,
        host,
        ops: &route.request_headers,
        forwarding: Some((bound.forwarding(conn.listener), values)),
        framing,
        upgrade: plan.offered.as_deref(),
        persistence: Persistence::KeepAlive,
        expect,
        drop,
        extra: &lines,
    };
    encode_request(head, &rewrite, out);
    Ok(())
}

/// Whether the encoded head names its endpoint, so that another endpoint needs another head.
pub(super) fn names_endpoint<P: Platform>(request: &Request<'_, P>) -> bool {
    let &Request { bound, plan, .. } = request;
    bound.snapshot.routes[plan.route].rewrite_host.is_none()
        && match bound.snapshot.upstreams[request.upstream].host {
            UpstreamHost::Endpoint => true,
            UpstreamHost::Client => request.head.host().is_empty(),
            UpstreamHost::Literal(_) => false,
        }
}

/// The protocol to offer upstream: the first of the client's that the route allows.
pub(super) fn offer<'b>(head: &RequestHead<'b>, route: &Route) -> Option<&'b [u8]> {
    let offered = upgrade::offer(head, upgrade::UpgradePolicy::Any)?;
    let allowed = route.upgrade.iter().any(|name| offered.eq_ignore_ascii_case(name.as_bytes()));
    let websocket = !offered.eq_ignore_ascii_case(b"websocket") || head.method == Method::Get;
    (allowed && websocket).then_some(offered)
}
