//! The limiter before a queueing model: `c` servers, one queue, more arrivals than they can serve.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use proptest::prelude::{any, prop, prop_assert, proptest};

use super::{Limited, Limiter, Outcome, Settings};

const SECOND: u64 = 1_000_000;

/// How long a server takes for a request.
#[derive(Debug, Clone, Copy)]
enum Service {
    /// Always as long.
    Fixed(u64),
    /// Exponentially distributed about a mean.
    Exponential(u64),
    /// One request in ten takes ten times as long as the others.
    Mixed(u64),
}

impl Service {
    fn mean_us(self) -> f64 {
        match self {
            Self::Fixed(us) | Self::Exponential(us) => us as f64,
            Self::Mixed(us) => us as f64 * 1.9,
        }
    }
}

/// Times are in microseconds.
struct Model {
    limiter: Limiter,
    servers: usize,
    service: Service,
    now_us: u64,
    next_arrival_us: u64,
    /// When each busy server ends, and when its request came.
    busy: BinaryHeap<Reverse<(u64, u64)>>,
    queue: VecDeque<u64>,
    served: u64,
    draw: u64,
}

impl Model {
    fn new(settings: Settings, servers: usize, service: Service, seed: u64) -> Self {
        Self {
            limiter: Limiter::new(settings, 0),
            servers,
            service,
            now_us: 0,
            next_arrival_us: 0,
            busy: BinaryHeap::new(),
            queue: VecDeque::new(),
            served: 0,
            draw: seed | 1,
        }
    }

