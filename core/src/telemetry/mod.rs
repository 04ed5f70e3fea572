//! What the engine tells about itself: counters and histograms, and access log lines.

pub mod access_log;
pub mod journal;
pub mod metrics;
