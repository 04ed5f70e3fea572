//! One worker: a thread, a runtime, the tasks that are not a client's, and a mailbox to the control thread.
//!
//! A panic of a client's task is that connection's end (`net::driver::spawn`). One of the worker's own tasks, of its loop
//! or of its runtime ends this life of the worker: its connections are closed, and the thread begins anew with the
//! snapshot that it had. The other workers go on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use crossbeam_queue::ArrayQueue;

use crate::base::clock::Monotonic;
use crate::base::limits::{ACCEPT_BATCH, MAILBOX_MAX, WORKER_START_TRIES_MAX};
use crate::base::panics::{self, Panicked};
use crate::base::race::{First, race};
use crate::base::signal::Signal;
use crate::net::alarm::Alarm;
use crate::net::descriptors::{self, Shortage};
use crate::net::doorbell::{Bell, Doorbell};
use crate::net::driver::{Driver, Executor, IoMode, pin_to, spawn, yield_now};
use crate::net::listener::{Listener, Peer};
use crate::net::platform::{Linux, Platform as _};
use crate::proxy::core::{Begins, Core, Install, ListenerId, Node, Place};
use crate::proxy::handshake::Opening;
use crate::proxy::log::LogBuffer;
use crate::proxy::{connection, handshake};
use crate::telemetry::metrics::{Counter, Metrics, Sample};

/// How often a worker looks after its pools and sends its log lines.
const ROUND: Duration = Duration::from_secs(1);

/// After a drain has begun, idle clients keep their connection for so long: whoever sends a request in that time is
/// told `Connection: close` with the answer, which loses nothing. The rest is then closed.
const DRAIN_IDLE_GRACE: Duration = Duration::from_secs(1);

/// How long a worker that was told to end waits for its tasks to notice.
const STOP_PATIENCE_MS: u64 = 1_000;

/// How often leased tokens are looked through.
const LEASE_PAUSE: Duration = Duration::from_millis(20);

/// A worker that can't have a runtime waits so long before it tries again.
const START_PAUSE: Duration = Duration::from_millis(100);

/// Out of descriptors: accepting pauses for so long.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What other threads tell a worker.
#[derive(Debug)]
pub enum Message {
    /// Take over a snapshot.
    Install(Arc<Install>),
    /// Accept from this socket.
    Listen(ListenerId, OwnedFd),
    /// Stop accepting for this listener.
    Unlisten(ListenerId),
    /// A connection that another worker accepted.
    Accepted(Place, OwnedFd, Peer),
    /// Send your numbers there.
    Collect(Sender<(usize, Sample)>),
}

/// See [`Mailbox::drain`].
const DRAIN: u8 = 1;
/// See [`Mailbox::stop`].
const STOP: u8 = 2;

/// The sending end of one worker's mailbox.
#[derive(Debug, Clone)]
pub struct Mailbox {
    queue: Arc<ArrayQueue<Message>>,
    /// What needs no room in the queue, and must reach the worker however full that is.
    orders: Arc<AtomicU8>,
    bell: Bell,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        let orders = Arc::new(AtomicU8::new(0));
        Ok(Self { queue: Arc::new(ArrayQueue::new(MAILBOX_MAX)), orders, bell: Bell::new()? })
    }

    /// Puts a message in and wakes the worker; gives it back if the mailbox is full.
    // The message is what the caller has to keep in that case; boxing it would cost every message an allocation.
    #[allow(clippy::result_large_err)]
    pub fn send(&self, message: Message) -> Result<(), Message> {
        self.queue.push(message)?;
        self.bell.ring();
        Ok(())
    }

    /// Tells the worker to stop accepting, finish what there is, and end.
    pub fn drain(&self) {
        self.order(DRAIN);
    }

    /// Tells the worker to end now.
    pub fn stop(&self) {
        self.order(STOP);
    }

    fn order(&self, order: u8) {
        self.orders.fetch_or(order, Ordering::Release);
        self.bell.ring();
    }

    fn is_ordered(&self, order: u8) -> bool {
        self.orders.load(Ordering::Acquire) & order != 0
    }
}

/// A worker as the control thread holds it.
#[derive(Debug)]
pub struct Worker {
    /// How to reach it.
    pub mailbox: Mailbox,
    /// What it runs on.
    pub driver: Driver,
    /// Why it does not run on `io_uring` although it might have, if so.
    pub refused: Option<String>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// True once its thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its thread.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic that a worker can't go on after has been noted.
            let _ = thread.join();
        }
    }
}

