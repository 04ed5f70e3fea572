//! Logs that nobody reads and disks that are full: lines are lost and counted, and nothing else happens.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::metrics::Metrics;
use ringway_tests::origin::Origin;
use ringway_tests::process::Process;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::stream::Address;
use ringway_tests::wait::eventually;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;

/// A pipe that takes not one byte more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // Opened once more, so that only this end does not wait.
    let nonblocking = 0o4000;
    let mut filler = OpenOptions::new()
        .write(true)
        .custom_flags(nonblocking)
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
        .expect("the pipe once more");
    for bytes in [4_096, 1] {
        loop {
            match filler.write(&vec![b'x'; bytes]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("filling a pipe: {error}"),
            }
        }
    }
    (reader, writer)
}

/// An edge that listens on sockets of its folder, so that nobody need read where.
struct Edge {
    process: Process,
    folder: Folder,
}

impl Edge {
    fn start(name: &str, driver: Driver, text: &str, stdout: Stdio, stderr: Stdio) -> Edge {
        let folder = Folder::new(&format!("logs-{name}-{}", driver.name()));
        let path = folder.join("ringway.yaml");
        let edge = Edge {
            process: Process::edge_into(
                [
                    "run".as_ref(),
                    "--config".as_ref(),
                    edge_config(&folder, text).as_os_str(),
                    "--io".as_ref(),
                    driver.name().as_ref(),
                ],
                stdout,
                stderr,
            ),
            folder,
        };
        assert_eq!(path, edge.folder.join("ringway.yaml"));
        edge.await_status("/ready", 200);
        edge
    }

    fn connect(&self, socket: &str) -> Option<Client> {
        Client::try_connect(&Address::Unix(self.folder.join(socket))).ok()
    }

    fn admin(&self, path: &str) -> Option<(u16, String)> {
        let mut client = self.connect("admin.sock")?;
        client.try_send(get(path).as_bytes()).ok()?;
        let response = client.try_response("GET").ok()?;
        Some((response.status, response.text()))
    }

    #[track_caller]
    fn await_status(&self, path: &str, status: u16) -> String {
        eventually(&format!("{status} of {path}"), || {
            self.admin(path).filter(|answer| answer.0 == status).map(|answer| answer.1)
        })
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Metrics::parse(&self.await_status("/metrics", 200)).expect("metrics").sum(name, labels)
    }
}

fn edge_config(folder: &Folder, text: &str) -> std::path::PathBuf {
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "version: 1\nadmin: {{ address: \"unix:{}\" }}\nworkers: 1\ntimeouts: {{ drain: 2s }}\n\
         listeners: [{{ name: main, address: \"unix:{}\" }}]\n{text}",
        at("admin.sock"),
        at("main.sock"),
    );
    folder.write("ringway.yaml", &text)
}

const ANSWER: &str = "routes: [{ name: all, respond: { status: 200, body: one } }]\n";

for_each_driver! {
    /// Standard error takes no byte from the start: signals, reloads, admin requests and the end go on.
    fn a_journal_that_nobody_reads_stops_nothing(driver) within 300 {
        let (_reader, writer) = full_pipe();
        let edge = Edge::start("journal", driver, ANSWER, Stdio::null(), writer.into());
        let ask = || edge.connect("main.sock").expect("a connection").get("/").expect(200).text();
        assert_eq!(ask(), "one");
        // Each is a line, and together they are more than the queue holds.
        for _ in 0..40 {
            edge.process.signal("HUP");
        }
        edge_config(&edge.folder, &ANSWER.replace("one", "two"));
        edge.process.signal("HUP");
        eventually("the reload", || (ask() == "two").then_some(()));
        edge.await_status("/live", 200);
        edge.process.signal("TERM");
        let finished = edge.process.finish();
        assert!(finished.status.success(), "{finished:?}");
    }

    /// The access log is a pipe that takes nothing: requests go on, lines are counted, and the process ends.
    fn an_access_log_that_nobody_reads_stops_nothing(driver) within 300 {
        let (_reader, writer) = full_pipe();
        let text = format!("access_log: {{ mode: all }}\n{ANSWER}");
        let edge = Edge::start("access", driver, &text, writer.into(), Stdio::null());
        let mut client = edge.connect("main.sock").expect("a connection");
        // 256 batches of 16 KiB fit the queue.
        let long = format!("/{}", "a".repeat(1_900));
        eventually("dropped lines", || {
            for _ in 0..500 {
                client.get(&long).expect(200);
            }
            (edge.metric("ringway_access_log_dropped_total", &[]) > 0.0).then_some(())
        });
        edge.process.signal("TERM");
        let finished = edge.process.finish();
        assert!(finished.status.success(), "{finished:?}");
    }

    /// A disk that is full: what is lost is counted, and requests go on.
    fn a_full_disk_loses_lines_and_counts_them(driver) {
        if File::open("/dev/full").is_err() {
            println!("skipped: no /dev/full");
            return;
        }
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("access_log: { mode: all, path: /dev/full }"));
        let mut client = proxy.connect();
        for _ in 0..20 {
            client.get("/").expect(200);
        }
        proxy.await_metric("ringway_log_lines_lost_total", &[("log", "access")], |n| n == 20.0);
        client.get("/").expect(200);
    }
}
