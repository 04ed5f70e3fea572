//! Listening sockets: bound once by the starting thread, accepted from by each worker.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, listen,
    socket_with, sockopt,
};

use super::liveness::Liveness;
use super::watched::Watched;
use crate::base::limits::LISTEN_BACKLOG;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BindAddress {
    /// TCP; port 0 lets the kernel choose one, the same for all workers.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl std::fmt::Display for BindAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Binds one socket for each of `workers` workers. Returns them with the address really bound.
///
/// TCP: `SO_REUSEPORT`, so that the kernel spreads connections. Because that would also let a second process of the same
/// user share the port unnoticed, the port is first bound without it. Unix: one socket, shared.
pub fn bind_all(
    address: &BindAddress,
    workers: usize,
    liveness: Liveness,
) -> io::Result<(Vec<OwnedFd>, BindAddress)> {
    match address {
        BindAddress::Tcp(address) => {
            probe(*address)?;
            let first = bind_tcp(*address)?;
            let bound = SocketAddr::try_from(getsockname(&first)?)
                .map_err(|_| io::Error::other("the kernel gave a TCP socket an address of another kind"))?;
            let mut sockets = vec![first];
            for _ in 1..workers {
                sockets.push(bind_tcp(bound)?);
            }
            set_liveness(&sockets, liveness)?;
            Ok((sockets, BindAddress::Tcp(bound)))
        }
        BindAddress::Unix(path) => {
            let socket = bind_unix(path, None)?;
            let mut sockets = Vec::with_capacity(workers);
            for _ in 1..workers {
                sockets.push(socket.try_clone()?);
            }
            sockets.push(socket);
            Ok((sockets, BindAddress::Unix(path.clone())))
        }
    }
}

/// Binds a Unix socket; with `mode` as its permissions before anybody can connect.
pub fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<OwnedFd> {
    remove_stale(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Some(mode) = mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    listen(&socket, LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Sets these options on sockets of [`bind_all`]: connections that are accepted from now on have them.
pub fn set_liveness(sockets: &[OwnedFd], liveness: Liveness) -> io::Result<()> {
    sockets.iter().try_for_each(|socket| liveness.set(socket))
}

/// Fails if anybody listens there already, also with `SO_REUSEPORT`.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = socket_with(family(&address), SocketType::STREAM, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    Ok(())
}

fn bind_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket_with(family(&address), SocketType::STREAM, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // Accepted sockets inherit it: one call at start instead of one a connection.
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, LISTEN_BACKLOG)?;
    Ok(socket)
}

/// A socket file that nobody answers at is left over from a process that died: it is removed. Anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is in the way",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// Somebody on this machine.
    Local,
}

impl Peer {
    /// The client's address, if it has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Local => None,
        }
    }
}

/// One worker's end of a listening socket.
pub struct Listener(Watched);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.0.as_fd()).finish()
    }
}

impl Listener {
    /// Watches a socket from [`bind_all`] on the calling worker's runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Watched::new(socket).map(Self)
    }

    /// Waits for connections.
    pub async fn ready(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Takes one connection if there is one; `WouldBlock` if not.
    pub fn try_accept(&self) -> io::Result<(OwnedFd, Peer)> {
        loop {
            match rustix::net::acceptfrom_with(&self.0, FLAGS) {
                Ok((socket, address)) => return Ok((socket, peer(address))),
                // The client gave up while it was queued, or a signal came: look at the next one.
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn peer(address: Option<SocketAddrAny>) -> Peer {
    address.and_then(|any| SocketAddr::try_from(any).ok()).map_or(Peer::Local, Peer::Tcp)
}

#[cfg(test)]
mod tests {
    use super::{BindAddress, Liveness, bind_all};
    use std::net::SocketAddr;

    #[test]
    fn a_second_bind_is_refused_although_ports_are_shared_between_workers() {
        let any = BindAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (sockets, bound) = bind_all(&any, 3, Liveness::default()).unwrap();
        assert_eq!(sockets.len(), 3);
        assert_eq!(
            bind_all(&bound, 1, Liveness::default()).unwrap_err().kind(),
            std::io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_or_foreign_file_is_not() {
        let folder = std::env::temp_dir().join(format!("ringway-listener-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let address = BindAddress::Unix(path.clone());
        let (sockets, _) = bind_all(&address, 2, Liveness::default()).unwrap();
        assert_eq!(
            bind_all(&address, 1, Liveness::default()).unwrap_err().kind(),
            std::io::ErrorKind::AddrInUse
        );
        drop(sockets);
        assert!(bind_all(&address, 1, Liveness::default()).is_ok(), "nobody answers there any more");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(bind_all(&address, 1, Liveness::default()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
