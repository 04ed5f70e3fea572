//! What a proxy must know of gRPC: which requests are, which status a failure is, how its text and time-out are written.
//!
//! From grpc's doc/PROTOCOL-HTTP2.md and doc/http-grpc-status-mapping.md. No message is looked into. Called by whoever
//! answers for the proxy itself and by whoever sets deadlines.

use std::time::Duration;

use crate::base::fault::{Fault, Retry};
use crate::http::grammar::{is_field_value, parse_decimal, push_decimal};
use crate::http::http1::encode::Persistence;

/// The status of a call, grpc's doc/statuscodes.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GrpcStatus {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl GrpcStatus {
    const ALL: [GrpcStatus; 17] = [
        GrpcStatus::Ok,
        GrpcStatus::Cancelled,
        GrpcStatus::Unknown,
        GrpcStatus::InvalidArgument,
        GrpcStatus::DeadlineExceeded,
        GrpcStatus::NotFound,
        GrpcStatus::AlreadyExists,
        GrpcStatus::PermissionDenied,
        GrpcStatus::ResourceExhausted,
        GrpcStatus::FailedPrecondition,
        GrpcStatus::Aborted,
        GrpcStatus::OutOfRange,
        GrpcStatus::Unimplemented,
        GrpcStatus::Internal,
        GrpcStatus::Unavailable,
        GrpcStatus::DataLoss,
        GrpcStatus::Unauthenticated,
    ];

    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether the server has failed, and not the caller (OpenTelemetry's semantic conventions for RPC spans, server side).
    pub fn is_servers_fault(self) -> bool {
        matches!(
            self,
            GrpcStatus::Unknown
                | GrpcStatus::DeadlineExceeded
                | GrpcStatus::Unimplemented
                | GrpcStatus::Internal
                | GrpcStatus::Unavailable
                | GrpcStatus::DataLoss
        )
    }

    /// The status that a `grpc-status` field names; None for what no version of gRPC defines.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let index = usize::try_from(parse_decimal(value)?).ok()?;
        Self::ALL.get(index).copied()
    }
}

/// Whether a Content-Type is gRPC's: `application/grpc`, with a `+` and a format or parameters behind it. gRPC-Web's is
/// not.
pub fn is_grpc(content_type: &[u8]) -> bool {
    subtype(content_type, b"application/grpc").is_some()
}

/// What follows `base` in a media type, parameters left out: nothing, or `+` and a format.
pub(crate) fn subtype<'a>(content_type: &'a [u8], base: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = content_type.split_at_checked(base.len())?;
    if !start.eq_ignore_ascii_case(base) {
        return None;
    }
    let end = rest.iter().position(|&byte| matches!(byte, b';' | b' ' | b'\t')).unwrap_or(rest.len());
    let subtype = &rest[..end];
    matches!(subtype, [] | [b'+', _, ..]).then_some(subtype)
}

/// What a response without `grpc-status` means to a gRPC client, http-grpc-status-mapping.md.
pub fn status_from_http(status: u16) -> GrpcStatus {
    match status {
        400 | 431 => GrpcStatus::Internal,
        401 => GrpcStatus::Unauthenticated,
        403 => GrpcStatus::PermissionDenied,
        404 => GrpcStatus::Unimplemented,
        429 | 502..=504 => GrpcStatus::Unavailable,
        _ => GrpcStatus::Unknown,
    }
}

/// What our own failure means. We know more than its HTTP status says: `UNAVAILABLE` invites clients to try again, so a
/// call that ran into its time-out and may have been acted upon is not that, but `DEADLINE_EXCEEDED`.
pub fn status_from_fault(fault: Fault) -> GrpcStatus {
    match fault.status {
        499 => GrpcStatus::Cancelled,
        504 if fault.retry == Retry::Safe => GrpcStatus::Unavailable,
        408 | 504 => GrpcStatus::DeadlineExceeded,
        413 => GrpcStatus::ResourceExhausted,
        500 => GrpcStatus::Internal,
        501 => GrpcStatus::Unimplemented,
        status => status_from_http(status),
    }
}

