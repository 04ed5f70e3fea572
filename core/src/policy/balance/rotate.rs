//! Round robin. With equal weights a cursor for each level goes round; with different ones each endpoint has a credit,
//! as in nginx's smooth weighted round robin (`ngx_http_upstream_get_peer`): every choice adds each usable endpoint's
//! weight to its credit, takes the one with the most, and takes the sum of weights from it.
//!
//! Weights may change with every call: a credit is in steps of weight whatever the weights were when it was earned. An
//! endpoint that had just been chosen when its weight fell waits at most about one turn of its own at the new weight.

use super::spread::mix;
use super::tiers::Tier;
use super::{Candidate, Weights};

/// Cursors by level, credits by endpoint. Levels share no endpoint, so they don't disturb each other.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    start: u64,
    cursors: Vec<u32>,
    credits: Vec<i64>,
}

impl Rotation {
    pub(super) fn starting_at(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    #[inline]
    pub(super) fn next<F: Fn(usize) -> Candidate>(
        &mut self,
        tier: &Tier,
        weights: Weights,
        candidate: F,
    ) -> Option<usize> {
        match weights {
            Weights::Equal => self.round(tier, candidate),
            Weights::Different => self.smooth(tier, candidate),
        }
    }

    /// The place in the tier, which has at least one endpoint, whose turn it is.
    #[inline]
    pub(super) fn turn(&mut self, tier: &Tier) -> usize {
        let len = tier.len();
        let cursor = self.cursor(tier);
        let at = if (*cursor as usize) < len { *cursor as usize } else { 0 };
        *cursor = at as u32 + 1;
        at
    }

    #[inline]
    fn round<F: Fn(usize) -> Candidate>(&mut self, tier: &Tier, candidate: F) -> Option<usize> {
        let len = tier.len();
        let cursor = self.cursor(tier);
        let mut at = *cursor as usize;
        for _ in 0..len {
            // Past the end, or the tier has shrunk since.
            if at >= len {
                at = 0;
            }
            let i = tier.at(at);
            at += 1;
            if candidate(i).usable {
                *cursor = at as u32;
                return Some(i);
            }
        }
        None
    }

    #[inline]
    fn cursor(&mut self, tier: &Tier) -> &mut u32 {
        if self.cursors.len() <= tier.level() {
            let first = super::draw::below(self.start, tier.len()) as u32;
            self.cursors.resize(tier.level() + 1, first);
        }
        &mut self.cursors[tier.level()]
    }

    fn smooth<F: Fn(usize) -> Candidate>(&mut self, tier: &Tier, candidate: F) -> Option<usize> {
        self.make_room(tier, &candidate);
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for at in 0..tier.len() {
            let i = tier.at(at);
            let Candidate { weight, usable, .. } = candidate(i);
            if !usable {
                continue;
            }
            let weight = i64::from(weight.steps());
            self.credits[i] += weight;
            total += weight;
            let credit = self.credits[i];
            if best.is_none_or(|(_, most)| credit > most) {
                best = Some((i, credit));
            }
        }
        let (best, _) = best?;
        self.credits[best] -= total;
        Some(best)
    }

    /// Credits for the endpoints that have none yet. Unless the rotation starts at the beginning, they are spread over
    /// one turn, which is the sum of weights, as they would be at some moment of a rotation that has long been going.
    fn make_room<F: Fn(usize) -> Candidate>(&mut self, tier: &Tier, candidate: &F) {
        let needed = tier.numbers_end();
        if self.credits.len() >= needed {
            return;
        }
        let turn: u64 = (0..tier.len()).map(|at| u64::from(candidate(tier.at(at)).weight.steps())).sum();
        let (start, from) = (self.start, self.credits.len() as u64);
        self.credits.extend((from..needed as u64).map(|i| {
            if start == 0 {
                return 0;
            }
            let place = (u128::from(mix(start ^ mix(i))) * u128::from(turn)) >> 64;
            place as i64 - (turn / 2) as i64
        }));
    }
}
