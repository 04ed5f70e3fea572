//! From HTTP/1.1 form to HTTP/2: reads what our own encoders wrote, as it is written, and says what to send.
//!
//! The head is parsed by `http1::parse` like any other, so its verdict on framing and hop-by-hop fields holds here too.
//! Data is never copied: it is offered where it stands, and the caller says how much of it flow control let through.
//! Called by whoever holds a stream, which turns each [`Event`] into frames.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{Method as HttpMethod, Request, Response, StatusCode, Version};

use super::{Asked, Malformed, WEBSOCKET_KEY_BYTES, websocket_accept};
use crate::base::limits::{HEADER_COUNT_MAX, RENDERED_HEAD_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::http::chunked::{ChunkEvent, ChunkedDecoder, TrailerIndex, parse_trailers};
use crate::http::framing::{BodyLength, HeadRule};
use crate::http::http1::parse::{HeadLimits, Parsed, head_end_hint, parse_request, parse_response};
use crate::http::message::{
    FieldSet, Fields, Method, RequestHead, RequestIndex, ResponseHead, ResponseIndex, Scheme, Status, Target,
};

/// What to send.
#[derive(Debug)]
pub enum Event<'a> {
    /// A 1xx response. Another head follows.
    Interim(Response<()>),
    /// The final response; the stream ends with it if `end`.
    Response { head: Response<()>, end: bool },
    /// A request; the stream ends with it if `end`.
    Request {
        head: Request<()>,
        end: bool,
        /// `websocket` for an extended CONNECT.
        protocol: Option<&'static str>,
        /// The text that the writer's `Sec-WebSocket-Key` had, for [`Asked`].
        websocket_key: Option<[u8; WEBSOCKET_KEY_BYTES]>,
    },
    /// Data that may be sent, in whole or a part from its start: [`Absorber::took`] counts it. The stream ends with it
    /// if `end` and all of it is sent.
    Data { bytes: &'a [u8], end: bool },
    /// Trailers, and the end of the stream with them.
    Trailers(HeaderMap),
    /// The end of the stream, without anything.
    End,
}

/// Where the absorber stands.
///
/// ```text
/// ExpectHead ── 1xx ──> ExpectHead
///      ├── no body ──────────> Ended
///      ├── Content-Length ───> ExpectLength ── all of it ──> Ended
///      ├── chunked ──────────> ExpectChunks ── last data, with the last chunk right behind ──> ExpectTail ──> Ended
///      │                            └── last chunk, trailers ──> Ended
///      └── tunnel, until close ──> ExpectClose ── finish ──> Ended
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ExpectHead,
    ExpectLength {
        left: u64,
    },
    ExpectChunks {
        decoder: ChunkedDecoder,
        /// Data that was offered with `end`; 0 if it wasn't. Zero bytes are never offered.
        last_bytes: usize,
    },
    /// What is left of `TAIL`: the data before it ended the stream already.
    ExpectTail {
        left: usize,
    },
    ExpectClose,
    Ended,
}

/// What follows the last data of a chunked body without trailers.
const TAIL: &[u8] = b"\r\n0\r\n\r\n";

/// The last chunk and no trailers, right behind a head.
const EMPTY_BODY: &[u8] = b"0\r\n\r\n";

/// Bounds that never bind before `RENDERED_HEAD_BYTES_MAX`: the reader of the original had the configured ones.
const LIMITS: HeadLimits = HeadLimits {
    header_bytes: RENDERED_HEAD_BYTES_MAX,
    header_count: HEADER_COUNT_MAX,
    uri_bytes: RENDERED_HEAD_BYTES_MAX,
};

/// What is read.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Request(Scheme),
    Response(Asked),
}

/// Reads one message's HTTP/1.1 form as it is written, in pieces of any size.
#[derive(Debug)]
pub struct Absorber {
    kind: Kind,
    state: State,
    /// A part of a head, a size line or a trailer section, while that is all there is; otherwise it owns nothing.
    held: Vec<u8>,
}

impl Absorber {
    /// For the response to `asked`.
    pub fn response(asked: Asked) -> Self {
        Absorber { kind: Kind::Response(asked), state: State::ExpectHead, held: Vec::new() }
    }

    /// For a request whose `:scheme` will be `scheme`.
    pub fn request(scheme: Scheme) -> Self {
        Absorber { kind: Kind::Request(scheme), state: State::ExpectHead, held: Vec::new() }
    }

