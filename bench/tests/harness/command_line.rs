//! The program as users start it: reports, refusals in one line, Ctrl-C, a comparison from end to end.

use std::{
    fs,
    io::Read,
    process::{Command, Output, Stdio},
    time::Instant,
};

use ringway_bench::runtime::Io;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{DEADLINE, dead_address, start_origin};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway-bench"))
        .args(arguments)
        .env("PATH", "/usr/bin:/bin")
        .output()
        .expect("the program under test")
}

#[test]
fn a_report_is_printed_and_written() {
    let origin = start_origin(None, Io::Auto);
    let directory = std::env::temp_dir().join(format!("ringway-bench-test-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let (html, hgrm) = (directory.join("report.html"), directory.join("report.hgrm"));
    let url = format!("http://{origin}/bytes/10");
    let paths = [html.to_str().expect("text"), hgrm.to_str().expect("text")];
    let output =
        bench(&["load", &url, "-n", "100", "-c", "2", "--json", "--html", paths[0], "--hgrm", paths[1]]);
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((json["requests"].as_u64(), json["statuses"]["2xx"].as_u64()), (Some(100), Some(100)));
    assert!(json["latency"]["p99.9_us"].as_f64().is_some_and(|us| us > 0.0), "{json}");
    let page = fs::read_to_string(&html).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.matches("<svg ").count() == 3, "{page}");
    assert!(!page.contains("<script") && !page.contains("NaN") && !page.contains("inf"), "{page}");
    assert!(fs::read_to_string(&hgrm).expect("a distribution").contains("#[Max     ="));
    fs::remove_dir_all(directory).expect("our own directory");

    let table = bench(&["load", &url, "-n", "10", "-c", "1", "--verify"]);
    let text = String::from_utf8(table.stdout).expect("text");
    assert!(text.contains("p99.99") && text.contains("errors                none"), "{text}");
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let (_bound, dead) = dead_address();
    let dead = format!("http://{dead}/");
    let cases: &[(&[&str], &str)] = &[
        (&["load", &dead], "can't be reached"),
        (&["load", "nonsense"], "no URL"),
        (&["load", "ftp://127.0.0.1/"], "scheme \"ftp\""),
        (&["load", "https://127.0.0.1/", "--cacert", "/nonexistent"], "/nonexistent: "),
        (&["load", "https://127.0.0.1/", "--tls-min", "1.3", "--tls-max", "1.2"], "lowest TLS version"),
        (&["load", "http://x/", "--unix-socket", "/nonexistent/socket"], "can't be reached"),
        (&["load", "http://x/", "--connect-to", "nonsense"], "no address"),
        (&["origin", "--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], "/nonexistent: "),
        (&["load", "http://no-such-host.invalid/"], "no address"),
        (&["load", &dead, "-c", "4000000000"], "descriptors are needed and the limit is"),
        (&["load", &dead, "--weights", "1,2"], "2 weights for 1 URLs"),
        (&["load", &dead, "--body-file", "/nonexistent"], "/nonexistent"),
        (&["origin", "--listen", "nonsense"], "no address"),
        (&["compare", "nonsense"], "no suite"),
        (&["compare", "churn", "--only", "nonsense"], "no contender"),
    ];
    for (arguments, message) in cases {
        let output = bench(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.starts_with("ringway-bench: ") && error.contains(message), "{arguments:?}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{arguments:?}: {error}");
    }
}

#[test]
fn no_success_at_all_is_a_failure() {
    let origin = start_origin(None, Io::Auto);
    let output = bench(&["load", &format!("http://{origin}/status/500"), "-n", "3", "-c", "1"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("status 3"), "{output:?}");
}

#[test]
fn an_interrupt_still_prints_the_report() {
    let origin = start_origin(None, Io::Auto);
    // The page is written at the end; its first line of work is the first request that the echo shows.
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringway-bench"))
        .args(["load", &format!("http://{origin}/bytes/10"), "-d", "10m", "--warm-up", "0", "-c", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program under test");
    let since = Instant::now();
    // Handlers are in place before the first thread of the generator starts.
    while fs::read_dir(format!("/proc/{}/task", child.id())).map_or(0, Iterator::count) < 2 {
        assert!(
            since.elapsed() < DEADLINE && child.try_wait().expect("a child").is_none(),
            "it does not start"
        );
        std::thread::yield_now();
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("a living child");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    let status = child.wait().expect("a child");
    assert!(status.success() && text.starts_with("Interrupted"), "{status}: {text}");
    assert!(text.contains("p99.99"), "{text}");
}

#[test]
fn a_comparison_runs_from_end_to_end() {
    let directory = std::env::temp_dir().join(format!("ringway-bench-test-compare-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let suite = directory.join("suite.toml");
    let text = "about = 'a test'\npath = '/bytes/1000'\nwarm_up = '50ms'\nrounds = 2\n\
                [closed]\nconnections = 4\nduration = '600ms'\n\
                [fixed_rate]\nper_second = 200\nconnections = 4\nduration = '600ms'\n\
                [idle]\nconnections = 50\n";
    fs::write(&suite, text).expect("a file");
    let suite = suite.to_str().expect("text");
    let venv = directory.join("venv");
    let venv = venv.to_str().expect("text");
    // The second is nowhere to be found, and is named with what would bring it.
    let output = bench(&["compare", suite, "--only", "floor,envoy", "--venv", venv, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = &json["rows"][0];
    assert_eq!(
        (row["name"].as_str(), json["rows"].as_array().map(Vec::len)),
        (Some("floor"), Some(1)),
        "{json}"
    );
    assert_eq!(json["absent"][0][0], "envoy");
    assert!(json["absent"][0][1].as_str().is_some_and(|why| why.contains("peers install")), "{json}");
    let closed = row["closed"].as_array().expect("samples");
    assert_eq!((closed.len(), row["fixed_rate"].as_array().map(Vec::len)), (2, Some(2)));
    for sample in closed {
        assert_eq!(sample["errors"].as_u64(), Some(0), "{json}");
        assert!(sample["requests_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{json}");
        assert!(sample["cpu_us_per_request"].as_f64().is_some_and(|us| us > 0.1), "{json}");
    }
    assert_eq!(row["idle"]["connections"].as_u64(), Some(50), "{json}");
    assert!(row["memory_started"]["pss_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{json}");
    fs::remove_dir_all(directory).expect("our own directory");
}

/// The origin in a proxy's place: it answers what a proxy would pass on, in every protocol.
#[test]
fn comparisons_cover_tls_http2_and_grpc() {
    let directory = std::env::temp_dir().join(format!("ringway-bench-test-protocols-{}", std::process::id()));
    let peer = directory.join("stand-in");
    fs::create_dir_all(&peer).expect("a temporary directory");
    let definition = "about = 'a test'\nprogram = ['ringway-bench']\npackage = 'itself'\nversion = ['--version']\n\
        run = ['@PROGRAM@', 'origin', '--listen', '127.0.0.1:@LISTEN_PORT@', '@IF_TLS@--tls-cert', '@IF_TLS@@CERT@', \
        '@IF_TLS@--tls-key', '@IF_TLS@@KEY@']\n";
    fs::write(peer.join("peer.toml"), definition).expect("a file");
    let peer = peer.to_str().expect("text");
    let closed = "[closed]\nconnections = 2\nduration = '600ms'\n";
    let cases = [
        ("https", format!("path = '/bytes/70000'\nfront = 'https'\n{closed}[idle]\nconnections = 20\n")),
        (
            "handshakes",
            format!(
                "path = '/bytes/9'\nfront = 'https'\n{closed}requests_per_connection = 1\nresumes = false\n"
            ),
        ),
        ("h2", format!("path = '/bytes/1000'\nfront = 'h2'\n{closed}streams = 4\n")),
        ("h2c", format!("path = '/bytes/1000'\nfront = 'h2c'\nback = 'h2c'\n{closed}streams = 4\n")),
        (
            "grpc",
            format!(
                "path = '/bench.Echo/Bidi'\nfront = 'h2c'\nback = 'h2c'\n\
                 grpc = {{ message_bytes = 50, messages = 3 }}\n{closed}streams = 4\n"
            ),
        ),
    ];
    for (name, suite) in cases {
        let path = directory.join(format!("{name}.toml"));
        fs::write(&path, format!("about = 'a test'\nwarm_up = '50ms'\nrounds = 1\n{suite}")).expect("a file");
        let path = path.to_str().expect("text");
        let output = bench(&["compare", path, "--only", &format!("{peer},floor,varnish"), "--json"]);
        assert!(output.status.success(), "{name}: {output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let row = &json["rows"][0];
        assert_eq!(row["name"].as_str(), Some("stand-in"), "{name}: {json}");
        assert_eq!(row["closed"][0]["errors"].as_u64(), Some(0), "{name}: {json}");
        assert!(row["closed"][0]["requests_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{name}: {json}");
        assert_eq!(row["idle"]["connections"].as_u64(), (name == "https").then_some(20), "{name}: {json}");
        // Who can't take part is named with the reason.
        let absent = json["absent"].as_array().expect("a list");
        let why = |peer: &str| absent.iter().find(|entry| entry[0] == peer).map(|entry| entry[1].to_string());
        assert!(
            why("varnish").is_some_and(|why| why.contains("TLS") || why.contains("HTTP/1.1")),
            "{name}: {json}"
        );
        assert_eq!(why("floor").is_some(), matches!(name, "https" | "handshakes" | "h2"), "{name}: {json}");
    }
    fs::remove_dir_all(directory).expect("our own directory");
}

#[test]
fn peers_and_configurations_are_shown() {
    let peers = bench(&["peers"]);
    let text = String::from_utf8(peers.stdout).expect("text");
    for name in ["ringway", "floor", "nginx", "haproxy", "envoy", "caddy", "traefik", "h2o", "trafficserver"]
    {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
    }
    let config = bench(&["compare", "h1-small", "--only", "nginx", "--print-config"]);
    let text = String::from_utf8(config.stdout).expect("text");
    assert!(text.contains("## nginx.conf") && text.contains("access_log off;"), "{text}");
}
