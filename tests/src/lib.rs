//! The harness of the end-to-end suites: std threads and blocking sockets with deadlines. It shares no code with the
//! engine that it tests; where it parses HTTP it is stricter than RFC 9112 asks of a recipient.
//!
//! - [`origin`]: a programmable origin with a log of what arrived.
//! - [`client`]: a client that sends exact bytes in exact pieces.
//! - [`wire`]: the strict reader that both use.
//! - [`payload`]: bodies of any size, checked without being held.
//! - [`config`], [`proxy`]: the proxy under test. [`metrics`]: a strict reader of what it counts.
//! - [`process`]: the real binary. [`folder`]: a place for its files. [`problem`]: what a refusal says.
//! - [`h2`]: client, origin and raw frames of HTTP/2.
//! - [`tls`]: certificates and a client that speaks TLS. [`forge`]: records that nobody sound sends.
//! - [`sim`]: the whole proxy in memory, with a clock that moves by itself.
//! - [`load`]: steady load for claims of "zero failed". [`wait`]: watchdog, conditions, gates.

pub mod client;
pub mod config;
pub mod folder;
#[path = "../../core/src/net/tls/forge.rs"]
pub mod forge;
pub mod h2;
pub mod load;
pub mod metrics;
pub mod origin;
pub mod payload;
pub mod problem;
pub mod process;
pub mod proxy;
pub mod sim;
pub mod stream;
pub mod tls;
pub mod wait;
pub mod wire;

/// Makes two tests of each function, `name::uring` and `name::epoll`, each under the watchdog:
///
/// ```text
/// for_each_driver! {
///     fn answers(driver) { … }
///     fn answers_at_length(driver) within 90 { … }
/// }
/// ```
#[macro_export]
macro_rules! for_each_driver {
    ($($(#[doc = $doc:literal])* fn $name:ident($driver:ident) $(within $seconds:literal)? $body:block)+) => {$(
        $(#[doc = $doc])*
        fn $name($driver: $crate::proxy::Driver) $body

        mod $name {
            #[test]
            fn uring() {
                $crate::watch_one!($name, $crate::proxy::Driver::Uring $(, $seconds)?);
            }

            #[test]
            fn epoll() {
                $crate::watch_one!($name, $crate::proxy::Driver::Epoll $(, $seconds)?);
            }
        }
    )+};
}

/// The body of one generated test; see [`for_each_driver!`].
#[doc(hidden)]
#[macro_export]
macro_rules! watch_one {
    ($name:ident, $driver:expr) => {
        $crate::watch_one!($name, $driver, $crate::wait::TEST_SECONDS_MAX)
    };
    ($name:ident, $driver:expr, $seconds:expr) => {
        let label = format!("{}::{}", stringify!($name), $driver.name());
        $crate::wait::watched(&label, $seconds, || super::$name($driver))
    };
}
