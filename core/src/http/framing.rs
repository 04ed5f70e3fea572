//! Where a body ends, and every rule whose breach lets two readers disagree about it.
//!
//! One function decides the body length for both directions. It has no lenient mode: a message that two servers could
//! read differently is refused, not repaired, because a proxy that repairs it picks one of the two readings for
//! somebody else. Called by `http1::parse`; `relay` by whoever sends a response on.

use crate::base::reason::ReasonCode;
pub use crate::http::message::BodyLength;
use crate::http::message::{Method, Status, Version};
use std::fmt;

impl BodyLength {
    /// Nothing follows the head on the wire.
    pub fn is_empty(self) -> bool {
        matches!(self, BodyLength::None | BodyLength::Length(0))
    }
}

/// Who sent the bytes in question, and so who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
}

/// A head that is refused: which rule it broke and who sent it. After one, the connection can't be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadError {
    pub rule: HeadRule,
    pub side: Side,
}

impl HeadError {
    /// A stable code for logs and metrics.
    pub fn reason(&self) -> ReasonCode {
        self.rule.reason()
    }

    /// What the client is told: the rule's own status for its request, 502 for an origin's response.
    pub fn status(&self) -> u16 {
        match self.side {
            Side::Downstream => self.rule.request_status(),
            Side::Upstream => 502,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sender = match self.side {
            Side::Downstream => "request",
            Side::Upstream => "response",
        };
        write!(f, "{sender} head refused: {}", self.reason())
    }
}

impl std::error::Error for HeadError {}

/// Declares the rules with, for each, its reason code and the status that a request earns by breaking it.
macro_rules! head_rules {
    ($($(#[$doc:meta])* $name:ident = $reason:ident, $status:literal;)*) => {
        /// Every rule that a head can break. One variant for each, so that counters and tests can tell them apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum HeadRule { $($(#[$doc])* $name,)* }

        impl HeadRule {
            /// All of them, for metrics that are registered up front.
            pub const ALL: &[HeadRule] = &[$(HeadRule::$name,)*];

            pub fn reason(self) -> ReasonCode {
                match self { $(HeadRule::$name => ReasonCode::$reason,)* }
            }

            fn request_status(self) -> u16 {
                match self { $(HeadRule::$name => $status,)* }
            }
        }
    };
}

head_rules! {
    /// The request target is longer than `HeadLimits::uri_bytes`.
    UriTooLong = UriTooLong, 414;
    /// The head is longer than `HeadLimits::header_bytes`.
    HeadTooLarge = HeaderBytes, 431;
    /// More fields than `HeadLimits::header_count`.
    TooManyFields = HeaderCount, 431;
    /// More empty lines before the request line than `LEADING_EMPTY_LINE_COUNT_MAX`.
    LeadingEmptyLines = LeadingEmptyLines, 400;
    /// Not `method SP target SP version CRLF`, to the byte.
    RequestLine = RequestLine, 400;
    /// Not `version SP 3DIGIT [SP reason] CRLF`, or a status below 100.
    StatusLine = StatusLine, 400;
    /// Not an upper-case token. Methods are case-sensitive (RFC 9110 section 9.1), but some origins fold them.
    MethodInvalid = MethodInvalid, 400;
    /// Longer than `METHOD_BYTES_MAX`.
    MethodTooLong = MethodTooLong, 501;
    /// Neither HTTP/1.0 nor HTTP/1.1; HTTP/0.9 too.
    VersionUnsupported = VersionUnsupported, 505;
    /// LF without CR before it. RFC 9112 section 2.2 lets a reader accept it; some take it for data.
    BareLf = BareLf, 400;
    /// CR without LF after it, RFC 9112 section 2.2.
    BareCr = BareCr, 400;
    /// NUL, DEL or another control character in a start line, a name or a value, RFC 9110 section 5.5.
    ControlCharacter = ControlCharacter, 400;
    /// A line that starts with white space, RFC 9112 section 5.2.
    ObsFold = ObsFold, 400;
    /// White space between name and colon, RFC 9112 section 5.1.
    SpaceBeforeColon = SpaceBeforeColon, 400;
    /// A field name that is no token, or no colon at all.
    FieldName = FieldName, 400;
    /// `Content_Length` and the like: some servers fold '_' to '-'.
    FramingImpostor = FramingImpostor, 400;
    /// Not one of the four forms, or not the one that the method asks for, RFC 9112 section 3.2.
    TargetForm = TargetForm, 400;
    TargetControl = TargetControl, 400;
    TargetNonAscii = TargetNonAscii, 400;
    TargetFragment = TargetFragment, 400;
    /// Absolute-form with a scheme other than http and https.
    TargetScheme = TargetScheme, 400;
    /// Absolute-form or authority-form with a bad authority.
    TargetAuthority = TargetAuthority, 400;
    /// HTTP/1.1 without Host, RFC 9112 section 3.2.
    HostMissing = HostMissing, 400;
    HostRepeated = HostRepeated, 400;
    HostInvalid = HostInvalid, 400;
    /// The target's authority and Host name different hosts. RFC 9112 section 3.2.2 has the target win, and an origin
    /// behind us that reads only Host then serves another site than the one we authorised.
    HostMismatch = HostMismatch, 400;
    /// Content-Length and Transfer-Encoding together, RFC 9112 section 6.1.
    LengthAndCoding = ClAndTe, 400;
    /// Content-Length twice, in two fields or in a list, even if equal: no honest client sends it.
    LengthRepeated = ClRepeated, 400;
    /// Content-Length that isn't digits only.
    LengthInvalid = ClInvalid, 400;
    /// Content-Length beyond 64 bits.
    LengthOverflow = ClOverflow, 400;
    /// Transfer-Encoding in HTTP/1.0, RFC 9112 section 6.1.
    CodingInHttp10 = TeHttp10, 400;
    /// Transfer-Encoding that isn't a list of codings, or has empty members.
    CodingMalformed = TeMalformed, 400;
    /// A transfer coding other than chunked, RFC 9112 section 6.1.
    CodingUnsupported = TeUnsupported, 501;
    /// chunked is there, but isn't last, RFC 9112 section 6.3 rule 4.
    ChunkedNotLast = TeChunkedNotLast, 400;
    /// chunked twice, or two Transfer-Encoding fields.
    ChunkedRepeated = TeRepeated, 400;
    /// CONNECT or TRACE with a body: RFC 9110 sections 9.3.6 and 9.3.8 give it no meaning.
    MethodWithBody = MethodWithBody, 400;
    /// A member of Connection that is no token.
    ConnectionMalformed = ConnectionMalformed, 400;
    /// Connection names a field that is meant for the origin: obeying would strip it on its way.
    ConnectionProtected = ConnectionProtected, 400;
    /// More members than `CONNECTION_OPTION_COUNT_MAX`.
    ConnectionTooLong = ConnectionTooLong, 400;
    /// An expectation other than 100-continue, RFC 9110 section 10.1.1.
    ExpectUnknown = ExpectUnknown, 417;
}

/// The start line, as far as framing needs it.
#[derive(Debug, Clone, Copy)]
pub enum StartLine {
    Request { method: Method, version: Version },
    Response { to: Method, status: Status, version: Version },
}

/// What the framing fields of one head say, each already checked by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct FramingFields {
    pub content_length: Option<u64>,
    /// Transfer-Encoding is there and is exactly `chunked`.
    pub chunked: bool,
}

/// The length of a message's body, RFC 9112 section 6.3. In its order:
///
/// 0. Transfer-Encoding in an HTTP/1.0 message, and Transfer-Encoding together with Content-Length, mean that the
///    sender or somebody before it is confused or hostile (section 6.1): refused, before any rule that would make the
///    fields irrelevant, since another reader may look at them first.
/// 1. A response to HEAD, and any 1xx, 204 or 304, ends with its head.
/// 2. A 2xx response to CONNECT turns the connection into a tunnel: there is no body.
/// 3. Transfer-Encoding overrides Content-Length: we refuse the pair, rule 0.
/// 4. Transfer-Encoding whose last coding is chunked: chunked. Any other coding was refused when the field was read,
///    on both sides; so a response never gets to "until close" by way of an unknown coding.
/// 5. An invalid Content-Length was refused when the field was read; a repeated one also, even if the values agree.
/// 6. A valid Content-Length: so many bytes.
/// 7. A request with neither: no body.
/// 8. A response with neither: until the connection closes.
///
/// RFC 9110 adds that CONNECT and TRACE requests have no content; one that announces some is refused.
pub fn body_length(start: StartLine, fields: FramingFields) -> Result<BodyLength, HeadRule> {
    let (StartLine::Request { version, .. } | StartLine::Response { version, .. }) = start;
    if fields.chunked {
        if version == Version::Http10 {
            return Err(HeadRule::CodingInHttp10);
        }
        if fields.content_length.is_some() {
            return Err(HeadRule::LengthAndCoding);
        }
    }
    match start {
        StartLine::Request { method, .. } => {
            let length = match fields {
                FramingFields { chunked: true, .. } => BodyLength::Chunked,
                FramingFields { content_length: Some(length), .. } => BodyLength::Length(length),
                FramingFields { .. } => return Ok(BodyLength::None),
            };
            if matches!(method, Method::Connect | Method::Trace) && !length.is_empty() {
                return Err(HeadRule::MethodWithBody);
            }
            Ok(length)
        }
        StartLine::Response { to, status, .. } => {
            let ends_with_head = to == Method::Head
                || status.is_informational()
                || status == Status::NO_CONTENT
                || status == Status::NOT_MODIFIED
                || (to == Method::Connect && status.is_success());
            Ok(match fields {
                _ if ends_with_head => BodyLength::None,
                FramingFields { chunked: true, .. } => BodyLength::Chunked,
                FramingFields { content_length: Some(length), .. } => BodyLength::Length(length),
                FramingFields { .. } => BodyLength::UntilClose,
            })
        }
    }
}

/// Whether Content-Length says nothing true in such a response and must not be forwarded: RFC 9110 section 8.6 forbids
/// it in 1xx, 204 and 2xx to CONNECT, but in answers to HEAD and in 304 it tells the length that a GET would have had.
pub(crate) fn length_is_void(to: Method, status: Status) -> bool {
    status.is_informational()
        || status == Status::NO_CONTENT
        || (to == Method::Connect && status.is_success())
}

/// How a body that the origin framed one way is framed towards the client: HTTP/1.0 doesn't know chunks, and an
/// HTTP/1.1 client keeps its connection when a body that ran until close is chunked.
pub fn relay(origin: BodyLength, client: Version) -> BodyLength {
    match (origin, client) {
        (BodyLength::Chunked, Version::Http10) => BodyLength::UntilClose,
        (BodyLength::UntilClose, Version::Http11) => BodyLength::Chunked,
        (same, _) => same,
    }
}

/// Reads a Content-Length value, already trimmed.
#[inline]
pub fn content_length(value: &[u8]) -> Result<u64, HeadRule> {
    crate::http::grammar::parse_decimal(value).ok_or_else(|| why_no_length(value))
}

#[cold]
fn why_no_length(value: &[u8]) -> HeadRule {
    if value.contains(&b',') {
        HeadRule::LengthRepeated
    } else if !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
        HeadRule::LengthOverflow
    } else {
        HeadRule::LengthInvalid
    }
}

/// Accepts a Transfer-Encoding value that is exactly `chunked`.
#[inline]
pub(crate) fn transfer_coding(value: &[u8]) -> Result<(), HeadRule> {
    if value.eq_ignore_ascii_case(b"chunked") { Ok(()) } else { Err(why_not_chunked(value)) }
}

#[cold]
fn why_not_chunked(value: &[u8]) -> HeadRule {
    use crate::http::grammar::{is_token, trim};
    let codings = || value.split(|&byte| byte == b',').map(trim);
    // A coding may carry parameters (RFC 9110 section 10.1.4), chunked may not.
    let name = |coding: &[u8]| match memchr::memchr(b';', coding) {
        Some(end) => trim(&coding[..end]).to_ascii_lowercase(),
        None => coding.to_ascii_lowercase(),
    };
    if codings().any(|coding| !is_token(&name(coding))) {
        return HeadRule::CodingMalformed;
    }
    let chunked = |coding: &[u8]| name(coding) == b"chunked";
    match codings().filter(|coding| chunked(coding)).count() {
        0 => HeadRule::CodingUnsupported,
        1 if codings().count() == 1 => HeadRule::CodingMalformed,
        1 if codings().next_back().is_some_and(chunked) => HeadRule::CodingUnsupported,
        1 => HeadRule::ChunkedNotLast,
        _ => HeadRule::ChunkedRepeated,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BodyLength, FramingFields, HeadRule, StartLine, body_length, content_length, relay, transfer_coding,
    };
    use crate::http::message::{Method, Status, Version};

    #[test]
    fn lengths() {
        use Version::{Http10, Http11};
        let none = FramingFields::default();
        let five = FramingFields { content_length: Some(5), chunked: false };
        let chunked = FramingFields { content_length: None, chunked: true };
        let both = FramingFields { content_length: Some(5), chunked: true };
        let request = |method, version| StartLine::Request { method, version };
        let response = |to, status, version| StartLine::Response { to, status: Status(status), version };
        let table = [
            (request(Method::Get, Http11), none, Ok(BodyLength::None)),
            (request(Method::Get, Http11), five, Ok(BodyLength::Length(5))),
            (request(Method::Delete, Http11), chunked, Ok(BodyLength::Chunked)),
            (request(Method::Post, Http10), five, Ok(BodyLength::Length(5))),
            (request(Method::Post, Http10), none, Ok(BodyLength::None)),
            (request(Method::Post, Http10), chunked, Err(HeadRule::CodingInHttp10)),
            (request(Method::Post, Http11), both, Err(HeadRule::LengthAndCoding)),
            (request(Method::Connect, Http11), none, Ok(BodyLength::None)),
            (request(Method::Connect, Http11), five, Err(HeadRule::MethodWithBody)),
            (request(Method::Trace, Http11), chunked, Err(HeadRule::MethodWithBody)),
            (response(Method::Get, 200, Http11), none, Ok(BodyLength::UntilClose)),
            (response(Method::Get, 200, Http11), five, Ok(BodyLength::Length(5))),
            (response(Method::Get, 200, Http11), chunked, Ok(BodyLength::Chunked)),
            (response(Method::Get, 200, Http10), chunked, Err(HeadRule::CodingInHttp10)),
            (response(Method::Get, 200, Http11), both, Err(HeadRule::LengthAndCoding)),
            (response(Method::Head, 200, Http11), five, Ok(BodyLength::None)),
            (response(Method::Head, 200, Http11), both, Err(HeadRule::LengthAndCoding)),
            (response(Method::Get, 204, Http11), five, Ok(BodyLength::None)),
            (response(Method::Get, 304, Http11), five, Ok(BodyLength::None)),
            (response(Method::Get, 101, Http11), chunked, Ok(BodyLength::None)),
            (response(Method::Connect, 200, Http11), five, Ok(BodyLength::None)),
            (response(Method::Connect, 403, Http11), five, Ok(BodyLength::Length(5))),
        ];
        for (start, fields, expected) in table {
            assert_eq!(body_length(start, fields), expected, "{start:?} {fields:?}");
        }
    }

    #[test]
    fn length_values() {
        assert_eq!(content_length(b"0"), Ok(0));
        assert_eq!(content_length(b"18446744073709551615"), Ok(u64::MAX));
        let refused: &[(&[u8], HeadRule)] = &[
            (b"", HeadRule::LengthInvalid),
            (b"+5", HeadRule::LengthInvalid),
            (b"-5", HeadRule::LengthInvalid),
            (b"5 5", HeadRule::LengthInvalid),
            (b"0x5", HeadRule::LengthInvalid),
            (b"5\x0b", HeadRule::LengthInvalid),
            (b"5, 5", HeadRule::LengthRepeated),
            (b"5,6", HeadRule::LengthRepeated),
            (b"18446744073709551616", HeadRule::LengthOverflow),
        ];
        for &(value, rule) in refused {
            assert_eq!(content_length(value), Err(rule), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn codings() {
        assert_eq!(transfer_coding(b"Chunked"), Ok(()));
        let refused: &[(&[u8], HeadRule)] = &[
            (b"", HeadRule::CodingMalformed),
            (b",chunked", HeadRule::CodingMalformed),
            (b"chunked,", HeadRule::CodingMalformed),
            (b"\"chunked\"", HeadRule::CodingMalformed),
            (b"chunked chunked", HeadRule::CodingMalformed),
            (b"chunked;q=1", HeadRule::CodingMalformed),
            (b"\x0bchunked", HeadRule::CodingMalformed),
            (b"xchunked", HeadRule::CodingUnsupported),
            (b"identity", HeadRule::CodingUnsupported),
            (b"gzip, chunked", HeadRule::CodingUnsupported),
            (b"foo;a=b", HeadRule::CodingUnsupported),
            (b"chunked, gzip", HeadRule::ChunkedNotLast),
            (b"chunked, identity", HeadRule::ChunkedNotLast),
            (b"chunked, chunked", HeadRule::ChunkedRepeated),
        ];
        for &(value, rule) in refused {
            assert_eq!(transfer_coding(value), Err(rule), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn relaying() {
        use BodyLength::{Chunked, Length, None, UntilClose};
        for (origin, to_10, to_11) in [
            (None, None, None),
            (Length(3), Length(3), Length(3)),
            (Chunked, UntilClose, Chunked),
            (UntilClose, UntilClose, Chunked),
        ] {
            assert_eq!((relay(origin, Version::Http10), relay(origin, Version::Http11)), (to_10, to_11));
        }
    }

    #[test]
    fn reasons_are_distinct() {
        let mut reasons: Vec<_> = HeadRule::ALL.iter().map(|rule| rule.reason()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), HeadRule::ALL.len());
    }
}
