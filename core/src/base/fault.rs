//! The words for what went wrong: what happened, who is at fault, which status a client sees, whether a retry is safe.

use std::fmt;

use super::reason::ReasonCode;

/// Who caused a fault. It decides which counter moves and whether an endpoint's health is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The client: malformed, too large, too slow, gone.
    Downstream,
    /// The origin: unreachable, malformed, too slow, gone.
    Upstream,
    /// The configuration: no route, a refusal that somebody asked for, a limit.
    Policy,
    /// This process: out of buffers, a broken invariant.
    Ourselves,
}

/// May the same request be sent again, to the same endpoint or another?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing of it has reached an application.
    Safe,
    /// It may have been acted upon: only an idempotent request may be repeated (RFC 9110 section 9.2.2).
    IfIdempotent,
    /// No.
    Never,
}

/// One failure of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What logs, metrics and the problem document say. docs/reasons.md lists all.
    pub reason: ReasonCode,
    /// What a client is told, if it can still be told anything.
    pub status: u16,
    /// Who is at fault.
    pub blame: Blame,
    /// Whether the request may be sent again.
    pub retry: Retry,
}

impl Fault {
    /// A fault of the client.
    pub const fn downstream(reason: ReasonCode, status: u16) -> Self {
        Self { reason, status, blame: Blame::Downstream, retry: Retry::Never }
    }

    /// A fault of the origin.
    pub const fn upstream(reason: ReasonCode, status: u16, retry: Retry) -> Self {
        Self { reason, status, blame: Blame::Upstream, retry }
    }

    /// A refusal that the configuration asks for.
    pub const fn policy(reason: ReasonCode, status: u16) -> Self {
        Self { reason, status, blame: Blame::Policy, retry: Retry::Never }
    }

    /// A fault of this process.
    pub const fn ourselves(reason: ReasonCode, status: u16) -> Self {
        Self { reason, status, blame: Blame::Ourselves, retry: Retry::Never }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.reason, self.blame)
    }
}

impl std::error::Error for Fault {}
