//! Splits and their canaries, compiled.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::decide::Shares;
use super::{canary, settings};
use crate::base::fnv::fnv1a;
use crate::base::limits;
use crate::policy::hash_on::{self, HashOn};
use crate::policy::route;
use crate::policy::route::FieldRule;
use crate::policy::route::compile::FieldPlace;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// Endpoints that requests go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// An index of the snapshot's upstreams.
    pub upstream: usize,
    /// An index of the upstream's `subsets`; `None`: all of its endpoints.
    pub subset: Option<usize>,
    /// How long a response's head may take.
    pub response_head: Option<Duration>,
}

/// Several destinations that requests are divided among.
#[derive(Debug)]
pub struct Split {
    /// At least one.
    pub arms: Box<[Arm]>,
    /// What no arm's own match takes.
    pub shares: Shares,
    /// What keeps a client on its arm.
    pub hash_on: Option<HashOn>,
    pub canary: Option<Canary>,
}

/// One of them.
#[derive(Debug)]
pub struct Arm {
    /// Unique in its split.
    pub name: Arc<str>,
    pub destination: Destination,
    /// Requests that it takes whatever the shares.
    pub matches: Option<FieldRule>,
}

/// Which arm is tried against which. Indexes of [`Split::arms`].
#[derive(Debug)]
pub struct Canary {
    pub arm: usize,
    pub baseline: usize,
    pub settings: canary::Settings,
}

/// Finds the endpoints that a name and a selector stand for; what is wrong with them is noted.
pub(crate) type FindDestination<'a> =
    dyn Fn(&mut Diagnostics, &At<'_>, &str, &BTreeMap<String, String>) -> Option<Destination> + 'a;

/// What a split has to know of the configuration around it.
pub(crate) struct Around<'a> {
    pub(crate) destination: &'a FindDestination<'a>,
    /// Whether a selector finds any endpoint of an upstream.
    pub(crate) selects_any: &'a dyn Fn(usize, &BTreeMap<String, String>) -> bool,
    /// The endpoints of the upstream of this name, in words.
    pub(crate) endpoints: &'a dyn Fn(&str) -> Option<String>,
}

/// The shortest step of a canary.
const STEP_INTERVAL_MIN: Duration = Duration::from_secs(1);

pub(crate) fn compile(
    found: &mut Diagnostics,
    at: &At<'_>,
    route: &str,
    raw: &settings::Split,
    around: &Around<'_>,
) -> Option<Split> {
    let list = at.field("arms");
    found.count(&list, "arms", raw.arms.len(), limits::SPLIT_ARMS_MAX);
    let names: Vec<&str> = raw.arms.iter().map(|arm| arm.name.as_deref().unwrap_or(&arm.upstream)).collect();
    let by_name = arm_names(found, &list, &raw.arms, &names);
    let active = raw.active.as_ref().and_then(|name| found.known(&at.field("active"), "arm", name, &by_name));
    let canary = raw.canary.as_ref().and_then(|canary| {
        compile_canary(found, &at.field("canary"), canary, &raw.arms, &names, &by_name, route, around)
    });
    if let (Some(_), Some(_)) = (&raw.active, &raw.canary) {
        found
            .errors
            .add(
                ProblemKind::Conflict,
                &at.field("active"),
                "`active` gives one arm everything, and `canary` a part",
            )
            .on_key()
            .with(&at.field("canary"));
    }
    let tried = canary.as_ref().map(|canary| canary.arm);
    let arms: Vec<Option<Arm>> = raw
        .arms
        .iter()
        .enumerate()
        .map(|(index, arm)| split_arm(found, &list.index(index), arm, names[index], around))
        .collect();
    if let (Some(tried), Some(weight)) = (tried, tried.and_then(|tried| raw.arms[tried].weight)) {
        let item = list.index(tried);
        let message = format_args!("the share of a canary's arm is decided, not {weight}");
        found.errors.add(ProblemKind::Conflict, &item.field("weight"), message).on_key();
    }
    let weight = |index: usize| match active {
        Some(active) => u32::from(active == index),
        None => raw.arms[index].weight.unwrap_or(1),
    };
    let total: u64 = (0..raw.arms.len()).filter(|i| Some(*i) != tried).map(|i| u64::from(weight(i))).sum();
    if total == 0 && !(tried.is_some() && raw.arms.len() == 1) {
        found
            .errors
            .add(ProblemKind::BadValue, &list, "the weights add up to nothing: no request could go anywhere")
            .hint("give at least one arm a weight above 0");
    }
    let hash_on = raw.hash_on.as_ref().and_then(|hash| hash_on::compile(found, &at.field("hash_on"), hash));
    let shares = Shares::new(route, names.iter().copied().zip((0..).map(weight)).take(names.len()));
    let arms: Option<Box<[Arm]>> = arms.into_iter().collect();
    Some(Split { arms: arms?, shares, hash_on, canary })
}

