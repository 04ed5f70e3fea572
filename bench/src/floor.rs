//! The floor of every comparison: an epoll forwarder that parses nothing, the price of the kernel's TCP alone.
//!
//! One upstream connection for each downstream one. Level-triggered readiness, one receive and one send per
//! event, no timers, no memory per connection unless the receiver is slower than the sender. It never gives up a
//! connection by itself and has no limits but the descriptor limit: it measures, it does not serve.

use std::{io, os::fd::OwnedFd, thread};

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};

use crate::net::{self, Address};

/// What one receive may bring. Also the most that waits for a slow receiver: reading stops meanwhile.
const BUFFER_BYTES: usize = 64 * 1024;
const EVENTS_MAX: usize = 256;

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Address,
    pub upstream: Address,
    pub workers: usize,
}

/// Binds and starts; the threads run until the process ends. Returns the bound address.
pub fn start(config: &Config) -> io::Result<Address> {
    let (listener, bound) = net::listen(&config.listen)?;
    for _ in 0..config.workers.max(1) {
        let mut forwarder = Forwarder::new(listener.try_clone()?, config.upstream.clone())?;
        thread::Builder::new().name("floor".into()).spawn(move || {
            let error = forwarder.run();
            eprintln!("ringway-bench floor: {error}");
        })?;
    }
    Ok(bound)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Downstream = 0,
    Upstream = 1,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

#[derive(Debug)]
struct End {
    socket: OwnedFd,
    /// Received from the other end, not yet accepted by this one.
    unsent: Vec<u8>,
    /// This end has sent its last byte.
    finished: bool,
    /// The other end's last byte has been passed on to this one.
    told: bool,
    /// What epoll watches now; empty means that the socket is not in the set, so that a half-dead connection
    /// can't wake us for nothing.
    watched: EventFlags,
}

#[derive(Debug)]
struct Forwarder {
    epoll: OwnedFd,
    listener: OwnedFd,
    upstream: Address,
    pairs: Vec<Option<[End; 2]>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

const LISTENER: u64 = u64::MAX;

impl Forwarder {
    fn new(listener: OwnedFd, upstream: Address) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { epoll, listener, upstream, pairs: Vec::new(), free: Vec::new(), buffer })
    }

    /// Returns only when epoll itself fails.
    fn run(&mut self) -> io::Error {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut closed = Vec::new();
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return e.into(),
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == LISTENER {
                    self.accept();
                    continue;
                }
                let index = (token >> 1) as usize;
                let side = if token & 1 == 0 { Side::Downstream } else { Side::Upstream };
                if self.pairs[index].is_some() && self.handle(index, side, event.flags).is_err() {
                    // The slot is reused only after this batch: it may hold another event of the old pair.
                    self.pairs[index] = None;
                    closed.push(index);
                }
            }
            self.free.append(&mut closed);
        }
    }

    fn accept(&mut self) {
        // A refused accept or connect costs the client its connection; it will see that.
        while let Ok(downstream) = net::accept(&self.listener) {
            let Ok(upstream) = net::connect(&self.upstream) else { continue };
            let end = |socket| End {
                socket,
                unsent: Vec::new(),
                finished: false,
                told: false,
                watched: EventFlags::empty(),
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.pairs.push(None);
                self.pairs.len() - 1
            });
            self.pairs[index] = Some([end(downstream), end(upstream)]);
            if self.watch(index).is_err() {
                self.pairs[index] = None;
                self.free.push(index);
            }
        }
    }

    /// An error means that the pair is done with, in good order or not.
    fn handle(&mut self, index: usize, side: Side, flags: EventFlags) -> io::Result<()> {
        let Some(pair) = self.pairs[index].as_mut() else { return Ok(()) };
        let [downstream, upstream] = pair;
        let (near, far) = match side {
            Side::Downstream => (downstream, upstream),
            Side::Upstream => (upstream, downstream),
        };
        let mut changed = false;
        if !near.unsent.is_empty() && flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
            let sent = send(&near.socket, &near.unsent)?;
            near.unsent.drain(..sent);
            changed = near.unsent.is_empty();
            if changed {
                near.unsent = Vec::new();
            }
        }
        let readable = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        if readable && !near.finished && far.unsent.is_empty() {
            match rustix::net::recv(&near.socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    near.finished = true;
                    changed = true;
                }
                Ok((_, n)) => {
                    let sent = send(&far.socket, &self.buffer[..n])?;
                    if sent < n {
                        far.unsent.extend_from_slice(&self.buffer[sent..n]);
                        changed = true;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if changed { self.watch(index) } else { Ok(()) }
    }

    /// Passes on ends of streams and brings what epoll watches in line with what can be done.
    fn watch(&mut self, index: usize) -> io::Result<()> {
        let Some(pair) = self.pairs[index].as_mut() else { return Ok(()) };
        for side in [Side::Downstream, Side::Upstream] {
            let source_finished = pair[side.other() as usize].finished;
            let end = &mut pair[side as usize];
            if source_finished && end.unsent.is_empty() && !end.told {
                end.told = true;
                rustix::net::shutdown(&end.socket, Shutdown::Write)?;
            }
        }
        if pair.iter().all(|end| end.told) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for side in [Side::Downstream, Side::Upstream] {
            let far_is_clear = pair[side.other() as usize].unsent.is_empty();
            let end = &mut pair[side as usize];
            let mut wanted = EventFlags::empty();
            wanted.set(EventFlags::IN, !end.finished && far_is_clear);
            wanted.set(EventFlags::OUT, !end.unsent.is_empty());
            let data = EventData::new_u64((index as u64) << 1 | side as u64);
            match (end.watched.is_empty(), wanted.is_empty()) {
                (true, true) => {}
                (true, false) => epoll::add(&self.epoll, &end.socket, data, wanted)?,
                (false, true) => epoll::delete(&self.epoll, &end.socket)?,
                (false, false) if end.watched == wanted => {}
                (false, false) => epoll::modify(&self.epoll, &end.socket, data, wanted)?,
            }
            end.watched = wanted;
        }
        Ok(())
    }
}

/// Sends what the kernel takes now; nothing while the connection is still being made.
fn send(socket: &OwnedFd, data: &[u8]) -> io::Result<usize> {
    match rustix::net::send(socket, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(n) => Ok(n),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
        thread,
        time::Duration,
    };

    use super::{Config, start};
    use crate::net::Address;

    /// A floor in front of a listener of the test's own.
    fn floor() -> (TcpListener, TcpStream) {
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Address::Tcp(origin.local_addr().unwrap());
        let listen = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let Address::Tcp(at) = start(&Config { listen, upstream, workers: 1 }).unwrap() else {
            unreachable!()
        };
        let client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (origin, client)
    }

    #[test]
    fn a_slow_reader_gets_every_byte_in_order() {
        // 32 MiB do not fit into the kernel's buffers, so sends are cut and reading is suspended on the way.
        const BYTES: usize = 32 << 20;
        let (origin, mut client) = floor();
        let sent: Vec<u8> = (0..BYTES).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let server = thread::spawn(move || {
            let (mut socket, _) = origin.accept().unwrap();
            let mut request = [0; 4];
            socket.read_exact(&mut request).unwrap();
            socket.write_all(&sent).unwrap();
        });
        client.write_all(b"send").unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(received == expected, "received {} bytes of {BYTES}, or others", received.len());
        server.join().unwrap();
    }

    #[test]
    fn each_direction_ends_by_itself() {
        let (origin, mut client) = floor();
        let server = thread::spawn(move || {
            let (mut socket, _) = origin.accept().unwrap();
            let mut request = Vec::new();
            socket.read_to_end(&mut request).unwrap();
            socket.write_all(&request).unwrap();
        });
        client.write_all(b"first the question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "first the question");
        server.join().unwrap();
    }

    #[test]
    fn a_dead_upstream_closes_the_downstream() {
        let (origin, mut client) = floor();
        drop(origin);
        let mut nothing = Vec::new();
        // The kernel may have completed the handshake before the listener went: either way the end comes.
        let end = client.read_to_end(&mut nothing);
        assert!(matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
}
