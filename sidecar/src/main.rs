//! `ringway-sidecar`: the engine beside one application, with the mesh profile's listeners.
//!
//! At this point: one inbound listener that forwards to the application's local port.

use std::process::ExitCode;

use clap::Parser;
use ringway::config::RawConfig;
use ringway::config::raw::{Io, Workers};
use ringway::net::driver::IoMode;
use ringway::server::{ConfigSource, Overrides, Server, release_program_text};
use ringway::telemetry::journal;

/// The Ringway sidecar: takes a service's inbound requests and forwards them to it on loopback.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    /// Where requests for the service come in.
    #[arg(long, default_value = "0.0.0.0:15006", value_name = "ADDR")]
    inbound: String,
    /// The port of the service on 127.0.0.1.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    app_port: u16,
    /// Readiness and metrics, for reading only.
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDR")]
    admin: String,
    /// Where the admin interface answers what changes something (POST): `on` at its address, `off`, or an address of its own.
    #[arg(long, default_value = "off", value_name = "WHERE")]
    admin_actions: String,
    /// Worker threads. One is enough beside most services.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// The I/O driver: auto, uring or epoll.
    #[arg(long, default_value = "auto", value_name = "DRIVER")]
    io: IoMode,
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
    let arguments = Arguments::parse();
    let to = format!("http://127.0.0.1:{}", arguments.app_port);
    let mut raw =
        RawConfig::proxy(&[&arguments.inbound], &[&to], Workers::Count(arguments.workers), Io::Auto);
    raw.admin.address = arguments.admin;
    // The application shares the loopback address, and is not to stop its own proxy.
    raw.admin.actions = arguments.admin_actions;
    // A sidecar shares its machine with the application: it pins nothing.
    let overrides =
        Overrides { io: Some(arguments.io), pin: Some(false), signals: true, ..Overrides::default() };
    let started =
        Server::start(ConfigSource::Raw(Box::new(raw)), overrides).map_err(|error| error.to_string());
    // An end that was not asked for is a failure, so that a supervisor starts another.
    if started.is_ok() {
        release_program_text();
    }
    match started.and_then(Server::wait) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            journal::line(format_args!("ringway-sidecar: {error}"));
            ExitCode::FAILURE
        }
    }
}
