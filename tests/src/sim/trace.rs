//! What happened, in order: a digest of everything, and the last events in the clear for whoever looks for the cause of a
//! failure. Two runs of one seed must have the same digest.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;

/// Events kept in the clear; a run that is looked at keeps all.
const KEPT: usize = 400;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A task had its turn.
    Turn { lane: u32 },
    /// Bytes were put on the way.
    Sent { connection: u32, side: char, bytes: u32, arrives_ns: u64 },
    /// Bytes were taken.
    Read { connection: u32, side: char, bytes: u32 },
    /// No more bytes follow.
    Fin { connection: u32, side: char, arrives_ns: u64 },
    /// A reset was sent.
    Reset { connection: u32, side: char, arrives_ns: u64 },
    /// Whatever an actor has to say.
    Note(String),
}

/// The events of one run.
pub struct Trace {
    digest: Cell<u64>,
    events: Cell<u64>,
    kept: RefCell<VecDeque<(u64, Event)>>,
    all: bool,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("digest", &self.digest.get()).finish_non_exhaustive()
    }
}

impl Trace {
    /// `all`: keep every event, not only the last ones.
    pub fn new(all: bool) -> Self {
        Self { digest: Cell::new(0), events: Cell::new(0), kept: RefCell::default(), all }
    }

    pub fn add(&self, now_ns: u64, event: Event) {
        let words = match &event {
            Event::Turn { lane } => [1, u64::from(*lane), 0],
            Event::Sent { connection, side, bytes, arrives_ns } => {
                [2 + *side as u64, u64::from(*connection) << 32 | u64::from(*bytes), *arrives_ns]
            }
            Event::Read { connection, side, bytes } => {
                [1_000 + *side as u64, u64::from(*connection) << 32 | u64::from(*bytes), 0]
            }
            Event::Fin { connection, side, arrives_ns } => {
                [2_000 + *side as u64, u64::from(*connection), *arrives_ns]
            }
            Event::Reset { connection, side, arrives_ns } => {
                [3_000 + *side as u64, u64::from(*connection), *arrives_ns]
            }
            Event::Note(text) => {
                let sum = text.bytes().fold(0_u64, |sum, byte| mix(sum ^ u64::from(byte)));
                [4_000, sum, 0]
            }
        };
        let digest = words.into_iter().fold(mix(self.digest.get() ^ now_ns), |sum, word| mix(sum ^ word));
        self.digest.set(digest);
        self.events.set(self.events.get() + 1);
        // Turns say little, and there are many.
        if !self.all && matches!(event, Event::Turn { .. }) {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        if !self.all && kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((now_ns, event));
    }

    /// The number of events, and the digest of them all.
    pub fn digest(&self) -> (u64, u64) {
        (self.events.get(), self.digest.get())
    }

    /// The events that were kept, one a line.
    pub fn lines(&self) -> Vec<String> {
        let line = |(at, event): &(u64, Event)| {
            let ms = *at as f64 / 1e6;
            match event {
                Event::Turn { lane } => format!("{ms:12.3} turn {lane}"),
                Event::Sent { connection, side, bytes, arrives_ns } => {
                    let arrives = *arrives_ns as f64 / 1e6;
                    format!("{ms:12.3} {connection}{side} sent {bytes}, arrives {arrives:.3}")
                }
                Event::Read { connection, side, bytes } => {
                    format!("{ms:12.3} {connection}{side} read {bytes}")
                }
                Event::Fin { connection, side, arrives_ns } => {
                    format!("{ms:12.3} {connection}{side} fin, arrives {:.3}", *arrives_ns as f64 / 1e6)
                }
                Event::Reset { connection, side, arrives_ns } => {
                    format!("{ms:12.3} {connection}{side} reset, arrives {:.3}", *arrives_ns as f64 / 1e6)
                }
                Event::Note(text) => format!("{ms:12.3} {text}"),
            }
        };
        self.kept.borrow().iter().map(line).collect()
    }
}

fn mix(word: u64) -> u64 {
    let z = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z ^ (z >> 32)
}