/// Nobody is left to hold it, because the control thread has failed.
impl Drop for Worker {
    fn drop(&mut self) {
        self.mailbox.stop();
    }
}

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The driver asked for.
    pub io: IoMode,
    /// Processors to pin to, in turn; empty: not at all.
    pub cpus: Vec<usize>,
    /// What is shared.
    pub node: Arc<Node>,
    /// The first snapshot.
    pub install: Arc<Install>,
    /// Where failures of workers are told.
    pub failures: tokio::sync::mpsc::Sender<Failure>,
    /// Where log lines go.
    pub log: Sender<Vec<u8>>,
    /// The clock of all workers.
    pub clock: Monotonic,
}

/// Starts `count` workers and waits until each has its runtime. If one fails, all are stopped.
pub fn start_all(setup: &Setup, count: usize) -> io::Result<Vec<Worker>> {
    let mailboxes = (0..count).map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
    let mut workers = Vec::with_capacity(count);
    for index in 0..count {
        let (ready, is_ready) = crossbeam_channel::bounded(1);
        let (setup, peers) = (setup.clone(), mailboxes.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || run(index, &setup, peers, &ready))?;
        let started =
            is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("a worker ended while it started")));
        match started {
            Ok((driver, refused)) => {
                let mailbox = mailboxes[index].clone();
                workers.push(Worker { mailbox, driver, refused, thread: Some(thread) });
            }
            Err(error) => {
                for worker in &workers {
                    worker.mailbox.stop();
                }
                for worker in workers {
                    worker.join();
                }
                return Err(error);
            }
        }
    }
    Ok(workers)
}

type Started = io::Result<(Driver, Option<String>)>;

/// A worker's loop has failed: a task of its own has panicked, the loop itself has, or the runtime is broken. The worker
/// begins anew by itself; its listeners are given to it again by whoever hears of this.
#[derive(Debug)]
pub struct Failure {
    /// Which worker.
    pub worker: usize,
    /// Where and why.
    pub reason: String,
}

/// A worker's thread: one life after another.
fn run(index: usize, setup: &Setup, peers: Vec<Mailbox>, ready: &Sender<Started>) {
    panics::watch_thread();
    if !setup.cpus.is_empty() {
        // Refused in some containers; a worker that floats is slower, not wrong.
        let _ = pin_to(setup.cpus[index % setup.cpus.len()]);
    }
    let peers: Rc<[Mailbox]> = peers.into();
    let install = RefCell::new(Arc::clone(&setup.install));
    let mut metrics = Metrics::new();
    let mut ready = Some(ready);
    let mut tries = 0;
    loop {
        let reason = match live(index, setup, &peers, &install, &metrics, &mut ready) {
            Ok((Ended::Asked, _)) => return,
            Ok((Ended::Failed(reason), after)) => {
                tries = 0;
                metrics = after;
                reason
            }
            Err(error) => match ready.take() {
                Some(ready) => {
                    let _ = ready.send(Err(error));
                    return;
                }
                // Most likely out of descriptors, of which the end of the last life has given some back.
                None if tries < WORKER_START_TRIES_MAX => {
                    tries += 1;
                    std::thread::sleep(START_PAUSE);
                    format!("no runtime: {error}")
                }
                None => return,
            },
        };
        // Full: whoever listens has heard of enough failures to end the process.
        let _ = setup.failures.try_send(Failure { worker: index, reason });
    }
}

/// How a worker's life has ended.
enum Ended {
    /// As it was told to.
    Asked,
    /// It failed.
    Failed(String),
}

