//! Canaries, decided once for the node: about once a second the workers' counts are added up, `policy::split::canary` judges them,
//! and what it decides workers read with their next request.
//!
//! State is kept by the route's name over reloads. Where several proxies share a store one of them is to decide for all;
//! what it would hand over is [`Saved`], and what it would add up are tallies. Until then each decides alone. With
//! `state_dir`, what was decided outlives the process ([`store`]).

pub(super) mod store;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::snapshot::{Action, Canary, LogTarget, Snapshot, Split};
use crate::policy::split::canary::{Decider, Decision, Phase, Saved, Tally};
use crate::proxy::trial::Trial;
use crate::telemetry::journal;
use crate::telemetry::log_writer::{LogWriter, Target};
use crate::telemetry::metrics::CanaryInfo;

/// Between two looks.
const LOOK_MS: u64 = 1_000;

/// Decisions shown of each canary.
const DECISIONS_SHOWN: usize = 100;

/// All canaries of this process, by route.
#[derive(Default)]
pub(super) struct Canaries {
    kept: BTreeMap<Arc<str>, Kept>,
    log: Option<LogTarget>,
    /// Once there has been a decision to log.
    writer: Option<LogWriter>,
    /// Where they are kept over a restart.
    folder: Option<PathBuf>,
    /// What the file there says.
    saved: String,
    /// The last attempt to write it failed, and another is due.
    unsaved: bool,
    looked_ms: u64,
}

struct Kept {
    decider: Decider,
    trial: Arc<Trial>,
    /// The names of the arms: the baseline's, the canary's.
    arms: [Arc<str>; 2],
    /// The newest last, as they were logged.
    decisions: VecDeque<Value>,
}

impl Canaries {
    /// Takes over a snapshot's canaries. For each of its routes, what workers share; those that stay keep their state, and
    /// begin anew only if what is tried is another.
    pub(super) fn configure(&mut self, snapshot: &Snapshot, workers: usize) -> Vec<Option<Arc<Trial>>> {
        self.log.clone_from(&snapshot.decision_log);
        let mut found = self.open(snapshot);
        let trials = snapshot.routes.iter().map(|route| {
            let Action::Split(split) = &route.action else { return None };
            let canary = split.canary.as_ref()?;
            let arms = names(split, canary);
            if let Some(kept) = self.kept.get_mut(&route.name) {
                kept.decider.configure(canary.settings.clone());
                kept.arms = arms;
            } else {
                let saved = found.remove(&*route.name);
                let goes_on = saved.as_ref().is_some_and(|saved| saved.identity == canary.settings.identity);
                let decider = Decider::new(canary.settings.clone(), saved);
                if goes_on {
                    let (phase, percent) = (phase(decider.saved().phase), percent(decider.share_bp()));
                    journal::info(format_args!(
                        "canary of route `{}`: goes on where it was, {phase} at {percent} %",
                        route.name
                    ));
                }
                let trial = Arc::new(Trial::new(workers, decider.share_bp()));
                let kept = Kept { decider, trial, arms, decisions: VecDeque::new() };
                self.kept.insert(Arc::clone(&route.name), kept);
            }
            let kept = &self.kept[&route.name];
            kept.trial.set_share(kept.decider.share_bp());
            Some(Arc::clone(&kept.trial))
        });
        let trials: Vec<_> = trials.collect();
        let stays = |trial: &Arc<Trial>| trials.iter().flatten().any(|t| Arc::ptr_eq(t, trial));
        self.kept.retain(|_, kept| stays(&kept.trial));
        self.save();
        trials
    }

    /// Takes over the snapshot's directory for state. What is found there, if it is another than before.
    fn open(&mut self, snapshot: &Snapshot) -> BTreeMap<String, Saved> {
        if self.folder == snapshot.state_dir {
            return BTreeMap::new();
        }
        self.folder.clone_from(&snapshot.state_dir);
        self.saved.clear();
        let Some(folder) = &self.folder else { return BTreeMap::new() };
        store::load(folder).unwrap_or_else(|error| {
            journal::warn(format_args!(
                "can't read the state of canaries in {}, so they begin anew: {error}",
                folder.display()
            ));
            BTreeMap::new()
        })
    }

    /// Writes how far they have come, if that has changed.
    fn save(&mut self) {
        let Some(folder) = &self.folder else { return };
        let text = store::render(self.kept.iter().map(|(route, kept)| (&**route, kept.decider.saved())));
        if text == self.saved {
            return;
        }
        let failed = store::save(folder, &text).err();
        match (&failed, self.unsaved) {
            (Some(error), false) => journal::warn(format_args!(
                "can't save the state of canaries in {}, which is tried again each second: {error}",
                folder.display()
            )),
            (None, true) => journal::info(format_args!("the state of canaries is saved again")),
            (Some(_), true) | (None, false) => {}
        }
        self.unsaved = failed.is_some();
        if !self.unsaved {
            self.saved = text;
        }
    }

