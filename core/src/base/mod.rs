//! What every layer may lean on: bounds, the clock and the words for failure. Imports nothing of ours.

pub mod limits;
