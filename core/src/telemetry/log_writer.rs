//! Writes a log on a thread of its own. Nobody else ever writes to one, so a pipe that nobody reads and a disk that is
//! full hold up nothing but this thread.
//!
//! What does not fit into the bounded queue is dropped by the sender, and what can't be written is dropped here; both are
//! counted. Lines stay whole: after half a line (the disk filled up in the middle of it) the next one starts on a line of
//! its own. Owned by the control thread: the access log, the log of canaries' decisions and the journal each have one.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::base::limits::LOG_BATCHES_MAX;

/// A pipe that is ready takes at least so many bytes at once without blocking, also where it can't be made non-blocking
/// because others have it too: `PIPE_BUF`.
const PIPE_BYTES: usize = 4_096;

/// How often a thread that waits for a reader looks whether it is wanted elsewhere.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: the log is off.
    Nowhere,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
}

/// Says that a log can't be written, or can again. Must not block.
pub type Report = fn(std::fmt::Arguments<'_>);

/// The thread's other end.
#[derive(Debug)]
pub struct LogWriter {
    /// Where batches of whole lines are sent, with `try_send`: whoever finds no room drops and counts.
    pub batches: Sender<Vec<u8>>,
    shared: Arc<Shared>,
    wake: Sender<()>,
    /// Disconnected once the thread has ended.
    ended: Receiver<()>,
}

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Orders>,
    lost: AtomicU64,
}

/// What the thread is to do next. Only the latest counts, so telling it never waits.
#[derive(Debug, Default)]
struct Orders {
    target: Option<Target>,
    /// Write what has been sent, until then, and end.
    end: Option<Instant>,
}

impl Shared {
    fn orders<T>(&self, work: impl FnOnce(&mut Orders) -> T) -> T {
        work(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The thread must not wait for a reader any more.
    fn is_wanted(&self) -> bool {
        self.orders(|orders| {
            orders.target.is_some() || orders.end.is_some_and(|until| Instant::now() >= until)
        })
    }

    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }
}

impl LogWriter {
    /// Starts the thread, which writes nowhere until it is told. `name` names the log in reports.
    pub fn start(name: &'static str, report: Report) -> io::Result<Self> {
        let (batches, from_senders) = bounded(LOG_BATCHES_MAX);
        let (wake, woken) = bounded(1);
        let (running, ended) = bounded(0);
        let shared = Arc::new(Shared::default());
        let thread = Thread {
            name,
            report,
            shared: Arc::clone(&shared),
            sink: None,
            failing_since: None,
            _running: running,
        };
        std::thread::Builder::new()
            .name(name.replace(' ', "-"))
            .spawn(move || thread.run(&from_senders, &woken))?;
        Ok(Self { batches, shared, wake, ended })
    }

    /// Writes elsewhere from now on. The same target again opens its file anew, which is what log rotation wants.
    pub fn retarget(&self, target: Target) {
        self.shared.orders(|orders| orders.target = Some(target));
        let _ = self.wake.try_send(());
    }

    /// Lines that could not be written.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Sends whole lines. What finds no room is dropped and counted.
    pub fn send(&self, lines: Vec<u8>) {
        if let Err(error) = self.batches.try_send(lines) {
            self.lose(count(&error.into_inner()));
        }
    }

    /// Counts lines that were not sent at all.
    pub fn lose(&self, lines: u64) {
        self.shared.lose(lines);
    }

