//! Picks the I/O driver of a worker and runs it: `io_uring` with the best flags that the kernel takes, else epoll.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::str::FromStr;

use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};
use rustix::event::{EventfdFlags, eventfd};

use super::watched::Watched;
use crate::base::panics::{self, Panicked};

/// Entries of a submission queue. A loop turn that needs more submits in between.
const RING_ENTRIES: u32 = 1024;

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// `io_uring` where the kernel lets us, else epoll.
    #[default]
    Auto,
    /// `io_uring` or nothing.
    Uring,
    /// epoll.
    Epoll,
}

impl FromStr for IoMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            other => Err(format!("unknown I/O driver `{other}`: expected auto, uring or epoll")),
        }
    }
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Ring flags, best first. Each row is a kernel generation; `SINGLE_ISSUER` with `DEFER_TASKRUN` took the proxy's CPU per
/// request from 19.3 to 13.5 µs against the plain ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingFlags {
    /// Linux 6.1: completions are worked off only when we wait for them.
    DeferTaskrun,
    /// Linux 6.0: no interrupts of our own thread.
    SingleIssuerCoop,
    /// Linux 5.19.
    Coop,
    /// Any kernel with `io_uring`.
    Plain,
}

impl RingFlags {
    const ALL: [Self; 4] = [Self::DeferTaskrun, Self::SingleIssuerCoop, Self::Coop, Self::Plain];

    fn builder(self) -> io_uring::Builder {
        let mut builder = io_uring::IoUring::builder();
        match self {
            Self::DeferTaskrun => builder.setup_single_issuer().setup_defer_taskrun(),
            Self::SingleIssuerCoop => builder.setup_single_issuer().setup_coop_taskrun(),
            Self::Coop => builder.setup_coop_taskrun(),
            Self::Plain => &mut builder,
        };
        builder
    }
}

/// The driver that a worker got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A ring with these flags.
    Uring(RingFlags),
    /// epoll, because it was asked for or because `io_uring` was refused.
    Epoll,
}

impl Driver {
    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring(_) => "uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring(RingFlags::DeferTaskrun) => {
                f.write_str("io_uring (single issuer, deferred task work)")
            }
            Self::Uring(RingFlags::SingleIssuerCoop) => {
                f.write_str("io_uring (single issuer, cooperative task work)")
            }
            Self::Uring(RingFlags::Coop) => f.write_str("io_uring (cooperative task work)"),
            Self::Uring(RingFlags::Plain) => f.write_str("io_uring (plain)"),
            Self::Epoll => f.write_str("epoll"),
        }
    }
}

/// A runtime bound to the thread that made it. It has no timers of its own: see `alarm`.
pub struct Executor {
    runtime: Inner,
    /// What it runs on.
    pub driver: Driver,
    /// Why `io_uring` was not taken although it was allowed, if so.
    pub refused: Option<io::Error>,
}

enum Inner {
    Uring(Runtime<IoUringDriver>),
    Epoll(Runtime<LegacyDriver>),
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl Executor {
    /// Builds the runtime on the calling thread, which must also run it (a ring has a single issuer).
    pub fn new(mode: IoMode) -> io::Result<Self> {
        let mut refused = None;
        if mode != IoMode::Epoll {
            for flags in RingFlags::ALL {
                let built = RuntimeBuilder::<IoUringDriver>::new()
                    .with_entries(RING_ENTRIES)
                    .uring_builder(flags.builder())
                    .build();
                match built {
                    Ok(runtime) => {
                        return Ok(Self {
                            runtime: Inner::Uring(runtime),
                            driver: Driver::Uring(flags),
                            refused: None,
                        });
                    }
                    Err(error) => refused = Some(error),
                }
            }
            if mode == IoMode::Uring {
                let error = refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
                return Err(io::Error::new(
                    error.kind(),
                    format!(
                        "io_uring is refused by this kernel ({error}); `--io auto` or `--io epoll` would run"
                    ),
                ));
            }
        }
        let runtime = RuntimeBuilder::<LegacyDriver>::new().build()?;
        Ok(Self { runtime: Inner::Epoll(runtime), driver: Driver::Epoll, refused })
    }

    /// Runs `main` and everything spawned from it until `main` is done; tasks that are left go on with the next call.
    /// What panics in `main`, or in the runtime itself, ends the call.
    pub fn run<F: Future>(&mut self, main: F) -> Result<F::Output, Panicked> {
        panics::catch(|| match &mut self.runtime {
            Inner::Uring(runtime) => runtime.block_on(async move {
                // Without it, tasks that yield have the ring looked at only when all of them wait.
                let _ready = AlwaysReady::new().ok();
                main.await
            }),
            Inner::Epoll(runtime) => runtime.block_on(main),
        })
    }
}

/// Starts a task on this thread's runtime. If it panics it is over, with all that it holds; nobody else is.
pub fn spawn<F: Future<Output = ()> + 'static>(task: F) {
    // The runtime catches nothing: a panic would unwind through it and all other tasks.
    drop(monoio::spawn(panics::contain(task)));
}

thread_local! {
    static ALWAYS_READY: RefCell<Option<Rc<Watched>>> = const { RefCell::new(None) };
}

/// A descriptor that can always be read, while it lives: a wait for it ends with the next look at the ring. It must not
/// outlive the runtime.
struct AlwaysReady;

impl AlwaysReady {
    fn new() -> io::Result<Self> {
        let fd = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ALWAYS_READY.set(Some(Rc::new(Watched::new(fd)?)));
        Ok(Self)
    }
}

impl Drop for AlwaysReady {
    fn drop(&mut self) {
        ALWAYS_READY.set(None);
    }
}

/// Lets the other tasks of this thread run, and I/O be looked at, before going on.
pub async fn yield_now() {
    // As long as any task is ready, monoio submits to the ring but asks it for nothing, and with deferred task work that
    // brings no completions: one task that only ever puts itself behind the others would keep all I/O waiting. Whoever
    // waits for the ring itself is called when everybody ready has run and all completions are in.
    let ready = ALWAYS_READY.with_borrow(Clone::clone);
    if let Some(ready) = ready
        && ready.readable().await.is_ok()
    {
        return;
    }
    // epoll is looked at between any two rounds of ready tasks.
    let mut asked = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return std::task::Poll::Ready(());
        }
        // monoio puts a task that wakes itself at the front of its queue, where it runs again before all others. Woken
        // by another task it goes to the back, behind everybody who is ready now.
        let waker = cx.waker().clone();
        spawn(async move { waker.wake() });
        std::task::Poll::Pending
    })
    .await;
}

/// The processors that this process may use, in order.
pub fn allowed_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => vec![0],
    }
}

/// Binds the calling thread to one processor.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(io::Error::from)
}
