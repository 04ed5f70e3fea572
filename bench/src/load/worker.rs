//! One thread of the generator: its connections, their schedule, one timer for everything that has a time.
//!
//! No request arms a timer of its own: connections note their deadlines, and a sweep every [`SWEEP_NS`] shuts
//! down the sockets of those that are over, which wakes their tasks.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    sync::{Arc, mpsc},
    task::{Poll, Waker},
    time::Duration,
};

use super::{
    Digest, Extent, Pace, Plan, Protocol, connection, http2,
    schedule::Schedule,
    share_of,
    stats::{ErrorKind, Interval},
    target,
};
use crate::{
    net::{Socket, Timer},
    stream::{Broken, Buffers},
    tls::{self, Handshake},
    usage,
};

/// Deadlines are kept to this resolution; also the pause of a connection that could not be made.
const SWEEP_NS: u64 = 50_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Received at once. What a response holds beyond it is discarded by the kernel, unless it is to be verified.
pub(super) const RECEIVE_BYTES: usize = 16 * 1024;
/// Discarded at once: never touched, so it costs no memory.
pub(super) const DISCARD_BYTES: usize = 1024 * 1024;

/// Which part of the whole this thread takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) index: usize,
    pub(super) threads: usize,
}

pub(super) struct Worker {
    pub(super) plan: Arc<Plan>,
    pub(super) buffers: Rc<Buffers>,
    /// With sessions to resume that are this thread's own.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) timeout_ns: u64,
    lanes: Vec<LaneState>,
    slots: Vec<Rc<Slot>>,
    /// Connection tasks that have not ended.
    live: Cell<usize>,
    window_start_ns: u64,
    /// Nothing is sent from here on.
    end_ns: Cell<u64>,
    /// Requests of the window still to be sent, when they are counted.
    tickets: Cell<u64>,
    phase: Cell<Phase>,
    interval: RefCell<Interval>,
    last_event_ns: Cell<u64>,
    backing_off: RefCell<Vec<Waker>>,
    timer: Timer,
    armed_ns: Cell<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Sending,
    /// The last responses are awaited.
    Draining,
    /// Ended by hand: what is under way is neither awaited nor counted.
    Abandoned,
}

struct LaneState {
    /// None in the closed loop.
    schedule: Option<RefCell<Schedule>>,
    /// Connections that wait for a request to become due, the longest waiting first.
    idle: RefCell<VecDeque<Rc<Slot>>>,
    next_turn: Cell<usize>,
}

/// What the timer's sweep and a connection's task share.
pub(super) struct Slot {
    pub(super) lane: usize,
    /// With HTTP/2: the one that this slot is a stream of, among others.
    pub(super) connection: Option<Rc<http2::Connection>>,
    /// With HTTP/1.1: the slot's own.
    pub(super) socket: RefCell<Option<Rc<Socket>>>,
    /// Zero: nothing under way.
    pub(super) deadline_ns: Cell<u64>,
    pub(super) timed_out: Cell<bool>,
    /// The last reading of the clock, so that each exchange takes one.
    pub(super) now_ns: Cell<u64>,
    granted: Cell<Option<u64>>,
    pub(super) waker: RefCell<Option<Waker>>,
}

pub(super) async fn run(plan: Arc<Plan>, share: Share, sender: mpsc::Sender<Interval>) -> io::Result<()> {
    let worker = Rc::new(Worker::new(plan, share)?);
    for slot in &worker.slots {
        match &slot.connection {
            None => drop(monoio::spawn(connection::drive(worker.clone(), slot.clone()))),
            Some(connection) => {
                drop(monoio::spawn(http2::drive(worker.clone(), slot.clone(), connection.clone())));
            }
        }
    }
    worker.keep_time(&sender).await
}

