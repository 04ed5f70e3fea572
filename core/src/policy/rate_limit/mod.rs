//! Rate limits and limits of requests in flight: may this request go on, must it wait, or is it refused, and what is
//! the client told. Called by the request path once for each request with the rules of its route and their keys, by a
//! worker's timer ([`Worker::tick`]) and by the admin. Reads no clock, does no I/O, keeps no thread waiting; doesn't
//! extract keys from requests (the caller hashes their parts with [`KeyHasher`]) and renders no response but header values.
//!
//! - [`lease`]: the protocol and its invariants. Start there.
//! - [`node`] and [`worker`]: the two ends of it; `table`: the words that workers share.
//! - [`revision`]: the rates that a limit had.
//! - [`rule`]: what is configured, and what is odd about it; [`key`]: names of buckets.
//! - [`in_flight`]: limits of requests at once. [`sketch`]: the heaviest keys. [`headers`]: what responses say.
//!
//! State is keyed by the rule's name and the key's parts. It survives a reload; a rule whose numbers changed keeps the
//! share of each bucket that was used up ([`revision`]). Call [`Worker::release`] when a snapshot is replaced.

pub(crate) mod compile;
pub mod explain;
pub mod headers;
pub mod in_flight;
pub mod key;
pub mod lease;
pub mod node;
pub mod revision;
pub mod rule;
pub mod settings;
pub mod sketch;
mod table;
pub mod worker;

#[cfg(test)]
mod loom_tests;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;

pub use compile::{AppliedRate, InFlightLimit, RateLimit, RateLimits};
pub use in_flight::{InFlight, Permit};
pub use key::{KeyHash, KeyHasher, RuleId};
pub use lease::{Rate, RateRefusal};
pub use node::{KeyState, Node};
pub use revision::{Revision, Revisions};
pub use rule::{KeyPart, Mode, OnExcess, Rule, Warning, warnings};
pub use worker::{Check, Counts, Outcome, Verdict, Worker};

pub use crate::base::limits::RATE_LEASE_IDLE_NS as LEASE_IDLE_NS;
use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::RateLimited, ReasonCode::InFlightLimited];
