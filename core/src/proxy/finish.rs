//! 13 record: what an exchange leaves behind, in counters, in what arms of a split are compared by, and in the access log.

use std::net::IpAddr;
use std::rc::Rc;

use super::core::Bound;
use super::downstream::Downstream;
use super::log;
use super::record::{Draft, Record, Tls, Wanted};
use super::split;
use crate::http::message::{RequestHead, Version, Wire};
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::telemetry::metrics::Counter;

/// Prepares the log line of a request without a head. Nothing of it is fit to be repeated, but that it came, and why
/// it was refused, is.
pub(super) fn log_headless<P: Platform>(conn: &Downstream<P>, record: &mut Record) {
    let wanted = wanted(conn, &conn.core.bound());
    if wanted != Wanted::Never {
        let (client, tls) = (conn.peer.ip(), tls(conn));
        record.draft = Some(Box::new(Draft { client, wanted, tls, ..Draft::default() }));
    }
}

/// Prepares the log line of a request, if it may be written.
pub(super) fn log_head<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    head: &RequestHead<'_>,
    client: Option<IpAddr>,
    record: &mut Record,
) {
    let wanted = wanted(conn, bound);
    if wanted != Wanted::Never {
        record.draft = Some(Box::new(Draft { tls: tls(conn), ..draft(conn.wire, head, client, wanted) }));
    }
}

fn wanted<P: Platform>(conn: &Downstream<P>, bound: &Bound<P::Stream>) -> Wanted {
    let log = &bound.snapshot.access_log;
    log::wanted(log.mode, log.sample, || conn.core.platform.random())
}

fn tls<P: Platform>(conn: &Downstream<P>) -> Option<Tls> {
    let agreed = conn.stream.tls()?;
    Some(Tls {
        version: agreed.version.name(),
        server_name: agreed.server_name.clone(),
        client: agreed.client.as_ref().map(Rc::clone),
    })
}

fn draft(wire: Wire, head: &RequestHead<'_>, client: Option<IpAddr>, wanted: Wanted) -> Draft {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Draft {
        method: text(head.method_text()),
        target: text(head.target_text()),
        host: text(head.host()),
        client,
        user_agent: head.header("user-agent").map(text).unwrap_or_default(),
        version: match (wire, head.version) {
            (Wire::Http2, _) => "HTTP/2.0",
            (Wire::Http1, Version::Http10) => "HTTP/1.0",
            (Wire::Http1, Version::Http11) => "HTTP/1.1",
        },
        wanted,
        ..Draft::default()
    }
}

/// Counts and logs.
pub(super) fn finish<P: Platform>(conn: &Downstream<P>, bound: &Bound<P::Stream>, record: &Record) {
    let core = &conn.core;
    let duration_us = (core.tick_ns() - record.started_ns) / 1_000;
    core.metrics.finished(record.status, duration_us);
    if let Some(route) = record.matched {
        core.count_route(bound, route as usize, record.status);
    }
    split::learn(core.index, bound, record, duration_us);
    if let Some(reason) = record.reason {
        core.metrics.refused(reason);
    }
    if record.request_bytes > 0 {
        core.metrics.add(Counter::RequestBodyBytes, record.request_bytes);
    }
    if record.response_bytes > 0 {
        core.metrics.add(Counter::ResponseBodyBytes, record.response_bytes);
    }
    if let Some(draft) = &record.draft {
        let dropped =
            core.log.write(draft, record, core.platform.unix_time().as_millis() as u64, duration_us);
        core.metrics.add(Counter::LogLinesDropped, dropped);
    }
}
