//! Bodies on their way, both directions alike: one [`Pump`] moves bytes with back-pressure, the [`Flow`] of a [`Body`] frames
//! them and runs its content through a chain of [`Transform`](crate::http::transform::Transform)s, and one [`Tee`] keeps what
//! is wanted again. Whatever changes content becomes a transform, whatever wants a copy takes from the tee; neither needs
//! anything new of the pump.

mod pump;
mod tee;

use crate::http::flow::Flow;

pub(super) use self::pump::{End, Pump, PumpError, Watch, read_ready, would_block, write_now};
pub(super) use self::tee::Tee;

/// One body on its way.
#[derive(Debug)]
pub(super) struct Body<'t> {
    /// Its framing, and the changes of its content.
    pub(super) flow: Flow,
    /// Who keeps what has passed.
    pub(super) tee: Option<&'t Tee>,
}

impl From<Flow> for Body<'_> {
    fn from(flow: Flow) -> Self {
        Self { flow, tee: None }
    }
}
