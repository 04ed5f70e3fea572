//! What the admin interface shows and does of rate limits: what each has decided, the heaviest keys, the state of any key,
//! and filling a key's bucket again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::policy::rate_limit::{KeyPart, Rule};
use crate::policy::route::spelling;
use crate::proxy::core::Install;
use crate::proxy::limiting::client_octets;
use crate::telemetry::metrics::Sample;

/// Keys shown on the page.
const HEAVIEST_SHOWN: usize = 20;

/// One key of one limit, as somebody wrote it: the parts in the order of the limit's `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The rate limit's name.
    pub limit: String,
    /// Its key's parts.
    pub key: Vec<String>,
}

/// What to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Show it.
    Show,
    /// Fill its bucket, then show it.
    Reset,
}

/// The page of all limits.
pub(super) fn page(install: &Install, samples: &[Sample], now_ns: u64) -> String {
    let configured = &install.snapshot.rate_limits;
    let mut sums: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    let mut heaviest: BTreeMap<&str, u64> = BTreeMap::new();
    for sample in samples {
        for limit in &sample.limits {
            let sum = sums.entry(&limit.limit).or_default();
            for (total, n) in sum.iter_mut().zip(limit.counts) {
                *total += n;
            }
        }
        for (text, count) in &sample.heaviest {
            *heaviest.entry(text).or_default() += count;
        }
    }
    let rates: Vec<Value> = configured
        .rates
        .iter()
        .map(|limit| {
            let rule = &limit.rule;
            let (count, window_ms) = rule.rate.quota();
            let [admitted, delayed, rejected, shadow] = sums.get(&*rule.name).copied().unwrap_or_default();
            json!({
                "name": &*rule.name,
                "count": count,
                "window_ms": window_ms,
                "burst": rule.rate.burst(),
                "admitted": admitted,
                "delayed": delayed,
                "rejected": rejected,
                "shadow_rejected": shadow,
            })
        })
        .collect();
    let mut heaviest: Vec<(&str, u64)> = heaviest.into_iter().collect();
    heaviest.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let heaviest: Vec<Value> = heaviest
        .into_iter()
        .take(HEAVIEST_SHOWN)
        .map(|(key, decisions)| json!({ "key": key, "decisions": decisions }))
        .collect();
    let memory = install.limiting.as_ref().map_or(0, |shared| shared.node.bytes() + shared.in_flight.bytes());
    let keys = install.limiting.as_ref().map_or(0, |shared| shared.node.keys_in_use(now_ns));
    let page = json!({
        "rates": rates,
        "heaviest": heaviest,
        "keys_in_use": keys,
        "keys_max": configured.keys_max,
        "memory_bytes": memory,
    });
    format!("{page:#}\n")
}

/// One key's state.
///
/// # Errors
/// What is wrong with the question.
pub(super) fn key(install: &Install, asked: &Asked, deed: Deed, now_ns: u64) -> Result<String, String> {
    let shared = install.limiting.as_ref().ok_or("no limits are configured")?;
    let mut limits = install.snapshot.rate_limits.rates.iter().zip(&install.revisions);
    let (limit, revision) = limits
        .find(|(limit, _)| *limit.rule.name == *asked.limit)
        .ok_or_else(|| format!("there is no rate limit `{}`", asked.limit))?;
    let rule = limit.rule.counted_by(revision);
    let parts = parts(&rule, &asked.key)?;
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let hash = shared.hasher.key(rule.id, &parts);
    let reset = deed == Deed::Reset && shared.node.reset(&rule, hash, now_ns);
    let state = shared.node.state(&rule, hash, now_ns);
    let answer = json!({
        "limit": asked.limit,
        "key": asked.key,
        "tokens": state.tokens,
        "held_by_workers": state.held,
        "full_in_ms": state.full_in_ns / 1_000_000,
        "shares_a_bucket": state.shared,
        "reset": (deed == Deed::Reset).then_some(reset),
    });
    Ok(format!("{answer:#}\n"))
}

/// The bytes that workers hash.
fn parts(rule: &Rule, texts: &[String]) -> Result<Vec<Vec<u8>>, String> {
    if texts.len() != rule.key.len() {
        return Err(format!("the key of `{}` has {} parts, not {}", rule.name, rule.key.len(), texts.len()));
    }
    let part = |(part, text): (&KeyPart, &String)| match part {
        KeyPart::ClientAddress => {
            let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is no IP address"))?;
            let (octets, length) = client_octets(Some(address));
            Ok(octets[..length].to_vec())
        }
        KeyPart::Host => Ok(spelling::host(text.as_bytes()).into_owned()),
        _ => Ok(text.as_bytes().to_vec()),
    };
    rule.key.iter().zip(texts).map(part).collect()
}
