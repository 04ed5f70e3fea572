//! Endpoints that fail real requests, or are slow, are left out for a while.

pub(crate) mod compile;
mod decide;
pub mod settings;

pub use compile::OutlierDetection;
pub use decide::{
    FailurePercentage, Finding, Interval, Latency, LocalOrigin, Outcome, Settings, SuccessRate, Watch,
    compare,
};
