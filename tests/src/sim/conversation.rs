//! HTTP/1.1 as the actors outside the proxy read and write it: the harness's own strict parser, over a simulated connection.

use std::io::{ErrorKind, IoSlice};
use std::time::Duration;

use ringway::net::stream::Transport;

use super::executor::Executor;
use super::network::End;
use crate::wire::{Framing, Head, parse_head};

/// How a connection ended, or how what came over it was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before the first byte of a message.
    Closed,
    /// Inside a message.
    Truncated,
    Reset,
    /// Nothing moved for as long as the actor was willing to wait.
    Stalled,
    Malformed(String),
}

/// One connection, with what was read ahead.
#[derive(Debug)]
pub struct Conversation {
    pub end: End,
    executor: Executor,
    /// Read and not used. Public, so that an actor can look whether anything is left over.
    pub ahead: Vec<u8>,
    /// How long one wait may last.
    pub patience: Duration,
    /// Read no more than so many bytes at once, with a pause before each.
    pub slow_read: Option<(usize, Duration)>,
    /// Write no more than so many bytes at once, with a pause before each.
    pub slow_write: Option<(usize, Duration)>,
}

const READ_BYTES: usize = 8 * 1024;
const HEAD_BYTES_MAX: usize = 64 * 1024;

impl Conversation {
    pub fn new(end: End, executor: &Executor, patience: Duration) -> Self {
        Self {
            end,
            executor: executor.clone(),
            ahead: Vec::new(),
            patience,
            slow_read: None,
            slow_write: None,
        }
    }

    /// Reads once; 0 at the end.
    pub async fn fill(&mut self) -> Result<usize, Cut> {
        let most = match self.slow_read {
            Some((bytes, pause)) => {
                self.executor.pause(pause).await;
                bytes
            }
            None => READ_BYTES,
        };
        let at = self.ahead.len();
        self.ahead.resize(at + most, 0);
        let read = loop {
            match self.end.try_read(&mut self.ahead[at..]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.executor.within(self.patience, self.end.readable()).await.is_none() {
                        break Err(Cut::Stalled);
                    }
                }
                Err(_) => break Err(Cut::Reset),
                Ok(n) => break Ok(n),
            }
        };
        self.ahead.truncate(at + read.as_ref().copied().unwrap_or(0));
        read
    }

    pub async fn head(&mut self) -> Result<Head, Cut> {
        loop {
            if let Some(at) = memmem(&self.ahead, b"\r\n\r\n") {
                let raw = self.ahead.drain(..at + 4).collect();
                return parse_head(raw).map_err(Cut::Malformed);
            }
            if self.ahead.len() > HEAD_BYTES_MAX {
                return Err(Cut::Malformed("a head without an end".to_owned()));
            }
            if self.fill().await? == 0 {
                return Err(if self.ahead.is_empty() { Cut::Closed } else { Cut::Truncated });
            }
        }
    }

    /// Reads a body to its end, up to `most` bytes of content. Hands each piece to `sink`.
    pub async fn body(
        &mut self,
        framing: Framing,
        most: u64,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, Cut> {
        match framing {
            Framing::None => Ok(0),
            Framing::Length(length) => self.data(length, most, sink).await,
            Framing::UntilClose => {
                let mut total = 0;
                while total < most {
                    sink(&self.ahead);
                    total += self.ahead.len() as u64;
                    self.ahead.clear();
                    if self.fill().await? == 0 {
                        break;
                    }
                }
                Ok(total)
            }
            Framing::Chunked => {
                let mut total = 0;
                loop {
                    let line = self.line().await?;
                    let digits = line.split(';').next().unwrap_or_default();
                    let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let size = u64::from_str_radix(digits, 16).ok().filter(|_| hex);
                    let size = size.ok_or_else(|| Cut::Malformed(format!("chunk-size line {line:?}")))?;
                    if size == 0 {
                        break;
                    }
                    total += self.data(size, most - total, sink).await?;
                    if total >= most {
                        return Ok(total);
                    }
                    if !self.line().await?.is_empty() {
                        return Err(Cut::Malformed("chunk data without its CRLF".to_owned()));
                    }
                }
                while !self.line().await?.is_empty() {}
                Ok(total)
            }
        }
    }

    async fn data(&mut self, length: u64, most: u64, sink: &mut dyn FnMut(&[u8])) -> Result<u64, Cut> {
        let wanted = length.min(most);
        let mut left = wanted;
        while left > 0 {
            let now = (self.ahead.len() as u64).min(left) as usize;
            sink(&self.ahead[..now]);
            self.ahead.drain(..now);
            left -= now as u64;
            if left > 0 && self.fill().await? == 0 {
                return Err(Cut::Truncated);
            }
        }
        Ok(wanted)
    }

    async fn line(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(at) = memmem(&self.ahead, b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..at + 2).collect();
                return match std::str::from_utf8(&line[..at]) {
                    Ok(line) if !line.contains(['\r', '\n', '\0']) => Ok(line.to_owned()),
                    _ => Err(Cut::Malformed(format!("line {:?}", String::from_utf8_lossy(&line)))),
                };
            }
            if self.ahead.len() > HEAD_BYTES_MAX {
                return Err(Cut::Malformed("a line without an end".to_owned()));
            }
            if self.fill().await? == 0 {
                return Err(Cut::Truncated);
            }
        }
    }

    /// Writes everything.
    pub async fn send(&self, mut bytes: &[u8]) -> Result<(), Cut> {
        while !bytes.is_empty() {
            let most = match self.slow_write {
                Some((most, pause)) => {
                    self.executor.pause(pause).await;
                    bytes.len().min(most)
                }
                None => bytes.len(),
            };
            match self.end.try_write_vectored(&[IoSlice::new(&bytes[..most])]) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.executor.within(self.patience, self.end.writable()).await.is_none() {
                        return Err(Cut::Stalled);
                    }
                }
                Err(_) => return Err(Cut::Reset),
            }
        }
        Ok(())
    }

    /// Waits until the peer has closed, and reads away what comes until then. How many bytes those were.
    pub async fn closed(&mut self) -> Result<usize, Cut> {
        let mut bytes = std::mem::take(&mut self.ahead).len();
        loop {
            match self.fill().await? {
                0 => return Ok(bytes),
                n => bytes += n,
            }
            self.ahead.clear();
        }
    }
}

fn memmem(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
