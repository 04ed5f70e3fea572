//! What the engine tells about itself: counters and histograms, and access log lines.

pub mod metrics;
