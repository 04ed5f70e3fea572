//! A peer that never stops: the others of its worker have their turns.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use tokio::io::{AsyncRead as _, ReadBuf};

use super::Settings;
use super::guard::Guard;
use super::server::{Incoming, ServerConnection};
use super::wire::{Shared, Wire, drive};
use crate::base::backlog::{Backlog, BacklogAccount};
use crate::base::clock::Monotonic;
use crate::base::limits::{TURN_BYTES, TURN_REQUESTS};
use crate::net::driver::{Executor, IoMode, spawn, yield_now};
use crate::net::transport::{Peek, Transport};

/// A stream that is always ready: what `more` makes comes without end, and all that is written is taken.
struct Endless<M> {
    coming: RefCell<VecDeque<u8>>,
    more: M,
}

impl<M: Fn() -> Vec<u8>> Endless<M> {
    fn new(first: &[u8], more: M) -> Self {
        Self { coming: RefCell::new(first.iter().copied().collect()), more }
    }
}

impl<M: Fn() -> Vec<u8> + 'static> Transport for Endless<M> {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut coming = self.coming.borrow_mut();
        while coming.len() < into.len() {
            let more = (self.more)();
            if more.is_empty() {
                break;
            }
            coming.extend(more);
        }
        let n = coming.len().min(into.len());
        for (to, byte) in into.iter_mut().zip(coming.drain(..n)) {
            *to = byte;
        }
        if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        Ok(from.len())
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(from.iter().map(|piece| piece.len()).sum())
    }

    async fn readable(&self) -> io::Result<()> {
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        Ok(())
    }

    fn peek(&self) -> Peek {
        Peek::Bytes
    }

    fn shutdown_write(&self) {}

    fn abort_on_close(&self) {}

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn backlog() -> Rc<Backlog> {
    Backlog::new(&BacklogAccount::new(256 << 20), None)
}

/// Runs it beside a task that counts its own turns, and says how many it had.
fn turns_of_others(work: impl Future<Output = ()>) -> usize {
    let (turns, over) = (Rc::<Cell<usize>>::default(), Rc::<Cell<bool>>::default());
    let (count, ended) = (Rc::clone(&turns), Rc::clone(&over));
    let run = async {
        spawn(async move {
            while !ended.get() {
                count.set(count.get() + 1);
                yield_now().await;
            }
        });
        work.await;
        over.set(true);
    };
    Executor::new(IoMode::Epoll).expect("a runtime").run(run).expect("no panic");
    turns.get()
}

/// Bytes that are read at once when the peer is always ready.
#[test]
fn a_connection_that_is_always_ready_moves_in_turns() {
    const BYTES: usize = 8 << 20;
    let data = || [&[0, 0x40, 0, 0, 0, 0, 0, 0, 1][..], &[7; 16 << 10]].concat();
    let stream = Endless::new(b"\0\0\0\x04\0\0\0\0\0", data);
    let shared = Shared::new(stream, Guard::of_server(Monotonic::start()), b"", backlog());
    let mut wire = Wire::new(&shared);
    let mut read = 0;
    let turns = turns_of_others(async {
        // As the h2 crate does: until it would block. Each time that this is called for is one of `next`.
        while read < BYTES {
            drive(&shared, |cx| {
                let mut bytes = [0; 8 << 10];
                let mut into = ReadBuf::new(&mut bytes);
                let polled = std::pin::Pin::new(&mut wire).poll_read(cx, &mut into);
                read += into.filled().len();
                polled.map(drop)
            })
            .await;
        }
    });
    assert!(
        turns >= BYTES / TURN_BYTES - 1,
        "{turns} turns of others in {} of {TURN_BYTES} bytes",
        read / TURN_BYTES
    );
}

/// Streams that are opened one after another, and each is small.
#[test]
fn a_client_that_always_opens_streams_has_its_turns() {
    const STREAMS: u32 = 2_000;
    let number = Cell::new(1_u32);
    let open = move || {
        if number.get() / 2 >= STREAMS {
            return Vec::new();
        }
        // GET http://t/ (RFC 7541 appendix A: entries 2, 6, 4 and 1).
        let block = [0x82, 0x86, 0x84, 0x01, 1, b't'];
        let mut frame = vec![0, 0, block.len() as u8, 1, 5];
        frame.extend(number.get().to_be_bytes());
        frame.extend(block);
        number.set(number.get() + 2);
        frame
    };
    let settings = Settings {
        streams_max: 10_000,
        stream_window: 256 << 10,
        connection_window: 1 << 20,
        header_list_bytes: 16 << 10,
    };
    let first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut accepted = 0;
    let turns = turns_of_others(async {
        let stream = Endless::new(first, open);
        let connection = ServerConnection::new(stream, b"", &settings, Monotonic::start(), backlog()).await;
        let mut connection = connection.expect("it has greeted");
        let mut streams = Vec::new();
        while accepted < STREAMS {
            match connection.next(|| [0; 16]).await {
                Incoming::Stream(stream) => streams.push(stream),
                other => panic!("{other:?} after {accepted} streams"),
            }
            accepted += 1;
        }
    });
    assert!(
        turns >= (STREAMS / TURN_REQUESTS) as usize - 1,
        "{turns} turns of others for {accepted} streams"
    );
}
