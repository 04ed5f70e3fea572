//! How many retries an upstream is sent: a share of its requests, a floor, and a maximum at once.
//!
//! Retries help when few requests fail, and do harm when many do: three tries each are three times the load on what is
//! failing for its load. The budget is Finagle's and linkerd's `RetryBudget`: each request deposits `percent` hundredths,
//! each retry withdraws a whole, deposits and withdrawals alike are forgotten after 10 s, and a reserve of
//! `min_per_second` × 10 s stands by for upstreams with few requests. The Gateway API's `retryConstraint` says the same
//! (`budget.percent`, `budget.interval` of 10 s, `minRetryRate`). Envoy's `retry_budget` compares with requests *in
//! flight* instead (`budget_percent` of them, `min_retry_concurrency` as the floor), which gives slow requests more
//! retries than quick ones; its `max_retries` is our `retries_max`.
//!
//! Time is counted in whole seconds, of which the last ten are the window. What holds, to the retry:
//! - in any ten such seconds: retries ≤ percent × requests ÷ 100 + 10 × `min_per_second`;
//! - since the beginning, after `n` seconds begun: retries ≤ percent × requests ÷ 100 + `min_per_second` × (n + 9).
//!
//! The proof is the rule itself: at each withdrawal the first line is what is checked; and the second is the sum of the
//! first over as many windows as cover the time, end to end.

use crate::base::limits::RETRY_BUDGET_MAX;

/// What an upstream may be sent of retries. It holds for one worker; see [`Settings::share`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Retries for a hundred requests, 0 to 100.
    pub percent: u8,
    /// Retries a second that are allowed whatever the number of requests, 0 to `RETRY_BUDGET_MAX`. Those of ten seconds
    /// may come all at once.
    pub min_per_second: u32,
    /// Retries in flight, waiting for their back-off included; 0 to `RETRY_BUDGET_MAX`.
    pub retries_max: u32,
}

impl Settings {
    /// A fifth of the requests, 10 a second, 100 in flight: Finagle's, linkerd's and the Gateway API's figures.
    pub const DEFAULT: Self = Self { percent: 20, min_per_second: 10, retries_max: 100 };

