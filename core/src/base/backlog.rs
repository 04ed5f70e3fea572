//! Bytes that connections hold because somebody does not read: what a peer has sent over HTTP/2 that the request path has
//! not taken, what is written to it that it does not take, and parts of TLS records.
//!
//! Windows and parts of records are promises to many peers at once, far more than there is memory for if all were kept; so
//! nobody is promised room. Each connection says how much it holds ([`Backlog::hold`]). When a worker's connections
//! together or those of one client's address hold more than they may, the heaviest are asked to let go of half
//! ([`Backlog::asked`]): the address that holds most first, and of that its heaviest connections. A connection that is asked
//! resets the streams that hold most, or ends. Envoy does the same (`reset_high_memory_stream`). A single connection keeps
//! within its own bound by the windows that it grants.
//!
//! Nothing here knows what a connection is, or ends one.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::buffer::client;
use super::limits::{ADDRESS_BUFFERS_DIVISOR, BACKLOG_MEMORY_DIVISOR, CONNECTION_BUFFERS_DIVISOR};

/// One worker's account.
#[derive(Debug)]
pub struct BacklogAccount {
    bytes: Cell<usize>,
    bytes_max: Cell<usize>,
    /// What those who were asked are expected to let go of.
    asked_bytes: Cell<usize>,
    /// How often somebody was asked.
    asked_count: Cell<u64>,
    backlogs: RefCell<Vec<Weak<Backlog>>>,
    addresses: RefCell<HashMap<IpAddr, Weak<Address>>>,
}

/// What the connections of one client's address hold.
#[derive(Debug)]
struct Address {
    of: IpAddr,
    bytes: Cell<usize>,
    /// What those of its connections that were asked are expected to let go of.
    asked_bytes: Cell<usize>,
    account: Rc<BacklogAccount>,
}

impl Drop for Address {
    fn drop(&mut self) {
        self.account.addresses.borrow_mut().remove(&self.of);
    }
}

/// What one connection holds.
#[derive(Debug)]
pub struct Backlog {
    account: Rc<BacklogAccount>,
    /// Of a client; an origin's address has no bound of its own.
    address: Option<Rc<Address>>,
    bytes: Cell<usize>,
    /// What it is to let go of, if it was asked.
    asked: Cell<Option<usize>>,
    waker: RefCell<Option<Waker>>,
    /// Where it stands in the account's list.
    place: Cell<usize>,
}

impl BacklogAccount {
    /// Room for half of what the buffers may take, besides them.
    pub fn new(memory_bytes_max: u64) -> Rc<Self> {
        let account = Self {
            bytes: Cell::new(0),
            bytes_max: Cell::new(0),
            asked_bytes: Cell::new(0),
            asked_count: Cell::new(0),
            backlogs: RefCell::default(),
            addresses: RefCell::default(),
        };
        account.resize(memory_bytes_max);
        Rc::new(account)
    }

    /// Changes the bound. Whoever holds more than fits is asked when something is added.
    pub fn resize(&self, memory_bytes_max: u64) {
        self.bytes_max.set(usize::try_from(memory_bytes_max / BACKLOG_MEMORY_DIVISOR).unwrap_or(usize::MAX));
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// How often a connection was asked to let go of what it held.
    pub fn asked_count(&self) -> u64 {
        self.asked_count.get()
    }

    /// Bytes that one connection should hold at most.
    pub fn connection_bytes_max(&self) -> usize {
        self.address_bytes_max() / CONNECTION_BUFFERS_DIVISOR
    }

    fn held(&self) -> Held {
        Held { bytes: self.bytes.get(), asked_bytes: self.asked_bytes.get() }
    }

    fn address_bytes_max(&self) -> usize {
        self.bytes_max.get() / ADDRESS_BUFFERS_DIVISOR
    }

    /// From here on somebody is asked: the rest is for what comes in until they have let go.
    fn scarce_bytes(&self) -> usize {
        self.bytes_max.get() / 4 * 3
    }

    /// Asks the heaviest, until what is left when they have let go is at most half of `bytes_max`. So the search, which
    /// looks at every connection, is made again only after much more has come in.
    fn relieve(&self, held: Held, bytes_max: usize, among: impl Fn(&Backlog) -> bool) {
        let goal = held.left().saturating_sub(bytes_max / 2);
        let mut heaviest: Vec<Rc<Backlog>> = self
            .backlogs
            .borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|backlog| backlog.bytes.get() > 0 && backlog.asked.get().is_none() && among(backlog))
            .collect();
        heaviest.sort_by_key(|backlog| Reverse((backlog.of_address().bytes, backlog.bytes.get())));
        let mut asked = 0;
        for backlog in heaviest {
            if asked >= goal {
                return;
            }
            asked += backlog.ask();
        }
    }
}

