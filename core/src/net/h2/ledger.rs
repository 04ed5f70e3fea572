//! What one HTTP/2 connection holds because somebody does not read, stream by stream, and which streams go if that is
//! too much for the worker ([`Backlog`]).
//!
//! Two sums for each stream: DATA that has come and that the request path has not taken, and body bytes that are written
//! and not framed yet. For the whole connection, what `wire` could not send or pass on. The connection's window follows
//! the first sum ([`Ledger::window`]): what stalled streams hold does not keep the others from sending.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

use super::guard::{Frames, kind};
use crate::base::backlog::Backlog;
use crate::base::reason::ReasonCode;

/// The reason code of what a stream or a connection loses by it.
pub(super) const REASON: ReasonCode = ReasonCode::H2Backlog;

/// A stream that can be given up from outside.
pub(super) trait Sheds {
    /// Resets the stream and drops what it holds. Whoever uses it is told why.
    fn shed(&self);
}

/// One connection's.
pub(super) struct Ledger {
    backlog: Rc<Backlog>,
    /// By the stream's number.
    entries: RefCell<Vec<Entry>>,
    arrivals: RefCell<Arrivals>,
    unread_bytes: Cell<usize>,
    queued_bytes: Cell<usize>,
    /// Of `wire`, as they were at the end of its last turn.
    spooled_bytes: Cell<usize>,
    /// Streams that were given up and not told of.
    shed_count: Cell<u32>,
    /// Streams that wait until more may be written.
    writers: RefCell<Vec<Waker>>,
}

struct Entry {
    number: u32,
    /// `None`: the request path is done with it, and the last of its body is on its way.
    stream: Option<Weak<dyn Sheds>>,
    /// Has come and was not taken.
    unread_bytes: usize,
    /// Is written and not framed.
    queued_bytes: usize,
}

/// Finds DATA frames in what comes. A frame counts when it is complete, as for the h2 crate.
#[derive(Default)]
struct Arrivals {
    frames: Frames,
    /// The frame whose end has not come: its stream and length, if it is DATA.
    current: Option<(u32, usize)>,
}

/// What became of a connection that held too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Nothing: it is within its bounds.
    Within,
    /// Streams were given up.
    Shed,
    /// Its streams hold too little: what weighs is what the peer does not take from the connection.
    MustEnd,
}

impl Ledger {
    /// `preface_bytes` come before the first frame.
    pub(super) fn new(backlog: Rc<Backlog>, preface_bytes: u32) -> Rc<Self> {
        Rc::new(Self {
            backlog,
            entries: RefCell::default(),
            arrivals: RefCell::new(Arrivals { frames: Frames::after(preface_bytes), current: None }),
            unread_bytes: Cell::new(0),
            queued_bytes: Cell::new(0),
            spooled_bytes: Cell::new(0),
            shed_count: Cell::new(0),
            writers: RefCell::default(),
        })
    }

    /// A stream that is served. `unread_bytes` of it have come already.
    pub(super) fn enter(&self, number: u32, stream: Weak<dyn Sheds>, unread_bytes: usize) {
        let mut entries = self.entries.borrow_mut();
        let at = entries.partition_point(|entry| entry.number < number);
        entries.insert(at, Entry { number, stream: Some(stream), unread_bytes, queued_bytes: 0 });
        drop(entries);
        change(&self.unread_bytes, 0, unread_bytes);
        self.count();
    }

    /// Nobody reads or writes this stream any more. What is written still goes out.
    pub(super) fn leave(&self, number: u32) {
        self.update(number, |entry| {
            entry.stream = None;
            entry.unread_bytes = 0;
        });
    }

    /// The request path took so much of what had come.
    pub(super) fn took(&self, number: u32, bytes: usize) {
        self.update(number, |entry| entry.unread_bytes = entry.unread_bytes.saturating_sub(bytes));
    }

