//! Parameters of a query, compared decoded.

use super::WholeRegex;

/// The raw value of the first parameter whose decoded name is `name`.
pub(super) fn first_parameter<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (key, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &pair[pair.len()..]),
        };
        decoded(key).eq(name.iter().copied()).then_some(value)
    })
}

/// `application/x-www-form-urlencoded` as browsers write it: `+` is a space, a broken escape stands for itself.
pub(super) fn decoded(raw: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        let escape = match after {
            [high, low, tail @ ..] if *first == b'%' => hex(*high).zip(hex(*low)).map(|pair| (pair, tail)),
            _ => None,
        };
        if let Some(((high, low), tail)) = escape {
            rest = tail;
            return Some(high << 4 | low);
        }
        rest = after;
        Some(if *first == b'+' { b' ' } else { *first })
    })
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// A regex needs its text in one piece. A value without escapes is that already; another is decoded on the
/// stack, and one that is longer there than any sensible parameter does not match.
pub(super) fn matches_decoded(regex: &WholeRegex, raw: &[u8]) -> bool {
    if memchr::memchr2(b'%', b'+', raw).is_none() {
        return regex.is_match(raw);
    }
    let mut text = [0; DECODED_BYTES_MAX];
    let mut length = 0;
    for byte in decoded(raw) {
        let Some(slot) = text.get_mut(length) else { return false };
        *slot = byte;
        length += 1;
    }
    regex.is_match(&text[..length])
}

/// Decoded bytes of a parameter that a regex looks at, if it has escapes.
pub(super) const DECODED_BYTES_MAX: usize = 1024;
