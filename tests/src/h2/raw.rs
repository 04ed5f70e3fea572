//! Frames by hand over a plain socket (RFC 9113 section 4.1), and HPACK without Huffman coding or tables: whatever the
//! h2 crate would refuse to send. It reads frames too, and of an answer's field block the status.

use crate::stream::{Address, Stream};
use crate::wait::PATIENCE;
use crate::wire::{Wire, WireError};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
}

/// Error codes (RFC 9113 section 7).
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Settings (RFC 9113 section 6.5.2).
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of `RST_STREAM` or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    /// The last stream that a GOAWAY names.
    pub fn last_stream(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().expect("four bytes")) & 0x7fff_ffff
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The status in a HEADERS frame. The encoder must have been told not to use its table.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let mut block = &self.payload[..];
        // Table size updates come first (RFC 7541 section 4.2).
        while let [0x20..=0x3f, rest @ ..] = block {
            block = rest;
        }
        match *block {
            [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            // A literal with the name of entry 8 to 14, without, with and never to be indexed.
            [0x08..=0x0e | 0x48..=0x4e | 0x18..=0x1e, length, ref rest @ ..] => digits(length, rest),
            _ => panic!("no status first in {block:02x?}"),
        }
    }
}

/// Three digits, plain or in the Huffman code of RFC 7541 appendix B.
fn digits(length: u8, bytes: &[u8]) -> u16 {
    if length & 0x80 == 0 {
        return std::str::from_utf8(&bytes[..3]).expect("digits").parse().expect("a status");
    }
    let bits: Vec<u8> = bytes[..usize::from(length & 0x7f)]
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u16, |sum, bit| sum << 1 | u16::from(*bit));
    let mut at = 0;
    (0..3).fold(0, |sum, _| {
        let short = number(&bits[at..at + 5]);
        let digit = if short <= 2 {
            at += 5;
            short
        } else {
            at += 6;
            number(&bits[at - 6..at]) - 0b01_1001 + 3
        };
        sum * 10 + digit
    })
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = list
        .iter()
        .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
        .collect();
    frame(kind::SETTINGS, 0, 0, payload)
}

pub fn settings_ack() -> Vec<u8> {
    frame(kind::SETTINGS, flag::ACK, 0, [])
}

pub fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, bytes.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, code.to_be_bytes())
}

pub fn goaway(last_stream: u32, code: u32) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, [last_stream.to_be_bytes(), code.to_be_bytes()].concat())
}

pub fn ping(opaque: u64) -> Vec<u8> {
    frame(kind::PING, 0, 0, opaque.to_be_bytes())
}

pub fn data(stream: u32, flags: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

/// A field block of literals without indexing, names and values as they are (RFC 7541 section 6.2.2).
pub fn block(list: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        push_string(name, &mut block);
        push_string(value, &mut block);
    }
    block
}

fn push_string(text: &[u8], block: &mut Vec<u8>) {
    // RFC 7541 section 5.1, with a prefix of seven bits.
    let mut left = text.len();
    if left < 127 {
        block.push(left as u8);
    } else {
        block.push(127);
        left -= 127;
        while left >= 128 {
            block.push((left % 128) as u8 | 128);
            left /= 128;
        }
        block.push(left as u8);
    }
    block.extend_from_slice(text);
}

/// HEADERS with a whole block.
pub fn headers(stream: u32, flags: u8, list: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block(list))
}

/// The pseudo-fields of a plain GET.
pub const GET: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"test")];

/// A GET for `path` on this stream, whole.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut list = GET;
    list[2].1 = path.as_bytes();
    headers(stream, flag::END_STREAM, &list)
}

/// A client that sends bytes and reads frames.
#[derive(Debug)]
pub struct Raw {
    pub wire: Wire<Stream>,
}

