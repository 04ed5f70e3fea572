//! How far each endpoint is ahead of its share: what least requests and peak EWMA go by, beside load, where weights
//! differ. Load alone does not hold weights. With nothing in flight a request makes an endpoint of weight 2 half as full
//! as one of weight 1, so the greater weight would get all requests that come one at a time; and whatever else is done
//! with so few in flight, their being whole numbers favours the one or the other.
//!
//! So each endpoint's requests are counted, for its weight, against the mean of all (stride scheduling: C. Waldspurger,
//! "Lottery and Stride Scheduling", 1995). A request that an endpoint is ahead weighs as much as one in flight. The count
//! is bounded either way ([`AHEAD_MAX`]): an endpoint that is slow, and falls behind for ever, gets no more than that in
//! flight beyond what it would have without.

use super::spread::mix;
use super::tiers::Tier;
use super::{Candidate, Weight};

/// A request at an endpoint whose weight is one step.
const REQUEST: i64 = 1 << 40;

/// Requests that an endpoint may be ahead or behind; besides one more for each mean weight that it has, and an eighth of
/// its part of those in flight. Enough to make good for the rounding of requests in flight and for what is drawn
/// (`simulation` shows that weights hold), few enough to send a slow endpoint little.
const AHEAD_MAX: i64 = 2;

/// Latencies are as good as equal if the longer is at most so many times the shorter, and so much more.
const SAME_LATENCY: u64 = 2;
const SAME_LATENCY_NS: u64 = 1_000_000;

/// Choices between two counts of what is usable, at the least; one for each endpoint if there are more.
const CHOICES_MIN: usize = 16;

/// Counts by endpoint, and means by level. Levels share no endpoint, so they don't disturb each other.
#[derive(Debug, Default)]
pub(super) struct Shares {
    start: u64,
    endpoints: Vec<Endpoint>,
    levels: Vec<Level>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Endpoint {
    /// Requests for a step of weight, in 2^-40, from where its level last counted.
    taken: i64,
    /// What one request is, and for which weight that was divided: a choice divides by nothing.
    request: i64,
    weight: u32,
}

impl Endpoint {
    #[inline]
    fn request(&self, weight: Weight) -> i64 {
        if self.weight == weight.steps() { self.request } else { REQUEST / i64::from(weight.steps()) }
    }

