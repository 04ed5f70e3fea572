//! Deadlines for one worker: a dense table that a sweep looks through, instead of a timer for each wait.
//!
//! A timer on the ring costs a submission and a completion for every wait, and a timer wheel costs an insertion
//! and a removal. Nearly every deadline of a proxy is moved before it is due, so arming one here is a store into a
//! table, and only [`Deadlines::sweep`] looks at all of them: 10,000 take a few microseconds.
//!
//! The sweep runs when the earliest deadline that it knows of is due, and only an earlier one than that sets the alarm
//! anew. A deadline may be late by a 64th of its length ([`late_ms_max`]), never early: short ones are kept to a
//! millisecond, and long ones share sweeps.
//!
//! Each task holds one [`Deadline`]: the phase it is in (armed again and again) and the cap on the whole request. A task
//! that waits for two things at once, each with a time of its own, holds a second ([`Deadline::sibling`]).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How much later than it was armed for a deadline of so many milliseconds may be due. A power of two, to whose multiples
/// deadlines are rounded up: then those of a like length are due together.
pub const fn late_ms_max(length_ms: u64) -> u64 {
    match length_ms / 64 {
        0 | 1 => 1,
        share if share >= 16 => 16,
        share => 1 << share.ilog2(),
    }
}

/// A sweep looks at all entries, so with more of them than this it comes every second millisecond only, and so on: sweeps
/// take a worker less than 1 % of its time.
const SWEPT_EACH_MS: usize = 16 * 1024;

const NEVER: u64 = u64::MAX;

/// The wait ended because its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

#[derive(Debug)]
struct Entry {
    /// When to fire; [`NEVER`] when disarmed. Kept apart from the wakers so that a sweep stays in few cache lines.
    due_ms: Cell<u64>,
    fired: Cell<bool>,
    /// Its task waits for a next request and may be ended at once when the worker drains.
    idle: Cell<bool>,
}

/// The table of one worker.
#[derive(Debug, Default)]
pub struct Deadlines {
    entries: RefCell<Vec<Entry>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<u32>>,
    /// The earliest time at which something may be due, as far as the sweeper knows.
    next_ms: Cell<u64>,
    sweeper: RefCell<Option<Waker>>,
}

