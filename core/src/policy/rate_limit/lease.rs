//! The lease protocol: how a bucket hands tokens out in batches, and how what became of them comes back. Pure functions
//! of two plain values; who stores them (an atomic word of the node, a cluster's store) is not this module's concern.
//! [`super::node`] runs [`Bucket`] in an atomic word, [`super::worker`] keeps a [`Lease`].
//!
//! Invariants, for every key:
//! 1. Tokens are created only by the bucket, by time alone: `rate × time`.
//! 2. granted = spent + held + returned. A holder reports every token of a lease exactly once, as spent or as returned.
//! 3. level + held ≤ burst, where held counts a token from its grant to its report. Tokens that are out hold down how
//!    far the bucket fills, so a lease that is spent late can't come on top of a bucket that filled meanwhile.
//! 4. Hence, for any two clock readings a ≤ b, the tokens spent at readings in [a, b] are at most
//!    `burst + rate × (b − a)`: in every window, not only since the start, and without trusting holders to be prompt.
//!
//! Why 4 holds although readings of several cores are in no order. Let O be the first exchange (in the order in which the
//! bucket's word changed) whose reading is not before a, or that reports tokens spent not before a. It puts the time at
//! which the bucket is full to a + held × interval at least (3), where held counts every token that was granted earlier
//! and will be spent after a. Each later grant puts that time off by one interval a token, and a grant at reading t never
//! puts it past t + burst × interval. So intervals granted or held from O on fit into b − a + burst × interval.
//!
//! What is lost. Held tokens of other holders are the only ones that a demand can't reach, so a schedule admits at
//! least what one bucket would have, less the tokens held, and that at most once each time the bucket is full again (as
//! long as clocks lag by less than a bucket takes to fill: one further behind finds it empty when it is full to others).
//! [`spare_max`] keeps all holders' spares together to a hundredth of the burst.
//!
//! Method: the virtual scheduling form of the Generic Cell Rate Algorithm (ITU-T I.371, annex A): a bucket is the time at
//! which it will be full ("theoretical arrival time"). Time is counted in ticks of 4 ns, readings are rounded down to
//! them, and a token takes a whole number of ticks, rounded up: nothing else is ever rounded. Below 400 ns a token
//! that could cost more than 1 %, so [`Rate`] refuses it.

use std::fmt;
use std::time::Duration;

/// Nanoseconds to ticks: 2 bits.
const TICK_BITS: u32 = 2;

/// The count of tokens that are out takes the word's low bits.
const HELD_BITS: u32 = 8;
const HELD_MAX: u64 = (1 << HELD_BITS) - 1;

/// The last tick that a bucket can name: 9.1 years after the clock's start. From then on it refuses.
const FULL_AT_MAX: u64 = (1 << (64 - HELD_BITS)) - 2;

/// Ticks that an empty bucket may take to fill: a year and a bit. Keeps every sum below far from its end.
const FILL_TICKS_MAX: u64 = 1 << 53;

/// The shortest time of a token: 100 ticks, so that rounding it up costs less than 1 %.
const INTERVAL_NS_MIN: u64 = 400;

/// The longest window.
const WINDOW_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How far into debt [`Bucket::charge`] may take a bucket: 30 days, in ticks.
const DEBT_TICKS_MAX: u64 = (30 * 24 * 3600 * 1_000_000_000) >> TICK_BITS;

/// Spares of one lease: already at this size an exchange costs each decision a hundredth of itself.
const SPARE_MAX: u32 = 64;

/// The tick that a clock reading in nanoseconds falls into.
#[inline]
pub fn ticks(now_ns: u64) -> u64 {
    now_ns >> TICK_BITS
}

/// The end of a span of ticks, in nanoseconds.
#[inline]
pub fn nanoseconds(ticks: u64) -> u64 {
    ticks.saturating_mul(1 << TICK_BITS)
}

/// How fast a bucket fills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval: u64,
    fill: u64,
    burst: u32,
    count: u32,
    window_ms: u64,
}

/// Why numbers are no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateRefusal {
    /// Nothing would ever be admitted.
    Zero,
    /// A bucket that holds nothing admits nothing.
    NoBurst,
    /// Not between 1 ms and 30 days.
    Window,
    /// More than 2,500,000 tokens a second.
    TooFast,
    /// An empty bucket would take over a year to fill.
    TooSlow,
}

impl fmt::Display for RateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "a rate of zero admits nothing: use deny",
            Self::NoBurst => "a burst of zero admits nothing: use at least 1, or deny",
            Self::Window => "the window must be between 1ms and 30 days",
            Self::TooFast => {
                "more than 2,500,000 tokens a second: count in larger units (kilobytes, not bytes)"
            }
            Self::TooSlow => "an empty bucket would take more than a year to fill: lower the burst",
        })
    }
}

impl std::error::Error for RateRefusal {}

