//! What is known of a request and decided about it. `request` fills it phase by phase; attempts go by it.

use std::net::IpAddr;

use super::caller;
use super::core::Bound;
use super::downstream::Downstream;
use super::grpc_web::Call;
use super::hop::Hop;
use super::inject;
use super::limiting::Grant;
use super::lookup::Found;
use super::respond::Requester;
use crate::config::snapshot::Destination;
use crate::http::framing::BodyLength;
use crate::http::message::{Method, RequestHead};
use crate::net::platform::Platform;
use crate::policy::balance::hash::Key;

/// What is known of a request and decided about it, phase by phase. It borrows nothing: the head's texts are places in the
/// bytes that the buffer holds.
#[derive(Debug)]
pub(super) struct Plan {
    /// The phase that is next, as an index of [`Phase::ALL`].
    pub(super) next: usize,
    pub(super) requester: Requester,
    /// By the trusted-hops rule.
    pub(super) client: Option<IpAddr>,
    pub(super) body: BodyLength,
    /// Where the body starts in the buffer.
    pub(super) head_bytes: usize,
    pub(super) keep_alive: bool,
    /// The client would go on, whatever we decide: it may have sent its next request already.
    pub(super) client_goes_on: bool,
    pub(super) expect_continue: bool,
    /// CONNECT: bytes both ways once the upstream is connected.
    pub(super) connect: bool,
    /// It carries credentials of NTLM or Negotiate: the connection that it goes over is the client's from then on.
    pub(super) authenticates_connection: bool,
    /// The path in its one spelling, where that is not how it came.
    pub(super) rewritten: Vec<u8>,
    /// Index in the snapshot. Only what comes after [`Phase::Route`] reads it.
    pub(super) route: usize,
    /// What the hop before says of time and tries, and what the next is told.
    pub(super) hop: Hop,
    /// What limits granted.
    pub(super) grant: Option<Grant>,
    /// What is done to it on purpose.
    pub(super) injected: Option<inject::Verdict>,
    /// What was looked up last, for the phase that asked.
    pub(super) found: Option<Found>,
    /// Of the route's split.
    pub(super) arm: Option<u16>,
    /// Where it goes.
    pub(super) destination: Option<Destination>,
    /// Among which endpoints: index of the upstream's group.
    pub(super) group: usize,
    /// What a rule that hashes goes by.
    pub(super) key: Option<Key>,
    /// The endpoint that the client's cookie names.
    pub(super) sticky: Option<usize>,
    /// The client speaks gRPC-Web, and the upstream gRPC.
    pub(super) web: Option<Call>,
    /// The protocol offered, if an upgrade was asked for and is allowed.
    pub(super) offered: Option<Box<[u8]>>,
    /// The encoded head names the endpoint, so another endpoint needs another head.
    pub(super) names_endpoint: bool,
}

impl Plan {
    /// What a head says by itself.
    pub(super) fn new<P: Platform>(
        conn: &Downstream<P>,
        bound: &Bound<P::Stream>,
        head: &RequestHead<'_>,
    ) -> Self {
        Self {
            next: 0,
            requester: Requester::of(head),
            client: caller::client(conn.peer.ip(), bound.forwarding(conn.listener).trusted_hops, head),
            body: head.body,
            head_bytes: head.head_bytes,
            keep_alive: head.keep_alive && conn.may_serve_more(bound),
            client_goes_on: head.keep_alive,
            expect_continue: head.expect_continue,
            connect: head.method == Method::Connect,
            authenticates_connection: head.authenticates_connection,
            rewritten: Vec::new(),
            route: 0,
            hop: Hop::default(),
            grant: None,
            injected: None,
            found: None,
            arm: None,
            destination: None,
            group: 0,
            key: None,
            sticky: None,
            web: None,
            offered: None,
            names_endpoint: false,
        }
    }

    /// The path that was routed on, which is the one that is sent.
    pub(super) fn path<'p>(&'p self, head: &RequestHead<'p>) -> &'p [u8] {
        if self.rewritten.is_empty() { head.path() } else { &self.rewritten }
    }
}
