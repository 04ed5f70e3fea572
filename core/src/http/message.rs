//! What a parsed message is: its bytes, and an index of where everything stands in them, with every fact that forwarding
//! needs already found.
//!
//! Nothing here parses or validates; `http1::parse` makes indexes, and after that an invalid head can't exist. An index
//! ([`RequestIndex`], [`ResponseIndex`]) owns itself and borrows nothing, so it may be kept while its bytes move; together
//! with the bytes it gives a view ([`RequestHead`], [`ResponseHead`]). [`OwnedRequest`] keeps both, at their own size.

use std::fmt;
use std::ops::Deref;

use crate::base::limits::HEADER_COUNT_MAX;

/// HTTP/1.x as this layer knows it; anything else is refused with 505.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// What a message came over. Its form is HTTP/1.1 either way (`http2`), but Via and log lines tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Http1,
    Http2,
}

/// The methods of RFC 9110 and RFC 5789. Any other keeps its text: [`RequestHead::method_text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    #[default]
    Other,
}

impl Method {
    #[inline]
    pub fn from_text(text: &[u8]) -> Method {
        match text {
            b"GET" => Method::Get,
            b"POST" => Method::Post,
            b"HEAD" => Method::Head,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// RFC 9110 section 9.2.1.
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }

    /// RFC 9110 section 9.2.2. An unknown method is not.
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete)
    }
}

/// A status code between 100 and 999. Codes from 600 up are forwarded as they are: some origins use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Status(pub u16);

impl Status {
    pub const SWITCHING_PROTOCOLS: Status = Status(101);
    pub const NO_CONTENT: Status = Status(204);
    pub const NOT_MODIFIED: Status = Status(304);

    pub fn is_informational(self) -> bool {
        self.0 < 200
    }

    pub fn is_success(self) -> bool {
        matches!(self.0, 200..=299)
    }

    pub fn is_redirection(self) -> bool {
        matches!(self.0, 300..=399)
    }

    pub fn is_client_error(self) -> bool {
        matches!(self.0, 400..=499)
    }

    /// RFC 9110 section 15: what is out of range is treated as a 5xx.
    pub fn is_server_error(self) -> bool {
        self.0 >= 500
    }

    /// The registered reason phrase, empty when there is none.
    pub fn reason(self) -> &'static str {
        match self.0 {
            100 => "Continue",
            101 => "Switching Protocols",
            103 => "Early Hints",
            200 => "OK",
            201 => "Created",
            202 => "Accepted",
            204 => "No Content",
            206 => "Partial Content",
            301 => "Moved Permanently",
            302 => "Found",
            303 => "See Other",
            304 => "Not Modified",
            307 => "Temporary Redirect",
            308 => "Permanent Redirect",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            406 => "Not Acceptable",
            408 => "Request Timeout",
            409 => "Conflict",
            410 => "Gone",
            411 => "Length Required",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            415 => "Unsupported Media Type",
            416 => "Range Not Satisfiable",
            417 => "Expectation Failed",
            421 => "Misdirected Request",
            422 => "Unprocessable Content",
            426 => "Upgrade Required",
            428 => "Precondition Required",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            451 => "Unavailable For Legal Reasons",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            507 => "Insufficient Storage",
            508 => "Loop Detected",
            511 => "Network Authentication Required",
            _ => "",
        }
    }
}

