//! What a text of the file may be: a token, a path.

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What keeps a path of the file from ever equalling a normalised path (RFC 3986 section 6.2.2).
pub(crate) fn path_fault(path: &str) -> Option<&'static str> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Some("a path starts with `/`");
    }
    if path.contains(['?', '#']) {
        return Some("a path has no query or fragment; use `match.query`");
    }
    if !path.is_ascii() || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Some("blanks, control and non-ASCII characters are percent-encoded in paths, as in %20");
    }
    // RFC 3986 section 3.3; clients do send some of these plainly, but in a file they are slips: `/users/{id}`.
    if path.contains(['"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
        return Some(
            "the characters \"<>\\^`{|} can't stand in a path; there are no placeholders, use `regex`",
        );
    }
    if !is_safe_path(bytes) {
        return Some("the segments `.` and `..` can't stand in a path");
    }
    for (at, _) in path.match_indices('%') {
        let Some(digits) = path.get(at + 1..at + 3) else {
            return Some("`%` is not followed by two hex digits");
        };
        let Ok(byte) = u8::from_str_radix(digits, 16) else {
            return Some("`%` is not followed by two hex digits");
        };
        if digits.starts_with('+') {
            return Some("`%` is not followed by two hex digits");
        }
        if byte == 0 {
            return Some("%00 can't stand in a path");
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            return Some("letters, digits and `-._~` are compared unencoded; write them plainly");
        }
        if digits.bytes().any(|digit| digit.is_ascii_lowercase()) {
            return Some("percent-encodings are compared with capital hex digits, as in %2F");
        }
    }
    None
}

/// What a normalised path is free of, so that no outcome of a rewrite can end the request line, start a query
/// or climb with dot segments. No stricter than that: a path that a pattern leaves alone must pass.
pub(crate) fn is_safe_path(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
        && path.iter().all(|byte| byte.is_ascii_graphic() && !b"?#\\".contains(byte))
        && path.split(|byte| *byte == b'/').all(|segment| segment != b"." && segment != b"..")
}

#[cfg(test)]
mod tests {
    use super::path_fault;

    #[test]
    fn paths() {
        for (path, fragment) in [
            ("/", None),
            ("/users", None),
            ("/users/", None),
            ("/a%2Fb/~x@y:z;p=1,2", None),
            ("/caf%C3%A9", None),
            ("users", Some("starts with")),
            ("", Some("starts with")),
            ("/a?b", Some("query")),
            ("/a#b", Some("query")),
            ("/a b", Some("percent-encoded")),
            ("/café", Some("percent-encoded")),
            ("/a/../b", Some("segments")),
            ("/a\\b", Some("characters")),
            ("/users/{id}", Some("no placeholders")),
            ("/%", Some("two hex digits")),
            ("/%2", Some("two hex digits")),
            ("/%zz", Some("two hex digits")),
            ("/%+1", Some("two hex digits")),
            ("/%00", Some("%00")),
            ("/%41", Some("unencoded")),
            ("/%2f", Some("capital")),
        ] {
            let fault = path_fault(path);
            assert_eq!(fault.is_some(), fragment.is_some(), "{path}: {fault:?}");
            assert!(fault.unwrap_or_default().contains(fragment.unwrap_or_default()), "{path}: {fault:?}");
        }
    }
}
