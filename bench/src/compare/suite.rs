//! A suite: what is asked of each contender. Small TOML files, some built in.

use std::{fmt, fs, io, path::Path, time::Duration};

use serde::Deserialize;

use crate::{grpc, load::Arrivals};

/// Built in, in the order in which they are listed.
pub const BUILT_IN: [(&str, &str); 19] = [
    ("h1-small", include_str!("../../suites/h1-small.toml")),
    ("h1-1m", include_str!("../../suites/h1-1m.toml")),
    ("h1-post", include_str!("../../suites/h1-post.toml")),
    ("churn", include_str!("../../suites/churn.toml")),
    ("idle-memory", include_str!("../../suites/idle-memory.toml")),
    ("latency-fixed-rate", include_str!("../../suites/latency-fixed-rate.toml")),
    ("limits", include_str!("../../suites/limits.toml")),
    ("policies", include_str!("../../suites/policies.toml")),
    ("scale", include_str!("../../suites/scale.toml")),
    ("tls-keepalive", include_str!("../../suites/tls-keepalive.toml")),
    ("tls-handshake", include_str!("../../suites/tls-handshake.toml")),
    ("tls-handshake-resumed", include_str!("../../suites/tls-handshake-resumed.toml")),
    ("tls-1m", include_str!("../../suites/tls-1m.toml")),
    ("tls-idle-memory", include_str!("../../suites/tls-idle-memory.toml")),
    ("h2-multiplex", include_str!("../../suites/h2-multiplex.toml")),
    ("h2-1m", include_str!("../../suites/h2-1m.toml")),
    ("h2c-h2c", include_str!("../../suites/h2c-h2c.toml")),
    ("grpc-unary", include_str!("../../suites/grpc-unary.toml")),
    ("grpc-stream", include_str!("../../suites/grpc-stream.toml")),
];

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub about: String,
    /// What is asked of the origin; it must be /bytes/N, so that the answer can be checked, or a gRPC method.
    pub path: String,
    /// What is spoken to the proxy.
    #[serde(default)]
    pub front: Front,
    /// What the proxy speaks to the origin.
    #[serde(default)]
    pub back: Back,
    #[serde(default)]
    pub origins: Origins,
    /// Who takes part unless the command says otherwise. None: all but those that must be named.
    pub contenders: Option<Vec<String>>,
    #[serde(default)]
    pub grpc: Option<GrpcCalls>,
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
pub enum Front {
    /// HTTP/1.1 in the clear.
    #[default]
    Http,
    /// HTTP/1.1 under TLS.
    Https,
    /// HTTP/2 under TLS, by ALPN.
    H2,
    /// HTTP/2 in the clear, by prior knowledge.
    H2c,
}

impl Front {
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2 | Self::H2c)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Back {
    #[default]
    Http,
    H2c,
}

/// Between how many endpoints a proxy has to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origins {
    #[default]
    One,
    /// One process on three addresses, 127.0.0.1 to 127.0.0.3, at the same port.
    Three,
}

impl Origins {
    /// The addresses, without their port.
    pub fn hosts(self) -> &'static [&'static str] {
        match self {
            Self::One => &["127.0.0.1"],
            Self::Three => &["127.0.0.1", "127.0.0.2", "127.0.0.3"],
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcCalls {
    pub message_bytes: usize,
    /// In each call.
    pub messages: u64,
}

/// What a suite needs of a proxy, as a contender's definition names what it can't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// TLS towards clients.
    Tls,
    /// HTTP/2 towards clients, under TLS.
    H2,
    H2c,
    /// HTTP/2 in the clear towards the origin.
    BackH2c,
    Grpc,
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
    /// With HTTP/2: at once on each connection.
    #[serde(default = "one")]
    pub streams: usize,
    #[serde(deserialize_with = "duration")]
    pub duration: Duration,
    pub requests_per_connection: Option<u64>,
    /// Whether a new connection may resume the TLS session of an earlier one.
    #[serde(default = "yes")]
    pub resumes: bool,
}

/// The open loop: latency at a rate that is the same for all.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedRate {
    pub per_second: f64,
    #[serde(default)]
    pub arrivals: ArrivalsName,
    pub connections: usize,
    #[serde(default = "one")]
    pub streams: usize,
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
        let streams =
            [suite.closed.as_ref().map(|c| c.streams), suite.fixed_rate.as_ref().map(|f| f.streams)];
        match &suite.grpc {
            None if suite.body_bytes().is_none() => return senseless("the path must be /bytes/N"),
            Some(_) if grpc::Method::of_path(&suite.path).is_none() => {
                return senseless("the path must be a gRPC method of the origin");
            }
            Some(_) if !suite.front.is_http2() || suite.back != Back::H2c => {
                return senseless("gRPC needs HTTP/2 on both sides");
            }
            _ => {}
        }
        if suite.origins == Origins::Three && suite.back != Back::Http {
            return senseless("several origins are spoken to in HTTP/1.1");
        }
        if suite.contenders.as_ref().is_some_and(Vec::is_empty) {
            return senseless("somebody must take part");
        }
        if streams.contains(&Some(0)) {
            return senseless("streams start at 1");
        }
        if !suite.front.is_http2() && streams.iter().flatten().any(|&n| n > 1) {
            return senseless("HTTP/1.1 has no streams");
        }
        if suite.front.is_http2() && suite.idle.is_some() {
            return senseless("idle connections are measured with HTTP/1.1");
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

    /// What a contender must be able to do.
    pub fn needs(&self) -> Vec<Ability> {
        let mut needs = match self.front {
            Front::Http => vec![],
            Front::Https => vec![Ability::Tls],
            Front::H2 => vec![Ability::Tls, Ability::H2],
            Front::H2c => vec![Ability::H2c],
        };
        match (&self.grpc, self.back) {
            // Some can do this for gRPC alone.
            (Some(_), _) => needs.push(Ability::Grpc),
            (None, Back::H2c) => needs.push(Ability::BackH2c),
            (None, Back::Http) => {}
        }
        needs
    }

    /// Length of each response's body.
    pub fn body_bytes(&self) -> Option<u64> {
        self.path.strip_prefix("/bytes/")?.split('?').next()?.parse().ok()
    }
}

fn get() -> String {
    "GET".to_owned()
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
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
            assert!(
                suite.body_bytes().is_some() != suite.grpc.is_some() && !suite.about.is_empty(),
                "{name}"
            );
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
            good.replace("[idle]", "front = 'h2'\n[idle]"),
            good.replace("[idle]", "origins = 'three'\nback = 'h2c'\n[idle]"),
            good.replace("[idle]", "contenders = []\n[idle]"),
            good.replace("[idle]", "[closed]\nduration = '1s'\nstreams = 2"),
            good.replace("[idle]", "front = 'h2'\n[closed]\nduration = '1s'\nstreams = 0"),
            good.replace("[idle]", "grpc = { message_bytes = 1, messages = 1 }\n[idle]"),
            good.replace("/bytes/1", "/bench.Echo/Unary")
                .replace("[idle]", "grpc = { message_bytes = 1, messages = 1 }\n[idle]"),
        ];
        for text in &senseless {
            assert!(matches!(parse(text), Err(BadSuite::Senseless(..))), "{text}");
        }
        assert!(matches!(parse(&good.replace("about", "abuot")), Err(BadSuite::Syntax(..))));
        assert!(matches!(Suite::find("nowhere/nothing.toml"), Err(BadSuite::Unknown(_))));
    }
}
