//! Every interleaving (up to three preemptions) of what workers do to the shared words, with every value that the memory
//! model lets them read: loom (Norris and Demsky, "`CDSChecker`", OOPSLA 2013). The table runs on loom's atomics.

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::lease::{Answer, Bucket, Lease, Rate, Settlement, Want};
use super::table::{Seat, Table, Tenancy, Word};

impl Word for AtomicU64 {
    const SPINS: u32 = 2;
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
    fn exchange(&self, current: u64, new: u64, success: Ordering) -> Result<u64, u64> {
        self.compare_exchange(current, new, success, Ordering::Relaxed)
    }
    fn raise(&self, value: u64, order: Ordering) {
        self.fetch_max(value, order);
    }
    fn pause() {
        thread::yield_now();
    }
}

struct At(u64);

impl Tenancy for At {
    fn vacates(&self, word: u64) -> Option<u64> {
        Bucket(word).is_forgettable(self.0).then(|| Bucket(word).full_at() + 1)
    }
    fn carries(&self, shared: u64) -> u64 {
        Bucket(shared).full_at()
    }
    fn class(&self) -> usize {
        0
    }
}

type Shared = Arc<Table<AtomicU64>>;

/// As the node does it: `None` if another was in the way.
fn visit(table: &Shared, rate: &Rate, key: u64, done: Settlement, want: Want) -> Option<Answer> {
    let visited = table.update(name(key), &At(want.now), |seat| match seat {
        Seat::Own { word } => {
            let (bucket, answer) = Bucket(word).settle(done).take(rate, want);
            (bucket.0, answer)
        }
        // As if what is left under another revision were a third as much, which makes words that came before come back.
        Seat::Revised { word, floor, .. } => {
            let at = Bucket(word).full_at() / 3;
            let (bucket, answer) = Bucket::full_from(at).not_before(floor).take(rate, want);
            (bucket.0, answer)
        }
        Seat::New { floor } => {
            let (bucket, answer) = Bucket::full_from(floor).take(rate, want);
            (bucket.0, answer)
        }
        Seat::Shared { word, floor } => {
            let (bucket, answer) = Bucket(word).not_before(floor).take(rate, want);
            (bucket.0, answer)
        }
    });
    visited.ok().map(|(answer, _)| answer)
}

/// A key's low byte is its revision.
fn name(key: u64) -> u64 {
    key << 8
}

fn want(need: u32, spare: u32, now: u64) -> Want {
    Want { need, spare, patience: 0, now }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(test);
}

fn granted(answer: Option<Answer>) -> u64 {
    u64::from(matches!(answer, Some(Answer::Granted { .. })))
}

/// A bucket of three: two workers take, lease, spend and settle; whatever the order, three are spent at most, what is out
/// is what they hold, and what was returned is there again.
#[test]
fn a_lease_is_counted_once() {
    model(|| {
        let rate = Rate::new(1, Duration::from_secs(1), 3).unwrap();
        let table: Shared = Arc::new(Table::new(1, 0));
        let worker = move |table: &Shared, spends: bool| {
            let mut lease = Lease::default();
            let mut spent = 0;
            let got = visit(table, &rate, 7, Settlement::default(), want(1, 1, 10));
            if let Some(Answer::Granted { spare, .. }) = got {
                spent += 1;
                lease.receive(spare, &rate, 10);
            }
            if spends {
                spent += u64::from(lease.spend(1, 10));
            }
            let open = lease.is_open();
            let settled = table
                .amend(name(7), |word, _, _| Some((Bucket(word).settle(lease.account()).0, ())))
                .is_some();
            assert!(settled || !open, "a key with tokens out has a seat, and nobody claims it");
            spent
        };
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || worker(&table, false))
        };
        let mut spent = worker(&table, true) + other.join().unwrap();
        let Seat::Own { word } = table.look(name(7), 0) else { panic!("no seat") };
        assert_eq!(Bucket(word).held(), 0);
        while granted(visit(&table, &rate, 7, Settlement::default(), want(1, 0, 10))) == 1 {
            spent += 1;
        }
        assert_eq!(spent, 3, "granted = spent + held + returned");
    });
}

/// Two workers meet a new key with a bucket of one at the same time: one of them gets it.
#[test]
fn a_new_key_gets_one_seat() {
    model(|| {
        let rate = Rate::new(1, Duration::from_secs(1), 1).unwrap();
        let table: Shared = Arc::new(Table::new(1, 0));
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || granted(visit(&table, &rate, 7, Settlement::default(), want(1, 0, 10))))
        };
        let ours = granted(visit(&table, &rate, 7, Settlement::default(), want(1, 0, 10)));
        assert_eq!(ours + other.join().unwrap(), 1);
    });
}

/// All seats are taken by full buckets of two. One worker, whose clock lagged and then does not, takes from one of them
/// while another gives a seat away, maybe that one. Each of the two keys gets two tokens, neither pays for the other, and
/// the lagging clock gets none that was spent already.
#[test]
fn a_seat_given_away_takes_no_token_along() {
    model(|| {
        let rate = Rate::new(1, Duration::from_secs(1), 2).unwrap();
        let interval = rate.interval_ticks();
        let table: Shared = Arc::new(Table::new(1, 8));
        for key in 1..=7 {
            assert_eq!(granted(visit(&table, &rate, key, Settlement::default(), want(2, 0, 10))), 1);
        }
        let later = 10 + 2 * interval + 5;
        let take = move |table: &Shared, key, now| {
            granted(visit(table, &rate, key, Settlement::default(), want(1, 0, now)))
        };
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || take(&table, 8, later))
        };
        let early = take(&table, 1, 10 + interval - 5);
        let mut first = take(&table, 1, later);
        let mut eighth = other.join().unwrap();
        assert_eq!(early, 0, "spent already, wherever the key is now");
        for _ in 0..3 {
            first += take(&table, 1, later);
            eighth += take(&table, 8, later);
        }
        assert_eq!((first, eighth), (2, 2));
    });
}

/// One worker carries a key over to another revision of its rule while another worker, which does not know of it, takes by
/// the one before and leaves what it finds of a later one alone. Each token is taken once.
#[test]
fn a_seat_changes_its_revision_once() {
    model(|| {
        let rate = Rate::new(1, Duration::from_secs(1), 2).unwrap();
        let table: Shared = Arc::new(Table::new(1, 0));
        assert_eq!(granted(visit(&table, &rate, 7, Settlement::default(), want(1, 0, 10))), 1);
        let take = move |table: &Shared, revision: u8| {
            let taken = table.update(name(7) | u64::from(revision), &At(10), |seat| {
                let (word, floor) = match seat {
                    Seat::Own { word } => (word, 0),
                    Seat::Revised { word, revision: found, .. } if found > revision => return (word, 0),
                    Seat::Revised { word, floor, .. } => (word, floor),
                    Seat::New { .. } | Seat::Shared { .. } => unreachable!("it has a seat"),
                };
                let (bucket, answer) = Bucket(word).not_before(floor).take(&rate, want(1, 0, 10));
                (bucket.0, granted(Some(answer)))
            });
            taken.map_or(0, |(tokens, _)| tokens)
        };
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || take(&table, 0))
        };
        let got = take(&table, 1) + other.join().unwrap();
        let left = take(&table, 1);
        assert_eq!(got + left, 1, "a bucket of two, of which one was taken before");
        assert!(matches!(table.look(name(7) | 1, 0), Seat::Own { .. } | Seat::Revised { revision: 0, .. }));
    });
}
