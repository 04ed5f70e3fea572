//! Which endpoint takes the next request. State belongs to one upstream of one worker.
//!
//! Round robin is the smooth weighted kind of nginx: with weights 5, 1, 1 the order is a a b a c a a.
//! Least requests compares requests in flight divided by weight; ties go round.

pub mod sticky;
pub mod subset;

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Smooth weighted round robin.
    RoundRobin,
    /// The fewest requests in flight for its weight.
    LeastRequests,
}

/// What a choice sees of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// At least 1.
    pub weight: u32,
    /// Requests in flight.
    pub active: u32,
    /// False for endpoints that must not be chosen now.
    pub usable: bool,
}

/// Where the rotation stands.
#[derive(Debug, Default)]
pub struct State {
    /// Smooth round robin's running weights; empty as long as all weights are equal.
    current: Vec<i64>,
    next: usize,
}

impl State {
    /// The index of the endpoint to use; `None` if none is usable.
    pub fn pick<F: Fn(usize) -> Candidate>(&mut self, rule: Rule, len: usize, candidate: F) -> Option<usize> {
        match (rule, len) {
            (_, 0) => None,
            (_, 1) => candidate(0).usable.then_some(0),
            (Rule::RoundRobin, _) => self.round_robin(len, candidate),
            (Rule::LeastRequests, _) => self.least_requests(len, candidate),
        }
    }

    fn round_robin<F: Fn(usize) -> Candidate>(&mut self, len: usize, candidate: F) -> Option<usize> {
        let first = candidate(0).weight;
        if (1..len).all(|i| candidate(i).weight == first) {
            let start = self.next % len;
            let chosen = (0..len).map(|i| (start + i) % len).find(|&i| candidate(i).usable)?;
            self.next = chosen + 1;
            return Some(chosen);
        }
        self.current.resize(len, 0);
        let mut total = 0;
        let mut best: Option<usize> = None;
        for i in 0..len {
            let Candidate { weight, usable, .. } = candidate(i);
            if !usable {
                continue;
            }
            self.current[i] += i64::from(weight);
            total += i64::from(weight);
            if best.is_none_or(|b| self.current[i] > self.current[b]) {
                best = Some(i);
            }
        }
        let best = best?;
        self.current[best] -= total;
        Some(best)
    }

    fn least_requests<F: Fn(usize) -> Candidate>(&mut self, len: usize, candidate: F) -> Option<usize> {
        let start = self.next % len;
        let mut best: Option<(usize, Candidate)> = None;
        for i in (0..len).map(|i| (start + i) % len) {
            let this = candidate(i);
            // active / weight compared without dividing.
            let less = |b: &Candidate| {
                u64::from(this.active) * u64::from(b.weight) < u64::from(b.active) * u64::from(this.weight)
            };
            if this.usable && best.as_ref().is_none_or(|(_, b)| less(b)) {
                best = Some((i, this));
            }
        }
        let (chosen, _) = best?;
        self.next = chosen + 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Rule, State};

    fn picks(rule: Rule, weights: &[u32], active: &[u32], unusable: &[usize], n: usize) -> Vec<usize> {
        let mut state = State::default();
        let candidate =
            |i: usize| Candidate { weight: weights[i], active: active[i], usable: !unusable.contains(&i) };
        (0..n).filter_map(|_| state.pick(rule, weights.len(), candidate)).collect()
    }

    /// Rule, weights, active, unusable; the picks.
    type Row<'a> = (Rule, &'a [u32], &'a [u32], &'a [usize], &'a [usize]);

    #[test]
    fn table() {
        let cases: &[Row<'_>] = &[
            (Rule::RoundRobin, &[1, 1, 1], &[0, 0, 0], &[], &[0, 1, 2, 0, 1, 2]),
            (Rule::RoundRobin, &[5, 1, 1], &[0, 0, 0], &[], &[0, 0, 1, 0, 2, 0, 0]),
            (Rule::RoundRobin, &[1, 1, 1], &[0, 0, 0], &[1], &[0, 2, 0, 2]),
            (Rule::RoundRobin, &[2, 1, 1], &[0, 0, 0], &[0], &[1, 2, 1, 2]),
            (Rule::RoundRobin, &[1, 1], &[0, 0], &[0, 1], &[]),
            (Rule::LeastRequests, &[1, 1, 1], &[3, 1, 2], &[], &[1, 1]),
            (Rule::LeastRequests, &[1, 1, 1], &[0, 0, 0], &[], &[0, 1, 2, 0]),
            (Rule::LeastRequests, &[4, 1], &[3, 1], &[], &[0, 0]),
            (Rule::LeastRequests, &[1, 1, 1], &[0, 0, 0], &[0, 2], &[1, 1]),
            (Rule::LeastRequests, &[1], &[9], &[], &[0]),
            (Rule::LeastRequests, &[1], &[0], &[0], &[]),
            (Rule::RoundRobin, &[], &[], &[], &[]),
        ];
        for (rule, weights, active, unusable, expected) in cases {
            let got = picks(*rule, weights, active, unusable, expected.len().max(2));
            assert_eq!(&got[..expected.len().min(got.len())], *expected, "{rule:?} {weights:?} {active:?}");
            assert_eq!(got.is_empty(), expected.is_empty());
        }
    }

    #[test]
    fn weights_hold_over_many_picks() {
        let got = picks(Rule::RoundRobin, &[3, 2, 1], &[0, 0, 0], &[], 600);
        let counts = [0, 1, 2].map(|i| got.iter().filter(|&&g| g == i).count());
        assert_eq!(counts, [300, 200, 100]);
    }
}
