//! One spelling for what matching takes for the same: what limits and hashes count by. Called by the request path for a
//! key's parts, and by the admin. Allocates only where the client's spelling is another.

use std::borrow::Cow;

use super::query::{decoded, first_parameter};
use super::search::without_port;

/// A host as it is matched: in lower case, without port and without the dot at its end.
pub fn host(host: &[u8]) -> Cow<'_, [u8]> {
    let name = without_port(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// A query's first parameter whose decoded name is `name`: its value, decoded.
pub fn parameter<'q>(query: &'q [u8], name: &[u8]) -> Option<Cow<'q, [u8]>> {
    let raw = first_parameter(query, name)?;
    Some(if memchr::memchr2(b'%', b'+', raw).is_some() {
        Cow::Owned(decoded(raw).collect())
    } else {
        Cow::Borrowed(raw)
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::{host, parameter};

    #[test]
    fn hosts() {
        for (written, expected) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com", "example.com"),
            ("example.com.", "example.com"),
            ("Example.Com.:8443", "example.com"),
            ("example.com:", "example.com"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("", ""),
            (".", ""),
            (":80", ""),
        ] {
            assert_eq!(*host(written.as_bytes()), *expected.as_bytes(), "{written}");
        }
        let long = format!("{}.", "A".repeat(1_000));
        assert_eq!(*host(long.as_bytes()), *"a".repeat(1_000).as_bytes());
        assert!(
            matches!(host(b"example.com.:443"), Cow::Borrowed(_)),
            "nothing is allocated for the usual ones"
        );
    }

    #[test]
    fn parameters() {
        for (query, expected) in [
            ("key=ab", Some("ab")),
            ("key=a%62", Some("ab")),
            ("k%65y=%61%62", Some("ab")),
            ("key=a+b", Some("a b")),
            ("key=a%20b", Some("a b")),
            ("key=a%2Bb", Some("a+b")),
            ("key=a%2", Some("a%2")),
            ("key=a%zz", Some("a%zz")),
            ("x=1&key=b&key=c", Some("b")),
            ("&&key=b", Some("b")),
            ("xkey=a", None),
            ("key", Some("")),
            ("key&key=a", Some("")),
            ("", None),
            ("key=", Some("")),
            ("KEY=a", None),
        ] {
            let got = parameter(query.as_bytes(), b"key");
            assert_eq!(got.as_deref(), expected.map(str::as_bytes), "{query}");
        }
    }
}
