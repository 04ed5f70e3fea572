//! A contender's process: started on its cores, ended with everything that it has started.
//!
//! The child is this program again, which pins itself, asks the kernel to be told when we die, and becomes the
//! proxy: so nothing is left behind, not even by a panic or SIGKILL.

use std::{
    ffi::OsString,
    fs, io,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::peer::{End, Peer, Settings};
use crate::{net, usage};

/// From SIGTERM to SIGKILL.
const END_GRACE: Duration = Duration::from_secs(3);
const POLL_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Configuration and output; removed in the end.
    directory: PathBuf,
}

impl Process {
    /// Writes the configuration and starts the program on `cores`.
    pub(super) fn start(peer: &Peer, settings: &Settings, cores: &[usize]) -> io::Result<Self> {
        fs::create_dir_all(&settings.directory)?;
        for (file, template) in &peer.templates {
            fs::write(settings.directory.join(file), settings.fill(template))?;
        }
        let run = peer.definition.run.iter().filter_map(|argument| settings.fill_line(argument));
        let env = peer
            .definition
            .env
            .iter()
            .map(|(name, value)| (name.clone(), settings.fill_line(value).unwrap_or_default()));
        Self::start_command(run, env, &settings.directory, cores, peer.definition.end)
    }

    pub(super) fn start_command(
        run: impl Iterator<Item = String>,
        env: impl Iterator<Item = (String, String)>,
        directory: &Path,
        cores: &[usize],
        end: End,
    ) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let output = fs::File::create(directory.join(OUTPUT))?;
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        let child = Command::new(std::env::current_exe()?)
            .args(["launch", "--cores", &cores.join(","), "--parent", &std::process::id().to_string()])
            .args(["--end", if end == End::Kill { "kill" } else { "term" }, "--"])
            .args(run)
            .envs(env)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C at the terminal is ours to pass on: it must not end the proxies before the report.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, directory: directory.to_owned() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote, if it has ended.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let output = fs::read_to_string(self.directory.join(OUTPUT)).unwrap_or_default();
        let mut lines: Vec<&str> =
            output.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        lines.reverse();
        Some(format!("ended with {status}: {}", lines.join(" | ")))
    }
}

const OUTPUT: &str = "output.log";

impl Drop for Process {
    fn drop(&mut self) {
        // The tree as it is now: once the root has gone, its children can't be found any more.
        let tree = usage::tree(self.child.id());
        signal(self.child.id(), Signal::TERM);
        let since = Instant::now();
        while !matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) && since.elapsed() < END_GRACE {
            thread::sleep(POLL_PAUSE);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), Signal::KILL);
            let _ = self.child.wait();
        }
        for pid in tree.into_iter().skip(1) {
            signal(pid, Signal::KILL);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The child's side: pins itself and becomes `command`. Returns only when that failed.
pub fn launch(cores: &[usize], parent: u32, end: End, command: &[OsString]) -> io::Error {
    let prepare = || {
        net::pin_thread(cores)?;
        // A proxy takes as many descriptors as it may.
        let _ = net::ensure_descriptors(u64::MAX);
        let signal = if end == End::Kill { Signal::KILL } else { Signal::TERM };
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        let parent_lives =
            rustix::process::getppid().is_some_and(|ppid| ppid.as_raw_pid().unsigned_abs() == parent);
        if parent_lives { Ok(()) } else { Err(io::Error::other("the parent has ended")) }
    };
    if let Err(error) = prepare() {
        return error;
    }
    match command.split_first() {
        Some((program, arguments)) => Command::new(program).args(arguments).exec(),
        None => io::ErrorKind::InvalidInput.into(),
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