/// The four forms of a request target, RFC 9112 section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path?query`; the path starts with '/'.
    Origin { path: &'b [u8], query: Option<&'b [u8]> },
    /// `http://authority/path?query`; the path may be empty, which `path()` reads as "/".
    Absolute { scheme: Scheme, authority: &'b [u8], path: &'b [u8], query: Option<&'b [u8]> },
    /// `host:port`, only and always with CONNECT.
    Authority { host: &'b [u8], port: u16 },
    /// `*`, only with OPTIONS.
    Asterisk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl<'b> Target<'b> {
    /// The path to route on: "/" for an absolute-form without one, "*" and empty where there is none.
    #[inline]
    pub fn path(&self) -> &'b [u8] {
        match *self {
            Target::Absolute { path: b"", .. } => b"/",
            Target::Origin { path, .. } | Target::Absolute { path, .. } => path,
            Target::Authority { .. } => b"",
            Target::Asterisk => b"*",
        }
    }

    /// Without the '?'. An empty query (`/a?`) is not the same as none.
    #[inline]
    pub fn query(&self) -> Option<&'b [u8]> {
        match *self {
            Target::Origin { query, .. } | Target::Absolute { query, .. } => query,
            Target::Authority { .. } | Target::Asterisk => None,
        }
    }
}

/// A set of fields of one head, by their position.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FieldSet(u128);

const _: () = assert!(HEADER_COUNT_MAX <= u128::BITS as usize, "a FieldSet has one bit for each field");

impl FieldSet {
    pub const EMPTY: FieldSet = FieldSet(0);

    /// `index` is below `HEADER_COUNT_MAX`.
    #[inline]
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << (index & 127);
    }

    #[inline]
    pub fn contains(self, index: usize) -> bool {
        index < HEADER_COUNT_MAX && self.0 >> index & 1 == 1
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    #[inline]
    #[must_use]
    pub fn union(self, other: FieldSet) -> FieldSet {
        FieldSet(self.0 | other.0)
    }

    /// The positions, in ascending order.
    #[inline]
    pub fn iter(self) -> FieldSetIter {
        FieldSetIter(self.0)
    }
}

impl fmt::Debug for FieldSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl IntoIterator for FieldSet {
    type Item = usize;
    type IntoIter = FieldSetIter;

    fn into_iter(self) -> FieldSetIter {
        self.iter()
    }
}

#[derive(Debug, Clone)]
pub struct FieldSetIter(u128);

impl Iterator for FieldSetIter {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(index)
    }
}

/// Where a part of a head stands in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part` stands in `whole`, which it is a part of. An empty part stands nowhere, and may come from anywhere.
    #[inline]
    fn of(part: &[u8], whole: &[u8]) -> Self {
        if part.is_empty() {
            return Self::default();
        }
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        debug_assert!(start + part.len() <= whole.len());
        Self { start: start as u32, end: (start + part.len()) as u32 }
    }

    #[inline]
    fn text(self, whole: &[u8]) -> &[u8] {
        whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Where one field's name and value stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldIndex {
    name: Span,
    value: Span,
}

impl FieldIndex {
    #[inline]
    pub(crate) fn of(name: &[u8], value: &[u8], whole: &[u8]) -> Self {
        Self { name: Span::of(name, whole), value: Span::of(value, whole) }
    }
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// A token, as it was sent.
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl Header<'_> {
    /// Whether this is its name, in whatever case.
    #[inline]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of one head and the bytes they came from.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// The head from its start line to the closing empty line. Each field is a part of it.
    pub raw: &'a [u8],
    index: &'a [FieldIndex],
}

impl<'a> Fields<'a> {
    /// `index` is of `raw`.
    #[inline]
    pub(crate) fn new(raw: &'a [u8], index: &'a [FieldIndex]) -> Self {
        Self { raw, index }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All of them, in their order.
    #[inline]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Header<'a>> + ExactSizeIterator + use<'a> {
        let raw = self.raw;
        self.index.iter().map(move |at| Header { name: at.name.text(raw), value: at.value.text(raw) })
    }