    /// Xorshift: between 0 and 1.
    fn unit(&mut self) -> f64 {
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        ((self.draw >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn service_us(&mut self) -> u64 {
        match self.service {
            Service::Fixed(us) => us,
            Service::Exponential(us) => (-self.unit().ln() * us as f64) as u64 + 1,
            Service::Mixed(us) => {
                if self.unit() < 0.1 {
                    us * 10
                } else {
                    us
                }
            }
        }
    }

    fn in_flight(&self) -> u32 {
        (self.busy.len() + self.queue.len()) as u32
    }

    /// Runs for so long, with arrivals (Poisson) at `load` times what the servers can do. Gives the limit's mean over the
    /// arrivals, measuring included, and what share of the servers' time was used.
    fn run(&mut self, for_us: u64, load: f64) -> (f64, f64) {
        let until_us = self.now_us + for_us;
        let gap_us = self.service.mean_us() / (self.servers as f64 * load);
        let (mut limits, mut arrivals) = (0.0, 0.0);
        self.served = 0;
        self.next_arrival_us = self.now_us;
        while self.next_arrival_us < until_us {
            let done_us = self.busy.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            if done_us <= self.next_arrival_us {
                self.now_us = done_us;
                let Some(Reverse((_, came_us))) = self.busy.pop() else { unreachable!("a server was busy") };
                let in_flight = self.in_flight() + 1;
                self.served += 1;
                self.limiter.sample(done_us - came_us, in_flight, Outcome::Answered, done_us / 1_000);
            } else {
                self.now_us = self.next_arrival_us;
                self.next_arrival_us += (-self.unit().ln() * gap_us) as u64 + 1;
                limits += f64::from(self.limiter.limit());
                arrivals += 1.0;
                if self.limiter.try_acquire(self.in_flight()).is_ok() {
                    self.queue.push_back(self.now_us);
                }
            }
            while self.busy.len() < self.servers {
                let Some(came_us) = self.queue.pop_front() else { break };
                let ends_us = self.now_us + self.service_us();
                self.busy.push(Reverse((ends_us, came_us)));
            }
        }
        let could = for_us as f64 * self.servers as f64 / self.service.mean_us();
        (limits / arrivals, self.served as f64 / could)
    }
}

/// The factor that the module's head states, with the measuring of baselines (which lowers the mean) allowed for.
fn check(model: &mut Model, what: &str) {
    let (limit, used) = model.run(40 * SECOND, 3.0);
    let c = model.servers as f64;
    let numbers = model.limiter.numbers();
    assert!(0.9 * c <= limit, "{what}: {limit} is too low for {c} servers: {numbers:?}");
    assert!(limit <= 2.0 * (c + 4.0), "{what}: {limit} is too high for {c} servers: {numbers:?}");
    assert!(used >= 0.9, "{what}: only {used} of the servers was used: {numbers:?}");
}

#[test]
fn the_limit_finds_the_capacity() {
    for (servers, service) in [
        (1, Service::Fixed(10_000)),
        (4, Service::Fixed(2_000)),
        (20, Service::Fixed(10_000)),
        (100, Service::Fixed(50_000)),
        (400, Service::Fixed(200_000)),
        (4, Service::Exponential(5_000)),
        (20, Service::Exponential(10_000)),
        (100, Service::Exponential(50_000)),
        (20, Service::Mixed(5_000)),
        (100, Service::Mixed(20_000)),
    ] {
        let settings = Settings { limit_min: 1, limit_initial: 20, ..Settings::DEFAULT };
        for seed in [7, 23] {
            let mut model = Model::new(settings, servers, service, seed);
            model.run(60 * SECOND, 3.0);
            check(&mut model, &format!("{service:?}, seed {seed}"));
        }
    }
}

#[test]
fn it_follows_a_capacity_that_changes() {
    for service in [Service::Fixed(20_000), Service::Exponential(20_000)] {
        let mut model = Model::new(Settings::DEFAULT, 60, service, 11);
        model.run(30 * SECOND, 3.0);
        check(&mut model, "at first");
        for (servers, what) in [(15, "a quarter"), (60, "all again"), (120, "twice as many")] {
            model.servers = servers;
            model.run(35 * SECOND, 3.0);
            check(&mut model, what);
        }
    }
}

/// Requests that take three times as long are no queue, which the next baseline shows.
#[test]
fn it_follows_a_service_time_that_changes() {
    let mut model = Model::new(Settings::DEFAULT, 40, Service::Fixed(10_000), 13);
    model.run(30 * SECOND, 3.0);
    for (us, what) in [(30_000, "slower"), (5_000, "faster")] {
        model.service = Service::Fixed(us);
        model.run(65 * SECOND, 3.0);
        check(&mut model, what);
    }
}

/// A limit far too high at the beginning comes down: each baseline is measured with a shorter queue.
#[test]
fn it_comes_down_from_an_initial_limit_far_too_high() {
    let settings = Settings { limit_initial: 1_000, ..Settings::DEFAULT };
    let mut model = Model::new(settings, 20, Service::Fixed(10_000), 17);
    model.run(180 * SECOND, 3.0);
    check(&mut model, "from 1,000");
}

/// Without overload it refuses nobody, and does not grow for nothing.
#[test]
fn a_light_load_is_left_alone() {
    let mut model = Model::new(Settings::DEFAULT, 100, Service::Exponential(20_000), 19);
    let (limit, used) = model.run(120 * SECOND, 0.2);
    assert!((0.195..0.205).contains(&used), "{used}");
    assert!((90.0..=110.0).contains(&limit), "{limit}");
}

#[test]
fn drops_lower_it_and_bounds_hold() {
    let settings =
        Settings { limit_min: 10, limit_max: 200, limit_initial: 100, samples_min: 10, ..Settings::DEFAULT };
    let mut limiter = Limiter::new(settings, 0);
    assert_eq!((limiter.try_acquire(99), limiter.try_acquire(100)), (Ok(()), Err(Limited { limit: 100 })));
    let mut now_ms = 0;
    let mut window = |limiter: &mut Limiter, answered, dropped, latency_us| {
        now_ms += 200;
        for i in 0..answered + dropped {
            let outcome = if i < answered { Outcome::Answered } else { Outcome::Dropped };
            limiter.sample(latency_us, limiter.limit(), outcome, now_ms);
        }
        limiter.limit()
    };
    assert_eq!(window(&mut limiter, 40, 0, 1_000), 100);
    assert_eq!(limiter.numbers().baseline_us, 1_000);
    // A fifth of the way to 100 + √100.
    assert_eq!(window(&mut limiter, 10, 0, 1_000), 102);
    // One in ten: a fifth of the way to nine tenths, and no headroom.
    assert_eq!(window(&mut limiter, 9, 1, 1_000), 99);
    for _ in 0..200 {
        window(&mut limiter, 0, 10, 1_000);
    }
    assert_eq!(limiter.limit(), 10);
    for _ in 0..140 {
        window(&mut limiter, 10, 0, 1_000);
    }
    assert_eq!(limiter.limit(), 200);
    for _ in 0..100 {
        window(&mut limiter, 10, 0, 60_000);
    }
    assert!((10..40).contains(&limiter.limit()), "{}", limiter.limit());
    limiter.configure(Settings { limit_min: 50, ..settings });
    assert_eq!(limiter.limit(), 50);
}

/// An upstream that is down at first has no baseline, and its first answers are no queue.
#[test]
fn it_begins_with_drops() {
    let mut limiter = Limiter::new(Settings { samples_min: 10, ..Settings::DEFAULT }, 0);
    let window = |limiter: &mut Limiter, outcome, now_ms| {
        for _ in 0..40 {
            limiter.sample(5_000, limiter.limit(), outcome, now_ms);
        }
    };
    window(&mut limiter, Outcome::Dropped, 100);
    window(&mut limiter, Outcome::Dropped, 200);
    let low = limiter.limit();
    assert!((90..=98).contains(&low), "{low}");
    for step in 3..100 {
        window(&mut limiter, Outcome::Answered, step * 100);
        let numbers = limiter.numbers();
        assert!(numbers.limit >= low || (numbers.measuring && numbers.baseline_us > 0), "{numbers:?}");
    }
    assert_eq!(limiter.numbers().baseline_us, 5_000);
    assert!(limiter.limit() > 150, "{:?}", limiter.numbers());
}

#[test]
fn a_baseline_is_of_requests_sent_since_the_limit_fell() {
    let settings = Settings { samples_min: 2, baseline_ms: 10_000, ..Settings::DEFAULT };
    let mut limiter = Limiter::new(settings, 0);
    let pair = |limiter: &mut Limiter, latency_us, now_ms| {
        for _ in 0..8 {
            limiter.sample(latency_us, 100, Outcome::Answered, now_ms);
        }
    };
    pair(&mut limiter, 10_000, 100);
    pair(&mut limiter, 15_000, 1_100);
    assert!(limiter.numbers().measuring);
    assert_eq!(limiter.limit(), 25);
    pair(&mut limiter, 50_000, 1_149);
    pair(&mut limiter, 120_000, 1_210);
    assert_eq!(limiter.numbers().baseline_us, 10_000);
    pair(&mut limiter, 20_000, 1_300);
    assert_eq!(limiter.numbers().baseline_us, 20_000);
    assert!(!limiter.numbers().measuring);
    assert!(limiter.limit() >= 100);
}

proptest! {
    /// No sequence of samples takes it out of its bounds, or panics.
    #[test]
    fn bounds_hold_over_any_samples(
        min in 1_u32..50,
        more in 0_u32..500,
        initial in 0_u32..1_000,
        samples in prop::collection::vec((any::<u64>(), any::<u32>(), any::<bool>(), any::<u64>(), 0_u32..64), 1..200),
    ) {
        let settings = Settings {
            limit_min: min,
            limit_max: min + more,
            limit_initial: initial,
            samples_min: 1,
            window_ms: 1,
            ..Settings::DEFAULT
        };
        let mut limiter = Limiter::new(settings, 0);
        for (latency_us, in_flight, dropped, now_ms, shift) in samples {
            let outcome = if dropped { Outcome::Dropped } else { Outcome::Answered };
            limiter.sample(latency_us >> shift, in_flight, outcome, now_ms >> (63 - shift));
            prop_assert!((min..=min + more).contains(&limiter.limit()), "{}", limiter.limit());
        }
    }
}
