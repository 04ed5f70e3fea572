//! Durations and sizes as a person writes them. A bare number is refused: `30` has meant seconds,
//! milliseconds and nanoseconds in other proxies.

use std::{borrow::Cow, fmt, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base::limits::DURATION_DAYS_MAX;

/// A length of time: `250ms`, `5s`, `1m30s`, `1h`. At least 1 ms, at most 30 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(time::Duration);

/// A [`Duration`], or `off` for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(Option<time::Duration>);

/// A number of bytes: `512B`, `16KiB`, `10MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// A [`Size`], or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimit(Option<u64>);

/// Why a text is no duration or size. Its `Display` is the sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    NoUnit { number: String, examples: &'static str },
    UnknownUnit { unit: String, known: &'static str },
    Fraction { examples: &'static str },
    Zero { hint: &'static str },
    TooLong,
    TooLarge,
    Malformed { expected: &'static str },
}

impl Duration {
    /// For defaults and for configurations built in code. Panics on zero, as the file would be refused.
    pub const fn from_millis(ms: u64) -> Self {
        assert!(ms > 0 && ms <= DURATION_DAYS_MAX * 86_400_000);
        Duration(time::Duration::from_millis(ms))
    }

    pub const fn from_secs(s: u64) -> Self {
        Duration::from_millis(s * 1_000)
    }

    pub const fn as_std(self) -> time::Duration {
        self.0
    }

    pub const fn millis(self) -> u64 {
        self.0.as_millis() as u64
    }

    pub fn parse(text: &str) -> Result<Self, UnitError> {
        const EXPECTED: &str = "a duration such as 250ms, 5s, 1m30s or 1h";
        let mut rest = text;
        let mut total_ms: u64 = 0;
        let mut last_unit_ms = u64::MAX;
        if rest.is_empty() {
            return Err(UnitError::Malformed { expected: EXPECTED });
        }
        while !rest.is_empty() {
            let (number, unit, after) = split_number_unit(rest, EXPECTED, "5s or 250ms")?;
            let unit_ms = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => {
                    return Err(UnitError::UnknownUnit { unit: unit.to_owned(), known: "ms, s, m, h and d" });
                }
            };
            // Units must fall, so that `30s1m` and `5s5s` are not read as something they may not mean.
            if unit_ms >= last_unit_ms {
                return Err(UnitError::Malformed { expected: EXPECTED });
            }
            last_unit_ms = unit_ms;
            total_ms = number
                .checked_mul(unit_ms)
                .and_then(|ms| total_ms.checked_add(ms))
                .ok_or(UnitError::TooLong)?;
            rest = after;
        }
        match total_ms {
            0 => Err(UnitError::Zero { hint: "the shortest duration is 1ms" }),
            ms if ms > DURATION_DAYS_MAX * 86_400_000 => Err(UnitError::TooLong),
            ms => Ok(Duration(time::Duration::from_millis(ms))),
        }
    }
}

impl Timeout {
    pub const OFF: Timeout = Timeout(None);

    pub const fn from_secs(s: u64) -> Self {
        Timeout(Some(Duration::from_secs(s).0))
    }

    pub const fn as_std(self) -> Option<time::Duration> {
        self.0
    }

    pub fn parse(text: &str) -> Result<Self, UnitError> {
        if text == "off" {
            return Ok(Timeout::OFF);
        }
        match Duration::parse(text) {
            Ok(duration) => Ok(Timeout(Some(duration.0))),
            Err(UnitError::Zero { .. }) => Err(UnitError::Zero { hint: "write `off` for no bound" }),
            Err(other) => Err(other),
        }
    }
}

impl Size {
    pub const fn from_bytes(bytes: u64) -> Self {
        Size(bytes)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    pub fn parse(text: &str) -> Result<Self, UnitError> {
        const EXPECTED: &str = "a size such as 512B, 16KiB or 10MB";
        let (number, unit, after) = split_number_unit(text, EXPECTED, "16KiB or 512B")?;
        let factor: u64 = match unit {
            "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => {
                return Err(UnitError::UnknownUnit {
                    unit: unit.to_owned(),
                    known: "B, KB, MB, GB, KiB, MiB and GiB",
                });
            }
        };
        if !after.is_empty() {
            return Err(UnitError::Malformed { expected: EXPECTED });
        }
        // `u64::MAX` stands for "unlimited" in the compiled form, so a size stays clear of it.
        number.checked_mul(factor).filter(|bytes| *bytes <= 1 << 60).map(Size).ok_or(UnitError::TooLarge)
    }
}

impl SizeLimit {
    pub const UNLIMITED: SizeLimit = SizeLimit(None);

    pub const fn from_bytes(bytes: u64) -> Self {
        SizeLimit(Some(bytes))
    }

    pub const fn bytes(self) -> Option<u64> {
        self.0
    }

    pub fn parse(text: &str) -> Result<Self, UnitError> {
        if text == "unlimited" {
            return Ok(SizeLimit::UNLIMITED);
        }
        Size::parse(text).map(|size| SizeLimit(Some(size.0)))
    }
}

fn split_number_unit<'t>(
    text: &'t str,
    expected: &'static str,
    examples: &'static str,
) -> Result<(u64, &'t str, &'t str), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    if rest.starts_with('.') && !number.is_empty() {
        return Err(UnitError::Fraction { examples });
    }
    if number.is_empty() {
        return Err(UnitError::Malformed { expected });
    }
    if rest.is_empty() {
        return Err(UnitError::NoUnit { number: number.to_owned(), examples });
    }
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    if letters == 0 {
        return Err(UnitError::Malformed { expected });
    }
    let (unit, after) = rest.split_at(letters);
    let number = number.parse().map_err(|_| UnitError::TooLarge)?;
    Ok((number, unit, after))
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnitError::NoUnit { number, examples } => {
                write!(f, "`{number}` has no unit; write it with one, as in {examples}")
            }
            UnitError::UnknownUnit { unit, known } => write!(f, "unknown unit `{unit}`; known are {known}"),
            UnitError::Fraction { examples } => {
                write!(f, "fractions are not accepted; use a smaller unit, as in {examples}")
            }
            UnitError::Zero { hint } => write!(f, "zero is not accepted; {hint}"),
            UnitError::TooLong => write!(f, "too long; at most {DURATION_DAYS_MAX}d"),
            UnitError::TooLarge => f.write_str("too large"),
            UnitError::Malformed { expected } => write!(f, "expected {expected}"),
        }
    }
}

