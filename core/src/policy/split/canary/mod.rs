//! A canary that decides by itself: compares the canary's errors and latency with the baseline's, and moves the canary's
//! share on by steps, or takes it back.
//!
//! ```text
//!               good for an interval                 good at the last step
//!   Trying 1 % ──────────────────────> Trying 5 % … ───────────────────────> Promoted (100 %)
//!       │            clearly bad           │
//!       └──────────────────────────────────┴───────────────────────────────> RolledBack (0 %)
//! ```
//!
//! [`Decider::tick`] is called about once a second by the control thread, with each arm's counters added up over all
//! workers. What came since the last call goes into a window, and the window is judged: bad if it is statistically
//! clear that the canary does worse than allowed, good if it is clear that it does not, unclear otherwise. Bad counts at
//! once; good must last for `confirm` calls, and moves on only when the step's interval is over. Unclear holds.
//!
//! **How sure.** Whoever looks each second finds every difference sooner or later, so all bounds hold at every look at once
//! (`bounds`). The doubt that they leave is divided: over the steps, the rules, the two arms, the two kinds of windows, and
//! over a step's windows of a kind as 1/2, 1/6, 1/12 …, which sums to 1. So `false_rollback_max` bounds the probability that a canary which is
//! no worse than the baseline is rolled back at any time of the roll-out; and `false_promotion_max` bounds the
//! probability that one which is worse than allowed all along gets past its first step. Both for requests that are
//! independent of each other. Where errors come in bursts, what is called good needs more requests, as many times as the
//! errors of ten seconds scatter more than chance alone would have them (quasi-likelihood: P. `McCullagh`, J. Nelder,
//! "Generalized Linear Models", 1989, section 4.5). What is called bad does not: a burst that is the canary's own is bad.
//!
//! **Windows.** A step begins with empty windows: under each share the canary is another. The long one is what is judged.
//! When it has been open for long it is closed, and one of twice the length begun, so that what a quiet canary gathers
//! is not thrown away before it is enough. The recent one begins anew every `recent_ms` and is only looked at for
//! what is bad, so that a good past does not cover for a new fault of a busy canary.
//!
//! **Hysteresis.** Nothing is good before half of the interval is over, since errors of any kind take time to show. A good
//! verdict stays until bounds of an eightfold doubt are beyond what is allowed; once lost it can't come back before the next
//! long window, so a noisy canary holds instead of going to and fro. And a rollback or a
//! promotion stays until [`Decider::restart`] or another `identity`. After a promotion nothing is judged: the baseline has
//! no requests to compare with, perhaps no instances left to go back to, and an absolute bound alone would lay
//! each later outage of whatever lies behind to the roll-out's charge. That is for breakers and alerts.
//!
//! An absolute bound that the baseline is clearly above as well says nothing of the canary: then it holds.
//!
//! It knows nothing of requests, of time but what it is told, nor of where its state is kept: [`Saved`] is plain data, which
//! a reload takes over and a store may hand from one proxy to another.

mod bounds;
mod judge;
pub mod settings;
#[cfg(test)]
mod simulation_tests;
mod tally;
#[cfg(test)]
mod tests;
mod why;
mod window;

pub use tally::{ArmCells, CELLS, Latencies, Outcome, Tally, cell_of, lower_us};
pub use why::{Decision, Errors as ErrorFigures, Latencies as LatencyFigures, Reason, Share, Span, Why};
pub use window::{Seen, Window};

use crate::base::limits::CANARY_TICK_MS_MAX;

/// The whole, of which shares are parts: a share of 1 is one basis point.
pub const WHOLE_BP: u32 = 10_000;

