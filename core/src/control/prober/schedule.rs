//! When which endpoint is asked, and what follows from the answer. One task; it owns all of its state.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};

use super::ask::{Failure, Question, ask};
use super::{Board, Key, LastCheck, Posted, Target};
use crate::base::bucket::{Bucket, Rate};
use crate::base::clock::{Clock as _, Monotonic};
use crate::base::limits::{
    CHECKS_IN_FLIGHT_MAX, FIRST_CHECK_SPREAD_US, HEALTH_LINES_BURST, HEALTH_LINES_PER_SECOND, RETURN_SCAN_MS,
    RETURN_TIMEOUT_MS, SHORTAGE_NOTE_WINDOW_MS,
};
use crate::net::connect::Address;
use crate::net::probe::{Offer, ProbeTls};
use crate::net::tls::Protocol;
use crate::policy::health::check::{HttpProbe, HttpVersion, Passed, Probe, Streak};
use crate::policy::health::{Cause, Event, State, Traffic, Verdict};
use crate::telemetry::journal;

/// Looks after targets until their sender is dropped.
pub(super) async fn run(
    mut targets: watch::Receiver<Arc<[Target]>>,
    board: Arc<Board>,
    clock: Monotonic,
    seed: u64,
) {
    let mut schedule = Schedule::new(board, clock, seed);
    let mut scan = scan_interval();
    loop {
        let wake_ms = schedule.start_due();
        let sleep = Duration::from_millis(wake_ms.unwrap_or_default().saturating_sub(clock.now_ms()));
        tokio::select! {
            changed = targets.changed() => {
                // Dropping the schedule ends the checks that are under way.
                let Ok(()) = changed else { return };
                let now = Arc::clone(&targets.borrow_and_update());
                schedule.configure(&now);
            }
            Some(done) = schedule.running.join_next_with_id(), if !schedule.running.is_empty() => {
                schedule.finish(done);
            }
            () = tokio::time::sleep(sleep), if wake_ms.is_some() => {}
            _ = scan.tick(), if schedule.has_ejections => schedule.scan(),
        }
    }
}

fn scan_interval() -> Interval {
    let mut scan = tokio::time::interval(Duration::from_millis(RETURN_SCAN_MS));
    scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    scan
}

/// A target's number, never given again.
type Id = u64;

struct Schedule {
    clock: Monotonic,
    random: u64,
    board: Arc<Board>,
    entries: HashMap<Id, Entry>,
    ids: HashMap<Key, Id>,
    next_id: Id,
    /// When and whom. Entries whose time has been changed since are passed over.
    due: BinaryHeap<Reverse<(u64, Id)>>,
    running: JoinSet<Result<(), Failure>>,
    asking: HashMap<task::Id, Id>,
    has_ejections: bool,
    lines: Lines,
    /// When a shortage may be told next.
    shortage_line_ms: u64,
}

struct Entry {
    target: Target,
    question: Arc<Question>,
    streak: Streak,
    /// When it is asked next; `None`: not by itself.
    due_ms: Option<u64>,
    under_way: Option<UnderWay>,
    /// What the journal has told.
    told: State,
}

struct UnderWay {
    handle: AbortHandle,
    started_ms: u64,
    /// It decides on a return.
    returning: bool,
}

impl Schedule {
    fn new(board: Arc<Board>, clock: Monotonic, seed: u64) -> Self {
        Self {
            clock,
            random: seed,
            board,
            entries: HashMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            due: BinaryHeap::new(),
            running: JoinSet::new(),
            asking: HashMap::new(),
            has_ejections: false,
            lines: Lines::new(clock.now_ns()),
            shortage_line_ms: 0,
        }
    }