    /// Ahead of the mean, within what `slack` and its weight allow.
    #[inline]
    fn ahead(&self, weight: Weight, mean: i64, slack: i64) -> i64 {
        let most = AHEAD_MAX * self.request(weight) + slack;
        (self.taken - mean).clamp(-most, most)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Level {
    /// What all usable ones have taken, by weight.
    mean: i64,
    /// By how much a request raises the mean.
    step: i64,
    /// An endpoint's weight, in steps.
    weight_mean: i64,
    /// By how much any may be ahead or behind, beside [`AHEAD_MAX`].
    slack: i64,
    /// Choices until usable ones are counted again.
    choices_left: usize,
}

impl Shares {
    pub(super) fn starting_at(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    /// To be called before each choice.
    #[inline]
    pub(super) fn begin(&mut self, tier: &Tier, candidate: impl Fn(usize) -> Candidate) {
        if self.levels.len() <= tier.level() || self.endpoints.len() < tier.numbers_end() {
            self.make_room(tier, &candidate);
        }
        let level = &mut self.levels[tier.level()];
        if level.choices_left == 0 {
            self.count(tier, candidate);
        } else {
            level.choices_left -= 1;
        }
    }

    /// Whether `a` is fuller than `b`, by requests in flight for their weight.
    #[inline]
    pub(super) fn is_fuller(&self, tier: &Tier, a: (usize, &Candidate), b: (usize, &Candidate)) -> bool {
        let full = |(i, c): (usize, &Candidate)| self.in_flight(i, c) + self.ahead(tier, i, c.weight);
        full(a) > full(b)
    }

    /// The same by the time that requests take, unless that is about the same.
    #[inline]
    pub(super) fn is_slower(&self, tier: &Tier, a: (usize, &Candidate), b: (usize, &Candidate)) -> bool {
        let latency_ns = |c: &Candidate| c.load_ns / (u64::from(c.active) + 1);
        let (of_a, of_b) = (latency_ns(a.1), latency_ns(b.1));
        let (shorter, longer) = (of_a.min(of_b), of_a.max(of_b));
        if longer.saturating_sub(SAME_LATENCY_NS) / SAME_LATENCY <= shorter {
            return self.is_fuller(tier, a, b);
        }
        let mean = self.levels[tier.level()].weight_mean;
        let load = |latency_ns: u64, (i, c): (usize, &Candidate)| {
            let requests = i128::from(REQUEST) + i128::from(self.in_flight(i, c)) * i128::from(mean);
            i128::from(latency_ns).saturating_mul(requests)
        };
        load(of_a, a) > load(of_b, b)
    }

    /// The endpoint gets the request.
    #[inline]
    pub(super) fn took(&mut self, tier: &Tier, i: usize, weight: Weight) {
        let ahead = self.ahead(tier, i, weight);
        let level = &mut self.levels[tier.level()];
        let endpoint = &mut self.endpoints[i];
        endpoint.taken = level.mean + ahead + endpoint.request(weight);
        level.mean += level.step;
    }

    #[inline]
    fn ahead(&self, tier: &Tier, i: usize, weight: Weight) -> i64 {
        let level = &self.levels[tier.level()];
        self.endpoints[i].ahead(weight, level.mean, level.slack)
    }

    /// Requests in flight for a step of weight.
    #[inline]
    fn in_flight(&self, i: usize, c: &Candidate) -> i64 {
        const MANY: u32 = 1 << 20;
        i64::from(c.active.min(MANY)) * self.endpoints[i].request(c.weight)
    }

    /// Endpoints that are new begin within half a request of their share, each worker elsewhere.
    fn make_room(&mut self, tier: &Tier, candidate: &impl Fn(usize) -> Candidate) {
        let levels = self.levels.len().max(tier.level() + 1);
        self.levels.resize(levels, Level::default());
        let (start, from) = (self.start, self.endpoints.len());
        self.endpoints.resize(from.max(tier.numbers_end()), Endpoint::default());
        for i in (0..tier.len()).map(|at| tier.at(at)).filter(|&i| i >= from) {
            let part = (mix(start ^ mix(i as u64)) >> 24) as i64 - REQUEST / 2;
            self.endpoints[i].taken = part / i64::from(candidate(i).weight.steps());
        }
    }

    /// Starts from zero, so that no sum grows without end, and from a mean of those that are usable now.
    fn count(&mut self, tier: &Tier, candidate: impl Fn(usize) -> Candidate) {
        let Level { mean, slack, .. } = self.levels[tier.level()];
        let (mut sum, mut weights, mut usable, mut active) = (0_i128, 0_i64, 0, 0_i128);
        for i in (0..tier.len()).map(|at| tier.at(at)) {
            let c = candidate(i);
            let taken = self.endpoints[i].ahead(c.weight, mean, slack);
            let request = REQUEST / i64::from(c.weight.steps());
            self.endpoints[i] = Endpoint { taken, request, weight: c.weight.steps() };
            if c.usable {
                let steps = i64::from(c.weight.steps());
                sum += i128::from(taken) * i128::from(steps);
                weights += steps;
                usable += 1;
                active += i128::from(c.active);
            }
        }
        let weights = weights.max(1);
        let weight_mean = (weights / usable.max(1)).max(1);
        let load = (active * i128::from(REQUEST) / i128::from(weights)).min(i128::from(REQUEST)) as i64;
        self.levels[tier.level()] = Level {
            mean: (sum / i128::from(weights)) as i64,
            step: REQUEST / weights,
            weight_mean,
            slack: REQUEST / weight_mean + load / 8,
            choices_left: tier.len().max(CHOICES_MIN),
        };
    }
}
