//! A suite: what is asked of each contender. Small TOML files, some built in.

use std::{fmt, fs, io, path::Path, time::Duration};

use serde::Deserialize;

use crate::load::Arrivals;

/// Built in, in the order in which they are listed.
pub const BUILT_IN: [(&str, &str); 7] = [
    ("h1-small", include_str!("../../suites/h1-small.toml")),
    ("h1-1m", include_str!("../../suites/h1-1m.toml")),
    ("h1-post", include_str!("../../suites/h1-post.toml")),
    ("churn", include_str!("../../suites/churn.toml")),
    ("idle-memory", include_str!("../../suites/idle-memory.toml")),
    ("latency-fixed-rate", include_str!("../../suites/latency-fixed-rate.toml")),
    ("scale", include_str!("../../suites/scale.toml")),
];

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub about: String,
    /// What is asked of the origin; it must be /bytes/N, so that the answer can be checked.
    pub path: String,
    #[serde(default = "get")]
    pub method: String,
    #[serde(default)]
    pub request_bytes: usize,
    #[serde(default = "five")]
    pub rounds: usize,
    /// Numbers of proxy workers to be run one after another.
    #[serde(default = "one_worker")]
    pub workers: Vec<usize>,
    #[serde(default)]
    pub load: LoadCores,
    /// Before each measured phase, unmeasured.
    #[serde(default = "half_a_second", deserialize_with = "duration")]
    pub warm_up: Duration,
    pub closed: Option<Closed>,
    pub fixed_rate: Option<FixedRate>,
    pub idle: Option<Idle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadCores {
    /// Load and origin share the last core, one thread each.
    #[default]
    LastCore,
    /// As many threads each as there are cores without a proxy worker.
    OtherCores,
}

/// The closed loop: throughput, and cost under full load.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closed {
    pub connections: usize,
    #[serde(deserialize_with = "duration")]
    pub duration: Duration,
    pub requests_per_connection: Option<u64>,
}

/// The open loop: latency at a rate that is the same for all.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedRate {
    pub per_second: f64,
    #[serde(default)]
    pub arrivals: ArrivalsName,
    pub connections: usize,
    #[serde(deserialize_with = "duration")]
    pub duration: Duration,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArrivalsName {
    #[default]
    Constant,
    Poisson,
}

impl From<ArrivalsName> for Arrivals {
    fn from(name: ArrivalsName) -> Self {
        match name {
            ArrivalsName::Constant => Self::Constant,
            ArrivalsName::Poisson => Self::Poisson,
        }
    }
}

/// Memory with connections that have made one request each and then are still.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idle {
    pub connections: usize,
}

#[derive(Debug)]
pub enum BadSuite {
    Unknown(String),
    Unreadable(String, io::Error),
    Syntax(String, toml::de::Error),
    /// Well-formed, and not measurable.
    Senseless(String, &'static str),
}

impl fmt::Display for BadSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                write!(f, "no suite {name:?}: give a file, or one of {}", names.join(", "))
            }
            Self::Unreadable(path, cause) => write!(f, "{path}: {cause}"),
            Self::Syntax(name, cause) => write!(f, "suite {name}: {}", cause.to_string().trim_end()),
            Self::Senseless(name, why) => write!(f, "suite {name}: {why}"),
        }
    }
}

impl std::error::Error for BadSuite {}

impl Suite {
    /// A built-in suite by its name, or a file by its path.
    pub fn find(name: &str) -> Result<Self, BadSuite> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Self::parse(name, text);
        }
        if !Path::new(name).exists() {
            return Err(BadSuite::Unknown(name.to_owned()));
        }
        let text = fs::read_to_string(name).map_err(|e| BadSuite::Unreadable(name.to_owned(), e))?;
        Self::parse(name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, BadSuite> {
        let suite: Self = toml::from_str(text).map_err(|e| BadSuite::Syntax(name.to_owned(), e))?;
        let senseless = |why| Err(BadSuite::Senseless(name.to_owned(), why));
        let connections = [
            suite.closed.as_ref().map(|c| c.connections),
            suite.fixed_rate.as_ref().map(|f| f.connections),
            suite.idle.as_ref().map(|i| i.connections),
        ];
        if suite.body_bytes().is_none() {
            return senseless("the path must be /bytes/N");
        }
        if suite.rounds == 0 || suite.workers.is_empty() || suite.workers.contains(&0) {
            return senseless("rounds and workers start at 1");
        }
        if connections.iter().all(Option::is_none) || connections.contains(&Some(0)) {
            return senseless("it needs one of [closed], [fixed_rate] and [idle], with connections");
        }
        if suite.fixed_rate.as_ref().is_some_and(|f| !(0.001..=1e8).contains(&f.per_second)) {
            return senseless("per_second is out of range");
        }
        Ok(suite)
    }

    /// Length of each response's body.
    pub fn body_bytes(&self) -> Option<u64> {
        self.path.strip_prefix("/bytes/")?.split('?').next()?.parse().ok()
    }
}

fn get() -> String {
    "GET".to_owned()
}

fn five() -> usize {
    5
}

fn one_worker() -> Vec<usize> {
    vec![1]
}

fn half_a_second() -> Duration {
    Duration::from_millis(500)
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::duration::parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::{BUILT_IN, BadSuite, Suite};

    #[test]
    fn every_built_in_suite_is_sound() {
        for (name, _) in BUILT_IN {
            let suite = Suite::find(name).unwrap_or_else(|e| panic!("{e}"));
            assert!(suite.body_bytes().is_some() && !suite.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn senseless_suites_are_refused() {
        let parse = |text: &str| Suite::parse("x", text);
        let good = "about = 'a'\npath = '/bytes/1'\n[idle]\nconnections = 1\n";
        assert!(parse(good).is_ok());
        let senseless = [
            good.replace("/bytes/1", "/x"),
            good.replace("= 1\n", "= 0\n"),
            good.replace("[idle]", "rounds = 0\n[idle]"),
            "about = 'a'\npath = '/bytes/1'\n".to_owned(),
        ];
        for text in &senseless {
            assert!(matches!(parse(text), Err(BadSuite::Senseless(..))), "{text}");
        }
        assert!(matches!(parse(&good.replace("about", "abuot")), Err(BadSuite::Syntax(..))));
        assert!(matches!(Suite::find("nowhere/nothing.toml"), Err(BadSuite::Unknown(_))));
    }
}
