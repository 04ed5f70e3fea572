//! `origin` and `floor`: print where they listen, then serve until they are ended.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use ringway_bench::{
    floor,
    net::{self, Address},
    origin,
    runtime::Io,
    tls::settings::{Identity, ServerSettings},
};

#[derive(Debug, Args)]
pub(crate) struct OriginArgs {
    /// Address to listen on, host:port; port 0 picks a free one. May be repeated
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Unix socket to listen on. May be repeated
    #[arg(long, value_name = "PATH")]
    unix: Vec<String>,
    /// Threads
    #[arg(long, default_value_t = 1)]
    workers: usize,
    #[arg(long, value_enum, default_value_t)]
    io: Io,
    /// Speak TLS on all listeners: certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Clients must show a certificate of these authorities, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Stall all answers at the end of every so many milliseconds
    #[arg(long, value_name = "MS", requires = "stall_for_ms", value_parser = clap::value_parser!(u64).range(1..))]
    stall_every_ms: Option<u64>,
    /// Length of such a stall
    #[arg(long, value_name = "MS", requires = "stall_every_ms")]
    stall_for_ms: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct FloorArgs {
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// Where the bytes go: `host:port` or `unix:/path`
    #[arg(long, value_name = "ADDR")]
    to: String,
    /// Threads
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

fn resolve(text: &str) -> anyhow::Result<Address> {
    Address::resolve(text).with_context(|| format!("no address in {text:?}"))
}

pub(crate) fn run_origin(args: OriginArgs) -> anyhow::Result<ExitCode> {
    let mut listen: Vec<String> = args.listen;
    listen.extend(args.unix.iter().map(|path| format!("unix:{path}")));
    if listen.is_empty() {
        listen.push("127.0.0.1:9000".to_owned());
    }
    let stall = args.stall_every_ms.zip(args.stall_for_ms).map(|(every, length)| origin::Stall {
        period: Duration::from_millis(every),
        length: Duration::from_millis(length),
    });
    let listen = listen.iter().map(|text| resolve(text)).collect::<anyhow::Result<Vec<_>>>()?;
    raise_descriptor_limit();
    let tls = args.tls_cert.zip(args.tls_key).map(|(certificates, key)| ServerSettings {
        identity: Identity { certificates, key },
        client_roots: args.tls_client_ca,
    });
    let config = origin::Config { listen, workers: args.workers, io: args.io, stall, tls };
    for address in origin::start(&config).context("the origin does not start")?.addresses {
        println!("listening on {address}");
    }
    wait_forever();
}

pub(crate) fn run_floor(args: &FloorArgs) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit();
    let config =
        floor::Config { listen: resolve(&args.listen)?, upstream: resolve(&args.to)?, workers: args.workers };
    println!("listening on {}", floor::start(&config).context("the floor does not start")?);
    wait_forever();
}

/// As far as it goes: a server serves what it can.
fn raise_descriptor_limit() {
    let _ = net::ensure_descriptors(u64::MAX);
}

fn wait_forever() -> ! {
    loop {
        std::thread::park();
    }
}