    /// Takes bytes from the front of `bytes`. Says how many are done with, and what they mean; without an event all
    /// are, and more are needed. The data of [`Event::Data`] stands right behind those, and is done with as far as
    /// [`Absorber::took`] says; the rest is to be offered again.
    ///
    /// It is fine to go on after the end: what frames the end is taken then, and nothing else is allowed.
    #[inline]
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Malformed> {
        match &mut self.state {
            _ if bytes.is_empty() => Ok((0, None)),
            State::ExpectHead => self.head(bytes),
            State::ExpectLength { left } => {
                let (data, is_last) = prefix(bytes, *left);
                Ok((0, Some(Event::Data { bytes: data, end: is_last })))
            }
            State::ExpectChunks { .. } => self.chunks(bytes),
            State::ExpectClose => Ok((0, Some(Event::Data { bytes, end: false }))),
            State::ExpectTail { left } => {
                if !TAIL[TAIL.len() - *left..].starts_with(bytes) {
                    return Err(Malformed::AfterEnd);
                }
                *left -= bytes.len();
                if *left == 0 {
                    self.state = State::Ended;
                }
                Ok((bytes.len(), None))
            }
            State::Ended => Err(Malformed::AfterEnd),
        }
    }

    /// Counts data that was sent, from the front of what the last step offered.
    #[inline]
    pub fn took(&mut self, count: usize) {
        match &mut self.state {
            State::ExpectLength { left } => {
                debug_assert!(count as u64 <= *left);
                *left = left.saturating_sub(count as u64);
                if *left == 0 {
                    self.state = State::Ended;
                }
            }
            State::ExpectChunks { decoder, last_bytes } => {
                debug_assert!(count as u64 <= decoder.remaining_in_chunk());
                decoder.advance_data(count as u64);
                if count > 0 && count == *last_bytes {
                    self.state = State::ExpectTail { left: TAIL.len() };
                }
            }
            State::ExpectHead | State::ExpectTail { .. } | State::ExpectClose | State::Ended => {}
        }
    }

    /// The writer has closed: that ends a tunnel and a body that runs until close. Cuts any other short.
    pub fn finish(&mut self) -> Result<Option<Event<'static>>, Malformed> {
        match self.state {
            State::ExpectClose => {
                self.state = State::Ended;
                Ok(Some(Event::End))
            }
            State::ExpectTail { .. } | State::Ended => Ok(None),
            State::ExpectHead | State::ExpectLength { .. } | State::ExpectChunks { .. } => {
                Err(Malformed::Cut)
            }
        }
    }

    /// Whether the stream's end was given out.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::ExpectTail { .. } | State::Ended)
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Malformed> {
        if self.held.is_empty() {
            // Encoders write a head in one piece, so it is most likely all there.
            if let Some((head_bytes, event)) = self.parse(bytes)? {
                return Ok((
                    head_bytes + self.skip_empty_body(&bytes[head_bytes..]),
                    Some(self.close(event)),
                ));
            }
            if bytes.len() > RENDERED_HEAD_BYTES_MAX {
                return Err(HeadRule::HeadTooLarge.into());
            }
            self.held.extend_from_slice(bytes);
            return Ok((bytes.len(), None));
        }
        let mut held = std::mem::take(&mut self.held);
        let before = held.len();
        held.extend_from_slice(&bytes[..bytes.len().min(RENDERED_HEAD_BYTES_MAX)]);
        if head_end_hint(&held, before).is_some()
            && let Some((head_bytes, event)) = self.parse(&held)?
        {
            let used = head_bytes - before;
            return Ok((used + self.skip_empty_body(&bytes[used..]), Some(self.close(event))));
        }
        if held.len() > RENDERED_HEAD_BYTES_MAX {
            return Err(HeadRule::HeadTooLarge.into());
        }
        self.held = held;
        Ok((bytes.len(), None))
    }

    /// A chunked body without content ends the stream with its head, if it is already there.
    fn skip_empty_body(&mut self, rest: &[u8]) -> usize {
        if matches!(self.state, State::ExpectChunks { .. }) && rest.starts_with(EMPTY_BODY) {
            self.state = State::Ended;
            return EMPTY_BODY.len();
        }
        0
    }

    /// Puts the end into a head's event, now that it is known.
    fn close<'a>(&self, event: Event<'static>) -> Event<'a> {
        let end = self.state == State::Ended;
        match event {
            Event::Response { head, .. } => Event::Response { head, end },
            Event::Request { head, protocol, websocket_key, .. } => {
                Event::Request { head, end, protocol, websocket_key }
            }
            other => other,
        }
    }

    /// Parses a head and moves on; None when it isn't whole.
    fn parse(&mut self, bytes: &[u8]) -> Result<Option<(usize, Event<'static>)>, Malformed> {
        let (head_bytes, event, state) = match self.kind {
            Kind::Request(scheme) => match parse_request(bytes, &mut RequestIndex::default(), &LIMITS)? {
                Parsed::Partial => return Ok(None),
                Parsed::Complete(head) => {
                    let (event, state) = request_event(&head, scheme)?;
                    (head.head_bytes, event, state)
                }
            },
            Kind::Response(asked) => {
                match parse_response(bytes, &mut ResponseIndex::default(), asked.method, &LIMITS)? {
                    Parsed::Partial => return Ok(None),
                    Parsed::Complete(head) => {
                        let (event, state) = response_event(&head, &asked)?;
                        (head.head_bytes, event, state)
                    }
                }
            }
        };
        self.state = state;
        Ok(Some((head_bytes, event)))
    }

    fn chunks<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Malformed> {
        let State::ExpectChunks { decoder, last_bytes } = &mut self.state else {
            return Ok((0, None));
        };
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let left = decoder.remaining_in_chunk();
            if left > 0 && !rest.is_empty() {
                let (data, is_last) = prefix(rest, left);
                let end = is_last && rest[data.len()..].starts_with(TAIL);
                *last_bytes = if end { data.len() } else { 0 };
                return Ok((at, Some(Event::Data { bytes: data, end })));
            }
            if rest.is_empty() {
                return Ok((at, None));
            }
            // Framing that came in pieces is put together first; what is more than that stays in `bytes`.
            let before = self.held.len();
            let window = if before == 0 {
                rest
            } else {
                self.held.extend_from_slice(&rest[..rest.len().min(TRAILER_BYTES_MAX)]);
                &self.held[..]
            };
            match decoder.next(window)? {
                ChunkEvent::NeedMore => {
                    if before == 0 {
                        self.held.extend_from_slice(rest);
                    }
                    return Ok((bytes.len(), None));
                }
                ChunkEvent::Size { bytes: used, .. } | ChunkEvent::DataEnd { bytes: used } => {
                    at += used - before;
                    self.held = Vec::new();
                }
                ChunkEvent::End { bytes: used } => {
                    let trailers = trailer_map(&window[..used])?;
                    at += used - before;
                    self.held = Vec::new();
                    self.state = State::Ended;
                    return Ok((at, Some(trailers.map_or(Event::End, Event::Trailers))));
                }
                // `remaining_in_chunk` was 0.
                ChunkEvent::Data { .. } => return Err(Malformed::Cut),
            }
        }
    }
}

