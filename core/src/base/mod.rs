//! What every layer may lean on: bounds, time, deadlines and the words for failure. Imports nothing of ours.

pub mod backlog;
pub mod bucket;
pub mod buffer;
pub mod clock;
pub mod deadline;
pub mod fault;
pub mod fnv;
pub mod kept;
pub mod limits;
pub mod panics;
pub mod race;
pub mod reason;
pub mod signal;
#[cfg(feature = "test-panics")]
pub mod test_panics;
