//! One self-contained page: the table, latency by percentile, rate and latency over time. Inline SVG, no script.

use std::fmt::Write;

use super::{ROWS, agreed, bytes, duration, number};
use crate::load::stats::Report;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 76.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 14.0;
const RIGHT: f64 = 16.0;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:800px;margin:2em auto;padding:0 1em}\
h1{font-size:1.4em;margin-bottom:.2em}h2{font-size:1.1em;margin:1.8em 0 .4em}table{border-collapse:collapse}\
td,th{padding:.15em 1.2em .15em 0;text-align:left;font-weight:normal}td.n{text-align:right;font-variant-numeric:tabular-nums}\
th{color:#555}svg{display:block;max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#555}\
.two{display:flex;gap:4em;flex-wrap:wrap;align-items:flex-start}.note{color:#555}.key{display:inline-block;width:1.6em;height:3px;\
vertical-align:middle;margin:0 .4em 0 1em}";

const BLUE: &str = "#1f5fbf";
const ORANGE: &str = "#c8501e";
const GREY: &str = "#9a9a9a";

pub fn page(report: &Report) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: &str| {
        write!(rows, "<tr><th>{name}<td class=n>{}", escape(value)).expect("a String takes all");
    };
    row("requests", &number(report.requests as f64));
    row("measured", &format!("{:.2} s", report.elapsed_s));
    row("throughput", &format!("{}/s", number(report.requests_per_s)));
    row("body bytes", &format!("{}/s", bytes(report.body_bytes_per_s)));
    row("connections opened", &number(report.connections_opened as f64));
    if report.refused > 0 {
        row("sent again", &number(report.refused as f64));
    }
    if let Some(tls) = &report.tls {
        row("TLS", &agreed(tls));
        row("full handshakes", &number(tls.handshakes_full as f64));
        row("resumed handshakes", &number(tls.handshakes_resumed as f64));
        if let Some(reason) = &tls.first_error {
            row("first TLS error", reason);
        }
    }
    for (class, n) in &report.statuses {
        row(&format!("status {class}"), &number(*n as f64));
    }
    for (kind, n) in report.errors.iter().filter(|(_, n)| **n > 0) {
        row(&format!("error: {kind}"), &number(*n as f64));
    }
    if report.unsent > 0 {
        row("due and not sent", &number(report.unsent as f64));
    }
    row("generator's CPU a request", &format!("{:.2} us", report.generator_cpu_us_per_request));

    let mut percentiles = String::new();
    for (name, of) in ROWS {
        write!(percentiles, "<tr><th>{name}<td class=n>{}", duration(of(&report.latency)))
            .expect("a String takes all");
        if let Some(service) = &report.service {
            write!(percentiles, "<td class=n>{}", duration(of(service))).expect("a String takes all");
        }
    }
    let head = match report.service {
        Some(_) => "<tr><th>latency<td class=n>from due<td class=n>from sent",
        None => "<tr><th>latency<td>",
    };
    let rate =
        report.rate_asked_per_s.map_or(String::new(), |rate| format!(" at {} requests/s", number(rate)));
    let interrupted = if report.interrupted { " · interrupted" } else { "" };
    let targets: Vec<String> =
        report.targets.iter().map(|t| escape(&format!("{} {t}", report.method))).collect();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>ringway-bench</title><style>{STYLE}</style>\n\
         <h1>{}</h1><p class=note>{} connections · {} thread{} · {} loop{rate}{interrupted}</p>\n\
         <div class=two><table>{rows}</table><table>{head}{percentiles}</table></div>\n\
         <h2>Latency by percentile</h2>{}\n\
         <h2>Requests a second</h2>{}\n\
         <h2>Latency over time<span class=key style=\"background:{BLUE}\"></span><small>p50</small>\
         <span class=key style=\"background:{ORANGE}\"></span><small>p99</small>\
         <span class=key style=\"background:{GREY}\"></span><small>max</small></h2>{}\n</html>\n",
        targets.join("<br>"),
        report.connections,
        report.threads,
        if report.threads == 1 { "" } else { "s" },
        report.pace,
        percentile_plot(report),
        rate_plot(report),
        latency_plot(report),
    )
}