    /// A body's bytes, counted as long as they wait to be framed.
    pub(super) fn payload(self: &Rc<Self>, number: u32, bytes: &[u8]) -> Payload {
        let counted = self.update(number, |entry| entry.queued_bytes += bytes.len());
        Payload {
            bytes: Bytes::copy_from_slice(bytes),
            counted: if counted { bytes.len() } else { 0 },
            number,
            ledger: Rc::clone(self),
        }
    }

    /// Bytes that the h2 crate was given to read.
    pub(super) fn arrived(&self, mut bytes: &[u8]) {
        let arrivals = &mut *self.arrivals.borrow_mut();
        loop {
            let next = arrivals.frames.next(&mut bytes);
            if (next.is_some() || arrivals.frames.is_complete())
                && let Some((number, length)) = arrivals.current.take()
            {
                self.update(number, |entry| {
                    if entry.stream.is_some() {
                        entry.unread_bytes += length;
                    }
                });
            }
            let Some(frame) = next else { return };
            let length = frame.payload_bytes as usize;
            arrivals.current = (frame.kind == kind::DATA && length > 0).then_some((frame.stream, length));
        }
    }

    /// What `wire` holds at the end of its turn.
    pub(super) fn spooled(&self, bytes: usize) {
        self.spooled_bytes.set(bytes);
        self.count();
    }

    /// If the connection was asked to let go of something, the streams that hold most go, until that is done.
    pub(super) fn settle(&self) -> Settled {
        let Some(asked) = self.backlog.asked() else { return Settled::Within };
        self.backlog.let_go();
        let goal = self.bytes().saturating_sub(asked);
        let mut settled = Settled::Within;
        while self.bytes() > goal {
            let Some((number, heaviest)) = self.heaviest() else { return Settled::MustEnd };
            heaviest.shed();
            self.leave(number);
            self.shed_count.set(self.shed_count.get() + 1);
            settled = Settled::Shed;
        }
        settled
    }

    /// Waits until the connection is asked.
    pub(super) fn poll_asked(&self, cx: &Context<'_>) -> Poll<()> {
        self.backlog.poll_asked(cx)
    }

    /// Bytes of bodies may be written: what waits to be sent has not reached half of what the connection should hold.
    pub(super) fn may_write(&self) -> bool {
        let bytes_max = (self.backlog.bytes_max() / 2).max(FRAME_BYTES);
        self.queued_bytes.get() + self.spooled_bytes.get() < bytes_max
    }