/// As much of `bytes` as is within `left`, and whether that is all of `left`.
#[inline]
fn prefix(bytes: &[u8], left: u64) -> (&[u8], bool) {
    match usize::try_from(left) {
        Ok(left) if left <= bytes.len() => (&bytes[..left], true),
        _ => (bytes, false),
    }
}

fn body_state(body: BodyLength) -> State {
    match body {
        BodyLength::None | BodyLength::Length(0) => State::Ended,
        BodyLength::Length(left) => State::ExpectLength { left },
        BodyLength::Chunked => State::ExpectChunks { decoder: ChunkedDecoder::new(), last_bytes: 0 },
        BodyLength::UntilClose => State::ExpectClose,
    }
}

fn request_event(head: &RequestHead<'_>, scheme: Scheme) -> Result<(Event<'static>, State), Malformed> {
    let is_websocket = head.method == Method::Get
        && head.body.is_empty()
        && head.upgrade().is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    let mut skip = head.hop_by_hop.union(head.host_fields);
    let mut websocket_key = None;
    if is_websocket {
        let named = fields_named(&head.fields, "sec-websocket-key");
        let value = head.header("sec-websocket-key").unwrap_or_default();
        websocket_key = Some(value.try_into().map_err(|_| Malformed::WebSocketKey)?);
        skip = skip.union(named).union(head.length_fields);
    }
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    let shared = Shared::new(head.fields.raw);
    *request.uri_mut() = uri(head, scheme, &shared)?;
    *request.headers_mut() = field_map(&head.fields, skip, usize::from(head.te_trailers), &shared)?;
    if head.te_trailers {
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    *request.method_mut() = match head.method {
        _ if is_websocket => HttpMethod::CONNECT,
        Method::Get => HttpMethod::GET,
        Method::Post => HttpMethod::POST,
        _ => HttpMethod::from_bytes(head.method_text()).map_err(|_| Malformed::Target)?,
    };
    let is_tunnel = is_websocket || head.method == Method::Connect;
    let state = if is_tunnel { State::ExpectClose } else { body_state(head.body) };
    let protocol = is_websocket.then_some("websocket");
    Ok((Event::Request { head: request, end: false, protocol, websocket_key }, state))
}

/// RFC 9113 section 8.3.1: scheme, authority and path, but only the authority for CONNECT (section 8.5).
fn uri(head: &RequestHead<'_>, scheme: Scheme, shared: &Shared<'_>) -> Result<Uri, Malformed> {
    let authority = |text| Authority::from_maybe_shared(shared.part(text)).map_err(|_| Malformed::Target);
    let mut parts = http::uri::Parts::default();
    let path = match head.target() {
        Target::Origin { .. } | Target::Asterisk => shared.part(head.target_text()),
        Target::Absolute { query, .. } => {
            let mut text = head.target().path().to_vec();
            if let Some(query) = query {
                text.push(b'?');
                text.extend_from_slice(query);
            }
            Bytes::from(text)
        }
        Target::Authority { .. } => {
            parts.authority = Some(authority(head.target_text())?);
            return Uri::from_parts(parts).map_err(|_| Malformed::Target);
        }
    };
    parts.scheme = Some(match scheme {
        Scheme::Http => http::uri::Scheme::HTTP,
        Scheme::Https => http::uri::Scheme::HTTPS,
    });
    parts.authority = Some(authority(head.host())?);
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).map_err(|_| Malformed::Target)?);
    Uri::from_parts(parts).map_err(|_| Malformed::Target)
}

