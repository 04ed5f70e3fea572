//! How long an exchange may take, and what the next hop is told of it.
//!
//! Three may bound it: the route (`timeouts.request`), a gRPC client (`grpc-timeout`) and the hop before
//! (`ringway-timeout-ms`). The shortest holds, so nobody works for somebody who has stopped waiting. What is left goes
//! upstream in the same two fields, less the time that has passed here: a duration and no point in time, for the
//! clocks of two machines differ. The time on the wire is not known, so each hop sees a little more than there is; the
//! hop before gives up first.
//!
//! A field can only shorten the time, so it need not come from somebody trusted. One that is malformed is ignored, and
//! the caller counts it; a proxy that refused it would turn an odd client away whom the origin might serve.
//!
//! It sets no timer and reads no clock: the request path asks [`Deadline::new`] once, and the attempt loop asks
//! [`Deadline::left`] before each try.
//!
//! Envoy's terms: `timeout` of a route, `max_stream_duration.grpc_timeout_header_max`, and the header fields
//! `x-envoy-upstream-rq-timeout-ms` (which may *lengthen* a route's time-out there, and is believed from internal
//! callers only) and `x-envoy-expected-rq-timeout-ms` (which goes upstream, as ours does).

use std::num::NonZeroU64;
use std::time::Duration;

use crate::base::limits::TIMEOUT_FIELD_MS_MAX;
use crate::http::grammar::{parse_decimal, push_decimal};
use crate::http::grpc;

/// The field that says how many milliseconds its sender still waits: one to nine digits.
pub const TIMEOUT_FIELD: &str = "ringway-timeout-ms";

/// Digits of it.
const TIMEOUT_DIGITS_MAX: usize = 9;

/// What one of a request's fields says of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    /// There is no such field.
    #[default]
    Nothing,
    /// So many milliseconds. Zero: the sender waits no longer.
    Ms(u64),
    /// It is malformed or repeated: to be counted, and otherwise ignored.
    Malformed,
}

impl Asked {
    /// Reads all `ringway-timeout-ms` fields of a head. Digits only: no sign, no white space, no unit.
    pub fn from_field<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Self {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) if value.len() <= TIMEOUT_DIGITS_MAX => {
                parse_decimal(value).map_or(Self::Malformed, Self::Ms)
            }
            _ => Self::Malformed,
        }
    }

    /// Reads a `grpc-timeout`. A fraction of a millisecond is dropped: a call is never given more than it asked for.
    pub fn from_grpc(value: Option<&[u8]>) -> Self {
        match value.map(grpc::timeout) {
            None => Self::Nothing,
            Some(None) => Self::Malformed,
            Some(Some(asked)) => Self::Ms(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn ms(self) -> Option<u64> {
        match self {
            Self::Ms(ms) => Some(ms),
            Self::Nothing | Self::Malformed => None,
        }
    }
}

/// When an exchange must be over, on the clock of whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// `u64::MAX`: never.
    at_ms: u64,
}

/// What is left of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nobody bounds it.
    Unbounded,
    /// So many milliseconds.
    Ms(NonZeroU64),
    /// Nothing: don't send the request (any further), answer 504, and gRPC's `DEADLINE_EXCEEDED`.
    Nothing,
}

impl Deadline {
    /// No deadline.
    pub const NEVER: Self = Self { at_ms: u64::MAX };

    /// The earliest of what the route allows (`None`: any time), the gRPC client waits for and the hop before waits for,
    /// counted from `now_ms`. A clock that would overflow means never.
    pub fn new(route: Option<Duration>, grpc: Asked, field: Asked, now_ms: u64) -> Self {
        let route = route.map(|route| u64::try_from(route.as_millis()).unwrap_or(u64::MAX));
        [route, grpc.ms(), field.ms()]
            .into_iter()
            .flatten()
            .min()
            .map_or(Self::NEVER, |shortest| Self { at_ms: now_ms.saturating_add(shortest) })
    }

