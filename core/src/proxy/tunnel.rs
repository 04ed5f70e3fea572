//! Bytes both ways without looking at them: after a 101 and after CONNECT. Each direction ends by itself (half-close).
//!
//! A quiet tunnel holds no buffer and no pipe. A direction that fills a whole buffer at once goes on by splice until it
//! has to wait.

use std::cell::Cell;
use std::io::IoSlice;
use std::pin::pin;

use super::body::{Pump, PumpError, Watch, read_ready};
use super::downstream::After;
use super::exchange::Exchange;
use super::record::Record;
use super::upstream::Lease;
use super::watch::{GONE, elapsed};
use crate::base::buffer::Buffer;
use crate::base::fault::{Fault, Retry};
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::telemetry::metrics::Counter;

/// Tunnels until both directions have ended. The buffers hold what each side has sent already.
pub(super) async fn run<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: Lease<P::Stream>,
    from_client: &mut Buffer,
    from_origin: Buffer,
    record: &mut Record,
) -> Result<After, Fault> {
    let conn = exchange.conn;
    conn.core.metrics.count(Counter::Tunnels);
    lease.became_tunnel();
    if let Some(grant) = &exchange.plan.grant {
        grant.became_tunnel();
    }
    let pump = Pump::new(conn, exchange.route.timeouts.tunnel_idle.unwrap_or_default());
    // Who reads from the client sees it go.
    let client_ended = Cell::new(false);
    let back = Pump { watch: Watch::WhileReading(conn, &client_ended), ..pump };
    // A tunnel may live for hours: the cap on the request does not count it.
    conn.deadline.cap(0, std::time::Duration::ZERO);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let outcome = {
        let mut upwards = pin!(direction(&pump, &conn.stream, lease.stream(), from_client.take(), &up));
        let mut downwards = pin!(direction(&back, lease.stream(), &conn.stream, from_origin, &down));
        match race(upwards.as_mut(), downwards.as_mut()).await {
            First::Left(Ok(())) => {
                client_ended.set(true);
                downwards.await
            }
            First::Right(Ok(())) => upwards.await,
            First::Left(error) | First::Right(error) => error,
        }
    };
    record.request_bytes += up.get();
    record.response_bytes += down.get();
    match outcome {
        Ok(()) => Ok(After::Close),
        Err(PumpError::Elapsed(_)) => Err(Fault {
            retry: Retry::Never,
            ..elapsed(conn, &conn.deadline, ReasonCode::TunnelIdleTimeout, 504)
        }),
        Err(PumpError::ClientGone) => Err(GONE),
        Err(_) => Err(Fault::upstream(ReasonCode::TunnelReset, 502, Retry::Never)),
    }
}

/// One direction, until its source ends; then the sink is told so.
async fn direction<P: Platform, S: Transport, D: Transport>(
    pump: &Pump<'_, P>,
    source: &S,
    sink: &D,
    mut buffer: Buffer,
    bytes: &Cell<u64>,
) -> Result<(), PumpError> {
    let mut turn = 0;
    loop {
        let bulk = buffer.is_full();
        let n = buffer.filled().len();
        if n > 0 {
            pump.write_all(sink, &mut [IoSlice::new(buffer.filled())], &mut 0).await?;
            bytes.set(bytes.get() + n as u64);
            buffer.clear();
        }
        buffer.park();
        pump.spend(&mut turn, n).await;
        if bulk {
            bytes.set(bytes.get() + pump.splice_while_ready(source, sink).await?);
        }
        pump.wait_readable(source).await?;
        pump.ready(&mut buffer).await?;
        if read_ready(source, &mut buffer)? == Some(0) {
            sink.shutdown_write();
            return Ok(());
        }
    }
}
