//! Mirrors: copies of requests for upstreams whose answers nobody sees.
//!
//! The client never waits for one. A copy's head is encoded when the request's own is; its body is kept as it passes
//! ([`Tee`](super::body::Tee)), up to a bound; when the whole request has been read, the copy is handed to a task of its own. That has a
//! time-out, and there are only so many of them: what a slow mirror costs is bounded, and what is not copied is counted
//! with its reason. Copies are not tried again. The mirror's own guards and health apply to them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::body::{End, Pump, PumpError, Watch};
use super::connect::{self, NotConnected, on_behalf, reuse};
use super::core::Core;
use super::shape;
use super::upstream::{Endpoint, Lease, Need, Upstream, Want};
use crate::base::buffer::{Buffer, Purpose};
use crate::base::reason::ReasonCode;
use crate::config::snapshot::Mirror;
use crate::http::flow::{Batch, Flow};
use crate::http::framing::BodyLength;
use crate::http::http1::parse::{HeadLimits, Parsed, parse_response};
use crate::http::message::{HeadIndex, Method};
use crate::net::platform::Platform;
use crate::net::proxied::OnBehalf;
use crate::policy::outlier::Outcome;
use crate::telemetry::metrics::Counter;

/// No connection, or it broke, or what came was no HTTP.
const MIRROR_FAILED: ReasonCode = ReasonCode::MirrorFailed;

/// It took too long.
const MIRROR_TIMEOUT: ReasonCode = ReasonCode::MirrorTimeout;

/// The body is larger than the mirror takes.
const MIRROR_BODY_TOO_LARGE: ReasonCode = ReasonCode::MirrorBodyTooLarge;

/// Of an answer that nobody reads. Beyond it the connection is closed.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What says that a request is a copy; see [`shape`].
const MIRROR_FIELD: &str = "ringway-mirror";

/// The copies of one request that are to be sent.
#[derive(Debug)]
pub(super) struct Copies<S> {
    heads: RefCell<Vec<Copy<S>>>,
    method: Method,
    /// Of the request's body, as its client framed it.
    body: BodyLength,
    /// The largest that any of them takes.
    body_bytes_max: usize,
}

#[derive(Debug)]
struct Copy<S> {
    mirror: Mirror,
    upstream: Rc<Upstream<S>>,
    endpoint: Rc<Endpoint<S>>,
    head: Vec<u8>,
    /// For the PROXY header.
    client: OnBehalf,
    /// It carries credentials of NTLM or Negotiate.
    authenticates_connection: bool,
    connect_timeout: Duration,
    /// Held from the start: a body that is gathered takes memory before its copy is sent.
    _place: Place<S>,
}

/// A place among the copies under way to an upstream.
#[derive(Debug)]
struct Place<S>(Rc<Upstream<S>>);

