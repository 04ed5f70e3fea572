//! The command line of the load harness.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

use commands::{compare, load, serve};

#[derive(Debug, Parser)]
#[command(name = "ringway-bench", version, about = "Measures HTTP proxies, and compares them side by side")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on a URL and measure what comes back
    Load(Box<load::LoadArgs>),
    /// Measure proxies side by side: ours, those of this machine, and an L4 floor
    Compare(compare::CompareArgs),
    /// List the proxies that can be compared, and where they come from
    Peers(compare::PeersArgs),
    /// Serve a very cheap origin, HTTP/1.1 and HTTP/2: /bytes/N, /status/CODE, /echo, and a gRPC echo
    Origin(serve::OriginArgs),
    /// Forward bytes without parsing them: the price of the kernel's TCP alone
    Floor(serve::FloorArgs),
    #[command(hide = true)]
    Launch(compare::LaunchArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Load(args) => load::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Peers(args) => compare::peers(&args),
        Command::Launch(args) => compare::launch(&args),
        Command::Origin(args) => serve::run_origin(args),
        Command::Floor(args) => serve::run_floor(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // One line, with its causes.
            eprintln!("ringway-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