/// One life, from a runtime to its end. Gives what it has counted.
fn live(
    index: usize,
    setup: &Setup,
    peers: &Rc<[Mailbox]>,
    install: &RefCell<Arc<Install>>,
    metrics: &Metrics,
    ready: &mut Option<&Sender<Started>>,
) -> io::Result<(Ended, Metrics)> {
    let clock = setup.clock;
    let mut executor = Executor::new(setup.io)?;
    let outcome = (executor.driver, executor.refused.as_ref().map(ToString::to_string));
    let seed = u64::from(std::process::id()) << 32
        ^ Linux::new(clock, index as u64).unix_time().as_nanos() as u64
        ^ index as u64;
    let core = Core::new(
        index,
        Linux::new(clock, seed),
        Arc::clone(&setup.node),
        &install.borrow(),
        LogBuffer::new(setup.log.clone()),
    );
    core.metrics.succeed(metrics);
    let tasks =
        Tasks { core: Rc::clone(&core), peers: Rc::clone(peers), install, listening: RefCell::default() };
    let main = executor.run(async {
        let doorbell = peers[index].bell.listen()?;
        let alarm = Alarm::new()?;
        if let Some(ready) = ready.take() {
            let _ = ready.send(Ok(outcome));
        }
        tasks.spawn(sweep(Rc::clone(&core), alarm));
        Ok(tasks.run(&doorbell).await)
    });
    // Its own run: after a panic there is no other that could end the tasks.
    let ended = executor.run(tasks.end());
    // With it go the tasks that are left.
    drop(executor);
    let ended = match (main, ended) {
        (Ok(Err(error)), _) => {
            metrics.succeed(&core.metrics);
            return Err(error);
        }
        (Ok(Ok(Ended::Asked)), Ok(())) => Ended::Asked,
        (Ok(Ok(Ended::Failed(reason))), Ok(())) => Ended::Failed(reason),
        (Err(Panicked), _) | (_, Err(Panicked)) => Ended::Failed(panics::last()),
    };
    core.forget_connections();
    let counted = Metrics::new();
    counted.succeed(&core.metrics);
    Ok((ended, counted))
}

/// A worker's own tasks.
struct Tasks<'w> {
    core: Rc<Core<Linux>>,
    peers: Rc<[Mailbox]>,
    /// The snapshot taken over last, for the next life.
    install: &'w RefCell<Arc<Install>>,
    listening: RefCell<HashMap<ListenerId, Vec<Rc<Signal>>>>,
}

impl Tasks<'_> {
    /// Starts a task without which the worker is none: if it panics, the worker has failed.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let core = Rc::clone(&self.core);
        spawn(async move {
            if panics::contain(task).await.is_err() {
                core.failed.raise();
            }
        });
    }

    async fn run(&self, doorbell: &Doorbell) -> Ended {
        self.spawn(rounds(Rc::clone(&self.core)));
        self.spawn(give_leases_back(Rc::clone(&self.core)));
        #[cfg(feature = "test-panics")]
        self.spawn(panic_if_asked(Rc::clone(&self.core)));
        let mailbox = &self.peers[self.core.index];
        // What was sent to an earlier life is looked at before the bell is waited for.
        loop {
            while let Some(message) = mailbox.queue.pop() {
                self.handle(message);
            }
            if mailbox.is_ordered(STOP) {
                return Ended::Asked;
            }
            if mailbox.is_ordered(DRAIN) && !self.core.draining.is_raised() {
                self.drain();
                self.settle().await;
            }
            if self.core.draining.is_raised() && self.core.connections() == 0 {
                return Ended::Asked;
            }
            {
                let heard = std::pin::pin!(doorbell.heard());
                let other = std::pin::pin!(race_either(self.core.empty.raised(), self.core.failed.raised()));
                if let First::Left(Err(error)) = race(heard, other).await {
                    // Without it no message would ever be seen again.
                    return Ended::Failed(format!("its doorbell is broken: {error}"));
                }
            }
            if self.core.failed.is_raised() {
                return Ended::Failed(panics::last());
            }
        }
    }

    /// Lets tasks that were woken run to their next wait, and the ring take their closes. Listeners' tasks that were told to
    /// close take what is queued meanwhile, so that it is known afterwards who there is.
    async fn settle(&self) {
        for _ in 0..16 {
            yield_now().await;
        }
    }

    /// Ends every task, so that sockets are closed and nothing is left to the runtime's drop.
    async fn end(&self) {
        for closing in self.listening.borrow_mut().drain().flat_map(|(_, all)| all) {
            closing.raise();
        }
        self.core.draining.raise();
        self.core.stopping.raise();
        self.settle().await;
        // Not the core's clock, which stands still between requests.
        let now_ms = || self.core.platform.now_ms();
        let until_ms = now_ms() + STOP_PATIENCE_MS;
        while self.core.connections() > 0 && now_ms() < until_ms {
            self.core.deadlines.expire_all();
            // Not a sleep: the alarm's task has ended. The ring is looked at in each turn.
            yield_now().await;
        }
        self.core.close_idle_upstreams();
        self.core.release_leases();
        self.core.log.flush();
        self.settle().await;
    }

    fn handle(&self, message: Message) {
        descriptors::allow(self.core.descriptors_allowed());
        match message {
            Message::Install(install) => {
                self.core.install(&install);
                *self.install.borrow_mut() = install;
            }
            Message::Listen(id, socket) => self.listen(id, socket),
            Message::Unlisten(id) => {
                for closing in self.listening.borrow_mut().remove(&id).unwrap_or_default() {
                    closing.raise();
                }
            }
            Message::Accepted(place, socket, peer) => serve(&self.core, &place, socket, peer),
            Message::Collect(reply) => {
                #[cfg(feature = "test-panics")]
                assert!(!self.core.test_panics.main.take(), "asked for by a test: loop");
                let _ = reply.try_send((self.core.index, self.core.sample()));
            }
        }
    }

    fn listen(&self, id: ListenerId, socket: OwnedFd) {
        let Ok(listener) = Listener::new(socket) else {
            self.core.metrics.count(Counter::AcceptErrors);
            return;
        };
        let closing = Rc::new(Signal::default());
        self.listening.borrow_mut().entry(id).or_default().push(Rc::clone(&closing));
        self.spawn(accept(Rc::clone(&self.core), Rc::clone(&self.peers), id, listener, closing));
    }

    fn drain(&self) {
        for closing in self.listening.borrow_mut().drain().flat_map(|(_, all)| all) {
            closing.raise();
        }
        self.core.draining.raise();
        self.core.close_idle_upstreams();
        let core = Rc::clone(&self.core);
        self.spawn(async move {
            let mut pause = DRAIN_IDLE_GRACE;
            while pause_or_stop(&core, pause).await {
                core.deadlines.expire_idle();
                pause = DRAIN_IDLE_GRACE / 4;
            }
        });
    }
}

