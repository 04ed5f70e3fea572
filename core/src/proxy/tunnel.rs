//! Bytes both ways without looking at them: after a 101 and after CONNECT. Each direction ends by itself (half-close).
//!
//! A quiet tunnel holds no buffer and no pipe. A direction that fills a whole buffer at once goes on by splice until it
//! has to wait.

use std::cell::Cell;
use std::io::IoSlice;
use std::pin::pin;

use super::attempt::{self, elapsed};
use super::connection::{After, Downstream};
use super::pump::{PumpError, Pumping, Watch, read_ready};
use super::record::Record;
use super::request::Exchange;
use super::upstream::Lease;
use super::watch::GONE;
use crate::base::buffer::{Buffer, Purpose};
use crate::base::fault::{Fault, Retry};
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::config::snapshot::RouteTimeouts;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::telemetry::metrics::Counter;

/// Answers a CONNECT that its route allows: connects to the route's upstream and tunnels.
pub(super) async fn connect<P: Platform>(
    exchange: Exchange<'_, P>,
    buffer: &mut Buffer,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<After, Fault> {
    let Exchange { conn, plan, .. } = exchange;
    record.attempts = 1;
    let pass = exchange.admit(record)?;
    let endpoint = attempt::choose(exchange, &[]).await?;
    let lease = attempt::open(exchange, pass, &endpoint).await?;
    exchange.answered(&lease, 200);
    lease.became_tunnel();
    buffer.consume(plan.head_bytes);
    record.intact = false;
    record.status = 200;
    record.response_started = true;
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 200 Connection Established\r\n\r\n");
    conn.write(out).await.map_err(|()| GONE)?;
    let nothing = Buffer::nothing(&conn.share, Purpose::Response);
    run(conn, &exchange.route().timeouts, lease, buffer, nothing, record).await
}

/// Tunnels until both directions have ended. The buffers hold what each side has sent already.
pub(super) async fn run<P: Platform>(
    conn: &Downstream<P>,
    timeouts: &RouteTimeouts,
    lease: Lease<P::Stream>,
    from_client: &mut Buffer,
    from_origin: Buffer,
    record: &mut Record,
) -> Result<After, Fault> {
    conn.core.metrics.count(Counter::Tunnels);
    let spliced = Cell::new(0);
    let pumping = Pumping {
        platform: &conn.core.platform,
        pipes: &conn.core.pipes,
        deadline: &conn.deadline,
        moved_ms: None,
        idle: timeouts.tunnel_idle.unwrap_or_default(),
        content_max: u64::MAX,
        spliced: &spliced,
        watch: Watch::WhileWriting(conn),
    };
    // Who reads from the client sees it go.
    let client_ended = Cell::new(false);
    let back = Pumping { watch: Watch::WhileReading(conn, &client_ended), ..pumping };
    // A tunnel may live for hours: the cap on the request does not count it.
    conn.deadline.cap(0, std::time::Duration::ZERO);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let outcome = {
        let mut upwards = pin!(direction(&pumping, &conn.stream, lease.stream(), from_client.take(), &up));
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
    conn.core.metrics.add(Counter::SplicedBytes, spliced.get());
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
    pumping: &Pumping<'_, P>,
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
            pumping.write_all(sink, &mut [IoSlice::new(buffer.filled())], &mut 0).await?;
            bytes.set(bytes.get() + n as u64);
            buffer.clear();
        }
        buffer.park();
        pumping.spend(&mut turn, n).await;
        if bulk {
            bytes.set(bytes.get() + pumping.splice_while_ready(source, sink).await?);
        }
        pumping.wait_readable(source).await?;
        pumping.ready(&mut buffer).await?;
        if read_ready(source, &mut buffer)? == Some(0) {
            sink.shutdown_write();
            return Ok(());
        }
    }
}
