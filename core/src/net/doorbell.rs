//! Wakes a worker from another thread: an eventfd that the worker's runtime watches.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::watched::Watched;

/// The ringing end; cheap to clone and to ring: a bell already ringing costs one atomic swap.
#[derive(Debug, Clone)]
pub struct Bell(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    ringing: AtomicBool,
}

impl Bell {
    /// A silent bell.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { fd, ringing: AtomicBool::new(false) })))
    }

    /// Wakes the listener, now or as soon as it waits.
    pub fn ring(&self) {
        if !self.0.ringing.swap(true, Ordering::AcqRel) {
            // The counter can't overflow: the listener resets it before the flag lets the next write through.
            let _ = rustix::io::write(&self.0.fd, &1_u64.to_ne_bytes());
        }
    }

    /// The hearing end, for one worker's runtime.
    pub fn listen(&self) -> io::Result<Doorbell> {
        Ok(Doorbell { watched: Watched::new(self.0.fd.try_clone()?)?, shared: Arc::clone(&self.0) })
    }
}

/// The hearing end of a [`Bell`].
pub struct Doorbell {
    watched: Watched,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doorbell").finish_non_exhaustive()
    }
}

impl Doorbell {
    /// Waits for the bell. What was sent before it rang is visible afterwards.
    pub async fn heard(&self) -> io::Result<()> {
        self.watched.readable().await?;
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.shared.fd, &mut count);
        // A swap, not a store: it reads the flag of a ringer that found it set, and so sees what that one sent.
        self.shared.ringing.swap(false, Ordering::AcqRel);
        Ok(())
    }
}
