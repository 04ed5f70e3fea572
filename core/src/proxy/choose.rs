//! The endpoint of the next attempt.

use std::rc::Rc;

use super::exchange::Exchange;
use super::upstream::{Endpoint, Unavailable, Want};
use super::watch::elapsed;
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::net::platform::Platform;

/// The next endpoint, waiting for one if all are at their cap.
pub(super) async fn choose<P: Platform>(
    exchange: &Exchange<'_, P>,
    avoid: &[Rc<Endpoint<P::Stream>>],
) -> Result<Rc<Endpoint<P::Stream>>, Fault> {
    let &Exchange { conn, plan, upstream, .. } = exchange;
    let want =
        Want { group: plan.group, key: plan.key, sticky: plan.sticky, private: Some(&conn.private), avoid };
    let mut armed = false;
    loop {
        let now_ms = conn.core.now_ms();
        match upstream.choose(&want, now_ms, || conn.core.platform.random()) {
            Ok(endpoint) => return Ok(endpoint),
            Err(Unavailable::Busy) => {}
            Err(unavailable) => return Err(unavailable.fault()),
        }
        if !std::mem::replace(&mut armed, true) {
            conn.deadline.arm(conn.core.tick_ns() / 1_000_000, exchange.connect_timeout());
        }
        match conn.deadline.bound(upstream.wait()).await {
            Ok(true) => {
                conn.core.tick_ns();
            }
            Ok(false) => return Err(Fault::policy(ReasonCode::UpstreamPendingFull, 503)),
            Err(_) => return Err(elapsed(conn, &conn.deadline, ReasonCode::UpstreamBusy, 503)),
        }
    }
}