/// The horizontal axis counts nines, so that the tail has as much room as the middle.
fn percentile_plot(report: &Report) -> String {
    const NINES_MAX: f64 = 5.0;
    let nines = |quantile: f64| (-(1.0 - quantile).max(1e-9).log10()).min(NINES_MAX);
    let histogram = &report.histogram;
    if histogram.is_empty() {
        return NO_DATA.to_owned();
    }
    let quantiles = (0..=200).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 200.0 * NINES_MAX));
    let points: Vec<(f64, f64)> = quantiles
        .map(|quantile| {
            (nines(quantile), histogram.value_at_quantile(quantile).min(histogram.max()) as f64 / 1000.0)
        })
        .collect();
    let ticks =
        [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let ticks: Vec<(f64, String)> = ticks.iter().map(|(q, text)| (nines(*q), (*text).to_owned())).collect();
    Plot { x_max: NINES_MAX, scale: Scale::Logarithmic, y_text: tick_duration }
        .draw(&ticks, &[(BLUE, points)])
}

fn rate_plot(report: &Report) -> String {
    // The last second is usually a part of one: its rate is what that part makes.
    let length = |second: u64| (report.elapsed_s - second as f64).clamp(0.0, 1.0);
    let points: Vec<(f64, f64)> = report
        .seconds
        .iter()
        .filter(|s| length(s.second) > 0.2 || report.seconds.len() == 1)
        .map(|s| (s.second as f64 + length(s.second) / 2.0, s.requests as f64 / length(s.second).max(1e-6)))
        .collect();
    time_plot(report, Scale::Linear, number, &[(BLUE, points)])
}

fn latency_plot(report: &Report) -> String {
    let line = |of: fn(&crate::load::stats::Second) -> f64| -> Vec<(f64, f64)> {
        report.seconds.iter().filter(|s| s.requests > 0).map(|s| (s.second as f64 + 0.5, of(s))).collect()
    };
    let lines = [(GREY, line(|s| s.max_us)), (ORANGE, line(|s| s.p99_us)), (BLUE, line(|s| s.p50_us))];
    time_plot(report, Scale::Logarithmic, tick_duration, &lines)
}

type Line = (&'static str, Vec<(f64, f64)>);

fn time_plot(report: &Report, scale: Scale, y_text: fn(f64) -> String, lines: &[Line]) -> String {
    if lines.iter().all(|(_, points)| points.is_empty()) {
        return NO_DATA.to_owned();
    }
    let x_max = report.elapsed_s.max(1.0);
    let step = nice_step(x_max / 8.0).max(1.0);
    let ticks: Vec<(f64, String)> = (0..=(x_max / step) as u32)
        .map(|tick| f64::from(tick) * step)
        .map(|at| (at, format!("{at:.0} s")))
        .collect();
    Plot { x_max, scale, y_text }.draw(&ticks, lines)
}

const NO_DATA: &str = "<p class=note>nothing was measured</p>";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// From zero.
    Linear,
    /// Whole decades: medians of microseconds and stalls of seconds stand on one page.
    Logarithmic,
}

impl Scale {
    /// Where values up to `max` and down to `min` are written: from the bottom to the top of the plot.
    fn ticks(self, min: f64, max: f64) -> Vec<f64> {
        match self {
            Self::Linear => {
                let step = nice_step(max / 4.0);
                (0..=(max / step).ceil() as u32).map(|tick| f64::from(tick) * step).collect()
            }
            Self::Logarithmic => {
                let (low, high) = (min.max(0.1).log10().floor() as i32, max.max(0.1).log10().ceil() as i32);
                (low..=high.max(low + 1)).map(|decade| 10_f64.powi(decade)).collect()
            }
        }
    }

