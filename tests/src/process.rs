//! The real binary as a child process: built once, found without guessing, killed when dropped.

use crate::wait::{PATIENCE, eventually_within};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

/// The path of `ringway-edge`, built on first use with the cargo that runs the tests.
pub fn edge_binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("ringway-edge"))
}

/// Builds a package's binary in the test profile and asks cargo where it is.
fn build(package: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--profile", "test", "--message-format", "json", "-p", package])
        // As the suites themselves are built, so that there is one build of the engine.
        .args(["--features", "test-panics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .expect("running cargo");
    assert!(output.status.success(), "cargo build -p {package}: {}", output.status);
    let messages = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == package)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .unwrap_or_else(|| panic!("cargo named no executable for {package}"))
}

/// What a finished run left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A running binary with its output collected.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Output,
    stderr: Output,
}

#[derive(Debug)]
struct Output {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn collect(from: impl Read + Send + 'static) -> Output {
        let text = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut lines = BufReader::new(from);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
                into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Output { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.so_far()
    }
}

impl Process {
    /// Starts `ringway-edge` with these arguments.
    pub fn edge<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Process {
        Process::spawn(Command::new(edge_binary()).args(arguments))
    }

    pub fn spawn(command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let stdout = Output::collect(child.stdout.take().expect("a piped stdout"));
        let stderr = Output::collect(child.stderr.take().expect("a piped stderr"));
        Process { child, stdout, stderr }
    }

    /// As [`edge`](Self::edge), with standard output and error in the caller's hands.
    pub fn edge_into<A: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = A>,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Process {
        let mut command = Command::new(edge_binary());
        command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let none = || Output { text: Arc::default(), reader: None };
        Process { child, stdout: none(), stderr: none() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until standard output and error together satisfy `look`.
    #[track_caller]
    pub fn await_output<T>(&mut self, what: &str, look: impl Fn(&str) -> Option<T>) -> T {
        let all = |p: &Process| format!("{}\n{}", p.stdout(), p.stderr());
        eventually_within(PATIENCE, what, || {
            let found = look(&all(self));
            if found.is_none() && self.child.try_wait().is_ok_and(|exit| exit.is_some()) {
                // What was written last may still be on its way from the pipe.
                self.stdout.finish();
                self.stderr.finish();
                let text = all(self);
                return Some(look(&text).unwrap_or_else(|| panic!("it ended without {what}:\n{text}")));
            }
            found
        })
    }

    /// Sends a signal by its number's name, such as `TERM`, through kill(1), so that the harness needs no unsafe.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
    }

    /// Waits for the end, bounded.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let status = eventually_within(PATIENCE * 2, "the end of the process", || {
            self.child.try_wait().expect("waiting for a child")
        });
        Finished { status, stdout: self.stdout.finish(), stderr: self.stderr.finish() }
    }

    /// A figure of /proc/PID/status in KiB, such as `VmRSS`.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find(|line| line.split(':').next() == Some(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
