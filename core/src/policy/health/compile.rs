//! Health checks, compiled.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::check::{self, HttpProbe, HttpVersion, Probe};
use super::settings;
use crate::settings::address::host_field;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// The shortest interval of health checks.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// `version` is what the endpoints speak; `any_unix`: some of them are Unix sockets.
pub(crate) fn compile(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: Option<&settings::HealthCheck>,
    version: HttpVersion,
    any_unix: bool,
) -> Option<Arc<check::Settings>> {
    let raw = raw?;
    let at = item.field("health_check");
    if raw.interval.as_std() < CHECK_INTERVAL_MIN {
        found.bad_value(
            &at.field("interval"),
            "endpoints are asked at most ten times a second; at least 100ms",
        );
    }
    if raw.port.is_some() && any_unix {
        found.errors.add(ProblemKind::Conflict, &at.field("port"), "a Unix socket has no port").on_key();
    }
    let probe = match (&raw.http, &raw.grpc, raw.tcp) {
        (Some(http), None, false) => Some(http_check(found, &at.field("http"), http, version)),
        (None, Some(grpc), false) => {
            if version != HttpVersion::Http2 {
                found
                    .errors
                    .add(ProblemKind::Conflict, &at.field("grpc"), "gRPC is spoken over HTTP/2")
                    .on_key()
                    .hint("add `protocol: http2` to the upstream");
            }
            Some(Probe::Grpc { service: grpc.service.as_str().into(), authority: None })
        }
        (None, None, true) => Some(Probe::Tcp),
        _ => {
            found.bad_value(&at, "exactly one of `http`, `grpc` and `tcp: true` is asked");
            None
        }
    };
    let interval_ms = raw.interval.millis();
    Some(Arc::new(check::Settings {
        probe: probe?,
        interval_ms,
        jitter_ms_max: interval_ms * u64::from(raw.jitter_percent) / 100,
        // Whoever waits for an endpoint to come back knows how long that takes.
        unhealthy_interval_ms_max: interval_ms,
        timeout_ms: raw.timeout.millis(),
        healthy_threshold: raw.healthy_threshold,
        unhealthy_threshold: raw.unhealthy_threshold,
        port: raw.port,
    }))
}

fn http_check(
    found: &mut Diagnostics,
    at: &At<'_>,
    raw: &settings::HttpCheck,
    version: HttpVersion,
) -> Probe {
    let path = &raw.path;
    if !path.starts_with('/') {
        let hint = format!("did you mean `/{path}`?");
        found
            .errors
            .add(
                ProblemKind::BadValue,
                &at.field("path"),
                format_args!("`{path}`: a path starts with a slash"),
            )
            .hint(hint);
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        found.bad_value(
            &at.field("path"),
            format_args!("`{path}` has a character that no request line may have"),
        );
    }
    let host = raw.host.as_ref().and_then(|text| match host_field(text) {
        Ok(host) => Some(Arc::from(host)),
        Err(error) => {
            found.bad_address(&at.field("host"), text, &error);
            None
        }
    });
    let list = at.field("expect");
    let expected_statuses = raw
        .expect
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let range = statuses(text);
            if range.is_none() {
                found.bad_value(
                    &list.index(index),
                    format_args!("`{text}`: expected a status or a range of them, as in 200-299"),
                );
            }
            range
        })
        .collect();
    Probe::Http(HttpProbe { version, host, path: path.as_str().into(), expected_statuses })
}

/// `204` or `200-299`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some(first..=last)
}
