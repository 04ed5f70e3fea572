//! What a parsed message is: borrowed views into the read buffer, with every fact that forwarding needs already found.
//!
//! Nothing here parses or validates; `http1::parse` builds these, and after that an invalid head can't exist. A head
//! borrows both from the buffer that it was read into ('b) and from the slots its fields stand in ('h).

use std::fmt;
use std::mem::MaybeUninit;

use crate::base::limits::HEADER_COUNT_MAX;

pub use httparse::Header;

/// HTTP/1.x as this layer knows it; anything else is refused with 505.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    Http11,
}

/// What a message came over. Its form is HTTP/1.1 either way (`http2`), but Via and log lines tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Http1,
    Http2,
}

/// The methods of RFC 9110 and RFC 5789. Any other keeps its text in `RequestHead::method_text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
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

/// Where the fields of one head stand: 4 KiB of stack that is never cleared, as httparse writes before anybody reads.
pub struct HeaderSlots<'b>(pub(crate) [MaybeUninit<Header<'b>>; HEADER_COUNT_MAX]);

impl HeaderSlots<'_> {
    #[inline]
    pub const fn new() -> Self {
        HeaderSlots([const { MaybeUninit::uninit() }; HEADER_COUNT_MAX])
    }
}

impl Default for HeaderSlots<'_> {
    fn default() -> Self {
        HeaderSlots::new()
    }
}

impl fmt::Debug for HeaderSlots<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeaderSlots")
    }
}

/// The fields of one head and the bytes they came from.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'h, 'b> {
    /// The head from its start line to the closing empty line. Each field is a part of it.
    pub raw: &'b [u8],
    pub headers: &'h [Header<'b>],
}

impl<'h, 'b> Fields<'h, 'b> {
    pub fn as_slice(&self) -> &'h [Header<'b>] {
        self.headers
    }

    pub fn len(&self) -> usize {
        self.headers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// The value of the first field of that name, in whatever case.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The values of all fields of that name, in order.
    #[inline]
    pub fn values<'n>(&self, name: &'n str) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'h, 'b, 'n> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// Whether a line is `Name:value` with at most a space before the value and nothing behind it.
    #[inline]
    pub fn is_tidy(&self, index: usize) -> bool {
        let Some(header) = self.headers.get(index) else { return true };
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
        match self.headers.get(index) {
            Some(header) => header.name.as_ptr().addr() - self.raw.as_ptr().addr(),
            None => self.raw.len() - 2,
        }
    }
}

/// A request head that passed every rule of `http1::parse` and `framing`.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'h, 'b> {
    pub method: Method,
    pub method_text: &'b [u8],
    pub target: Target<'b>,
    /// The target as it came.
    pub target_text: &'b [u8],
    pub version: Version,
    pub fields: Fields<'h, 'b>,
    /// Bytes of the buffer that the head took, skipped empty lines included. The body starts there.
    pub head_bytes: usize,
    /// The effective authority (RFC 9112 section 3.3): of the target in absolute-form or authority-form, else of Host.
    /// Empty only for an HTTP/1.0 request without Host.
    pub host: &'b [u8],
    pub body: BodyLength,
    /// Whether the client lets the connection live on, by version and Connection.
    pub keep_alive: bool,
    /// `Expect: 100-continue`, never from an HTTP/1.0 client (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
    /// The value of Upgrade if Connection names it, the version is 1.1 and there is just one such field.
    pub upgrade: Option<&'b [u8]>,
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
}

impl<'h, 'b> RequestHead<'h, 'b> {
    pub fn headers(&self) -> &'h [Header<'b>] {
        self.fields.headers
    }

    /// The value of the first field of that name, in whatever case.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.header(name)
    }
}

/// A response head that passed every rule of `http1::parse` and `framing`.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'h, 'b> {
    pub status: Status,
    /// Empty when the origin sent none or one that is not ASCII.
    pub reason: &'b str,
    pub version: Version,
    pub fields: Fields<'h, 'b>,
    /// Bytes of the buffer that the head took. The body starts there.
    pub head_bytes: usize,
    pub body: BodyLength,
    /// Whether the connection can carry another request after this response: by version, Connection and framing.
    pub keep_alive: bool,
    /// The value of Upgrade if Connection names it, the version is 1.1 and there is just one such field.
    pub upgrade: Option<&'b [u8]>,
    /// Fields that end here and must not be forwarded.
    pub hop_by_hop: FieldSet,
    /// The Content-Length field.
    pub length_fields: FieldSet,
    pub has_date: bool,
    /// It offers NTLM or Negotiate, which authenticate the connection.
    pub authenticates_connection: bool,
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    pub fn headers(&self) -> &'h [Header<'b>] {
        self.fields.headers
    }

    /// The value of the first field of that name, in whatever case.
    #[inline]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.header(name)
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// No body can follow, whatever the fields say.
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
    use super::{FieldSet, Method, Status};

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
