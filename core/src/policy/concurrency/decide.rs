//! How many requests an upstream may have at once, found by watching how long they take.
//!
//! As long as an upstream has room, its latency does not depend on how many requests it has; beyond that, each one more
//! waits in its queue and makes all others wait (Little's law: n = throughput × latency). So the limit follows the
//! gradient of the latency without a queue (the baseline) and the latency now:
//!
//! ```text
//!   gradient = tolerance × baseline ÷ latency, within 0.5 … 1
//!   target   = limit × gradient + headroom         headroom: the larger of the setting and √limit
//!   limit   += smoothing × (target − limit)         once a window
//! ```
//!
//! A server that does `c` requests at once is so given between `c` and `2 × (c + headroom)` (tests, over a queueing
//! model): enough to keep it busy, with a queue that is short. The formula is that of Netflix's concurrency-limits
//! (`Gradient2Limit`) and of Envoy's `envoy.filters.http.adaptive_concurrency` (`gradient_controller`), the square root is
//! from both. The baseline is measured as Envoy does it and not as Gradient2 does (a long average, which takes a queue
//! that stands for long enough for normal): each `baseline_ms` the limit falls to a quarter until enough requests that
//! were sent since have ended, so some are refused that would otherwise have been sent; but not if the limit was hardly
//! in use and no queue was seen, for then the window at hand is as good. Of requests sent since a moment the quick ones
//! end first, so measuring lasts for ten times the latency or longer (but no longer than `baseline_ms`), and the first half
//! does not count. It is a mean, as the latency is, so that the two compare; the fastest single request would make every
//! mixture of cheap and dear requests look like a queue.
//!
//! Envoy's terms: `min_concurrency`, `max_concurrency_limit`, `concurrency_update_interval`, `min_rtt_calc_params.interval`
//! and `.request_count`, and `buffer` are `limit_min`, `limit_max`, `window_ms`, `baseline_ms`, `samples_min`, and
//! `tolerance_percent` less 100. It falls to `min_concurrency` to measure, and takes a percentile where this takes the
//! mean; `fixed_value` is `limit_min` = `limit_max`.
//!
//! Called by the attempt loop: one limiter for each upstream of one worker, asked before each attempt and told of each
//! response. Time spent waiting for a client is no latency of the upstream: what counts is from a request sent to
//! its response's head. It queues nothing; whoever is refused may try elsewhere or is answered with 503.

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

/// Between what the limit moves, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The limit never falls below this; at least 1, and no more than the upstream surely bears at once.
    pub limit_min: u32,
    /// It never rises above this: from `limit_min` to `CONCURRENCY_LIMIT_MAX`.
    pub limit_max: u32,
    /// Where it begins, between the two.
    pub limit_initial: u32,
    /// How often it moves, in milliseconds, at least 1. A window lasts until it has `samples_min` samples.
    pub window_ms: u64,
    /// Samples that a window needs, at least 1. A baseline needs four times as many.
    pub samples_min: u32,
    /// How much of the way to its target the limit goes each time, 1 to 100 percent.
    pub smoothing_percent: u8,
    /// Up to how much of the baseline counts as no queue, 100 to 1,000 percent. What latencies vary by anyway.
    pub tolerance_percent: u16,
    /// How many requests are let wait in the upstream's queue, at least: how it is found out that there is more room.
    pub headroom: u32,
    /// After how long the baseline is measured again, in milliseconds, at least `window_ms`. After a tenth of it, if the
    /// last one was far from the one before, or latencies are far below it; and where measuring took long, not before
    /// twenty times as long.
    pub baseline_ms: u64,
}

impl Settings {
    /// 4 to 1,000, from 100; windows of 100 ms and 25 samples; a fifth of the way; half as long again is no queue;
    /// headroom 4; a baseline each 30 s.
    pub const DEFAULT: Self = Self {
        limit_min: 4,
        limit_max: 1_000,
        limit_initial: 100,
        window_ms: 100,
        samples_min: 25,
        smoothing_percent: 20,
        tolerance_percent: 150,
        headroom: 4,
        baseline_ms: 30_000,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The upstream has as many requests as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// The limit that was met.
    pub limit: u32,
}

/// What a sample tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came; its latency counts, whatever its status.
    Answered,
    /// The upstream had enough: it ran into a time-out or refused for overload. Its latency says nothing.
    Dropped,
}

/// The numbers of a limiter, for metrics and the admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Requests that may be in flight now.
    pub limit: u32,
    /// The latency without a queue, in microseconds; zero as long as it isn't known.
    pub baseline_us: u64,
    /// The mean latency of the last window, in microseconds.
    pub latency_us: u64,
    /// The baseline is being measured.
    pub measuring: bool,
}

