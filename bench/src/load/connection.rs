//! One connection slot of the generator: takes a request, sends it, reads and checks its response, again.

use std::{hash::Hasher, io, rc::Rc};

use super::{
    Digest,
    stats::ErrorKind,
    target::Encoded,
    worker::{RECEIVE_BYTES, Slot, Worker},
};
use crate::{
    http1::{BodyExpected, Head, Progress, ResponseReader},
    net::{self, Socket},
};

/// A connection unused for so long is looked at before it is used: its server may have closed it, as it may.
const IDLE_NS_UNCHECKED_MAX: u64 = 1_000_000_000;

pub(super) async fn drive(worker: Rc<Worker>, slot: Rc<Slot>) {
    let reader = ResponseReader::new(BodyExpected::AsFramed);
    let mut connection =
        Connection { worker: &worker, slot: &slot, socket: None, reader, served: 0, last_used_ns: 0 };
    while let Some(due_ns) = worker.next_request(&slot).await {
        connection.exchange(due_ns).await;
    }
    drop(connection.socket.take());
    slot.socket.take();
    worker.leave();
}

struct Connection<'a> {
    worker: &'a Worker,
    slot: &'a Slot,
    socket: Option<Rc<Socket>>,
    reader: ResponseReader,
    /// Requests sent over `socket`.
    served: u64,
    last_used_ns: u64,
}

/// A response that came to its end.
struct Complete {
    head: Head,
    body_bytes: u64,
    digest: u64,
}