    /// The field at this place.
    #[inline]
    pub fn at(&self, index: usize) -> Option<Header<'a>> {
        let at = self.index.get(index)?;
        Some(Header { name: at.name.text(self.raw), value: at.value.text(self.raw) })
    }

    /// The value of the first field of that name, in whatever case.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        // Most names fail by their length, before their bytes are looked at.
        let is = |at: &&FieldIndex| {
            (at.name.end - at.name.start) as usize == name.len()
                && at.name.text(self.raw).eq_ignore_ascii_case(name.as_bytes())
        };
        self.index.iter().find(is).map(|at| at.value.text(self.raw))
    }

    /// The values of all fields of that name, in order.
    #[inline]
    pub fn values<'n>(&self, name: &'n str) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, 'n> {
        self.iter().filter(move |header| header.is(name)).map(|header| header.value)
    }

    /// The places of all fields that agree.
    pub fn places(&self, agrees: impl Fn(Header<'a>) -> bool) -> FieldSet {
        let mut set = FieldSet::EMPTY;
        for (index, header) in self.iter().enumerate() {
            if agrees(header) {
                set.insert(index);
            }
        }
        set
    }

    /// Whether a line is `Name:value` with at most a space before the value and nothing behind it.
    #[inline]
    pub fn is_tidy(&self, index: usize) -> bool {
        let Some(header) = self.at(index) else { return true };
        // The name, the colon, a space, the value and CRLF; without the space it is one less.
        let plain = header.name.len() + header.value.len() + 4;
        let start = self.line_start(index);
        let line = self.line_start(index + 1) - start;
        match self.raw.get(start + header.name.len() + 1) {
            Some(b' ') => line == plain,
            _ => line == plain - 1,
        }
    }

    /// Where the line of field `index` starts in `raw`; for the first index past the last, where the fields end.
    #[inline]
    pub fn line_start(&self, index: usize) -> usize {
        self.index.get(index).map_or(self.raw.len() - 2, |at| at.name.start as usize)
    }
}

/// Where everything of one head stands, and what it says. It is filled by a parser, and can be used again for the next
/// head, with the memory that it has.
#[derive(Debug, Clone, Default)]
pub struct HeadIndex<F> {
    pub(crate) fields: Vec<FieldIndex>,
    /// Empty lines before the head.
    pub(crate) skipped: usize,
    pub facts: F,
}

pub type RequestIndex = HeadIndex<RequestFacts>;

pub type ResponseIndex = HeadIndex<ResponseFacts>;

impl RequestIndex {
    /// The head that this is the index of. `bytes` begin with what was parsed.
    #[inline]
    pub fn head<'a>(&'a self, bytes: &'a [u8]) -> RequestHead<'a> {
        let raw = bytes.get(self.skipped..self.facts.head_bytes).unwrap_or_default();
        RequestHead { fields: Fields { raw, index: &self.fields }, facts: &self.facts }
    }
}

impl ResponseIndex {
    /// The head that this is the index of. `bytes` begin with what was parsed.
    #[inline]
    pub fn head<'a>(&'a self, bytes: &'a [u8]) -> ResponseHead<'a> {
        let raw = bytes.get(..self.facts.head_bytes).unwrap_or_default();
        ResponseHead { fields: Fields { raw, index: &self.fields }, facts: &self.facts }
    }
}

/// A request's head with its bytes, at its own size: for whoever must give its buffer back and needs the head later.
#[derive(Debug, Clone)]
pub struct OwnedRequest {
    bytes: Box<[u8]>,
    index: RequestIndex,
}

impl OwnedRequest {
    /// A copy of the head that `bytes` begin with. Takes the index, which needs no copy.
    pub fn new(bytes: &[u8], index: RequestIndex) -> Self {
        Self { bytes: bytes[..index.facts.head_bytes].into(), index }
    }

    #[inline]
    pub fn head(&self) -> RequestHead<'_> {
        self.index.head(&self.bytes)
    }

    /// The index, so that its memory can be used again.
    pub fn into_index(self) -> RequestIndex {
        self.index
    }
}

/// Where the parts of a target stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TargetIndex {
    Origin {
        path: Span,
        query: Option<Span>,
    },
    Absolute {
        scheme: Scheme,
        authority: Span,
        path: Span,
        query: Option<Span>,
    },
    Authority {
        host: Span,
        port: u16,
    },
    #[default]
    Asterisk,
}