fn arm_names<'n>(
    found: &mut Diagnostics,
    list: &At<'_>,
    arms: &[settings::Arm],
    names: &[&'n str],
) -> HashMap<&'n str, usize> {
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        let item = list.index(index);
        let at = item.field(if arms[index].name.is_some() { "name" } else { "upstream" });
        if arms[index].name.is_some() {
            found.name(&at, name);
        }
        if let Some(first) = by_name.get(name) {
            found
                .errors
                .add(ProblemKind::Conflict, &at, format_args!("the arm `{name}` is there twice"))
                .hint("give each a `name` of its own")
                .with(&list.index(*first));
        } else {
            by_name.insert(name, index);
        }
    }
    by_name
}

fn split_arm(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: &settings::Arm,
    name: &str,
    around: &Around<'_>,
) -> Option<Arm> {
    let matches = raw.matches.as_ref().map(|matches| {
        let at = item.field("match");
        let rule = FieldRule {
            headers: route::compile::fields(
                found,
                &at.field("headers"),
                &matches.headers,
                FieldPlace::Header,
            )
            .into(),
            query: route::compile::fields(found, &at.field("query"), &matches.query, FieldPlace::Query)
                .into(),
            cookies: route::compile::fields(
                found,
                &at.field("cookies"),
                &matches.cookies,
                FieldPlace::Cookie,
            )
            .into(),
        };
        if *matches == settings::ArmMatch::default() {
            found.errors.add(
                ProblemKind::MissingField,
                &at,
                "an empty match would take every request: name `headers`, `query` or `cookies`",
            );
        }
        rule
    });
    let destination = (around.destination)(found, &item.field("upstream"), &raw.upstream, &raw.subset)?;
    if !raw.subset.is_empty() && !(around.selects_any)(destination.upstream, &raw.subset) {
        let message =
            format_args!("the arm `{name}` has no endpoints: none of `{}` has these labels", raw.upstream);
        found.bad_value(&item.field("subset"), message);
    }
    Some(Arm { name: name.into(), destination, matches })
}

#[allow(clippy::too_many_arguments)] // What a canary names lies in all of its split.
fn compile_canary(
    found: &mut Diagnostics,
    at: &At<'_>,
    raw: &canary::settings::Canary,
    arms: &[settings::Arm],
    names: &[&str],
    by_name: &HashMap<&str, usize>,
    route: &str,
    around: &Around<'_>,
) -> Option<Canary> {
    let arm = found.known(&at.field("arm"), "arm", &raw.arm, by_name);
    let baseline = match &raw.baseline {
        Some(name) => found.known(&at.field("baseline"), "arm", name, by_name),
        None if arms.len() == 2 => arm.map(|arm| 1 - arm),
        None => {
            found
                .errors
                .add(ProblemKind::MissingField, at, "the field `baseline` is missing")
                .hint("it can be left out where a split has two arms");
            None
        }
    };
    if arm.is_some() && arm == baseline {
        let message = "a canary can't be compared with itself";
        found.errors.add(ProblemKind::Conflict, &at.field("baseline"), message).with(&at.field("arm"));
    }
    let steps = steps(found, &at.field("steps"), &raw.steps);
    if raw.interval.as_std() < STEP_INTERVAL_MIN {
        found.bad_value(&at.field("interval"), "a step lasts at least 1s");
    }
    let (arm, baseline) = (arm?, baseline?);
    let errors = canary::Errors {
        share_max: raw.errors.percent_max / 100.0,
        above_baseline_max: raw.errors.above_baseline_percent_max / 100.0,
    };
    let latency = canary::Latency {
        quantile: raw.latency.quantile_percent / 100.0,
        times_max: raw.latency.times_max,
        floor_us: raw.latency.floor.as_std().as_micros() as u64,
    };
    let interval_ms = raw.interval.as_std().as_millis() as u64;
    // Another version of the arm is another canary, which begins anew: it is known by the arm's whole text and its
    // upstream's endpoints.
    let endpoints = |index: usize| {
        let endpoints = (around.endpoints)(&arms[index].upstream);
        endpoints.map(|endpoints| format!("{endpoints} {:?}", arms[index].subset))
    };
    let identity = fnv1a(
        format!("{route} {} {:?} {} {}", names[arm], endpoints(arm), names[baseline], raw.version).as_bytes(),
    );
    let settings = canary::Settings {
        identity,
        steps,
        interval_ms,
        requests_min: raw.requests_min,
        confirm: raw.confirm,
        stalled_after_ms: raw.stalled_after.as_std().as_millis() as u64,
        errors: Some(errors),
        latency: Some(latency),
        ..canary::Settings::default()
    };
    Some(Canary { arm, baseline, settings })
}

/// Shares in basis points.
fn steps(found: &mut Diagnostics, at: &At<'_>, percents: &[f64]) -> Vec<u32> {
    found.count(at, "steps", percents.len(), limits::CANARY_STEPS_MAX);
    let mut steps: Vec<u32> = Vec::with_capacity(percents.len());
    for (index, percent) in percents.iter().enumerate() {
        let share = (percent * 100.0).round();
        if !(1.0..=10_000.0).contains(&share) {
            found.bad_value(&at.index(index), format_args!("{percent} is out of range: 0.01 to 100"));
            continue;
        }
        let share = share as u32;
        if steps.last().is_some_and(|last| share <= *last) {
            let message = format_args!("{percent} comes after a larger step: steps go up");
            found.bad_value(&at.index(index), message);
        }
        steps.push(share);
    }
    steps
}
