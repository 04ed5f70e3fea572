//! One monoio runtime per thread, on the cheapest ring that the kernel gives.
//!
//! Measured (64 keep-alive connections, 1 KiB, Linux 6.18): `SINGLE_ISSUER` with `DEFER_TASKRUN` takes a quarter off
//! the cost of the default ring. Older kernels refuse the flags at set-up, so they are tried from the best down,
//! and without `io_uring` the epoll driver does the same work.

use std::{future::Future, io};

use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};

/// Which kernel interface carries readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Io {
    /// `io_uring` where the kernel has it, else epoll.
    #[default]
    Auto,
    Uring,
    Epoll,
}

/// Runs what `make` returns on this thread, without monoio's timers: the caller brings its own.
pub fn block_on<F: Future>(io: Io, make: impl FnOnce() -> F) -> io::Result<F::Output> {
    match uring(io)? {
        Some(mut ring) => Ok(ring.block_on(async { make().await })),
        None => Ok(RuntimeBuilder::<LegacyDriver>::new().build()?.block_on(async { make().await })),
    }
}

/// The same with monoio's millisecond timers.
pub fn block_on_with_timers<F: Future>(io: Io, make: impl FnOnce() -> F) -> io::Result<F::Output> {
    for flags in flags_to_try(io) {
        let built: io::Result<Runtime<TimeDriver<IoUringDriver>>> = RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(ENTRIES)
            .uring_builder(flags)
            .enable_timer()
            .build();
        if let Ok(mut ring) = built {
            return Ok(ring.block_on(async { make().await }));
        }
    }
    refuse_if_uring_only(io)?;
    let mut epoll = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    Ok(epoll.block_on(async { make().await }))
}

/// Submissions that fit before the ring is flushed: more than connections that are usually ready at once.
const ENTRIES: u32 = 1024;

fn uring(io: Io) -> io::Result<Option<Runtime<IoUringDriver>>> {
    for flags in flags_to_try(io) {
        if let Ok(ring) =
            RuntimeBuilder::<IoUringDriver>::new().with_entries(ENTRIES).uring_builder(flags).build()
        {
            return Ok(Some(ring));
        }
    }
    refuse_if_uring_only(io)?;
    Ok(None)
}

fn refuse_if_uring_only(io: Io) -> io::Result<()> {
    match io {
        Io::Uring => Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel gives no io_uring")),
        Io::Auto | Io::Epoll => Ok(()),
    }
}

fn flags_to_try(io: Io) -> Vec<io_uring::Builder> {
    if io == Io::Epoll {
        return Vec::new();
    }
    let (mut deferred, mut cooperative) = (io_uring::IoUring::builder(), io_uring::IoUring::builder());
    deferred.setup_single_issuer().setup_defer_taskrun();
    cooperative.setup_single_issuer().setup_coop_taskrun();
    vec![deferred, cooperative, io_uring::IoUring::builder()]
}
