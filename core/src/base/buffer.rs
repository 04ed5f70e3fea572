//! Fixed-size I/O buffers of one worker, reused, with a ceiling.
//!
//! A buffer's 16 KiB are held only while there are bytes in it or it is being read into: whoever waits gives them back
//! ([`Buffer::park`]) and takes them again when something can be read ([`Buffer::ready`]). Bytes that must outlive a
//! wait (a request that may be sent again, pipelined requests) are kept at their own size on the worker's
//! [`KeptAccount`].
//!
//! The ceiling bounds a worker's memory: half of it is for requests and half for responses, so that no exchange waits
//! for a buffer that another one's other direction holds. Within each half a client's address, and one connection of
//! it, have a cap. Whoever finds no buffer queues. A buffer that comes back wakes one waiter, and the clients take
//! turns; a waiter that gives up passes its turn on.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::kept::KeptAccount;
use super::limits::{ADDRESS_BUFFERS_DIVISOR, BUFFER_BYTES, CONNECTION_BUFFERS_DIVISOR, FREE_BUFFERS_MAX};

/// The buffers of one worker.
#[derive(Debug)]
pub struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
    count_max: Cell<usize>,
    halves: [Half; 2],
    clients: RefCell<HashMap<IpAddr, Weak<Share>>>,
    kept: Rc<KeptAccount>,
}

/// Requests or responses.
#[derive(Debug, Default)]
struct Half {
    taken: Cell<usize>,
    /// Shares with waiters, in the order in which they get a buffer.
    turns: RefCell<VecDeque<Rc<Share>>>,
}

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To read a request into.
    Request,
    /// To read a response into.
    Response,
}

/// Whom buffers are counted to: a client's address, or one connection that carries many requests.
#[derive(Debug)]
pub struct Share {
    pool: Rc<BufferPool>,
    of: Of,
    halves: [ShareHalf; 2],
}

#[derive(Debug)]
enum Of {
    Address(IpAddr),
    Connection(Rc<Share>),
    /// Nobody in particular: only the ceiling counts.
    Nobody,
}

#[derive(Debug, Default)]
struct ShareHalf {
    taken: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    /// It stands in the pool's `turns`.
    listed: Cell<bool>,
}

#[derive(Debug, Default)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    granted: Cell<bool>,
}

impl BufferPool {
    /// A pool that hands out at most `bytes_max` bytes at a time (rounded down to whole buffers, at least four). What
    /// outlives a wait is on the account `kept`.
    pub fn new(bytes_max: u64, kept: &Rc<KeptAccount>) -> Rc<Self> {
        let pool = Self {
            free: RefCell::default(),
            count_max: Cell::new(0),
            halves: Default::default(),
            clients: RefCell::default(),
            kept: Rc::clone(kept),
        };
        pool.resize(bytes_max);
        Rc::new(pool)
    }

    /// Changes the ceiling; buffers already out stay out.
    pub fn resize(&self, bytes_max: u64) {
        self.count_max.set(usize::try_from(bytes_max / BUFFER_BYTES as u64).unwrap_or(usize::MAX).max(4));
        self.serve_waiters(Purpose::Request);
        self.serve_waiters(Purpose::Response);
    }

    /// The share of a client's address: all its connections have it together. A network of IPv6 that one client is
    /// given (64 bits) counts as one address. `None` has no cap of its own.
    pub fn share(self: &Rc<Self>, address: Option<IpAddr>) -> Rc<Share> {
        let Some(address) = address.map(client) else { return Share::new(self, Of::Nobody) };
        let mut clients = self.clients.borrow_mut();
        if let Some(share) = clients.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        let share = Share::new(self, Of::Address(address));
        clients.insert(address, Rc::downgrade(&share));
        share
    }

    /// Buffers in use now.
    pub fn taken(&self) -> usize {
        self.halves.iter().map(|half| half.taken.get()).sum()
    }

