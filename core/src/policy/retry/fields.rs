//! The header fields that retries read and write: `ringway-attempt` between hops, and Retry-After from origins.

use crate::base::limits::ATTEMPT_NUMBER_MAX;
use crate::http::grammar::{parse_decimal, push_decimal};

/// The field that says which try of a request this is: one or two digits, 1 for the first. Envoy's
/// `x-envoy-attempt-count` says the same but for origins and logs only: no Envoy retries less for it.
pub const ATTEMPT_FIELD: &str = "ringway-attempt";

/// The number in a request's `ringway-attempt`, 1 to `ATTEMPT_NUMBER_MAX`; 1 if there is none or it is malformed. It can
/// only lessen what a hop does for a request, so it need not come from somebody trusted.
pub fn arrived_as(value: Option<&[u8]>) -> u32 {
    value
        .filter(|value| value.len() <= 2)
        .and_then(parse_decimal)
        .and_then(|number| u32::try_from(number).ok())
        .map_or(1, |number| number.max(1))
}

/// The number to send upstream: that with which the request arrived, and one more for each of our own tries before this
/// of which a byte was sent. Tries that sent nothing are not counted, for the next hop knows nothing of them.
pub fn sent_as(arrived_as: u32, sent_before: u32) -> u32 {
    arrived_as.saturating_add(sent_before).min(ATTEMPT_NUMBER_MAX)
}

/// Appends a `ringway-attempt` value.
pub fn push_attempt(number: u32, out: &mut Vec<u8>) {
    push_decimal(u64::from(number), out);
}

/// What Retry-After says, in milliseconds from `unix_s` (seconds since 1970) on: delay-seconds or an IMF-fixdate (RFC
/// 9110 section 10.2.3), one in the past being 0, and more than fits all that does. `None` for what can't be read, the two
/// obsolete forms of dates included: it says nothing.
pub fn retry_after_ms(value: &[u8], unix_s: u64) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let seconds = if is_number {
        parse_decimal(value).unwrap_or(u64::MAX)
    } else {
        imf_fixdate(value)?.saturating_sub(unix_s)
    };
    Some(seconds.saturating_mul(1_000))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970, RFC 9110 section 5.6.7. The name of the day is not checked
/// against the date.
fn imf_fixdate(text: &[u8]) -> Option<u64> {
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let text: &[u8; 29] = text.try_into().ok()?;
    let separators = [(3, b','), (4, b' '), (7, b' '), (11, b' '), (16, b' '), (19, b':'), (22, b':')];
    if separators.iter().any(|&(at, byte)| text[at] != byte) || &text[25..] != b" GMT" {
        return None;
    }
    let number = |from: usize, to: usize| parse_decimal(&text[from..to]);
    let (day, year) = (number(5, 7)?, number(12, 16)?);
    let month = MONTHS.iter().position(|month| month[..] == text[8..11])? as u64 + 1;
    let (hour, minute, second) = (number(17, 19)?, number(20, 22)?, number(23, 25)?);
    if !(1..=31).contains(&day) || year < 1970 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 0000-03-01, with the year beginning in March so that the leap day comes last (Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms", days_from_civil); 719,468 of them lie before 1970.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::{arrived_as, push_attempt, retry_after_ms, sent_as};

    #[test]
    fn attempts() {
        assert_eq!(arrived_as(None), 1);
        for (value, expected) in [
            ("1", 1),
            ("2", 2),
            ("02", 2),
            ("99", 99),
            ("0", 1),
            ("00", 1),
            ("100", 1),
            ("", 1),
            ("-2", 1),
            ("+2", 1),
            (" 2", 1),
            ("2,", 1),
        ] {
            assert_eq!(arrived_as(Some(value.as_bytes())), expected, "{value}");
        }
        for (arrived, sent_before, expected) in
            [(1, 0, 1), (1, 2, 3), (3, 0, 3), (3, 1, 4), (99, 5, 99), (1, u32::MAX, 99)]
        {
            assert_eq!(sent_as(arrived, sent_before), expected);
            let mut value = Vec::new();
            push_attempt(expected, &mut value);
            assert_eq!(arrived_as(Some(&value)), expected);
        }
    }

    #[test]
    fn retry_after() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        const NOW: u64 = 784_111_777;
        for (value, expected) in [
            ("0", 0),
            ("120", 120_000),
            ("99999999999999999999", u64::MAX),
            ("18446744073709551615", u64::MAX),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:47 GMT", 10_000),
            ("Sun, 06 Nov 1994 08:49:27 GMT", 0),
            ("Mon, 07 Nov 1994 08:49:37 GMT", 86_400_000),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sat, 31 Dec 9999 23:59:59 GMT", (253_402_300_799 - NOW) * 1_000),
        ] {
            assert_eq!(retry_after_ms(value.as_bytes(), NOW), Some(expected), "{value}");
        }
        for value in [
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "-1",
            "1.5",
            "soon",
            "",
        ] {
            assert_eq!(retry_after_ms(value.as_bytes(), NOW), None, "{value}");
        }
        // The days around leap days, from 0.
        for (value, unix_s) in [
            ("Thu, 29 Feb 1996 00:00:00 GMT", 825_552_000_u64),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
            ("Thu, 26 Nov 2026 01:18:36 GMT", 1_795_655_916),
        ] {
            assert_eq!(retry_after_ms(value.as_bytes(), 0), Some(unix_s * 1_000), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..32), unix_s in any::<u64>()) {
            retry_after_ms(&value, unix_s);
            prop_assert!((1..=99).contains(&arrived_as(Some(&value))));
        }

        #[test]
        fn no_numbers_panic(day in 0..100, year in 0..10_000, hour in 0..100, unix_s in any::<u64>()) {
            retry_after_ms(format!("Sun, {day:02} Feb {year:04} {hour:02}:00:00 GMT").as_bytes(), unix_s);
        }
    }
}
