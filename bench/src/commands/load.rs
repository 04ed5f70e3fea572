//! `load`: flags as users of wrk, oha and h2load know them.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{ArgGroup, Args};
use ringway_bench::{
    duration, grpc,
    load::{
        self, Arrivals, Check, Config, Digest, Extent, Grpc, Observer, Pace, Protocol, Request, Target,
        stats::{Second, Totals},
    },
    net::Address,
    report,
    runtime::Io,
    tls::settings::{ClientSettings, Identity, Resumption, Trust, Version},
};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("extent").args(["duration", "requests"]))]
pub(crate) struct LoadArgs {
    /// One or more URLs, http://host:port/path or https://host:port/path
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// How often each URL gets its turn, in the order of the URLs: 3,1
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    weights: Vec<u32>,
    /// Connections
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Measured time: 10, 10s, 500ms, 2m
    #[arg(short, long, default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// Ends after so many requests instead
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Open loop: requests a second, whether or not responses come back; latency counts from when each was due
    #[arg(short, long, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// How arrivals are spaced in the open loop
    #[arg(long, value_enum, default_value_t, requires = "rate")]
    arrivals: Arrivals,
    /// Threads, each with its own ring and its part of the connections
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Load before the measurement
    #[arg(long, default_value = "500ms", value_parser = duration::parse)]
    warm_up: Duration,
    /// A response that takes longer is an error
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    #[arg(short = 'm', long = "method", default_value = "GET", value_parser = parse_method)]
    method: String,
    /// Additional field, "Name: value". May be repeated
    #[arg(short = 'H', long = "header", value_name = "FIELD", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Request body
    #[arg(short = 'b', long, conflicts_with = "body_file")]
    body: Option<String>,
    /// Request body from a file
    #[arg(long, value_name = "PATH")]
    body_file: Option<PathBuf>,
    /// A new connection after so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests_per_connection: Option<u64>,
    /// Status that each response must have; otherwise any below 400
    #[arg(long, value_name = "CODE")]
    expect_status: Option<u16>,
    /// Length that each body must have
    #[arg(long, value_name = "BYTES")]
    expect_length: Option<u64>,
    /// Check each body's XXH3-64 digest: the one given, or that of the URL's first body
    #[arg(long, value_name = "DIGEST", num_args = 0..=1, default_missing_value = "first", require_equals = true,
          value_parser = parse_digest)]
    verify: Option<Digest>,
    #[command(flatten)]
    http2: Http2Args,
    /// Connect here instead of where the URLs lead, `host:port` or `unix:/path`
    #[arg(long, value_name = "ADDR", conflicts_with = "unix_socket")]
    connect_to: Option<String>,
    /// Connect to this Unix socket instead of where the URLs lead
    #[arg(long, value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Pin the threads to these cores, in turn: 1,2
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    #[arg(long, value_enum, default_value_t)]
    io: Io,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Write the percentile distribution, for `HdrHistogram`'s plotter
    #[arg(long, value_name = "PATH")]
    hgrm: Option<PathBuf>,
    /// Write the report as one HTML page
    #[arg(long, value_name = "PATH")]
    html: Option<PathBuf>,
    /// No progress line, even on a terminal
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP/2 and gRPC")]
struct Http2Args {
    /// HTTP/2, which the server must choose by ALPN: https only
    #[arg(long)]
    http2: bool,
    /// HTTP/2 from the first byte, also in the clear
    #[arg(long, alias = "h2c")]
    http2_prior_knowledge: bool,
    /// Streams at once on each connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// gRPC calls of the origin's unary method, or of the one that the URL names; implies HTTP/2
    #[arg(long)]
    grpc: bool,
    /// Length of each gRPC message
    #[arg(long, value_name = "BYTES", default_value_t = 128, requires = "grpc",
          value_parser = clap::value_parser!(u32).range(..=4 * 1024 * 1024))]
    grpc_message: u32,
    /// gRPC streams of so many messages, of the origin's bidirectional method unless the URL names another
    #[arg(long, value_name = "MESSAGES", requires = "grpc", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    grpc_stream: Option<u32>,
}