    /// Buffers kept for reuse.
    pub fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// How many wait for a buffer.
    pub fn waiting(&self) -> usize {
        let of = |p: usize| {
            let turns = self.halves[p].turns.borrow();
            turns.iter().map(|share| share.halves[p].waiting.borrow().len()).sum::<usize>()
        };
        of(0) + of(1)
    }

    /// Gives half of the spare buffers back to the allocator; called now and then, so that a burst's memory is returned.
    pub fn trim(&self) {
        let mut free = self.free.borrow_mut();
        let keep = free.len().div_ceil(2);
        free.truncate(keep);
    }

    fn half_max(&self) -> usize {
        self.count_max.get() / 2
    }

    /// Grants buffers, one share after another, for as long as there are any.
    fn serve_waiters(&self, purpose: Purpose) {
        let p = purpose as usize;
        let half = &self.halves[p];
        let mut turns = half.turns.borrow_mut();
        let mut passed = 0;
        while passed < turns.len() && half.taken.get() < self.half_max() {
            let Some(share) = turns.pop_front() else { return };
            let mine = &share.halves[p];
            passed += 1;
            if share.may_take(purpose)
                && let Some(waiter) = mine.waiting.borrow_mut().pop_front()
            {
                share.count(purpose);
                waiter.granted.set(true);
                if let Some(waker) = waiter.waker.take() {
                    waker.wake();
                }
                passed = 0;
            }
            if mine.waiting.borrow().is_empty() {
                mine.listed.set(false);
            } else {
                turns.push_back(share);
            }
        }
    }
}

/// The address that stands for a client.
pub(super) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Share {
    fn new(pool: &Rc<BufferPool>, of: Of) -> Rc<Self> {
        Rc::new(Self { pool: Rc::clone(pool), of, halves: Default::default() })
    }

    /// The share of one connection of this client.
    pub fn connection(self: &Rc<Self>) -> Rc<Self> {
        Self::new(&self.pool, Of::Connection(Rc::clone(self)))
    }

    /// An empty buffer. Waits while the half, the client or the connection has as many as it may.
    pub fn take(self: &Rc<Self>, purpose: Purpose) -> Take<'_> {
        Take { share: self, purpose, waiter: None }
    }

    fn max(&self) -> usize {
        let divisor = match self.of {
            Of::Address(_) => ADDRESS_BUFFERS_DIVISOR,
            Of::Connection(_) => CONNECTION_BUFFERS_DIVISOR,
            Of::Nobody => 1,
        };
        (self.pool.half_max() / divisor).max(1)
    }

    fn parent(&self) -> Option<&Rc<Self>> {
        if let Of::Connection(parent) = &self.of { Some(parent) } else { None }
    }

    fn may_take(&self, purpose: Purpose) -> bool {
        self.halves[purpose as usize].taken.get() < self.max()
            && self.parent().is_none_or(|parent| parent.may_take(purpose))
    }

    /// Takes a place, unless somebody waits already, or it would be more than it may have.
    fn try_count(&self, purpose: Purpose) -> bool {
        let half = &self.pool.halves[purpose as usize];
        let may = half.turns.borrow().is_empty()
            && half.taken.get() < self.pool.half_max()
            && self.may_take(purpose);
        if may {
            self.count(purpose);
        }
        may
    }

    /// The memory of a buffer that is counted.
    fn bytes(&self) -> Box<[u8]> {
        let free = self.pool.free.borrow_mut().pop();
        free.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn count(&self, purpose: Purpose) {
        let p = purpose as usize;
        let add = |taken: &Cell<usize>| taken.set(taken.get() + 1);
        add(&self.pool.halves[p].taken);
        add(&self.halves[p].taken);
        if let Some(parent) = self.parent() {
            add(&parent.halves[p].taken);
        }
    }

    /// A buffer is not used any more: its place goes to whoever is next.
    fn give_back(&self, purpose: Purpose) {
        let p = purpose as usize;
        let sub = |taken: &Cell<usize>| taken.set(taken.get() - 1);
        sub(&self.pool.halves[p].taken);
        sub(&self.halves[p].taken);
        if let Some(parent) = self.parent() {
            sub(&parent.halves[p].taken);
        }
        if !self.pool.halves[p].turns.borrow().is_empty() {
            self.pool.serve_waiters(purpose);
        }
    }

    /// Three quarters of what may be taken are.
    fn is_scarce(&self, purpose: Purpose) -> bool {
        let p = purpose as usize;
        let scarce = |taken: &Cell<usize>, max: usize| taken.get() >= max - max / 4;
        scarce(&self.pool.halves[p].taken, self.pool.half_max())
            || scarce(&self.halves[p].taken, self.max())
            || self.parent().is_some_and(|parent| scarce(&parent.halves[p].taken, parent.max()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Of::Address(address) = self.of {
            self.pool.clients.borrow_mut().remove(&address);
        }
    }
}

/// The wait for a buffer; see [`Share::take`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Take<'s> {
    share: &'s Rc<Share>,
    purpose: Purpose,
    waiter: Option<Rc<Waiter>>,
}

impl Take<'_> {
    fn buffer(&self) -> Buffer {
        Buffer {
            bytes: self.share.bytes(),
            start: 0,
            end: 0,
            held: Held::Pooled,
            purpose: self.purpose,
            share: Rc::clone(self.share),
        }
    }
}