/// What some connections hold together.
#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: usize,
    asked_bytes: usize,
}

impl Held {
    /// What is left when those who were asked have let go.
    fn left(self) -> usize {
        self.bytes.saturating_sub(self.asked_bytes)
    }
}

impl Backlog {
    /// Of one connection, to a client at this address or to somebody else. It holds nothing yet.
    pub fn new(account: &Rc<BacklogAccount>, address: Option<IpAddr>) -> Rc<Self> {
        let address = address.map(client).map(|of| {
            let mut addresses = account.addresses.borrow_mut();
            addresses.get(&of).and_then(Weak::upgrade).unwrap_or_else(|| {
                let (bytes, asked_bytes) = (Cell::new(0), Cell::new(0));
                let address = Rc::new(Address { of, bytes, asked_bytes, account: Rc::clone(account) });
                addresses.insert(of, Rc::downgrade(&address));
                address
            })
        });
        let mut backlogs = account.backlogs.borrow_mut();
        let backlog = Rc::new(Self {
            account: Rc::clone(account),
            address,
            bytes: Cell::new(0),
            asked: Cell::new(None),
            waker: RefCell::default(),
            place: Cell::new(backlogs.len()),
        });
        backlogs.push(Rc::downgrade(&backlog));
        backlog
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Bytes that it should hold at most: what windows it grants, and takes to be written, goes by that.
    pub fn bytes_max(&self) -> usize {
        self.account.connection_bytes_max()
    }

    /// It holds `bytes` now. If that is too much for all or for the address, the heaviest are asked.
    pub fn hold(&self, bytes: usize) {
        let before = self.bytes.replace(bytes);
        let update = |cell: &Cell<usize>| cell.set(cell.get() - before + bytes);
        update(&self.account.bytes);
        if let Some(address) = &self.address {
            update(&address.bytes);
        }
        if bytes > before {
            self.relieve();
        }
    }

    fn relieve(&self) {
        let account = &*self.account;
        if let Some(address) = &self.address
            && self.of_address().left() > account.address_bytes_max()
        {
            let among = |other: &Self| other.address.as_ref().is_some_and(|of| Rc::ptr_eq(of, address));
            account.relieve(self.of_address(), account.address_bytes_max(), among);
        }
        if account.held().left() > account.scarce_bytes() {
            account.relieve(account.held(), account.bytes_max.get(), |_| true);
        }
        // Those who were asked have not let go yet, and nothing more fits.
        if account.bytes.get() > account.bytes_max.get() && self.asked.get().is_none() {
            self.ask();
        }
    }

    /// There is room for more than what it holds, for this connection as for all.
    pub fn has_room(&self) -> bool {
        let account = &self.account;
        let of_address = self.of_address().bytes;
        account.bytes.get() <= account.bytes_max.get() / 2
            && of_address <= account.address_bytes_max() / 2
            && self.asked.get().is_none()
    }

    /// How many bytes it is to let go of. It answers by [`let_go`](Self::let_go).
    pub fn asked(&self) -> Option<usize> {
        self.asked.get()
    }

    /// It has done what it could, and will say by [`hold`](Self::hold) what it holds then.
    pub fn let_go(&self) {
        if let Some(asked) = self.asked.take() {
            self.count_asked(|bytes| bytes - asked);
        }
    }

    /// Waits until it is asked.
    pub fn poll_asked(&self, cx: &Context<'_>) -> Poll<()> {
        if self.asked.get().is_some() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// What the connections of its address hold; of an origin, itself.
    fn of_address(&self) -> Held {
        match &self.address {
            Some(address) => Held { bytes: address.bytes.get(), asked_bytes: address.asked_bytes.get() },
            None => Held { bytes: self.bytes.get(), asked_bytes: self.asked.get().unwrap_or(0) },
        }
    }

    /// Returns what it was asked for.
    fn ask(&self) -> usize {
        let asked = self.bytes.get().div_ceil(2);
        self.asked.set(Some(asked));
        self.count_asked(|bytes| bytes + asked);
        self.account.asked_count.set(self.account.asked_count.get() + 1);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        asked
    }

    fn count_asked(&self, change: impl Fn(usize) -> usize) {
        let account = &self.account.asked_bytes;
        account.set(change(account.get()));
        if let Some(address) = &self.address {
            address.asked_bytes.set(change(address.asked_bytes.get()));
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.hold(0);
        self.let_go();
        let mut backlogs = self.account.backlogs.borrow_mut();
        backlogs.swap_remove(self.place.get());
        if let Some(moved) = backlogs.get(self.place.get()).and_then(Weak::upgrade) {
            moved.place.set(self.place.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::{Backlog, BacklogAccount};

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    /// An account with room for 1,024 bytes: 512 for an address, 128 for a connection.
    fn account() -> Rc<BacklogAccount> {
        let account = BacklogAccount::new(2_048);
        assert_eq!((account.bytes_max.get(), account.connection_bytes_max()), (1_024, 128));
        account
    }

    #[test]
    fn an_address_beyond_its_bound_pays_itself() {
        let account = account();
        let innocent = Backlog::new(&account, Some(address(2)));
        innocent.hold(128);
        let greedy: Vec<_> = (0..6).map(|_| Backlog::new(&account, Some(address(1)))).collect();
        for (number, backlog) in greedy.iter().enumerate() {
            backlog.hold(80 + number);
        }
        assert!(greedy.iter().all(|backlog| backlog.asked().is_none()));
        greedy[0].hold(120);
        // 535 of 512 bytes: the heaviest are asked until 256 would be left.
        let asked: usize = greedy.iter().filter_map(|backlog| backlog.asked()).sum();
        assert!(asked >= 535 - 256 - 60, "{asked}");
        assert_eq!((greedy[0].asked(), innocent.asked()), (Some(60), None));
    }

    #[test]
    fn whoever_holds_little_is_served_while_the_heaviest_let_go() {
        let account = account();
        let heavy: Vec<_> = (1..8).map(|number| Backlog::new(&account, Some(address(number)))).collect();
        for backlog in &heavy[..6] {
            backlog.hold(128);
        }
        assert_eq!(account.bytes(), account.scarce_bytes());
        let small = Backlog::new(&account, Some(address(100)));
        assert!(!small.has_room());
        small.hold(1);
        assert!(small.asked().is_none());
        let asked = || heavy.iter().filter(|backlog| backlog.asked().is_some()).count();
        assert_eq!(asked(), 5, "half of 128 each, down to half of all");
        for backlog in heavy.iter().filter(|backlog| backlog.asked().is_some()) {
            backlog.let_go();
            backlog.hold(64);
        }
        assert!(asked() == 0 && account.bytes() == 449 && small.has_room());
    }

    /// Before those who were asked have let go, the bound holds by whoever comes next.
    #[test]
    fn what_does_not_fit_at_all_is_asked_of_who_brings_it() {
        let account = account();
        let all: Vec<_> = (1..12).map(|number| Backlog::new(&account, Some(address(number)))).collect();
        for backlog in &all[..8] {
            backlog.hold(128);
        }
        let late = &all[8];
        late.hold(20);
        assert_eq!(late.asked(), Some(10));
        late.let_go();
        late.hold(0);
        assert_eq!(account.bytes(), 1_024);
    }

    proptest! {
        #[test]
        fn the_account_is_what_is_held(moves in prop::collection::vec((0..6_usize, 0..300_usize), 0..200)) {
            let account = account();
            let new = |number: usize| Backlog::new(&account, (number > 1).then(|| address(number as u8 / 2)));
            let mut all: Vec<_> = (0..6).map(new).collect();
            for (which, bytes) in moves {
                if bytes == 299 {
                    all[which] = new(which);
                } else {
                    all[which].hold(bytes);
                }
                for backlog in &all {
                    if backlog.asked().is_some() && bytes % 2 == 0 {
                        backlog.let_go();
                        backlog.hold(backlog.bytes() / 2);
                    }
                }
                prop_assert_eq!(account.bytes(), all.iter().map(|backlog| backlog.bytes()).sum::<usize>());
                let asked: usize = all.iter().filter_map(|backlog| backlog.asked()).sum();
                prop_assert_eq!(account.asked_bytes.get(), asked);
            }
            drop(all);
            prop_assert_eq!((account.bytes(), account.asked_bytes.get()), (0, 0));
            prop_assert!(account.backlogs.borrow().is_empty() && account.addresses.borrow().is_empty());
        }
    }
}