    /// Looks at all of them, if that is due, and lets workers know what was decided. `unix_ms` is for the log.
    pub(super) fn look(&mut self, now_ms: u64, unix_ms: u64) {
        if now_ms < self.looked_ms + LOOK_MS {
            return;
        }
        self.looked_ms = now_ms;
        let mut lines = Vec::new();
        for (route, kept) in &mut self.kept {
            let (baseline, canary) = kept.trial.read();
            let Some(decision) = kept.decider.tick(now_ms, &baseline, &canary) else { continue };
            kept.trial.set_share(kept.decider.share_bp());
            let line = kept.noted(route, &decision, unix_ms);
            journal::info(format_args!("canary of route `{route}`: {}", decision.why));
            lines.push(line);
        }
        if !lines.is_empty() {
            self.write(&lines);
        }
        if !lines.is_empty() || self.unsaved {
            self.save();
        }
    }

    /// Begins a canary anew. False: there is none of this route.
    pub(super) fn restart(&mut self, route: &str, unix_ms: u64) -> bool {
        let Some((name, kept)) = self.kept.iter_mut().find(|(name, _)| ***name == *route) else {
            return false;
        };
        kept.decider.restart();
        kept.trial.set_share(kept.decider.share_bp());
        let line = json!({
            "unix_ms": unix_ms,
            "route": &**name,
            "baseline": &*kept.arms[0],
            "canary": &*kept.arms[1],
            "reason": "restarted",
            "why": "begun anew by the admin interface",
        });
        kept.keep(line.clone());
        journal::info(format_args!("canary of route `{name}`: begun anew by the admin interface"));
        self.write(&[line]);
        self.save();
        true
    }

    /// The page of all canaries.
    pub(super) fn page(&self) -> String {
        let of = |(route, kept): (&Arc<str>, &Kept)| {
            let (baseline, canary) = kept.trial.read();
            json!({
                "route": &**route,
                "phase": phase(kept.decider.saved().phase),
                "share_percent": percent(kept.decider.share_bp()),
                "baseline": totals(&kept.arms[0], &baseline),
                "canary": totals(&kept.arms[1], &canary),
                "verdict": kept.decider.saved().verdict.label(),
                "why": kept.decider.why().to_string(),
                "decisions": kept.decisions,
            })
        };
        let page = json!({ "canaries": self.kept.iter().map(of).collect::<Vec<_>>() });
        format!("{page:#}\n")
    }

    /// For the metrics.
    pub(super) fn infos(&self) -> Vec<CanaryInfo> {
        let info = |(route, kept): (&Arc<str>, &Kept)| CanaryInfo {
            route: Arc::clone(route),
            share_bp: kept.decider.share_bp(),
            phase: phase(kept.decider.saved().phase),
        };
        self.kept.iter().map(info).collect()
    }

    fn write(&mut self, lines: &[Value]) {
        let Some(target) = &self.log else { return };
        let mut text = Vec::new();
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
        if text.is_empty() {
            return;
        }
        if self.writer.is_none() {
            match LogWriter::start("decision log", journal::report) {
                Ok(writer) => self.writer = Some(writer),
                Err(error) => journal::warn(format_args!("can't write the decision log: {error}")),
            }
        }
        let Some(writer) = &self.writer else { return };
        // Rare, so the file is opened for each: whoever rotates it need tell nobody.
        writer.retarget(match target {
            LogTarget::Stdout => Target::Stdout,
            LogTarget::Stderr => Target::Stderr,
            LogTarget::File(path) => Target::File(path.clone()),
        });
        writer.send(text);
    }

    /// Lines of the decision log that could not be written.
    pub(super) fn log_lines_lost(&self) -> u64 {
        self.writer.as_ref().map_or(0, LogWriter::lost)
    }

    /// Waits for the decision log, for a while.
    pub(super) fn finish(&self, patience: Duration) {
        if let Some(writer) = &self.writer {
            writer.finish(patience);
        }
    }
}

impl Kept {
    /// The line of a decision, which is also kept to be shown.
    fn noted(&mut self, route: &str, decision: &Decision, unix_ms: u64) -> Value {
        let line = json!({
            "unix_ms": unix_ms,
            "route": route,
            "baseline": &*self.arms[0],
            "canary": &*self.arms[1],
            "from_percent": percent(decision.from_bp),
            "to_percent": percent(decision.to_bp),
            "verdict": decision.verdict.label(),
            "reason": decision.why.reason.label(),
            "why": decision.why.to_string(),
        });
        self.keep(line.clone());
        line
    }

    fn keep(&mut self, line: Value) {
        if self.decisions.len() == DECISIONS_SHOWN {
            self.decisions.pop_front();
        }
        self.decisions.push_back(line);
    }
}

fn names(split: &Split, canary: &Canary) -> [Arc<str>; 2] {
    [canary.baseline, canary.arm].map(|arm| Arc::clone(&split.arms[arm].name))
}

fn percent(share_bp: u32) -> f64 {
    f64::from(share_bp) / 100.0
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Trying { .. } => "trying",
        Phase::Promoted => "promoted",
        Phase::RolledBack => "rolled_back",
    }
}

fn totals(arm: &str, tally: &Tally) -> Value {
    let quantile = |q| tally.latencies.quantile(q).map(|(_, high)| high);
    json!({
        "arm": arm,
        "requests": tally.requests,
        "errors": tally.errors,
        "p50_us": quantile(0.5),
        "p99_us": quantile(0.99),
    })
}
