//! The endpoint of the next attempt.

use std::rc::Rc;

use super::exchange::Exchange;
use super::upstream::{Endpoint, Unavailable, Want};
use super::watch::elapsed;
use crate::base::fault::Fault;
use crate::base::limits::CONNECTS_PER_ENDPOINT_MAX;
use crate::base::reason::ReasonCode;
use crate::net::platform::Platform;

/// What earlier attempts of a request say of the next one.
#[derive(Debug)]
pub(super) struct Tried<S> {
    /// Those that it shall not go to again, if there are others.
    pub(super) avoid: Vec<Rc<Endpoint<S>>>,
    /// It is not the first.
    pub(super) repeat: bool,
    /// Those that were not reached, as often as they were not.
    pub(super) unreached: Vec<Rc<Endpoint<S>>>,
}

impl<S> Tried<S> {
    /// It has been tried twice and was not reached: a third time would say the same.
    pub(super) fn is_hopeless(&self, endpoint: &Rc<Endpoint<S>>) -> bool {
        self.unreached.iter().filter(|one| Rc::ptr_eq(one, endpoint)).count() >= CONNECTS_PER_ENDPOINT_MAX
    }
}

impl<S> Default for Tried<S> {
    /// There were none.
    fn default() -> Self {
        Self { avoid: Vec::new(), repeat: false, unreached: Vec::new() }
    }
}

/// The next endpoint; `None` if all are at their cap.
pub(super) fn choose<P: Platform>(
    exchange: &Exchange<'_, P>,
    tried: &Tried<P::Stream>,
) -> Result<Option<Rc<Endpoint<P::Stream>>>, Fault> {
    let &Exchange { conn, plan, upstream, .. } = exchange;
    let want = Want {
        group: plan.group,
        key: plan.key,
        sticky: plan.sticky,
        private: Some(&conn.private),
        avoid: &tried.avoid,
        repeat: tried.repeat,
        last_resort: !tried.unreached.is_empty(),
    };
    match upstream.choose(&want, conn.core.now_ms(), || conn.core.platform.random()) {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(Unavailable::Busy) => Ok(None),
        Err(unavailable) => Err(unavailable.fault()),
    }
}

/// Waits for one.
pub(super) async fn wait<P: Platform>(
    exchange: &Exchange<'_, P>,
    tried: &Tried<P::Stream>,
) -> Result<Rc<Endpoint<P::Stream>>, Fault> {
    let &Exchange { conn, upstream, .. } = exchange;
    conn.deadline.arm(conn.core.tick_ns() / 1_000_000, exchange.connect_timeout());
    loop {
        match conn.deadline.bound(upstream.wait()).await {
            Ok(true) => {
                conn.core.tick_ns();
            }
            Ok(false) => return Err(Fault::policy(ReasonCode::UpstreamPendingFull, 503)),
            Err(_) => return Err(elapsed(conn, &conn.deadline, ReasonCode::UpstreamBusy, 503)),
        }
        if let Some(endpoint) = choose(exchange, tried)? {
            return Ok(endpoint);
        }
    }
}