impl Http2Args {
    fn protocol(&self) -> Protocol {
        if self.http2 || self.http2_prior_knowledge || self.grpc {
            Protocol::Http2 { streams: self.streams as usize }
        } else {
            Protocol::Http1
        }
    }

    fn grpc(&self) -> Option<Grpc> {
        let messages = u64::from(self.grpc_stream.unwrap_or(1));
        self.grpc.then_some(Grpc { message_bytes: self.grpc_message as usize, messages })
    }

    fn apply(&self, targets: &mut [Target]) -> anyhow::Result<()> {
        let in_the_clear = targets.iter().find(|target| target.server_name.is_none());
        if let Some(target) = in_the_clear.filter(|_| self.http2 && !self.http2_prior_knowledge) {
            bail!("{}: HTTP/2 in the clear needs --http2-prior-knowledge", target.url());
        }
        if self.streams > 1 && self.protocol() == Protocol::Http1 {
            bail!("HTTP/1.1 has no streams: --streams needs --http2, --http2-prior-knowledge or --grpc");
        }
        let method = if self.grpc_stream.is_some() { grpc::Method::Bidi } else { grpc::Method::Unary };
        for target in targets.iter_mut().filter(|target| self.grpc && target.path == "/") {
            method.path().clone_into(&mut target.path);
        }
        Ok(())
    }
}

/// Names as curl has them.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
struct TlsArgs {
    /// Take any certificate for any name
    #[arg(short = 'k', long, conflicts_with = "cacert")]
    insecure: bool,
    /// Authorities to believe, PEM; otherwise those of the system
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Certificate chain to show when asked, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    #[arg(long, value_enum, value_name = "VERSION", default_value = "1.2")]
    tls_min: Version,
    #[arg(long, value_enum, value_name = "VERSION", default_value = "1.3")]
    tls_max: Version,
    /// Off: a full handshake for each new connection
    #[arg(long, value_enum, value_name = "SWITCH", default_value_t)]
    tls_resumption: Resumption,
}

impl TlsArgs {
    fn settings(&self) -> ClientSettings {
        let identity = self.cert.clone().zip(self.key.clone());
        ClientSettings {
            trust: match &self.cacert {
                _ if self.insecure => Trust::Everyone,
                Some(path) => Trust::File(path.clone()),
                None => Trust::System,
            },
            identity: identity.map(|(certificates, key)| Identity { certificates, key }),
            version_min: self.tls_min,
            version_max: self.tls_max,
            resumption: self.tls_resumption,
        }
    }
}

pub(crate) fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let config = config(args)?;
    let stop = stop_at_interrupt()?;
    let mut progress = Progress { shown: !args.quiet && std::io::stderr().is_terminal() };
    let outcome = load::run(&config, &stop, &mut progress);
    progress.clear();
    let report = outcome?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report::table(&report));
    }
    if let Some(path) = &args.hgrm {
        fs::write(path, report::hgrm(&report.histogram)).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.html {
        fs::write(path, report::html::page(&report)).with_context(|| path.display().to_string())?;
    }
    if report.is_empty() && !report.interrupted {
        bail!("no request succeeded");
    }
    Ok(ExitCode::SUCCESS)
}

/// The first Ctrl-C ends the run and prints the report; a second one ends the process at once.
pub(crate) fn stop_at_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The order counts: the conditional default must see the flag as it was before this signal.
        signal_hook::flag::register_conditional_default(signal, stop.clone()).context("signal handler")?;
        signal_hook::flag::register(signal, stop.clone()).context("signal handler")?;
    }
    Ok(stop)
}