/// How to try a canary.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is being tried: a hash of the arms' names and of whatever version they have. Another one begins anew.
    pub identity: u64,
    /// The canary's shares in basis points, ascending from at least 1, at most `CANARY_STEPS_MAX`. After the last it is
    /// promoted; a last one of 10,000 is the promotion.
    pub steps: Vec<u32>,
    /// The least time on a step, in milliseconds.
    pub interval_ms: u64,
    /// The least requests of the canary in a window for it to be good. What rules need comes on top.
    pub requests_min: u64,
    /// Good looks in a row before it moves on, at least 1.
    pub confirm: u32,
    /// How long the first long window of a step is open, in milliseconds, but at least for twice the interval.
    pub window_ms: u64,
    /// How long each recent window is, in milliseconds.
    pub recent_ms: u64,
    /// After how long on one step, in milliseconds, it is reported that nothing moves.
    pub stalled_after_ms: u64,
    /// With `None` errors don't matter. If latency does not either, time and `requests_min` alone move it on.
    pub errors: Option<Errors>,
    /// With `None` latency does not matter.
    pub latency: Option<Latency>,
    /// The probability that a canary as good as the baseline is rolled back, in the whole roll-out; above 0, below 1.
    pub false_rollback_max: f64,
    /// The probability that a canary worse than allowed gets past its first step; above 0, below 1.
    pub false_promotion_max: f64,
}

/// How many errors a canary may make, as shares of its requests from 0 to 1. A bound of 1 is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    /// At most.
    pub share_max: f64,
    /// More than the baseline.
    pub above_baseline_max: f64,
}

/// How slow a canary may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Which quantile is compared, above 0, below 1: 0.99.
    pub quantile: f64,
    /// The canary's may be so many times the baseline's, more than 1. Cells are 6 % wide: below 1.2 nothing is ever good,
    /// unless by the floor.
    pub times_max: f64,
    /// Or longer by so many microseconds, whichever is more.
    pub floor_us: u64,
}

impl Default for Settings {
    /// 1, 5, 25, 50, 100 %, at least a minute each; up to 5 % errors, one percentage point above the baseline; a 99th
    /// percentile of up to one and a half times the baseline's or 10 ms more; wrong once in a hundred, either way.
    fn default() -> Self {
        Self {
            identity: 0,
            steps: vec![100, 500, 2_500, 5_000, WHOLE_BP],
            interval_ms: 60_000,
            requests_min: 100,
            confirm: 5,
            window_ms: 600_000,
            recent_ms: 30_000,
            stalled_after_ms: 1_800_000,
            errors: Some(Errors { share_max: 0.05, above_baseline_max: 0.01 }),
            latency: Some(Latency { quantile: 0.99, times_max: 1.5, floor_us: 10_000 }),
            false_rollback_max: 0.01,
            false_promotion_max: 0.01,
        }
    }
}

/// What a window says of the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is clear that it is no worse than allowed.
    Good,
    /// It is clear that it is.
    Bad(Fault),
    /// Neither is.
    Unclear(Lack),
}

impl Verdict {
    /// For metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad(Fault::ErrorShare) => "bad: error share",
            Self::Bad(Fault::ErrorsAboveBaseline) => "bad: errors above baseline",
            Self::Bad(Fault::Latency) => "bad: latency",
            Self::Unclear(Lack::Requests) => "unclear: too few requests",
            Self::Unclear(Lack::BaselineRequests) => "unclear: no requests of the baseline",
            Self::Unclear(Lack::BothFail) => "unclear: the baseline fails as well",
            Self::Unclear(Lack::Evidence) => "unclear",
        }
    }
}

/// What is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// More errors than `share_max`.
    ErrorShare,
    /// More errors than the baseline's and `above_baseline_max`.
    ErrorsAboveBaseline,
    /// Slower than the baseline allows.
    Latency,
}

/// What is missing for a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Fewer than `requests_min`.
    Requests,
    /// There is nothing to compare with.
    BaselineRequests,
    /// Both arms have clearly more errors than `share_max`.
    BothFail,
    /// More requests are needed, or it is too close to call.
    Evidence,
}

/// Where a roll-out is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// On a step, with this share.
    Trying { share_bp: u32 },
    /// The canary has all.
    Promoted,
    /// The canary has nothing.
    RolledBack,
}

/// All that a decider knows, but for its settings and the counters it last saw. Times are lengths, so that a process whose
/// clock began elsewhere can go on with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Of the settings it was made by.
    pub identity: u64,
    pub phase: Phase,
    /// Whether [`Reason::Started`] has been said.
    pub started: bool,
    /// Time on this step.
    pub step_ms: u64,
    /// Whether [`Reason::Stalled`] has been said.
    pub stalled: bool,
    /// The long window and the recent one.
    pub long: Window,
    pub recent: Window,
    /// Of the long window.
    pub verdict: Verdict,
    pub good_in_a_row: u32,
    /// Whether a good verdict was lost in this long window.
    pub good_lost: bool,
}

