//! A run's outcome for the reader: a table, the histogram as `HdrHistogram`'s plotter takes it, one HTML page.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::load::stats::{Latency, Report, Second, Tls, Totals, micros};

pub mod html;

/// The table that ends a run.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").expect("a String takes all");
    if report.interrupted {
        line(format_args!("Interrupted: what follows is what was measured until then."));
    }
    for target in &report.targets {
        line(format_args!("{} {target}", report.method));
    }
    let rate =
        report.rate_asked_per_s.map_or(String::new(), |rate| format!(" at {} requests/s", number(rate)));
    let streams = if report.streams > 1 { format!(" x {} streams", report.streams) } else { String::new() };
    line(format_args!(
        "{}, {} connections{streams}, {} thread{}, {} loop{rate}",
        report.protocol,
        report.connections,
        report.threads,
        if report.threads == 1 { "" } else { "s" },
        report.pace,
    ));
    line(format_args!(""));
    line(format_args!("  {:<22}{} in {:.2} s", "requests", report.requests, report.elapsed_s));
    line(format_args!("  {:<22}{}/s", "throughput", number(report.requests_per_s)));
    line(format_args!("  {:<22}{}/s", "body bytes", bytes(report.body_bytes_per_s)));
    line(format_args!("  {:<22}{}", "connections opened", report.connections_opened));
    if report.refused > 0 {
        line(format_args!("  {:<22}{} after GOAWAY or REFUSED_STREAM", "sent again", report.refused));
    }
    if let Some(tls) = &report.tls {
        line(format_args!("  {:<22}{}", "TLS", agreed(tls)));
        let (full, resumed) = (tls.handshakes_full, tls.handshakes_resumed);
        line(format_args!("  {:<22}{full} full, {resumed} resumed", "handshakes"));
        if let Some(reason) = &tls.first_error {
            line(format_args!("  {:<22}{reason}", "first TLS error"));
        }
    }
    let statuses: Vec<String> = report.statuses.iter().map(|(class, n)| format!("{class} {n}")).collect();
    line(format_args!(
        "  {:<22}{}",
        "statuses",
        if statuses.is_empty() { "none".into() } else { statuses.join(", ") }
    ));
    if let Some(calls) = &report.grpc {
        let statuses: Vec<String> =
            calls.statuses.iter().map(|(status, n)| format!("{status}: {n}")).collect();
        line(format_args!("  {:<22}{}", "gRPC statuses", statuses.join(", ")));
        line(format_args!("  {:<22}{}/s", "messages received", number(calls.messages_per_s)));
    }
    let errors: Vec<String> =
        report.errors.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| format!("{kind} {n}")).collect();
    line(format_args!(
        "  {:<22}{}",
        "errors",
        if errors.is_empty() { "none".into() } else { errors.join(", ") }
    ));
    if report.unsent > 0 {
        let note = "were due before the end: the rate was not kept";
        line(format_args!("  {:<22}{} {note}", "not sent", report.unsent));
    }
    line(format_args!(
        "  {:<22}{:.2} us of CPU a request",
        "the generator's cost", report.generator_cpu_us_per_request
    ));
    line(format_args!(""));
    let service = report.service.as_ref();
    line(format_args!(
        "  {:<10}{:>12}{}",
        "latency",
        if service.is_some() { "from due" } else { "" },
        service.map_or(String::new(), |_| format!("{:>12}", "from sent")),
    ));
    for (name, of) in ROWS {
        let service = service.map_or(String::new(), |service| format!("{:>12}", duration(of(service))));
        line(format_args!("  {name:<10}{:>12}{service}", duration(of(&report.latency))));
    }
    text
}

/// Version, cipher suite and protocol, as the first handshake agreed on them.
fn agreed(tls: &Tls) -> String {
    let (Some(version), Some(cipher)) = (tls.version, &tls.cipher) else {
        return "none came about".to_owned();
    };
    format!("{version}, {cipher}, {}", tls.alpn.as_deref().unwrap_or("no protocol negotiated"))
}

