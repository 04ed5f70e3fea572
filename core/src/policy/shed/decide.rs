//! Which requests a worker refuses when it has too much to do: those that matter least, first.
//!
//! A worker's load is the fuller of two vessels, requests in flight and memory. Each class of requests is admitted up
//! to its own level in both; what is above it, stays free for the classes that matter more. It is a function of its
//! arguments and remembers nothing, so it can flap between two requests, and that is right: each request that ends
//! makes room for one.
//!
//! What is refused is refused before anything is done for it: the request path asks once for each request, when the
//! route is known, and before an attempt. It does not queue, does not end requests in flight, and does not look at
//! upstreams (`concurrency` and `breaker` do).
//!
//! Envoy's name for the levels is overload actions: `envoy.overload_actions.stop_accepting_requests` with a threshold
//! or scaled trigger on `fixed_heap` and `global_downstream_max_connections`. It knows no classes of requests.

use crate::base::reason::ReasonCode;

/// How much a request matters. Set by the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// Refused only when there is no room at all: health checks, payments.
    High,
    /// What most requests are.
    #[default]
    Normal,
    /// What can be repeated later: prefetches, batch jobs, crawlers.
    Low,
}

/// Up to which level each class is admitted, in percent of the maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From this level on [`Class::Low`] is refused; 0 to 100.
    pub low_percent: u8,
    /// From this level on [`Class::Normal`] is refused; 0 to 100, and not below `low_percent`.
    pub normal_percent: u8,
    /// From this level on [`Class::High`] is refused; 0 to 100, and not below `normal_percent`.
    pub high_percent: u8,
    /// What the refusal's Retry-After says, in seconds.
    pub retry_after_s: u32,
}

impl Settings {
    /// 75, 90 and 100 %; one second.
    pub const DEFAULT: Self =
        Self { low_percent: 75, normal_percent: 90, high_percent: 100, retry_after_s: 1 };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How busy a worker is, the request in question left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Requests in flight.
    pub in_flight: u32,
    /// How many there may be. `u32::MAX` is no bound. Zero admits nobody.
    pub in_flight_max: u32,
    /// Bytes in use.
    pub memory_used: u64,
    /// How many there may be. `u64::MAX` is no bound. Zero admits nobody.
    pub memory_max: u64,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Admit,
    /// It is answered with 503 and Retry-After.
    Shed {
        /// [`OVERLOAD_REQUESTS`] or [`OVERLOAD_MEMORY`]: reason code and metric label.
        reason: ReasonCode,
        /// The field's value, in seconds.
        retry_after_s: u32,
    },
}

/// Too many requests are in flight for the class of this one. Named where both vessels are too full.
pub const OVERLOAD_REQUESTS: ReasonCode = ReasonCode::OverloadRequests;

/// Too much memory is in use for the class of this one.
pub const OVERLOAD_MEMORY: ReasonCode = ReasonCode::OverloadMemory;

