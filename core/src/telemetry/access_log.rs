//! Writes the access log on a thread of its own, which may block. Workers send batches of whole lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::journal;
use crate::base::limits::LOG_BATCHES_MAX;

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

/// What the writer's thread is told.
enum Order {
    Retarget(Target),
    /// Write what has been sent and end.
    End,
}

/// The writer's other end.
#[derive(Debug)]
pub struct Writer {
    /// Where workers send batches.
    pub batches: Sender<Vec<u8>>,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (batches, from_workers) = bounded(LOG_BATCHES_MAX);
        let (orders, from_control) = bounded(4);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || run(&from_workers, &from_control))?;
        Ok(Self { batches, orders, thread: Some(thread) })
    }

    /// Writes elsewhere from now on. The same target again opens its file anew, which is what log rotation wants.
    pub fn retarget(&self, target: Target) {
        let _ = self.orders.send(Order::Retarget(target));
    }

    /// Waits until everything that was sent is written.
    pub fn finish(mut self) {
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(batches: &Receiver<Vec<u8>>, orders: &Receiver<Order>) {
    let mut sink: Option<Box<dyn Write>> = None;
    // A disk that is full says so once, not with every batch.
    let mut failing = false;
    loop {
        select! {
            recv(orders) -> order => match order {
                Ok(Order::Retarget(target)) => {
                    sink = open(&target);
                    failing = false;
                }
                Ok(Order::End) | Err(_) => {
                    while let Ok(batch) = batches.try_recv() {
                        write(&mut sink, &batch, &mut failing);
                    }
                    return;
                }
            },
            recv(batches) -> batch => match batch {
                Ok(batch) => write(&mut sink, &batch, &mut failing),
                Err(_) => return,
            },
        }
    }
}

fn open(target: &Target) -> Option<Box<dyn Write>> {
    match target {
        Target::Nowhere => None,
        Target::Stdout => Some(Box::new(io::stdout())),
        Target::Stderr => Some(Box::new(io::stderr())),
        Target::File(path) => match append(path) {
            Ok(file) => Some(Box::new(file)),
            Err(error) => {
                journal::warn(format_args!("the access log {} can't be opened: {error}", path.display()));
                None
            }
        },
    }
}

/// Opens a log file as the writer will; for telling a bad path at start.
pub fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write(sink: &mut Option<Box<dyn Write>>, batch: &[u8], failing: &mut bool) {
    let Some(sink) = sink else { return };
    let result = sink.write_all(batch).and_then(|()| sink.flush());
    if let Err(error) = result
        && !std::mem::replace(failing, true)
    {
        journal::warn(format_args!("the access log can't be written: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, Writer};

    #[test]
    fn batches_reach_the_file_and_rotation_opens_it_anew() {
        let folder = std::env::temp_dir().join(format!("ringway-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("access.log");
        let writer = Writer::start().unwrap();
        writer.retarget(Target::File(path.clone()));
        // Targets and batches come through two channels: wait for the effect of each before the next.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let wait = |what: &str, met: &dyn Fn() -> bool| {
            while !met() {
                assert!(std::time::Instant::now() < deadline, "{what}");
                std::thread::yield_now();
            }
        };
        wait("the file was not opened", &|| path.exists());
        writer.batches.send(b"one\n".to_vec()).unwrap();
        wait("the first line never came", &|| {
            std::fs::read_to_string(&path).is_ok_and(|text| text == "one\n")
        });
        std::fs::rename(&path, folder.join("access.log.1")).unwrap();
        writer.retarget(Target::File(path.clone()));
        wait("the file was not opened anew", &|| path.exists());
        writer.batches.send(b"two\n".to_vec()).unwrap();
        writer.finish();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(std::fs::read_to_string(folder.join("access.log.1")).unwrap(), "one\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