type Row = (&'static str, fn(&Latency) -> f64);

const ROWS: [Row; 10] = [
    ("min", |l| l.min_us),
    ("mean", |l| l.mean_us),
    ("p50", |l| l.p50_us),
    ("p75", |l| l.p75_us),
    ("p90", |l| l.p90_us),
    ("p95", |l| l.p95_us),
    ("p99", |l| l.p99_us),
    ("p99.9", |l| l.p999_us),
    ("p99.99", |l| l.p9999_us),
    ("max", |l| l.max_us),
];

/// What stands in the progress line after each second.
pub fn progress(second: &Second, totals: &Totals) -> String {
    let at = |quantile| duration(micros(totals.latency.value_at_quantile(quantile)));
    let errors = totals.counts.errors_sum();
    format!(
        "{:>4} s  {:>9}/s  p50 {}  p99 {}  p99.9 {}  max {}  errors {errors}",
        second.second + 1,
        number(second.requests as f64),
        at(0.5),
        at(0.99),
        at(0.999),
        duration(micros(totals.latency.max())),
    )
}

/// The percentile distribution, in milliseconds, as `HdrHistogram`'s own tools print and plot it.
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for step in histogram.iter_quantiles(5) {
        let (value, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        let odds = if quantile < 1.0 {
            format!("{:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            format!("{:>14}", "inf")
        };
        let count = histogram.count_between(0, step.value_iterated_to());
        writeln!(text, "{value:>12.6} {quantile:>14.12} {count:>10} {odds}").expect("a String takes all");
    }
    let (mean, stdev) = (histogram.mean() / 1e6, histogram.stdev() / 1e6);
    let (max, count) = (histogram.max() as f64 / 1e6, histogram.len());
    write!(
        text,
        "#[Mean    = {mean:>12.6}, StdDeviation   = {stdev:>12.6}]\n#[Max     = {max:>12.6}, Total count    = {count:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]\n",
        histogram.buckets(),
        2048
    )
    .expect("a String takes all");
    text
}

/// Microseconds in the unit that reads best.
pub fn duration(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.1} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1000.0),
        us => format!("{:.2} s", us / 1_000_000.0),
    }
}

pub fn bytes(n: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut n = n;
    let mut unit = 0;
    while n >= 1024.0 && unit + 1 < UNITS.len() {
        n /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n:.0} B") } else { format!("{n:.1} {}", UNITS[unit]) }
}

/// A count with its thousands apart.
pub fn number(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{bytes, duration, hgrm, number};
    use crate::load::stats::histogram;

    #[test]
    fn figures_are_readable() {
        for (us, text) in
            [(1.25, "1.2 us"), (999.96, "1000.0 us"), (1500.0, "1.50 ms"), (2_500_000.0, "2.50 s")]
        {
            assert_eq!(duration(us), text);
        }
        for (n, text) in [(0.0, "0"), (999.0, "999"), (1000.4, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(number(n), text);
        }
        for (n, text) in [(12.0, "12 B"), (1536.0, "1.5 KiB"), (3.0 * 1024.0 * 1024.0, "3.0 MiB")] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn the_distribution_ends_at_the_maximum() {
        let mut histogram = histogram();
        for ms in 1..=1000_u64 {
            histogram.record(ms * 1_000_000).expect("in bounds");
        }
        let text = hgrm(&histogram);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|n| n.parse().expect("a number")).collect())
            .collect();
        let last = rows.last().expect("a row");
        assert!((last[0] - 1000.0).abs() < 1.0 && last[2] as u64 == 1000, "{last:?}");
        let median = rows.iter().find(|row| row[1] >= 0.5).expect("a median");
        assert!((median[0] - 500.0).abs() < 10.0, "{median:?}");
        assert!(rows.windows(2).all(|w| w[0][0] <= w[1][0] && w[0][2] <= w[1][2]), "{text}");
    }
}
