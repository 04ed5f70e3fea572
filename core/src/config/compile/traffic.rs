//! Splits, canaries, mirrors and faults, compiled to what the request path and `policy::canary` take.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Compiler;
use super::resilience::labels;
use super::rules::FieldPlace;
use crate::base::fnv::fnv1a;
use crate::base::limits;
use crate::config::raw;
use crate::config::snapshot::{Action, Arm, Canary, Destination, FaultInjection, LogTarget, Mirror, Split};
use crate::policy::balance::subset::Labels;
use crate::policy::chance::Chance;
use crate::policy::route::FieldRule;
use crate::policy::{canary, split};
use crate::settings::report::{At, ProblemKind, nearest};

/// The longest wait that is made on purpose.
const FAULT_DELAY_MAX: Duration = Duration::from_secs(600);

/// The shortest step of a canary.
const STEP_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Upstreams by name, and the selectors of endpoints that routes use.
pub(super) struct Destinations<'r> {
    pub(super) by_name: HashMap<&'r str, usize>,
    known: HashMap<(usize, &'r BTreeMap<String, String>), usize>,
    /// For each upstream.
    pub(super) subsets: Vec<Vec<Labels>>,
}

impl<'r> Compiler<'r> {
    /// Each selector is kept once.
    pub(super) fn destinations(&mut self, by_name: HashMap<&'r str, usize>) -> Destinations<'r> {
        let raw = self.raw;
        let mut all = Destinations {
            by_name,
            known: HashMap::new(),
            subsets: raw.upstreams.iter().map(|_| Vec::new()).collect(),
        };
        let of_routes =
            raw.routes.iter().filter_map(|route| Some((route.upstream.as_deref()?, &route.subset)));
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
        &mut self,
        at: &At<'_>,
        name: &str,
        subset: &BTreeMap<String, String>,
        route: &raw::Route,
        all: &Destinations<'_>,
    ) -> Option<Destination> {
        let upstream = self.upstream_named(at, name, all)?;
        let raw = self.raw;
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

    fn upstream_named(&mut self, at: &At<'_>, name: &str, all: &Destinations<'_>) -> Option<usize> {
        if let Some(index) = all.by_name.get(name) {
            return Some(*index);
        }
        let message = match nearest(name, all.by_name.keys().copied()) {
            Some(near) => format!("unknown upstream `{name}`, did you mean `{near}`?"),
            None => format!("unknown upstream `{name}`"),
        };
        let finding = self.errors.add(ProblemKind::UnknownName, at, message);
        if all.by_name.is_empty() {
            finding.hint("no upstreams are defined");
        }
        None
    }

    /// Whether a selector finds any endpoint at all.
    pub(super) fn selects_any(&self, upstream: usize, subset: &BTreeMap<String, String>) -> bool {
        let selector = labels(subset);
        self.raw.upstreams[upstream].endpoints.iter().any(|endpoint| endpoint.labels().carry(&selector))
    }

    pub(super) fn split(
        &mut self,
        at: &At<'_>,
        route: &raw::Route,
        raw: &raw::Split,
        all: &Destinations<'_>,
    ) -> Option<Action> {
        let list = at.field("arms");
        self.count(&list, "arms", raw.arms.len(), limits::SPLIT_ARMS_MAX);
        let names: Vec<&str> =
            raw.arms.iter().map(|arm| arm.name.as_deref().unwrap_or(&arm.upstream)).collect();
        let by_name = self.arm_names(&list, &raw.arms, &names);
        let active = raw.active.as_ref().and_then(|name| self.arm(&at.field("active"), name, &by_name));
        let canary = raw.canary.as_ref().and_then(|canary| {
            self.canary(&at.field("canary"), canary, &raw.arms, &names, &by_name, &route.name)
        });
        if let (Some(_), Some(_)) = (&raw.active, &raw.canary) {
            self.errors
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
            .map(|(index, arm)| self.split_arm(&list.index(index), route, arm, names[index], all))
            .collect();
        if let (Some(tried), Some(weight)) = (tried, tried.and_then(|tried| raw.arms[tried].weight)) {
            let item = list.index(tried);
            let message = format_args!("the share of a canary's arm is decided, not {weight}");
            self.errors.add(ProblemKind::Conflict, &item.field("weight"), message).on_key();
        }
        let weight = |index: usize| match active {
            Some(active) => u32::from(active == index),
            None => raw.arms[index].weight.unwrap_or(1),
        };
        let total: u64 =
            (0..raw.arms.len()).filter(|i| Some(*i) != tried).map(|i| u64::from(weight(i))).sum();
        if total == 0 && !(tried.is_some() && raw.arms.len() == 1) {
            self.errors
                .add(
                    ProblemKind::BadValue,
                    &list,
                    "the weights add up to nothing: no request could go anywhere",
                )
                .hint("give at least one arm a weight above 0");
        }
        let hash_on = raw.hash_on.as_ref().and_then(|hash| self.hash_on(&at.field("hash_on"), hash));
        let shares =
            split::Split::new(&route.name, names.iter().copied().zip((0..).map(weight)).take(names.len()));
        let arms: Option<Box<[Arm]>> = arms.into_iter().collect();
        Some(Action::Split(Box::new(Split { arms: arms?, shares, hash_on, canary })))
    }

    fn arm_names<'n>(
        &mut self,
        list: &At<'_>,
        arms: &[raw::Arm],
        names: &[&'n str],
    ) -> HashMap<&'n str, usize> {
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        for (index, name) in names.iter().enumerate() {
            let item = list.index(index);
            let at = item.field(if arms[index].name.is_some() { "name" } else { "upstream" });
            if arms[index].name.is_some() {
                self.name(&at, name);
            }
            if let Some(first) = by_name.get(name) {
                self.errors
                    .add(ProblemKind::Conflict, &at, format_args!("the arm `{name}` is there twice"))
                    .hint("give each a `name` of its own")
                    .with(&list.index(*first));
            } else {
                by_name.insert(name, index);
            }
        }
        by_name
    }

    fn arm(&mut self, at: &At<'_>, name: &str, by_name: &HashMap<&str, usize>) -> Option<usize> {
        self.known(at, "arm", name, by_name)
    }

    fn split_arm(
        &mut self,
        item: &At<'_>,
        route: &raw::Route,
        raw: &raw::Arm,
        name: &str,
        all: &Destinations<'_>,
    ) -> Option<Arm> {
        let matches = raw.matches.as_ref().map(|matches| {
            let at = item.field("match");
            let rule = FieldRule {
                headers: self.fields(&at.field("headers"), &matches.headers, FieldPlace::Header).into(),
                query: self.fields(&at.field("query"), &matches.query, FieldPlace::Query).into(),
                cookies: self.fields(&at.field("cookies"), &matches.cookies, FieldPlace::Cookie).into(),
            };
            if *matches == raw::ArmMatch::default() {
                self.errors.add(
                    ProblemKind::MissingField,
                    &at,
                    "an empty match would take every request: name `headers`, `query` or `cookies`",
                );
            }
            rule
        });
        let destination =
            self.destination(&item.field("upstream"), &raw.upstream, &raw.subset, route, all)?;
        if !raw.subset.is_empty() && !self.selects_any(destination.upstream, &raw.subset) {
            let message = format_args!(
                "the arm `{name}` has no endpoints: none of `{}` has these labels",
                raw.upstream
            );
            self.bad_value(&item.field("subset"), message);
        }
        Some(Arm { name: name.into(), destination, matches })
    }

    fn canary(
        &mut self,
        at: &At<'_>,
        raw: &raw::Canary,
        arms: &[raw::Arm],
        names: &[&str],
        by_name: &HashMap<&str, usize>,
        route: &str,
    ) -> Option<Canary> {
        let arm = self.arm(&at.field("arm"), &raw.arm, by_name);
        let baseline = match &raw.baseline {
            Some(name) => self.arm(&at.field("baseline"), name, by_name),
            None if arms.len() == 2 => arm.map(|arm| 1 - arm),
            None => {
                self.errors
                    .add(ProblemKind::MissingField, at, "the field `baseline` is missing")
                    .hint("it can be left out where a split has two arms");
                None
            }
        };
        if arm.is_some() && arm == baseline {
            let message = "a canary can't be compared with itself";
            self.errors.add(ProblemKind::Conflict, &at.field("baseline"), message).with(&at.field("arm"));
        }
        let steps = self.steps(&at.field("steps"), &raw.steps);
        if raw.interval.as_std() < STEP_INTERVAL_MIN {
            self.bad_value(&at.field("interval"), "a step lasts at least 1s");
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
            let upstream = self.raw.upstreams.iter().find(|u| u.name == arms[index].upstream);
            upstream.map(|upstream| format!("{:?} {:?}", upstream.endpoints, arms[index].subset))
        };
        let identity = fnv1a(
            format!("{route} {} {:?} {} {}", names[arm], endpoints(arm), names[baseline], raw.version)
                .as_bytes(),
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
    fn steps(&mut self, at: &At<'_>, percents: &[f64]) -> Vec<u32> {
        self.count(at, "steps", percents.len(), limits::CANARY_STEPS_MAX);
        let mut steps: Vec<u32> = Vec::with_capacity(percents.len());
        for (index, percent) in percents.iter().enumerate() {
            let share = (percent * 100.0).round();
            if !(1.0..=10_000.0).contains(&share) {
                self.bad_value(&at.index(index), format_args!("{percent} is out of range: 0.01 to 100"));
                continue;
            }
            let share = share as u32;
            if steps.last().is_some_and(|last| share <= *last) {
                let message = format_args!("{percent} comes after a larger step: steps go up");
                self.bad_value(&at.index(index), message);
            }
            steps.push(share);
        }
        steps
    }

    pub(super) fn mirrors(
        &mut self,
        item: &At<'_>,
        route: &raw::Route,
        all: &Destinations<'_>,
    ) -> Box<[Mirror]> {
        let list = item.field("mirrors");
        self.count(&list, "mirrors", route.mirrors.len(), limits::MIRRORS_PER_ROUTE_MAX);
        let mirrors = route.mirrors.iter().enumerate().filter_map(|(index, raw)| {
            let at = list.index(index);
            let upstream = self.upstream_named(&at.field("upstream"), &raw.upstream, all)?;
            if raw.body_bytes.bytes() > limits::MIRROR_BODY_BYTES_MAX as u64 {
                let max = raw::Size::from_bytes(limits::MIRROR_BODY_BYTES_MAX as u64);
                self.bad_value(&at.field("body_bytes"), format_args!("at most {max}"));
            }
            let mirrors_itself = route.upstream.as_ref() == Some(&raw.upstream);
            if mirrors_itself {
                let message = format_args!("`{}` gets each request twice", raw.upstream);
                self.warnings.add(ProblemKind::Suspicious, &at.field("upstream"), message);
            }
            Some(Mirror {
                upstream,
                chance: Chance::from_percent(raw.percent),
                body_bytes_max: raw.body_bytes.bytes() as usize,
                in_flight_max: raw.in_flight_max,
                timeout: raw.timeout.as_std(),
            })
        });
        mirrors.collect()
    }

    pub(super) fn fault(&mut self, item: &At<'_>, route: &raw::Route) -> Option<Box<FaultInjection>> {
        let raw = route.fault.as_ref()?;
        let at = item.field("fault");
        if raw.delay.is_none() && raw.abort.is_none() {
            self.errors.add(ProblemKind::MissingField, &at, "a fault needs `delay` or `abort`");
        }
        if raw.delay.as_ref().is_some_and(|delay| delay.duration.as_std() > FAULT_DELAY_MAX) {
            let delay = at.field("delay");
            self.bad_value(&delay.field("duration"), "at most 10m");
        }
        let everybody =
            raw.headers.is_empty() && (raw.abort.as_ref().is_some_and(|abort| abort.percent >= 100.0));
        if everybody {
            self.warnings.add(ProblemKind::Suspicious, &at, "every request of this route is made to fail");
        }
        Some(Box::new(FaultInjection {
            delay: raw
                .delay
                .as_ref()
                .map(|delay| (delay.duration.as_std(), Chance::from_percent(delay.percent))),
            abort: raw.abort.as_ref().map(|abort| (abort.status, Chance::from_percent(abort.percent))),
            matches: FieldRule {
                headers: self.fields(&at.field("headers"), &raw.headers, FieldPlace::Header).into(),
                ..FieldRule::default()
            },
        }))
    }

    pub(super) fn decision_log(&mut self) -> Option<LogTarget> {
        let parent = At::Root.field("decision_log");
        match self.raw.decision_log.path.as_str() {
            "off" => None,
            path => Some(self.log_target(&parent.field("path"), path, "`off`, ")),
        }
    }

    pub(super) fn state_dir(&mut self) -> Option<PathBuf> {
        let path = self.raw.state_dir.as_deref()?;
        if !Path::new(path).is_absolute() || path.contains('\0') {
            let message = format_args!("`{path}`: expected an absolute path");
            self.bad_value(&At::Root.field("state_dir"), message);
        }
        Some(PathBuf::from(path))
    }
}
