//! Which endpoints the names of upstreams and the selectors of routes stand for.

use std::collections::{BTreeMap, HashMap};

use crate::config::raw::{self, RawConfig};
use crate::policy::balance::compile::labels;
use crate::policy::balance::subset::Labels;
use crate::policy::split::Destination;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind, nearest};

/// Upstreams by name, and the selectors of endpoints that routes use.
pub(super) struct Destinations<'r> {
    pub(super) by_name: HashMap<&'r str, usize>,
    known: HashMap<(usize, &'r BTreeMap<String, String>), usize>,
    /// For each upstream.
    pub(super) subsets: Vec<Vec<Labels>>,
}

/// Each selector is kept once.
pub(super) fn destinations<'r>(raw: &'r RawConfig, by_name: HashMap<&'r str, usize>) -> Destinations<'r> {
    let mut all = Destinations {
        by_name,
        known: HashMap::new(),
        subsets: raw.upstreams.iter().map(|_| Vec::new()).collect(),
    };
    let of_routes = raw.routes.iter().filter_map(|route| Some((route.upstream.as_deref()?, &route.subset)));
    let arms = raw.routes.iter().filter_map(|route| route.split.as_ref()).flat_map(|split| &split.arms);
    let of_arms = arms.map(|arm| (arm.upstream.as_str(), &arm.subset));
    for (name, subset) in of_routes.chain(of_arms).filter(|(_, subset)| !subset.is_empty()) {
        if let Some(&upstream) = all.by_name.get(name) {
            let of = &mut all.subsets[upstream];
            all.known.entry((upstream, subset)).or_insert_with(|| {
                of.push(labels(subset));
                of.len() - 1
            });
        }
    }
    all
}

/// `None` if there is no upstream of this name, which is noted.
pub(super) fn destination(
    raw: &RawConfig,
    found: &mut Diagnostics,
    at: &At<'_>,
    name: &str,
    subset: &BTreeMap<String, String>,
    route: &raw::Route,
    all: &Destinations<'_>,
) -> Option<Destination> {
    let upstream = upstream_named(found, at, name, all)?;
    Some(Destination {
        upstream,
        subset: all.known.get(&(upstream, subset)).copied(),
        response_head: route
            .timeouts
            .response_head
            .or(raw.upstreams[upstream].timeouts.response_head)
            .unwrap_or(raw.timeouts.response_head)
            .as_std(),
    })
}

/// The upstream of this name.
pub(super) fn upstream_named(
    found: &mut Diagnostics,
    at: &At<'_>,
    name: &str,
    all: &Destinations<'_>,
) -> Option<usize> {
    if let Some(index) = all.by_name.get(name) {
        return Some(*index);
    }
    let message = match nearest(name, all.by_name.keys().copied()) {
        Some(near) => format!("unknown upstream `{name}`, did you mean `{near}`?"),
        None => format!("unknown upstream `{name}`"),
    };
    let finding = found.errors.add(ProblemKind::UnknownName, at, message);
    if all.by_name.is_empty() {
        finding.hint("no upstreams are defined");
    }
    None
}

/// Whether a selector finds any endpoint at all.
pub(super) fn selects_any(raw: &RawConfig, upstream: usize, subset: &BTreeMap<String, String>) -> bool {
    let selector = labels(subset);
    raw.upstreams[upstream].endpoints.iter().any(|endpoint| endpoint.labels().carry(&selector))
}

impl raw::Endpoint {
    pub(super) fn address(&self) -> &str {
        match self {
            raw::Endpoint::Address(text) => text,
            raw::Endpoint::Detailed(detailed) => &detailed.address,
        }
    }

    pub(super) fn labels(&self) -> Labels {
        match self {
            raw::Endpoint::Address(_) => Labels::default(),
            raw::Endpoint::Detailed(detailed) => labels(&detailed.labels),
        }
    }
}