/// Decides for one split: 12 KiB, and 6 KiB more for the counters it last saw.
#[derive(Debug, Clone)]
pub struct Decider {
    settings: Settings,
    saved: Saved,
    /// When it was last called, and with what. Not saved: another process counts from elsewhere.
    last: Option<(u64, Tally, Tally)>,
}

impl Decider {
    /// Goes on from what was saved if that is of the same `identity`, else begins with the first step.
    pub fn new(settings: Settings, saved: Option<Saved>) -> Self {
        let fresh = Saved::fresh(&settings);
        let mut decider = Self { settings, saved: fresh, last: None };
        if let Some(saved) = saved.filter(|saved| saved.identity == decider.settings.identity) {
            decider.saved = saved;
            decider.fit();
        }
        decider
    }

    /// Takes new settings. With the same `identity` the share stays, or goes to the nearest step below it, and what has been
    /// seen is judged anew; a roll-out that has ended stays ended.
    pub fn configure(&mut self, settings: Settings) {
        if settings == self.settings {
            return;
        }
        let same = settings.identity == self.settings.identity;
        self.settings = settings;
        if same {
            self.fit();
        } else {
            self.restart();
        }
    }

    /// Begins with the first step, whatever has been.
    pub fn restart(&mut self) {
        self.saved = Saved::fresh(&self.settings);
    }

    /// The share that the canary has now, in basis points.
    pub fn share_bp(&self) -> u32 {
        match self.saved.phase {
            Phase::Trying { share_bp } => share_bp,
            Phase::Promoted => WHOLE_BP,
            Phase::RolledBack => 0,
        }
    }

    /// What there is to be saved.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// What it goes by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the window looks like now, for the admin listener.
    pub fn why(&self) -> Why {
        self.look().1
    }

    /// Looks at the counters, which only grow but for restarts, and says what that changes. To be called about once a
    /// second; costs 20 µs (benches/policies.rs), and allocates.
    pub fn tick(&mut self, now_ms: u64, baseline: &Tally, canary: &Tally) -> Option<Decision> {
        let last = self.last.replace((now_ms, baseline.clone(), canary.clone()));
        if !matches!(self.saved.phase, Phase::Trying { .. }) {
            if !self.saved.started {
                self.saved.started = true;
                return Some(self.decision(now_ms, 0, self.look(), Reason::Promoted));
            }
            return None;
        }
        if let Some((then_ms, baseline_then, canary_then)) = last {
            let passed_ms = now_ms.saturating_sub(then_ms).min(CANARY_TICK_MS_MAX);
            self.saved.step_ms = self.saved.step_ms.saturating_add(passed_ms);
            // If either arm's counters began anew, neither's part is counted, so that both are of the same time.
            let more = baseline.minus(&baseline_then).zip(canary.minus(&canary_then));
            for window in [&mut self.saved.long, &mut self.saved.recent] {
                window.add(passed_ms, more.as_ref());
            }
        }
        if !self.saved.started {
            self.saved.started = true;
            return Some(self.decision(now_ms, 0, self.look(), Reason::Started));
        }
        self.judge(now_ms)
    }