    /// Waits until that is so.
    pub(super) fn poll_may_write(&self, cx: &Context<'_>) -> Poll<()> {
        if self.may_write() {
            return Poll::Ready(());
        }
        let mut writers = self.writers.borrow_mut();
        if !writers.iter().any(|writer| writer.will_wake(cx.waker())) {
            writers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The window of a stream: as configured, but at most a quarter of what the connection should hold.
    pub(super) fn stream_window(&self, configured: u32) -> u32 {
        configured.min(clamp(self.backlog.bytes_max() / 4).max(FRAME_BYTES as u32))
    }

    /// The window of a connection of which nothing is unread: as configured, but at most half of what it should hold.
    pub(super) fn connection_window(&self, configured: u32) -> u32 {
        configured.min(clamp(self.backlog.bytes_max() / 2).max(FIRST_WINDOW_BYTES))
    }

    /// What one stream may have written that is not framed.
    pub(super) fn send_bytes(&self) -> usize {
        SEND_BUFFER_BYTES.min((self.backlog.bytes_max() / 4).max(FRAME_BYTES))
    }

    /// A stream has been given up that nobody was told of.
    pub(super) fn take_shed(&self) -> bool {
        let count = self.shed_count.get();
        self.shed_count.set(count.saturating_sub(1));
        count > 0
    }

    /// The window that the connection should have, of which what is unread takes its part: `window` and as much as that,
    /// up to what one connection may hold, and as long as there is room. In steps, each worth a `WINDOW_UPDATE`.
    pub(super) fn window(&self, window: u32) -> u32 {
        let step = (window / 2).max(1);
        let (bytes_max, unread) = (clamp(self.backlog.bytes_max()), clamp(self.unread_bytes.get()));
        if unread < step || !self.backlog.has_room() {
            return window;
        }
        let grown = (unread / step).saturating_mul(step).saturating_add(window);
        grown.min(bytes_max).max(window)
    }

    fn bytes(&self) -> usize {
        self.unread_bytes.get() + self.queued_bytes.get() + self.spooled_bytes.get()
    }

    fn count(&self) {
        let bytes = self.bytes();
        if bytes != self.backlog.bytes() {
            self.backlog.hold(bytes);
        }
        let mut writers = self.writers.borrow_mut();
        if !writers.is_empty() && self.may_write() {
            writers.drain(..).for_each(Waker::wake);
        }
    }

    fn heaviest(&self) -> Option<(u32, Rc<dyn Sheds>)> {
        let entries = self.entries.borrow();
        let served = entries.iter().filter(|entry| entry.stream.is_some());
        let heaviest = served.max_by_key(|entry| entry.unread_bytes + entry.queued_bytes)?;
        let weighs = heaviest.unread_bytes + heaviest.queued_bytes > 0;
        let stream = heaviest.stream.as_ref().filter(|_| weighs)?.upgrade()?;
        Some((heaviest.number, stream))
    }

    /// Changes an entry, and all sums with it. False: there is none.
    fn update(&self, number: u32, apply: impl FnOnce(&mut Entry)) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Ok(at) = entries.binary_search_by_key(&number, |entry| entry.number) else { return false };
        let entry = &mut entries[at];
        let (unread, queued) = (entry.unread_bytes, entry.queued_bytes);
        apply(entry);
        change(&self.unread_bytes, unread, entry.unread_bytes);
        change(&self.queued_bytes, queued, entry.queued_bytes);
        if entry.stream.is_none() && entry.queued_bytes == 0 {
            entries.remove(at);
        }
        drop(entries);
        self.count();
        true
    }
}

/// RFC 9113 section 6.9.1.
const WINDOW_BYTES_MAX: u32 = i32::MAX as u32;

/// RFC 9113 section 6.9.2: what a connection begins with. It can't be less.
const FIRST_WINDOW_BYTES: u32 = 65_535;

/// The largest frame, if nobody has asked for larger ones (RFC 9113 section 4.2): less than one of it would only cost turns.
const FRAME_BYTES: usize = 16 * 1024;

/// Bytes of one stream's body that may wait for the peer's window or the socket.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

fn clamp(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(WINDOW_BYTES_MAX).min(WINDOW_BYTES_MAX)
}

fn change(sum: &Cell<usize>, before: usize, after: usize) {
    sum.set(sum.get() - before + after);
}

/// A piece of a body that the h2 crate holds until it is framed, or until its stream is over.
pub(super) struct Payload {
    bytes: Bytes,
    counted: usize,
    number: u32,
    ledger: Rc<Ledger>,
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.ledger.update(self.number, |entry| entry.queued_bytes -= self.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::{Rc, Weak};

    use super::{Ledger, Settled, Sheds};
    use crate::base::backlog::{Backlog, BacklogAccount};

    #[derive(Default)]
    struct Stream {
        shed: Cell<bool>,
    }

    impl Sheds for Stream {
        fn shed(&self) {
            self.shed.set(true);
        }
    }

    /// Of a connection that may hold 64 KiB; its address 256 KiB, all together 512 KiB.
    fn ledger() -> (Rc<Ledger>, Rc<BacklogAccount>) {
        let account = BacklogAccount::new(1 << 20);
        let backlog = Backlog::new(&account, Some([127, 0, 0, 1].into()));
        (Ledger::new(backlog, 0), account)
    }

    fn enter(ledger: &Ledger, number: u32) -> Rc<Stream> {
        let stream = Rc::new(Stream::default());
        let weak: Weak<Stream> = Rc::downgrade(&stream);
        ledger.enter(number, weak, 0);
        stream
    }

    fn frame(kind: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = (length as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0]);
        frame.extend(stream.to_be_bytes());
        frame.resize(9 + length, 0xaa);
        frame
    }