    /// The point in time, for the retry policy and for timers; `None`: never.
    #[inline]
    pub fn at_ms(self) -> Option<u64> {
        (self.at_ms != u64::MAX).then_some(self.at_ms)
    }

    /// What is left of it. A clock that goes back gives back no more than it took.
    #[inline]
    pub fn left(self, now_ms: u64) -> Left {
        if self.at_ms == u64::MAX {
            return Left::Unbounded;
        }
        NonZeroU64::new(self.at_ms.saturating_sub(now_ms)).map_or(Left::Nothing, Left::Ms)
    }
}

/// Appends the value of a `ringway-timeout-ms`, at least 1. More than nine digits hold becomes what they hold.
pub fn push_field(left: NonZeroU64, out: &mut Vec<u8>) {
    push_decimal(left.get().min(TIMEOUT_FIELD_MS_MAX), out);
}

/// Appends the value of a `grpc-timeout`: milliseconds as long as eight digits hold them (27 hours), then whole
/// seconds, rounded down. `http::grpc::push_timeout` would write nanoseconds, which a clock in milliseconds has not.
pub fn push_grpc(left: NonZeroU64, out: &mut Vec<u8>) {
    const MAX: u64 = 99_999_999;
    let (number, unit) =
        if left.get() <= MAX { (left.get(), b'm') } else { ((left.get() / 1_000).min(MAX), b'S') };
    push_decimal(number, out);
    out.push(unit);
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{Asked, Deadline, Left, push_field, push_grpc};

    fn ms(ms: u64) -> Left {
        NonZeroU64::new(ms).map_or(Left::Nothing, Left::Ms)
    }

    #[test]
    fn fields() {
        let check = |values: &[&str], expected| {
            assert_eq!(Asked::from_field(values.iter().map(|v| v.as_bytes())), expected, "{values:?}");
        };
        check(&[], Asked::Nothing);
        check(&["1"], Asked::Ms(1));
        check(&["0"], Asked::Ms(0));
        check(&["000000250"], Asked::Ms(250));
        check(&["999999999"], Asked::Ms(999_999_999));
        for text in
            ["", "1000000000", "0000000001", "-1", "+1", " 1", "1 ", "1.5", "1ms", "1,2", "0x10", "\u{661}"]
        {
            check(&[text], Asked::Malformed);
        }
        check(&["5", "5"], Asked::Malformed);
    }

    #[test]
    fn grpc_fields() {
        let check = |value: Option<&str>, expected| {
            assert_eq!(Asked::from_grpc(value.map(str::as_bytes)), expected, "{value:?}");
        };
        check(None, Asked::Nothing);
        check(Some("250m"), Asked::Ms(250));
        check(Some("2S"), Asked::Ms(2_000));
        check(Some("1999u"), Asked::Ms(1));
        check(Some("999u"), Asked::Ms(0));
        check(Some("0m"), Asked::Ms(0));
        check(Some("99999999H"), Asked::Ms(359_999_996_400_000));
        for text in ["", "5", "m", "100000000m", "-1m", "1s"] {
            check(Some(text), Asked::Malformed);
        }
    }

    #[test]
    fn the_shortest_holds() {
        use Asked::{Malformed, Ms, Nothing};
        let check = |route: Option<u64>, grpc, field, passed: u64, expected| {
            let deadline = Deadline::new(route.map(Duration::from_millis), grpc, field, 1_000);
            assert_eq!(deadline.left(1_000 + passed), expected, "{route:?} {grpc:?} {field:?} {passed}");
        };
        check(None, Nothing, Nothing, 5, Left::Unbounded);
        check(None, Malformed, Malformed, 5, Left::Unbounded);
        check(Some(100), Nothing, Nothing, 0, ms(100));
        check(Some(100), Malformed, Nothing, 0, ms(100));
        check(Some(100), Ms(50), Nothing, 0, ms(50));
        check(Some(100), Ms(500), Nothing, 0, ms(100));
        check(Some(100), Ms(50), Ms(20), 0, ms(20));
        check(Some(100), Ms(50), Ms(200), 0, ms(50));
        check(None, Nothing, Ms(20), 19, ms(1));
        check(None, Nothing, Ms(20), 20, Left::Nothing);
        check(None, Nothing, Ms(20), 21, Left::Nothing);
        check(Some(100), Ms(0), Nothing, 0, Left::Nothing);
        check(Some(100), Nothing, Ms(0), 0, Left::Nothing);
        check(None, Ms(u64::MAX), Nothing, 5, Left::Unbounded);
        let deadline = Deadline::new(None, Nothing, Ms(20), 1_000);
        assert_eq!((deadline.at_ms(), Deadline::NEVER.at_ms()), (Some(1_020), None));
        assert_eq!(Deadline::new(Some(Duration::MAX), Nothing, Nothing, 1), Deadline::NEVER);
    }

    #[test]
    fn what_goes_upstream() {
        for (left, field, grpc) in [
            (1, "1", "1m"),
            (250, "250", "250m"),
            (99_999_999, "99999999", "99999999m"),
            (100_000_000, "100000000", "100000S"),
            (100_000_999, "100000999", "100000S"),
            (999_999_999, "999999999", "999999S"),
            (1_000_000_000, "999999999", "1000000S"),
            (u64::MAX, "999999999", "99999999S"),
        ] {
            let left = NonZeroU64::new(left).unwrap();
            let (mut one, mut other) = (Vec::new(), Vec::new());
            push_field(left, &mut one);
            push_grpc(left, &mut other);
            assert_eq!((one.as_slice(), other.as_slice()), (field.as_bytes(), grpc.as_bytes()));
        }
    }

    proptest! {
        /// Never longer than any, over any chain of hops that each take some time; and what is written is read again.
        #[test]
        fn a_chain_of_hops_only_shortens(
            routes in prop::collection::vec((prop::option::of(1_u64..100_000), 0_u64..20_000), 1..6),
            asked in prop::option::of(0_u64..100_000),
        ) {
            let mut said = asked.map(|ms| ms.to_string().into_bytes());
            let mut longest = asked.unwrap_or(u64::MAX);
            for (route, spent) in routes {
                longest = longest.min(route.unwrap_or(u64::MAX));
                let field = Asked::from_field(said.as_deref());
                let deadline = Deadline::new(route.map(Duration::from_millis), Asked::Nothing, field, 7);
                prop_assert_eq!(deadline.left(7), if longest == u64::MAX { Left::Unbounded } else { ms(longest) });
                longest = if longest == u64::MAX { longest } else { longest.saturating_sub(spent) };
                match deadline.left(7 + spent) {
                    Left::Unbounded => prop_assert_eq!(longest, u64::MAX),
                    Left::Nothing => {
                        prop_assert_eq!(longest, 0);
                        break;
                    }
                    Left::Ms(left) => {
                        let mut value = Vec::new();
                        push_field(left, &mut value);
                        said = Some(value);
                    }
                }
            }
        }

        #[test]
        fn a_grpc_timeout_never_grows(left in 1_u64.., shift in 0_u32..64) {
            let left = NonZeroU64::new(left >> shift).unwrap_or(NonZeroU64::MIN);
            let mut value = Vec::new();
            push_grpc(left, &mut value);
            let Asked::Ms(again) = Asked::from_grpc(Some(&value)) else { panic!("{}", value.escape_ascii()) };
            prop_assert!(0 < again && again <= left.get());
            let held = left.get().min(99_999_999_000);
            prop_assert!(held - again < 1_000 && (held > 99_999_999 || held == again));
        }

        #[test]
        fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..20)) {
            Asked::from_field([value.as_slice()]);
            Asked::from_grpc(Some(&value));
        }
    }
}