/// For the end-to-end suites.
#[cfg(feature = "test-panics")]
async fn panic_if_asked(core: Rc<Core<Linux>>) {
    race_either(core.test_panics.task.raised(), core.stopping.raised()).await;
    assert!(!core.test_panics.task.is_raised(), "asked for by a test: task");
}

/// Accepts until told to close; then takes what is queued already, so that closing the socket resets nobody.
async fn accept(
    core: Rc<Core<Linux>>,
    peers: Rc<[Mailbox]>,
    id: ListenerId,
    listener: Listener,
    closing: Rc<Signal>,
) {
    loop {
        let last = closing.is_raised();
        if core.failed.is_raised() {
            // The socket stays open elsewhere: what is queued is for the next life.
            return;
        }
        if !last && !core.has_place(id) {
            // New connections wait in the kernel's queue until one of ours ends.
            core.room.lower();
            race(std::pin::pin!(core.room.raised()), std::pin::pin!(closing.raised())).await;
            continue;
        }
        if !last && !core.has_descriptors() {
            // As when it is full; but descriptors also come back where nobody is told, so it looks again.
            core.short_of(Shortage::Descriptors, "room for another client");
            let pause = std::pin::pin!(pause_or_stop(&core, EXHAUSTED_PAUSE));
            race(pause, std::pin::pin!(closing.raised())).await;
            continue;
        }
        if !last {
            let ready = std::pin::pin!(listener.ready());
            race(ready, std::pin::pin!(closing.raised())).await;
        }
        let mut more = true;
        for _ in 0..ACCEPT_BATCH {
            let place = if last {
                core.take_last_place(id)
            } else {
                // Before the socket, so that no other worker gives the place away meanwhile.
                if !core.has_descriptors() {
                    break;
                }
                let Some(place) = core.take_place(core.index, id) else { break };
                place
            };
            match listener.try_accept() {
                Ok((socket, peer)) => admit(&core, &peers, place, socket, peer),
                Err(error) => {
                    core.give_place(place);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        more = false;
                    } else {
                        core.metrics.count(Counter::AcceptErrors);
                        if let Some(shortage) = Shortage::of(&error) {
                            core.short_of(shortage, "a client's connection");
                            pause_or_stop(&core, EXHAUSTED_PAUSE).await;
                        }
                    }
                    if last {
                        return;
                    }
                    break;
                }
            }
        }
        if more {
            yield_now().await;
        }
    }
}

