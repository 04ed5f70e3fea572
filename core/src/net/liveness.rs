//! How the kernel finds out that the peer of a TCP connection has gone without a word: its machine is off, or what lies
//! between drops everything. Without it a connection that waits to be written to, or just waits, does so for a quarter of
//! an hour, or for ever.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Options of a socket. Connections inherit those of the listening socket that they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Liveness {
    /// After so long without a byte the peer is probed (RFC 9293 section 3.8.4); `None`: never. Whole seconds.
    pub keepalive: Option<Duration>,
    /// For how long what was sent, and probes, may stay without an acknowledgement, or the peer's window shut (RFC 5482);
    /// `None`: as the system has it.
    pub user_timeout: Option<Duration>,
}

/// Between two probes. When they end, the user time-out says; or, without one, the system's number of probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

impl Liveness {
    /// Sets them on a TCP socket, all of them: they replace what was set before.
    pub fn set(self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        sockopt::set_socket_keepalive(socket, self.keepalive.is_some())?;
        if let Some(idle) = self.keepalive {
            sockopt::set_tcp_keepidle(socket, idle)?;
            sockopt::set_tcp_keepintvl(socket, PROBE_INTERVAL.min(idle))?;
        }
        let timeout_ms = self.user_timeout.map_or(0, |timeout| timeout.as_millis());
        sockopt::set_tcp_user_timeout(socket, u32::try_from(timeout_ms).unwrap_or(u32::MAX))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Liveness;
    use rustix::net::sockopt;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn a_connection_inherits_what_its_listener_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accept = || {
            let _client = TcpStream::connect(address).unwrap();
            listener.accept().unwrap().0
        };
        let seconds = |s| Some(Duration::from_secs(s));
        Liveness { keepalive: seconds(7), user_timeout: seconds(9) }.set(&listener).unwrap();
        let socket = accept();
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), Duration::from_secs(7));
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), Duration::from_secs(7));
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 9_000);
        Liveness::default().set(&listener).unwrap();
        let socket = accept();
        assert!(!sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 0);
    }
}