/// What a request head says. Its texts are places in its bytes: [`RequestHead`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestFacts {
    pub method: Method,
    pub version: Version,
    /// Bytes of the buffer that the head took, skipped empty lines included. The body starts there.
    pub head_bytes: usize,
    pub body: BodyLength,
    /// Whether the client lets the connection live on, by version and Connection.
    pub keep_alive: bool,
    /// `Expect: 100-continue`, never from an HTTP/1.0 client (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
    /// `TE: trailers`.
    pub te_trailers: bool,
    /// Fields that end here and must not be forwarded.
    pub hop_by_hop: FieldSet,
    /// X-Forwarded-*, Forwarded and X-Real-IP: what a client may say about itself only when it is trusted.
    pub forwarding: FieldSet,
    /// The Host field.
    pub host_fields: FieldSet,
    /// The Content-Length field.
    pub length_fields: FieldSet,
    /// The Expect fields.
    pub expect_fields: FieldSet,
    /// It carries credentials of NTLM or Negotiate, which authenticate the connection.
    pub authenticates_connection: bool,
    pub(crate) method_at: Span,
    pub(crate) target_at: TargetIndex,
    pub(crate) target_text_at: Span,
    pub(crate) host_at: Span,
    pub(crate) upgrade_at: Option<Span>,
}

/// The texts of a request head, as a parser found them: parts of its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestTexts<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) target: Target<'a>,
    pub(crate) target_text: &'a [u8],
    pub(crate) host: &'a [u8],
    pub(crate) upgrade: Option<&'a [u8]>,
}

impl RequestFacts {
    /// Notes where the texts stand in `raw`, the head without the empty lines before it.
    #[inline]
    pub(crate) fn note_texts(&mut self, texts: &RequestTexts<'_>, raw: &[u8]) {
        let at = |text| Span::of(text, raw);
        self.target_at = match texts.target {
            Target::Origin { path, query } => TargetIndex::Origin { path: at(path), query: query.map(at) },
            Target::Absolute { scheme, authority, path, query } => {
                let (authority, path, query) = (at(authority), at(path), query.map(at));
                TargetIndex::Absolute { scheme, authority, path, query }
            }
            Target::Authority { host, port } => TargetIndex::Authority { host: at(host), port },
            Target::Asterisk => TargetIndex::Asterisk,
        };
        self.method_at = at(texts.method);
        self.target_text_at = at(texts.target_text);
        self.host_at = at(texts.host);
        self.upgrade_at = texts.upgrade.map(at);
    }
}

/// A request head that passed every rule of `http1::parse` and `framing`. What it says without texts stands in
/// [`RequestFacts`], as which it can be read.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub fields: Fields<'a>,
    facts: &'a RequestFacts,
}

impl Deref for RequestHead<'_> {
    type Target = RequestFacts;

    #[inline]
    fn deref(&self) -> &RequestFacts {
        self.facts
    }
}