impl Rate {
    /// `count` tokens each `window` (1 ms to 30 days), and `burst` at once.
    pub fn new(count: u32, window: Duration, burst: u32) -> Result<Self, RateRefusal> {
        if count == 0 {
            return Err(RateRefusal::Zero);
        }
        if burst == 0 {
            return Err(RateRefusal::NoBurst);
        }
        if window < Duration::from_millis(1) || window > WINDOW_MAX {
            return Err(RateRefusal::Window);
        }
        let window_ns = window.as_nanos() as u64;
        if window_ns / u64::from(count) < INTERVAL_NS_MIN {
            return Err(RateRefusal::TooFast);
        }
        let interval = window_ns.div_ceil(u64::from(count) << TICK_BITS);
        match interval.checked_mul(u64::from(burst)).filter(|&fill| fill <= FILL_TICKS_MAX) {
            Some(fill) => Ok(Self { interval, fill, burst, count, window_ms: window.as_millis() as u64 }),
            None => Err(RateRefusal::TooSlow),
        }
    }

    /// Tokens that a full bucket holds.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Tokens each window, and the window in milliseconds, as configured.
    pub fn quota(&self) -> (u32, u64) {
        (self.count, self.window_ms)
    }

    /// Ticks that a token takes.
    pub fn interval_ticks(&self) -> u64 {
        self.interval
    }

    /// Ticks from empty to full.
    pub fn fill_ticks(&self) -> u64 {
        self.fill
    }

    /// True if this rate never admits more than `other` does.
    pub fn within(&self, other: &Self) -> bool {
        self.interval >= other.interval && self.burst <= other.burst
    }
}

/// Spare tokens that one of `holders` may hold: all together a hundredth of the burst, and what the count has room for.
/// Nothing at bursts under 100 × holders: there every token is taken from the bucket when it is needed.
#[inline]
pub fn spare_max(rate: &Rate, holders: u32) -> u32 {
    let holders = holders.max(1);
    (rate.burst / 100).min(HELD_MAX as u32).checked_div(holders).unwrap_or(0).min(SPARE_MAX)
}

/// A bucket: when it will be full, and how many of its tokens are out. One word; zero is a full bucket at time zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bucket(pub u64);

/// What a holder asks for.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// Tokens that are spent at once, all or none.
    pub need: u32,
    /// Tokens to hold besides, as far as there are any.
    pub spare: u32,
    /// How long the tokens that are needed may be waited for, in ticks.
    pub patience: u64,
    /// The holder's clock reading, in ticks.
    pub now: u64,
}

/// What a bucket answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `need` was granted and counts as spent, after a wait; `spare` more are out.
    Granted { spare: u32, wait: u64 },
    /// Nothing was. Ticks until `need` tokens will be there; `None` if never.
    Refused { wait: Option<u64> },
}

/// What became of a lease's tokens, reported once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Spent, the last of them at reading `spent_at`.
    pub spent: u32,
    /// In ticks.
    pub spent_at: u64,
    /// Not spent: returned.
    pub unspent: u32,
    /// Ticks that each of them was charged at.
    pub interval: u64,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("full_at", &self.full_at()).field("held", &self.held()).finish()
    }
}

impl Bucket {
    /// A bucket that will be full at `full_at`, with no token out. Later than the last tick counts as the last.
    pub fn full_from(full_at: u64) -> Self {
        Self::of(full_at, 0)
    }

    fn of(full_at: u64, held: u64) -> Self {
        Self(full_at.min(FULL_AT_MAX) << HELD_BITS | held.min(HELD_MAX))
    }

    /// The same, but not full before `floor`.
    #[must_use]
    pub fn not_before(self, floor: u64) -> Self {
        Self::of(self.full_at().max(floor), self.held().into())
    }

    /// When it will be full, in ticks.
    #[inline]
    pub fn full_at(self) -> u64 {
        self.0 >> HELD_BITS
    }

    /// Tokens that are out: granted as spares and not yet reported.
    #[inline]
    pub fn held(self) -> u32 {
        (self.0 & HELD_MAX) as u32
    }

    /// True if it is no different from a new one for any reading from `now` on: to forget it loses nothing.
    #[inline]
    pub fn is_forgettable(self, now: u64) -> bool {
        self.held() == 0 && self.full_at() < now
    }

    /// Ticks' worth of tokens that are there; negative is debt.
    pub fn room(self, rate: &Rate, now: u64) -> i64 {
        (now + rate.fill) as i64 - self.filled(rate, now) as i64
    }

    /// When it is full, held tokens counted in (invariant 3).
    #[inline]
    fn filled(self, rate: &Rate, now: u64) -> u64 {
        self.full_at().max(now + u64::from(self.held()) * rate.interval)
    }

    /// Settles a lease: what was spent stops being out and was never more than the bucket allowed when it was spent
    /// last; what was not spent is credited.
    #[inline]
    #[must_use]
    pub fn settle(self, done: Settlement) -> Self {
        let held = u64::from(self.held());
        let mut full_at = self.full_at();
        if done.spent > 0 {
            full_at = full_at.max(done.spent_at + held * done.interval);
        }
        let full_at = full_at.saturating_sub(u64::from(done.unspent) * done.interval);
        Self::of(full_at, held.saturating_sub(u64::from(done.spent) + u64::from(done.unspent)))
    }

