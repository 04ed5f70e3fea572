//! Pure decisions: functions of settings, state, the request and the time passed in.
//!
//! [`Phase`] is the one list of a request's phases: the request path, `explain` and the documentation go by it.

pub mod balance;
pub mod breaker;
pub mod chance;
pub mod concurrency;
pub mod deadline;
pub mod explain;
pub mod fault;
pub mod hash_on;
pub mod headers;
pub mod health;
pub mod mirror;
pub mod rate_limit;
pub mod redirect;
pub mod respond;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod shed;
pub mod split;

use crate::base::reason::ReasonCode;

pub use health::outlier;
pub use split::canary;

/// Makes [`Phase`] of a table, so that a phase can't lack a number, a name or a sentence.
macro_rules! phases {
    ($($phase:ident, $name:literal, $about:literal;)+) => {
        /// A phase of a request, in the order of the request path. Phases without code yet keep their number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Phase {
            $(#[doc = $about] $phase,)+
        }

        impl Phase {
            /// All of them, in order.
            pub const ALL: &'static [Phase] = &[$(Phase::$phase),+];

            /// As logs and the documentation call it.
            pub const fn name(self) -> &'static str {
                match self { $(Phase::$phase => $name),+ }
            }

            /// What happens in it, in one sentence.
            pub const fn about(self) -> &'static str {
                match self { $(Phase::$phase => $about),+ }
            }
        }
    };
}

phases! {
    Pin, "pin", "Pin the snapshot and take the framed head.";
    Normalise, "normalise", "Strip what concerns one hop only, and normalise the path.";
    Route, "route", "Match the route and the API version.";
    AdmitByAddress, "admit by address", "Admit or refuse by the client's address alone.";
    Identify, "identify", "Find out who the caller is.";
    Authorise, "authorise", "Decide whether the caller may do this.";
    AdmitByKey, "admit by key", "Admit or refuse by key, plan, quota and load.";
    Shape, "shape", "Shape the request that goes upstream, and its copies for mirrors.";
    Recall, "recall", "Answer from the cache.";
    Attempt, "attempt", "Choose an endpoint, send the request and await the head; again where the retry policy says so.";
    ShapeResponse, "shape the response", "Shape the response.";
    Send, "send", "Send the head and relay the bodies.";
    Record, "record", "Count and log, whatever happened.";
}

impl Phase {
    /// From 1, as the request path's comments and ARCHITECTURE.md count.
    pub const fn number(self) -> usize {
        self as usize + 1
    }
}

/// A policy: where it stands in the request path, and what it refuses with.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Of its folder.
    pub name: &'static str,
    /// In which phase it decides first.
    pub phase: Phase,
    /// Its reason codes.
    pub reasons: &'static [ReasonCode],
}

/// All policies, in the order in which a request meets them. docs/request-path.md is made of it.
pub const POLICIES: &[Policy] = &[
    Policy { name: "route", phase: Phase::Route, reasons: route::REASONS },
    Policy { name: "rate_limit", phase: Phase::AdmitByKey, reasons: rate_limit::REASONS },
    Policy { name: "fault", phase: Phase::AdmitByKey, reasons: fault::REASONS },
    Policy { name: "split", phase: Phase::AdmitByKey, reasons: split::REASONS },
    Policy { name: "shed", phase: Phase::AdmitByKey, reasons: shed::REASONS },
    Policy { name: "respond", phase: Phase::Shape, reasons: &[] },
    Policy { name: "redirect", phase: Phase::Shape, reasons: redirect::REASONS },
    Policy { name: "rewrite", phase: Phase::Shape, reasons: rewrite::REASONS },
    Policy { name: "headers", phase: Phase::Shape, reasons: &[] },
    Policy { name: "mirror", phase: Phase::Shape, reasons: mirror::REASONS },
    Policy { name: "deadline", phase: Phase::Attempt, reasons: deadline::REASONS },
    Policy { name: "breaker", phase: Phase::Attempt, reasons: breaker::REASONS },
    Policy { name: "concurrency", phase: Phase::Attempt, reasons: concurrency::REASONS },
    Policy { name: "health", phase: Phase::Attempt, reasons: health::REASONS },
    Policy { name: "balance", phase: Phase::Attempt, reasons: balance::REASONS },
    Policy { name: "retry", phase: Phase::Attempt, reasons: retry::REASONS },
];
