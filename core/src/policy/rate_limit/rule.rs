//! What is configured of a limit, as it stands in a snapshot, and what is odd about a set of them.

use std::fmt;
use std::sync::Arc;

use super::key::{KeyHasher, RuleId};
use super::lease::Rate;
use super::revision::Revision;

/// What a bucket is kept for each of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// The client's address, as the listener's trust of proxies finds it.
    ClientAddress,
    /// An authenticated caller.
    Consumer,
    Listener,
    Route,
    /// As it is matched.
    Host,
    Method,
    Path,
    /// A header field of the request, by name; not `host`.
    Header(Box<str>),
    Cookie(Box<str>),
    /// A query's parameter, decoded.
    Query(Box<str>),
}

impl KeyPart {
    /// True if a client may write what it likes there, and a new value each time.
    pub fn is_up_to_client(&self) -> bool {
        match self {
            Self::Header(_) | Self::Cookie(_) | Self::Query(_) | Self::Path => true,
            Self::ClientAddress
            | Self::Consumer
            | Self::Listener
            | Self::Route
            | Self::Host
            | Self::Method => false,
        }
    }
}

/// Whether a limit refuses or is only being tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Counts what it would have refused.
    Shadow,
}

/// What happens to a request that is too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExcess {
    Reject,
    /// It waits for its token, if that takes no longer than this.
    Delay {
        wait_ms_max: u32,
    },
}

/// One limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique in a snapshot, and the state's name across reloads.
    pub name: Box<str>,
    pub id: RuleId,
    pub rate: Rate,
    /// Where this rate stands among those that the limit had.
    pub revision: Arc<Revision>,
    pub mode: Mode,
    pub on_excess: OnExcess,
    /// Tokens of a request, if its route says nothing else. More than the burst is never admitted.
    pub cost: u32,
    /// Empty: one bucket for all requests.
    pub key: Vec<KeyPart>,
}

impl Rule {
    /// A limit that rejects, at one token a request.
    pub fn new(name: &str, hasher: &KeyHasher, rate: Rate, key: Vec<KeyPart>) -> Self {
        let id = hasher.rule(name);
        Self {
            name: name.into(),
            id,
            rate,
            revision: Revision::first(id),
            mode: Mode::Enforce,
            on_excess: OnExcess::Reject,
            cost: 1,
            key,
        }
    }

    /// The same limit, counted by the buckets of `revision`.
    #[must_use]
    pub fn counted_by(&self, revision: &Arc<Revision>) -> Self {
        Self { id: revision.id(), revision: Arc::clone(revision), ..self.clone() }
    }

    /// The limit as it stands after the latest reload, if it has another rate there.
    pub(super) fn latest(&self) -> Option<Self> {
        let (rate, revision) = self.revision.latest()?;
        Some(Self { rate: *rate, ..self.counted_by(revision) })
    }

    /// True if whatever this rule refuses, `other` refuses too: `other` counts at least the same requests
    /// in one bucket, at no lower cost, fills no faster and holds no more.
    fn is_hidden_by(&self, other: &Self) -> bool {
        other.mode == Mode::Enforce
            && other.on_excess == OnExcess::Reject
            && other.key.iter().all(|part| self.key.contains(part))
            && other.cost >= self.cost
            && other.rate.within(&self.rate)
    }
}

/// What a configuration may mean, but hardly does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A client escapes the limit by writing another value.
    UpToClient { rule: Box<str> },
    /// `rule` never refuses anything, for `by` refuses it first.
    NeverApplies { rule: Box<str>, by: Box<str> },
    /// A request costs more than a full bucket holds.
    CostAboveBurst { rule: Box<str> },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpToClient { rule } => write!(
                f,
                "limit {rule}: its key is made only of what the client writes, so a client escapes it by \
                 writing something else: add the client's address or the consumer"
            ),
            Self::NeverApplies { rule, by } => write!(
                f,
                "limit {rule}: never applies, because limit {by} counts the same requests and is no laxer"
            ),
            Self::CostAboveBurst { rule } => {
                write!(f, "limit {rule}: refuses every request, because one costs more than the burst")
            }
        }
    }
}

/// What is odd about limits that apply together.
pub fn warnings(rules: &[Rule]) -> Vec<Warning> {
    let mut found = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        if !rule.key.is_empty() && rule.key.iter().all(KeyPart::is_up_to_client) {
            found.push(Warning::UpToClient { rule: rule.name.clone() });
        }
        if rule.cost > rule.rate.burst() {
            found.push(Warning::CostAboveBurst { rule: rule.name.clone() });
        }
        // Of two that hide each other, being the same, the later one is named.
        let hides = |(j, other): &(usize, &Rule)| {
            *j != i && rule.is_hidden_by(other) && (*j < i || !other.is_hidden_by(rule))
        };
        if let Some((_, other)) = rules.iter().enumerate().find(hides) {
            found.push(Warning::NeverApplies { rule: rule.name.clone(), by: other.name.clone() });
        }
    }
    found
}