impl std::error::Error for UnitError {}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ms = self.0.as_millis() as u64;
        for (unit_ms, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            if ms >= unit_ms {
                write!(f, "{}{unit}", ms / unit_ms)?;
                ms %= unit_ms;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => Duration(duration).fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1_000_000, "MB"), (1_000, "KB")];
        match units.iter().find(|(factor, _)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((factor, unit)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => Size(bytes).fmt(f),
            None => f.write_str("unlimited"),
        }
    }
}

/// Serde and schema by way of `parse` and `Display`. The schema's `format` is what `check.rs` keys on.
macro_rules! textual {
    ($type:ident, $name:literal, $format:literal, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                $type::parse(&text).map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "pattern": $pattern })
            }
        }
    };
}

textual!(Duration, "Duration", "ringway-duration", "^([0-9]+(ms|s|m|h|d))+$");
textual!(Timeout, "Timeout", "ringway-timeout", "^(off|([0-9]+(ms|s|m|h|d))+)$");
textual!(Size, "Size", "ringway-size", "^[0-9]+([KMG]i?B|kB|B)$");
textual!(SizeLimit, "SizeLimit", "ringway-size-limit", "^(unlimited|[0-9]+([KMG]i?B|kB|B))$");

#[cfg(test)]
mod tests {
    use super::{Duration, Size, SizeLimit, Timeout};

    #[test]
    fn durations_read_and_print_back() {
        for (text, ms) in [
            ("1ms", 1),
            ("250ms", 250),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("30d", 2_592_000_000),
        ] {
            let duration = Duration::parse(text).unwrap();
            assert_eq!(duration.as_std().as_millis(), ms, "{text}");
            assert_eq!(duration.to_string(), text);
        }
        assert_eq!(Duration::parse("90s").unwrap().to_string(), "1m30s");
    }

    #[test]
    fn durations_refused_with_a_hint() {
        for (text, fragment) in [
            ("30", "`30` has no unit; write it with one, as in 5s"),
            ("1s30", "`30` has no unit"),
            ("", "expected a duration"),
            ("s", "expected a duration"),
            ("-5s", "expected a duration"),
            ("5 s", "expected a duration"),
            ("5s ", "expected a duration"),
            ("5sec", "unknown unit `sec`; known are ms, s, m, h and d"),
            ("5S", "unknown unit `S`"),
            ("5us", "unknown unit `us`"),
            ("1.5s", "fractions are not accepted"),
            ("0s", "zero is not accepted; the shortest duration is 1ms"),
            ("31d", "too long; at most 30d"),
            ("99999999999999999999s", "too large"),
            ("18446744073709551615d", "too long"),
            ("30s1m", "expected a duration"),
            ("5s5s", "expected a duration"),
            ("off", "expected a duration"),
        ] {
            let error = Duration::parse(text).unwrap_err().to_string();
            assert!(error.contains(fragment), "{text}: {error}");
        }
        assert!(Timeout::parse("0s").unwrap_err().to_string().contains("write `off`"));
        assert_eq!(Timeout::parse("off").unwrap(), Timeout::OFF);
        assert_eq!(Timeout::OFF.to_string(), "off");
    }

    #[test]
    fn sizes_read_and_print_back() {
        for (text, bytes, printed) in [
            ("0B", 0, "0B"),
            ("512B", 512, "512B"),
            ("16KiB", 16_384, "16KiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("10MB", 10_000_000, "10MB"),
            ("1kB", 1_000, "1KB"),
            ("2GiB", 2 << 30, "2GiB"),
        ] {
            let size = Size::parse(text).unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
            assert_eq!(Size::parse(printed).unwrap(), size);
        }
        for (text, fragment) in [
            ("16", "`16` has no unit"),
            ("16K", "unknown unit `K`"),
            ("16kib", "unknown unit `kib`"),
            ("1KiB1B", "expected a size"),
            ("1.5MiB", "fractions"),
            ("99999999999GiB", "too large"),
            ("unlimited", "expected a size"),
        ] {
            let error = Size::parse(text).unwrap_err().to_string();
            assert!(error.contains(fragment), "{text}: {error}");
        }
        assert_eq!(SizeLimit::parse("unlimited").unwrap(), SizeLimit::UNLIMITED);
    }
}
