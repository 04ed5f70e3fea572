//! What goes in and out of the control thread: where its configuration comes from, orders, errors for people.

use std::fmt;
use std::io;

use tokio::sync::oneshot;

use super::limits::{Asked, Deed};
use crate::config::{RawConfig, Report};
use crate::net::driver::{Driver, IoMode};
use crate::net::listener::BindAddress;
pub use crate::proxy::explain::{Question, World, text as explain};

/// Where a configuration comes from.
#[derive(Debug)]
pub enum Source {
    /// A file, watched.
    File(std::path::PathBuf),
    /// A text with a name for its messages.
    Text {
        /// For messages.
        name: String,
        /// YAML.
        text: String,
    },
    /// Settings made in code.
    Raw(Box<RawConfig>),
}

/// What a command line or a test overrides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// The I/O driver.
    pub io: Option<IoMode>,
    /// How many workers.
    pub workers: Option<usize>,
    /// Whether they are pinned.
    pub pin: Option<bool>,
    /// Whether SIGTERM, SIGINT and SIGHUP are this server's to handle.
    pub signals: bool,
}

/// Why a server could not start. Displays as what a person should read.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is wrong.
    Config(Report),
    /// The configuration file can't be read.
    Source(String),
    /// An address can't be listened on.
    Bind {
        /// Which.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The access log, or that of decisions, can't be opened.
    AccessLog {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The directory for state can't be used.
    StateDir {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A thread or its runtime could not be made.
    Worker(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(report) => report.fmt(f),
            Self::Source(text) => f.write_str(text),
            Self::Bind { address, error } => {
                let hint = match error.kind() {
                    io::ErrorKind::AddrInUse => ": something else listens there already",
                    io::ErrorKind::PermissionDenied => {
                        ": not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)"
                    }
                    io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
                    io::ErrorKind::NotFound => ": its folder does not exist",
                    _ => "",
                };
                if hint.is_empty() {
                    write!(f, "can't listen on {address}: {error}")
                } else {
                    write!(f, "can't listen on {address}{hint}")
                }
            }
            Self::AccessLog { path, error } => write!(f, "can't open the log {path}: {error}"),
            Self::StateDir { path, error } => write!(f, "can't keep state in {path}: {error}"),
            Self::Worker(error) => write!(f, "can't start a worker: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a reload was refused; the configuration in force stays.
pub type ReloadError = StartError;

/// An order to the control thread.
#[derive(Debug)]
pub enum Order {
    /// Take over this text.
    Reload(String, oneshot::Sender<Result<u64, ReloadError>>),
    /// Finish and end.
    Drain,
    /// End now.
    Stop,
    /// Everybody's numbers, as Prometheus text.
    Metrics(oneshot::Sender<String>),
    /// Everybody's health, as JSON.
    Upstreams(oneshot::Sender<String>),
    /// What rate limits have decided, as JSON.
    Limits(oneshot::Sender<String>),
    /// The state of a rate limit's key, as JSON, or what is wrong with the question.
    LimitKey(Asked, Deed, oneshot::Sender<Result<String, String>>),
    /// How canaries fare, as JSON.
    Canaries(oneshot::Sender<String>),
    /// Begin the canary of this route anew. False: it has none.
    CanaryRestart(String, oneshot::Sender<bool>),
    /// What would become of a request, or what is wrong with the question.
    Explain(Question, oneshot::Sender<Result<String, String>>),
    /// What is configured, as JSON.
    Config(oneshot::Sender<String>),
}

/// What is known once a server runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// Name and address of each listener.
    pub listeners: Vec<(String, BindAddress)>,
    /// The admin interface's.
    pub admin: Option<BindAddress>,
    /// Of its second listener, if actions have one.
    pub admin_actions: Option<BindAddress>,
    /// What the workers run on.
    pub driver: Driver,
    /// How many there are.
    pub workers: usize,
}

/// State that admin answers from without asking the loop.
#[derive(Debug, Default)]
pub struct Readiness {
    ready: std::sync::atomic::AtomicBool,
}

impl Readiness {
    /// True while requests are taken.
    pub fn is_ready(&self) -> bool {
        self.ready.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn set(&self, ready: bool) {
        self.ready.store(ready, std::sync::atomic::Ordering::Relaxed);
    }
}
