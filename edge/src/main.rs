//! `ringway-edge`: the gateway. A thin shell around the engine: command line, messages, exit codes.

mod demo;
mod dev_cert;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringway::config::RawConfig;
use ringway::config::raw::{Io, ListenerTls, UpstreamTls, Verify, Workers};
use ringway::config::snapshot::Snapshot;
use ringway::net::driver::IoMode;
use ringway::server::{ConfigSource, Overrides, Question, Server, World, release_program_text};
use ringway::telemetry::journal;

/// The Ringway edge: an HTTP reverse proxy and API gateway on `io_uring`.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a configuration file says. SIGHUP or a changed file reloads it, SIGTERM drains.
    Run {
        /// The YAML file.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        overrides: Engine,
    },
    /// Forward everything that comes in on one address to another, without a file.
    Proxy {
        /// Where to listen: `ip:port`, `[ipv6]:port` or `unix:/path`. May be given several times.
        #[arg(long, required = true, value_name = "ADDR")]
        listen: Vec<String>,
        /// Where to forward: `http://host:port`, `https://host:port`, `h2c://host:port` (HTTP/2 in the clear) or `unix:/path`. Several are taken in turn.
        #[arg(long, required = true, value_name = "URL")]
        to: Vec<String>,
        #[command(flatten)]
        tls: ProxyTls,
        /// The admin address; off unless given.
        #[arg(long, value_name = "ADDR")]
        admin: Option<String>,
        #[command(flatten)]
        overrides: Engine,
    },
    /// Check a configuration file and say all that is wrong with it.
    Check {
        /// The YAML file.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say what would become of a request: its route, why each other one was passed over, what each policy does.
    Explain {
        /// The YAML file.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        /// `GET http://host/path?query`. The method may be left out.
        #[arg(value_name = "REQUEST")]
        request: String,
        /// A header field, `Name: value`. May be given several times.
        #[arg(long = "header", short = 'H', value_name = "FIELD")]
        headers: Vec<String>,
        /// The client's address [default: 127.0.0.1].
        #[arg(long, value_name = "ADDRESS")]
        source: Option<String>,
        /// The name that the client asks for in its TLS handshake; by default the host of an https URL.
        #[arg(long, value_name = "NAME")]
        server_name: Option<String>,
    },
    /// Make a certificate for this machine, to try TLS with.
    DevCert(dev_cert::DevCert),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Show the edge at work: two origins and a policy, built in.
    Demo {
        #[command(flatten)]
        overrides: Engine,
    },
}

#[derive(Debug, clap::Args)]
struct Engine {
    /// The I/O driver: auto, uring or epoll. Overrides the file.
    #[arg(long, value_name = "DRIVER")]
    io: Option<IoMode>,
    /// Worker threads. Overrides the file; by default one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Don't pin workers to cores.
    #[arg(long)]
    no_pin: bool,
}

/// TLS without a file.
#[derive(Debug, clap::Args)]
struct ProxyTls {
    /// Serve TLS with this certificate (PEM, with its intermediate authorities behind it).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Trust the authorities in this file (PEM) for `--to https://`, instead of the system's.
    #[arg(long, value_name = "FILE", conflicts_with = "to_insecure")]
    to_ca: Option<PathBuf>,
    /// Don't verify who answers at `--to https://`. Anybody on the way can pose as the origin.
    #[arg(long)]
    to_insecure: bool,
}

impl ProxyTls {
    fn apply(&self, raw: &mut RawConfig) {
        let text = |path: &PathBuf| path.display().to_string();
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            for listener in &mut raw.listeners {
                listener.tls = Some(ListenerTls::new(&text(cert), &text(key)));
            }
        }
        if self.to_ca.is_some() || self.to_insecure {
            let verify = if self.to_insecure { Verify::Insecure } else { Verify::Full };
            for upstream in &mut raw.upstreams {
                let ca = self.to_ca.as_ref().map(text);
                upstream.tls = Some(UpstreamTls { ca, verify, ..UpstreamTls::default() });
            }
        }
    }
}

impl Engine {
    fn overrides(&self) -> Overrides {
        Overrides {
            io: self.io,
            workers: self.workers.map(usize::from),
            pin: self.no_pin.then_some(false),
            signals: true,
        }
    }
}

/// What an HTTP/2 exchange allocates is a tenth of its cost with the C library's (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let code = run();
    journal::finish(journal::PATIENCE);
    code
}

fn run() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config, overrides } => serve(ConfigSource::File(config), overrides.overrides()),
        Command::Proxy { listen, to, tls, admin, overrides } => {
            let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            let mut raw = RawConfig::proxy(&listen, &to, Workers::Auto, Io::Auto);
            tls.apply(&mut raw);
            if let Some(admin) = admin {
                raw.admin.address = admin;
            }
            serve(ConfigSource::Raw(Box::new(raw)), overrides.overrides())
        }
        Command::Check { config } => check(&config),
        Command::Explain { config, request, headers, source, server_name } => {
            explain(&config, &Question { request, headers, source, server_name })
        }
        Command::DevCert(settings) => settings.run(),
        Command::Schema => {
            println!("{:#}", ringway::config::schema());
            ExitCode::SUCCESS
        }
        Command::Demo { overrides } => demo::run(overrides.overrides()),
    }
}

/// Serves until a signal ends it.
fn serve(source: ConfigSource, overrides: Overrides) -> ExitCode {
    match Server::start(source, overrides) {
        Ok(server) => {
            release_program_text();
            // An end that was not asked for is a failure, so that a supervisor starts another.
            server.wait().map_or_else(fail, |()| ExitCode::SUCCESS)
        }
        Err(error) => fail(error),
    }
}

fn check(path: &Path) -> ExitCode {
    match read(path) {
        Ok(snapshot) => {
            println!(
                "{}: valid; {} listeners, {} upstreams, {} routes; hash {:016x}",
                path.display(),
                snapshot.listeners.len(),
                snapshot.upstreams.len(),
                snapshot.routes.len(),
                snapshot.hash
            );
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn explain(path: &Path, question: &Question) -> ExitCode {
    let snapshot = match read(path) {
        Ok(snapshot) => snapshot,
        Err(code) => return code,
    };
    match ringway::server::explain(&World::at_rest(&snapshot), question) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(wrong) => fail(wrong),
    }
}

/// The configuration in a file. What is wrong with it, and what is doubtful, has been said.
fn read(path: &Path) -> Result<Snapshot, ExitCode> {
    let text =
        fs::read(path).map_err(|error| fail(format_args!("can't read {}: {error}", path.display())))?;
    let (snapshot, warnings) = ringway::server::check(&text, &path.display().to_string()).map_err(fail)?;
    for report in warnings {
        journal::line(report);
    }
    Ok(snapshot)
}

fn fail(error: impl std::fmt::Display) -> ExitCode {
    journal::line(format_args!("ringway-edge: {error}"));
    ExitCode::FAILURE
}
