//! A client's HTTP/2 connection made of fuzz bytes, in memory. Nothing may panic or hang, and whatever a stream yields
//! reads strictly as one request, or as the start of one, without a byte behind it.
//!
//! The first byte says whether preface and SETTINGS are put in front, and whether the bytes are frames as they stand or
//! orders for frames (type, flags, stream, length, payload), whose lengths are then true. The second cuts.
#![no_main]

use std::cell::Cell;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use ringway::base::backlog::{Backlog, BacklogAccount};
use ringway::base::clock::Monotonic;
use ringway::http::flow::{Batch, Flow};
use ringway::http::http1::parse::{HeadLimits, Parsed, parse_request};
use ringway::http::message::{HeadIndex, Method};
use ringway::net::h2::Settings;
use ringway::net::h2::server::{Incoming, ServerConnection, ServerStream};
use ringway::net::stream::{Peek, Transport};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const SETTINGS: Settings =
    Settings { streams_max: 8, stream_window: 16_384, connection_window: 65_536, header_list_bytes: 16_384 };

/// Above this the wire leaves a turn to other tasks, for which there is no runtime here.
const INPUT_BYTES_MAX: usize = 64 * 1024;

const TURNS_MAX: usize = 500_000;

/// What the client sends, in pieces, then its end. What we send is dropped.
struct Memory {
    incoming: Vec<u8>,
    read: Cell<usize>,
    piece: usize,
    /// Every second call would block, so that each wait is taken at some time.
    stutter: Cell<bool>,
    /// Waits that have been pending: the next one is ready, though it may be another future, for waits may be dropped.
    awaited: [Cell<bool>; 2],
}

/// Pending every other time.
async fn soon(awaited: &Cell<bool>) {
    std::future::poll_fn(|_| if awaited.replace(!awaited.get()) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}

impl Memory {
    fn blocks(&self) -> bool {
        self.stutter.replace(!self.stutter.get())
    }
}

impl Transport for Memory {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        if self.blocks() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let rest = &self.incoming[self.read.get()..];
        let n = rest.len().min(into.len()).min(self.piece);
        into[..n].copy_from_slice(&rest[..n]);
        self.read.set(self.read.get() + n);
        Ok(n)
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        if self.blocks() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(from.len().min(self.piece.max(7)))
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        from.first().map_or(Ok(0), |piece| self.try_write(piece))
    }

    async fn readable(&self) -> io::Result<()> {
        soon(&self.awaited[0]).await;
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        soon(&self.awaited[1]).await;
        Ok(())
    }

    fn peek(&self) -> Peek {
        if self.read.get() < self.incoming.len() { Peek::Bytes } else { Peek::Quiet }
    }

    fn shutdown_write(&self) {}

    fn abort_on_close(&self) {}

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The bytes of the connection.
fn wire(flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = if flags & 1 == 0 { PREFACE.to_vec() } else { Vec::new() };
    if flags & 2 == 0 {
        bytes.extend_from_slice(data);
        return bytes;
    }
    let mut rest = data;
    while let [kind, frame_flags, stream, length, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        bytes.extend_from_slice(&[0, 0, payload.len() as u8, kind % 11, *frame_flags, 0, 0, 0, stream % 16]);
        bytes.extend_from_slice(payload);
        rest = tail;
    }
    bytes
}

/// A request as far as it has come.
#[derive(Default)]
struct Request {
    text: Vec<u8>,
    head: Option<(Method, bool)>,
    flow: Option<Flow>,
}

impl Request {
    /// More of it: true when it is whole.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        const LIMITS: HeadLimits =
            HeadLimits { header_bytes: 1 << 20, header_count: 128, uri_bytes: 1 << 20 };
        self.text.extend_from_slice(bytes);
        if self.flow.is_none() {
            let mut slots = HeadIndex::default();
            let head = match parse_request(&self.text, &mut slots, &LIMITS) {
                Ok(Parsed::Complete(head)) => head,
                Ok(Parsed::Partial) => return false,
                Err(error) => panic!("{} in {}", error.reason(), self.text.escape_ascii()),
            };
            let tunnel = head.method == Method::Connect || head.upgrade().is_some();
            self.head = Some((head.method, tunnel));
            self.flow = Some(Flow::new(head.body, head.body));
            let head_bytes = head.head_bytes;
            self.text.drain(..head_bytes);
            if tunnel {
                return true;
            }
        }
        let Some(flow) = &mut self.flow else { return false };
        let mut batch = Batch::default();
        while !flow.is_ended() {
            if let Err(error) = flow.step(&self.text, &mut batch) {
                panic!("{} in {}", error.reason(), self.text.escape_ascii());
            }
            self.text.drain(..batch.consumed);
            if batch.consumed == 0 {
                break;
            }
        }
        if flow.is_ended() {
            assert!(self.text.is_empty(), "behind the request: {}", self.text.escape_ascii());
        }
        flow.is_ended()
    }
}

/// Reads a request to its end and answers it.
async fn answer(stream: Box<ServerStream>) {
    let mut request = Request::default();
    let mut buffer = [0; 1_021];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if request.feed(&buffer[..n]) {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stream.readable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    let text: &[u8] = match request.head {
        Some((Method::Connect, _)) => b"HTTP/1.1 200 OK\r\n\r\nthrough",
        Some((_, true)) => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        Some((Method::Head, _)) => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        _ => b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n",
    };
    let mut rest = text;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stream.writable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    stream.shutdown_write();
}

async fn serve(stream: Memory) {
    let backlog = Backlog::new(&BacklogAccount::new(1 << 20), None);
    let connection = ServerConnection::new(stream, b"", &SETTINGS, Monotonic::start(), backlog).await;
    let Some(connection) = connection else { return };
    let mut connection = Some(connection);
    let mut streams: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    std::future::poll_fn(|cx| {
        while let Some(live) = &mut connection {
            let next = pin!(live.next(|| [7; 16])).poll(cx);
            match next {
                Poll::Ready(Incoming::Stream(stream)) => streams.push(Box::pin(answer(stream))),
                Poll::Ready(Incoming::Refused(_)) => {}
                Poll::Ready(Incoming::Over(_)) => connection = None,
                Poll::Pending => break,
            }
        }
        streams.retain_mut(|stream| stream.as_mut().poll(cx).is_pending());
        if connection.is_none() && streams.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fuzz_target!(|data: &[u8]| {
    let [flags, piece, data @ ..] = data else { return };
    if data.len() > INPUT_BYTES_MAX {
        return;
    }
    let incoming = wire(*flags, data);
    let piece = usize::from(*piece) * 16 + 1;
    let stream = Memory {
        incoming,
        read: Cell::new(0),
        piece,
        stutter: Cell::new(false),
        awaited: Default::default(),
    };
    let mut task = pin!(serve(stream));
    let mut cx = Context::from_waker(Waker::noop());
    let mut turns = 0;
    while task.as_mut().poll(&mut cx).is_pending() {
        turns += 1;
        assert!(turns < TURNS_MAX, "the connection never ends");
    }
});