/// A window whose share of drops is at least one in so many lowers the limit by a tenth or more.
const DROPS_PER: u32 = 10;

/// A window never has more samples than this.
const SAMPLES_MAX: u32 = 1 << 28;

/// A baseline holds for many windows, so it should be surer than one of them.
const BASELINE_SAMPLES_FACTOR: u32 = 4;

/// How many times the latency measuring lasts at least.
const MEASURING_LATENCIES: f64 = 10.0;

/// How many times as long as a baseline was measured, it holds at least: one request in twenty meets a lowered limit.
const BASELINE_HOLDS_FACTOR: u64 = 20;

/// By what factor two baselines differ that are far from one another.
const BASELINE_FACTOR: f64 = 1.5;

/// To what part of the limit it falls while the baseline is measured. At rest the limit is less than twice what the
/// upstream does at once, so a quarter leaves no queue.
const MEASURING_DIVISOR: f64 = 4.0;

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    since_ms: u64,
    latency_us: u64,
    answered: u32,
    dropped: u32,
    in_flight_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Samples of requests sent before the window began are of the old queue.
    Measuring,
    Following,
}

/// One adaptive limit. Nothing allocates.
#[derive(Debug)]
pub struct Limiter {
    settings: Settings,
    limit: f64,
    /// What holds now, rounded down.
    effective: u32,
    phase: Phase,
    baseline_us: f64,
    latency_us: f64,
    /// When the baseline is to be measured again.
    due_ms: u64,
    /// When it may be measured again, if there are signs that it has changed.
    due_early_ms: u64,
    window: Window,
}

impl Limiter {
    /// One that begins with the initial limit, and with measuring, for which it does not lower that.
    pub fn new(settings: Settings, now_ms: u64) -> Self {
        let limit =
            settings.limit_initial.clamp(settings.limit_min, settings.limit_max.max(settings.limit_min));
        Self {
            settings,
            limit: f64::from(limit),
            effective: limit,
            phase: Phase::Measuring,
            baseline_us: 0.0,
            latency_us: 0.0,
            due_ms: 0,
            due_early_ms: 0,
            window: Window { since_ms: now_ms, ..Window::default() },
        }
    }

    /// Takes new settings. What was learnt stays, within the new bounds.
    pub fn configure(&mut self, settings: Settings) {
        if settings != self.settings {
            self.settings = settings;
            self.move_to(self.limit);
        }
    }

    /// May one more request be sent, with `in_flight` of them under way?
    #[inline]
    pub fn try_acquire(&self, in_flight: u32) -> Result<(), Limited> {
        if in_flight < self.effective { Ok(()) } else { Err(Limited { limit: self.effective }) }
    }

    /// A request has been answered or dropped, `latency_us` after it was sent, when `in_flight` were under way, itself
    /// included.
    #[inline]
    pub fn sample(&mut self, latency_us: u64, in_flight: u32, outcome: Outcome, now_ms: u64) {
        if self.phase == Phase::Measuring {
            let sent_ms = now_ms.saturating_sub(latency_us.div_ceil(1_000));
            let warm_ms = if self.baseline_us > 0.0 { self.measuring_ms() / 2 } else { 0 };
            if sent_ms < self.window.since_ms || now_ms < self.window.since_ms.saturating_add(warm_ms) {
                return;
            }
        }
        let window = &mut self.window;
        match outcome {
            Outcome::Answered => {
                window.answered += 1;
                window.latency_us = window.latency_us.saturating_add(latency_us);
            }
            Outcome::Dropped => window.dropped += 1,
        }
        window.in_flight_max = window.in_flight_max.max(in_flight);
        let samples = window.answered + window.dropped;
        if samples >= self.settings.samples_min.min(SAMPLES_MAX) {
            self.end_of_window(samples, now_ms);
        }
    }

    /// Requests that may be in flight now.
    #[inline]
    pub fn limit(&self) -> u32 {
        self.effective
    }