    fn judge(&mut self, now_ms: u64) -> Option<Decision> {
        let from_bp = self.share_bp();
        let (verdict, mut why) = self.look();
        let before = std::mem::replace(&mut self.saved.verdict, verdict);
        match verdict {
            Verdict::Bad(_) => {
                self.saved.phase = Phase::RolledBack;
                return Some(self.decision(now_ms, from_bp, (verdict, why), Reason::RolledBack));
            }
            Verdict::Good => {
                self.saved.good_in_a_row = self.saved.good_in_a_row.saturating_add(1);
                why.good_in_a_row = self.saved.good_in_a_row;
                let confirmed = self.saved.good_in_a_row >= self.settings.confirm;
                if confirmed && self.saved.step_ms >= self.settings.interval_ms {
                    let next = self.settings.steps.iter().copied().find(|share| *share > from_bp);
                    let phase = phase_at(next);
                    self.saved = Saved { started: true, phase, ..Saved::fresh(&self.settings) };
                    let reason = if phase == Phase::Promoted { Reason::Promoted } else { Reason::Advanced };
                    return Some(self.decision(now_ms, from_bp, (verdict, why), reason));
                }
            }
            Verdict::Unclear(_) => {
                self.saved.good_lost |= self.saved.good_in_a_row > 0;
                self.saved.good_in_a_row = 0;
                why.good_in_a_row = 0;
            }
        }
        self.turn();
        if self.saved.step_ms >= self.settings.stalled_after_ms && !self.saved.stalled {
            self.saved.stalled = true;
            return Some(self.decision(now_ms, from_bp, (verdict, why), Reason::Stalled));
        }
        let changed = (before == Verdict::Good) != (verdict == Verdict::Good);
        changed.then(|| self.decision(now_ms, from_bp, (verdict, why), Reason::Judged))
    }

    /// Closes windows that have been open for long.
    fn turn(&mut self) {
        let first_ms = self.settings.window_ms.max(self.settings.interval_ms.saturating_mul(2));
        let long_ms = first_ms.saturating_mul(1 << self.saved.long.number.min(30));
        if self.saved.long.open_ms >= long_ms {
            self.saved.long.turn();
            self.saved.good_in_a_row = 0;
            self.saved.good_lost = false;
        }
        if self.saved.recent.open_ms >= self.settings.recent_ms {
            self.saved.recent.turn();
        }
    }

    fn figures(&self, window: &Window) -> Why {
        let (settings, saved) = (&self.settings, &self.saved);
        let share_bp = self.share_bp();
        Why {
            reason: Reason::Judged,
            step: settings
                .steps
                .iter()
                .position(|step| *step >= share_bp)
                .map_or(settings.steps.len(), |at| at + 1),
            steps: settings.steps.len(),
            share_bp,
            to_bp: share_bp,
            canary_requests: window.canary.tally.requests,
            baseline_requests: window.baseline.tally.requests,
            requests_min: settings.requests_min,
            errors: None,
            latency: None,
            confidence: 0.0,
            good_in_a_row: saved.good_in_a_row,
            confirm: settings.confirm,
            step_ms: saved.step_ms,
            interval_ms: settings.interval_ms,
        }
    }

    fn decision(&self, at_ms: u64, from_bp: u32, (verdict, why): (Verdict, Why), reason: Reason) -> Decision {
        let to_bp = self.share_bp();
        Decision { at_ms, from_bp, to_bp, verdict, why: Why { reason, to_bp, ..why } }
    }

    /// Puts a share that is none of the steps' on the nearest step below it, or on the first.
    fn fit(&mut self) {
        if let Phase::Trying { share_bp } = self.saved.phase {
            let steps = &self.settings.steps;
            let below =
                steps.iter().copied().filter(|step| *step <= share_bp).max().or(steps.first().copied());
            let phase = phase_at(below);
            if phase != self.saved.phase {
                self.saved = Saved { started: true, phase, ..Saved::fresh(&self.settings) };
            }
        }
    }
}

impl Saved {
    /// Where another process left off: on that step, with empty windows.
    pub fn resumed(identity: u64, phase: Phase) -> Self {
        Self { started: true, ..Self::at(identity, phase) }
    }

    fn fresh(settings: &Settings) -> Self {
        Self::at(settings.identity, phase_at(settings.steps.first().copied()))
    }

    fn at(identity: u64, phase: Phase) -> Self {
        Self {
            identity,
            phase,
            started: false,
            step_ms: 0,
            stalled: false,
            long: Window::default(),
            recent: Window::default(),
            verdict: Verdict::Unclear(Lack::Requests),
            good_in_a_row: 0,
            good_lost: false,
        }
    }
}

/// On a step, or after the last.
fn phase_at(step: Option<u32>) -> Phase {
    match step {
        Some(share_bp) if share_bp < WHOLE_BP => Phase::Trying { share_bp },
        _ => Phase::Promoted,
    }
}