impl Connection<'_> {
    async fn exchange(&mut self, due_ns: u64) {
        let (worker, slot) = (self.worker, self.slot);
        let target = worker.next_target(slot.lane);
        let sent_ns = slot.now_ns.get();
        slot.deadline_ns.set(sent_ns + worker.timeout_ns);
        let outcome = self.attempt(target, due_ns, sent_ns).await;
        slot.deadline_ns.set(0);
        let now = worker.now_ns();
        slot.now_ns.set(now);
        self.last_used_ns = now;
        worker.note_event(now);

        let timed_out = slot.timed_out.take();
        let result = match outcome {
            Ok(complete) => {
                let class = usize::from(complete.head.status / 100);
                let class = if class < 6 { class } else { 0 };
                let verdict = self.check(target, &complete);
                worker.record(due_ns, |interval| {
                    interval.counts.statuses[class] += 1;
                    interval.counts.body_bytes += complete.body_bytes;
                    interval.counts.requests += u64::from(verdict.is_ok());
                });
                // A deadline that fell on the last byte has shut the socket down all the same.
                if !complete.head.keep_alive || timed_out {
                    self.close();
                }
                verdict
            }
            Err(kind) => {
                self.close();
                Err(if timed_out { ErrorKind::Timeout } else { kind })
            }
        };
        // Latency is what a user would have waited: for any whole response, or until giving up.
        let waited = !matches!(result, Err(ErrorKind::Connect | ErrorKind::Reset | ErrorKind::Malformed));
        if waited {
            worker.record(due_ns, |interval| {
                interval.latency.saturating_record(now.saturating_sub(due_ns));
                if let Some(service) = &mut interval.service {
                    service.saturating_record(now.saturating_sub(sent_ns));
                }
            });
        }
        if let Err(kind) = result {
            worker.record_error(due_ns, kind);
            if kind == ErrorKind::Connect {
                worker.back_off().await;
                slot.now_ns.set(worker.now_ns());
            }
        }
    }

    /// Sends the request and reads its response to the end.
    async fn attempt(&mut self, target: &Encoded, due_ns: u64, sent_ns: u64) -> Result<Complete, ErrorKind> {
        let socket = self.open(due_ns, sent_ns)?;
        let last_of_connection = self.worker.plan.config.requests_per_connection == Some(self.served + 1);
        let wire = if last_of_connection { &target.wire_close } else { &target.wire };
        let is_new = self.served == 0;
        self.served += 1;
        let failed = if is_new { ErrorKind::Connect } else { ErrorKind::Reset };
        let sent_all = match send(&socket, wire).await {
            Ok(()) => true,
            // The server may have answered before it had read everything: what it said is still there.
            Err((sent, _)) if sent > 0 => false,
            Err(_) => return Err(failed),
        };
        self.reader.start(target.body_expected);
        let complete = match self.worker.plan.config.check.digest {
            Digest::Unchecked => self.receive(&socket).await?,
            _ => self.receive_hashing(&socket).await?,
        };
        if last_of_connection || !sent_all {
            self.close();
        }
        Ok(complete)
    }

    /// The connection to use; a new one may still be on its way.
    fn open(&mut self, due_ns: u64, now_ns: u64) -> Result<Rc<Socket>, ErrorKind> {
        let idle_ns = now_ns.saturating_sub(self.last_used_ns);
        if idle_ns > IDLE_NS_UNCHECKED_MAX && self.socket.as_deref().is_some_and(is_over) {
            self.close();
        }
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let address = &self.worker.plan.lanes[self.slot.lane].address;
        let socket = net::connect(address).and_then(Socket::adopt).map_err(|_| ErrorKind::Connect)?;
        let socket = Rc::new(socket);
        *self.slot.socket.borrow_mut() = Some(socket.clone());
        self.socket = Some(socket.clone());
        self.served = 0;
        self.worker.record(due_ns, |interval| interval.counts.connections += 1);
        Ok(socket)
    }

    fn close(&mut self) {
        self.socket = None;
        self.slot.socket.take();
    }

    async fn receive(&mut self, socket: &Socket) -> Result<Complete, ErrorKind> {
        loop {
            socket.readable().await.map_err(|_| ErrorKind::Reset)?;
            let scratch = &mut *self.worker.scratch.borrow_mut();
            // What can only be body is dropped in the kernel: a generator that copies megabytes measures itself.
            let opaque_bytes = self.reader.opaque_bytes();
            if opaque_bytes > 0 {
                let room = scratch.len().min(usize::try_from(opaque_bytes).unwrap_or(usize::MAX));
                match socket.discard(&mut scratch[..room]) {
                    Ok(0) => return self.at_close(),
                    Ok(n) if self.reader.skip(n as u64) => return Ok(self.complete(0)),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(ErrorKind::WrongLength),
                }
                continue;
            }
            match socket.recv(&mut scratch[..RECEIVE_BYTES]) {
                Ok(0) => return self.at_close(),
                Ok(n) => match self.reader.feed(&scratch[..n], |_| ()) {
                    Ok(Progress::Complete { consumed }) if consumed == n => return Ok(self.complete(0)),
                    Ok(Progress::NeedMore) => {}
                    Ok(Progress::Complete { .. }) | Err(_) => return Err(ErrorKind::Malformed),
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(self.broken()),
            }
        }
    }

    /// The same, looking at every byte.
    async fn receive_hashing(&mut self, socket: &Socket) -> Result<Complete, ErrorKind> {
        let mut hasher = twox_hash::XxHash3_64::new();
        loop {
            socket.readable().await.map_err(|_| ErrorKind::Reset)?;
            let scratch = &mut *self.worker.scratch.borrow_mut();
            match socket.recv(scratch) {
                Ok(0) => return self.at_close().map(|c| Complete { digest: hasher.finish(), ..c }),
                Ok(n) => match self.reader.feed(&scratch[..n], |bytes| hasher.write(bytes)) {
                    Ok(Progress::Complete { consumed }) if consumed == n => {
                        return Ok(self.complete(hasher.finish()));
                    }
                    Ok(Progress::NeedMore) => {}
                    Ok(Progress::Complete { .. }) | Err(_) => return Err(ErrorKind::Malformed),
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(self.broken()),
            }
        }
    }

    fn complete(&self, digest: u64) -> Complete {
        Complete { head: self.reader.head(), body_bytes: self.reader.body_bytes(), digest }
    }

    fn at_close(&self) -> Result<Complete, ErrorKind> {
        if self.reader.ends_at_close() { Ok(self.complete(0)) } else { Err(self.broken()) }
    }

    /// What it means that the connection ends here.
    fn broken(&self) -> ErrorKind {
        if self.reader.is_in_body() { ErrorKind::WrongLength } else { ErrorKind::Reset }
    }

    fn check(&self, target: &Encoded, complete: &Complete) -> Result<(), ErrorKind> {
        let check = &self.worker.plan.config.check;
        let status = complete.head.status;
        if check.status.map_or(status >= 400, |asked| asked != status) {
            return Err(ErrorKind::Status);
        }
        if check.body_bytes.is_some_and(|asked| asked != complete.body_bytes) {
            return Err(ErrorKind::WrongLength);
        }
        let verify = check.digest != Digest::Unchecked;
        if verify && *target.digest.get_or_init(|| complete.digest) != complete.digest {
            return Err(ErrorKind::WrongDigest);
        }
        Ok(())
    }
}

/// The bytes sent before it failed stand beside the error.
async fn send(socket: &Socket, wire: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut sent = 0;
    while sent < wire.len() {
        match socket.send(&wire[sent..]) {
            Ok(n) => sent += n,
            // Also a connection that is still being made.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                socket.writable().await.map_err(|e| (sent, e))?;
            }
            Err(e) => return Err((sent, e)),
        }
    }
    Ok(())
}

fn is_over(socket: &Socket) -> bool {
    !matches!(socket.recv(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}