impl Slot {
    /// Completes with `future`, or with None when the deadline has come first.
    pub(super) async fn unless_over<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.timed_out.get() {
                return Poll::Ready(None);
            }
            let waker = &mut *self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl Worker {
    fn new(plan: Arc<Plan>, share: Share) -> io::Result<Self> {
        let config = &plan.config;
        let weights: Vec<u64> = plan.lanes.iter().map(|lane| lane.weight).collect();
        let by_lane = connections_by_lane(config.connections, share.threads, &weights);
        let mut lanes = Vec::new();
        let mut slots = Vec::new();
        for (index, &connections) in by_lane.iter().enumerate() {
            lanes.push(LaneState {
                schedule: schedule(&plan, share, index),
                idle: RefCell::new(VecDeque::new()),
                // Threads start at different targets.
                next_turn: Cell::new(share.index % plan.lanes[index].turns.len().max(1)),
            });
            let connections = share_of(connections as u64, share.index, share.threads);
            let new_slot = |connection| {
                Rc::new(Slot {
                    lane: index,
                    connection,
                    socket: RefCell::new(None),
                    deadline_ns: Cell::new(0),
                    timed_out: Cell::new(false),
                    now_ns: Cell::new(plan.now_ns()),
                    granted: Cell::new(None),
                    waker: RefCell::new(None),
                })
            };
            for _ in 0..connections {
                match config.protocol {
                    Protocol::Http1 => slots.push(new_slot(None)),
                    Protocol::Http2 { streams } => {
                        let connection = Rc::new(http2::Connection::new(index));
                        slots.extend((0..streams).map(|_| new_slot(Some(connection.clone()))));
                    }
                }
            }
        }
        let window_start_ns = plan.window_start_ns();
        let end_ns = match config.extent {
            Extent::For(length) => window_start_ns.saturating_add(nanos(length)),
            Extent::Requests(_) => u64::MAX,
        };
        let tickets = config.extent.requests().map_or(u64::MAX, |n| share_of(n, share.index, share.threads));
        let receive_bytes = match config.check.digest {
            Digest::Unchecked => DISCARD_BYTES,
            _ => RECEIVE_BYTES * 4,
        };
        Ok(Self {
            buffers: Rc::new(Buffers::new(receive_bytes)),
            tls: plan.tls.as_ref().map(|shared| Arc::new(config.tls.apart(shared))),
            timeout_ns: nanos(config.timeout).max(1),
            lanes,
            live: Cell::new(slots.len()),
            slots,
            window_start_ns,
            end_ns: Cell::new(end_ns),
            tickets: Cell::new(tickets),
            phase: Cell::new(Phase::Sending),
            interval: RefCell::new(Interval::new(0, config.pace)),
            last_event_ns: Cell::new(window_start_ns),
            backing_off: RefCell::new(Vec::new()),
            timer: Timer::new()?,
            armed_ns: Cell::new(u64::MAX),
            plan,
        })
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.plan.now_ns()
    }

    /// The time that the next request of this connection counts from, or None when there will be none.
    pub(super) async fn next_request(&self, slot: &Rc<Slot>) -> Option<u64> {
        let lane = &self.lanes[slot.lane];
        let Some(schedule) = &lane.schedule else {
            let now = slot.now_ns.get();
            return (now < self.end_ns.get() && self.take_ticket(now)).then_some(now);
        };
        let now = self.now_ns();
        slot.now_ns.set(now);
        if let Some(due) = self.take_due(schedule, now) {
            return Some(due);
        }
        let mut queued = false;
        poll_fn(|cx| {
            if let Some(due) = slot.granted.take() {
                slot.now_ns.set(self.now_ns());
                return Poll::Ready(Some(due));
            }
            if self.phase.get() != Phase::Sending {
                return Poll::Ready(None);
            }
            *slot.waker.borrow_mut() = Some(cx.waker().clone());
            if !queued {
                queued = true;
                lane.idle.borrow_mut().push_back(slot.clone());
                self.arm_for(schedule.borrow().next_ns());
            }
            Poll::Pending
        })
        .await
    }

    fn take_due(&self, schedule: &RefCell<Schedule>, now_ns: u64) -> Option<u64> {
        if self.phase.get() != Phase::Sending || schedule.borrow().next_ns() >= self.end_ns.get() {
            return None;
        }
        let due = schedule.borrow_mut().take_due(now_ns)?;
        self.take_ticket(due).then_some(due)
    }

    /// Warm-up requests need no ticket. The last ticket's taker ends the sending.
    fn take_ticket(&self, at_ns: u64) -> bool {
        if at_ns < self.window_start_ns || self.tickets.get() == u64::MAX {
            return true;
        }
        let left = self.tickets.get();
        if left == 0 {
            self.end_ns.set(0);
            return false;
        }
        self.tickets.set(left - 1);
        true
    }

    pub(super) fn next_target(&self, lane: usize) -> &target::Encoded {
        let (lane, state) = (&self.plan.lanes[lane], &self.lanes[lane]);
        let turn = state.next_turn.get();
        state.next_turn.set(if turn + 1 == lane.turns.len() { 0 } else { turn + 1 });
        &lane.encoded[lane.turns[turn]]
    }

    /// Waits for the next sweep.
    pub(super) async fn back_off(&self) {
        let mut waited = false;
        poll_fn(|cx| {
            if waited || self.phase.get() == Phase::Abandoned {
                return Poll::Ready(());
            }
            waited = true;
            self.backing_off.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn leave(&self) {
        self.live.set(self.live.get() - 1);
        if self.live.get() == 0 {
            self.arm_for(0);
        }
    }

    /// Books one exchange that was due at `due_ns`, unless it belongs to the warm-up or was abandoned.
    pub(super) fn record(&self, due_ns: u64, book: impl FnOnce(&mut Interval)) {
        if due_ns < self.window_start_ns || self.phase.get() == Phase::Abandoned {
            return;
        }
        book(&mut self.interval.borrow_mut());
    }

    pub(super) fn note_event(&self, now_ns: u64) {
        self.last_event_ns.set(self.last_event_ns.get().max(now_ns));
    }

    pub(super) fn record_error(&self, due_ns: u64, kind: ErrorKind) {
        self.record(due_ns, |interval| interval.counts.errors[kind as usize] += 1);
    }

    pub(super) fn record_handshake(&self, due_ns: u64, session: &tls::Session) {
        self.record(due_ns, |interval| match session.handshake() {
            Some(Handshake::Full) => interval.counts.handshakes_full += 1,
            Some(Handshake::Resumed) => interval.counts.handshakes_resumed += 1,
            None => {}
        });
        if self.plan.seen.negotiated.get().is_none()
            && let Some(negotiated) = session.negotiated()
        {
            // Another thread may have been first.
            let _ = self.plan.seen.negotiated.set(negotiated);
        }
    }

    /// What it means that a new connection broke before it could be used. The first reason is kept for the report.
    pub(super) fn handshake_failed(&self, cause: &Broken) -> ErrorKind {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let reason = match cause {
            Broken::Tls(cause) => cause.to_string(),
            Broken::Io(cause) => match cause.kind() {
                UnexpectedEof => "the peer closed the connection during the handshake".to_owned(),
                BrokenPipe | ConnectionReset => format!("during the handshake: {cause}"),
                // Anything else says that there never was a connection.
                _ => return ErrorKind::Connect,
            },
        };
        self.note_tls_error(reason);
        ErrorKind::Tls
    }

    pub(super) fn note_tls_error(&self, reason: String) {
        self.plan.seen.tls_error.get_or_init(|| reason);
    }

    async fn keep_time(&self, sender: &mpsc::Sender<Interval>) -> io::Result<()> {
        let mut next_sweep_ns = self.now_ns() + SWEEP_NS;
        let mut second = Some(0).filter(|_| self.window_start_ns == 0);
        let mut cpu_booked_ns = usage::own_thread_cpu_ns();
        loop {
            let now = self.now_ns();
            if self.plan.is_stopped() && self.phase.get() != Phase::Abandoned {
                self.end_ns.set(now.min(self.end_ns.get()));
                self.stop_sending(Phase::Abandoned);
            } else if now >= self.end_ns.get() && self.phase.get() == Phase::Sending {
                // What became due since the last look and has a free connection is late, not unsent.
                self.grant_due(now);
                self.stop_sending(Phase::Draining);
            } else {
                self.grant_due(now);
            }
            if now >= next_sweep_ns {
                self.sweep(now);
                next_sweep_ns = now + SWEEP_NS;
            }
            let last = self.live.get() == 0;
            match second {
                None if now >= self.window_start_ns => {
                    second = Some(0);
                    cpu_booked_ns = usage::own_thread_cpu_ns();
                }
                Some(k) if last || now >= self.window_start_ns + (k + 1) * SECOND_NS => {
                    let cpu_ns = usage::own_thread_cpu_ns();
                    let fresh = Interval::new(k + 1, self.plan.config.pace);
                    let mut done = self.interval.replace(fresh);
                    done.cpu_ns = cpu_ns - cpu_booked_ns;
                    done.until_ns = self.counted_until(now, last).saturating_sub(self.window_start_ns);
                    cpu_booked_ns = cpu_ns;
                    second = Some(k + 1);
                    // A receiver that has gone is of no concern: the run is over for it.
                    let _ = sender.send(done);
                }
                _ => {}
            }
            if last {
                return Ok(());
            }
            self.armed_ns.set(u64::MAX);
            self.arm_for(next_sweep_ns);
            for lane in &self.lanes {
                if let Some(schedule) = lane.schedule.as_ref().filter(|_| !lane.idle.borrow().is_empty()) {
                    self.arm_for(schedule.borrow().next_ns().min(self.end_ns.get()));
                }
            }
            self.timer.expired().await?;
        }
    }

    fn counted_until(&self, now: u64, last: bool) -> u64 {
        match (last, self.plan.config.extent, self.phase.get()) {
            (false, ..) => now,
            (true, _, Phase::Abandoned) => self.end_ns.get(),
            (true, Extent::For(_), _) => self.last_event_ns.get().max(self.end_ns.get()),
            (true, Extent::Requests(_), _) => self.last_event_ns.get(),
        }
    }

    fn grant_due(&self, now: u64) {
        for lane in &self.lanes {
            let Some(schedule) = &lane.schedule else { continue };
            while !lane.idle.borrow().is_empty() {
                let Some(due) = self.take_due(schedule, now) else { break };
                if let Some(slot) = lane.idle.borrow_mut().pop_front() {
                    slot.granted.set(Some(due));
                    wake(&slot);
                }
            }
        }
    }

    fn stop_sending(&self, phase: Phase) {
        self.phase.set(phase);
        for lane in &self.lanes {
            // When requests are counted, those beyond the count were never due.
            if let Some(schedule) = lane.schedule.as_ref().filter(|_| self.tickets.get() == u64::MAX) {
                let unsent = schedule.borrow_mut().drop_due(self.end_ns.get());
                self.interval.borrow_mut().counts.unsent += unsent;
            }
            for slot in lane.idle.take() {
                wake(&slot);
            }
        }
        if phase == Phase::Abandoned {
            for slot in &self.slots {
                slot.timed_out.set(true);
                shut(slot);
            }
            self.sweep(0);
        }
    }

    /// Ends exchanges whose deadline is over and lets those that backed off go on.
    fn sweep(&self, now: u64) {
        for slot in &self.slots {
            let deadline = slot.deadline_ns.get();
            if deadline != 0 && deadline <= now {
                slot.timed_out.set(true);
                shut(slot);
            }
        }
        for waker in self.backing_off.take() {
            waker.wake();
        }
    }

    fn arm_for(&self, at_ns: u64) {
        if at_ns < self.armed_ns.get() {
            self.armed_ns.set(at_ns);
            let after = Duration::from_nanos(at_ns.saturating_sub(self.now_ns()));
            // It fails only for times that a Duration of nanoseconds can't hold.
            let _ = self.timer.arm(after);
        }
    }
}

fn wake(slot: &Slot) {
    if let Some(waker) = slot.waker.borrow_mut().take() {
        waker.wake();
    }
}

fn shut(slot: &Slot) {
    match &*slot.socket.borrow() {
        Some(socket) => socket.shutdown(),
        // A stream of many: its task looks at `timed_out`.
        None => wake(slot),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn schedule(plan: &Plan, share: Share, lane: usize) -> Option<RefCell<Schedule>> {
    let Pace::Open { rate_per_s, arrivals } = plan.config.pace else { return None };
    let weight_sum: u64 = plan.lanes.iter().map(|lane| lane.weight).sum();
    let rate = rate_per_s * plan.lanes[lane].weight as f64 / weight_sum as f64 / share.threads as f64;
    // Threads and lanes take turns, so that evenly spaced arrivals do not come in bunches.
    let place = share.index * plan.lanes.len() + lane;
    let seed = 0x5249_4e47_5741_5900 ^ place as u64;
    Some(RefCell::new(Schedule::new(arrivals, rate, place as f64 * 1e9 / rate_per_s, seed)))
}

/// Divides connections among addresses by weight; each thread has at least one to each.
fn connections_by_lane(connections: usize, threads: usize, weights: &[u64]) -> Vec<usize> {
    let free = connections.saturating_sub(threads * weights.len()) as u64;
    let weight_sum: u64 = weights.iter().sum::<u64>().max(1);
    let mut by_lane: Vec<usize> =
        weights.iter().map(|weight| threads + (free * weight / weight_sum) as usize).collect();
    let mut rest = connections.saturating_sub(by_lane.iter().sum());
    for lane in &mut by_lane {
        if rest > 0 {
            *lane += 1;
            rest -= 1;
        }
    }
    by_lane
}

#[cfg(test)]
mod tests {
    use super::connections_by_lane;

    #[test]
    fn connections_are_divided_by_weight() {
        assert_eq!(connections_by_lane(64, 1, &[1]), [64]);
        assert_eq!(connections_by_lane(10, 1, &[3, 1]), [7, 3]);
        assert_eq!(connections_by_lane(2, 1, &[1000, 1]), [1, 1]);
        assert_eq!(connections_by_lane(9, 2, &[1, 1, 1]), [3, 3, 3]);
        assert_eq!(connections_by_lane(11, 2, &[1, 1, 1]).iter().sum::<usize>(), 11);
    }
}