    /// Waits until what was sent is written, for `patience` at most, and ends the thread. Says how many lines could not
    /// be written in all its time.
    pub fn finish(&self, patience: Duration) -> u64 {
        self.shared.orders(|orders| orders.end = Some(Instant::now() + patience));
        let _ = self.wake.try_send(());
        // A thread inside a write that does not return is left behind: the process ends all the same.
        let _ = self.ended.recv_timeout(patience + Duration::from_millis(200));
        self.lost()
    }
}

/// Opens a log file as the writer will; for telling a bad path at start. Never waits for a pipe's reader.
pub fn append(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits();
    OpenOptions::new().create(true).append(true).custom_flags(flags.cast_signed()).open(path)
}

/// How a write has ended.
enum Outcome {
    Done,
    /// Nobody has read, and the thread is wanted elsewhere.
    Wanted,
    Failed(io::Error),
}

struct Thread {
    name: &'static str,
    report: Report,
    shared: Arc<Shared>,
    sink: Option<Sink<Output>>,
    /// What `lost` was when the last write failed. A disk that is full says so once, not with every batch.
    failing_since: Option<u64>,
    /// Tells the other end by being dropped.
    _running: Sender<()>,
}

impl Thread {
    fn run(mut self, batches: &Receiver<Vec<u8>>, woken: &Receiver<()>) {
        loop {
            self.obey();
            if let Some(until) = self.shared.orders(|orders| orders.end) {
                while let Ok(batch) = batches.try_recv() {
                    if Instant::now() < until || self.sink.is_none() {
                        self.write(&batch);
                    } else {
                        self.shared.lose(count(&batch));
                    }
                }
                return;
            }
            select! {
                // Nobody to be told by any more: what was sent is written.
                recv(woken) -> woken => if woken.is_err() {
                    batches.iter().for_each(|batch| self.write(&batch));
                    return;
                },
                recv(batches) -> batch => match batch {
                    Ok(batch) => {
                        // Whoever has told and then sent means the new target.
                        self.obey();
                        self.write(&batch);
                    }
                    Err(_) => return,
                },
            }
        }
    }

    /// Opens what is wanted now.
    fn obey(&mut self) {
        let Some(target) = self.shared.orders(|orders| orders.target.take()) else { return };
        let opened = match &target {
            Target::Nowhere => Ok(None),
            Target::Stdout => Output::of(io::stdout()).map(Some),
            Target::Stderr => Output::of(io::stderr()).map(Some),
            Target::File(path) => Output::open(path).map(Some),
        };
        self.failing_since = None;
        match opened {
            Ok(output) => {
                let in_line = matches!(&target, Target::File(path) if ends_in_line(path));
                self.sink = output.map(|output| Sink { output, in_line });
            }
            Err(error) => {
                if let Target::File(path) = target {
                    (self.report)(format_args!(
                        "the {} {} can't be opened: {error}",
                        self.name,
                        path.display()
                    ));
                }
                self.sink = None;
            }
        }
    }

    fn write(&mut self, batch: &[u8]) {
        let mut rest = batch;
        loop {
            let Some(sink) = &mut self.sink else { return };
            let (written, outcome) = sink.put(rest, &|| self.shared.is_wanted());
            rest = &rest[written..];
            match outcome {
                Outcome::Done => {
                    if let Some(before) = self.failing_since.take() {
                        let lines = self.shared.lost.load(Ordering::Relaxed) - before;
                        (self.report)(format_args!(
                            "the {} is written again; {lines} lines are lost",
                            self.name
                        ));
                    }
                    return;
                }
                // What is left goes where lines go now, unless there is no time for that either.
                Outcome::Wanted if self.shared.orders(|orders| orders.target.is_some()) => self.obey(),
                Outcome::Wanted => return self.shared.lose(count(rest)),
                Outcome::Failed(error) => {
                    let before = self.shared.lost.load(Ordering::Relaxed);
                    self.shared.lose(count(rest));
                    if self.failing_since.is_none() {
                        self.failing_since = Some(before);
                        (self.report)(format_args!("the {} can't be written: {error}", self.name));
                    }
                    return;
                }
            }
        }
    }
}

/// Something that takes bytes, and what is known of the last of them.
struct Sink<W> {
    output: W,
    /// The last line has no end.
    in_line: bool,
}

/// Takes some bytes, or says why not. Zero: nobody reads, and somebody else is to be looked at.
trait Take {
    fn take(&mut self, bytes: &[u8], wanted: &dyn Fn() -> bool) -> io::Result<usize>;
}

impl<W: Take> Sink<W> {
    /// Writes whole lines. Returns how many bytes of whole lines are out.
    fn put(&mut self, lines: &[u8], wanted: &dyn Fn() -> bool) -> (usize, Outcome) {
        if self.in_line {
            match self.output.take(b"\n", wanted) {
                Ok(0) => return (0, Outcome::Wanted),
                Ok(_) => self.in_line = false,
                Err(error) => return (0, Outcome::Failed(error)),
            }
        }
        let mut at = 0;
        let outcome = loop {
            if at == lines.len() {
                break Outcome::Done;
            }
            match self.output.take(&lines[at..], wanted) {
                Ok(0) => break Outcome::Wanted,
                Ok(n) => at += n,
                Err(error) => break Outcome::Failed(error),
            }
        };
        let whole = memchr::memrchr(b'\n', &lines[..at]).map_or(0, |end| end + 1);
        self.in_line = whole < at;
        (whole, outcome)
    }
}

/// An open file, pipe or terminal.
struct Output {
    file: File,
    /// A write may wait for somebody: it is asked first.
    waits: bool,
}

impl Output {
    fn new(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let waits = kind.is_fifo() || kind.is_socket() || kind.is_char_device();
        Ok(Self { file, waits })
    }