    /// The same share of the bucket used up, after the rate changed at `at`. Debt beyond an empty bucket is forgiven.
    /// Tokens that are out count as used up now, whatever becomes of them.
    #[must_use]
    pub fn rescaled(self, from: &Rate, to: &Rate, at: u64) -> Self {
        let used = (self.filled(from, at) - at).min(from.fill);
        let used = (u128::from(used) * u128::from(to.fill)).div_ceil(u128::from(from.fill));
        Self::of(at + used as u64, self.held().into())
    }

    /// Tokens that were out under another rate, and are not any more: they were counted as used up when it changed.
    #[must_use]
    pub fn discharge(self, done: Settlement) -> Self {
        self.settle(Settlement { spent: 0, spent_at: 0, unspent: done.spent + done.unspent, interval: 0 })
    }

    /// Takes tokens. The wait of a grant is over when an impatient holder would have been granted the same.
    #[inline]
    pub fn take(self, rate: &Rate, want: Want) -> (Self, Answer) {
        let Want { need, spare, patience, now } = want;
        if need > rate.burst || now >= FULL_AT_MAX - 2 * FILL_TICKS_MAX {
            return (self, Answer::Refused { wait: None });
        }
        let filled = self.filled(rate, now) + u64::from(need) * rate.interval;
        let wait = filled.saturating_sub(now + rate.fill);
        if wait > patience {
            return (self, Answer::Refused { wait: Some(wait) });
        }
        let spare = if spare == 0 || wait > 0 {
            0
        } else {
            let there = (now + rate.fill - filled) / rate.interval;
            u64::from(spare).min(there).min(HELD_MAX - u64::from(self.held()))
        };
        let next = Self::of(filled + spare * rate.interval, u64::from(self.held()) + spare);
        (next, Answer::Granted { spare: spare as u32, wait })
    }

    /// Gives back `tokens` that were granted as needed and were not spent after all.
    #[must_use]
    pub fn refund(self, tokens: u32, interval: u64) -> Self {
        let full_at = self.full_at().saturating_sub(u64::from(tokens) * interval);
        Self::of(full_at, u64::from(self.held()))
    }

    /// Takes tokens that have been spent already, into debt if need be, up to 30 days' worth.
    #[must_use]
    pub fn charge(self, rate: &Rate, tokens: u32, now: u64) -> Self {
        let filled = self.filled(rate, now);
        let charged = filled.saturating_add(u64::from(tokens).saturating_mul(rate.interval));
        Self::of(charged.min(filled.max(now + rate.fill + DEBT_TICKS_MAX)), u64::from(self.held()))
    }

    /// As if nothing had been taken but what is out. Never before `floor`, an eviction's mark.
    #[must_use]
    pub fn reset(self, rate: &Rate, now: u64, floor: u64) -> Self {
        let held = u64::from(self.held());
        let fresh = now.max(floor) + held * rate.interval;
        Self::of(self.full_at().min(fresh), held)
    }
}

/// Tokens that a holder has, to be spent without asking. Not to be shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lease {
    unspent: u16,
    spent: u16,
    spent_at: u64,
    interval: u64,
}

impl Lease {
    /// Spends `tokens`, all or none.
    #[inline]
    pub fn spend(&mut self, tokens: u32, now: u64) -> bool {
        let enough = u32::from(self.unspent) >= tokens;
        if enough {
            self.unspent -= tokens as u16;
            self.spent += tokens as u16;
            self.spent_at = self.spent_at.max(now);
        }
        enough
    }

    /// Takes back what [`Lease::spend`] spent. False if the lease was settled since.
    pub fn unspend(&mut self, tokens: u32) -> bool {
        let ours = u32::from(self.spent) >= tokens;
        if ours {
            self.spent -= tokens as u16;
            self.unspent += tokens as u16;
        }
        ours
    }

    /// Adds spares that were granted. The lease must have been settled in the same exchange.
    pub fn receive(&mut self, spare: u32, rate: &Rate, now: u64) {
        debug_assert!(!self.is_open());
        *self = Self { unspent: spare as u16, spent: 0, spent_at: now, interval: rate.interval };
    }

    /// Ends it: what the bucket must be told.
    pub fn close(&mut self) -> Settlement {
        let done = self.account();
        *self = Self::default();
        done
    }

    /// What the bucket would be told.
    pub fn account(&self) -> Settlement {
        Settlement {
            spent: self.spent.into(),
            spent_at: self.spent_at,
            unspent: self.unspent.into(),
            interval: self.interval,
        }
    }

    /// Tokens left.
    #[inline]
    pub fn unspent(&self) -> u32 {
        self.unspent.into()
    }

    /// True if the bucket has tokens on its count for this lease.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.unspent > 0 || self.spent > 0
    }

    /// When it was last used, in ticks.
    pub fn used_at(&self) -> u64 {
        self.spent_at
    }
}