impl<'a> RequestHead<'a> {
    /// The method as it came.
    #[inline]
    pub fn method_text(&self) -> &'a [u8] {
        self.facts.method_at.text(self.fields.raw)
    }

    #[inline]
    pub fn target(&self) -> Target<'a> {
        let text = |span: Span| span.text(self.fields.raw);
        match self.facts.target_at {
            TargetIndex::Origin { path, query } => {
                Target::Origin { path: text(path), query: query.map(text) }
            }
            TargetIndex::Absolute { scheme, authority, path, query } => {
                let (authority, path, query) = (text(authority), text(path), query.map(text));
                Target::Absolute { scheme, authority, path, query }
            }
            TargetIndex::Authority { host, port } => Target::Authority { host: text(host), port },
            TargetIndex::Asterisk => Target::Asterisk,
        }
    }

    /// The target's [path](Target::path).
    #[inline]
    pub fn path(&self) -> &'a [u8] {
        match self.facts.target_at {
            TargetIndex::Origin { path, .. } => path.text(self.fields.raw),
            _ => self.target().path(),
        }
    }

    /// The target's [query](Target::query).
    #[inline]
    pub fn query(&self) -> Option<&'a [u8]> {
        match self.facts.target_at {
            TargetIndex::Origin { query, .. } => query.map(|span| span.text(self.fields.raw)),
            _ => self.target().query(),
        }
    }

    /// The target as it came.
    #[inline]
    pub fn target_text(&self) -> &'a [u8] {
        self.facts.target_text_at.text(self.fields.raw)
    }

    /// The effective authority (RFC 9112 section 3.3): of the target in absolute-form or authority-form, else of Host.
    /// Empty only for an HTTP/1.0 request without Host.
    #[inline]
    pub fn host(&self) -> &'a [u8] {
        self.facts.host_at.text(self.fields.raw)
    }

    /// The value of Upgrade if Connection names it, the version is 1.1 and there is just one such field.
    #[inline]
    pub fn upgrade(&self) -> Option<&'a [u8]> {
        self.facts.upgrade_at.map(|span| span.text(self.fields.raw))
    }

    pub fn facts(&self) -> &'a RequestFacts {
        self.facts
    }

    /// The same head with other facts, for whoever sends it on as something else.
    pub fn with<'s>(&self, facts: &'s RequestFacts) -> RequestHead<'s>
    where
        'a: 's,
    {
        RequestHead { fields: self.fields, facts }
    }

    /// The value of the first field of that name, in whatever case.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.fields.header(name)
    }
}

/// What a response head says. Its texts are places in its bytes: [`ResponseHead`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseFacts {
    pub status: Status,
    pub version: Version,
    /// Bytes of the buffer that the head took. The body starts there.
    pub head_bytes: usize,
    pub body: BodyLength,
    /// Whether the connection can carry another request after this response: by version, Connection and framing.
    pub keep_alive: bool,
    /// Fields that end here and must not be forwarded.
    pub hop_by_hop: FieldSet,
    /// The Content-Length field.
    pub length_fields: FieldSet,
    pub has_date: bool,
    /// It offers NTLM or Negotiate, which authenticate the connection.
    pub authenticates_connection: bool,
    pub(crate) reason_at: Span,
    pub(crate) upgrade_at: Option<Span>,
}

impl ResponseFacts {
    /// Notes where the texts stand in `raw`.
    #[inline]
    pub(crate) fn with_texts(self, reason: &[u8], upgrade: Option<&[u8]>, raw: &[u8]) -> Self {
        Self { reason_at: Span::of(reason, raw), upgrade_at: upgrade.map(|text| Span::of(text, raw)), ..self }
    }
}

/// A response head that passed every rule of `http1::parse` and `framing`. What it says without texts stands in
/// [`ResponseFacts`], as which it can be read.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    pub fields: Fields<'a>,
    facts: &'a ResponseFacts,
}

impl Deref for ResponseHead<'_> {
    type Target = ResponseFacts;

    #[inline]
    fn deref(&self) -> &ResponseFacts {
        self.facts
    }
}

impl<'a> ResponseHead<'a> {
    /// Empty when the origin sent none or one that is not ASCII.
    #[inline]
    pub fn reason(&self) -> &'a [u8] {
        self.facts.reason_at.text(self.fields.raw)
    }

    /// The value of Upgrade if Connection names it, the version is 1.1 and there is just one such field.
    #[inline]
    pub fn upgrade(&self) -> Option<&'a [u8]> {
        self.facts.upgrade_at.map(|span| span.text(self.fields.raw))
    }

    pub fn facts(&self) -> &'a ResponseFacts {
        self.facts
    }

    /// The same head with other facts, for whoever sends it on as something else.
    pub fn with<'s>(&self, facts: &'s ResponseFacts) -> ResponseHead<'s>
    where
        'a: 's,
    {
        ResponseHead { fields: self.fields, facts }
    }

    /// The value of the first field of that name, in whatever case.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.fields.header(name)
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyLength {
    /// No body can follow, whatever the fields say.
    #[default]
    None,
    /// Exactly so many bytes, maybe 0.
    Length(u64),
    /// Until the last chunk and its trailer section.
    Chunked,
    /// Until the connection closes: responses only.
    UntilClose,
}

