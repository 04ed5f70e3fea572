//! One connection slot of the generator: takes a request, sends it, reads and checks its response, again.

use std::{hash::Hasher, io, rc::Rc};

use super::{
    Digest,
    outcome::Complete,
    stats::ErrorKind,
    target::Encoded,
    worker::{RECEIVE_BYTES, Slot, Worker},
};
use crate::{
    http1::{BodyExpected, Progress, ResponseReader},
    net::{self, Socket},
    stream::{Broken, Progress as Sent, Received, Stream},
    tls,
};

/// A connection unused for so long is looked at before it is used: its server may have closed it, as it may.
const IDLE_NS_UNCHECKED_MAX: u64 = 1_000_000_000;

pub(super) async fn drive(worker: Rc<Worker>, slot: Rc<Slot>) {
    let reader = ResponseReader::new(BodyExpected::AsFramed);
    let mut connection =
        Connection { worker: &worker, slot: &slot, stream: None, reader, served: 0, last_used_ns: 0 };
    while let Some(due_ns) = worker.next_request(&slot).await {
        connection.exchange(due_ns).await;
    }
    connection.close();
    worker.leave();
}

struct Connection<'a> {
    worker: &'a Worker,
    slot: &'a Slot,
    stream: Option<Stream>,
    reader: ResponseReader,
    /// Requests sent over `stream`.
    served: u64,
    last_used_ns: u64,
}

