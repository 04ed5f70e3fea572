//! Bounds what a peer may make us do for nothing.
//!
//! Frames that carry a request or its body pay for themselves: streams, windows and heads have bounds of their own, in
//! the h2 crate. The others cost the peer a few bytes and us an answer, a lookup or a wake-up. They are counted here, as
//! the bytes come in: each kind has a token bucket, and a connection that empties one is closed with
//! `ENHANCE_YOUR_CALM` and a reason code. Useful traffic earns tokens, so that a busy honest peer is never near a bound.

use crate::base::bucket::{Bucket, Rate};
use crate::base::clock::{Clock, Monotonic};

/// PING, SETTINGS, PRIORITY, unknown frames, and DATA without data or end. Each non-empty DATA frame and each head earns
/// one: clients that measure the path's delay send a PING for each round trip with data (gRPC).
const CONTROL: Rate = Rate { per_second: 100, burst: 1_000 };

/// `RST_STREAM`: a stream that is opened and cancelled costs an upstream request (CVE-2023-44487). A browser that leaves
/// a page cancels as many as it had open.
const RESET: Rate = Rate { per_second: 100, burst: 500 };

/// `WINDOW_UPDATE`. Each [`WINDOW_EARNED_BYTES`] that we send earn one.
const WINDOW: Rate = Rate { per_second: 500, burst: 5_000 };

/// See [`WINDOW`]. Clients send one or two for each DATA frame at most; ours hold 1 KiB or more when it matters.
const WINDOW_EARNED_BYTES: usize = 512;

const FRAME_HEADER_BYTES: usize = 9;
const PREFACE_BYTES: u32 = 24;

/// Reads along what a peer sends, frame by frame.
#[derive(Debug)]
pub struct Guard {
    clock: Monotonic,
    /// Of the frame being read; the client's preface counts as one.
    payload_left: u32,
    header: [u8; FRAME_HEADER_BYTES],
    header_filled: usize,
    control: Bucket,
    reset: Bucket,
    window: Bucket,
    sent_bytes: usize,
    greeted: bool,
    tripped: Option<Flood>,
}

/// What a peer may do too much of, or must do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flood {
    /// The first frame is not SETTINGS.
    Preface,
    Reset,
    Control,
    Window,
}

impl Flood {
    fn reason(self) -> &'static str {
        match self {
            Flood::Preface => "h2_preface",
            Flood::Reset => "h2_reset_flood",
            Flood::Control => "h2_control_flood",
            Flood::Window => "h2_window_flood",
        }
    }
}

/// Frame types of RFC 9113 section 6.
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 1;

impl Guard {
    /// For what a client sends, from its preface on.
    pub fn of_client(clock: Monotonic) -> Self {
        Self::new(clock, PREFACE_BYTES)
    }

    /// For what a server sends.
    pub fn of_server(clock: Monotonic) -> Self {
        Self::new(clock, 0)
    }

    fn new(clock: Monotonic, payload_left: u32) -> Self {
        let now = clock.now_ns();
        Self {
            clock,
            payload_left,
            header: [0; FRAME_HEADER_BYTES],
            header_filled: 0,
            control: Bucket::full(CONTROL, now),
            reset: Bucket::full(RESET, now),
            window: Bucket::full(WINDOW, now),
            sent_bytes: 0,
            greeted: false,
            tripped: None,
        }
    }

