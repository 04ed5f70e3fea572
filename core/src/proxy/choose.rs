//! The endpoint of the next attempt.

use std::rc::Rc;

use super::exchange::Exchange;
use super::upstream::{Endpoint, Unavailable, Want};
use super::watch::elapsed;
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::net::platform::Platform;

/// The next endpoint; `None` if all are at their cap.
pub(super) fn choose<P: Platform>(
    exchange: &Exchange<'_, P>,
    avoid: &[Rc<Endpoint<P::Stream>>],
) -> Result<Option<Rc<Endpoint<P::Stream>>>, Fault> {
    let &Exchange { conn, plan, upstream, .. } = exchange;
    let want =
        Want { group: plan.group, key: plan.key, sticky: plan.sticky, private: Some(&conn.private), avoid };
    match upstream.choose(&want, conn.core.now_ms(), || conn.core.platform.random()) {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(Unavailable::Busy) => Ok(None),
        Err(unavailable) => Err(unavailable.fault()),
    }
}

/// Waits for one.
pub(super) async fn wait<P: Platform>(
    exchange: &Exchange<'_, P>,
    avoid: &[Rc<Endpoint<P::Stream>>],
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
        if let Some(endpoint) = choose(exchange, avoid)? {
            return Ok(endpoint);
        }
    }
}