impl Connection<'_> {
    async fn exchange(&mut self, due_ns: u64) {
        let (worker, slot) = (self.worker, self.slot);
        let target = worker.next_target(slot.lane);
        let sent_ns = slot.now_ns.get();
        slot.deadline_ns.set(sent_ns + worker.timeout_ns);
        let outcome = self.attempt(target, due_ns, sent_ns).await;
        slot.deadline_ns.set(0);
        let timed_out = slot.timed_out.take();
        let outcome = outcome.map_err(|kind| if timed_out { ErrorKind::Timeout } else { kind });
        // A deadline that fell on the last byte has shut the socket down all the same.
        if outcome.is_err() || timed_out || !self.reader.head().keep_alive {
            self.close();
        }
        let result = worker.settle(slot, target, due_ns, sent_ns, outcome);
        self.last_used_ns = slot.now_ns.get();
        if matches!(result, Err(ErrorKind::Connect | ErrorKind::Tls)) {
            worker.back_off().await;
            slot.now_ns.set(worker.now_ns());
        }
    }

    /// Sends the request and reads its response to the end.
    async fn attempt(&mut self, target: &Encoded, due_ns: u64, sent_ns: u64) -> Result<Complete, ErrorKind> {
        let mut stream = self.open(due_ns, sent_ns).await?;
        let last_of_connection = self.worker.plan.config.requests_per_connection == Some(self.served + 1);
        let wire = if last_of_connection { &target.wire_close } else { &target.wire };
        let is_new = self.served == 0;
        self.served += 1;
        let sent_all = match stream.send_all(wire, &self.worker.buffers).await {
            Ok(()) => true,
            // The server may have answered before it had read everything: what it said is still there.
            Err((Sent::Partly, _)) => false,
            Err((Sent::Nothing, _)) => {
                return Err(if is_new { ErrorKind::Connect } else { ErrorKind::Reset });
            }
        };
        self.reader.start(target.body_expected);
        let complete = match self.worker.plan.config.check.digest {
            Digest::Unchecked => self.receive(&mut stream).await?,
            _ => self.receive_hashing(&mut stream).await?,
        };
        if last_of_connection || !sent_all {
            self.close();
        } else {
            self.stream = Some(stream);
        }
        Ok(complete)
    }

    /// The connection to use, taken out of its place; a new one in the clear may still be on its way.
    async fn open(&mut self, due_ns: u64, now_ns: u64) -> Result<Stream, ErrorKind> {
        let worker = self.worker;
        if let Some(mut stream) = self.stream.take() {
            let idle_ns = now_ns.saturating_sub(self.last_used_ns);
            if idle_ns <= IDLE_NS_UNCHECKED_MAX || !is_over(&mut stream, worker) {
                return Ok(stream);
            }
            self.close();
        }
        let lane = &worker.plan.lanes[self.slot.lane];
        let socket = net::connect(&lane.address).and_then(Socket::adopt).map_err(|_| ErrorKind::Connect)?;
        let socket = Rc::new(socket);
        *self.slot.socket.borrow_mut() = Some(socket.clone());
        self.served = 0;
        worker.record(due_ns, |interval| interval.counts.connections += 1);
        let (Some(config), Some(name)) = (&worker.tls, &lane.server_name) else {
            return Ok(Stream::new(socket, None));
        };
        let session = tls::Session::client(config, name.clone()).map_err(|e| self.tls_failed(&e.into()))?;
        let mut stream = Stream::new(socket, Some(session));
        // No HTTP/1.1 server speaks first.
        let mut spoke_first = false;
        let shaken = stream.shake_hands(&worker.buffers, |_| spoke_first = true).await;
        shaken.map_err(|cause| self.tls_failed(&cause))?;
        if let Some(session) = stream.session() {
            worker.record_handshake(due_ns, session);
        }
        if spoke_first { Err(ErrorKind::Malformed) } else { Ok(stream) }
    }

    fn tls_failed(&self, cause: &Broken) -> ErrorKind {
        // A deadline shuts the socket down, which looks as if the peer had.
        if self.slot.timed_out.get() { ErrorKind::Timeout } else { self.worker.handshake_failed(cause) }
    }

    fn close(&mut self) {
        self.stream = None;
        self.slot.socket.take();
    }

    async fn receive(&mut self, stream: &mut Stream) -> Result<Complete, ErrorKind> {
        let buffers = &self.worker.buffers;
        loop {
            stream.readable().await.map_err(|_| ErrorKind::Reset)?;
            // What can only be body is dropped in the kernel: a generator that copies megabytes measures itself.
            let opaque_bytes = self.reader.opaque_bytes();
            if opaque_bytes > 0 && stream.can_discard() {
                match stream.discard(buffers, opaque_bytes) {
                    Ok(0) => return self.at_close(0),
                    Ok(n) if self.reader.skip(n as u64) => return Ok(self.complete(0)),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(ErrorKind::WrongLength),
                }
                continue;
            }
            let mut fed = Fed::More;
            let reader = &mut self.reader;
            let received = stream.receive(buffers, RECEIVE_BYTES, |bytes| fed.feed(reader, bytes, |_| ()));
            if let Some(complete) = self.received(received, fed, || 0)? {
                return Ok(complete);
            }
        }
    }

    /// The same, looking at every byte.
    async fn receive_hashing(&mut self, stream: &mut Stream) -> Result<Complete, ErrorKind> {
        let buffers = &self.worker.buffers;
        let mut hasher = twox_hash::XxHash3_64::new();
        loop {
            stream.readable().await.map_err(|_| ErrorKind::Reset)?;
            let mut fed = Fed::More;
            let reader = &mut self.reader;
            let received = stream.receive(buffers, usize::MAX, |bytes| {
                fed.feed(reader, bytes, |body| hasher.write(body));
            });
            if let Some(complete) = self.received(received, fed, || hasher.finish())? {
                return Ok(complete);
            }
        }
    }

    /// What one receive has brought: a whole response, or None when more is to come.
    fn received(
        &self,
        received: Result<Received, Broken>,
        fed: Fed,
        digest: impl Fn() -> u64,
    ) -> Result<Option<Complete>, ErrorKind> {
        match (fed, received) {
            (Fed::Malformed, _) => Err(ErrorKind::Malformed),
            // Whatever happened to the connection then, the response is whole.
            (Fed::Whole, _) => Ok(Some(self.complete(digest()))),
            (Fed::More, Ok(Received::Some)) => Ok(None),
            (Fed::More, Ok(Received::End)) => self.at_close(digest()).map(Some),
            (Fed::More, Err(cause @ Broken::Tls(_))) => Err(self.tls_failed(&cause)),
            (Fed::More, Err(Broken::Io(_))) => Err(self.broken()),
        }
    }

    fn complete(&self, digest: u64) -> Complete {
        let (status, body_bytes) = (self.reader.head().status, self.reader.body_bytes());
        Complete { status, body_bytes, digest, grpc: None }
    }

    fn at_close(&self, digest: u64) -> Result<Complete, ErrorKind> {
        if self.reader.ends_at_close() { Ok(self.complete(digest)) } else { Err(self.broken()) }
    }

    /// What it means that the connection ends here.
    fn broken(&self) -> ErrorKind {
        if self.reader.is_in_body() { ErrorKind::WrongLength } else { ErrorKind::Reset }
    }
}

/// How far one receive has brought a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fed {
    More,
    Whole,
    Malformed,
}

impl Fed {
    /// Takes the next bytes of the same receive: under TLS it may bring several pieces.
    fn feed(&mut self, reader: &mut ResponseReader, bytes: &[u8], sink: impl FnMut(&[u8])) {
        *self = match *self {
            Self::More => match reader.feed(bytes, sink) {
                Ok(Progress::NeedMore) => Self::More,
                Ok(Progress::Complete { consumed }) if consumed == bytes.len() => Self::Whole,
                Ok(Progress::Complete { .. }) | Err(_) => Self::Malformed,
            },
            // More than was asked for.
            Self::Whole | Self::Malformed => Self::Malformed,
        };
    }
}

/// Whether the server has closed a connection at rest, or said what nobody asked for.
fn is_over(stream: &mut Stream, worker: &Worker) -> bool {
    let mut spoke = false;
    let received = stream.receive(&worker.buffers, 1, |_| spoke = true);
    spoke || !matches!(received, Ok(Received::Some))
}
