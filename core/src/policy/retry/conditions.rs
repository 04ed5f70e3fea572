//! Which failures and which methods a route has its requests sent again for.

use crate::http::message::Method;

/// A set of failures, by Envoy's names of `retry_on` and `retriable_status_codes`, with underscores.
///
/// Each name means here what it says and no more. In Envoy `5xx` and `gateway-error` also hold for requests that got
/// no answer at all, and `reset` for such that ran into `per_try_timeout`: whoever moves a configuration adds
/// [`Conditions::CONNECT_FAILURE`], [`Conditions::REFUSED_STREAM`], [`Conditions::RESET`] and
/// [`Conditions::PER_TRY_TIMEOUT`]. Envoy's `retriable-4xx` (409) and `retriable-headers` have no name here: the first
/// is a status code, the second would need a rule about header fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions(u16);

impl Conditions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// No connection: refused, timed out, TLS failed.
    pub const CONNECT_FAILURE: Self = Self(1);
    /// The origin said that it did not act on the request: `REFUSED_STREAM`, or a GOAWAY that leaves it out (RFC 9113
    /// section 8.7).
    pub const REFUSED_STREAM: Self = Self(1 << 1);
    /// The connection broke before the response began.
    pub const RESET: Self = Self(1 << 2);
    /// One try took longer than `per_try_timeout_ms`.
    pub const PER_TRY_TIMEOUT: Self = Self(1 << 3);
    /// Status 502, 503 or 504.
    pub const GATEWAY_ERROR: Self = Self(1 << 4);
    /// Status 500 to 599.
    pub const SERVER_ERROR: Self = Self(1 << 5);
    /// A status of the settings' list.
    pub const STATUS_CODES: Self = Self(1 << 6);
    /// `grpc-status` 1.
    pub const CANCELLED: Self = Self(1 << 7);
    /// `grpc-status` 4.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 8);
    /// `grpc-status` 13.
    pub const INTERNAL: Self = Self(1 << 9);
    /// `grpc-status` 8.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 10);
    /// `grpc-status` 14.
    pub const UNAVAILABLE: Self = Self(1 << 11);

    /// Those that come after something was sent, so that a body has to be kept for them.
    pub const AFTER_SENDING: Self = Self(!(Self::CONNECT_FAILURE.0 | Self::REFUSED_STREAM.0));

    /// All names, as a configuration has them.
    pub const NAMES: [(&'static str, Self); 12] = [
        ("connect_failure", Self::CONNECT_FAILURE),
        ("refused_stream", Self::REFUSED_STREAM),
        ("reset", Self::RESET),
        ("per_try_timeout", Self::PER_TRY_TIMEOUT),
        ("gateway_error", Self::GATEWAY_ERROR),
        ("5xx", Self::SERVER_ERROR),
        ("status_codes", Self::STATUS_CODES),
        ("cancelled", Self::CANCELLED),
        ("deadline_exceeded", Self::DEADLINE_EXCEEDED),
        ("internal", Self::INTERNAL),
        ("resource_exhausted", Self::RESOURCE_EXHAUSTED),
        ("unavailable", Self::UNAVAILABLE),
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, condition)| *condition)
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the two have a condition in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The condition of a `grpc-status`; none for a status that is no reason to try again.
    pub(super) const fn of_grpc(status: u8) -> Self {
        match status {
            1 => Self::CANCELLED,
            4 => Self::DEADLINE_EXCEEDED,
            8 => Self::RESOURCE_EXHAUSTED,
            13 => Self::INTERNAL,
            14 => Self::UNAVAILABLE,
            _ => Self::NONE,
        }
    }

    /// The conditions of a status, the list left aside.
    pub(super) const fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GATEWAY_ERROR.with(Self::SERVER_ERROR),
            500..=599 => Self::SERVER_ERROR,
            _ => Self::NONE,
        }
    }
}

/// A set of status codes from 0 to 639; Envoy's `retriable_status_codes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusSet([u64; 10]);

impl StatusSet {
    /// No status.
    pub const EMPTY: Self = Self([0; 10]);

    /// Adds a status. False, and nothing happens, for one that no final response of RFC 9110 has: below 200, above 599.
    #[must_use = "a status that can't be in the set is an error of the configuration"]
    pub fn insert(&mut self, status: u16) -> bool {
        let fits = (200..=599).contains(&status);
        if fits {
            self.0[usize::from(status / 64)] |= 1 << (status % 64);
        }
        fits
    }

    /// Whether it is in there.
    pub fn contains(&self, status: u16) -> bool {
        self.0.get(usize::from(status / 64)).is_some_and(|word| word >> (status % 64) & 1 == 1)
    }
}

/// The methods whose requests are sent again although the origin may have acted upon them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Methods {
    /// Those that RFC 9110 section 9.2.2 calls idempotent: GET, HEAD, OPTIONS, TRACE, PUT, DELETE. gRPC's calls are all
    /// POST and not among them.
    #[default]
    Idempotent,
    /// Any: for origins that recognise a request that comes twice.
    Any,
    /// These.
    Listed(MethodSet),
}

impl Methods {
    /// Whether a request of this method is sent again.
    #[inline]
    pub fn contain(self, method: Method) -> bool {
        match self {
            Self::Idempotent => method.is_idempotent(),
            Self::Any => true,
            Self::Listed(set) => set.contains(method),
        }
    }
}

/// A set of methods. [`Method::Other`] stands for all that have no name there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MethodSet(u16);

impl MethodSet {
    /// No method.
    pub const EMPTY: Self = Self(0);

    /// The set and this method.
    #[must_use]
    pub const fn with(self, method: Method) -> Self {
        Self(self.0 | 1 << method as u16)
    }

    /// Whether it is in there.
    pub const fn contains(self, method: Method) -> bool {
        self.0 >> method as u16 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::{Conditions, MethodSet, Methods, StatusSet};
    use crate::http::message::Method;

    #[test]
    fn names_are_distinct_bits() {
        let mut all = Conditions::NONE;
        for (name, condition) in Conditions::NAMES {
            assert_eq!(Conditions::named(name), Some(condition));
            assert!(!all.meets(condition), "{name}");
            all = all.with(condition);
        }
        for name in ["", "connect-failure", "RESET", "retriable-4xx"] {
            assert_eq!(Conditions::named(name), None, "{name}");
        }
    }

    #[test]
    fn statuses() {
        let mut set = StatusSet::EMPTY;
        for (status, fits) in
            [(200, true), (409, true), (599, true), (199, false), (600, false), (u16::MAX, false)]
        {
            assert_eq!(set.insert(status), fits, "{status}");
        }
        let found: Vec<u16> = (0..=u16::MAX).filter(|&status| set.contains(status)).collect();
        assert_eq!(found, [200, 409, 599]);
    }

    #[test]
    fn methods() {
        let listed = Methods::Listed(MethodSet::EMPTY.with(Method::Post).with(Method::Other));
        for (method, idempotent, in_list) in [
            (Method::Get, true, false),
            (Method::Head, true, false),
            (Method::Options, true, false),
            (Method::Trace, true, false),
            (Method::Put, true, false),
            (Method::Delete, true, false),
            (Method::Post, false, true),
            (Method::Patch, false, false),
            (Method::Connect, false, false),
            (Method::Other, false, true),
        ] {
            assert_eq!(Methods::Idempotent.contain(method), idempotent, "{method:?}");
            assert_eq!(listed.contain(method), in_list, "{method:?}");
            assert!(Methods::Any.contain(method) && !Methods::Listed(MethodSet::EMPTY).contain(method));
        }
    }
}