impl Deadlines {
    /// An empty table.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { next_ms: Cell::new(NEVER), ..Self::default() })
    }

    /// A disarmed deadline; its place in the table is given back when it is dropped.
    pub fn deadline(self: &Rc<Self>) -> Deadline {
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut entries = self.entries.borrow_mut();
            entries.push(Entry { due_ms: Cell::new(NEVER), fired: Cell::new(false), idle: Cell::new(false) });
            self.wakers.borrow_mut().push(None);
            (entries.len() - 1) as u32
        });
        Deadline {
            table: Rc::clone(self),
            index,
            cap_ms: Cell::new(NEVER),
            attempt_ms: Cell::new(NEVER),
            bound_by: Cell::new(Expired::Phase),
        }
    }

    /// How many deadlines are held, armed or not.
    pub fn held(&self) -> usize {
        self.entries.borrow().len() - self.free.borrow().len()
    }

    /// Fires all that are due at `now_ms`. Returns when to come back: the earliest deadline left, or `None`.
    pub fn sweep(&self, now_ms: u64) -> Option<u64> {
        let entries = self.entries.borrow();
        let mut next = NEVER;
        for (index, entry) in entries.iter().enumerate() {
            let due = entry.due_ms.get();
            if due <= now_ms {
                self.fire(index, entry);
            } else if due < next {
                next = due;
            }
        }
        let pause_ms = 1 + (entries.len() / SWEPT_EACH_MS) as u64;
        let next = if next == NEVER { NEVER } else { next.max(now_ms + pause_ms) };
        self.next_ms.set(next);
        (next != NEVER).then_some(next)
    }

    /// Fires all that were armed by [`Deadline::arm_idle`], whenever they are due.
    pub fn expire_idle(&self) {
        for (index, entry) in self.entries.borrow().iter().enumerate().filter(|(_, e)| e.idle.get()) {
            self.fire(index, entry);
        }
    }

    /// Fires everything, armed or not: each task's wait ends, whatever it waits for. For the end of a worker.
    pub fn expire_all(&self) {
        for (index, entry) in self.entries.borrow().iter().enumerate() {
            self.fire(index, entry);
        }
    }

    fn fire(&self, index: usize, entry: &Entry) {
        entry.due_ms.set(NEVER);
        entry.fired.set(true);
        if let Some(waker) = self.wakers.borrow_mut()[index].take() {
            waker.wake();
        }
    }

    /// Resolves when a deadline earlier than the last answer of [`sweep`](Self::sweep) has been armed.
    pub fn rearmed(&self, known_ms: Option<u64>) -> impl Future<Output = ()> + '_ {
        let known = known_ms.unwrap_or(NEVER);
        std::future::poll_fn(move |cx| {
            if self.next_ms.get() < known {
                return Poll::Ready(());
            }
            *self.sweeper.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    /// The earliest time at which something may be due.
    pub fn next_ms(&self) -> Option<u64> {
        let next = self.next_ms.get();
        (next != NEVER).then_some(next)
    }

    fn set(&self, index: u32, due_ms: u64, idle: bool) {
        let entries = self.entries.borrow();
        let entry = &entries[index as usize];
        entry.fired.set(false);
        entry.idle.set(idle);
        entry.due_ms.set(due_ms);
        if due_ms < self.next_ms.get() {
            self.next_ms.set(due_ms);
            if let Some(waker) = self.sweeper.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// Whose time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The phase's.
    Phase,
    /// The attempt's.
    Attempt,
    /// The whole request's.
    Request,
}

/// One task's deadline: that of the phase it is in, never later than the caps on the attempt and on the whole request.
#[derive(Debug)]
pub struct Deadline {
    table: Rc<Deadlines>,
    index: u32,
    cap_ms: Cell<u64>,
    attempt_ms: Cell<u64>,
    bound_by: Cell<Expired>,
}

impl Deadline {
    /// Starts a phase that may last `timeout`; zero means without a bound of its own.
    pub fn arm(&self, now_ms: u64, timeout: Duration) {
        let (mut due, mut bound_by) = (at(now_ms, timeout), Expired::Phase);
        for (cap, whose) in [(self.attempt_ms.get(), Expired::Attempt), (self.cap_ms.get(), Expired::Request)]
        {
            if cap < due {
                (due, bound_by) = (cap, whose);
            }
        }
        self.bound_by.set(bound_by);
        self.table.set(self.index, rounded(now_ms, due), false);
    }

    /// Starts a wait for a next request, which a drain may end early.
    pub fn arm_idle(&self, now_ms: u64, timeout: Duration) {
        self.bound_by.set(Expired::Phase);
        let due = now_ms.saturating_add(timeout.as_millis() as u64).max(1);
        self.table.set(self.index, rounded(now_ms, due), true);
    }

    /// Another deadline under the same caps, for what the same task waits for at the same time.
    #[must_use]
    pub fn sibling(&self) -> Deadline {
        let sibling = self.table.deadline();
        sibling.cap_ms.set(self.cap_ms.get());
        sibling.attempt_ms.set(self.attempt_ms.get());
        sibling
    }

    /// A drain may end the wait early: nothing that its task does would be lost.
    pub fn mark_idle(&self) {
        self.table.entries.borrow()[self.index as usize].idle.set(true);
    }

    /// A drain must not end the wait early any more.
    pub fn mark_busy(&self) {
        self.table.entries.borrow()[self.index as usize].idle.set(false);
    }

    /// No phase deadline; the cap, if there is one, stays.
    pub fn disarm(&self) {
        self.arm(0, Duration::ZERO);
    }

    /// Caps everything from now on at `now_ms + timeout`; zero takes the cap away.
    pub fn cap(&self, now_ms: u64, timeout: Duration) {
        self.cap_ms.set(at(now_ms, timeout));
    }

    /// Caps the attempt that begins at `now_ms + timeout`; zero takes the cap away.
    pub fn cap_attempt(&self, now_ms: u64, timeout: Duration) {
        self.attempt_ms.set(at(now_ms, timeout));
    }

    /// Whose time was over, when a wait has ended with [`Elapsed`].
    pub fn expired(&self) -> Expired {
        self.bound_by.get()
    }

    /// True once the deadline has passed, until it is armed again.
    pub fn has_fired(&self) -> bool {
        self.table.entries.borrow()[self.index as usize].fired.get()
    }

    /// Waits for `future`, but no longer than the deadline as it is armed, also if it is moved meanwhile.
    pub fn bound<F: Future>(&self, future: F) -> Bound<'_, F> {
        Bound { deadline: self, future }
    }

    fn register(&self, waker: &Waker) {
        let mut wakers = self.table.wakers.borrow_mut();
        let place = &mut wakers[self.index as usize];
        // One task holds one deadline: after its first wait this is a comparison and nothing more.
        if !place.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }
}

/// Zero: never.
fn at(now_ms: u64, timeout: Duration) -> u64 {
    if timeout.is_zero() { NEVER } else { now_ms.saturating_add(timeout.as_millis() as u64).max(1) }
}

/// See [`late_ms_max`].
fn rounded(now_ms: u64, due_ms: u64) -> u64 {
    let grain = late_ms_max(due_ms.saturating_sub(now_ms));
    // `NEVER` stays what it is.
    due_ms.checked_next_multiple_of(grain).unwrap_or(due_ms)
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.table.set(self.index, NEVER, false);
        self.table.wakers.borrow_mut()[self.index as usize] = None;
        self.table.free.borrow_mut().push(self.index);
    }
}

pin_project_lite::pin_project! {
    /// A future that ends with [`Elapsed`] when its deadline passes.
    #[derive(Debug)]
    pub struct Bound<'d, F> {
        deadline: &'d Deadline,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Bound<'_, F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(out) = this.future.poll(cx) {
            return Poll::Ready(Ok(out));
        }
        if this.deadline.has_fired() {
            return Poll::Ready(Err(Elapsed));
        }
        this.deadline.register(cx.waker());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::{Deadline, Deadlines, Elapsed, Expired, late_ms_max};
    use std::future::{Future, pending, ready};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn fires_once_due_and_wakes_the_task() {
        let table = Deadlines::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let deadline = table.deadline();
        deadline.arm(1_000, SECOND);
        let mut wait = pin!(deadline.bound(pending::<()>()));
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        assert_eq!(table.sweep(1_999), Some(2_000));
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        assert_eq!(table.sweep(2_000), None);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(wait.as_mut().poll(&mut cx), Poll::Ready(Err(Elapsed)));
    }

    #[test]
    fn arming_again_moves_it_and_clears_an_expiry() {
        let table = Deadlines::new();
        let deadline = table.deadline();
        deadline.arm(1, SECOND);
        deadline.arm(900, SECOND);
        assert_eq!(table.sweep(1_500), Some(1_904), "the next multiple of 8");
        assert!(!deadline.has_fired());
        table.sweep(1_904);
        assert!(deadline.has_fired());
        deadline.arm(1_900, SECOND);
        assert!(!deadline.has_fired());
    }

    #[test]
    fn the_cap_outlives_phases_and_says_so() {
        let table = Deadlines::new();
        let deadline = table.deadline();
        deadline.cap(1, SECOND);
        deadline.arm(900, SECOND);
        assert_eq!(table.sweep(1_001), None);
        assert!(deadline.has_fired() && deadline.expired() == Expired::Request);
        deadline.cap(0, Duration::ZERO);
        deadline.arm(1_001, SECOND);
        table.sweep(2_008);
        assert!(deadline.has_fired() && deadline.expired() == Expired::Phase);
    }

    #[test]
    fn the_nearest_of_phase_attempt_and_request_fires() {
        let table = Deadlines::new();
        let deadline = table.deadline();
        let check = |phase: u64, attempt: u64, request: u64, due: u64, expected: Expired| {
            let ms = Duration::from_millis;
            deadline.cap(0, ms(request));
            deadline.cap_attempt(0, ms(attempt));
            deadline.arm(0, ms(phase));
            table.sweep(due - 1);
            assert!(!deadline.has_fired(), "{phase} {attempt} {request}");
            table.sweep(due);
            assert!(deadline.has_fired(), "{phase} {attempt} {request}");
            assert_eq!(deadline.expired(), expected, "{phase} {attempt} {request}");
        };
        check(10, 20, 30, 10, Expired::Phase);
        check(20, 10, 30, 10, Expired::Attempt);
        check(30, 20, 10, 10, Expired::Request);
        check(0, 20, 30, 20, Expired::Attempt);
        check(0, 30, 20, 20, Expired::Request);
        check(10, 0, 0, 10, Expired::Phase);
    }

    #[test]
    fn lateness_is_a_64th_of_the_length() {
        for (length, late) in
            [(1, 1), (5, 1), (127, 1), (128, 2), (255, 2), (256, 4), (1_000, 8), (1_024, 16), (3_600_000, 16)]
        {
            assert_eq!(late_ms_max(length), late, "{length}");
            let table = Deadlines::new();
            let deadline = table.deadline();
            for now_ms in 1_000..1_040 {
                deadline.arm(now_ms, Duration::from_millis(length));
                table.sweep(now_ms + length - 1);
                assert!(!deadline.has_fired(), "{length} from {now_ms}: early");
                table.sweep(now_ms + length + late - 1);
                assert!(deadline.has_fired(), "{length} from {now_ms}: late");
            }
        }
    }

    #[test]
    fn two_deadlines_of_a_task_share_their_caps() {
        let table = Deadlines::new();
        let one = table.deadline();
        one.cap(0, Duration::from_millis(30));
        let other = one.sibling();
        one.arm(0, Duration::from_millis(10));
        other.arm(0, Duration::from_millis(90));
        table.sweep(10);
        assert!(one.has_fired() && !other.has_fired());
        table.sweep(30);
        assert!(other.has_fired() && other.expired() == Expired::Request && one.expired() == Expired::Phase);
    }

    /// What a worker's sweep does with its alarm.
    #[derive(Default)]
    struct Sweeper {
        set: Option<u64>,
        settings: u32,
    }

    impl Sweeper {
        fn turn(&mut self, table: &Deadlines, now_ms: u64) {
            let due = match table.next_ms() {
                Some(due) if due <= now_ms => table.sweep(now_ms),
                due => due,
            };
            self.settings += u32::from(due.is_some() && due != self.set);
            self.set = due;
        }
    }

    /// 400,000 requests in 20 seconds, each with three deadlines, set the alarm a few dozen times.
    #[test]
    fn long_deadlines_do_not_set_the_alarm() {
        let table = Deadlines::new();
        let tasks: Vec<Deadline> = (0..200).map(|_| table.deadline()).collect();
        let mut sweeper = Sweeper::default();
        for request in 0..400_000_usize {
            let (task, now_ms) = (&tasks[request % tasks.len()], 1 + request as u64 / 20);
            for timeout in [10, 1, 60] {
                task.arm(now_ms, Duration::from_secs(timeout));
                sweeper.turn(&table, now_ms);
            }
            task.arm_idle(now_ms, Duration::from_secs(75));
            sweeper.turn(&table, now_ms);
        }
        assert!(sweeper.settings <= 40, "{}", sweeper.settings);
    }

    /// Eight requests at a time, each with a hedge after 5 ms, beside thousands of idle connections.
    #[test]
    fn short_deadlines_are_exact_and_set_the_alarm_once_a_millisecond_at_the_most() {
        let table = Deadlines::new();
        let idle: Vec<Deadline> = (0..5_000).map(|_| table.deadline()).collect();
        for (at, task) in idle.iter().enumerate() {
            task.arm_idle(at as u64 / 5, Duration::from_secs(2));
        }
        let hedged: Vec<(Deadline, std::cell::Cell<u64>)> =
            (0..8).map(|_| (table.deadline(), std::cell::Cell::new(0))).collect();
        let mut sweeper = Sweeper::default();
        let mut fired = 0;
        for now_ms in 1_000..4_000_u64 {
            sweeper.turn(&table, now_ms);
            for (at, (task, armed_ms)) in hedged.iter().enumerate() {
                if task.has_fired() {
                    assert_eq!(now_ms, armed_ms.get() + 5);
                    fired += 1;
                }
                // Not all at the same time.
                if task.has_fired() || (armed_ms.get() == 0 && now_ms % 8 == at as u64) {
                    task.arm(now_ms, Duration::from_millis(5));
                    armed_ms.set(now_ms);
                    sweeper.turn(&table, now_ms);
                }
            }
        }
        assert!(fired > 4_000, "{fired}");
        assert!(sweeper.settings <= 3_000, "{}", sweeper.settings);
    }

    #[test]
    fn a_ready_future_wins_over_an_expiry() {
        let table = Deadlines::new();
        let deadline = table.deadline();
        deadline.arm(1, SECOND);
        table.sweep(5_000);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(deadline.bound(ready(7))).poll(&mut cx), Poll::Ready(Ok(7)));
    }

    #[test]
    fn an_earlier_deadline_wakes_the_sweeper() {
        let table = Deadlines::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let far = table.deadline();
        far.arm(0, Duration::from_secs(60));
        let next = table.sweep(1);
        let mut wait = pin!(table.rearmed(next));
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        let near = table.deadline();
        near.arm(0, Duration::from_secs(90));
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "a later one need not wake it");
        near.arm(0, SECOND);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(wait.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_drain_ends_idle_waits_only() {
        let table = Deadlines::new();
        let (idle, busy) = (table.deadline(), table.deadline());
        idle.arm_idle(0, SECOND);
        busy.arm(0, SECOND);
        table.expire_idle();
        assert!(idle.has_fired() && !busy.has_fired());
    }

    #[test]
    fn places_are_given_back() {
        let table = Deadlines::new();
        let first = table.deadline();
        let second = table.deadline();
        drop(first);
        assert_eq!(table.held(), 1);
        let third = table.deadline();
        assert_eq!(table.held(), 2);
        assert!(!third.has_fired());
        drop((second, third));
        assert_eq!(table.held(), 0);
    }
}