#[cfg(test)]
mod tests {
    use super::{FieldSet, Method, OwnedRequest, RequestIndex, Status, Target};
    use crate::http::http1::parse::{HeadLimits, Parsed, parse_request};

    #[test]
    fn an_index_outlives_the_bytes_that_it_was_made_from() {
        let text =
            b"\r\nGET http://a.test/p?q HTTP/1.1\r\nHost: a.test\r\nCookie: x=1\r\ncookie:\r\n\r\nnext";
        let mut index = RequestIndex::default();
        let parsed = parse_request(text, &mut index, &HeadLimits::default());
        assert!(matches!(parsed, Ok(Parsed::Complete(_))));
        let moved = text.to_vec();
        let owned = OwnedRequest::new(text, index.clone());
        for head in [index.head(&moved), owned.head()] {
            assert_eq!((head.method_text(), head.host()), (&b"GET"[..], &b"a.test"[..]));
            assert!(matches!(head.target(), Target::Absolute { path: b"/p", query: Some(b"q"), .. }));
            assert_eq!((head.upgrade(), head.header("COOKIE")), (None, Some(&b"x=1"[..])));
            assert_eq!(head.fields.values("cookie").collect::<Vec<_>>(), [&b"x=1"[..], b""]);
            assert_eq!(head.fields.at(0).map(|host| host.name), Some(&b"Host"[..]));
            assert!(head.fields.at(3).is_none());
            assert_eq!(moved[head.head_bytes..], *b"next");
        }
        // The memory of one index serves the next head.
        let fields = owned.index.fields.capacity();
        let mut index = owned.into_index();
        let parsed = parse_request(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", &mut index, &HeadLimits::default());
        assert!(
            matches!(parsed, Ok(Parsed::Complete(head)) if head.host() == b"b" && head.fields.len() == 1)
        );
        assert_eq!(index.fields.capacity(), fields);
    }

    #[test]
    fn methods() {
        let table: &[(&[u8], Method, bool, bool)] = &[
            (b"GET", Method::Get, true, true),
            (b"HEAD", Method::Head, true, true),
            (b"POST", Method::Post, false, false),
            (b"PUT", Method::Put, false, true),
            (b"DELETE", Method::Delete, false, true),
            (b"CONNECT", Method::Connect, false, false),
            (b"OPTIONS", Method::Options, true, true),
            (b"TRACE", Method::Trace, true, true),
            (b"PATCH", Method::Patch, false, false),
            (b"get", Method::Other, false, false),
            (b"PROPFIND", Method::Other, false, false),
        ];
        for &(text, method, safe, idempotent) in table {
            assert_eq!(Method::from_text(text), method);
            assert_eq!((method.is_safe(), method.is_idempotent()), (safe, idempotent), "{method:?}");
        }
    }

    #[test]
    fn statuses() {
        assert!(Status(103).is_informational() && !Status(200).is_informational());
        assert!(Status(204).is_success() && Status(304).is_redirection() && Status(404).is_client_error());
        assert!(Status(500).is_server_error() && Status(999).is_server_error());
        assert_eq!((Status(431).reason(), Status(299).reason()), ("Request Header Fields Too Large", ""));
    }

    #[test]
    fn field_sets() {
        let mut set = FieldSet::EMPTY;
        for index in [127, 0, 64, 5, 5] {
            set.insert(index);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 64, 127]);
        assert_eq!(set.len(), 4);
        assert!(set.contains(127) && !set.contains(126) && !set.contains(128));
        assert_eq!(set.union(FieldSet(2)).len(), 5);
    }
}
