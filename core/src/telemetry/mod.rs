//! What the engine tells about itself: counters and histograms, and access log lines.

pub mod journal;
pub mod log_writer;
pub mod metrics;
