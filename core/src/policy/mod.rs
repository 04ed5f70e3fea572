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
