//! Session affinity: a cookie names the endpoint that a client's earlier request went to.
//!
//! The cookie's value is a tag, a hash of the endpoint's address as 16 hexadecimal digits: the same on every node, and
//! no address to be read by clients. It is no secret either: who guesses an address and knows the salt can check the
//! guess. A value that is no tag, or a tag of no endpoint, is ignored, and the request is balanced as any other.
//! Whether the endpoint is usable the caller decides.

use std::fmt::Write as _;

/// The tag of an endpoint, from its address as text. Nodes agree if their salts do.
pub fn tag(address: &str, salt: u64) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(salt, address.as_bytes())
}

/// Endpoints by tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Box<[(u64, u32)]>);

impl Tags {
    /// From the tags of endpoints 0, 1, 2 …
    pub fn new(tags: impl Iterator<Item = u64>) -> Self {
        let mut tags: Vec<_> = tags.zip(0..).collect();
        tags.sort_unstable();
        Self(tags.into())
    }

    /// The endpoint with this tag.
    pub fn number(&self, tag: u64) -> Option<usize> {
        let at = self.0.partition_point(|(other, _)| *other < tag);
        self.0.get(at).filter(|(found, _)| *found == tag).map(|(_, number)| *number as usize)
    }
}

/// Whether the cookie may only travel over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Travel {
    /// Over TLS only (`Secure`).
    Secure,
    /// Over any connection.
    Any,
}

/// The cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    name: Box<str>,
    max_age_s: Option<u64>,
    travel: Travel,
}

impl Cookie {
    /// A cookie that lives as long as the client's session, or `max_age_s`. `None` if `name` is no token (RFC 6265
    /// section 4.1.1).
    pub fn new(name: &str, max_age_s: Option<u64>, travel: Travel) -> Option<Self> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let valid = !name.is_empty() && name.bytes().all(is_token);
        valid.then(|| Self { name: name.into(), max_age_s, travel })
    }

    /// The tags that a request's Cookie fields give under this name, in their order. A client may send several: cookies
    /// of other paths, and HTTP/2 splits the field (RFC 9113 section 8.2.3).
    pub fn tags<'v>(&'v self, values: impl Iterator<Item = &'v [u8]> + 'v) -> impl Iterator<Item = u64> + 'v {
        values.flat_map(|value| value.split(|&b| b == b';')).filter_map(|pair| {
            let equals = pair.iter().position(|&b| b == b'=')?;
            let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
            if name == self.name.as_bytes() { parse(value) } else { None }
        })
    }

    /// Writes the value of a Set-Cookie field (RFC 6265 section 4.1.1) that names `tag`.
    pub fn render(&self, tag: u64, out: &mut String) {
        let _ = write!(out, "{}={tag:016x}; Path=/", self.name);
        if let Some(max_age_s) = self.max_age_s {
            let _ = write!(out, "; Max-Age={max_age_s}");
        }
        out.push_str("; HttpOnly; SameSite=Lax");
        if self.travel == Travel::Secure {
            out.push_str("; Secure");
        }
    }
}

/// Exactly as [`Cookie::render`] writes it, or in quotes.
fn parse(value: &[u8]) -> Option<u64> {
    let bare = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    if bare.len() != 16 {
        return None;
    }
    bare.iter().try_fold(0, |tag, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(tag << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cookie, Tags, Travel, tag};

    fn check(fields: &[&str], expected: &[u64]) {
        let cookie = Cookie::new("route", None, Travel::Any).unwrap();
        let got: Vec<u64> = cookie.tags(fields.iter().map(|f| f.as_bytes())).collect();
        assert_eq!(got, expected, "{fields:?}");
    }

    #[test]
    fn found_among_others_and_bad_ones_ignored() {
        check(&["route=00000000000000ff"], &[0xff]);
        check(&["a=b; route=00000000000000ff; c=d"], &[0xff]);
        check(&["a=b;route=00000000000000ff"], &[0xff]);
        check(&["a=b", "route=\"fedcba9876543210\""], &[0xfedc_ba98_7654_3210]);
        check(&["route=0000000000000001; route=0000000000000002", "route=0000000000000003"], &[1, 2, 3]);
        check(&["route=junk; route=0000000000000002"], &[2]);
        check(&[" \troute = 0000000000000002 ;"], &[2]);
        for refused in [
            "",
            ";;=;",
            "route",
            "route=",
            "route=\"",
            "route=\"\"",
            "Route=0000000000000001",
            "xroute=0000000000000001",
            "route=000000000000001",
            "route=00000000000000001",
            "route=000000000000000G",
            "route=000000000000000A",
            "route=+000000000000001",
            "route=\"0000000000000001",
            "route=0000000000000001\"",
            "route=0000000000000001 0",
            "a=route=0000000000000001",
            "a=\"; b",
        ] {
            check(&[refused], &[]);
        }
    }

    #[test]
    fn rendered() {
        for (max_age_s, travel, expected) in [
            (None, Travel::Any, "route=00000000000000ff; Path=/; HttpOnly; SameSite=Lax"),
            (Some(0), Travel::Any, "route=00000000000000ff; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"),
            (
                Some(3_600),
                Travel::Secure,
                "route=00000000000000ff; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure",
            ),
        ] {
            let mut out = String::new();
            Cookie::new("route", max_age_s, travel).unwrap().render(255, &mut out);
            assert_eq!(out, expected);
        }
        for refused in ["", "a b", "a=b", "a;b", "a\r\nb", "ä"] {
            assert_eq!(Cookie::new(refused, None, Travel::Any), None, "{refused}");
        }
    }

    #[test]
    fn tags_are_the_same_for_ever_and_lead_back() {
        assert_eq!(tag("10.0.0.1:8080", 0), 13_138_588_514_222_100_497);
        assert_ne!(tag("10.0.0.1:8080", 0), tag("10.0.0.1:8080", 1));
        let addresses = ["10.0.0.3:80", "10.0.0.1:80", "10.0.0.2:80"];
        let tags = Tags::new(addresses.iter().map(|a| tag(a, 7)));
        for (number, address) in addresses.iter().enumerate() {
            assert_eq!(tags.number(tag(address, 7)), Some(number));
            assert_eq!(tags.number(tag(address, 8)), None);
        }
        assert_eq!(Tags::default().number(0), None);
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_found(tag in any::<u64>(), before in "[a-z=\"; ]{0,20}", after in "[a-z=\"; ]{0,20}") {
            let cookie = Cookie::new("r0ute", Some(5), Travel::Secure).unwrap();
            let mut out = String::new();
            cookie.render(tag, &mut out);
            let pair = out.split(';').next().unwrap();
            let field = format!("{before};{pair};{after}");
            let got: Vec<u64> = cookie.tags([field.as_bytes()].into_iter()).collect();
            prop_assert_eq!(got, [tag]);
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let cookie = Cookie::new("r", None, Travel::Any).unwrap();
            prop_assert!(cookie.tags([&bytes[..]].into_iter()).count() <= 100);
        }
    }
}