/// A fresh connection: served here, or by a worker that has fewer.
fn admit(core: &Rc<Core<Linux>>, peers: &[Mailbox], place: Place, socket: OwnedFd, peer: Peer) {
    core.metrics.count(Counter::Accepted);
    let theirs = core.less_loaded().and_then(|other| Some((other, core.take_place(other, place.listener)?)));
    let Some((other, theirs)) = theirs else { return serve(core, &place, socket, peer) };
    match peers[other].send(Message::Accepted(theirs, socket, peer)) {
        Ok(()) => {
            core.give_place(place);
            core.metrics.count(Counter::HandedOver);
        }
        Err(Message::Accepted(theirs, socket, peer)) => {
            core.give_place(theirs);
            serve(core, &place, socket, peer);
        }
        Err(_) => {}
    }
}

fn serve(core: &Rc<Core<Linux>>, place: &Place, socket: OwnedFd, peer: Peer) {
    let id = place.listener;
    let opening = Opening::of(core, id);
    let attached = core.platform.attach(socket);
    let begins =
        if opening.is_some() && attached.is_ok() { Begins::WithHandshake } else { Begins::WithRequest };
    core.arrived(place, begins);
    match (attached, opening) {
        (Ok(stream), Some(opening)) => {
            spawn(handshake::serve(Rc::clone(core), stream, peer, id, opening));
        }
        (Ok(stream), None) => spawn(connection::serve(Rc::clone(core), stream, peer, id)),
        (Err(_), _) => connection::refuse(core, id),
    }
}

/// Waits for so long, or until the worker is stopping; then false.
async fn pause_or_stop(core: &Core<Linux>, pause: Duration) -> bool {
    let deadline = core.deadlines.deadline();
    deadline.arm(core.platform.now_ms(), pause);
    let _ = deadline.bound(core.stopping.raised()).await;
    !core.stopping.is_raised()
}

/// Fires deadlines: the alarm is set to the earliest one, and set anew when an earlier one is armed.
async fn sweep(core: Rc<Core<Linux>>, alarm: Alarm) {
    let mut set = None;
    while !core.stopping.is_raised() {
        let now = core.platform.now_ms();
        let due = match core.deadlines.next_ms() {
            Some(due) if due <= now => core.deadlines.sweep(now),
            due => due,
        };
        if let Some(due) = due
            && set != Some(due)
        {
            alarm.set(due.saturating_sub(now));
        }
        set = due;
        let rang = std::pin::pin!(alarm.rang());
        let other = std::pin::pin!(race_either(core.deadlines.rearmed(due), core.stopping.raised()));
        if matches!(race(rang, other).await, First::Left(_)) {
            set = None;
        }
    }
}

async fn race_either(left: impl Future<Output = ()>, right: impl Future<Output = ()>) {
    race(std::pin::pin!(left), std::pin::pin!(right)).await;
}

/// Gives back tokens that were leased and not used, while there are any.
async fn give_leases_back(core: Rc<Core<Linux>>) {
    while !core.stopping.is_raised() {
        race(std::pin::pin!(core.leases.raised()), std::pin::pin!(core.stopping.raised())).await;
        core.leases.lower();
        while pause_or_stop(&core, LEASE_PAUSE).await && core.return_leases() {}
    }
}

/// Looks after pools and log lines.
async fn rounds(core: Rc<Core<Linux>>) {
    while pause_or_stop(&core, ROUND).await {
        core.maintain().await;
        let dropped = core.log.flush();
        core.metrics.add(Counter::LogLinesDropped, dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::{Core, Linux, ListenerId, Peer};
    use crate::base::clock::Monotonic;
    use crate::net::platform::Platform;
    use crate::proxy::connection;
    use std::rc::Rc;

    /// The size of a connection's task without calling anything: only the types matter.
    fn size_of_task<F>(_: fn(Rc<Core<Linux>>, <Linux as Platform>::Stream, Peer, ListenerId) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let _ = Linux::new(Monotonic::start(), 1);
        let bytes = size_of_task(connection::serve::<Linux>);
        assert!(bytes <= 720, "the task of an idle connection takes {bytes} bytes");
    }
}
