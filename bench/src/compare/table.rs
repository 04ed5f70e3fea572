//! The outcome of a comparison as a Markdown table: medians, spread, and the ratio to the first contender.

use std::fmt::Write;

use super::{
    run::{Outcome, Row},
    suite::Suite,
};
use crate::report::{bytes, number};

/// Median, lowest and highest.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.len() {
        0 => return None,
        n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    };
    Some(Spread { median, min: values[0], max: values[values.len() - 1] })
}

/// Round by round, so that what slowed a round down slowed both down.
fn ratio<T>(of: &[T], base: &[T], figure: fn(&T) -> f64) -> Option<Spread> {
    spread(of.iter().zip(base).map(|(a, b)| figure(a) / figure(b)))
}

type Cell = fn(&Row, &Row) -> Option<String>;

/// Heading, and what stands below it given the row and the one it is compared with.
const COLUMNS: [(&str, Cell); 14] = [
    ("version", |row, _| Some(row.version.clone())),
    ("workers", |row, _| Some(row.workers.to_string())),
    ("CPU us/request", |row, _| {
        spread(row.closed.iter().map(|s| s.cpu_us_per_request)).map(|s| with_spread(s, 2))
    }),
    ("x first", |row, base| {
        ratio(&row.closed, &base.closed, |s| s.cpu_us_per_request).map(|s| with_spread(s, 2))
    }),
    ("requests/s", |row, _| spread(row.closed.iter().map(|s| s.requests_per_s)).map(|s| number(s.median))),
    ("switches/request", |row, _| {
        spread(row.closed.iter().map(|s| s.switches_per_request)).map(|s| format!("{:.3}", s.median))
    }),
    ("p50, p99 us at the rate", |row, _| {
        let p50 = spread(row.fixed_rate.iter().map(|s| s.p50_us))?;
        let p99 = spread(row.fixed_rate.iter().map(|s| s.p99_us))?;
        Some(format!("{:.0}, {:.0}", p50.median, p99.median))
    }),
    ("p99 x first", |row, base| {
        ratio(&row.fixed_rate, &base.fixed_rate, |s| s.p99_us).map(|s| with_spread(s, 2))
    }),
    ("CPU us at the rate", |row, _| {
        spread(row.fixed_rate.iter().map(|s| s.cpu_us_per_request)).map(|s| with_spread(s, 1))
    }),
    ("memory started", |row, _| Some(bytes(row.memory_started.pss_bytes as f64))),
    ("loaded", |row, _| row.memory_loaded.map(|m| bytes(m.pss_bytes as f64))),
    ("idle connections", |row, _| {
        let idle = row.idle?;
        let total = bytes(idle.memory.pss_bytes as f64);
        Some(format!(
            "{}: {total}, {:.1} KiB each",
            idle.connections,
            idle.pss_bytes_per_connection as f64 / 1024.0
        ))
    }),
    ("errors", |row, _| {
        let closed: u64 = row.closed.iter().map(|s| s.errors).sum();
        let fixed: u64 = row.fixed_rate.iter().map(|s| s.errors).sum();
        Some((closed + fixed).to_string())
    }),
    ("due, not sent", |row, _| {
        let unsent: u64 = row.fixed_rate.iter().map(|s| s.unsent).sum();
        (unsent > 0).then(|| unsent.to_string())
    }),
];

fn with_spread(s: Spread, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}-{:.digits$})", s.median, s.min, s.max)
}

pub fn table(suite: &Suite, outcome: &Outcome) -> String {
    let mut text = format!("{}\n\n", suite.about);
    if let Some(fixed) = &suite.fixed_rate {
        let rate = number(fixed.per_second);
        writeln!(text, "\"At the rate\": open loop, {rate} requests/s, latency from when each was due.\n")
            .expect("a String takes all");
    }
    let mut rows = Vec::new();
    for row in &outcome.rows {
        let base = outcome.rows.iter().find(|other| other.workers == row.workers).unwrap_or(row);
        rows.push((row.name.clone(), COLUMNS.map(|(_, cell)| cell(row, base))));
    }
    // A column that nobody has anything to say in is left out.
    let shown: Vec<usize> =
        (0..COLUMNS.len()).filter(|&c| rows.iter().any(|(_, cells)| cells[c].is_some())).collect();
    let mut lines = vec![vec!["contender".to_owned()]];
    lines[0].extend(shown.iter().map(|&c| COLUMNS[c].0.to_owned()));
    for (name, cells) in rows {
        let mut line = vec![name];
        line.extend(shown.iter().map(|&c| cells[c].clone().unwrap_or_else(|| "-".to_owned())));
        lines.push(line);
    }
    let widths: Vec<usize> = (0..=shown.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    for (index, line) in lines.iter().enumerate() {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        writeln!(text, "| {} |", cells.join(" | ")).expect("a String takes all");
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
            writeln!(text, "| {} |", rules.join(" | ")).expect("a String takes all");
        }
    }
    text.push('\n');
    for (name, why) in &outcome.absent {
        writeln!(text, "{name} took no part: {why}").expect("a String takes all");
    }
    if outcome.interrupted {
        text.push_str("Interrupted: not all rounds were run.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Spread, ratio, spread, table};
    use crate::{
        compare::{
            run::{ClosedSample, Outcome, Row},
            suite::Suite,
        },
        usage::Memory,
    };

    #[test]
    fn spreads_and_ratios() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter()), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread([4.0, 1.0].into_iter()), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(spread(std::iter::empty()), None);
        // The second round was twice as slow for both: the ratio does not see it.
        let same = ratio(&[3.0, 6.0], &[2.0, 4.0], |&v| v);
        assert_eq!(same, Some(Spread { median: 1.5, min: 1.5, max: 1.5 }));
    }

    #[test]
    fn the_table_has_a_row_each_and_no_empty_columns() {
        let sample = |cpu| ClosedSample {
            requests_per_s: 1234.5,
            cpu_us_per_request: cpu,
            switches_per_request: 0.5,
            p50_us: 1.0,
            p99_us: 2.0,
            errors: 0,
        };
        let row = |name: &str, cpu| Row {
            name: name.to_owned(),
            version: "1".to_owned(),
            workers: 1,
            closed: vec![sample(cpu), sample(cpu)],
            fixed_rate: Vec::new(),
            memory_started: Memory { rss_bytes: 2 << 20, pss_bytes: 1 << 20 },
            memory_loaded: None,
            idle: None,
        };
        let absent = vec![("c".to_owned(), "not found; apt-get install c".to_owned())];
        let outcome = Outcome { rows: vec![row("a", 10.0), row("b", 15.0)], absent, interrupted: false };
        let text = table(&Suite::find("churn").unwrap_or_else(|e| panic!("{e}")), &outcome);
        assert!(
            text.contains(
                "| b         | 1       | 1       | 15.00 (15.00-15.00) | 1.50 (1.50-1.50) | 1,234 "
            ),
            "{text}"
        );
        assert!(!text.contains("idle connections") && !text.contains("at the rate"), "{text}");
        assert!(text.contains("c took no part: not found; apt-get install c"), "{text}");
    }
}