    /// A duplicate, so that nothing of std's buffers or locks is between.
    fn of(stream: impl AsFd) -> io::Result<Self> {
        Self::new(stream.as_fd().try_clone_to_owned()?.into())
    }

    fn open(path: &Path) -> io::Result<Self> {
        Self::new(append(path)?)
    }
}

impl Take for Output {
    fn take(&mut self, bytes: &[u8], wanted: &dyn Fn() -> bool) -> io::Result<usize> {
        let bytes = if self.waits { &bytes[..bytes.len().min(PIPE_BYTES)] } else { bytes };
        loop {
            if self.waits {
                match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&LOOK)) {
                    Ok(0) if wanted() => return Ok(0),
                    Ok(0) | Err(Errno::INTR) => continue,
                    Ok(_) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if wanted() {
                        return Ok(0);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                wrote => return wrote,
            }
        }
    }
}

/// Whether somebody, a process that was killed perhaps, has left half a line in a file.
fn ends_in_line(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        // Only what has an end can be asked for it; a pipe would wait for a writer.
        if !path.metadata()?.is_file() {
            return Ok(b'\n');
        }
        let mut file = File::open(path)?;
        let mut byte = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut byte)?;
        }
        Ok(byte[0])
    };
    // Who may write a file need not be allowed to read it.
    last().is_ok_and(|byte| byte != b'\n')
}

