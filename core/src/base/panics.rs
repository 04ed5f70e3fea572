//! What becomes of a panic: it ends the task that it happened in, is counted on its thread, and is noted with its place
//! for the journal. Nothing here writes, and nothing waits: a worker must not stand still because it has failed.
//!
//! Contained tasks are worth their price, which is none: catching costs a poll one call through a pointer and no
//! allocation.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::future::Future;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::{Mutex, Once, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::limits::{PANIC_MESSAGE_CHARS_MAX, PANIC_NOTE_WINDOW_MS, PANIC_PLACES_MAX};

/// Something has panicked, and is over. What there was to say has been noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

thread_local! {
    /// Panics of this thread are ours to note.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Panics caught on this thread.
    static CAUGHT: Cell<u64> = const { Cell::new(0) };
    /// Where and why this thread has panicked last.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From here on panics of the calling thread are noted, not printed.
pub fn watch_thread() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if WATCHED.get() {
                note(info);
            } else {
                previous(info);
            }
        }));
    });
    WATCHED.set(true);
}

/// How many panics were caught on this thread.
pub fn caught() -> u64 {
    CAUGHT.get()
}

/// Where and why this thread has panicked last; empty if it has not.
pub fn last() -> String {
    LAST.with_borrow(String::clone)
}

/// Calls `what`. A panic ends it and nothing else.
pub fn catch<T>(what: impl FnOnce() -> T) -> Result<T, Panicked> {
    // What a panic leaves half changed belongs to what is over now, or is released by drops: guards of cells among it.
    catch_unwind(AssertUnwindSafe(what)).map_err(|payload| {
        CAUGHT.set(CAUGHT.get() + 1);
        discard(payload);
        Panicked
    })
}

/// A payload may be anything, and panic when it is dropped.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
}

pin_project_lite::pin_project! {
    /// See [`contain`].
    #[derive(Debug)]
    pub struct Contained<F> {
        #[pin]
        future: Option<F>,
    }
}

/// A future whose panic ends it and nothing else: what it holds is dropped at once.
pub fn contain<F: Future>(future: F) -> Contained<F> {
    Contained { future: Some(future) }
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(Err(Panicked)) };
        match catch(|| future.poll(cx)) {
            Ok(poll) => poll.map(Ok),
            Err(panicked) => {
                // Here, where another panic is caught as well.
                let _ = catch(|| this.future.set(None));
                Poll::Ready(Err(panicked))
            }
        }
    }
}

/// What has panicked where, and how often since the journal was told.
#[derive(Debug)]
struct Note {
    place: String,
    message: String,
    unsaid: u64,
    said: Option<Instant>,
}

static NOTES: Mutex<Vec<Note>> = Mutex::new(Vec::new());

/// The hook. Runs on the thread that panics, before it unwinds.
fn note(info: &PanicHookInfo<'_>) {
    let mut place = String::new();
    match info.location() {
        Some(at) => {
            let _ = write!(place, "{}:{}", at.file(), at.line());
        }
        None => place.push_str("an unknown place"),
    }
    let said = info.payload();
    let said =
        said.downcast_ref::<&str>().copied().or_else(|| said.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("no message");
    // One line, whatever it was made of.
    let message: String =
        said.chars().take(PANIC_MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Both borrows end here: a second panic finds the thread as it was.
    let _ = LAST.try_with(|last| last.try_borrow_mut().map(|mut last| *last = format!("{place}: {message}")));
    // Held for a few comparisons only; should another thread hold it just now, its lines have to do.
    let Ok(mut notes) = NOTES.try_lock() else { return };
    if let Some(known) = notes.iter_mut().find(|note| note.place == place) {
        known.unsaid += 1;
        known.message = message;
    } else if notes.len() < PANIC_PLACES_MAX {
        notes.push(Note { place, message, unsaid: 1, said: None });
    }
}

/// Lines for the journal: each place once a window, with how often.
pub fn take_notes() -> Vec<String> {
    let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    let window = Duration::from_millis(PANIC_NOTE_WINDOW_MS);
    let mut lines = Vec::new();
    for note in notes.iter_mut() {
        if note.unsaid == 0 || note.said.is_some_and(|said| now.duration_since(said) < window) {
            continue;
        }
        let Note { place, message, unsaid, .. } = note;
        let times = if *unsaid == 1 { String::new() } else { format!(", {unsaid} times") };
        lines.push(format!("panic at {place}: {message}{times}"));
        note.unsaid = 0;
        note.said = Some(now);
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use super::{Future, Panicked, caught, contain, last, take_notes, watch_thread};

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Counts its drops, and panics in them if told to.
    struct Held(Rc<Cell<u32>>, bool);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            assert!(!self.1 || std::thread::panicking(), "in a drop");
        }
    }

    #[test]
    fn a_panic_ends_its_future_releases_what_it_held_and_is_noted_with_its_place() {
        watch_thread();
        let (drops, cell) = (Rc::new(Cell::new(0)), Rc::new(std::cell::RefCell::new(0)));
        let (held, borrowed) = (Held(Rc::clone(&drops), false), Rc::clone(&cell));
        let mut future = pin!(contain(async move {
            let _held = held;
            ready(()).await;
            let _guard = borrowed.borrow_mut();
            panic!("a message\nof two lines");
        }));
        let before = caught();
        let outcome: Poll<Result<(), Panicked>> = poll(future.as_mut());
        assert_eq!(outcome, Poll::Ready(Err(Panicked)));
        assert_eq!((drops.get(), caught() - before), (1, 1));
        assert!(cell.try_borrow_mut().is_ok(), "a guard of a cell goes with its holder");
        assert!(last().contains("panics.rs:") && last().ends_with(": a message of two lines"), "{}", last());
        let lines = take_notes();
        assert!(
            lines.iter().any(|line| line.contains("panics.rs") && line.contains("a message of")),
            "{lines:?}"
        );
        assert_eq!(poll(future), Poll::Ready(Err(Panicked)), "asked once more it is still over");
    }

    #[test]
    fn a_panic_while_a_future_is_dropped_after_its_panic_is_caught_as_well() {
        /// Not an async block: what it holds is dropped with it, not by the unwinding.
        struct Rude(#[allow(dead_code)] Held);
        impl Future for Rude {
            type Output = ();
            fn poll(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
                panic!("first");
            }
        }
        watch_thread();
        let drops = Rc::new(Cell::new(0));
        let outcome = poll(pin!(contain(Rude(Held(Rc::clone(&drops), true)))));
        assert_eq!((outcome, drops.get()), (Poll::Ready(Err(Panicked)), 1));
    }

    #[test]
    fn what_does_not_panic_is_left_alone() {
        assert_eq!(poll(pin!(contain(ready(7)))), Poll::Ready(Ok(7)));
        assert!(poll(pin!(contain(pending::<()>()))).is_pending());
    }
}
