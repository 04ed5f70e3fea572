//! HTTP/2 messages in HTTP/1.1 form, and back.
//!
//! Inside Ringway every message has HTTP/1.1 form: a stream of HTTP/2 is shown to the request path as a byte stream
//! that speaks HTTP/1.1. So one strict parser and one framing decision hold for both protocols, and tunnels, trailers,
//! interim responses and retries work alike. [`render`] writes what HTTP/2 brought in HTTP/1.1 form; [`absorb`] reads
//! what our own encoders wrote and says which frames to send. Neither does I/O, and neither trusts the HTTP/2 library
//! to have checked what smuggling needs: what the types of the `http` crate do not already make impossible is looked
//! at here, and the HTTP/1.1 parser looks again.
//!
//! What is lost on the way: a fragment in `:path` (the `http` crate cuts it off before we see it), the scheme (the
//! listener knows it), which fields HPACK must never index, and the case of field names.

pub mod absorb;
#[doc(hidden)]
pub mod corpus;
pub mod render;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::base::reason::ReasonCode;
use crate::http::chunked::ChunkError;
use crate::http::framing::{HeadError, HeadRule, Side};
use crate::http::message::Method;

/// How a message's body is framed in its HTTP/1.1 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing follows the head.
    None,
    /// Exactly so many bytes follow, maybe 0.
    Length(u64),
    /// Chunks follow, and the trailers stand behind the last.
    Chunked,
    /// Bytes both ways, after CONNECT or an upgrade, until each side ends.
    Tunnel,
}

/// What a response answers: the request in its HTTP/1.1 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// GET for a WebSocket, whose method in HTTP/2 is CONNECT.
    pub method: Method,
    /// The text of `Sec-WebSocket-Key`, if the request asked for a WebSocket: one that was rendered from an extended
    /// CONNECT, or one that went out as an extended CONNECT.
    pub websocket_key: Option<[u8; WEBSOCKET_KEY_BYTES]>,
}

/// 16 bytes in base64.
pub const WEBSOCKET_KEY_BYTES: usize = 24;

/// 20 bytes in base64.
const WEBSOCKET_ACCEPT_BYTES: usize = 28;

/// Why a message can't be forwarded. In a request of HTTP/2 it is the client's fault and a stream error of type
/// `PROTOCOL_ERROR`, or a response with [`Malformed::status`]; in a response of HTTP/2 the origin's fault and a 502.
/// Out of [`absorb`], where the bytes are our own, it is mostly ours, or says that HTTP/2 has no words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A rule that holds for the HTTP/1.1 form as well.
    Head(HeadRule),
    /// The chunked body in HTTP/1.1 form is broken.
    Chunk(ChunkError),
    /// Connection, Proxy-Connection, Keep-Alive, Transfer-Encoding or Upgrade, RFC 9113 section 8.2.2.
    ConnectionField,
    /// TE that isn't `trailers`, RFC 9113 section 8.2.2.
    Te,
    /// A field value that starts or ends with white space, RFC 9113 section 8.2.1.
    ValueSpace,
    /// A line break that we did not write. The types rule it out; this is the second lock.
    LineBreak,
    /// A request without `:path`, RFC 9113 section 8.3.1.
    PathMissing,
    /// Content-Length of a message that ended with its head is not 0, RFC 9113 section 8.1.1.
    LengthMismatch,
    /// `:protocol` without CONNECT, RFC 8441 section 4.
    ProtocolMisplaced,
    /// `:protocol` that is not `websocket`.
    ProtocolUnknown,
    /// The status 101, RFC 9113 section 8.6.
    SwitchingProtocols,
    /// The stream ended with an interim response, RFC 9113 section 8.1.
    InterimEnds,
    /// The trailer section is longer than an HTTP/1.1 reader would take.
    TrailersTooLong,
    /// A target that HTTP/2's library can't carry: some bytes that RFC 3986 forbids and HTTP/1.1 servers tolerate.
    Target,
    /// A field that HTTP/2's library can't carry.
    Field,
    /// A WebSocket to a server that has not said that it takes an extended CONNECT, RFC 8441 section 3.
    WebSocketUnoffered,
    /// A Sec-WebSocket-Key that is not 16 bytes in base64, RFC 6455 section 4.1.
    WebSocketKey,
    /// 101 to a request that was not for a WebSocket, or one that does not name it.
    SwitchUnasked,
    /// 101 whose Sec-WebSocket-Accept doesn't fit the key, RFC 6455 section 4.1.
    WebSocketAccept,
    /// The writer closed before the message's end.
    Cut,
    /// Bytes after the message's end: a stream carries one.
    AfterEnd,
}

