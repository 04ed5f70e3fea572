//! The path, brought into one spelling before anything is decided on it.
//!
//! The invariant that routing and authorisation rest on: **the path that they saw is the path that is sent**. So the
//! caller normalises once, decides on the result, and forwards the result (`TargetRewrite::Path`), never the raw text.
//! Otherwise `/public/%2e%2e/admin` is public here and admin at the origin.

use std::fmt;

use crate::base::reason::ReasonCode;
use crate::http::grammar::is_unreserved;
use crate::http::message::Target;

/// Why a path is refused (400).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// Doesn't start with '/'.
    NotAbsolute,
    /// A control character, a space, '?', '#', or a byte beyond ASCII.
    Character,
    /// '\\': Windows servers take it for '/'.
    Backslash,
    /// '%' without two hexadecimal digits.
    Escape,
    /// `%00`: C programs end the path there.
    Nul,
}

impl PathError {
    pub fn reason(self) -> ReasonCode {
        match self {
            PathError::NotAbsolute => ReasonCode::PathNotAbsolute,
            PathError::Character => ReasonCode::PathCharacter,
            PathError::Backslash => ReasonCode::PathBackslash,
            PathError::Escape => ReasonCode::PathEscape,
            PathError::Nul => ReasonCode::PathNul,
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "path refused: {}", self.reason())
    }
}

impl std::error::Error for PathError {}

const PLAIN: u8 = 0;
const DOT: u8 = 1;
const SPECIAL: u8 = 2;

/// Which bytes send a path to the slow half.
static PATH_CLASS: [u8; 256] = {
    let mut table = [PLAIN; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        table[index] = match byte {
            b'.' => DOT,
            0..=b' ' | 0x7f..=0xff | b'%' | b'\\' | b'?' | b'#' => SPECIAL,
            _ => PLAIN,
        };
        index += 1;
    }
    table
};

/// The path that a request is routed and sent on by: a target's path in its one spelling. A target that has none (`*`, or
/// that of a CONNECT) stays as it is, and takes only routes that name no path.
#[inline]
pub fn routed_path<'a>(target: &Target<'a>, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], PathError> {
    match target {
        Target::Origin { .. } | Target::Absolute { .. } => normalise_path(target.path(), scratch),
        Target::Authority { .. } | Target::Asterisk => Ok(target.path()),
    }
}

/// The one spelling of a path (without query), RFC 3986 section 6.2.2: escapes of unreserved characters decoded, the
/// digits of the others in upper case, dot segments removed, never above the root. Encoded slashes stay encoded, empty
/// segments stay. Idempotent. `scratch` is used only when something had to change; it keeps its capacity.
#[inline]
pub fn normalise_path<'a>(raw: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], PathError> {
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let mut special = PLAIN;
    let mut after_slash = false;
    for &byte in raw {
        let class = PATH_CLASS[byte as usize];
        // A dot matters only at the start of a segment.
        special |= class & (SPECIAL | u8::from(after_slash));
        after_slash = byte == b'/';
    }
    if special == PLAIN {
        return Ok(raw);
    }
    decode(raw, scratch)?;
    remove_dot_segments(scratch);
    Ok(scratch)
}

#[cold]
fn decode(raw: &[u8], out: &mut Vec<u8>) -> Result<(), PathError> {
    out.clear();
    out.reserve(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match *byte {
            b'%' => {
                let [high, low, tail @ ..] = rest else {
                    return Err(PathError::Escape);
                };
                rest = tail;
                let (Some(high_value), Some(low_value)) = (hex_value(*high), hex_value(*low)) else {
                    return Err(PathError::Escape);
                };
                match high_value << 4 | low_value {
                    0 => return Err(PathError::Nul),
                    decoded if is_unreserved(decoded) => out.push(decoded),
                    _ => out.extend_from_slice(&[b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]),
                }
            }
            b'\\' => return Err(PathError::Backslash),
            byte if PATH_CLASS[byte as usize] == SPECIAL => return Err(PathError::Character),
            byte => out.push(byte),
        }
    }
    Ok(())
}

fn hex_value(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// RFC 3986 section 5.2.4, in place. `path` starts with '/'.
fn remove_dot_segments(path: &mut Vec<u8>) {
    let mut write = 0;
    let mut read = 0;
    while read < path.len() {
        // path[read] is the '/' before a segment.
        let start = read + 1;
        let len = memchr::memchr(b'/', &path[start..]).unwrap_or(path.len() - start);
        let end = start + len;
        let is_last = end == path.len();
        match &path[start..end] {
            b"." => {}
            b".." => write = memchr::memrchr(b'/', &path[..write]).unwrap_or(0),
            _ => {
                path.copy_within(read..end, write);
                write += end - read;
                read = end;
                continue;
            }
        }
        if is_last {
            path[write] = b'/';
            write += 1;
        }
        read = end;
    }
    path.truncate(write);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::{PathError, normalise_path};

    #[test]
    fn normalised() {
        let table: &[(&str, &str)] = &[
            ("/", "/"),
            ("/a.b/c..d/e", "/a.b/c..d/e"),
            ("/.", "/"),
            ("/..", "/"),
            ("/./", "/"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/../../../c", "/c"),
            ("/a/.../b", "/a/.../b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/..a/.b", "/..a/.b"),
            ("/a//b", "/a//b"),
            ("/a//../b", "/a/b"),
            ("//", "//"),
            ("/%61", "/a"),
            ("/%7Euser", "/~user"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/.%2E/admin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2f..%2fb", "/a%2F..%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a%20b;c=d", "/a%20b;c=d"),
            ("/a%25", "/a%25"),
        ];
        for (raw, expected) in table {
            let mut scratch = Vec::new();
            let found = normalise_path(raw.as_bytes(), &mut scratch).unwrap();
            assert_eq!(std::str::from_utf8(found), Ok(*expected), "{raw}");
        }
    }

    #[test]
    fn refused() {
        let table: &[(&[u8], PathError)] = &[
            (b"", PathError::NotAbsolute),
            (b"a", PathError::NotAbsolute),
            (b"/a%", PathError::Escape),
            (b"/a%2", PathError::Escape),
            (b"/a%2x", PathError::Escape),
            (b"/a%+1", PathError::Escape),
            (b"/%%32%65", PathError::Escape),
            (b"/a%u002e", PathError::Escape),
            (b"/a%00", PathError::Nul),
            (b"/a\\..\\b", PathError::Backslash),
            (b"/a b", PathError::Character),
            (b"/a\x00", PathError::Character),
            (b"/a?b", PathError::Character),
            (b"/a#b", PathError::Character),
            (b"/\xc3\xa9", PathError::Character),
        ];
        for &(raw, error) in table {
            assert_eq!(normalise_path(raw, &mut Vec::new()), Err(error), "{}", raw.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn idempotent(tail in "[/.%2eEfFa5cC0-9;~-]{0,40}") {
            let raw = format!("/{tail}");
            let mut scratch = Vec::new();
            if let Ok(once) = normalise_path(raw.as_bytes(), &mut scratch) {
                let once = once.to_vec();
                let mut again = Vec::new();
                prop_assert_eq!(normalise_path(&once, &mut again), Ok(&once[..]));
                prop_assert_eq!(once[0], b'/');
                let has_dots = once.split(|&byte| byte == b'/').any(|part| part == b"." || part == b"..");
                prop_assert_eq!(has_dots, false);
            }
        }

        #[test]
        fn never_panics(raw in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut scratch = Vec::new();
            if let Ok(path) = normalise_path(&raw, &mut scratch) {
                prop_assert_eq!(path.first(), Some(&b'/'));
            }
        }
    }
}