impl Future for Take<'_> {
    type Output = Buffer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Buffer> {
        let (share, purpose) = (self.share, self.purpose);
        let half = &share.pool.halves[purpose as usize];
        if self.waiter.is_none() {
            if share.try_count(purpose) {
                return Poll::Ready(self.buffer());
            }
            let (mine, waiter) = (&share.halves[purpose as usize], Rc::<Waiter>::default());
            mine.waiting.borrow_mut().push_back(Rc::clone(&waiter));
            if !mine.listed.replace(true) {
                half.turns.borrow_mut().push_back(Rc::clone(share));
            }
            self.waiter = Some(waiter);
            // Those before may be at caps of their own, and this one not.
            share.pool.serve_waiters(purpose);
        }
        let Some(waiter) = &self.waiter else { return Poll::Pending };
        if waiter.granted.get() {
            self.waiter = None;
            return Poll::Ready(self.buffer());
        }
        *waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        let Some(waiter) = &self.waiter else { return };
        if waiter.granted.get() {
            self.share.give_back(self.purpose);
            return;
        }
        let p = self.purpose as usize;
        let mine = &self.share.halves[p];
        let mut waiting = mine.waiting.borrow_mut();
        // Those who have waited longest give up first: it is found at the front.
        if let Some(at) = waiting.iter().position(|w| Rc::ptr_eq(w, waiter)) {
            waiting.remove(at);
        }
        if waiting.is_empty() && mine.listed.replace(false) {
            self.share.pool.halves[p].turns.borrow_mut().retain(|share| !Rc::ptr_eq(share, self.share));
        }
    }
}

/// Bytes read and not yet consumed. Its 16 KiB go back to the pool when it is parked or dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    held: Held,
    purpose: Purpose,
    share: Rc<Share>,
}

/// What a buffer's bytes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// 16 KiB of the pool.
    Pooled,
    /// A piece of memory of their own size.
    Parked,
    /// There are none.
    Nothing,
}

impl Buffer {
    /// One without bytes and without memory.
    pub fn nothing(share: &Rc<Share>, purpose: Purpose) -> Self {
        Self {
            bytes: Box::default(),
            start: 0,
            end: 0,
            held: Held::Nothing,
            purpose,
            share: Rc::clone(share),
        }
    }

    /// Gives the 16 KiB back. The bytes that are in it stay, at their own size; if the account has no room for them, all
    /// is as it was. Before more can be read, it must be made [`ready`](Self::ready).
    pub fn park(&mut self) {
        if self.is_empty() {
            self.free();
            return;
        }
        let filled = self.filled();
        if self.held != Held::Pooled || !self.share.pool.kept.reserve(filled.len()) {
            return;
        }
        let kept: Box<[u8]> = filled.into();
        self.free();
        (self.end, self.held) = (kept.len(), Held::Parked);
        self.bytes = kept;
    }