    /// Height of `value` as a part of the whole.
    fn place(self, value: f64, bottom: f64, top: f64) -> f64 {
        match self {
            Self::Linear => value / top,
            Self::Logarithmic => (value.max(bottom) / bottom).log10() / (top / bottom).log10(),
        }
    }
}

/// A decade in the unit that reads best.
fn tick_duration(us: f64) -> String {
    match us {
        us if us < 1.0 => format!("{us:.1} us"),
        us if us < 1000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1000.0),
        us => format!("{:.0} s", us / 1_000_000.0),
    }
}

struct Plot {
    x_max: f64,
    scale: Scale,
    y_text: fn(f64) -> String,
}

impl Plot {
    fn draw(&self, x_ticks: &[(f64, String)], lines: &[Line]) -> String {
        let values = || lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
        let y_ticks = self
            .scale
            .ticks(values().fold(f64::INFINITY, f64::min), values().fold(f64::MIN_POSITIVE, f64::max));
        let (bottom, top) = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
        let x = |value: f64| LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - self.scale.place(value, bottom, top) * (HEIGHT - BOTTOM - TOP);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img>");
        let mut put = |args: std::fmt::Arguments<'_>| svg.write_fmt(args).expect("a String takes all");
        for value in y_ticks {
            let (at, text) = (y(value), (self.y_text)(value));
            put(format_args!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#e4e4e4\"/>", WIDTH - RIGHT));
            put(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=end>{text}</text>",
                LEFT - 8.0,
                at + 4.0
            ));
        }
        for (value, text) in x_ticks {
            let at = x(*value);
            put(format_args!("<path d=\"M{at:.1} {:.1}v5\" stroke=\"#777\"/>", HEIGHT - BOTTOM));
            put(format_args!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=middle>{text}</text>",
                HEIGHT - BOTTOM + 20.0
            ));
        }
        put(format_args!(
            "<path d=\"M{LEFT} {:.1}H{:.1}\" stroke=\"#777\"/>",
            HEIGHT - BOTTOM,
            WIDTH - RIGHT
        ));
        for (colour, points) in lines {
            let path: Vec<String> =
                points.iter().map(|&(px, py)| format!("{:.1} {:.1}", x(px), y(py))).collect();
            put(format_args!(
                "<path d=\"M{}\" fill=none stroke=\"{colour}\" stroke-width=2 stroke-linejoin=\"round\"/>",
                path.join("L")
            ));
            // A line of one point shows nothing; its dot does.
            if let [only] = path.as_slice() {
                let (cx, cy) = only.split_once(' ').unwrap_or_default();
                put(format_args!("<circle cx=\"{cx}\" cy=\"{cy}\" r=3 fill=\"{colour}\"/>"));
            }
        }
        svg + "</svg>"
    }
}

/// 1, 2 or 5 times a power of ten, at least `rough`.
fn nice_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|&step| step >= rough).unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{Scale, escape, nice_step};

    #[test]
    fn every_value_has_its_place_within_the_plot() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            for (min, max) in [(15.0, 302_250.0), (100.0, 100.0), (0.0, 0.5), (7.0, 9_999.0)] {
                let ticks = scale.ticks(min, max);
                let (bottom, top) = (ticks[0], ticks[ticks.len() - 1]);
                assert!(ticks.len() >= 2 && ticks.windows(2).all(|w| w[0] < w[1]), "{ticks:?}");
                for value in [min, max] {
                    let place = scale.place(value, bottom, top);
                    assert!((0.0..=1.0).contains(&place), "{value} of {min} to {max}: {place}");
                }
            }
        }
    }

    #[test]
    fn steps_are_round() {
        for (rough, step) in [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (51.0, 100.0), (1200.0, 2000.0)]
        {
            assert!((nice_step(rough) - step).abs() < 1e-9, "{rough}: {}", nice_step(rough));
        }
    }

    #[test]
    fn a_target_cannot_write_markup() {
        assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