impl Raw {
    /// Connects and says nothing yet.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Raw {
        let stream = Stream::connect(&Address::Tcp(address)).unwrap_or_else(|e| panic!("to {address}: {e}"));
        Raw { wire: Wire::new(stream) }
    }

    /// Connects, greets and waits for the server's SETTINGS and the acknowledgement of ours, which are these and an
    /// empty table for the server's encoder.
    #[track_caller]
    pub fn greet(address: SocketAddr, list: &[(u16, u32)]) -> Raw {
        let mut raw = Raw::connect(address);
        let all = [&[(setting::HEADER_TABLE_SIZE, 0), (setting::ENABLE_PUSH, 0)], list].concat();
        raw.send([PREFACE, &settings(&all), &settings_ack()].concat());
        raw.await_frame("an acknowledgement", |frame| frame.kind == kind::SETTINGS && frame.has(flag::ACK));
        raw
    }

    /// Takes the next connection of a listener and greets it, as a server with these settings.
    #[track_caller]
    pub fn accept(listener: &TcpListener, list: &[(u16, u32)]) -> Raw {
        let (stream, _) = listener.accept().expect("a connection");
        let stream = Stream::Tcp(stream);
        stream.prepare().expect("socket options");
        let mut raw = Raw { wire: Wire::new(stream) };
        assert_eq!(raw.wire.exactly(PREFACE.len()).expect("a preface"), PREFACE);
        let all = [&[(setting::HEADER_TABLE_SIZE, 0)], list].concat();
        raw.send([settings(&all), settings_ack()].concat());
        raw
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sending");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.stream.write_all(bytes.as_ref())
    }

    /// The next frame.
    pub fn try_frame(&mut self) -> Result<Frame, WireError> {
        if self.wire.buffered().is_empty() && self.wire.fill()? == 0 {
            return Err(WireError::Closed);
        }
        let head = self.wire.exactly(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload: self.wire.exactly(length)? })
    }

    /// Reads frames until one is as wanted; an end before it fails the test.
    #[track_caller]
    pub fn await_frame(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        loop {
            match self.try_frame() {
                Ok(frame) if wanted(&frame) => return frame,
                Ok(frame) => seen.push((frame.kind, frame.flags, frame.stream)),
                Err(error) => panic!("no {what}: {error} after {seen:?}"),
            }
        }
    }

    /// Reads what is left. Says how the connection ended, with the code of a GOAWAY, or that it did not.
    pub fn to_end(&mut self) -> End {
        let mut end = End { goaway: None, resets: Vec::new(), answers: Vec::new(), by: WireError::Closed };
        loop {
            match self.try_frame() {
                Ok(frame) => match frame.kind {
                    kind::GOAWAY => end.goaway = Some(frame.code()),
                    kind::RST_STREAM => end.resets.push((frame.stream, frame.code())),
                    kind::HEADERS => end.answers.push((frame.stream, frame.status())),
                    _ => {}
                },
                Err(error) => {
                    end.by = error;
                    return end;
                }
            }
        }
    }

    /// How long to wait for a frame.
    pub fn patience(&self, patience: Duration) {
        self.wire.stream.read_patience(patience).expect("socket options");
    }

    /// Waits until the answer to a PING shows that everything sent before it was read.
    #[track_caller]
    pub fn settle(&mut self) {
        self.patience(PATIENCE);
        self.send(ping(77));
        self.await_frame("an answer to the PING", |frame| {
            frame.kind == kind::PING && frame.has(flag::ACK) && frame.payload == 77_u64.to_be_bytes()
        });
    }
}

/// How a raw connection went on.
#[derive(Clone, Debug)]
pub struct End {
    pub goaway: Option<u32>,
    /// Streams that were reset, with the codes.
    pub resets: Vec<(u32, u32)>,
    /// Streams that were answered, with the statuses.
    pub answers: Vec<(u32, u16)>,
    /// What ended the reading: `Closed`, `Reset`, or `TimedOut` if nothing did.
    pub by: WireError,
}

#[cfg(test)]
mod tests {
    use super::{Raw, code, data, flag, get, headers, kind, reset};
    use crate::h2::origin::{Origin, scripted};
    use ::h2::Reason;

    #[test]
    fn frames_are_understood_and_read() {
        let origin = Origin::with(|exchange| match exchange.path() {
            "/refuse" => exchange.reset(Reason::REFUSED_STREAM),
            "/431" => exchange.reply(431, &[], ""),
            "/501" => exchange.reply(501, &[], ""),
            _ => scripted(exchange),
        });
        let mut raw = Raw::greet(origin.address(), &[]);
        for (stream, path, status) in [(1, "/", 200), (3, "/431", 431), (5, "/501", 501)] {
            raw.send(get(stream, path));
            let head = raw.await_frame("an answer", |frame| frame.kind == kind::HEADERS);
            assert_eq!((head.stream, head.status()), (stream, status));
        }
        raw.send(get(7, "/refuse"));
        let refusal = raw.await_frame("a reset", |frame| frame.kind == kind::RST_STREAM);
        assert_eq!((refusal.stream, refusal.code()), (7, code::REFUSED_STREAM));
        let post: [(&[u8], &[u8]); 4] =
            [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/p"), (b":authority", b"t")];
        raw.send([headers(9, 0, &post), data(9, flag::END_STREAM, "abc")].concat());
        raw.await_frame("the body", |frame| frame.kind == kind::DATA && frame.payload == b"abc");
        raw.send(reset(9, code::CANCEL));
        raw.settle();
        assert_eq!(origin.await_finished(4).body, b"abc");
    }
}
