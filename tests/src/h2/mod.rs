//! HTTP/2 as the harness speaks it.
//!
//! [`client`] and [`origin`] stand on the h2 crate: well-behaved peers whose calls block, with a deadline, while one
//! background thread moves the frames of all of them. [`raw`] writes and reads frames by hand, for peers that the h2
//! crate would not let us be. [`load`] is steady load for claims of "zero failed" and of latency.

pub mod client;
pub mod load;
pub mod origin;
pub mod raw;

use crate::wait::PATIENCE;
use ::h2::Reason;
use ::http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::future::{Future, pending};
use std::sync::LazyLock;
use std::thread;
use tokio::runtime::{Builder, Handle};

/// Where the frames of all clients and origins of this process are moved.
static PEERS: LazyLock<Handle> = LazyLock::new(|| {
    // A behaviour holds a thread for as long as its request lasts, and some tests hold hundreds of requests.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(4_096).build();
    let runtime = runtime.expect("a runtime for the HTTP/2 peers");
    let handle = runtime.handle().clone();
    let moving = move || runtime.block_on(pending::<()>());
    thread::Builder::new().name("h2-peers".into()).spawn(moving).expect("a thread for the HTTP/2 peers");
    handle
});

/// Why a stream, or its connection, could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer has reset the stream.
    Reset(Reason),
    /// The peer has ended the connection with GOAWAY, and this stream with it.
    GoAway(Reason),
    /// What the peer sent breaks RFC 9113 in the eyes of the h2 crate.
    Refused(Reason),
    /// The connection broke.
    Broken(String),
    /// Nothing happened for [`PATIENCE`].
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<::h2::Error> for Failure {
    fn from(error: ::h2::Error) -> Failure {
        match error.reason() {
            Some(reason) if error.is_go_away() && error.is_remote() => Failure::GoAway(reason),
            Some(reason) if error.is_reset() && error.is_remote() => Failure::Reset(reason),
            Some(reason) => Failure::Refused(reason),
            None => Failure::Broken(error.to_string()),
        }
    }
}

/// Waits for a future whose frames the background thread moves, at most [`PATIENCE`].
fn block<T, E: Into<Failure>>(future: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    PEERS.block_on(async {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(Failure::TimedOut),
        }
    })
}

/// Fields from their text.
#[track_caller]
pub fn fields(list: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a lower-case field name");
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a field value"));
    }
    map
}

/// All values of a field.
pub fn values<'m>(map: &'m HeaderMap, name: &str) -> Vec<&'m str> {
    map.get_all(name).iter().map(|value| value.to_str().expect("visible ASCII")).collect()
}

/// The value of a field that must not be repeated.
#[track_caller]
pub fn value<'m>(map: &'m HeaderMap, name: &str) -> Option<&'m str> {
    let values = values(map, name);
    assert!(values.len() <= 1, "{name} is repeated: {values:?}");
    values.first().copied()
}