    /// What one of `workers` may do so that all together do what `self` says, rounded up. The percentage is of each
    /// worker's own requests and needs no sharing.
    #[must_use]
    pub fn share(self, workers: u32) -> Self {
        let workers = workers.max(1);
        Self {
            min_per_second: self.min_per_second.div_ceil(workers),
            retries_max: self.retries_max.div_ceil(workers),
            ..self
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why no retry was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// The share of requests and the floor.
    Budget,
    /// The retries in flight.
    InFlight,
}

/// Seconds of the window.
const SLOTS: usize = 10;

/// A retry, in the unit that the balance is kept in: a request deposits whole percents of it.
const RETRY: i64 = 100;

/// One budget. Nothing allocates.
#[derive(Debug, Clone)]
pub struct Budget {
    settings: Settings,
    /// Deposits less withdrawals of each of the last ten seconds.
    slots: [i64; SLOTS],
    /// The sum of `slots`.
    sum: i64,
    at: usize,
    /// When the second of `slots[at]` is over.
    until_ms: u64,
    in_flight: u32,
}

impl Budget {
    /// One that has seen no requests: its floor is there.
    pub fn new(settings: Settings, now_ms: u64) -> Self {
        Self {
            settings,
            slots: [0; SLOTS],
            sum: 0,
            at: 0,
            until_ms: now_ms.saturating_add(1_000),
            in_flight: 0,
        }
    }

    /// Takes new settings, which hold from the next request on.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// A request has come: its first try, whatever becomes of it.
    #[inline]
    pub fn deposit(&mut self, now_ms: u64) {
        self.turn(now_ms);
        self.add(i64::from(self.settings.percent));
    }

    /// Takes a retry, whose end [`Budget::ended`] must be told. Nothing is taken where it is refused.
    pub fn withdraw(&mut self, now_ms: u64) -> Result<(), Spent> {
        self.turn(now_ms);
        if self.balance() < RETRY {
            return Err(Spent::Budget);
        }
        if self.in_flight >= self.settings.retries_max {
            return Err(Spent::InFlight);
        }
        self.add(-RETRY);
        self.in_flight += 1;
        Ok(())
    }

    /// A retry that was withdrawn has ended, or was not sent after all.
    #[inline]
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Retries in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Retries that would be granted now if none ended and none came, the bound on those in flight left aside.
    pub fn retries_left(&mut self, now_ms: u64) -> u32 {
        self.turn(now_ms);
        u32::try_from(self.balance().max(0) / RETRY).unwrap_or(u32::MAX)
    }

    fn balance(&self) -> i64 {
        let floor = self.settings.min_per_second.min(RETRY_BUDGET_MAX);
        self.sum.saturating_add(i64::from(floor) * SLOTS as i64 * RETRY)
    }

    fn add(&mut self, hundredths: i64) {
        self.slots[self.at] += hundredths;
        self.sum += hundredths;
    }

    /// Goes on to the second of `now_ms`. A clock that goes backwards stays in the newest.
    #[inline]
    fn turn(&mut self, now_ms: u64) {
        if now_ms >= self.until_ms {
            self.forget(now_ms);
        }
    }

    #[cold]
    fn forget(&mut self, now_ms: u64) {
        let steps = (now_ms - self.until_ms) / 1_000 + 1;
        for _ in 0..steps.min(SLOTS as u64) {
            self.at = (self.at + 1) % SLOTS;
            self.sum -= std::mem::take(&mut self.slots[self.at]);
        }
        self.until_ms = self.until_ms.saturating_add(steps.saturating_mul(1_000));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    use super::{Budget, Settings, Spent};

    #[test]
    fn a_table_of_moments() {
        let settings = Settings { percent: 25, min_per_second: 0, retries_max: 2 };
        let mut budget = Budget::new(settings, 0);
        assert_eq!(budget.withdraw(0), Err(Spent::Budget));
        for _ in 0..3 {
            budget.deposit(0);
        }
        assert_eq!(budget.withdraw(0), Err(Spent::Budget));
        for _ in 0..9 {
            budget.deposit(5_999);
        }
        assert_eq!(budget.retries_left(5_999), 3);
        assert_eq!((budget.withdraw(9_999), budget.withdraw(9_999)), (Ok(()), Ok(())));
        assert_eq!((budget.withdraw(9_999), budget.in_flight()), (Err(Spent::InFlight), 2));
        budget.ended();
        // The three of the first second are forgotten, what was withdrawn is not.
        assert_eq!(budget.withdraw(10_000), Err(Spent::Budget));
        budget.deposit(10_000);
        budget.deposit(10_000);
        budget.deposit(10_000);
        assert_eq!((budget.withdraw(10_000), budget.withdraw(10_000)), (Ok(()), Err(Spent::Budget)));
        assert_eq!(budget.retries_left(u64::MAX), 0);
        budget.deposit(0);
        assert_eq!(budget.in_flight(), 2);
    }

    #[test]
    fn the_floor_and_the_ends() {
        let check = |percent, min_per_second, retries_max, requests, expected| {
            let mut budget = Budget::new(Settings { percent, min_per_second, retries_max }, 7);
            for _ in 0..requests {
                budget.deposit(7);
            }
            let granted = (0..1_000).take_while(|_| budget.withdraw(7).is_ok()).count();
            assert_eq!(granted, expected, "{percent} {min_per_second} {retries_max} {requests}");
        };
        check(20, 3, 1_000, 0, 30);
        check(20, 3, 1_000, 100, 50);
        check(20, 3, 40, 100, 40);
        check(0, 3, 1_000, 100, 30);
        check(100, 0, 1_000, 100, 100);
        check(0, 0, 1_000, 100, 0);
        check(100, 10, 0, 100, 0);
        let settings = Settings { percent: 20, min_per_second: 10, retries_max: 100 };
        assert_eq!(settings.share(1), settings);
        assert_eq!(settings.share(3), Settings { percent: 20, min_per_second: 4, retries_max: 34 });
        assert_eq!(settings.share(0), settings);
    }

    proptest! {
        /// Both lines of the module's head, and that no retry is refused that they would allow.
        #[test]
        fn never_more_than_its_share(
            percent in 0_u8..=100,
            min_per_second in 0_u32..4,
            steps in prop::collection::vec((0_u64..700, 0_u32..8, 0_u32..8, 0_u32..40), 1..300),
        ) {
            let settings = Settings { percent, min_per_second, retries_max: u32::MAX };
            let mut budget = Budget::new(settings, 0);
            let (mut now_ms, mut requests, mut retries) = (0, Vec::new(), Vec::new());
            for (wait_ms, came, wanted, rest) in steps {
                // Now and then a long silence.
                now_ms += if rest == 0 { wait_ms * 30 } else { wait_ms };
                let second = now_ms / 1_000;
                for _ in 0..came {
                    budget.deposit(now_ms);
                    requests.push(second);
                }
                for _ in 0..wanted {
                    let within = |times: &Vec<u64>| times.iter().filter(|&&at| at + 10 > second).count() as u64;
                    let allowed = within(&requests) * u64::from(percent) + u64::from(min_per_second) * 1_000;
                    let granted = budget.withdraw(now_ms).is_ok();
                    prop_assert_eq!(granted, (within(&retries) + 1) * 100 <= allowed, "at {}", now_ms);
                    if granted {
                        retries.push(second);
                    }
                }
                let ever = requests.len() as u64 * u64::from(percent)
                    + u64::from(min_per_second) * (second + 1 + 9) * 100;
                prop_assert!(retries.len() as u64 * 100 <= ever);
            }
        }
    }
}