fn config(args: &LoadArgs) -> anyhow::Result<Config> {
    if !args.weights.is_empty() && args.weights.len() != args.urls.len() {
        bail!("{} weights for {} URLs", args.weights.len(), args.urls.len());
    }
    let elsewhere = match (&args.unix_socket, &args.connect_to) {
        (Some(path), _) => Some(Address::Unix(path.clone())),
        (None, Some(text)) => {
            Some(Address::resolve(text).with_context(|| format!("no address in {text:?}"))?)
        }
        (None, None) => None,
    };
    let weights = args.weights.iter().copied().chain(std::iter::repeat(1));
    let target = |(url, weight): (&String, u32)| match &elsewhere {
        Some(address) => Target::parse_to(url, weight, address.clone()),
        None => Target::parse(url, weight),
    };
    let targets: Result<Vec<Target>, _> = args.urls.iter().zip(weights).map(target).collect();
    let mut targets = targets?;
    args.http2.apply(&mut targets)?;
    let body = match (&args.body, &args.body_file) {
        (Some(body), _) => body.clone().into_bytes(),
        (None, Some(path)) => fs::read(path).with_context(|| path.display().to_string())?,
        (None, None) => Vec::new(),
    };
    Ok(Config {
        targets,
        protocol: args.http2.protocol(),
        grpc: args.http2.grpc(),
        request: Request { method: args.method.clone(), headers: args.headers.clone(), body },
        connections: args.connections as usize,
        threads: usize::from(args.threads),
        pace: args.rate.map_or(Pace::Closed, |rate_per_s| Pace::Open { rate_per_s, arrivals: args.arrivals }),
        extent: args.requests.map_or(Extent::For(args.duration), Extent::Requests),
        // When requests are counted, all of them count.
        warm_up: if args.requests.is_some() { Duration::ZERO } else { args.warm_up },
        timeout: args.timeout,
        requests_per_connection: args.requests_per_connection,
        check: Check {
            status: args.expect_status,
            body_bytes: args.expect_length,
            digest: args.verify.unwrap_or(Digest::Unchecked),
        },
        tls: args.tls.settings(),
        io: args.io,
        cores: args.cores.clone(),
    })
}

struct Progress {
    shown: bool,
}

impl Observer for Progress {
    fn second(&mut self, second: &Second, totals: &Totals) {
        if self.shown {
            let mut terminal = std::io::stderr().lock();
            // A terminal that has gone takes no progress; the report is what counts.
            let _ = write!(terminal, "\r\x1b[2K{}", report::progress(second, totals));
            let _ = terminal.flush();
        }
    }
}

impl Progress {
    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[2K");
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number from 0.001 to 100,000,000".to_owned()),
    }
}

fn parse_method(text: &str) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.bytes().all(is_token) {
        true if text == "CONNECT" => Err("CONNECT makes a tunnel, not a response".to_owned()),
        true => Ok(text.to_owned()),
        false => Err("a method is a token such as POST".to_owned()),
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a field is \"Name: value\"")?;
    let (name, value) = (name.trim(), value.trim());
    let name_is_token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if !name_is_token || value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        return Err("a field has a name, and no control characters".to_owned());
    }
    if name.eq_ignore_ascii_case("transfer-encoding") {
        return Err("the body's length is known and sent as Content-Length".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    if text == "first" {
        return Ok(Digest::SameAsFirst);
    }
    let digest = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    digest.map(Digest::Exactly).ok_or_else(|| "a digest is the 16 hex digits of XXH3-64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Digest, parse_digest, parse_header, parse_method, parse_rate};

    #[test]
    fn what_would_break_the_wire_is_refused() {
        assert_eq!(parse_header("A:  b c "), Ok(("A".to_owned(), "b c".to_owned())));
        for bad in ["A", ": b", "A: b\r\nC: d", "A B: c", "Transfer-Encoding: chunked"] {
            assert!(parse_header(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_method("PATCH"), Ok("PATCH".to_owned()));
        for bad in ["", "G ET", "GET\r\n", "CONNECT"] {
            assert!(parse_method(bad).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "x", "NaN", "inf"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_digest("00000000000000ff"), Ok(Digest::Exactly(255)));
        assert!(parse_digest("ff").is_err());
    }
}
