//! The two messages of `grpc.health.v1.Health/Check`, written out by hand: one field each is no reason for a code
//! generator. Sans-IO. From grpc's doc/health-checking.md and the encoding guide of Protocol Buffers.

/// What a health service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// 0, and numbers that nobody knows.
    Unknown,
    /// 1.
    Serving,
    /// 2.
    NotServing,
    /// 3.
    ServiceUnknown,
}

/// `HealthCheckRequest { string service = 1; }` with gRPC's five bytes in front of it: not compressed, length.
pub(super) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | LENGTH_DELIMITED);
        push_varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

/// `HealthCheckResponse { ServingStatus status = 1; }` out of a whole body: exactly one message, not compressed. Fields
/// that we don't know are passed over; of a field that comes twice the last counts. `None`: it is something else.
pub(super) fn serving(body: &[u8]) -> Option<Serving> {
    let (prefix, mut message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || message.len() != length as usize {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        let (field, kind) = (key >> 3, (key & 7) as u8);
        match kind {
            VARINT => {
                let value = take_varint(&mut message)?;
                if field == 1 {
                    status = value;
                }
            }
            // The right number with another type is another protocol.
            _ if field <= 1 => return None,
            FIXED_64 => message = message.get(8..)?,
            LENGTH_DELIMITED => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            FIXED_32 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(match status {
        1 => Serving::Serving,
        2 => Serving::NotServing,
        3 => Serving::ServiceUnknown,
        _ => Serving::Unknown,
    })
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED_32: u8 = 5;

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// At most ten bytes; bits beyond 64 are dropped, as every implementation does.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for at in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Serving, push_varint, request, serving, take_varint};

    #[test]
    fn requests() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab.C"), *b"\0\0\0\0\x06\x0a\x04ab.C");
        let long = "x".repeat(200);
        assert_eq!(request(&long)[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn responses() {
        let cases: &[(&[u8], Option<Serving>)] = &[
            (b"\0\0\0\0\x02\x08\x01", Some(Serving::Serving)),
            (b"\0\0\0\0\x02\x08\x02", Some(Serving::NotServing)),
            (b"\0\0\0\0\x02\x08\x03", Some(Serving::ServiceUnknown)),
            (b"\0\0\0\0\x02\x08\x09", Some(Serving::Unknown)),
            (b"\0\0\0\0\0", Some(Serving::Unknown)),
            (b"\0\0\0\0\x04\x08\x02\x08\x01", Some(Serving::Serving)),
            // Unknown fields of every type around it.
            (b"\0\0\0\0\x06\x12\x02hi\x08\x01", Some(Serving::Serving)),
            (b"\0\0\0\0\x07\x08\x01\x15abcd", Some(Serving::Serving)),
            (b"\0\0\0\0\x0b\x11abcdefgh\x08\x01", Some(Serving::Serving)),
            (b"\0\0\0\0\x05\x18\x96\x01\x08\x01", Some(Serving::Serving)),
            // Compressed, cut, too long, two messages, wrong types, a group, no message.
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x02\x08", None),
            (b"\0\0\0\0\x01\x08\x01", None),
            (b"\0\0\0\0\x02\x08\x01\0\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x03\x0a\x01\x01", None),
            (b"\0\0\0\0\x02\x12\x09", None),
            (b"\0\0\0\0\x01\x1b", None),
            (b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\0\0\0", None),
            (b"", None),
        ];
        for (body, expected) in cases {
            assert_eq!(serving(body), *expected, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = serving(&body);
            let mut framed = vec![0, 0, 0, 0, body.len() as u8];
            framed.extend_from_slice(&body);
            let _ = serving(&framed);
        }

        #[test]
        fn varints_come_back(value in any::<u64>()) {
            let mut bytes = Vec::new();
            push_varint(value, &mut bytes);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_varint(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }
    }
}