    #[test]
    fn data_counts_when_its_frame_is_whole_and_its_stream_is_served() {
        let frames = [frame(0, 3, 1_000), frame(1, 5, 50), frame(0, 5, 300), frame(0, 7, 9), frame(0, 3, 1)];
        let bytes = frames.concat();
        for piece in [1, 2, 9, 10, 333, bytes.len()] {
            let (ledger, account) = ledger();
            let _streams = [enter(&ledger, 3), enter(&ledger, 5)];
            ledger.arrived(&bytes[..1_008]);
            assert_eq!(account.bytes(), 0, "a byte is missing");
            bytes[1_008..].chunks(piece).for_each(|piece| ledger.arrived(piece));
            assert_eq!(account.bytes(), 1_301, "in pieces of {piece}");
            ledger.took(3, 1_000);
            // More than has come, as padding makes it look.
            ledger.took(5, 301);
            assert_eq!(account.bytes(), 1);
            ledger.leave(3);
            ledger.arrived(&frame(0, 3, 100));
            assert_eq!(account.bytes(), 0, "nobody holds what comes for a stream that is over");
        }
    }

    #[test]
    fn what_is_written_counts_until_it_is_framed_even_if_its_stream_is_over() {
        let (ledger, account) = ledger();
        let _stream = enter(&ledger, 1);
        let pieces = [ledger.payload(1, &[7; 100]), ledger.payload(1, &[7; 50])];
        ledger.leave(1);
        assert_eq!(account.bytes(), 150);
        drop(pieces);
        assert_eq!(account.bytes(), 0);
        drop(ledger.payload(1, &[7; 9]));
        assert!(account.bytes() == 0 && ledger.entries.borrow().is_empty());
    }

    #[test]
    fn the_window_grows_by_what_is_unread_as_far_as_there_is_room() {
        let account = BacklogAccount::new(256 << 20);
        let ledger = Ledger::new(Backlog::new(&account, None), 0);
        let _streams = [enter(&ledger, 1), enter(&ledger, 3)];
        assert_eq!(ledger.window(1 << 20), 1 << 20);
        for _ in 0..16 {
            ledger.arrived(&frame(0, 1, 60_000));
        }
        assert_eq!(ledger.window(1 << 20), 3 << 19, "a window and the half that is unread whole");
        ledger.took(1, 16 * 60_000);
        assert_eq!(ledger.window(1 << 20), 1 << 20);
        for _ in 0..300 {
            ledger.arrived(&frame(0, 3, 60_000));
        }
        assert_eq!(ledger.window(1 << 20) as usize, account.connection_bytes_max());
        account.resize(64 << 20);
        assert_eq!(ledger.window(1 << 20), 1 << 20);
    }

    #[test]
    fn the_streams_that_hold_most_go_first() {
        let (ledger, account) = ledger();
        let streams = [1, 3, 5].map(|number| enter(&ledger, number));
        for (number, count) in [(1, 1), (3, 9), (5, 4)] {
            (0..count).for_each(|_| ledger.arrived(&frame(0, number, 16_384)));
        }
        assert_eq!(ledger.settle(), Settled::Within);
        // Beyond what the address may hold.
        (0..3).for_each(|_| ledger.arrived(&frame(0, 5, 16_384)));
        assert_eq!((ledger.settle(), account.bytes()), (Settled::Shed, 8 * 16_384));
        let shed = streams.each_ref().map(|stream| stream.shed.get());
        assert_eq!((shed, ledger.take_shed(), ledger.take_shed()), ([false, true, false], true, false));
        // What weighs is of no stream.
        ledger.spooled(256 << 10);
        assert_eq!(ledger.settle(), Settled::MustEnd);
    }
}
