//! splice(2) through a pipe: bytes move from socket to socket inside the kernel.
//!
//! The calls are direct and non-blocking, on readiness; `IORING_OP_SPLICE` would hand each one to a kernel worker thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::descriptors::{self, Held};
use crate::base::limits::{FREE_PIPES_MAX, PIPE_BYTES};

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
    _descriptors: [Held; 2],
}

impl Pipe {
    fn new() -> io::Result<Self> {
        descriptors::check_room(2)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Past the user's pipe quota this is refused: the default 64 KiB works as well, only slower.
        let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
        Ok(Self { reader, writer, held: 0, _descriptors: [Held::new(), Held::new()] })
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `max` bytes from a socket into the pipe. 0 is the end of the stream.
    pub fn fill_from(&mut self, from: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let n = splice(from, None, &self.writer, None, max, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.held += n;
        Ok(n)
    }

    /// Moves what the pipe holds into a socket, as far as it takes it.
    ///
    /// Without `SPLICE_F_MORE`, though more may follow: on a source that trickles it would hold each piece back for 200 ms.
    pub fn drain_to(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let n = splice(&self.reader, None, to, None, self.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.held -= n;
        Ok(n)
    }
}

/// Empty pipes of one worker, kept for reuse.
#[derive(Debug, Default)]
pub struct PipePool(RefCell<Vec<Pipe>>);

impl PipePool {
    /// An empty pipe; an error if descriptors have run out.
    pub fn take(&self) -> io::Result<Pipe> {
        match self.0.borrow_mut().pop() {
            Some(pipe) => Ok(pipe),
            None => Pipe::new(),
        }
    }

    /// Keeps an empty pipe. One with bytes in it belongs to a broken exchange and is closed.
    pub fn give(&self, pipe: Pipe) {
        let mut pipes = self.0.borrow_mut();
        if pipe.held == 0 && pipes.len() < FREE_PIPES_MAX {
            pipes.push(pipe);
        }
    }

    /// Closes half of the spare pipes.
    pub fn trim(&self) {
        let mut pipes = self.0.borrow_mut();
        let keep = pipes.len() / 2;
        pipes.truncate(keep);
    }
}