    /// All that can be said of it.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            limit: self.effective,
            baseline_us: self.baseline_us as u64,
            latency_us: self.latency_us as u64,
            measuring: self.phase == Phase::Measuring,
        }
    }

    fn end_of_window(&mut self, samples: u32, now_ms: u64) {
        let window = &self.window;
        let (mut wanted, mut lasts_ms) = (self.settings.samples_min, self.settings.window_ms);
        if self.phase == Phase::Measuring {
            wanted = wanted.saturating_mul(BASELINE_SAMPLES_FACTOR);
            lasts_ms = lasts_ms.max(self.measuring_ms());
        }
        let is_over = samples >= wanted && now_ms >= window.since_ms.saturating_add(lasts_ms);
        // The counters don't run over where a clock stands still.
        if is_over || samples >= SAMPLES_MAX {
            self.close(now_ms);
        }
    }

    /// How long measuring lasts at least: by the latency with its queue, for a baseline that is too low would have the
    /// next one measured too hastily, and dear requests left out of it again.
    fn measuring_ms(&self) -> u64 {
        let mean_us = self.window.latency_us as f64 / f64::from(self.window.answered.max(1));
        let latency_us = self.latency_us.max(self.baseline_us).max(mean_us);
        ((latency_us * MEASURING_LATENCIES / 1_000.0) as u64).min(self.settings.baseline_ms)
    }

    #[cold]
    fn close(&mut self, now_ms: u64) {
        let window = std::mem::replace(&mut self.window, Window { since_ms: now_ms, ..Window::default() });
        let dropping = window.dropped * DROPS_PER >= window.answered + window.dropped;
        let mean_us = (window.answered > 0).then(|| window.latency_us as f64 / f64::from(window.answered));
        if let Some(mean_us) = mean_us {
            self.latency_us = mean_us;
        }
        match (self.phase, mean_us) {
            (Phase::Measuring, mean_us) => {
                // Many drops are no measure; but to measure on would keep the limit low for as long as they last.
                let measured_us = mean_us.filter(|_| !dropping).unwrap_or(self.baseline_us);
                self.measured(measured_us, now_ms.saturating_sub(window.since_ms), now_ms);
                self.phase = Phase::Following;
                self.move_to(self.limit);
            }
            (Phase::Following, _) => self.follow(&window, dropping, now_ms),
        }
    }

    /// One step of the formula in the module's head.
    fn follow(&mut self, window: &Window, dropping: bool, now_ms: u64) {
        let smoothing = f64::from(self.settings.smoothing_percent) / 100.0;
        let tolerance = f64::from(self.settings.tolerance_percent) / 100.0;
        let mut gradient: f64 = 1.0;
        if window.answered > 0 && self.baseline_us > 0.0 {
            // Less than half: the upstream may have become faster. But the window may also have been short of dear
            // requests, so the baseline is measured and not taken from it.
            if self.latency_us * 2.0 < self.baseline_us {
                self.due_ms = self.due_ms.min(self.due_early_ms);
            }
            gradient = (tolerance * self.baseline_us / self.latency_us.max(1.0)).clamp(0.5, 1.0);
        }
        let in_use = f64::from(window.in_flight_max) * 2.0 >= self.limit;
        let target = if dropping {
            self.limit * gradient.min(0.9)
        } else {
            self.limit * gradient + f64::from(self.settings.headroom).max(self.limit.sqrt())
        };
        // A limit that nobody comes near has not been tried, so it proves nothing about a higher one.
        if target <= self.limit || in_use {
            self.move_to(self.limit + smoothing * (target - self.limit));
        }
        let unknown = self.baseline_us == 0.0;
        if now_ms >= self.due_ms || unknown {
            // Where a lower limit would not bind there is nothing to be found out by it. Where it would, latency may have a
            // queue in it however steady it is: as many clients as ever may wait behind each other from the start.
            let binds = f64::from(window.in_flight_max) * MEASURING_DIVISOR > self.limit;
            if binds || dropping || gradient < 1.0 || unknown {
                self.phase = Phase::Measuring;
                self.move_to(self.limit);
            } else {
                self.measured(self.latency_us, 0, now_ms);
            }
        }
    }

    /// Takes a new baseline. One far from the last may itself have been measured with a queue.
    fn measured(&mut self, measured_us: f64, took_ms: u64, now_ms: u64) {
        let far = measured_us > self.baseline_us * BASELINE_FACTOR
            || measured_us * BASELINE_FACTOR < self.baseline_us;
        self.baseline_us = measured_us;
        let holds_ms = self.settings.baseline_ms.max(took_ms.saturating_mul(BASELINE_HOLDS_FACTOR));
        self.due_early_ms = now_ms.saturating_add((holds_ms / 10).max(self.settings.window_ms));
        self.due_ms = if far { self.due_early_ms } else { now_ms.saturating_add(holds_ms) };
    }

    fn move_to(&mut self, limit: f64) {
        let min = f64::from(self.settings.limit_min.max(1));
        self.limit = limit.clamp(min, f64::from(self.settings.limit_max).max(min));
        // Nothing has been learnt before the first baseline, so there is nothing to fall from.
        let lowered = self.phase == Phase::Measuring && self.baseline_us > 0.0;
        let holds = if lowered { (self.limit / MEASURING_DIVISOR).max(min) } else { self.limit };
        self.effective = holds as u32;
    }
}