fn response_event(head: &ResponseHead<'_>, asked: &Asked) -> Result<(Event<'static>, State), Malformed> {
    let mut skip = head.hop_by_hop;
    let mut status = head.status;
    let mut state = body_state(head.body);
    if status == Status::SWITCHING_PROTOCOLS {
        // RFC 8441 section 5: what 101 is in HTTP/1.1, 200 is here. Nobody behind us could check the accept field.
        let key = asked.websocket_key.ok_or(Malformed::SwitchUnasked)?;
        if !head.upgrade().is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket")) {
            return Err(Malformed::SwitchUnasked);
        }
        if head.header("sec-websocket-accept") != Some(&websocket_accept(&key)[..]) {
            return Err(Malformed::WebSocketAccept);
        }
        skip = skip.union(fields_named(&head.fields, "sec-websocket-accept"));
        status = Status(200);
        state = State::ExpectClose;
    } else if asked.websocket_key.is_some() && status.is_success() {
        // The origin answered the upgrade as an ordinary request. In HTTP/2 its 2xx would open the tunnel.
        status = Status(502);
    } else if asked.method == Method::Connect && status.is_success() {
        state = State::ExpectClose;
    } else if status.is_informational() {
        state = State::ExpectHead;
    }
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = StatusCode::from_u16(status.0).map_err(|_| Malformed::Field)?;
    *response.headers_mut() = field_map(&head.fields, skip, 0, &Shared::new(head.fields.raw))?;
    let event = match state {
        State::ExpectHead => Event::Interim(response),
        _ => Event::Response { head: response, end: false },
    };
    Ok((event, state))
}

fn fields_named(fields: &Fields<'_>, name: &str) -> FieldSet {
    fields.places(|header| header.is(name))
}

/// A copy of a head that all values taken out of it share: one allocation instead of one for each.
struct Shared<'b> {
    raw: &'b [u8],
    copy: Bytes,
}

impl<'b> Shared<'b> {
    fn new(raw: &'b [u8]) -> Self {
        Shared { raw, copy: Bytes::copy_from_slice(raw) }
    }

    /// `text` is a part of `raw`, as the fields and the target of a parsed head are.
    fn part(&self, text: &[u8]) -> Bytes {
        if text.is_empty() {
            return Bytes::new();
        }
        let start = text.as_ptr().addr() - self.raw.as_ptr().addr();
        self.copy.slice(start..start + text.len())
    }
}

/// The fields not in `skip`, with room for `added` more.
fn field_map(
    fields: &Fields<'_>,
    skip: FieldSet,
    added: usize,
    shared: &Shared<'_>,
) -> Result<HeaderMap, Malformed> {
    let kept = fields.len() - skip.len().min(fields.len());
    let mut map = HeaderMap::with_capacity(kept + added);
    for (index, header) in fields.iter().enumerate() {
        if !skip.contains(index) {
            let name = HeaderName::from_bytes(header.name).map_err(|_| Malformed::Field)?;
            let value = HeaderValue::from_maybe_shared(shared.part(header.value));
            map.append(name, value.map_err(|_| Malformed::Field)?);
        }
    }
    Ok(map)
}

/// The fields that may come so late; None if there are none.
fn trailer_map(section: &[u8]) -> Result<Option<HeaderMap>, Malformed> {
    if section.len() == 2 {
        return Ok(None);
    }
    let mut slots = TrailerIndex::default();
    let trailers = parse_trailers(section, &mut slots)?;
    let map = field_map(&trailers.fields, trailers.forbidden, 0, &Shared::new(section))?;
    Ok((!map.is_empty()).then_some(map))
}

#[cfg(test)]
impl Absorber {
    pub(super) fn held(&self) -> &Vec<u8> {
        &self.held
    }
}
