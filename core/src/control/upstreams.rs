//! What the admin interface shows of upstreams: everybody's health and what guards them, as JSON. Puts together what the
//! node knows (standings, checks) and what workers counted (samples); decides nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::prober::Report;
use crate::config::snapshot::Upstream;
use crate::net::connect::Address;
use crate::policy::health::{Cause, State, Traffic, Verdict};
use crate::proxy::core::Install;
use crate::proxy::standing::traffic_name;
use crate::proxy::upstream::Configured;
use crate::telemetry::metrics::{EndpointInfo, Sample};

/// One endpoint, as the node knows it.
pub(super) struct Known {
    upstream: Arc<str>,
    address: String,
    state: State,
    check: Option<Value>,
    /// Checks made and failed, where some are configured.
    counts: Option<(u64, u64)>,
}

/// All endpoints of an install, in the order of the configuration.
pub(super) fn known(install: &Install, reports: &[Report], now_ms: u64) -> Vec<Known> {
    let by_key: HashMap<(&Arc<str>, &Address), &Report> =
        reports.iter().map(|report| ((&report.upstream, &report.address), report)).collect();
    let upstreams = install.snapshot.upstreams.iter().zip(&*install.upstreams);
    let of = |(upstream, configured): (&Upstream, &Arc<Configured>)| {
        let endpoints = configured.members.endpoints.iter();
        endpoints
            .map(|endpoint| {
                let report = by_key.get(&(&upstream.name, &endpoint.address));
                Known {
                    upstream: Arc::clone(&upstream.name),
                    address: endpoint.address.to_string(),
                    state: endpoint.standing.state(),
                    check: report.and_then(|report| last_check(report, now_ms)),
                    counts: report.filter(|r| r.is_checked).map(|r| (r.checks, r.failed)),
                }
            })
            .collect::<Vec<_>>()
    };
    upstreams.flat_map(of).collect()
}

fn last_check(report: &Report, now_ms: u64) -> Option<Value> {
    let last = report.last.as_ref()?;
    Some(json!({
        "passed": last.result.is_ok(),
        "reason": last.result.as_ref().err().map(ToString::to_string),
        "took_ms": last.took_ms,
        "ago_ms": now_ms.saturating_sub(last.at_ms),
        "passed_in_a_row": report.streak.passed,
        "failed_in_a_row": report.streak.failed,
    }))
}

/// For the metrics.
pub(super) fn infos(known: &[Known]) -> Vec<EndpointInfo> {
    let info = |endpoint: &Known| EndpointInfo {
        upstream: Arc::clone(&endpoint.upstream),
        endpoint: endpoint.address.clone(),
        healthy: endpoint.state.is_usable(),
        traffic: traffic_name(endpoint.state.traffic),
        checks: endpoint.counts,
    };
    known.iter().map(info).collect()
}

/// The page. `samples` are the workers', in their order.
pub(super) fn page(known: &[Known], samples: &[Sample], now_ms: u64) -> String {
    let mut upstreams: Vec<(&Arc<str>, Vec<Value>)> = Vec::new();
    let counts = counts(samples);
    for endpoint in known {
        if upstreams.last().is_none_or(|(name, _)| *name != &endpoint.upstream) {
            upstreams.push((&endpoint.upstream, Vec::new()));
        }
        let State { verdict, traffic, cause, ejections, at_ms, .. } = endpoint.state;
        let [connections, idle, active, requests, failures] =
            counts.get(&(&*endpoint.upstream, &*endpoint.address)).copied().unwrap_or_default();
        let ejected = traffic == Traffic::Ejected;
        let value = json!({
            "address": endpoint.address,
            "healthy": endpoint.state.is_usable(),
            "verdict": match verdict {
                Verdict::Unchecked => "unchecked",
                Verdict::Healthy => "healthy",
                Verdict::Unhealthy => "unhealthy",
            },
            "traffic": traffic_name(traffic),
            "ejected_for": cause.map(Cause::name),
            "ejections": ejections,
            "returns_in_ms": ejected.then(|| at_ms.saturating_sub(now_ms)),
            "last_check": endpoint.check,
            "connections": connections,
            "idle": idle,
            "active": active,
            "requests": requests,
            "failures": failures,
        });
        if let Some((_, endpoints)) = upstreams.last_mut() {
            endpoints.push(value);
        }
    }
    let all: Vec<Value> = upstreams
        .into_iter()
        .map(|(name, endpoints)| {
            let guards = samples.iter().flat_map(|sample| &sample.guards).filter(|g| g.upstream == *name);
            let workers: Vec<Value> = guards
                .map(|guard| {
                    json!({
                        "in_flight": guard.in_flight,
                        "breaker": guard.breaker,
                        "breaker_trips": guard.breaker.map(|_| guard.trips),
                        "breaker_rejected": guard.breaker.map(|_| guard.rejected),
                        "concurrency_limit": guard.limit,
                    })
                })
                .collect();
            json!({ "name": &**name, "endpoints": endpoints, "workers": workers })
        })
        .collect();
    format!("{:#}\n", json!({ "upstreams": all }))
}

/// What all workers counted of each endpoint: connections, idle ones, requests in flight, requests, failures.
fn counts(samples: &[Sample]) -> BTreeMap<(&str, &str), [u64; 5]> {
    let mut sums: BTreeMap<(&str, &str), [u64; 5]> = BTreeMap::new();
    for sample in samples.iter().flat_map(|sample| &sample.upstreams) {
        let row = [sample.connections, sample.idle, sample.active, sample.requests, sample.failures];
        let sum = sums.entry((&sample.upstream, &sample.endpoint)).or_default();
        for (total, n) in sum.iter_mut().zip(row) {
            *total += n;
        }
    }
    sums
}
