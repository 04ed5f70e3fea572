//! Between workers: an accepted connection goes to where there is room, and idle upstream connections are lent.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, scripted};
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, eventually};

fn open_on(proxy: &Proxy, worker: &str) -> f64 {
    proxy.metrics().sum("ringway_downstream_connections", &[("worker", worker)])
}

/// Opens `count` connections one by one, each served once, and says on which worker each is.
fn open(proxy: &Proxy, count: usize) -> Vec<(Client, &'static str)> {
    let mut before = open_on(proxy, "0");
    (0..count)
        .map(|_| {
            let mut client = proxy.connect();
            client.get("/").expect(200);
            let now = open_on(proxy, "0");
            let worker = if now > before { "0" } else { "1" };
            before = now;
            (client, worker)
        })
        .collect()
}

for_each_driver! {
    /// The kernel spreads connections by a hash that knows nothing of load: what it gives to the crowded worker is
    /// handed on.
    fn a_crowded_worker_hands_over(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).workers(2));
        let mut clients = open(&proxy, 80);
        clients.retain(|(_, worker)| *worker == "1");
        assert!(clients.len() >= 20, "the kernel gave worker 1 only {}", clients.len());
        eventually("an empty worker 0", || (open_on(&proxy, "0") == 0.0).then_some(()));
        let crowd = clients.len() as f64;
        let handed = proxy.metrics().sum("ringway_downstream_handed_over_total", &[]);
        let more = open(&proxy, clients.len());
        let metrics = proxy.metrics();
        assert!(
            metrics.sum("ringway_downstream_handed_over_total", &[]) > handed,
            "{crowd} connections on worker 1, none on worker 0, and nothing was handed over"
        );
        let (zero, one) = (open_on(&proxy, "0"), open_on(&proxy, "1"));
        assert_eq!(zero + one, crowd + more.len() as f64);
        assert!((one - zero).abs() <= crowd / 2.0, "{zero} and {one} connections");
        for (client, _) in &mut clients {
            client.get("/").expect(200);
        }
    }

    fn every_worker_serves(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).workers(2));
        let clients = open(&proxy, 40);
        let on_zero = clients.iter().filter(|(_, worker)| *worker == "0").count();
        assert!((5..=35).contains(&on_zero), "{on_zero} of 40 connections on worker 0");
        assert_eq!(proxy.metrics().sum("ringway_io_driver", &[("driver", driver.name())]), 2.0);
    }

    /// A worker without an idle upstream connection takes one that another worker does not need.
    fn idle_connections_are_lent(driver) {
        let (gate_zero, gate_one) = (Gate::new(), Gate::new());
        let held = [("/zero", gate_zero.clone()), ("/one", gate_one.clone())];
        let origin = Origin::with(move |exchange| {
            if let Some((_, gate)) = held.iter().find(|(target, _)| *target == exchange.target()) {
                gate.wait();
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).workers(2));
        let mut clients = open(&proxy, 40);
        let (mut zero, mut one): (Vec<_>, Vec<_>) = clients.drain(..).partition(|(_, worker)| *worker == "0");
        let many = zero.len().min(one.len()).min(8);
        assert!(many >= 4, "{} and {} connections", zero.len(), one.len());
        // Worker 0 needs many at once, and then none.
        let arrived = |target: &str| {
            let count = || origin.requests().iter().filter(|r| r.target() == target).count();
            eventually(&format!("{many} requests for {target}"), || (count() == many).then_some(()));
        };
        for (client, _) in &mut zero[..many] {
            client.send(get("/zero"));
        }
        arrived("/zero");
        gate_zero.open();
        for (client, _) in &mut zero[..many] {
            client.response("GET").expect(200);
        }
        let opened = origin.accepted();
        // What is surplus is put up for lending at the next round.
        proxy.await_metric("ringway_upstream_lent_total", &[], |lent| lent > 0.0);
        // Worker 1 needs as many.
        for (client, _) in &mut one[..many] {
            client.send(get("/one"));
        }
        arrived("/one");
        gate_one.open();
        for (client, _) in &mut one[..many] {
            client.response("GET").expect(200);
        }
        let metrics = proxy.metrics();
        assert!(metrics.sum("ringway_upstream_borrowed_total", &[]) > 0.0, "{opened} connections, none borrowed");
    }
}
