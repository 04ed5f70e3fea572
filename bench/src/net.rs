//! Sockets for the load generator and the origin: readiness from monoio, then direct non-blocking calls.
//!
//! Measured on Linux 6.18 (64 keep-alive connections, 1 KiB): a poll on the ring followed by `recv` and `send`
//! costs a client less than completion-based reads and writes, and an idle connection holds no buffer.
//! This file and no other of this package contains unsafe code.

#![allow(unsafe_code)]

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use monoio::net::TcpStream;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};
use socket2::{Domain, Protocol, SockAddr, Type};

/// Pending connections that the kernel may hold for a listener; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 16_384;

/// A place to connect to or to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// `host:port`, or `unix:/path`. Names are resolved here, blocking, once.
    pub fn resolve(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        Ok(Self::Tcp(text.to_socket_addrs()?.next().ok_or_else(none)?))
    }

    fn sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Tcp(addr) => Ok(SockAddr::from(*addr)),
            Self::Unix(path) => SockAddr::unix(path),
        }
    }

    fn socket(&self) -> io::Result<socket2::Socket> {
        let (domain, protocol) = match self {
            Self::Tcp(SocketAddr::V4(_)) => (Domain::IPV4, Some(Protocol::TCP)),
            Self::Tcp(SocketAddr::V6(_)) => (Domain::IPV6, Some(Protocol::TCP)),
            Self::Unix(_) => (Domain::UNIX, None),
        };
        let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), protocol)?;
        if protocol.is_some() {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Opens a non-blocking listener. A Unix socket that a dead process left behind is replaced.
pub fn listen(address: &Address) -> io::Result<(OwnedFd, Address)> {
    if let Address::Unix(path) = address {
        remove_stale_socket(path)?;
    }
    let socket = address.socket()?;
    if matches!(address, Address::Tcp(_)) {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.sock_addr()?)?;
    socket.listen(BACKLOG)?;
    let bound = match address {
        Address::Tcp(_) => {
            let local = socket.local_addr()?.as_socket();
            Address::Tcp(local.ok_or_else(|| io::Error::other("the listener has no address"))?)
        }
        Address::Unix(path) => Address::Unix(path.clone()),
    };
    Ok((socket.into(), bound))
}

fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(meta)
            if meta.file_type().is_socket() && std::os::unix::net::UnixStream::connect(path).is_err() =>
        {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// Takes one waiting connection from a non-blocking listener.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, accept_with, sockopt};
    let socket = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    // On a Unix socket the option does not exist, and is not needed.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    Ok(socket)
}

/// Starts a connection without waiting for it. Over loopback it is often established on return.
pub fn connect(address: &Address) -> io::Result<OwnedFd> {
    let socket = address.socket()?;
    match socket.connect(&address.sock_addr()?) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}

/// Connects once, blocking, to see that somebody is there.
pub fn probe(address: &Address, timeout: Duration) -> io::Result<std::net::TcpStream> {
    let socket = address.socket()?;
    socket.set_nonblocking(false)?;
    socket.connect_timeout(&address.sock_addr()?, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(OwnedFd::from(socket).into())
}

/// A descriptor whose readiness this thread's monoio runtime watches. All I/O on it is direct and non-blocking.
pub struct Socket {
    // monoio gives readiness for TcpStream and UnixStream alike through the descriptor alone; one type serves
    // TCP, Unix sockets and timers.
    inner: TcpStream,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.inner.as_raw_fd())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // WHY: monoio's streams have no AsFd, and a duplicate of each descriptor would halve the connections that
        // fit under the descriptor limit.
        // SAFETY: `inner` owns the descriptor and closes it only when dropped, and the borrow can't outlive
        // `self`; `as_raw_fd` of an open stream is never -1.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

impl Socket {
    /// Must be called on a thread inside its runtime.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { inner: TcpStream::from_std(fd.into())? })
    }

    pub async fn readable(&self) -> io::Result<()> {
        self.inner.readable(false).await
    }

    pub async fn writable(&self) -> io::Result<()> {
        self.inner.writable(false).await
    }

    /// Awaits the end of [`connect`], and what became of it.
    pub async fn connected(&self) -> io::Result<()> {
        self.writable().await?;
        rustix::net::sockopt::socket_error(self)?.map_err(io::Error::from)
    }

    /// Zero is the end of the stream; `WouldBlock` says to await [`Socket::readable`].
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| rustix::net::recv(self, &mut *buffer, RecvFlags::DONTWAIT).map(|(_, n)| n))
    }

    /// Throws away up to `scratch.len()` received bytes. TCP does not even copy them; a Unix socket does.
    pub fn discard(&self, scratch: &mut [u8]) -> io::Result<usize> {
        retry(|| {
            rustix::net::recv(self, &mut *scratch, RecvFlags::DONTWAIT | RecvFlags::TRUNC).map(|(_, n)| n)
        })
    }

    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        retry(|| rustix::net::send(self, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
    }

    pub fn send_vectored(&self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        retry(|| rustix::net::sendmsg(self, parts, &mut SendAncillaryBuffer::default(), flags))
    }

    /// Sends all of `data`, waiting while the peer is slow.
    pub async fn send_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match self.send(data) {
                Ok(n) => data = &data[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            match accept(self) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                result => return result,
            }
        }
    }

    /// Ends both directions; whoever awaits this socket wakes up.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(self, Shutdown::Both);
    }

    pub fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(self, Shutdown::Write);
    }

    /// Makes the coming close a TCP reset.
    pub fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// A timer of the kernel's resolution. monoio's own wheel counts whole milliseconds, too coarse to keep an
/// arrival rate.
#[derive(Debug)]
pub struct Timer(Socket);

impl Timer {
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(Socket::adopt(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    /// Sets the only expiry there is, in place of one set before, also while somebody awaits it.
    pub fn arm(&self, after: Duration) -> io::Result<()> {
        // Zero would disarm the timer. Setting it also clears an expiry that was not read.
        let nanos = i64::try_from(after.as_nanos().max(1)).unwrap_or(i64::MAX);
        let value = Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Completes once the expiry last armed has passed.
    pub async fn expired(&self) -> io::Result<()> {
        self.0.readable().await
    }
}

/// Makes sure that `needed` descriptors may be open, raising the soft limit when the hard one allows it.
/// Otherwise returns the limit in force.
pub fn ensure_descriptors(needed: u64) -> Result<(), u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= needed {
        return Ok(());
    }
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(needed.min(maximum)), maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() && maximum >= needed {
        return Ok(());
    }
    Err(maximum.min(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)))
}

/// Pins the calling thread, and what it will start, to `cores`. An empty list changes nothing.
pub fn pin_thread(cores: &[usize]) -> io::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = rustix::thread::CpuSet::new();
    for &core in cores.iter().filter(|&&core| core < rustix::thread::CpuSet::MAX_CPU) {
        set.set(core);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