/// Whether a request of this class goes on. A level of 75 % of 10 is reached by 8, not by 7: nothing is rounded.
#[inline]
pub fn decide(settings: &Settings, class: Class, load: &Load) -> Verdict {
    let percent = match class {
        Class::High => settings.high_percent,
        Class::Normal => settings.normal_percent,
        Class::Low => settings.low_percent,
    };
    let requests_full = u64::from(load.in_flight) * 100 >= u64::from(load.in_flight_max) * u64::from(percent);
    // In 128 bits no product overflows, and they cost one instruction each.
    let memory_full = u128::from(load.memory_used) * 100 >= u128::from(load.memory_max) * u128::from(percent);
    if !(requests_full | memory_full) {
        return Verdict::Admit;
    }
    let reason = if requests_full { OVERLOAD_REQUESTS } else { OVERLOAD_MEMORY };
    Verdict::Shed { reason, retry_after_s: settings.retry_after_s }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{Class, Load, OVERLOAD_MEMORY, OVERLOAD_REQUESTS, Settings, Verdict, decide};

    const CLASSES: [Class; 3] = [Class::Low, Class::Normal, Class::High];

    /// The reasons for Low, Normal and High; an empty one is an admission.
    fn check(in_flight: (u32, u32), memory: (u64, u64), expected: [&str; 3]) {
        let load = Load {
            in_flight: in_flight.0,
            in_flight_max: in_flight.1,
            memory_used: memory.0,
            memory_max: memory.1,
        };
        for (class, expected) in CLASSES.into_iter().zip(expected) {
            let expected = match expected {
                "" => Verdict::Admit,
                "overload_requests" => Verdict::Shed { reason: OVERLOAD_REQUESTS, retry_after_s: 1 },
                _ => Verdict::Shed { reason: OVERLOAD_MEMORY, retry_after_s: 1 },
            };
            assert_eq!(decide(&Settings::DEFAULT, class, &load), expected, "{class:?} {load:?}");
        }
    }

    #[test]
    fn levels() {
        let (r, m) = (OVERLOAD_REQUESTS.code(), OVERLOAD_MEMORY.code());
        check((0, 100), (0, 1000), ["", "", ""]);
        check((74, 100), (749, 1000), ["", "", ""]);
        check((75, 100), (0, 1000), [r, "", ""]);
        check((89, 100), (0, 1000), [r, "", ""]);
        check((90, 100), (0, 1000), [r, r, ""]);
        check((99, 100), (0, 1000), [r, r, ""]);
        check((100, 100), (0, 1000), [r, r, r]);
        check((101, 100), (0, 1000), [r, r, r]);
        check((0, 100), (750, 1000), [m, "", ""]);
        check((0, 100), (900, 1000), [m, m, ""]);
        check((0, 100), (1000, 1000), [m, m, m]);
        check((90, 100), (1000, 1000), [r, r, m]);
        // Small maxima: the last place is kept for High.
        check((7, 10), (0, 1000), ["", "", ""]);
        check((8, 10), (0, 1000), [r, "", ""]);
        check((9, 10), (0, 1000), [r, r, ""]);
        check((0, 1), (0, 1), ["", "", ""]);
    }

    #[test]
    fn bounds_at_their_ends() {
        let (r, m) = (OVERLOAD_REQUESTS.code(), OVERLOAD_MEMORY.code());
        check((0, 0), (0, 1000), [r, r, r]);
        check((0, 100), (0, 0), [m, m, m]);
        check((1 << 30, u32::MAX), (1 << 50, u64::MAX), ["", "", ""]);
        check((u32::MAX, u32::MAX), (0, u64::MAX), [r, r, r]);
        check((0, u32::MAX), (u64::MAX, u64::MAX), [m, m, m]);
    }

    fn sheds(class: Class, load: &Load) -> bool {
        decide(&Settings::DEFAULT, class, load) != Verdict::Admit
    }

    proptest! {
        /// Who matters more is never refused where who matters less is admitted, and more load never admits anybody.
        #[test]
        fn order_of_classes_and_of_loads(
            in_flight in prop_oneof![0_u32..200, any::<u32>()],
            in_flight_max in prop_oneof![0_u32..200, any::<u32>()],
            memory_used in prop_oneof![0_u64..2_000, any::<u64>()],
            memory_max in prop_oneof![0_u64..2_000, any::<u64>()],
        ) {
            let load = Load { in_flight, in_flight_max, memory_used, memory_max };
            let fuller = Load {
                in_flight: in_flight.saturating_add(1),
                memory_used: memory_used.saturating_add(1),
                ..load
            };
            for pair in CLASSES.windows(2) {
                prop_assert!(sheds(pair[0], &load) || !sheds(pair[1], &load));
            }
            for class in CLASSES {
                prop_assert!(!sheds(class, &load) || sheds(class, &fuller));
            }
            let full = in_flight >= in_flight_max || memory_used >= memory_max;
            prop_assert_eq!(sheds(Class::High, &load), full);
        }
    }
}
