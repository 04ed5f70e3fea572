//! Cookies of a request as RFC 6265 section 5.4 has user agents send them.

/// The value of the first cookie of that name, in any of the Cookie fields: of several, browsers send the one with the
/// longest path first. Names are compared with their case. Quotes belong to the value (section 5.2 says so to user
/// agents, and nginx agrees; Envoy takes them off). What has no `=` has no name and is passed over.
pub(super) fn first_cookie<'v>(fields: impl Iterator<Item = &'v [u8]>, name: &[u8]) -> Option<&'v [u8]> {
    for field in fields {
        for pair in field.split(|byte| *byte == b';') {
            let Some(at) = memchr::memchr(b'=', pair) else { continue };
            if trimmed(&pair[..at]) == name {
                return Some(trimmed(&pair[at + 1..]));
            }
        }
    }
    None
}

fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::first_cookie;

    #[test]
    fn first_of_its_name() {
        for (fields, name, expected) in [
            (&["a=1; b=2"][..], "a", Some("1")),
            (&["a=1; b=2"], "b", Some("2")),
            (&["a=1;b=2"], "b", Some("2")),
            (&["a=1; a=2"], "a", Some("1")),
            (&["b=1", "a=2; a=3"], "a", Some("2")),
            (&["A=1"], "a", None),
            (&["a"], "a", None),
            (&["a; a=1"], "a", Some("1")),
            (&["a="], "a", Some("")),
            (&["a=b=c"], "a", Some("b=c")),
            (&["a=\"x y\""], "a", Some("\"x y\"")),
            (&["  a = x \t; b=1"], "a", Some("x")),
            (&["a=x y"], "a", Some("x y")),
            (&["=1; a=2"], "a", Some("2")),
            (&[";;; a=2;"], "a", Some("2")),
            (&["xa=1"], "a", None),
            (&[""], "a", None),
            (&[], "a", None),
        ] {
            let found = first_cookie(fields.iter().map(|field| field.as_bytes()), name.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{fields:?} {name}");
        }
    }
}
