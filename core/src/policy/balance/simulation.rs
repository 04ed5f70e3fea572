//! What the rules do to endpoints, played with drawn arrivals and service times. Prints the tables of docs/balancing.md:
//!
//! `cargo test -p ringway --lib policy::balance::simulation -- --nocapture --test-threads 1`

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::ewma::{Ewma, Settings};
use super::tests::{draws, tiers};
use super::{Candidate, Choice, Rule, State, Weight};

const MS: f64 = 1e6;

/// One worker: a state of its own, and what it alone knows of each endpoint.
struct Worker {
    state: State,
    active: Vec<u32>,
    ewma: Vec<Ewma>,
}

impl Worker {
    fn new(endpoints: usize, start: u64) -> Self {
        Self {
            state: State::starting_at(start),
            active: vec![0; endpoints],
            ewma: vec![Ewma::default(); endpoints],
        }
    }
}

/// How an endpoint serves.
#[derive(Debug, Clone, Copy)]
enum Serves {
    /// One request after the other: what comes meanwhile queues.
    InTurn,
    /// Any number at once.
    Together,
}

struct Run {
    rule: Rule,
    workers: usize,
    /// Mean service time of each endpoint.
    service_ms: Vec<f64>,
    weights: Vec<u32>,
    serves: Serves,
    per_second: f64,
    requests: usize,
}

struct Outcome {
    counts: Vec<usize>,
    p50_ms: f64,
    p99_ms: f64,
}

