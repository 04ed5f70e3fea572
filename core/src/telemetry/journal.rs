//! What the process itself has to say, one line each, on standard error. Nothing of a request, no secrets.
//!
//! Whoever says something never waits: a thread of the journal's own writes. If nobody reads, lines are dropped, counted,
//! and their number is said as soon as somebody does.

use std::fmt::{self, Display};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::log_writer::{LogWriter, Target};
use crate::base::limits::LOG_FLUSH_MS;

/// How long a process waits at its end for what it has said to be read.
pub const PATIENCE: Duration = Duration::from_millis(LOG_FLUSH_MS);

/// None if there is no thread for it.
static WRITER: OnceLock<Option<LogWriter>> = OnceLock::new();

/// How many of the lines lost have been told of.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// Something an operator may want to know.
pub fn info(text: impl Display) {
    line(format_args!("ringway: {text}"));
}

/// Something an operator should look into; the process goes on.
pub fn warn(text: impl Display) {
    line(format_args!("ringway: warning: {text}"));
}

/// A line as it stands, for the binaries' own words.
pub fn line(text: impl Display) {
    let Some(writer) = writer() else { return };
    let (lost, told) = (writer.lost(), TOLD.load(Ordering::Relaxed));
    let notice = if lost > told { notice(lost - told) } else { String::new() };
    // The notice is none of the lines that count: it is sent again until it finds room.
    match writer.batches.try_send(format!("{notice}{text}\n").into_bytes()) {
        Ok(()) => TOLD.store(lost, Ordering::Relaxed),
        Err(_) => writer.lose(1),
    }
}

fn notice(lines: u64) -> String {
    format!("ringway: warning: {lines} lines of this log are lost, because nobody read it\n")
}

/// Says that another log can't be written.
pub(crate) fn report(text: fmt::Arguments<'_>) {
    warn(text);
}

/// Lines that could not be written.
pub fn lost() -> u64 {
    WRITER.get().and_then(Option::as_ref).map_or(0, LogWriter::lost)
}

/// Waits until what was said is written, for `patience` at most. Nothing can be said after that: for the end of the process.
pub fn finish(patience: Duration) {
    let Some(writer) = WRITER.get().and_then(Option::as_ref) else { return };
    writer.finish(patience);
}

fn writer() -> Option<&'static LogWriter> {
    let start = || {
        // Where it can't be written there is nobody to tell.
        let writer = LogWriter::start("journal", |_| {}).ok()?;
        writer.retarget(Target::Stderr);
        Some(writer)
    };
    WRITER.get_or_init(start).as_ref()
}