impl<S> Place<S> {
    fn take(upstream: &Rc<Upstream<S>>, max: u32) -> Option<Self> {
        let taken = upstream.mirrors.get();
        (taken < max).then(|| {
            upstream.mirrors.set(taken + 1);
            Self(Rc::clone(upstream))
        })
    }
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

/// Draws who gets a copy, and encodes their heads.
pub(super) fn copies<P: Platform>(request: &shape::Request<'_, P>) -> Option<Box<Copies<P::Stream>>> {
    let &shape::Request { conn, bound, plan, head: asked, .. } = request;
    let core = &conn.core;
    let mirrors = &bound.snapshot.routes[plan.route].mirrors;
    // What becomes a tunnel or is translated is nobody's to copy.
    if mirrors.is_empty() || plan.offered.is_some() || plan.web.is_some() || plan.connect {
        return None;
    }
    if asked.header(MIRROR_FIELD).is_some() {
        // A mirror that leads back here, by whatever ways, would copy its copies for ever.
        core.metrics.refused(ReasonCode::MirrorOfACopy);
        return None;
    }
    let mut heads = Vec::new();
    let mut body_bytes_max = 0;
    for mirror in mirrors {
        if !mirror.chance.hits(core.platform.random()) {
            continue;
        }
        if matches!(asked.body, BodyLength::Length(bytes) if bytes > mirror.body_bytes_max as u64) {
            core.metrics.refused(MIRROR_BODY_TOO_LARGE);
            continue;
        }
        let upstream = core.upstream(bound, mirror.upstream);
        let Some(place) = Place::take(upstream, mirror.in_flight_max) else {
            core.metrics.refused(ReasonCode::MirrorBusy);
            continue;
        };
        let want = Want {
            group: 0,
            key: None,
            sticky: None,
            private: None,
            avoid: &[],
            repeat: false,
            last_resort: false,
        };
        let Ok(endpoint) = upstream.choose(&want, core.now_ms(), || core.platform.random()) else {
            core.metrics.refused(ReasonCode::MirrorUnavailable);
            continue;
        };
        let request = shape::Request { conn, bound, plan, head: asked, upstream: mirror.upstream };
        let mut head = Vec::with_capacity(512);
        if shape::encode(&request, &shape::To::Mirror(&endpoint), &mut head).is_err() {
            continue;
        }
        body_bytes_max = body_bytes_max.max(mirror.body_bytes_max);
        heads.push(Copy {
            mirror: *mirror,
            upstream: Rc::clone(upstream),
            client: on_behalf(conn, &endpoint.dial()),
            authenticates_connection: request.head.authenticates_connection,
            endpoint,
            head,
            connect_timeout: bound.snapshot.upstreams[mirror.upstream].timeouts.connect,
            _place: place,
        });
    }
    (!heads.is_empty()).then(|| {
        Box::new(Copies {
            heads: RefCell::new(heads),
            method: asked.method,
            body: asked.body,
            body_bytes_max,
        })
    })
}

impl<S> Copies<S> {
    /// How much of the body copies want that are still to be sent; `None`: there are none.
    pub(super) fn wanted_bytes(&self) -> Option<usize> {
        (!self.heads.borrow().is_empty()).then_some(self.body_bytes_max)
    }
}

/// Sends the copies of a request whose body is at hand whole. Of another nothing is done yet.
pub(super) fn send_whole<P: Platform>(core: &Rc<Core<P>>, copies: &Copies<P::Stream>, at_hand: &[u8]) {
    let whole = match copies.body {
        BodyLength::Length(bytes) => bytes <= at_hand.len() as u64,
        BodyLength::None => true,
        BodyLength::Chunked | BodyLength::UntilClose => {
            frame(copies.body, at_hand, &mut Vec::new()).is_some()
        }
    };
    if whole {
        send(core, copies, Ok(at_hand));
    }
}

/// Sends the copies that are left. `body` is in the client's framing; else it says why it is not at hand.
pub(super) fn send<P: Platform>(
    core: &Rc<Core<P>>,
    copies: &Copies<P::Stream>,
    body: Result<&[u8], ReasonCode>,
) {
    for mut copy in copies.heads.take() {
        let content = body.map(|body| frame(copies.body, body, &mut copy.head));
        match content {
            Ok(Some(content)) if content <= copy.mirror.body_bytes_max as u64 => {}
            Ok(_) => {
                core.metrics.refused(MIRROR_BODY_TOO_LARGE);
                continue;
            }
            Err(reason) => {
                core.metrics.refused(reason);
                continue;
            }
        }
        core.metrics.count(Counter::Mirrored);
        let (worker, method) = (Rc::clone(core), copies.method);
        core.platform.spawn(async move {
            if let Err(reason) = deliver(&worker, copy, method).await {
                worker.metrics.refused(reason);
            }
        });
    }
}

/// Appends a body in the framing that the copy's head speaks of. The content's length; `None` if the body is not whole.
fn frame(length: BodyLength, body: &[u8], out: &mut Vec<u8>) -> Option<u64> {
    let mut flow = Flow::new(length, length);
    let (mut rest, mut batch) = (body, Batch::default());
    while !flow.is_ended() {
        flow.step(rest, &mut batch).ok()?;
        batch.copy(rest, out);
        if batch.consumed == 0 && !flow.is_ended() {
            return None;
        }
        rest = &rest[batch.consumed..];
    }
    Some(flow.content_bytes())
}

/// Sends a copy, reads its answer to the end, and keeps the connection if it is clean.
async fn deliver<P: Platform>(
    core: &Rc<Core<P>>,
    copy: Copy<P::Stream>,
    method: Method,
) -> Result<(), ReasonCode> {
    let deadline = core.deadlines.deadline();
    let now_ns = core.tick_ns();
    deadline.cap(now_ns / 1_000_000, copy.mirror.timeout);
    let admitted = copy.upstream.admit(now_ns, now_ns).map_err(|_| ReasonCode::MirrorUnavailable)?;
    let (mut lease, found) = reuse(core, admitted, &copy.endpoint, Need::Any, None);
    if !found {
        deadline.arm(core.now_ms(), copy.connect_timeout);
        if let Err(error) = connect::open(core, &mut lease, &copy.client, &deadline).await {
            if let NotConnected::Short(shortage) = error {
                return Err(shortage.reason());
            }
            learn(core, &lease, Outcome::ConnectFailure, None);
            return Err(MIRROR_FAILED);
        }
    }
    if copy.authenticates_connection {
        // Nobody's next copy may be taken for this client's.
        lease.bind_to_client();
    }
    let pump = Pump {
        platform: &core.platform,
        pipes: &core.pipes,
        deadline: &deadline,
        moved_ms: None,
        idle: copy.mirror.timeout,
        content_max: u64::MAX,
        metrics: &core.metrics,
        watch: Watch::Nobody,
    };
    let wrote = pump.write_all(lease.stream(), &mut [std::io::IoSlice::new(&copy.head)], &mut 0).await;
    lease.sent(core.tick_ns());
    let status = match wrote {
        Ok(()) => answer(core, &pump, &lease, method).await,
        Err(error) => Err(error),
    };
    core.tick_ns();
    match status {
        Ok((status, clean)) => {
            learn(core, &lease, Outcome::of_status(status), Some(status));
            if clean {
                lease.give_back(core.now_ms(), None);
            }
            Ok(())
        }
        Err(PumpError::Elapsed(_)) => {
            learn(core, &lease, Outcome::Timeout, None);
            Err(MIRROR_TIMEOUT)
        }
        Err(_) => {
            learn(core, &lease, Outcome::Reset, None);
            Err(MIRROR_FAILED)
        }
    }
}

fn learn<P: Platform>(core: &Core<P>, lease: &Lease<P::Stream>, outcome: Outcome, status: Option<u16>) {
    if let Some(applied) = lease.learn(outcome, status, core.now_ms() * 1_000_000, || core.platform.random())
    {
        core.health_changed(applied);
    }
}

/// Reads the answer away. Its status, and whether the connection may carry another request.
async fn answer<P: Platform>(
    core: &Core<P>,
    pump: &Pump<'_, P>,
    lease: &Lease<P::Stream>,
    method: Method,
) -> Result<(u16, bool), PumpError> {
    let stream = lease.stream();
    // Taken when the first byte is there: a mirror that never answers costs no buffer.
    pump.wait_readable(stream).await?;
    let mut buffer = Buffer::nothing(&core.buffers.share(None), Purpose::Response);
    let (status, length, keep_alive) = loop {
        let mut slots = HeadIndex::default();
        match parse_response(buffer.filled(), &mut slots, method, &HeadLimits::default()) {
            Ok(Parsed::Complete(head)) => {
                let (status, body, keep_alive, bytes) =
                    (head.status, head.body, head.keep_alive, head.head_bytes);
                if head.authenticates_connection {
                    lease.bind_to_client();
                }
                buffer.consume(bytes);
                if !status.is_informational() {
                    break (status.0, body, keep_alive);
                }
            }
            Ok(Parsed::Partial) => {
                buffer.compact();
                if buffer.is_full() {
                    return Err(PumpError::TooLarge);
                }
                if pump.read(stream, &mut buffer).await? == 0 {
                    return Err(PumpError::Broken(End::Source));
                }
            }
            Err(_) => return Err(PumpError::Broken(End::Source)),
        }
    };
    let mut flow = Flow::new(length, length);
    let (mut batch, mut turn) = (Batch::default(), 0);
    while !flow.is_ended() {
        flow.step(buffer.filled(), &mut batch).map_err(PumpError::Malformed)?;
        buffer.consume(batch.consumed);
        pump.spend(&mut turn, batch.consumed).await;
        if flow.content_bytes() > ANSWER_BYTES_MAX {
            return Ok((status, false));
        }
        if flow.is_ended() || (batch.consumed > 0 && !buffer.is_empty()) {
            continue;
        }
        buffer.compact();
        if pump.read(stream, &mut buffer).await? == 0 {
            return Ok((status, false));
        }
    }
    Ok((status, keep_alive && length != BodyLength::UntilClose && buffer.is_empty()))
}