impl Malformed {
    /// A stable code for logs and metrics.
    pub fn reason(self) -> ReasonCode {
        match self {
            Malformed::Head(rule) => rule.reason(),
            Malformed::Chunk(error) => error.reason(),
            Malformed::ConnectionField => ReasonCode::H2ConnectionField,
            Malformed::Te => ReasonCode::H2Te,
            Malformed::ValueSpace => ReasonCode::H2ValueSpace,
            Malformed::LineBreak => ReasonCode::H2LineBreak,
            Malformed::PathMissing => ReasonCode::H2PathMissing,
            Malformed::LengthMismatch => ReasonCode::H2LengthMismatch,
            Malformed::ProtocolMisplaced => ReasonCode::H2ProtocolMisplaced,
            Malformed::ProtocolUnknown => ReasonCode::H2ProtocolUnknown,
            Malformed::SwitchingProtocols => ReasonCode::H2SwitchingProtocols,
            Malformed::InterimEnds => ReasonCode::H2InterimEnds,
            Malformed::TrailersTooLong => ReasonCode::H2TrailersTooLong,
            Malformed::Target => ReasonCode::H2Target,
            Malformed::Field => ReasonCode::H2Field,
            Malformed::WebSocketUnoffered => ReasonCode::UpstreamNoWebsocket,
            Malformed::WebSocketKey => ReasonCode::H2WebsocketKey,
            Malformed::SwitchUnasked => ReasonCode::H2SwitchUnasked,
            Malformed::WebSocketAccept => ReasonCode::H2WebsocketAccept,
            Malformed::Cut => ReasonCode::H2Cut,
            Malformed::AfterEnd => ReasonCode::H2AfterEnd,
        }
    }

    /// What a client may be told when its request is refused for this. When a response is, it is a 502 always.
    pub fn status(self) -> u16 {
        match self {
            Malformed::Head(rule) => HeadError { rule, side: Side::Downstream }.status(),
            Malformed::ProtocolUnknown => 501,
            Malformed::SwitchingProtocols
            | Malformed::InterimEnds
            | Malformed::WebSocketUnoffered
            | Malformed::SwitchUnasked
            | Malformed::WebSocketAccept => 502,
            Malformed::Chunk(_)
            | Malformed::ConnectionField
            | Malformed::Te
            | Malformed::ValueSpace
            | Malformed::LineBreak
            | Malformed::PathMissing
            | Malformed::LengthMismatch
            | Malformed::ProtocolMisplaced
            | Malformed::TrailersTooLong
            | Malformed::Target
            | Malformed::Field
            | Malformed::WebSocketKey
            | Malformed::Cut
            | Malformed::AfterEnd => 400,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message refused: {}", self.reason())
    }
}

impl std::error::Error for Malformed {}

impl From<HeadRule> for Malformed {
    fn from(rule: HeadRule) -> Self {
        Malformed::Head(rule)
    }
}

impl From<HeadError> for Malformed {
    fn from(error: HeadError) -> Self {
        Malformed::Head(error.rule)
    }
}

impl From<ChunkError> for Malformed {
    fn from(error: ChunkError) -> Self {
        Malformed::Chunk(error)
    }
}

/// The text of Sec-WebSocket-Key for 16 random bytes, RFC 6455 section 4.1.
pub fn websocket_key(random: [u8; 16]) -> [u8; WEBSOCKET_KEY_BYTES] {
    let mut text = [0; WEBSOCKET_KEY_BYTES];
    let written = STANDARD.encode_slice(random, &mut text);
    debug_assert_eq!(written, Ok(WEBSOCKET_KEY_BYTES));
    text
}

/// The text of Sec-WebSocket-Accept for a key's text, RFC 6455 section 4.2.2.
fn websocket_accept(key: &[u8; WEBSOCKET_KEY_BYTES]) -> [u8; WEBSOCKET_ACCEPT_BYTES] {
    let mut input = [0; WEBSOCKET_KEY_BYTES + 36];
    input[..WEBSOCKET_KEY_BYTES].copy_from_slice(key);
    input[WEBSOCKET_KEY_BYTES..].copy_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let mut text = [0; WEBSOCKET_ACCEPT_BYTES];
    let written = STANDARD.encode_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &input), &mut text);
    debug_assert_eq!(written, Ok(WEBSOCKET_ACCEPT_BYTES));
    text
}

#[cfg(test)]
mod tests;
