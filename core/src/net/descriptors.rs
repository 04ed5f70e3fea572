//! The process's file descriptors: how many it may have, how many this worker holds, and what it means that there is none.
//!
//! A client's connection takes one, a connection to an upstream one, a transfer that is being spliced two for its pipe.
//! Each worker has a part of what the process may have, in which its clients and its upstreams share; the rest is for
//! listeners, the admin interface, reloads and health checks. So whoever has been accepted finds a connection to an
//! upstream as well, and nobody takes the last descriptor.

use std::cell::Cell;
use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::base::reason::ReasonCode;

/// Raises the limit on open files to the highest that this process may have. Gives what it is from then on.
pub fn raise_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    // Without a limit of its own a process still has the kernel's (fs.nr_open, a million by default).
    limit.current.unwrap_or(1 << 20)
}

/// Descriptors that are open in this process; a guess if that can't be read.
pub fn open_now() -> u64 {
    const GUESS: u64 = 64;
    // One of them is the folder's own.
    std::fs::read_dir("/proc/self/fd").map_or(GUESS, |entries| entries.count().saturating_sub(1) as u64)
}

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
    static ALLOWED: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// From here on the calling worker may hold so many.
pub fn allow(count: u32) {
    ALLOWED.set(count);
}

/// How many it may hold.
pub fn allowed() -> u32 {
    ALLOWED.get()
}

/// How many sockets and ends of pipes it holds.
pub fn held() -> u32 {
    HELD.get()
}

/// As the kernel would say it, if the worker may not have so many more.
pub fn check_room(more: u32) -> io::Result<()> {
    if HELD.get().saturating_add(more) > ALLOWED.get() { Err(Errno::MFILE.into()) } else { Ok(()) }
}

/// Room for one more client: for its own connection, and for one to an upstream for each client there will be then; of
/// those that idle between two requests, for every second one.
pub fn has_room_for_client(clients: u64, idle: u64) -> bool {
    let clients_then = clients + 1;
    let others = u64::from(HELD.get()).saturating_sub(clients);
    clients_then + others.max(clients_then.saturating_sub(idle / 2)) <= u64::from(ALLOWED.get())
}

/// Part of whatever owns a descriptor on a worker: counts it for as long as it lives.
#[derive(Debug)]
pub(super) struct Held(());

impl Held {
    pub(super) fn new() -> Self {
        HELD.set(HELD.get() + 1);
        Self(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get().saturating_sub(1));
    }
}

/// What this machine is short of. Never the fault of whoever was to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// File descriptors, of this process (EMFILE) or of the machine (ENFILE).
    Descriptors,
    /// The kernel's memory for sockets (ENOBUFS, ENOMEM).
    Memory,
    /// Local ports to connect from (EADDRNOTAVAIL).
    Ports,
}

impl Shortage {
    /// What an error says of this machine; `None`: it says something of the peer or the way to it.
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => Some(Self::Descriptors),
            Errno::NOBUFS | Errno::NOMEM => Some(Self::Memory),
            Errno::ADDRNOTAVAIL => Some(Self::Ports),
            _ => None,
        }
    }

    /// The reason code.
    pub fn reason(self) -> ReasonCode {
        match self {
            Self::Descriptors => ReasonCode::OutOfDescriptors,
            Self::Memory => ReasonCode::OutOfSocketMemory,
            Self::Ports => ReasonCode::OutOfLocalPorts,
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => {
                "no file descriptor is left: raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower `connections_max`"
            }
            Self::Memory => "the kernel has no memory for another socket (net.ipv4.tcp_mem)",
            Self::Ports => "no local port is left to connect from (net.ipv4.ip_local_port_range)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Held, Shortage, allow, check_room, has_room_for_client, held};
    use crate::base::reason::ReasonCode;
    use std::io;

    /// One thread for each test: the counts are its own.
    #[test]
    fn clients_leave_room_for_as_many_upstream_connections() {
        allow(10);
        assert!(has_room_for_client(0, 0) && check_room(10).is_ok() && check_room(11).is_err());
        let clients: Vec<_> = (0..4).map(|_| Held::new()).collect();
        assert!(has_room_for_client(4, 0), "a fifth makes ten with its upstream connections");
        let upstreams: Vec<_> = (0..4).map(|_| Held::new()).collect();
        assert!(has_room_for_client(4, 0), "those that there are are counted once");
        let fifth = Held::new();
        assert!(!has_room_for_client(5, 0));
        assert!(check_room(1).is_ok(), "the fifth has room for its own");
        let own = Held::new();
        assert_eq!(Shortage::of(&check_room(1).unwrap_err()), Some(Shortage::Descriptors));
        drop((clients, upstreams, fifth, own));
        assert_eq!(held(), 0);
        allow(u32::MAX);
    }

    #[test]
    fn pipes_and_shared_sessions_count_on_the_other_side() {
        allow(20);
        let _client = Held::new();
        let _others: Vec<_> = (0..17).map(|_| Held::new()).collect();
        assert!(has_room_for_client(1, 0), "2 and 17");
        let _one_more = Held::new();
        assert!(has_room_for_client(1, 0), "2 and 18");
        let _another = Held::new();
        assert!(!has_room_for_client(1, 0));
        allow(u32::MAX);
    }

    #[test]
    fn clients_between_two_requests_need_less() {
        allow(15);
        let _clients: Vec<_> = (0..9).map(|_| Held::new()).collect();
        assert!(!has_room_for_client(9, 8), "10 and 6");
        assert!(has_room_for_client(9, 10), "10 and 5");
        allow(u32::MAX);
    }

    #[test]
    fn what_an_error_says_of_this_machine() {
        for (errno, expected) in [
            (24, Some(ReasonCode::OutOfDescriptors)),
            (23, Some(ReasonCode::OutOfDescriptors)),
            (105, Some(ReasonCode::OutOfSocketMemory)),
            (12, Some(ReasonCode::OutOfSocketMemory)),
            (99, Some(ReasonCode::OutOfLocalPorts)),
            (111, None),
            (110, None),
            (101, None),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Shortage::of(&error).map(Shortage::reason), expected, "{error}");
        }
        assert_eq!(Shortage::of(&io::ErrorKind::ConnectionRefused.into()), None);
    }
}
