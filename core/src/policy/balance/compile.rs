//! How endpoints are chosen, compiled.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hash::{MaglevSettings, RingSettings, Shape};
use super::settings::{self, BalanceRule};
use super::slow_start::{self, Curve};
use super::sticky::{Cookie, Travel};
use super::subset::Labels;
use super::tiers::Locality;
use super::{Rule, ewma};
use crate::policy::hash_on::{self, HashOn};
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// How endpoints are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    pub rule: Rule,
    /// How latencies are remembered, for the rule that asks for them.
    pub ewma: ewma::Settings,
    /// For the rules that hash.
    pub hash: Option<Hashing>,
}

/// What is hashed, into which kind of table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    pub on: HashOn,
    pub shape: Shape,
}

pub(crate) fn locality(found: &mut Diagnostics, at: &At<'_>, raw: &settings::Locality) -> Locality {
    if raw.zone.is_some() && raw.region.is_none() {
        found
            .errors
            .add(ProblemKind::MissingField, &at.field("zone"), "a zone is known within its region only")
            .hint("add `region`");
    }
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    Locality { region: text(&raw.region), zone: text(&raw.zone) }
}

pub(crate) fn compile(found: &mut Diagnostics, item: &At<'_>, given: &settings::Balance) -> Balance {
    let at = item.field("balance");
    let rule = match given.rule() {
        BalanceRule::RoundRobin => Rule::RoundRobin,
        BalanceRule::LeastRequests => Rule::LeastRequests,
        BalanceRule::PeakEwma => Rule::PeakEwma,
        BalanceRule::Random => Rule::Random,
        BalanceRule::RingHash => Rule::RingHash,
        BalanceRule::Maglev => Rule::Maglev,
    };
    let (hash_on, decay) = match given {
        settings::Balance::Rule(_) => (None, None),
        settings::Balance::Detailed(settings) => (settings.hash_on.as_ref(), settings.decay),
    };
    if decay.is_some() && rule != Rule::PeakEwma {
        let at = at.field("decay");
        found.errors.add(ProblemKind::Conflict, &at, "only `peak_ewma` remembers latencies").on_key();
    }
    let shape = match rule {
        Rule::RingHash => Some(Shape::Ring(RingSettings::default())),
        Rule::Maglev => Some(Shape::Maglev(MaglevSettings::default())),
        Rule::RoundRobin | Rule::LeastRequests | Rule::PeakEwma | Rule::Random => None,
    };
    let hash = match (shape, hash_on) {
        (Some(shape), Some(hash_on)) => {
            hash_on::compile(found, &at.field("hash_on"), hash_on).map(|on| Hashing { on, shape })
        }
        (Some(_), None) => {
            found
                .errors
                .add(ProblemKind::MissingField, &at, "this rule hashes something of each request")
                .hint("as in `balance: { rule: maglev, hash_on: { header: x-user } }`");
            None
        }
        (None, Some(_)) => {
            found
                .errors
                .add(ProblemKind::Conflict, &at.field("hash_on"), "only `ring_hash` and `maglev` hash")
                .on_key();
            None
        }
        (None, None) => None,
    };
    let ewma = decay.map_or_else(ewma::Settings::default, |decay| {
        ewma::Settings::new(decay.millis(), decay.millis().min(1_000))
    });
    Balance { rule, ewma, hash }
}

pub(crate) fn sticky(
    found: &mut Diagnostics,
    item: &At<'_>,
    rule: BalanceRule,
    raw: Option<&settings::Sticky>,
) -> Option<Cookie> {
    let raw = raw?;
    let at = item.field("sticky");
    if matches!(rule, BalanceRule::RingHash | BalanceRule::Maglev) {
        found
            .errors
            .add(ProblemKind::Conflict, &at, "a rule that hashes keeps clients with their endpoint already")
            .on_key()
            .with(&item.field("balance"));
    }
    let travel = if raw.secure { Travel::Secure } else { Travel::Any };
    let cookie = Cookie::new(&raw.cookie, raw.max_age.map(|age| age.as_std().as_secs()), travel);
    if cookie.is_none() {
        let message = format_args!("`{}` is no cookie's name (RFC 6265 section 4.1.1)", raw.cookie);
        found.bad_value(&at.field("cookie"), message);
    }
    cookie
}

pub(crate) fn slow_start(raw: Option<&settings::SlowStart>) -> Option<Arc<Curve>> {
    raw.map(|raw| {
        Arc::new(Curve::new(slow_start::Settings {
            window_ms: raw.window.millis(),
            min_percent: u32::from(raw.min_percent),
            ..slow_start::Settings::default()
        }))
    })
}

/// What a selector or an endpoint carries.
pub(crate) fn labels(raw: &BTreeMap<String, String>) -> Labels {
    Labels::new(raw.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}