    /// Parks it if others may soon have to wait for a buffer.
    pub fn park_if_scarce(&mut self) {
        if self.held == Held::Pooled && self.share.is_scarce(self.purpose) {
            self.park();
        }
    }

    /// Takes 16 KiB if it has none, so that [`spare`](Self::spare) has room. Waits as [`Share::take`] does; may be
    /// dropped at any time.
    pub async fn ready(&mut self) {
        if !self.try_ready() {
            let fresh = self.share.take(self.purpose).await;
            self.move_to(fresh);
        }
    }

    /// The same without a wait; false where there would be one.
    #[inline]
    pub fn try_ready(&mut self) -> bool {
        if self.held == Held::Pooled {
            return true;
        }
        if !self.share.try_count(self.purpose) {
            return false;
        }
        let bytes = self.share.bytes();
        if self.held == Held::Nothing {
            (self.bytes, self.held) = (bytes, Held::Pooled);
        } else {
            let fresh = Self {
                bytes,
                start: 0,
                end: 0,
                held: Held::Pooled,
                purpose: self.purpose,
                share: Rc::clone(&self.share),
            };
            self.move_to(fresh);
        }
        true
    }

    fn move_to(&mut self, mut fresh: Self) {
        let filled = self.filled();
        fresh.bytes[..filled.len()].copy_from_slice(filled);
        fresh.end = filled.len();
        *self = fresh;
    }

