//! Bounds what a peer may make us do for nothing.
//!
//! Frames that carry a request or its body pay for themselves: streams, windows and heads have bounds of their own, in
//! the h2 crate. The others cost the peer a few bytes and us an answer, a lookup or a wake-up. They are counted here, as
//! the bytes come in: each kind has a token bucket, and a connection that empties one is closed with
//! `ENHANCE_YOUR_CALM` and a reason code. Useful traffic earns tokens, so that a busy honest peer is never near a bound.

use crate::base::bucket::{Bucket, Rate};
use crate::base::clock::{Clock, Monotonic};
use crate::base::reason::ReasonCode;

/// PING, SETTINGS, PRIORITY, unknown frames, and DATA without data or end. Each non-empty DATA frame and each head earns
/// one: clients that measure the path's delay send a PING for each round trip with data (gRPC).
const CONTROL: Rate = Rate { per_second: 100, burst: 1_000 };

/// `RST_STREAM`: a stream that is opened and cancelled costs an upstream request (CVE-2023-44487). A browser that leaves
/// a page cancels as many as it had open. Each response that ends earns [`RESET_EARNED`], so that a client that lets half
/// of its requests be answered may cancel the others for as long as it likes, and one that cancels all is cut off.
const RESET: Rate = Rate { per_second: 100, burst: 500 };

/// See [`RESET`]. Two, for those that are cancelled in the moment that they end.
const RESET_EARNED: u32 = 2;

/// Streams whose reset is remembered: some clients say it again for each frame that was on its way to them. To hear it
/// again costs a look-up and is counted as a control frame.
const RESET_IDS: usize = 16;

/// `WINDOW_UPDATE`. Each [`WINDOW_EARNED_BYTES`] that we send earn one.
const WINDOW: Rate = Rate { per_second: 500, burst: 5_000 };

/// See [`WINDOW`]. Clients send one or two for each DATA frame at most; ours hold 1 KiB or more when it matters.
const WINDOW_EARNED_BYTES: usize = 512;

const FRAME_HEADER_BYTES: usize = 9;
/// Of a client, before its first frame.
const PREFACE_BYTES: u32 = 24;

/// Reads along what a peer sends, frame by frame, and what it is sent.
#[derive(Debug)]
pub struct Guard {
    clock: Monotonic,
    role: Role,
    theirs: Frames,
    ours: Frames,
    control: Bucket,
    reset: Bucket,
    window: Bucket,
    sent_bytes: usize,
    /// The streams that were reset last, the next to be forgotten at `reset_next`. 0 is no stream that can be.
    reset_ids: [u32; RESET_IDS],
    reset_next: usize,
    greeted: bool,
    tripped: Option<Flood>,
}

/// What the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// Finds the frames in one direction's bytes, however they are cut.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Of the frame being read; the client's preface counts as one.
    payload_left: u32,
    header: [u8; FRAME_HEADER_BYTES],
    header_filled: usize,
}

/// The header of a frame, whose payload follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
    pub(super) payload_bytes: u32,
}

impl Frames {
    /// What comes before the first frame is `payload_left` bytes.
    pub(super) fn after(payload_left: u32) -> Self {
        Self { payload_left, ..Self::default() }
    }

    /// Takes bytes up to the end of the next header. `None`: all were taken, and no header ended.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let n = bytes.len().min(self.payload_left as usize);
                self.payload_left -= n as u32;
                *bytes = &bytes[n..];
                continue;
            }
            let n = bytes.len().min(FRAME_HEADER_BYTES - self.header_filled);
            self.header[self.header_filled..self.header_filled + n].copy_from_slice(&bytes[..n]);
            self.header_filled += n;
            *bytes = &bytes[n..];
            if self.header_filled == FRAME_HEADER_BYTES {
                self.header_filled = 0;
                let [a, b, c, kind, flags, id @ ..] = self.header;
                self.payload_left = u32::from_be_bytes([0, a, b, c]);
                let stream = u32::from_be_bytes(id) & (u32::MAX >> 1);
                return Some(Frame { kind, flags, stream, payload_bytes: self.payload_left });
            }
        }
        None
    }

    /// The payload of the frame whose header came last has come, too.
    pub(super) fn is_complete(&self) -> bool {
        self.payload_left == 0
    }
}

