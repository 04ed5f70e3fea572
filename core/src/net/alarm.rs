//! One timer for a whole worker: a timerfd that the runtime watches.
//!
//! The runtime's own timers give every wait of the ring a time-out, which the kernel arms and cancels each time: 0.4 µs
//! a turn of the loop on the first exchange measured (docs/performance.md). This one is armed only when the earliest
//! deadline moves forward, which nearly never happens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::watched::Watched;

/// Goes off once at a time set.
pub struct Alarm(Watched);

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alarm").finish_non_exhaustive()
    }
}

impl Alarm {
    /// An alarm that is not set, on the calling worker's runtime.
    pub fn new() -> io::Result<Self> {
        let fd: OwnedFd =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Watched::new(fd).map(Self)
    }

    /// Sets it to go off in `in_ms` milliseconds (at least one), instead of whenever it was set to.
    pub fn set(&self, in_ms: u64) {
        let in_ms = in_ms.max(1);
        let time = Timespec {
            tv_sec: i64::try_from(in_ms / 1_000).unwrap_or(i64::MAX),
            tv_nsec: (in_ms % 1_000 * 1_000_000) as i64,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
        // Fails only for a time out of range or a descriptor that is no timer.
        let _ = timerfd_settime(self.0.as_fd(), TimerfdTimerFlags::empty(), &once);
    }

    /// Waits until it goes off; at once if it has since the last call.
    pub async fn rang(&self) -> io::Result<()> {
        self.0.readable().await?;
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(self.0.as_fd(), &mut count);
        Ok(())
    }
}
