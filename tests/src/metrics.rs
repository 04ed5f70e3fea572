//! A strict reader of the Prometheus text format (version 0.0.4): what a scraper may forgive, this refuses.

use std::collections::{BTreeMap, BTreeSet};

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<String, Vec<Sample>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Parses a whole scrape and checks it: every family has one HELP and one TYPE before its samples, families are
    /// contiguous, no series comes twice, counters end in `_total` and are not negative, histograms are cumulative.
    pub fn parse(text: &str) -> Result<Metrics, String> {
        let mut metrics = Metrics::default();
        let mut helped = BTreeSet::new();
        let mut family = String::new();
        let mut closed: BTreeSet<String> = BTreeSet::new();
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        for (number, line) in text.lines().enumerate() {
            let fail = |what: &str| Err(format!("line {}: {what}: {line:?}", number + 1));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, _) = rest.split_once(' ').unwrap_or((rest, ""));
                if !helped.insert(name.to_owned()) {
                    return fail("a second HELP");
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return fail("no type") };
                if !helped.contains(name) {
                    return fail("TYPE without HELP");
                }
                if !matches!(kind, "counter" | "gauge" | "histogram" | "summary") {
                    return fail("an unknown type");
                }
                if kind == "counter" && !name.ends_with("_total") {
                    return fail("a counter whose name does not end in _total");
                }
                if metrics.kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return fail("a second TYPE");
                }
                closed.insert(std::mem::replace(&mut family, name.to_owned()));
            } else if !line.starts_with('#') {
                let (name, sample) = match parse_sample(line) {
                    Ok(sample) => sample,
                    Err(what) => return fail(&what),
                };
                if family_of(&metrics.kinds, &name) != Some(family.as_str()) || closed.contains(&family) {
                    return fail("a sample outside of its family");
                }
                if metrics.kinds[&family] == "counter" && sample.value < 0.0 {
                    return fail("a negative counter");
                }
                let series = metrics.samples.entry(name).or_default();
                if series.iter().any(|s| s.labels == sample.labels) {
                    return fail("a series that comes twice");
                }
                series.push(sample);
            }
        }
        metrics.check_histograms()?;
        Ok(metrics)
    }

    fn check_histograms(&self) -> Result<(), String> {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut groups: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
            for sample in self.series(&format!("{name}_bucket")) {
                let mut labels = sample.labels.clone();
                let bound = labels.remove("le").ok_or_else(|| format!("{name}: a bucket without le"))?;
                let bound = bound.parse().map_err(|_| format!("{name}: le {bound:?}"))?;
                groups.entry(labels).or_default().push((bound, sample.value));
            }
            for (labels, buckets) in groups {
                let rising = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
                if !rising {
                    return Err(format!("{name}{labels:?}: buckets are not cumulative: {buckets:?}"));
                }
                let pairs: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let last = buckets.last().filter(|(bound, _)| bound.is_infinite()).map(|(_, value)| *value);
                if last.is_none() || last != self.one(&format!("{name}_count"), &pairs) {
                    return Err(format!("{name}{labels:?}: the +Inf bucket is not the count"));
                }
                if self.one(&format!("{name}_sum"), &pairs).is_none() {
                    return Err(format!("{name}{labels:?}: no sum"));
                }
            }
        }
        Ok(())
    }

    pub fn kind(&self, family: &str) -> Option<&str> {
        self.kinds.get(family).map(String::as_str)
    }

    pub fn series(&self, name: &str) -> &[Sample] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of the series with exactly these labels.
    pub fn one(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let exact = |s: &&Sample| s.labels.len() == labels.len() && carries(s, labels);
        self.series(name).iter().find(exact).map(|s| s.value)
    }

    /// The sum over all series that carry at least these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name).iter().filter(|s| carries(s, labels)).map(|s| s.value).sum()
    }
}

fn carries(sample: &Sample, labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(name, value)| sample.labels.get(*name).map(String::as_str) == Some(value))
}

/// The family a sample's name belongs to: itself, or what is before a histogram's or summary's suffix.
fn family_of<'k>(kinds: &'k BTreeMap<String, String>, name: &str) -> Option<&'k str> {
    let suffixed = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
        let (family, kind) = kinds.get_key_value(name.strip_suffix(suffix)?)?;
        matches!(kind.as_str(), "histogram" | "summary").then_some(family)
    });
    suffixed.or_else(|| kinds.get_key_value(name).map(|(family, _)| family)).map(String::as_str)
}

fn parse_sample(line: &str) -> Result<(String, Sample), String> {
    let name_end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(name_end);
    if !name
        .chars()
        .enumerate()
        .all(|(i, c)| c.is_ascii_alphabetic() || c == '_' || (i > 0 && c.is_ascii_digit()))
    {
        return Err(format!("the name {name:?}"));
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            let (value, after) = parse_label_value(after)?;
            if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(format!("the label {label:?}"));
            }
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("label {label} twice"));
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        value => value.parse().map_err(|_| format!("the value {value:?}"))?,
    };
    Ok((name.to_owned(), Sample { labels, value }))
}

fn parse_label_value(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                other => return Err(format!("the escape \\{other:?}")),
            },
            c => value.push(c),
        }
    }
    Err("a label value without an end".into())
}

#[cfg(test)]
// Whole numbers, exact in f64.
#[allow(clippy::float_cmp)]
mod tests {
    use super::Metrics;

    const GOOD: &str = "# HELP a_total All.\n# TYPE a_total counter\na_total{code=\"2xx\",q=\"a\\\"b\"} 3\n\
        a_total{code=\"4xx\"} 1\n# HELP t_s Time.\n# TYPE t_s histogram\nt_s_bucket{le=\"0.1\"} 1\n\
        t_s_bucket{le=\"+Inf\"} 2\nt_s_sum 0.7\nt_s_count 2\n";

    #[test]
    fn a_good_scrape_is_read() {
        let metrics = Metrics::parse(GOOD).unwrap();
        assert_eq!(metrics.sum("a_total", &[]), 4.0);
        assert_eq!(metrics.sum("a_total", &[("code", "2xx")]), 3.0);
        assert_eq!(metrics.one("a_total", &[("code", "2xx")]), None);
        assert_eq!(metrics.one("t_s_count", &[]), Some(2.0));
        assert_eq!(metrics.kind("t_s"), Some("histogram"));
    }

    #[test]
    fn sloppy_scrapes_are_refused() {
        let table = [
            "a 1\n",
            "# TYPE a gauge\na 1\n",
            "# HELP a A.\n# TYPE a counter\na 1\n",
            "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
            "# HELP a A.\n# TYPE a gauge\na one\n",
            "# HELP a A.\n# TYPE a gauge\na{b=\"c} 1\n",
            "# HELP a A.\n# TYPE a gauge\na 1",
            "# HELP a A.\n# TYPE a gauge\n# HELP b B.\n# TYPE b gauge\na 1\n",
        ];
        for text in table {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
        assert!(Metrics::parse(&GOOD.replace("le=\"0.1\"} 1", "le=\"0.1\"} 5")).is_err());
        assert!(Metrics::parse(&GOOD.replace("t_s_count 2", "t_s_count 3")).is_err());
    }
}