impl Frame {
    fn ends_stream(self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }
}

/// What a peer may do too much of, or must do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flood {
    /// The first frame is not SETTINGS.
    Preface,
    Reset,
    Control,
    Window,
    /// What it does not take weighs too much.
    Backlog,
}

impl Flood {
    fn reason(self) -> ReasonCode {
        match self {
            Flood::Preface => ReasonCode::H2Preface,
            Flood::Reset => ReasonCode::H2ResetFlood,
            Flood::Control => ReasonCode::H2ControlFlood,
            Flood::Window => ReasonCode::H2WindowFlood,
            Flood::Backlog => ReasonCode::H2Backlog,
        }
    }
}

/// Frame types of RFC 9113 section 6.
pub(super) mod kind {
    pub(in crate::net::h2) const DATA: u8 = 0;
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
        Self::new(clock, Role::Client)
    }

    /// For what a server sends.
    pub fn of_server(clock: Monotonic) -> Self {
        Self::new(clock, Role::Server)
    }

    fn new(clock: Monotonic, role: Role) -> Self {
        let now = clock.now_ns();
        let (theirs, ours) = match role {
            Role::Client => (PREFACE_BYTES, 0),
            Role::Server => (0, PREFACE_BYTES),
        };
        Self {
            clock,
            role,
            theirs: Frames::after(theirs),
            ours: Frames::after(ours),
            control: Bucket::full(CONTROL, now),
            reset: Bucket::full(RESET, now),
            window: Bucket::full(WINDOW, now),
            sent_bytes: 0,
            reset_ids: [0; RESET_IDS],
            reset_next: 0,
            greeted: false,
            tripped: None,
        }
    }

    /// Bytes that the peer sends before its first frame.
    pub(super) fn preface_bytes(&self) -> u32 {
        if self.role == Role::Client { PREFACE_BYTES } else { 0 }
    }

    /// What the peer does too much of, once it does.
    pub fn tripped(&self) -> Option<ReasonCode> {
        self.tripped.map(Flood::reason)
    }

    /// The connection holds too much of what the peer does not take.
    pub(super) fn trip_for_backlog(&mut self) {
        self.tripped.get_or_insert(Flood::Backlog);
    }

    /// The first frame has come whole. It can only be SETTINGS (RFC 9113 section 3.4).
    pub fn greeted(&self) -> bool {
        self.greeted && self.theirs.is_complete()
    }

    /// Bytes that came.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.theirs.next(&mut bytes) {
            self.frame(frame);
        }
    }

    /// Bytes that we send.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        self.sent_bytes += bytes.len();
        if self.sent_bytes >= WINDOW_EARNED_BYTES {
            self.window.put(WINDOW, (self.sent_bytes / WINDOW_EARNED_BYTES) as u32);
            self.sent_bytes %= WINDOW_EARNED_BYTES;
        }
        while let Some(frame) = self.ours.next(&mut bytes) {
            if self.role == Role::Client && frame.ends_stream() {
                self.reset.put(RESET, RESET_EARNED);
            }
        }
    }

    fn frame(&mut self, frame: Frame) {
        if !std::mem::replace(&mut self.greeted, true) {
            if frame.kind != kind::SETTINGS {
                self.tripped = Some(Flood::Preface);
            }
            return;
        }
        if self.role == Role::Server && frame.ends_stream() {
            self.reset.put(RESET, RESET_EARNED);
        }
        let (bucket, rate, flood) = match frame.kind {
            kind::HEADERS => return self.control.put(CONTROL, 1),
            kind::DATA if frame.payload_bytes > 0 => return self.control.put(CONTROL, 1),
            kind::DATA if frame.flags & END_STREAM != 0 => return,
            // The h2 crate bounds heads, and refuses these two where they don't belong.
            kind::CONTINUATION | kind::PUSH_PROMISE | kind::GOAWAY => return,
            kind::RST_STREAM if self.is_first_reset(frame.stream) => (&mut self.reset, RESET, Flood::Reset),
            kind::WINDOW_UPDATE => (&mut self.window, WINDOW, Flood::Window),
            _ => (&mut self.control, CONTROL, Flood::Control),
        };
        if !bucket.take(rate, 1, self.clock.now_ns()) {
            self.tripped.get_or_insert(flood);
        }
    }

    /// Remembers it, and forgets another.
    fn is_first_reset(&mut self, stream: u32) -> bool {
        if self.reset_ids.contains(&stream) {
            return false;
        }
        self.reset_ids[self.reset_next] = stream;
        self.reset_next = (self.reset_next + 1) % RESET_IDS;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTROL, FRAME_HEADER_BYTES, Guard, RESET, RESET_IDS, WINDOW};
    use crate::base::clock::Monotonic;
    use crate::base::reason::ReasonCode;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        frame_of(1, length, kind, flags)
    }

    fn frame_of(stream: u32, length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.resize(FRAME_HEADER_BYTES + length, 0xaa);
        frame
    }

    /// A stream that a client opens.
    fn open(stream: u32) -> Vec<u8> {
        frame_of(stream, 20, 1, 5)
    }

    fn reset(stream: u32) -> Vec<u8> {
        frame_of(stream, 4, 3, 0)
    }

    /// A response that we send.
    fn answer(stream: u32) -> Vec<u8> {
        [frame_of(stream, 30, 1, 4), frame_of(stream, 100, 0, 1)].concat()
    }

    fn client() -> Guard {
        let mut guard = Guard::of_client(Monotonic::start());
        guard.see(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        guard.see(&frame_of(0, 0, 4, 0));
        guard
    }

    fn greeted() -> Guard {
        let mut guard = Guard::of_server(Monotonic::start());
        guard.see(&frame(0, 4, 0));
        guard
    }

    #[test]
    fn the_first_frame_is_settings_and_nothing_else() {
        for (kind, reason) in [(4, None), (1, Some(ReasonCode::H2Preface)), (6, Some(ReasonCode::H2Preface))]
        {
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
            ("PING", frame(8, 6, 0), CONTROL.burst, ReasonCode::H2ControlFlood),
            ("PING answers", frame(8, 6, 1), CONTROL.burst, ReasonCode::H2ControlFlood),
            ("SETTINGS", frame(0, 4, 0), CONTROL.burst, ReasonCode::H2ControlFlood),
            ("PRIORITY", frame(5, 2, 0), CONTROL.burst, ReasonCode::H2ControlFlood),
            ("empty DATA", frame(0, 0, 0), CONTROL.burst, ReasonCode::H2ControlFlood),
            ("unknown", frame(3, 0xbe, 0), CONTROL.burst, ReasonCode::H2ControlFlood),
            ("RST_STREAM of one stream", frame(4, 3, 0), CONTROL.burst, ReasonCode::H2ControlFlood),
            ("WINDOW_UPDATE", frame(4, 8, 0), WINDOW.burst, ReasonCode::H2WindowFlood),
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

    /// How a client deals with its streams, and after how many at the most it is cut off; `None`: it never is.
    #[test]
    fn cancelling_is_bounded_by_what_is_answered() {
        type Deal = fn(&mut Guard, u32);
        let cancelled: Deal = |guard, id| guard.see(&[open(id), reset(id)].concat());
        let cut: Deal = |guard, id| {
            // Answered in part: the head is not the end.
            guard.see(&open(id));
            guard.sent(&frame_of(id, 30, 1, 4));
            guard.see(&reset(id));
        };
        let half: Deal = |guard, id| {
            guard.see(&open(id));
            if id % 4 == 1 { guard.see(&reset(id)) } else { guard.sent(&answer(id)) }
        };
        let half_thrice: Deal = |guard, id| {
            guard.see(&open(id));
            if id % 4 == 1 { guard.see(&reset(id).repeat(3)) } else { guard.sent(&answer(id)) }
        };
        let two_of_three: Deal = |guard, id| {
            guard.see(&open(id));
            if id % 3 == 0 { guard.sent(&answer(id)) } else { guard.see(&reset(id)) }
        };
        let four_of_five: Deal = |guard, id| {
            guard.see(&open(id));
            if id % 10 == 1 { guard.sent(&answer(id)) } else { guard.see(&reset(id)) }
        };
        let rapid = RESET.burst * 3 / 2;
        for (name, deal, most) in [
            ("all are cancelled", cancelled, Some(rapid)),
            ("all are cancelled while they are answered", cut, Some(rapid)),
            ("half are", half, None),
            ("half are, and each is reset thrice", half_thrice, None),
            ("two of three are", two_of_three, None),
            ("four of five are", four_of_five, Some(rapid * 2)),
        ] {
            let mut guard = client();
            let streams = (0..RESET.burst * 20).map(|n| 2 * n + 1);
            let dealt = streams.into_iter().take_while(|id| {
                deal(&mut guard, *id);
                guard.tripped().is_none()
            });
            let dealt = dealt.count() as u32;
            match most {
                None => assert_eq!(guard.tripped(), None, "{name}, after {dealt}"),
                Some(most) => {
                    assert_eq!(guard.tripped(), Some(ReasonCode::H2ResetFlood), "{name}");
                    assert!((RESET.burst..most).contains(&dealt), "{name}: cut off after {dealt}");
                }
            }
        }
    }

    #[test]
    fn an_origin_earns_by_answering() {
        let mut guard = greeted();
        for id in (1..RESET.burst * 20).step_by(4) {
            // What we send earns an origin nothing: it is free to reset it all.
            guard.sent(&open(id));
            guard.see(&answer(id));
            guard.see(&reset(id + 2));
        }
        assert_eq!(guard.tripped(), None);
        for id in (100_000..100_000 + RESET.burst * 4).step_by(2) {
            guard.sent(&open(id));
            guard.see(&reset(id));
        }
        assert_eq!(guard.tripped(), Some(ReasonCode::H2ResetFlood));
    }

    #[test]
    fn resets_are_remembered_for_a_while() {
        let mut guard = client();
        let ids = || (0..RESET_IDS as u32).map(|n| 2 * n + 1);
        for id in ids().chain(ids()) {
            guard.see(&reset(id));
        }
        assert_eq!(guard.reset.tokens(), RESET.burst - RESET_IDS as u32, "those of before are known");
        for id in [1_001, 1, 1_001] {
            guard.see(&reset(id));
        }
        assert_eq!(guard.reset.tokens(), RESET.burst - RESET_IDS as u32 - 2, "the oldest was forgotten");
    }

    #[test]
    fn useful_frames_are_free_and_earn() {
        let mut guard = client();
        for _ in 0..CONTROL.burst * 5 {
            guard.see(&frame(20, 1, 4));
            guard.see(&frame(100, 0, 0));
            guard.see(&frame(0, 0, 1));
            guard.see(&frame(8, 6, 0));
            guard.sent(&frame(1_015, 0, 0));
            guard.see(&frame(4, 8, 0));
            guard.see(&frame(4, 8, 0));
        }
        assert_eq!(guard.tripped(), None);
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(6, 4, 0));
        for id in 0..RESET.burst {
            bytes.extend(reset(2 * id + 1));
        }
        for cut in 1..40 {
            let began = std::time::Instant::now();
            let mut guard = Guard::of_client(Monotonic::start());
            for piece in bytes.chunks(cut) {
                guard.see(piece);
            }
            assert_eq!(guard.tripped(), None, "cut into {cut}");
            // On a busy machine tokens come back meanwhile.
            let earned = began.elapsed().as_millis() as u64 * u64::from(RESET.per_second) / 1_000 + 1;
            assert!(u64::from(guard.reset.tokens()) <= earned, "cut into {cut}: {}", guard.reset.tokens());
        }
    }
}
