//! What hops of proxies tell each other in header fields: which try a request is, and how long it may still take. So
//! nested proxies neither multiply retries nor work for somebody who has stopped waiting.
//!
//! A client's fields are read once, left out of the head that goes upstream, and written anew for each attempt: the
//! head that [`Hop::stamp`] ends is the same for all of them. They can only shorten time and save retries, so they need
//! no trust.

use std::time::Duration;

use crate::http::message::{FieldSet, RequestHead};
use crate::policy::deadline::{Asked, Deadline, Left, TIMEOUT_FIELD, push_field, push_grpc};
use crate::policy::retry::{ATTEMPT_FIELD, arrived_as, push_attempt, sent_as};

const GRPC_FIELD: &str = "grpc-timeout";

/// What the fields of a request say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hop {
    /// Which try of the hop before this is; at least 1.
    pub(super) arrived_as: u32,
    /// When the exchange must be over.
    pub(super) deadline: Option<Deadline>,
    /// It is the client's, and shorter than what is configured: missing it says nothing of an endpoint.
    pub(super) impatient: bool,
    /// A field could not be read.
    pub(super) malformed: bool,
    /// It calls by gRPC and has a time-out of gRPC's kind.
    grpc: bool,
    /// Theirs in the head, to be left out of ours.
    pub(super) fields: FieldSet,
}

impl Hop {
    /// Reads a request's fields. `grpc`: whether it is a call of gRPC, whose own field then counts. `allowed` is the route's
    /// time-out.
    pub(super) fn read(head: &RequestHead<'_>, grpc: bool, allowed: Option<Duration>, now_ms: u64) -> Self {
        let mut hop = Self { arrived_as: 1, ..Self::default() };
        let (mut asked, mut asked_grpc) = (Asked::Nothing, Asked::Nothing);
        for (index, header) in head.fields.iter().enumerate() {
            // Three lengths: nearly every field fails here.
            match header.name.len() {
                12 if grpc && header.is(GRPC_FIELD) => {
                    asked_grpc = Asked::from_grpc(Some(header.value));
                    // What can't be read is the origin's to judge.
                    if asked_grpc != Asked::Malformed {
                        hop.grpc = true;
                        hop.fields.insert(index);
                    }
                }
                15 if header.is(ATTEMPT_FIELD) => {
                    hop.fields.insert(index);
                    hop.arrived_as = hop.arrived_as.max(arrived_as(Some(header.value)));
                }
                18 if header.is(TIMEOUT_FIELD) => {
                    hop.fields.insert(index);
                    asked = Asked::from_field(head.fields.values(TIMEOUT_FIELD));
                }
                _ => {}
            }
        }
        hop.malformed |= asked == Asked::Malformed || asked_grpc == Asked::Malformed;
        let deadline = Deadline::new(allowed, asked_grpc, asked, now_ms);
        if deadline != Deadline::NEVER {
            hop.impatient = deadline != Deadline::new(allowed, Asked::Nothing, Asked::Nothing, now_ms);
            hop.deadline = Some(deadline);
        }
        hop
    }

    /// What is left of the time.
    pub(super) fn left(&self, now_ms: u64) -> Left {
        self.deadline.map_or(Left::Unbounded, |deadline| deadline.left(now_ms))
    }

    /// Ends an encoded head, of which `length` bytes are the same for every attempt. `sent_before`: failed attempts of
    /// which a byte was sent.
    pub(super) fn stamp(&self, out: &mut Vec<u8>, length: usize, sent_before: u32, now_ms: u64) {
        out.truncate(length);
        let number = sent_as(self.arrived_as, sent_before);
        if number > 1 {
            push_name(ATTEMPT_FIELD, out);
            push_attempt(number, out);
            out.extend_from_slice(b"\r\n");
        }
        if let Left::Ms(left) = self.left(now_ms) {
            push_name(TIMEOUT_FIELD, out);
            push_field(left, out);
            out.extend_from_slice(b"\r\n");
            if self.grpc {
                push_name(GRPC_FIELD, out);
                push_grpc(left, out);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn push_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Hop;
    use crate::http::http1::parse::{HeadLimits, Parsed, parse_request};
    use crate::http::message::HeadIndex;

    /// Fields, gRPC, the route's time-out; what goes upstream with attempt 1 and 2 after 100 ms.
    fn check(fields: &str, grpc: bool, allowed_ms: Option<u64>, first: &str, second: &str) {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut slots = HeadIndex::default();
        let Ok(Parsed::Complete(head)) = parse_request(text.as_bytes(), &mut slots, &HeadLimits::default())
        else {
            panic!("{text}")
        };
        let hop = Hop::read(&head, grpc, allowed_ms.map(Duration::from_millis), 1_000);
        for (sent_before, now_ms, expected) in [(0, 1_000, first), (1, 1_100, second)] {
            let mut out = b"HEAD\r\nstale".to_vec();
            hop.stamp(&mut out, 6, sent_before, now_ms);
            let lines: Vec<&str> = expected.split('|').filter(|line| !line.is_empty()).collect();
            let expected = [&["HEAD"], lines.as_slice(), &["", ""]].concat().join("\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{fields}");
        }
    }

    #[test]
    fn what_goes_upstream() {
        check("", false, None, "", "ringway-attempt: 2");
        check("", false, Some(500), "ringway-timeout-ms: 500", "ringway-attempt: 2|ringway-timeout-ms: 400");
        check(
            "Ringway-Attempt: 3\r\nringway-timeout-ms: 200\r\n",
            false,
            Some(500),
            "ringway-attempt: 3|ringway-timeout-ms: 200",
            "ringway-attempt: 4|ringway-timeout-ms: 100",
        );
        check(
            "grpc-timeout: 1S\r\n",
            true,
            None,
            "ringway-timeout-ms: 1000|grpc-timeout: 1000m",
            "ringway-attempt: 2|ringway-timeout-ms: 900|grpc-timeout: 900m",
        );
        // Not a call of gRPC: the field is nobody's business.
        check("grpc-timeout: 1S\r\n", false, None, "", "ringway-attempt: 2");
        check("ringway-attempt: 0\r\nringway-timeout-ms: x\r\n", false, None, "", "ringway-attempt: 2");
    }

    #[test]
    fn theirs_are_left_out_and_bad_ones_told() {
        for (field, left_out, malformed, attempt) in [
            ("ringway-attempt: 2", true, false, 2),
            ("ringway-attempt: two", true, false, 1),
            ("ringway-attempt: 99999", true, false, 1),
            ("ringway-timeout-ms: 12", true, false, 1),
            ("ringway-timeout-ms: -1", true, true, 1),
            ("grpc-timeout: 5S", true, false, 1),
            // The origin's to judge.
            ("grpc-timeout: 5 seconds", false, true, 1),
            ("x-attempt: 2", false, false, 1),
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
            let mut slots = HeadIndex::default();
            let Ok(Parsed::Complete(head)) =
                parse_request(text.as_bytes(), &mut slots, &HeadLimits::default())
            else {
                panic!("{text}")
            };
            let hop = Hop::read(&head, true, None, 0);
            assert_eq!(hop.fields.contains(1), left_out, "{field}");
            assert_eq!((hop.malformed, hop.arrived_as), (malformed, attempt), "{field}");
        }
    }
}