    fn configure(&mut self, targets: &[Target]) {
        let now_ms = self.clock.now_ms();
        let mut live = HashSet::new();
        let mut fresh = 0_u64;
        for target in targets {
            let key = (Arc::clone(&target.upstream), target.address.clone());
            if !live.insert(key.clone()) {
                continue;
            }
            settle(target, now_ms);
            let known = self.ids.get(&key).and_then(|id| self.entries.get_mut(id));
            let same_one = known.filter(|e| Arc::ptr_eq(&e.target.standing, &target.standing));
            let asks_anew = same_one.as_ref().is_none_or(|entry| !asks_the_same(&entry.target, target));
            if let (Some(entry), false) = (same_one, asks_anew) {
                entry.target = target.clone();
                continue;
            }
            let due_ms = target.check.as_ref().map(|_| {
                fresh += 1;
                now_ms + (fresh - 1) * FIRST_CHECK_SPREAD_US / 1_000
            });
            self.put(key, target, due_ms);
        }
        let gone: Vec<Key> = self.ids.keys().filter(|key| !live.contains(*key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        self.has_ejections = targets.iter().any(|target| target.ejection.is_some());
        self.board.change(|endpoints| endpoints.retain(|key, _| live.contains(key)));
    }

    /// Takes in a target that is new, or is to be asked something else: then its verdict stays until there is an answer.
    fn put(&mut self, key: Key, target: &Target, due_ms: Option<u64>) {
        let id = self.next_id;
        self.next_id += 1;
        let mut streak = Streak::default();
        if let Some(old) = self.remove(&key)
            && Arc::ptr_eq(&old.target.standing, &target.standing)
            && target.check.is_some()
        {
            streak = old.streak;
        }
        let (standing, is_checked) = (Arc::clone(&target.standing), target.check.is_some());
        self.board.change(|endpoints| {
            let of = |old: Option<Posted>| {
                let (last, checks, failed) =
                    old.map_or((None, 0, 0), |old| (old.last, old.checks, old.failed));
                Posted { standing, is_checked, streak, last, checks, failed }
            };
            let old = endpoints.remove(&key);
            endpoints.insert(key.clone(), of(old));
        });
        let entry = Entry {
            target: target.clone(),
            question: Arc::new(question(target)),
            streak,
            due_ms,
            under_way: None,
            told: target.standing.state(),
        };
        self.entries.insert(id, entry);
        self.ids.insert(key, id);
        self.due.extend(due_ms.map(|due_ms| Reverse((due_ms, id))));
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(&self.ids.remove(key)?)?;
        if let Some(under_way) = &entry.under_way {
            self.asking.remove(&under_way.handle.id());
            under_way.handle.abort();
        }
        Some(entry)
    }

    /// Starts what is due, as far as there is room. Gives when to look again; `None` if a finished check or news will say.
    fn start_due(&mut self) -> Option<u64> {
        let now_ms = self.clock.now_ms();
        while let Some(&Reverse((due_ms, id))) = self.due.peek() {
            let is_current = self
                .entries
                .get(&id)
                .is_some_and(|entry| entry.due_ms == Some(due_ms) && entry.under_way.is_none());
            if is_current && due_ms > now_ms {
                return Some(due_ms);
            }
            if is_current && self.running.len() >= CHECKS_IN_FLIGHT_MAX {
                return None;
            }
            self.due.pop();
            if is_current {
                self.start(id, now_ms);
            }
        }
        None
    }

    fn start(&mut self, id: Id, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.due_ms = None;
        let timeout_ms = entry.target.check.as_ref().map_or(RETURN_TIMEOUT_MS, |check| check.timeout_ms);
        let question = Arc::clone(&entry.question);
        let handle = self.running.spawn(async move {
            let timeout = Duration::from_millis(timeout_ms);
            tokio::time::timeout(timeout, ask(&question)).await.unwrap_or(Err(Failure::Timeout))
        });
        self.asking.insert(handle.id(), id);
        let returning = entry.target.ejection.is_some() && entry.target.standing.word().is_return_due(now_ms);
        entry.under_way = Some(UnderWay { handle, started_ms: now_ms, returning });
    }

    fn finish(&mut self, done: Result<(task::Id, Result<(), Failure>), JoinError>) {
        let (task, result) = match done {
            Ok((task, result)) => (task, result),
            Err(error) => (error.id(), Err(Failure::Broken("the check itself failed".to_owned()))),
        };
        // One that was called off has no place here any more.
        let Some(id) = self.asking.remove(&task) else { return };
        let (now_ms, draw) = (self.clock.now_ms(), self.draw());
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(under_way) = entry.under_way.take() else { return };
        if let Err(Failure::Shortage(shortage)) = &result {
            // Asked again as if it had not been its turn. A return after an ejection comes up again by itself.
            if now_ms >= self.shortage_line_ms {
                self.shortage_line_ms = now_ms + SHORTAGE_NOTE_WINDOW_MS;
                journal::warn(format_args!("a health check could not be made: {shortage}"));
            }
            if let Some(check) = &entry.target.check {
                let due_ms = (under_way.started_ms + entry.streak.wait_ms(check, draw)).max(now_ms);
                entry.due_ms = Some(due_ms);
                self.due.push(Reverse((due_ms, id)));
            }
            return;
        }
        if under_way.returning {
            let event = if result.is_ok() { Event::ReturnPassed } else { Event::ReturnFailed { draw } };
            let ejection = entry.target.ejection.unwrap_or_default();
            entry.target.standing.apply(event, &ejection, now_ms);
        }
        if let Some(check) = entry.target.check.clone() {
            if result.is_ok() {
                let ejection = entry.target.ejection.unwrap_or_default();
                entry.target.standing.apply(Event::Reached, &ejection, now_ms);
            }
            let passed = if result.is_ok() { Passed::Yes } else { Passed::No };
            if let Some(verdict) = entry.streak.observe(passed, &check) {
                let ejection = entry.target.ejection.unwrap_or_default();
                entry.target.standing.apply(Event::Checked(verdict), &ejection, now_ms);
            }
            let due_ms = (under_way.started_ms + entry.streak.wait_ms(&check, draw)).max(now_ms);
            entry.due_ms = Some(due_ms);
            self.due.push(Reverse((due_ms, id)));
        }
        tell(entry, &mut self.lines, result.as_ref().err(), self.clock);
        self.lines.flush(self.clock);
        let (key, streak) =
            ((Arc::clone(&entry.target.upstream), entry.target.address.clone()), entry.streak);
        self.board.change(|endpoints| {
            let Some(posted) = endpoints.get_mut(&key) else { return };
            posted.streak = streak;
            posted.checks += 1;
            posted.failed += u64::from(result.is_err());
            let took_ms = now_ms - under_way.started_ms;
            posted.last = Some(LastCheck { at_ms: now_ms, took_ms, result });
        });
    }

    /// Looks for endpoints that workers ejected or took back, and for those whose time is over.
    fn scan(&mut self) {
        let now_ms = self.clock.now_ms();
        for (&id, entry) in &mut self.entries {
            if entry.target.ejection.is_none() {
                continue;
            }
            tell(entry, &mut self.lines, None, self.clock);
            let waits = entry.under_way.is_none() && entry.due_ms.is_none_or(|due_ms| due_ms > now_ms);
            if waits && entry.target.standing.word().is_return_due(now_ms) {
                entry.due_ms = Some(now_ms);
                self.due.push(Reverse((now_ms, id)));
            }
        }
        self.lines.flush(self.clock);
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.random;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What is configured no more has no say any more.
fn settle(target: &Target, now_ms: u64) {
    let ejection = target.ejection.unwrap_or_default();
    if target.ejection.is_none() {
        target.standing.apply(Event::Pardon, &ejection, now_ms);
    }
    if target.check.is_none() {
        target.standing.apply(Event::Checked(Verdict::Unchecked), &ejection, now_ms);
    }
}

fn asks_the_same(one: &Target, other: &Target) -> bool {
    let same_tls = match (&one.tls, &other.tls) {
        (None, None) => true,
        (Some((client, name)), Some((other, other_name))) => Arc::ptr_eq(client, other) && name == other_name,
        _ => false,
    };
    same_tls && one.check == other.check && one.proxy == other.proxy && one.authority == other.authority
}

fn question(target: &Target) -> Question {
    let check = target.check.as_deref();
    let probe = check.map_or(Probe::Tcp, |check| check.probe.clone());
    let offer = match &probe {
        Probe::Tcp => Offer::AsConfigured,
        Probe::Http(HttpProbe { version: HttpVersion::Http1, .. }) => Offer::Only(Protocol::Http11),
        Probe::Http(_) | Probe::Grpc { .. } => Offer::Only(Protocol::H2),
    };
    let mut address = target.address.clone();
    if let (Address::Tcp(address), Some(port)) = (&mut address, check.and_then(|check| check.port)) {
        address.set_port(port);
    }
    Question {
        address,
        authority: target.authority.to_string(),
        probe,
        tls: target.tls.as_ref().map(|(client, name)| ProbeTls::new(client, name.clone(), offer)),
        proxy: target.proxy,
    }
}

/// Writes what has changed since the last time, whoever changed it: one line for the node, and none by a worker.
fn tell(entry: &mut Entry, lines: &mut Lines, failure: Option<&Failure>, clock: Monotonic) {
    let (before, now) = (entry.told, entry.target.standing.state());
    entry.told = now;
    let name = (&entry.target.upstream, &entry.target.address);
    if now.verdict != before.verdict {
        match (now.verdict, failure) {
            (Verdict::Unhealthy, Some(why)) => {
                lines.warn(clock, name, format_args!("is unhealthy: {why}"));
            }
            (Verdict::Unhealthy, None) => lines.warn(clock, name, "is unhealthy"),
            // That all is well at the start is no news.
            (Verdict::Healthy, _) if before.verdict == Verdict::Unchecked => {}
            (Verdict::Healthy, _) => lines.info(clock, name, "is healthy"),
            (Verdict::Unchecked, _) => {}
        }
    }
    let again = now.traffic == Traffic::Ejected && now.at_ms != before.at_ms;
    if now.traffic == before.traffic && !again {
        return;
    }
    match (now.traffic, now.cause, failure) {
        (Traffic::Ejected, Some(Cause::ReturnFailed), Some(why)) => {
            lines.warn(clock, name, format_args!("{}: {why}", ejected(now, clock)));
        }
        (Traffic::Ejected, ..) => lines.warn(clock, name, ejected(now, clock)),
        (Traffic::Probing, ..) => {
            lines.info(clock, name, "passed the check after its ejection, and is tried with single requests");
        }
        (Traffic::Admitting, ..) => lines.info(clock, name, "is back from its ejection"),
    }
}

fn ejected(state: State, clock: Monotonic) -> String {
    let left_ms = state.at_ms.saturating_sub(clock.now_ms());
    let cause = state.cause.map_or("unknown", Cause::name);
    format!("is ejected for {:.1} s ({cause}, ejection {})", left_ms as f64 / 1_000.0, state.ejections)
}

/// The journal, bounded in lines.
struct Lines {
    bucket: Bucket,
    left_out: u64,
}

const LINES: Rate = Rate { per_second: HEALTH_LINES_PER_SECOND, burst: HEALTH_LINES_BURST };

impl Lines {
    fn new(now_ns: u64) -> Self {
        Self { bucket: Bucket::full(LINES, now_ns), left_out: 0 }
    }

    fn info(
        &mut self,
        clock: Monotonic,
        (upstream, address): (&Arc<str>, &Address),
        what: impl fmt::Display,
    ) {
        if self.may_write(clock) {
            journal::info(format_args!("upstream `{upstream}`: {address} {what}"));
        }
    }

    fn warn(
        &mut self,
        clock: Monotonic,
        (upstream, address): (&Arc<str>, &Address),
        what: impl fmt::Display,
    ) {
        if self.may_write(clock) {
            journal::warn(format_args!("upstream `{upstream}`: {address} {what}"));
        }
    }

    fn may_write(&mut self, clock: Monotonic) -> bool {
        self.flush(clock);
        let may = self.left_out == 0 && self.bucket.take(LINES, 1, clock.now_ns());
        self.left_out += u64::from(!may);
        may
    }

    /// Says how many lines are missing, as soon as there is room.
    fn flush(&mut self, clock: Monotonic) {
        if self.left_out > 0 && self.bucket.take(LINES, 1, clock.now_ns()) {
            journal::warn(format_args!(
                "{} more changes of endpoints' health were not written",
                self.left_out
            ));
            self.left_out = 0;
        }
    }
}
