//! A connection to an endpoint, for requests and for mirrors' copies: an idle one, one borrowed from another worker, or new.
//! What its failure says of the endpoint, the caller decides.

use std::rc::Rc;

use super::core::Core;
use super::downstream::Downstream;
use super::upstream::{Admitted, Discarded, Endpoint, Found, Lease, Need, Private};
use crate::base::deadline::Deadline;
use crate::net::descriptors::Shortage;
use crate::net::listener::Peer;
use crate::net::platform::{ConnectError, Connected, Dial, Platform};
use crate::net::proxied::OnBehalf;
use crate::net::stream::Transport;
use crate::telemetry::metrics::Counter;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NotConnected {
    /// Our own machine is short of something: the endpoint was not asked.
    Short(Shortage),
    /// The endpoint could not be reached, or the handshake failed.
    Failed(ConnectError),
    /// It takes no stream on a connection that has just been opened.
    NoStreams,
    /// It took too long; the deadline says for whom.
    Elapsed,
}

/// A lease, and whether it has a connection already: one of this worker's, or one that another lends.
pub(super) fn reuse<P: Platform>(
    core: &Core<P>,
    admitted: Admitted<P::Stream>,
    endpoint: &Rc<Endpoint<P::Stream>>,
    need: Need,
    private: Option<&Private<P::Stream>>,
) -> (Lease<P::Stream>, bool) {
    let mut discarded = Discarded::default();
    let (mut lease, found) = Lease::take(admitted, endpoint, need, private, core.now_ms(), &mut discarded);
    let stream = match found {
        Found::Idle(stream) => Some(stream),
        Found::Lent(socket) => {
            let stream = core.platform.attach(socket).ok().filter(|stream| discarded.look(stream));
            if stream.is_some() {
                core.metrics.count(Counter::Borrowed);
            }
            stream
        }
        Found::Nothing => None,
    };
    core.discarded(discarded);
    let found = stream.is_some();
    if let Some(stream) = stream {
        core.metrics.count(Counter::UpstreamReused);
        lease.hold(stream, true);
    }
    (lease, found)
}

/// Opens a connection for a lease that has none, within `deadline`.
pub(super) async fn open<P: Platform>(
    core: &Core<P>,
    lease: &mut Lease<P::Stream>,
    client: &OnBehalf,
    deadline: &Deadline,
) -> Result<(), NotConnected> {
    core.metrics.count(Counter::UpstreamConnects);
    let endpoint = Rc::clone(&lease.endpoint);
    let outcome = deadline.bound(core.platform.connect(&endpoint.address, &lease.dial, client)).await;
    core.tick_ns();
    let failure = match outcome {
        Ok(Ok(connected)) => {
            if matches!(connected, Connected::Session(_)) {
                core.metrics.count(Counter::UpstreamHttp2Connects);
            }
            if lease.connected(connected, core.now_ms()) {
                return Ok(());
            }
            // It was connected: not one of the errors that are counted here.
            return Err(NotConnected::NoStreams);
        }
        Ok(Err(error)) => match error.shortage() {
            Some(shortage) => {
                core.short_of(shortage, "a connection to an upstream");
                if shortage == Shortage::Descriptors {
                    // Clients between two requests make room for the next request's.
                    core.deadlines.expire_idle();
                }
                return Err(NotConnected::Short(shortage));
            }
            None => NotConnected::Failed(error),
        },
        Err(_) => NotConnected::Elapsed,
    };
    core.metrics.count(Counter::UpstreamConnectErrors);
    Err(failure)
}

/// For the PROXY header, where the endpoint reads one.
pub(super) fn on_behalf<P: Platform>(conn: &Downstream<P>, dial: &Dial) -> OnBehalf {
    match conn.peer {
        Peer::Tcp(source) if dial.proxy.is_some() => {
            OnBehalf { source: Some(source), destination: conn.stream.local_address() }
        }
        _ => OnBehalf::default(),
    }
}