/// Lines in a batch.
pub fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{self, Read as _};
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::{LogWriter, Outcome, Sink, Take, Target};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ringway-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn wait(what: &str, met: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !met() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    fn writer() -> LogWriter {
        LogWriter::start("test log", |_| {}).unwrap()
    }

    #[test]
    fn batches_reach_the_file_and_rotation_opens_it_anew() {
        let folder = folder("rotation");
        let path = folder.join("access.log");
        let writer = writer();
        writer.retarget(Target::File(path.clone()));
        writer.send(b"one\n".to_vec());
        wait("the first line never came", || fs::read_to_string(&path).is_ok_and(|text| text == "one\n"));
        fs::rename(&path, folder.join("access.log.1")).unwrap();
        writer.retarget(Target::File(path.clone()));
        writer.send(b"two\n".to_vec());
        assert_eq!(writer.finish(PATIENCE), 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_to_string(folder.join("access.log.1")).unwrap(), "one\n");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_pipe_that_nobody_reads_keeps_nobody_waiting() {
        let folder = folder("pipe");
        let pipe = folder.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        // Opening it for both ends waits for nobody.
        let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let writer = writer();
        writer.retarget(Target::File(pipe));
        let line = [vec![b'x'; 999], vec![b'\n']].concat();
        let batch = line.repeat(16);
        writer.send(batch.clone());
        wait("the pipe was never written", || writer.batches.is_empty());
        // Far more than pipe and queue hold together: the sender goes on.
        let sent = 2_000;
        for _ in 0..sent {
            writer.send(batch.clone());
        }
        wait("nothing was counted", || writer.lost() > 0);
        let before = Instant::now();
        // Elsewhere the rest is written at once; one line was begun in the pipe, and is written whole in the file.
        let path = folder.join("file.log");
        writer.retarget(Target::File(path.clone()));
        wait("the file was never written", || fs::metadata(&path).is_ok_and(|file| file.len() > 0));
        let lost = writer.finish(PATIENCE);
        assert!(before.elapsed() < PATIENCE, "it waited for a reader");
        let text = fs::read(&path).unwrap();
        assert!(text.chunks(1_000).all(|chunk| chunk == line), "lines are whole");
        let mut in_pipe = vec![0; 1 << 20];
        let n = reader.read(&mut in_pipe).unwrap();
        let whole = super::count(&in_pipe[..n]);
        assert_eq!(
            whole + (text.len() / 1_000) as u64 + lost,
            (sent + 1) * 16,
            "every line is written or counted"
        );
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_end_waits_no_longer_than_it_may() {
        let folder = folder("end");
        let pipe = folder.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let _reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let writer = writer();
        writer.retarget(Target::File(pipe));
        let batch = b"0123456789\n".repeat(10_000);
        writer.send(batch.clone());
        writer.send(batch);
        let before = Instant::now();
        let lost = writer.finish(Duration::from_millis(100));
        assert!(before.elapsed() < PATIENCE);
        // A pipe holds 64 KiB of the 220,000 bytes, as far as it was ours to write in that time.
        assert!((14_000..=20_000).contains(&lost), "{lost}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_full_disk_is_counted() {
        let writer = writer();
        writer.retarget(Target::File("/dev/full".into()));
        writer.send(b"one\ntwo\n".to_vec());
        writer.send(b"three\n".to_vec());
        assert_eq!(writer.finish(PATIENCE), 3);
    }

    #[test]
    fn half_a_line_of_another_process_is_ended() {
        let folder = folder("half");
        let path = folder.join("access.log");
        fs::write(&path, "whole\nha").unwrap();
        let writer = writer();
        writer.retarget(Target::File(path.clone()));
        writer.send(b"next\n".to_vec());
        assert_eq!(writer.finish(PATIENCE), 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nha\nnext\n");
        fs::remove_dir_all(&folder).unwrap();
    }

    /// A disk with so much room left.
    struct Disk {
        room: usize,
        text: Vec<u8>,
    }

    impl Take for Disk {
        fn take(&mut self, bytes: &[u8], _: &dyn Fn() -> bool) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            self.text.extend_from_slice(&bytes[..n]);
            self.room -= n;
            if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }
    }

    #[test]
    fn lines_stay_whole_on_a_disk_that_fills_up_anywhere() {
        let (first, second) = (b"one\ntwo\nthree\n", b"four\n");
        for room in 0..=first.len() {
            let mut sink = Sink { output: Disk { room, text: Vec::new() }, in_line: false };
            let (whole, outcome) = sink.put(first, &|| false);
            assert_eq!(matches!(outcome, Outcome::Done), room == first.len());
            let expected = [14, 8, 4, 0].into_iter().find(|end| *end <= room).unwrap();
            assert_eq!(whole, expected, "{room}");
            // Still full: nothing is claimed.
            if room < first.len() {
                assert_eq!(sink.put(second, &|| false).0, 0);
            }
            sink.output.room = 100;
            let (whole, outcome) = sink.put(second, &|| false);
            assert!(whole == second.len() && matches!(outcome, Outcome::Done));
            let text = String::from_utf8(sink.output.text).unwrap();
            assert_eq!(text.lines().last(), Some("four"), "{room}: {text:?}");
            let begun = &first[..room];
            let end = if begun.is_empty() || begun.ends_with(b"\n") { "" } else { "\n" };
            assert_eq!(text, format!("{}{end}four\n", String::from_utf8_lossy(begun)));
        }
    }
}