    /// What the peer does too much of, once it does.
    pub fn tripped(&self) -> Option<&'static str> {
        self.tripped.map(Flood::reason)
    }

    /// The first frame has come whole. It can only be SETTINGS (RFC 9113 section 3.4).
    pub fn greeted(&self) -> bool {
        self.greeted && self.payload_left == 0
    }

    /// Bytes that came.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let n = bytes.len().min(self.payload_left as usize);
                self.payload_left -= n as u32;
                bytes = &bytes[n..];
                continue;
            }
            let n = bytes.len().min(FRAME_HEADER_BYTES - self.header_filled);
            self.header[self.header_filled..self.header_filled + n].copy_from_slice(&bytes[..n]);
            self.header_filled += n;
            bytes = &bytes[n..];
            if self.header_filled == FRAME_HEADER_BYTES {
                self.header_filled = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.payload_left = u32::from_be_bytes([0, a, b, c]);
                self.frame(kind, flags);
            }
        }
    }

    /// Bytes that we send.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
        if self.sent_bytes >= WINDOW_EARNED_BYTES {
            self.window.put(WINDOW, (self.sent_bytes / WINDOW_EARNED_BYTES) as u32);
            self.sent_bytes %= WINDOW_EARNED_BYTES;
        }
    }

    fn frame(&mut self, kind: u8, flags: u8) {
        if !std::mem::replace(&mut self.greeted, true) {
            if kind != kind::SETTINGS {
                self.tripped = Some(Flood::Preface);
            }
            return;
        }
        let (bucket, rate, flood) = match kind {
            kind::HEADERS => return self.control.put(CONTROL, 1),
            kind::DATA if self.payload_left > 0 => return self.control.put(CONTROL, 1),
            kind::DATA if flags & END_STREAM != 0 => return,
            // The h2 crate bounds heads, and refuses these two where they don't belong.
            kind::CONTINUATION | kind::PUSH_PROMISE | kind::GOAWAY => return,
            kind::RST_STREAM => (&mut self.reset, RESET, Flood::Reset),
            kind::WINDOW_UPDATE => (&mut self.window, WINDOW, Flood::Window),
            _ => (&mut self.control, CONTROL, Flood::Control),
        };
        if !bucket.take(rate, 1, self.clock.now_ns()) {
            self.tripped.get_or_insert(flood);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTROL, FRAME_HEADER_BYTES, Guard, RESET, WINDOW};
    use crate::base::clock::Monotonic;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER_BYTES + length, 0xaa);
        frame
    }

    fn greeted() -> Guard {
        let mut guard = Guard::of_server(Monotonic::start());
        guard.see(&frame(0, 4, 0));
        guard
    }

    #[test]
    fn the_first_frame_is_settings_and_nothing_else() {
        for (kind, reason) in [(4, None), (1, Some("h2_preface")), (6, Some("h2_preface"))] {
            let mut guard = Guard::of_server(Monotonic::start());
            let bytes = frame(12, kind, 0);
            for at in 0..bytes.len() {
                assert!(!guard.greeted(), "after {at} bytes");
                guard.see(&bytes[at..=at]);
            }
            assert_eq!((guard.tripped(), guard.greeted()), (reason, true));
        }
    }

    #[test]
    fn each_flood_has_its_bound_and_its_reason() {
        for (name, frame, bound, reason) in [
            ("PING", frame(8, 6, 0), CONTROL.burst, "h2_control_flood"),
            ("PING answers", frame(8, 6, 1), CONTROL.burst, "h2_control_flood"),
            ("SETTINGS", frame(0, 4, 0), CONTROL.burst, "h2_control_flood"),
            ("PRIORITY", frame(5, 2, 0), CONTROL.burst, "h2_control_flood"),
            ("empty DATA", frame(0, 0, 0), CONTROL.burst, "h2_control_flood"),
            ("unknown", frame(3, 0xbe, 0), CONTROL.burst, "h2_control_flood"),
            ("RST_STREAM", frame(4, 3, 0), RESET.burst, "h2_reset_flood"),
            ("WINDOW_UPDATE", frame(4, 8, 0), WINDOW.burst, "h2_window_flood"),
        ] {
            let mut guard = greeted();
            for sent in 0.. {
                // Whatever the bucket gained while this test ran is far below this.
                assert!(sent < bound * 2, "{name} is not bounded");
                if guard.tripped().is_some() {
                    assert!(sent > bound, "{name} tripped after {sent}");
                    break;
                }
                guard.see(&frame);
            }
            assert_eq!(guard.tripped(), Some(reason), "{name}");
        }
    }

    #[test]
    fn useful_frames_are_free_and_earn() {
        let mut guard = Guard::of_client(Monotonic::start());
        guard.see(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        guard.see(&frame(0, 4, 0));
        for _ in 0..CONTROL.burst * 5 {
            guard.see(&frame(20, 1, 4));
            guard.see(&frame(100, 0, 0));
            guard.see(&frame(0, 0, 1));
            guard.see(&frame(8, 6, 0));
            guard.sent(1_024);
            guard.see(&frame(4, 8, 0));
            guard.see(&frame(4, 8, 0));
        }
        assert_eq!(guard.tripped(), None);
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(6, 4, 0));
        for _ in 0..RESET.burst {
            bytes.extend(frame(4, 3, 0));
        }
        for cut in 1..40 {
            let mut guard = Guard::of_client(Monotonic::start());
            for piece in bytes.chunks(cut) {
                guard.see(piece);
            }
            assert_eq!((guard.tripped(), guard.reset.tokens()), (None, 0), "cut into {cut}");
        }
    }
}
