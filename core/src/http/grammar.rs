//! The small grammar that every HTTP parser here shares: tokens, field values, lists and numbers.
//!
//! Only leaves: no message, no error type, no policy. Who calls decides what a mismatch means.

use std::net::Ipv6Addr;

const TOKEN: u8 = 1;
const HOST: u8 = 2;
const VALUE: u8 = 4;
const UNRESERVED: u8 = 8;

/// What each byte may be part of. One table, so that hot loops touch four cache lines at most.
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut index = 0usize;
    while index < 256 {
        let byte = index as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric() {
            class |= TOKEN | HOST | UNRESERVED;
        }
        // RFC 9110 section 5.6.2.
        if matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        ) {
            class |= TOKEN;
        }
        // reg-name of RFC 3986 section 3.2.2 without ',' (a list to many readers) and without '%' (two spellings of
        // one host), plus the characters of an IP literal and a port.
        if matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        ) {
            class |= HOST;
        }
        // RFC 9110 section 5.5: VCHAR, obs-text, SP and HTAB.
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            class |= VALUE;
        }
        if matches!(byte, b'-' | b'.' | b'_' | b'~') {
            class |= UNRESERVED;
        }
        table[index] = class;
        index += 1;
    }
    table
}

/// tchar, RFC 9110 section 5.6.2.
#[inline]
pub fn is_tchar(byte: u8) -> bool {
    CLASS[byte as usize] & TOKEN != 0
}

/// A non-empty token, RFC 9110 section 5.6.2.
#[inline]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_tchar(byte))
}

/// A field value as it may stand on the wire: no control characters but HTAB, no white space at either end.
#[inline]
pub fn is_field_value(text: &[u8]) -> bool {
    text.iter().all(|&byte| CLASS[byte as usize] & VALUE != 0) && trim(text).len() == text.len()
}

/// unreserved, RFC 3986 section 2.3.
#[inline]
pub fn is_unreserved(byte: u8) -> bool {
    CLASS[byte as usize] & UNRESERVED != 0
}

/// Whether `text` is `uri-host [ ":" port ]` without userinfo, with a port that fits.
#[inline]
pub fn is_authority(text: &[u8]) -> bool {
    split_authority(text).is_some()
}

/// Splits `host[:port]`; a port may be empty (RFC 3986 section 3.2.3), which is none. None when it isn't one: empty host, userinfo, list, escapes, a port over 65,535.
#[inline]
pub fn split_authority(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    if text.first() == Some(&b'[') {
        return split_ip_literal(text);
    }
    let host_len = text.iter().position(|&byte| CLASS[byte as usize] & HOST == 0).unwrap_or(text.len());
    let (host, rest) = text.split_at(host_len);
    if host.is_empty() {
        return None;
    }
    with_port(host, rest)
}

#[cold]
fn split_ip_literal(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let close = memchr::memchr(b']', text)?;
    let inner = std::str::from_utf8(&text[1..close]).ok()?;
    inner.parse::<Ipv6Addr>().ok()?;
    with_port(&text[..=close], &text[close + 1..])
}

/// `rest` is empty or `":" [ port ]`.
fn with_port<'a>(host: &'a [u8], rest: &[u8]) -> Option<(&'a [u8], Option<u16>)> {
    match rest {
        [] | [b':'] => Some((host, None)),
        [b':', digits @ ..] => {
            let port = u16::try_from(parse_decimal(digits)?).ok()?;
            Some((host, Some(port)))
        }
        _ => None,
    }
}

/// One or more digits and nothing else; None on anything else and on overflow.
#[inline]
pub fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut number = 0u64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// Writes a number in decimal without going through `fmt`, which costs about ten times as much.
pub fn push_decimal(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Without the optional white space (SP, HTAB) at both ends.
#[inline]
pub fn trim(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let [b' ' | b'\t', tail @ ..] = rest {
        rest = tail;
    }
    while let [front @ .., b' ' | b'\t'] = rest {
        rest = front;
    }
    rest
}

/// The members of a comma-separated list, trimmed, empty ones left out (RFC 9110 section 5.6.1.2). Quoted strings are
/// not understood: only for lists of tokens.
#[inline]
pub fn list_members(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// Whether challenges or credentials (RFC 9110 sections 11.3 and 11.4) are of a scheme that authenticates the connection
/// and not the request: NTLM, or Negotiate (RFC 4559). A comma in a quoted parameter may make it see one too many.
pub fn authenticates_connection(value: &[u8]) -> bool {
    list_members(value).any(|member| {
        let scheme = member.split(|&byte| byte == b' ' || byte == b'\t').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"negotiate") || scheme.eq_ignore_ascii_case(b"ntlm")
    })
}

/// Equal but for case and for '_' in place of '-': the names that CGI-like servers take for one another.
#[inline]
pub fn eq_folding_underscore(name: &[u8], canonical: &[u8]) -> bool {
    name.len() == canonical.len()
        && name.iter().zip(canonical).all(|(&byte, &want)| {
            let byte = if byte == b'_' { b'-' } else { byte };
            byte.eq_ignore_ascii_case(&want)
        })
}

#[cfg(test)]
mod tests {
    use super::{is_field_value, is_token, list_members, parse_decimal, push_decimal, split_authority, trim};

    #[test]
    fn authority() {
        let accepted: &[(&[u8], &[u8], Option<u16>)] = &[
            (b"a", b"a", None),
            (b"a:", b"a", None),
            (b"[::1]:", b"[::1]", None),
            (b"example.com:80", b"example.com", Some(80)),
            (b"under_score.example", b"under_score.example", None),
            (b"127.0.0.1:65535", b"127.0.0.1", Some(65535)),
            (b"[::1]", b"[::1]", None),
            (b"[2001:db8::1]:8443", b"[2001:db8::1]", Some(8443)),
        ];
        for (text, host, port) in accepted {
            assert_eq!(split_authority(text), Some((*host, *port)), "{}", text.escape_ascii());
        }
        let refused: &[&[u8]] = &[
            b"",
            b":80",
            b":",
            b"a::",
            b"a:65536",
            b"a:+1",
            b"a:8o",
            b"a:1:2",
            b"u@a",
            b"a,b",
            b"a b",
            b"a/b",
            b"a%41",
            b"[::1",
            b"[::1]x",
            b"[fe80::1%25eth0]",
            b"[]",
            b"[1]",
            b"a[::1]",
            b"a\x00",
            b"\xc3\xa9",
            b"a\\b",
            b"a?b",
            b"a#b",
        ];
        for text in refused {
            assert_eq!(split_authority(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn numbers() {
        for number in [0, 1, 9, 10, 99, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
            assert_eq!(parse_decimal(&out), Some(number));
        }
        for text in [&b""[..], b"+1", b"-1", b"1 ", b" 1", b"0x1", b"18446744073709551616", b"1,1"] {
            assert_eq!(parse_decimal(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn words() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(list_members(b", a ,,b\t,").collect::<Vec<_>>(), [&b"a"[..], b"b"]);
        assert!(is_token(b"X-a_1!") && !is_token(b"") && !is_token(b"a b") && !is_token(b"a:"));
        assert!(is_field_value(b"") && is_field_value(b"a\tb\xff"));
        for bad in [&b"a\r"[..], b"\n", b"\0", b" a", b"a ", b"\x7f"] {
            assert!(!is_field_value(bad), "{}", bad.escape_ascii());
        }
    }
}
