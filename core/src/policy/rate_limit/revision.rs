//! A limit's rate over reloads. A bucket's word is read by the rate that it was written by; so a key's name ends in the
//! number of its limit's revision, and whoever meets a word of an earlier one carries it over (`Revision::carried`). The
//! control thread keeps [`Revisions`] and hands each install what its limits are counted by; [`super::node`] asks for the
//! rest when it meets a word of another revision. Nothing here waits or locks.
//!
//! What is carried over is the share of the bucket that was used up when the rate changed: a client that had spent all of
//! 100 a day has spent all of 100 a minute, and has it back within that minute. Debt beyond an empty bucket is forgiven.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::key::{KeyHasher, RuleId};
use super::lease::{Bucket, Rate, ticks};
use crate::base::limits::RATE_LIMITS_GONE_MAX;

/// One rate that a limit had or has, and those before it.
#[derive(Debug, PartialEq)]
pub struct Revision {
    id: RuleId,
    /// At most [`RuleId::REVISION_MAX`]: the first rate comes first, and the revision's own is not among them.
    earlier: Box<[Earlier]>,
    next: OnceLock<(Rate, Arc<Revision>)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Earlier {
    rate: Rate,
    /// When it was replaced, in ticks.
    until: u64,
}

impl Revision {
    /// The first rate of a limit.
    pub(super) fn first(id: RuleId) -> Arc<Self> {
        Arc::new(Self { id, earlier: Box::default(), next: OnceLock::new() })
    }

    /// How buckets of this revision are named.
    pub fn id(&self) -> RuleId {
        self.id
    }

    /// Its number: how many there were before it.
    pub(super) fn number(&self) -> u8 {
        self.id.revision()
    }

    /// A bucket that was written by revision `from`, as it reads by `rate`, which is this revision's; `None` if `from` came
    /// after this one.
    pub(super) fn carried(&self, from: u8, bucket: Bucket, rate: &Rate) -> Option<Bucket> {
        if from > self.number() {
            return None;
        }
        let since = self.earlier.get(usize::from(from)..).unwrap_or_default();
        let after = since.iter().skip(1).map(|earlier| &earlier.rate).chain([rate]);
        Some(
            since
                .iter()
                .zip(after)
                .fold(bucket, |bucket, (from, to)| bucket.rescaled(&from.rate, to, from.until)),
        )
    }

    /// The latest rate and its revision, if this is not the latest: a request that came before a reload may ask after it.
    pub(super) fn latest(&self) -> Option<&(Rate, Arc<Self>)> {
        let mut latest = self.next.get()?;
        while let Some(next) = latest.1.next.get() {
            latest = next;
        }
        Some(latest)
    }
}

/// The latest revision of each limit, by name. The control thread's.
#[derive(Debug, Default)]
pub struct Revisions {
    limits: HashMap<Box<str>, Latest>,
    /// Names that were given out: no two limits have the same, though they have the same name in the file.
    named: u64,
}

#[derive(Debug)]
struct Latest {
    rate: Rate,
    revision: Arc<Revision>,
    /// When its limit left the configuration, in ticks.
    gone_at: Option<u64>,
}

impl Revisions {
    /// Takes over the limits of a configuration, and returns what each is counted by. A limit whose rate or burst changed
    /// gets another revision; after [`RuleId::REVISION_MAX`] of them, and when it comes back after its buckets filled, it
    /// begins anew.
    pub fn take_over<'l>(
        &mut self,
        limits: impl Iterator<Item = (&'l str, Rate)>,
        hasher: &KeyHasher,
        now_ns: u64,
    ) -> Vec<Arc<Revision>> {
        let now = ticks(now_ns);
        for latest in self.limits.values_mut() {
            latest.gone_at = latest.gone_at.or(Some(now));
        }
        let revisions = limits.map(|(name, rate)| self.revise(name, rate, hasher, now)).collect();
        self.forget(now);
        revisions
    }

    fn revise(&mut self, name: &str, rate: Rate, hasher: &KeyHasher, now: u64) -> Arc<Revision> {
        let revision = match self.limits.get(name) {
            Some(latest) if latest.rate == rate => Arc::clone(&latest.revision),
            Some(latest) if latest.revision.number() < RuleId::REVISION_MAX => {
                let earlier = latest.revision.earlier.iter().copied();
                let revision = Arc::new(Revision {
                    id: latest.revision.id.next(),
                    earlier: earlier.chain([Earlier { rate: latest.rate, until: now }]).collect(),
                    next: OnceLock::new(),
                });
                // Unset until now: only the latest is revised.
                let _ = latest.revision.next.set((rate, Arc::clone(&revision)));
                revision
            }
            _ => {
                self.named += 1;
                Revision::first(hasher.numbered_rule(name, self.named))
            }
        };
        let latest = Latest { rate, revision: Arc::clone(&revision), gone_at: None };
        self.limits.insert(name.into(), latest);
        revision
    }

    /// Drops limits that left long enough ago for their buckets to be full, and the longest gone of too many.
    fn forget(&mut self, now: u64) {
        self.limits.retain(|_, latest| latest.gone_at.is_none_or(|at| now < at + latest.rate.fill_ticks()));
        let gone = self.limits.iter().filter_map(|(name, latest)| Some((latest.gone_at?, name.clone())));
        let mut gone: Vec<(u64, Box<str>)> = gone.collect();
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for (_, name) in gone.into_iter().skip(RATE_LIMITS_GONE_MAX) {
            self.limits.remove(&name);
        }
    }
}