/// Appends a `grpc-message` value: UTF-8, with everything but visible ASCII, and `%`, percent-encoded. Spaces stay, but
/// for those at the ends, which a field value can't have.
pub fn push_message(text: &str, out: &mut Vec<u8>) {
    let last = text.len().wrapping_sub(1);
    for (index, &byte) in text.as_bytes().iter().enumerate() {
        let plain = matches!(byte, b'!'..=b'~') && byte != b'%';
        if plain || (byte == b' ' && index != 0 && index != last) {
            out.push(byte);
        } else {
            let digit = |value: u8| b"0123456789ABCDEF"[usize::from(value)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// The text of a `grpc-message` value. What is no valid escape stays as it is: the specification has a reader pass
/// broken messages on rather than drop them.
pub fn message(value: &[u8]) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut text = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        match *rest {
            [b'%', high, low, ref tail @ ..] if digit(high).is_some() && digit(low).is_some() => {
                text.push(digit(high).unwrap_or(0) << 4 | digit(low).unwrap_or(0));
                rest = tail;
            }
            _ => {
                text.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Digits of a `grpc-timeout`.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// Reads a `grpc-timeout`: at most 8 digits and a unit. None for anything else; the call has no time-out of the
/// client's then, and the origin decides what the broken field means to it.
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    let number = parse_decimal(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Appends a `grpc-timeout` for what is left of a deadline, in the finest unit whose digits suffice. Never longer than
/// what is left, and never 0, which is no time-out.
pub fn push_timeout(left: Duration, out: &mut Vec<u8>) {
    const MAX: u128 = 10u128.pow(TIMEOUT_DIGITS_MAX as u32) - 1;
    let nanos = left.as_nanos().max(1);
    let units: [(u128, u8); 6] = [
        (1, b'n'),
        (1_000, b'u'),
        (1_000_000, b'm'),
        (1_000_000_000, b'S'),
        (60_000_000_000, b'M'),
        (3_600_000_000_000, b'H'),
    ];
    let (number, unit) = units
        .iter()
        .map(|&(size, unit)| (nanos / size, unit))
        .find(|&(number, _)| number <= MAX)
        .unwrap_or((MAX, b'H'));
    push_decimal(number as u64, out);
    out.push(unit);
}

/// A failure in gRPC's words: a response that is all head, and whose head is its trailers.
#[derive(Debug, Clone, Copy)]
pub struct TrailersOnly<'a> {
    pub status: GrpcStatus,
    pub message: &'a str,
    /// The request's own, or `application/grpc`; for gRPC-Web, of gRPC-Web.
    pub content_type: &'a [u8],
    pub persistence: Persistence,
    /// The time as an IMF-fixdate.
    pub date: &'a [u8],
    /// Encoded lines, each with its CRLF, that the caller vouches for.
    pub extra: &'a [u8],
}

/// Appends it in HTTP/1.1 form. The HTTP status is 200 whatever went wrong (PROTOCOL-HTTP2.md, Responses).
pub fn encode_trailers_only(response: &TrailersOnly<'_>, out: &mut Vec<u8>) {
    debug_assert!(is_field_value(response.content_type));
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nDate: ");
    out.extend_from_slice(response.date);
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(response.content_type);
    out.extend_from_slice(b"\r\nGrpc-Status: ");
    push_decimal(u64::from(response.status.code()), out);
    if !response.message.is_empty() {
        out.extend_from_slice(b"\r\nGrpc-Message: ");
        push_message(response.message, out);
    }
    out.extend_from_slice(b"\r\nContent-Length: 0\r\n");
    if response.persistence == Persistence::Close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(response.extra);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use crate::base::reason::ReasonCode;
    use std::time::Duration;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{
        GrpcStatus, TrailersOnly, encode_trailers_only, is_grpc, message, push_message, push_timeout,
        status_from_fault, status_from_http, timeout,
    };
    use crate::base::fault::{Fault, Retry};
    use crate::http::framing::BodyLength;
    use crate::http::grammar::is_field_value;
    use crate::http::http1::encode::Persistence;
    use crate::http::http1::parse::{HeadLimits, Parsed, parse_response};
    use crate::http::message::{HeadIndex, Method};

    #[test]
    fn content_types() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC+json; charset=utf-8", true),
            ("application/grpc;a=b", true),
            ("application/grpc ; a=b", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/grpc+", false),
            ("application/json", false),
            ("application/grp", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn statuses() {
        for (index, status) in GrpcStatus::ALL.iter().enumerate() {
            assert_eq!(usize::from(status.code()), index);
            assert_eq!(GrpcStatus::parse(index.to_string().as_bytes()), Some(*status));
        }
        for text in ["17", "", "-1", "+1", "x", "18446744073709551616"] {
            assert_eq!(GrpcStatus::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn failures() {
        use GrpcStatus::{
            Cancelled, DeadlineExceeded, Internal, PermissionDenied, ResourceExhausted, Unauthenticated,
            Unavailable, Unimplemented, Unknown,
        };
        for (status, expected) in [
            (400, Internal),
            (401, Unauthenticated),
            (403, PermissionDenied),
            (404, Unimplemented),
            (429, Unavailable),
            (431, Internal),
            (502, Unavailable),
            (503, Unavailable),
            (504, Unavailable),
            (200, Unknown),
            (418, Unknown),
            (500, Unknown),
        ] {
            assert_eq!(status_from_http(status), expected, "{status}");
        }
        for (fault, expected) in [
            (Fault::policy(ReasonCode::NoRoute, 404), Unimplemented),
            (Fault::policy(ReasonCode::RequestTimeout, 504), DeadlineExceeded),
            (
                Fault::upstream(ReasonCode::UpstreamResponseTimeout, 504, Retry::IfIdempotent),
                DeadlineExceeded,
            ),
            (Fault::upstream(ReasonCode::UpstreamConnectTimeout, 504, Retry::Safe), Unavailable),
            (Fault::upstream(ReasonCode::UpstreamClosed, 502, Retry::IfIdempotent), Unavailable),
            (Fault::downstream(ReasonCode::ClientGone, 499), Cancelled),
            (Fault::downstream(ReasonCode::RequestBodyTimeout, 408), DeadlineExceeded),
            (Fault::policy(ReasonCode::BodyTooLarge, 413), ResourceExhausted),
            (Fault::ourselves(ReasonCode::HeadChanged, 500), Internal),
            (Fault::ourselves(ReasonCode::Stopping, 503), Unavailable),
            (Fault::downstream(ReasonCode::TeUnsupported, 501), Unimplemented),
        ] {
            assert_eq!(status_from_fault(fault), expected, "{fault}");
        }
    }

    #[test]
    fn messages() {
        for (text, value) in [
            ("", ""),
            ("no route", "no route"),
            ("100%", "100%25"),
            (" a ", "%20a%20"),
            (" ", "%20"),
            ("a\r\nb", "a%0D%0Ab"),
            ("\u{e9}~", "%C3%A9~"),
        ] {
            let mut out = Vec::new();
            push_message(text, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), value);
            assert_eq!(message(&out), text);
        }
        for (value, text) in
            [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%+1", "%+1"), ("%41%", "A%"), ("%ff", "\u{fffd}")]
        {
            assert_eq!(message(value.as_bytes()), text);
        }
    }

    #[test]
    fn timeouts() {
        for (value, expected) in [
            ("100m", Some(Duration::from_millis(100))),
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4u", Some(Duration::from_micros(4))),
            ("5n", Some(Duration::from_nanos(5))),
            ("99999999H", Some(Duration::from_secs(359_999_996_400))),
            ("0m", Some(Duration::ZERO)),
            ("100000000m", None),
            ("m", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1m", None),
            ("+1m", None),
            ("1 m", None),
            ("1.5S", None),
        ] {
            assert_eq!(timeout(value.as_bytes()), expected, "{value}");
        }
        for (left, expected) in [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(5), "5000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(6_000_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            let mut out = Vec::new();
            push_timeout(left, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn a_failure_is_one_head() {
        let mut response = TrailersOnly {
            status: GrpcStatus::Unavailable,
            message: "no endpoint:\r\nX: y",
            content_type: b"application/grpc",
            persistence: Persistence::KeepAlive,
            date: b"now",
            extra: b"Via: 1.1 x\r\n",
        };
        let mut out = Vec::new();
        encode_trailers_only(&response, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\n\
             Grpc-Message: no endpoint:%0D%0AX: y\r\nContent-Length: 0\r\nVia: 1.1 x\r\n\r\n"
        );
        response.persistence = Persistence::Close;
        response.message = "";
        out.clear();
        encode_trailers_only(&response, &mut out);
        let mut slots = HeadIndex::default();
        let Ok(Parsed::Complete(head)) =
            parse_response(&out, &mut slots, Method::Post, &HeadLimits::default())
        else {
            panic!("{}", out.escape_ascii());
        };
        assert_eq!((head.head_bytes, head.body, head.keep_alive), (out.len(), BodyLength::Length(0), false));
        assert_eq!((head.header("grpc-status"), head.header("grpc-message")), (Some(&b"14"[..]), None));
    }

    proptest! {
        #[test]
        fn messages_come_back(text in any::<String>()) {
            let mut out = Vec::new();
            push_message(&text, &mut out);
            prop_assert!(is_field_value(&out) && out.is_ascii());
            prop_assert_eq!(message(&out), text);
        }

        /// Rounded down, by less than a thousandth.
        #[test]
        fn timeouts_come_back(nanos in any::<u64>(), shift in 0u32..64) {
            let left = Duration::from_nanos((nanos >> shift).max(1));
            let mut out = Vec::new();
            push_timeout(left, &mut out);
            let again = timeout(&out).unwrap();
            prop_assert!(again <= left && left <= again + left / 1000, "{:?} {:?}", left, again);
        }
    }
}