impl Run {
    /// Poisson arrivals, each at a worker by chance; exponential service times.
    fn play(&self, seed: u64) -> Outcome {
        let endpoints = self.service_ms.len();
        let tiers = tiers(&self.weights);
        let choice = Choice::new(self.rule, tiers.choose(|| 0).unwrap());
        let settings = Settings::default();
        let mut draw = draws(seed);
        let start = draw();
        let spread = u64::MAX / self.workers as u64;
        let mut workers: Vec<Worker> = (0..self.workers as u64)
            .map(|w| Worker::new(endpoints, start.wrapping_add(w * spread)))
            .collect();
        let mut free_ns = vec![0.0_f64; endpoints];
        // (end, worker, endpoint, latency)
        let mut flying: BinaryHeap<Reverse<(u64, usize, usize, u64)>> = BinaryHeap::new();
        let mut counts = vec![0; endpoints];
        let mut latencies = Vec::with_capacity(self.requests);
        let exponential = |draw: u64, mean: f64| -((draw as f64 + 1.0) / 2_f64.powi(64)).ln() * mean;
        let mut now = 0.0;
        for _ in 0..self.requests {
            now += exponential(draw(), 1e9 / self.per_second);
            while let Some(&Reverse((end, w, e, latency))) = flying.peek()
                && end as f64 <= now
            {
                flying.pop();
                workers[w].active[e] -= 1;
                workers[w].ewma[e].observe(latency, end, &settings);
            }
            let w = super::draw::below(draw(), self.workers);
            let Worker { state, active, ewma } = &mut workers[w];
            let candidate = |i: usize| Candidate {
                weight: Weight::whole(self.weights[i]),
                active: active[i],
                load_ns: ewma[i].load_ns(active[i], now as u64, &settings),
                usable: true,
            };
            let e = state.pick(choice, candidate, &mut draw).unwrap();
            let service = exponential(draw(), self.service_ms[e] * MS);
            let begin = match self.serves {
                Serves::InTurn => now.max(free_ns[e]),
                Serves::Together => now,
            };
            free_ns[e] = begin + service;
            let latency = begin + service - now;
            flying.push(Reverse(((begin + service) as u64, w, e, latency as u64)));
            active[e] += 1;
            counts[e] += 1;
            latencies.push(latency);
        }
        latencies.sort_by(f64::total_cmp);
        let at = |part: f64| latencies[(latencies.len() as f64 * part) as usize] / MS;
        Outcome { counts, p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

/// Requests of the fullest of 10 endpoints, of the mean, after each of 16 workers has sent `each`; mean of 400 trials.
fn fullest(rule: Rule, each: usize, start: impl Fn(u64, u64) -> u64) -> f64 {
    const ENDPOINTS: usize = 10;
    const WORKERS: u64 = 16;
    let tiers = tiers(&[1; ENDPOINTS]);
    let choice = Choice::new(rule, tiers.choose(|| 0).unwrap());
    let mut draw = draws(7);
    let mut sum = 0.0;
    for _ in 0..400 {
        let node = draw();
        let mut counts = [0_u32; ENDPOINTS];
        for worker in 0..WORKERS {
            let mut own = Worker::new(ENDPOINTS, start(worker, node));
            for _ in 0..each {
                let candidate = |i: usize| Candidate {
                    weight: Weight::whole(1),
                    active: own.active[i],
                    load_ns: 0,
                    usable: true,
                };
                let e = own.state.pick(choice, candidate, &mut draw).unwrap();
                own.active[e] += 1;
                counts[e] += 1;
            }
        }
        let mean = (WORKERS as usize * each) as f64 / ENDPOINTS as f64;
        sum += f64::from(*counts.iter().max().unwrap()) / mean;
    }
    sum / 400.0
}

#[test]
fn workers_that_know_nothing_of_each_other() {
    println!("\nRequests at the fullest of 10 endpoints, of the mean, 16 workers:");
    println!(
        "| each worker has sent | round robin, all from the first | from a random place | spread | least requests | random |"
    );
    println!("|---|---|---|---|---|---|");
    for each in [1, 3, 5, 15, 25, 105] {
        let round = |start: fn(u64, u64) -> u64| fullest(Rule::RoundRobin, each, start);
        let same = round(|_, _| 0);
        let random = round(|worker, node| super::spread::mix(node ^ worker));
        let spread = round(|worker, node| node.wrapping_add(worker << 60));
        let least = fullest(Rule::LeastRequests, each, |worker, node| node.wrapping_add(worker << 60));
        let chance = fullest(Rule::Random, each, |_, _| 0);
        println!("| {each} | {same:.2} | {random:.2} | {spread:.2} | {least:.2} | {chance:.2} |");
        assert!(spread <= random && random < same, "spreading the starts helps");
        // 16 workers at 10 places: no endpoint has more than two beginnings, and two windows more than its share.
        let mean = 1.6 * each as f64;
        assert!(spread <= 1.0 + 2.0 / mean + 0.01, "{spread}");
    }
}

#[test]
fn queues_at_the_endpoints() {
    println!(
        "\n10 endpoints, each serves one request at a time in 10 ms (exponential), 80 % busy; p50 / p99 in ms:"
    );
    println!("| workers | random | round robin | least requests | peak EWMA |");
    println!("|---|---|---|---|---|");
    for workers in [1, 4, 16, 64] {
        let [random, round, least, peak] =
            [Rule::Random, Rule::RoundRobin, Rule::LeastRequests, Rule::PeakEwma].map(|rule| {
                let run = Run {
                    rule,
                    workers,
                    service_ms: vec![10.0; 10],
                    weights: vec![1; 10],
                    serves: Serves::InTurn,
                    per_second: 800.0,
                    requests: 60_000,
                };
                run.play(11)
            });
        let cell = |o: &Outcome| format!("{:.0} / {:.0}", o.p50_ms, o.p99_ms);
        println!("| {workers} | {} | {} | {} | {} |", cell(&random), cell(&round), cell(&least), cell(&peak));
        assert!(least.p99_ms < random.p99_ms, "even a part of the truth helps");
        if workers == 1 {
            assert!(least.p99_ms < round.p99_ms && round.p99_ms < random.p99_ms);
        }
    }
}

#[test]
fn one_slow_endpoint_of_five() {
    println!(
        "\n5 endpoints, four answer in 5 ms, one in 100 ms (exponential), 1,000 requests a second for 60 s:"
    );
    println!("| workers | weights | rule | share of the slow one | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|");
    for (workers, weights) in
        [(1, [1; 5]), (4, [1; 5]), (16, [1; 5]), (1, [2, 1, 2, 1, 1]), (4, [2, 1, 2, 1, 1])]
    {
        let of = |rule| {
            let run = Run {
                rule,
                workers,
                service_ms: vec![5.0, 5.0, 100.0, 5.0, 5.0],
                weights: weights.to_vec(),
                serves: Serves::Together,
                per_second: 1_000.0,
                requests: 60_000,
            };
            let outcome = run.play(13);
            let share = outcome.counts[2] as f64 / 60_000.0;
            println!(
                "| {workers} | {weights:?} | {rule:?} | {:.2} % | {:.1} | {:.1} |",
                share * 100.0,
                outcome.p50_ms,
                outcome.p99_ms
            );
            (share, outcome.p99_ms)
        };
        let (round, least, peak) = (of(Rule::RoundRobin), of(Rule::LeastRequests), of(Rule::PeakEwma));
        let due = f64::from(weights[2]) / f64::from(weights.iter().sum::<u32>());
        assert!((round.0 - due).abs() < 0.01);
        assert!(least.0 < round.0);
        assert!(peak.0 < 0.02, "{}", peak.0);
        assert!(peak.1 * 3.0 < round.1, "p99 {} against {}", peak.1, round.1);
    }
}

#[test]
fn the_most_in_flight_at_one_endpoint() {
    println!("\nn endpoints, n requests in flight, of which one drawn at random ends for each that begins:");
    println!("| n | most at one, random | two choices |");
    println!("|---|---|---|");
    for len in [10, 100, 1_000] {
        let tiers = tiers(&vec![1; len]);
        let tier = tiers.choose(|| 0).unwrap();
        let [random, two] = [Rule::Random, Rule::LeastRequests].map(|rule| {
            let mut draw = draws(17);
            let mut worker = Worker::new(len, 0);
            let (mut flying, mut sum, mut most) = (Vec::new(), 0_u64, 0);
            for step in 0..120 * len {
                let active = &worker.active;
                let candidate = |i: usize| Candidate {
                    weight: Weight::whole(1),
                    active: active[i],
                    load_ns: 0,
                    usable: true,
                };
                let e = worker.state.pick(Choice::new(rule, tier), candidate, &mut draw).unwrap();
                worker.active[e] += 1;
                flying.push(e);
                if flying.len() > len {
                    let over = flying.swap_remove(super::draw::below(draw(), flying.len()));
                    worker.active[over] -= 1;
                }
                // Looked at once for each time that all have been replaced.
                if step >= 20 * len && step % len == 0 {
                    let fullest = *worker.active.iter().max().unwrap();
                    sum += u64::from(fullest);
                    most = most.max(fullest);
                }
            }
            (sum as f64 / 100.0, most)
        });
        println!("| {len} | {:.1} ({}) | {:.1} ({}) |", random.0, random.1, two.0, two.1);
        // ln ln n / ln 2 + O(1) for two choices; ln n / ln ln n for one.
        let bound = (len as f64).ln().ln() / 2_f64.ln() + 2.0;
        assert!(f64::from(two.1) <= bound.ceil(), "{} at {len}", two.1);
        assert!(two.0 < random.0, "{} against {}", two.0, random.0);
    }
}

/// Endpoints that are equally fast, with weights, and so many requests in flight at all times, by workers in turn. The
/// greatest distance of any endpoint from its share, as a part of it.
fn off_share(rule: Rule, weights: &[u32], workers: usize, at_once: usize, spread: Latency) -> f64 {
    let tiers = tiers(weights);
    let choice = Choice::new(rule, tiers.choose(|| 0).unwrap());
    let settings = Settings::default();
    let mut draw = draws(23);
    let mut team: Vec<Worker> = (0..workers as u64)
        .map(|w| Worker::new(weights.len(), draw().wrapping_add(w * (u64::MAX / workers as u64))))
        .collect();
    let mut flying: BinaryHeap<Reverse<(u64, usize, usize, u64)>> = BinaryHeap::new();
    let mut counts = vec![0_u32; weights.len()];
    let mut now = 0;
    let requests = 20_000 * weights.len();
    let first = 10 * at_once;
    for request in 0..first + requests {
        if flying.len() >= at_once {
            let Reverse((end, w, e, latency)) = flying.pop().unwrap();
            now = end;
            team[w].active[e] -= 1;
            team[w].ewma[e].observe(latency, end, &settings);
        }
        let w = request % workers;
        let Worker { state, active, ewma } = &mut team[w];
        let candidate = |i: usize| Candidate {
            weight: Weight::whole(weights[i]),
            active: active[i],
            load_ns: ewma[i].load_ns(active[i], now, &settings),
            usable: true,
        };
        let e = state.pick(choice, candidate, &mut draw).unwrap();
        let part = draw() as f64 / 2_f64.powi(64);
        let latency = match spread {
            Latency::Steady => 5.0 * (0.9 + 0.2 * part),
            Latency::Exponential => 5.0 * -(part + 1e-12).ln(),
        };
        let latency = (latency * MS) as u64 + 1;
        flying.push(Reverse((now + latency, w, e, latency)));
        active[e] += 1;
        counts[e] += u32::from(request >= first);
    }
    let total: u32 = weights.iter().sum();
    let off = counts.iter().zip(weights).map(|(&count, &weight)| {
        let share = requests as f64 * f64::from(weight) / f64::from(total);
        (f64::from(count) - share).abs() / share
    });
    off.fold(0.0, f64::max)
}

#[derive(Debug, Clone, Copy)]
enum Latency {
    /// 5 ms, a tenth more or less.
    Steady,
    /// 5 ms in the mean.
    Exponential,
}

#[test]
fn weights_hold_at_any_load() {
    println!(
        "\nThe greatest distance of any endpoint from its share, in percent of it, by requests at once:"
    );
    println!("| rule | latency | workers | weights | 1 | 2 | 5 | 20 | 100 | 1,000 |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut many = [1; 20];
    many[3] = 7;
    many[8] = 20;
    for rule in [Rule::LeastRequests, Rule::PeakEwma] {
        for spread in [Latency::Steady, Latency::Exponential] {
            for (workers, weights, shown) in [
                (1, &[1, 2][..], "1 2"),
                (1, &[1, 100], "1 100"),
                (1, &[1, 2, 3], "1 2 3"),
                (1, &[5, 1, 1, 3], "5 1 1 3"),
                (1, &many, "20, of which one 7 and one 20"),
                (4, &[1, 2], "1 2"),
                (4, &[5, 1, 1, 3], "5 1 1 3"),
            ] {
                let off = [1, 2, 5, 20, 100, 1_000]
                    .map(|at_once| off_share(rule, weights, workers, at_once, spread));
                let cells = off.map(|off| format!("{:.1}", off * 100.0)).join(" | ");
                println!("| {rule:?} | {spread:?} | {workers} | {shown} | {cells} |");
                // Peak EWMA takes latencies that differ by chance for latencies that differ.
                let told_apart = rule == Rule::PeakEwma && matches!(spread, Latency::Exponential);
                let allowed = if told_apart { f64::INFINITY } else { 0.02 };
                let worst = off.into_iter().fold(0.0, f64::max);
                assert!(worst < allowed, "{rule:?}, {spread:?}, {workers} workers, weights {shown}: {worst}");
            }
        }
    }
}
