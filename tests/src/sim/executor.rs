//! A single-threaded executor whose clock moves by itself: while a task can run, it takes a few microseconds; when none can,
//! the clock leaps to the next event. Nothing here reads a real clock or sleeps, and every choice is drawn from the seed.
//!
//! Tasks belong to lanes: one for each worker, one for each actor outside. Within a lane they run in the order in which they
//! were woken, as on a worker's runtime. Which lane is next is drawn, as it is with threads.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::random::Random;
use super::trace::{Event, Trace};

/// Where a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(pub u32);

/// The clock at the start: not zero, which means "never" in a deadline.
const START_NS: u64 = 1_000_000;

/// The most that one turn of a task takes.
const TURN_NS_MAX: u64 = 20_000;

/// A handle of the executor; all handles are one.
#[derive(Clone)]
pub struct Executor(Rc<Inner>);

struct Inner {
    now_ns: Cell<u64>,
    random: Random,
    trace: Rc<Trace>,
    tasks: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<usize>>,
    ready: RefCell<BTreeMap<Lane, VecDeque<usize>>>,
    woken: Arc<Mutex<Vec<usize>>>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    timer_count: Cell<u64>,
    lanes: Cell<u32>,
    turns: Cell<u64>,
}

struct Task {
    lane: Lane,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
    woken: Arc<Woken>,
}

/// Whoever holds the waker may be anywhere, so this must be shared between threads, though it never is.
struct Woken {
    task: usize,
    queued: AtomicBool,
    list: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.list).push(self.task);
        }
    }
}

fn lock(list: &Mutex<Vec<usize>>) -> MutexGuard<'_, Vec<usize>> {
    list.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Timer {
    at_ns: u64,
    /// Timers of one moment fire in the order in which they were set.
    number: u64,
    call: Box<dyn FnOnce()>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task had its turn.
    Turn,
    /// The clock moved to the next event.
    Leap,
    /// No task can run, and nothing will happen any more.
    Nothing,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("now_ns", &self.0.now_ns.get()).finish_non_exhaustive()
    }
}

impl Executor {
    pub fn new(random: Random, trace: Rc<Trace>) -> Self {
        Self(Rc::new(Inner {
            now_ns: Cell::new(START_NS),
            random,
            trace,
            tasks: RefCell::default(),
            free: RefCell::default(),
            ready: RefCell::default(),
            woken: Arc::default(),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
            lanes: Cell::new(0),
            turns: Cell::new(0),
        }))
    }

    pub fn now_ns(&self) -> u64 {
        self.0.now_ns.get()
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }

    /// Turns that tasks have had.
    pub fn turns(&self) -> u64 {
        self.0.turns.get()
    }

    /// A lane of its own.
    pub fn lane(&self) -> Lane {
        let lane = self.0.lanes.get();
        self.0.lanes.set(lane + 1);
        Lane(lane)
    }

    pub fn spawn(&self, lane: Lane, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.tasks.borrow_mut();
        let number = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            tasks.push(None);
            tasks.len() - 1
        });
        let list = Arc::clone(&self.0.woken);
        let woken = Arc::new(Woken { task: number, queued: AtomicBool::new(false), list });
        woken.wake_by_ref();
        let waker = Waker::from(Arc::clone(&woken));
        tasks[number] = Some(Task { lane, future: Some(Box::pin(future)), waker, woken });
    }

    /// Calls `call` at a time; at once, but not from within this, if that has passed.
    pub fn at(&self, at_ns: u64, call: impl FnOnce() + 'static) {
        let number = self.0.timer_count.get();
        self.0.timer_count.set(number + 1);
        self.0.timers.borrow_mut().push(Reverse(Timer { at_ns, number, call: Box::new(call) }));
    }

    /// Waits until a time.
    pub async fn until(&self, at_ns: u64) {
        let mut set = false;
        std::future::poll_fn(|cx| {
            if self.now_ns() >= at_ns {
                return Poll::Ready(());
            }
            // The actors that wait so have no other reason to be woken, so the waker does not change.
            if !std::mem::replace(&mut set, true) {
                let waker = cx.waker().clone();
                self.at(at_ns, move || waker.wake());
            }
            Poll::Pending
        })
        .await;
    }

    pub async fn pause(&self, pause: Duration) {
        self.until(self.now_ns() + pause.as_nanos() as u64).await;
    }

    /// Waits for something, but not for ever.
    pub async fn within<T>(&self, patience: Duration, future: impl Future<Output = T>) -> Option<T> {
        use ringway::base::race::{First, race};
        let future = std::pin::pin!(future);
        let pause = std::pin::pin!(self.pause(patience));
        match race(future, pause).await {
            First::Left(out) => Some(out),
            First::Right(()) => None,
        }
    }

    /// Lets all other tasks of the lane that can run have a turn.
    pub async fn yield_now(&self) {
        let mut asked = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    pub fn step(&self) -> Step {
        let inner = &self.0;
        for task in std::mem::take(&mut *lock(&inner.woken)) {
            // It may have ended since.
            if let Some(Some(of)) = inner.tasks.borrow().get(task) {
                inner.ready.borrow_mut().entry(of.lane).or_default().push_back(task);
            }
        }
        let next = {
            let mut ready = inner.ready.borrow_mut();
            let count = ready.len() as u64;
            let lane = (count > 0).then(|| inner.random.below(count) as usize);
            lane.map(|nth| {
                let lane = *ready.keys().nth(nth).expect("it was counted");
                let queue = ready.get_mut(&lane).expect("it was found");
                let task = queue.pop_front().expect("an empty queue is removed");
                if queue.is_empty() {
                    ready.remove(&lane);
                }
                (lane, task)
            })
        };
        match next {
            Some((lane, task)) => {
                self.turn(lane, task);
                Step::Turn
            }
            None => self.leap(),
        }
    }

    fn turn(&self, lane: Lane, number: usize) {
        let inner = &self.0;
        inner.turns.set(inner.turns.get() + 1);
        inner.now_ns.set(inner.now_ns.get() + 1 + inner.random.below(TURN_NS_MAX));
        let taken = inner.tasks.borrow_mut()[number].as_mut().and_then(|task| {
            task.woken.queued.store(false, Ordering::Relaxed);
            Some((task.future.take()?, task.waker.clone()))
        });
        let Some((mut future, waker)) = taken else { return };
        inner.trace.add(self.now_ns(), Event::Turn { lane: lane.0 });
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            if let Some(task) = &mut inner.tasks.borrow_mut()[number] {
                task.future = Some(future);
            }
            return;
        }
        inner.tasks.borrow_mut()[number] = None;
        inner.free.borrow_mut().push(number);
    }

    fn leap(&self) -> Step {
        let Some(Reverse(timer)) = self.0.timers.borrow_mut().pop() else { return Step::Nothing };
        self.0.now_ns.set(self.0.now_ns.get().max(timer.at_ns));
        (timer.call)();
        Step::Leap
    }

    /// Drops all tasks and timers, which hold each other and this.
    pub fn end(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        let timers = std::mem::take(&mut *self.0.timers.borrow_mut());
        drop(timers);
    }
}