    /// Gives all memory back.
    fn free(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        (self.start, self.end) = (0, 0);
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Pooled => {
                let mut free = self.share.pool.free.borrow_mut();
                if free.len() < FREE_BUFFERS_MAX {
                    free.push(bytes);
                }
                drop(free);
                self.share.give_back(self.purpose);
            }
            Held::Parked => self.share.pool.kept.give_back(bytes.len()),
            Held::Nothing => {}
        }
    }

    /// The bytes read and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Room behind them: none in a buffer that is not [`ready`](Self::ready).
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Counts `n` bytes, just written into [`spare`](Self::spare), as filled.
    pub fn fill(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Drops the first `n` filled bytes.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Moves the filled bytes to the front, so that all room is behind them.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Takes the buffer with its bytes out of its place, which is left without any.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let nothing = Self::nothing(&self.share, self.purpose);
        std::mem::replace(self, nothing)
    }

    /// No bytes are held.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// No room is left behind the filled bytes, nor would be in a buffer made ready.
    pub fn is_full(&self) -> bool {
        self.end == BUFFER_BYTES
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.free();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::{Buffer, BufferPool, KeptAccount, Purpose, Share, Take};
    use crate::base::limits::BUFFER_BYTES;

    fn pool(buffers: u64) -> Rc<BufferPool> {
        let bytes = buffers * BUFFER_BYTES as u64;
        BufferPool::new(bytes, &KeptAccount::new(bytes))
    }

    fn poll<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(buffer) => Some(buffer),
            Poll::Pending => None,
        }
    }

    fn take(share: &Rc<Share>, purpose: Purpose) -> Option<Buffer> {
        poll(share.take(purpose))
    }

    fn take_many(share: &Rc<Share>, count: usize) -> Vec<Buffer> {
        (0..count).map(|_| take(share, Purpose::Request).unwrap()).collect()
    }

    fn address(pool: &Rc<BufferPool>, last: u8) -> Rc<Share> {
        pool.share(Some([192, 0, 2, last].into()))
    }

    fn put(buffer: &mut Buffer, bytes: &[u8]) {
        buffer.spare()[..bytes.len()].copy_from_slice(bytes);
        buffer.fill(bytes.len());
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_granted(take: &mut Pin<Box<Take<'_>>>, woken: &Arc<Woken>) -> Option<Buffer> {
        let waker = Waker::from(Arc::clone(woken));
        match take.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(buffer) => Some(buffer),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_ceiling_holds_and_buffers_come_back() {
        let pool = pool(8);
        let nobody = pool.share(None);
        let mut taken = take_many(&nobody, 4);
        assert!(take(&nobody, Purpose::Request).is_none(), "requests take half");
        taken.extend((0..4).map(|_| take(&nobody, Purpose::Response).unwrap()));
        assert!(take(&nobody, Purpose::Response).is_none(), "responses take the other half");
        taken.remove(0);
        assert!(take(&nobody, Purpose::Request).is_some());
        drop(taken);
        assert_eq!((pool.taken(), pool.free(), pool.waiting()), (0, 8, 0));
        pool.trim();
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn neither_a_client_nor_a_connection_takes_all() {
        let pool = pool(64);
        let (one, other) = (address(&pool, 1), address(&pool, 2));
        assert!(Rc::ptr_eq(&one, &address(&pool, 1)));
        let connection = one.connection();
        let mut taken = take_many(&connection, 8);
        assert!(take(&connection, Purpose::Request).is_none(), "a quarter of the half is a connection's");
        taken.extend(take_many(&one, 8));
        assert!(take(&one, Purpose::Request).is_none(), "half of the half is a client's");
        assert!(take(&one.connection(), Purpose::Request).is_none(), "with all its connections");
        assert!(take(&one, Purpose::Response).is_some(), "the other direction is another matter");
        taken.extend(take_many(&other, 16));
        drop(taken);
        drop((one, other, connection));
        assert_eq!((pool.taken(), pool.clients.borrow().len()), (0, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let pool = pool(64);
        let share = |text: &str| pool.share(Some(text.parse().unwrap()));
        let one = share("2001:db8::1");
        assert!(Rc::ptr_eq(&one, &share("2001:db8::ffff:1")));
        assert!(!Rc::ptr_eq(&one, &share("2001:db8:0:1::1")));
        let mapped = share("::ffff:192.0.2.1");
        assert!(Rc::ptr_eq(&mapped, &address(&pool, 1)));
    }

    #[test]
    fn one_buffer_wakes_one_waiter_and_clients_take_turns() {
        let pool = pool(8);
        let (greedy, modest, holder) = (address(&pool, 1), address(&pool, 2), pool.share(None));
        let mut held = take_many(&holder, 4);
        let woken = Arc::<Woken>::default();
        let mut first: Vec<_> = (0..3).map(|_| Box::pin(greedy.take(Purpose::Request))).collect();
        let mut second = Box::pin(modest.take(Purpose::Request));
        for take in first.iter_mut().chain([&mut second]) {
            assert!(is_granted(take, &woken).is_none());
        }
        assert_eq!(pool.waiting(), 4);
        held.pop();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let one = is_granted(&mut first[0], &woken).expect("the first who came");
        assert!(is_granted(&mut first[1], &woken).is_none());
        held.pop();
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        let two = is_granted(&mut second, &woken).expect("the other client, before the first one's next");
        drop((one, two));
        assert_eq!(pool.waiting(), 0);
        drop(first);
        drop(held);
        assert_eq!((pool.taken(), pool.waiting()), (0, 0), "what was granted and not taken is back");
    }

    #[test]
    fn a_waiter_that_goes_passes_its_turn_on() {
        let pool = pool(8);
        let (share, holder) = (address(&pool, 1), pool.share(None));
        let mut held = take_many(&holder, 4);
        let woken = Arc::<Woken>::default();
        let mut waiters: Vec<_> = (0..3).map(|_| Box::pin(share.take(Purpose::Request))).collect();
        for take in &mut waiters {
            assert!(is_granted(take, &woken).is_none());
        }
        drop(waiters.remove(1));
        held.pop();
        // It has been granted a buffer, and goes without having looked.
        drop(waiters.remove(0));
        let last = is_granted(&mut waiters[0], &woken).expect("the turn of those who went");
        drop((last, waiters, held));
        assert_eq!((pool.taken(), pool.waiting()), (0, 0));
    }

    #[test]
    fn a_waiter_at_its_cap_keeps_nobody_waiting() {
        let pool = pool(64);
        let (full, other) = (address(&pool, 1), address(&pool, 2));
        let held = take_many(&full, 16);
        let woken = Arc::<Woken>::default();
        let mut waiter = Box::pin(full.take(Purpose::Request));
        assert!(is_granted(&mut waiter, &woken).is_none());
        let taken = take_many(&other, 16);
        assert!(is_granted(&mut waiter, &woken).is_none());
        drop(held);
        assert!(is_granted(&mut waiter, &woken).is_some());
        drop(taken);
    }

    #[test]
    fn a_higher_ceiling_serves_who_waits() {
        let pool = pool(8);
        let share = pool.share(None);
        let held = take_many(&share, 4);
        let woken = Arc::<Woken>::default();
        let mut waiter = Box::pin(share.take(Purpose::Request));
        assert!(is_granted(&mut waiter, &woken).is_none());
        pool.resize(16 * BUFFER_BYTES as u64);
        assert!(is_granted(&mut waiter, &woken).is_some());
        drop(held);
    }

    #[test]
    fn what_is_parked_is_held_at_its_own_size() {
        let pool = pool(8);
        let share = pool.share(None);
        let mut buffer = take(&share, Purpose::Request).unwrap();
        put(&mut buffer, b"GET / and more");
        buffer.consume(6);
        buffer.park();
        assert_eq!((buffer.filled(), pool.taken(), pool.kept.bytes()), (&b"and more"[..], 0, 8));
        assert!(buffer.spare().is_empty() && !buffer.is_full());
        buffer.consume(4);
        poll(buffer.ready()).unwrap();
        assert_eq!((buffer.filled(), pool.taken(), pool.kept.bytes()), (&b"more"[..], 1, 0));
        assert_eq!(buffer.spare().len(), BUFFER_BYTES - 4);
        buffer.park();
        buffer.consume(4);
        buffer.park();
        assert_eq!((buffer.is_empty(), pool.taken(), pool.kept.bytes()), (true, 0, 0));
        poll(buffer.ready()).unwrap();
        buffer.park();
        assert_eq!((pool.taken(), pool.kept.bytes()), (0, 0));
    }

    #[test]
    fn without_room_on_the_account_a_buffer_stays_as_it_is() {
        let (account, bytes) = (KeptAccount::new(16), 8 * BUFFER_BYTES as u64);
        let pool = BufferPool::new(bytes, &account);
        let mut buffer = take(&pool.share(None), Purpose::Request).unwrap();
        put(&mut buffer, b"hello");
        buffer.park();
        assert_eq!((buffer.filled(), pool.taken(), account.bytes()), (&b"hello"[..], 1, 0));
        assert_eq!(account.refusals(), 0, "nothing is lost by it");
    }

    #[test]
    fn it_is_parked_early_where_buffers_are_scarce() {
        let pool = pool(64);
        let share = address(&pool, 1);
        let mut taken = take_many(&share, 12);
        put(&mut taken[0], b"x");
        taken[0].park_if_scarce();
        assert_eq!(pool.taken(), 11, "three quarters of a client's share");
        put(&mut taken[1], b"x");
        taken[1].park_if_scarce();
        assert_eq!(pool.taken(), 11);
    }

    #[test]
    fn a_buffer_fills_consumes_and_compacts() {
        let mut buffer = take(&pool(1 << 20).share(None), Purpose::Response).unwrap();
        put(&mut buffer, b"hello");
        buffer.consume(2);
        assert_eq!(buffer.filled(), b"llo");
        buffer.compact();
        assert_eq!(buffer.filled(), b"llo");
        assert_eq!(buffer.spare().len(), BUFFER_BYTES - 3);
        buffer.consume(3);
        assert!(buffer.is_empty() && buffer.spare().len() == BUFFER_BYTES);
    }
}
