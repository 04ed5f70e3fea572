//! Set, add and remove fields, compiled to a set of names to leave out and one block of lines to append.
//!
//! `set` is remove and append, so it never leaves a second value behind. The order is fixed: everything named by
//! `remove` and `set` goes, then the `set` lines come, then the `add` lines.

use std::fmt;

use crate::http::grammar::{is_field_value, is_token};
use crate::http::message::{FieldSet, Fields};

/// Compiled field operations. `HeaderOps::default()` does nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// In lower case.
    removed: Box<[Box<[u8]>]>,
    /// Bit n: some name in `removed` has n bytes, 63 or more for the last. Nearly every field fails this test.
    lengths: u64,
    lines: Box<[u8]>,
}

/// Why a setting isn't a field operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderOpsError {
    /// Not a token, RFC 9110 section 5.1.
    Name { name: String },
    /// Control characters, or white space at an end, RFC 9110 section 5.5.
    Value { name: String },
    /// The field frames the message, belongs to one connection, or is Host, which has a setting of its own.
    Reserved { name: String },
}

impl fmt::Display for HeaderOpsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderOpsError::Name { name } => write!(f, "{name:?} is not a field name"),
            HeaderOpsError::Value { name } => {
                write!(
                    f,
                    "the value for {name:?} holds control characters or starts or ends with white space"
                )
            }
            HeaderOpsError::Reserved { name } => {
                write!(f, "{name:?} is written by the proxy itself and can't be set, added or removed")
            }
        }
    }
}

impl std::error::Error for HeaderOpsError {}

const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl HeaderOps {
    pub fn compile<S: AsRef<str>>(
        remove: &[S],
        set: &[(S, S)],
        add: &[(S, S)],
    ) -> Result<HeaderOps, HeaderOpsError> {
        let mut removed = Vec::new();
        let mut lengths = 0;
        for name in remove.iter().chain(set.iter().map(|(name, _)| name)) {
            let name = name.as_ref();
            check_name(name)?;
            lengths |= length_bit(name.len());
            removed.push(name.to_ascii_lowercase().into_bytes().into_boxed_slice());
        }
        removed.sort_unstable();
        removed.dedup();
        let mut lines = Vec::new();
        for (name, value) in set.iter().chain(add) {
            let (name, value) = (name.as_ref(), value.as_ref());
            check_name(name)?;
            if !is_field_value(value.as_bytes()) {
                return Err(HeaderOpsError::Value { name: name.to_owned() });
            }
            for part in [name, ": ", value, "\r\n"] {
                lines.extend_from_slice(part.as_bytes());
            }
        }
        Ok(HeaderOps { removed: removed.into(), lengths, lines: lines.into() })
    }

    /// The lines to append, each with its CRLF.
    #[inline]
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Whether fields of that name are left out.
    #[inline]
    pub fn removes(&self, name: &str) -> bool {
        self.removes_bytes(name.as_bytes())
    }

    #[inline]
    fn removes_bytes(&self, name: &[u8]) -> bool {
        self.lengths & length_bit(name.len()) != 0
            && self.removed.iter().any(|removed| removed.eq_ignore_ascii_case(name))
    }

    /// The fields to leave out.
    #[inline]
    pub fn removed_from(&self, fields: &Fields<'_>) -> FieldSet {
        if self.lengths == 0 {
            return FieldSet::EMPTY;
        }
        fields.places(|header| self.removes_bytes(header.name))
    }
}

#[inline]
fn length_bit(len: usize) -> u64 {
    1 << len.min(63)
}

fn check_name(name: &str) -> Result<(), HeaderOpsError> {
    if !is_token(name.as_bytes()) {
        return Err(HeaderOpsError::Name { name: name.to_owned() });
    }
    // With '_' for '-' too: an origin may fold it.
    if RESERVED.contains(&name.to_ascii_lowercase().replace('_', "-").as_str()) {
        return Err(HeaderOpsError::Reserved { name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{HeaderOps, HeaderOpsError};

    #[test]
    fn compiled() {
        let ops =
            HeaderOps::compile(&["X-Gone"], &[("X-Set", "1")], &[("X-Add", "a b"), ("X-Add", "")]).unwrap();
        assert_eq!(ops.lines(), b"X-Set: 1\r\nX-Add: a b\r\nX-Add: \r\n");
        for (name, removed) in
            [("x-gone", true), ("X-SET", true), ("X-Add", false), ("x-gona", false), ("x", false)]
        {
            assert_eq!(ops.removes(name), removed, "{name}");
        }
        let long = "x".repeat(100);
        let ops = HeaderOps::compile(&[long.as_str()], &[], &[]).unwrap();
        assert!(ops.removes(&long) && !ops.removes(&"y".repeat(70)));
        assert!(!HeaderOps::default().removes("a"));
    }

    #[test]
    fn refused() {
        let name = |name: &str| HeaderOpsError::Name { name: name.to_owned() };
        let value = |name: &str| HeaderOpsError::Value { name: name.to_owned() };
        let reserved = |name: &str| HeaderOpsError::Reserved { name: name.to_owned() };
        let cases = [
            ("", "v", name("")),
            ("a b", "v", name("a b")),
            ("a:", "v", name("a:")),
            ("a\r\nb", "v", name("a\r\nb")),
            ("\u{e9}", "v", name("\u{e9}")),
            ("a", "v\r\nb: c", value("a")),
            ("a", "v\0", value("a")),
            ("a", " v", value("a")),
            ("Host", "v", reserved("Host")),
            ("content_length", "1", reserved("content_length")),
            ("Transfer-Encoding", "chunked", reserved("Transfer-Encoding")),
            ("CONNECTION", "close", reserved("CONNECTION")),
        ];
        for (field, text, error) in cases {
            assert_eq!(HeaderOps::compile(&[], &[(field, text)], &[]), Err(error.clone()));
            assert_eq!(HeaderOps::compile(&[], &[], &[(field, text)]), Err(error.clone()));
            if !matches!(error, HeaderOpsError::Value { .. }) {
                assert_eq!(HeaderOps::compile(&[field], &[], &[]), Err(error));
            }
        }
    }
}
