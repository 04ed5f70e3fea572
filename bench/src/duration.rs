//! Durations as people write them, on the command line and in suite files: 10, 10s, 500ms, 2m.

use std::time::Duration;

/// A longer run's nanoseconds would still fit, but nobody meant it.
const SECONDS_MAX: f64 = 365.0 * 86_400.0;

pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("{unit:?} is no unit: us, ms, s, m or h")),
    };
    let seconds = digits.parse::<f64>().map_err(|_| format!("{digits:?} is no number"))? * scale;
    match seconds {
        s if (0.0..=SECONDS_MAX).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("out of range".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse;

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("10", 10_000), ("1.5s", 1500), ("250ms", 250), ("2m", 120_000), ("0", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "-1", "1 s", "1x", "inf", "NaN", "1e30"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
