//! What happens when file descriptors run out, of the real binary under a small hard limit: clients wait, nobody is blamed
//! for it, the admin interface and reloads go on, and the journal says why.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::h2;
use ringway_tests::metrics::Metrics;
use ringway_tests::origin::{Origin, scripted};
use ringway_tests::process::{Process, edge_binary};
use ringway_tests::proxy::{Driver, scrape};
use ringway_tests::wait::{Gate, eventually, eventually_within};
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

const LIMIT: u32 = 160;

/// The binary under `ulimit`, and where it listens: the listener, the admin interface.
fn run(driver: Driver, ulimit: &str, folder: &Folder, text: &str) -> (Process, SocketAddr, SocketAddr) {
    let path = folder.write("ringway.yaml", text);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{ulimit} && exec \"$0\" \"$@\"")).arg(edge_binary());
    command.args(["run", "--io", driver.name(), "--config"]).arg(path);
    let mut edge = Process::spawn(&mut command);
    let (address, admin) = edge.await_output("its addresses", |text| {
        let after = |word: &str| {
            let line = text.lines().find(|line| line.contains(word))?;
            line.split_whitespace().find_map(|word| word.parse().ok())
        };
        Some((after("listening on")?, after("admin on")?))
    });
    (edge, address, admin)
}

/// An origin that answers nothing before the gate is open.
fn held() -> (Origin, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::with(move |exchange| {
        held.wait();
        scripted(exchange)
    });
    (origin, gate)
}

fn config(origin: &Origin) -> Config {
    Config::to(origin).upstream("outlier_detection: { consecutive_local_failures: 2, base_ejection_time: 1m, max_ejected_percent: 100 }")
}

fn nobody_is_blamed(metrics: &Metrics) {
    assert_eq!(metrics.sum("ringway_endpoint_healthy", &[]), 1.0);
    assert_eq!(metrics.sum("ringway_outlier_ejections_total", &[]), 0.0);
    assert_eq!(metrics.sum("ringway_upstream_failures_total", &[]), 0.0);
    assert_eq!(metrics.sum("ringway_retries_total", &[]), 0.0);
}

for_each_driver! {
    /// More clients than fit: those that are accepted are served, the others wait until there is room, and none is refused.
    /// Meanwhile there are descriptors for a scrape and for a reload.
    fn more_clients_than_descriptors_wait_their_turn(driver) within 300 {
        const CLIENTS: usize = 150;
        let (origin, gate) = held();
        let folder = Folder::new(&format!("descriptors-{}", driver.name()));
        let text = config(&origin).to_string();
        let (mut edge, address, admin) = run(driver, &format!("ulimit -n {LIMIT}"), &folder, &text);
        edge.await_output("that the maxima can't be reached", |text| {
            text.lines().find(|l| l.contains("listeners allow 10000 connections") && l.contains("160 files")).map(drop)
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                thread::spawn(move || {
                    let mut client = Client::connect(address);
                    client.send(get("/"));
                    let answer = eventually_within(Duration::from_secs(60), "an answer", || client.try_response("GET").ok());
                    answer.status
                })
            })
            .collect();
        edge.await_output("why others wait", |text| {
            text.contains("room for another client could not be had: no file descriptor is left").then_some(())
        });
        let open = scrape(admin).sum("ringway_downstream_connections", &[]);
        assert!((10.0..CLIENTS as f64).contains(&open), "{open} are served at once");
        folder.write("ringway.yaml", format!("{text}\nforwarding: {{ via: other }}\n"));
        edge.signal("HUP");
        edge.await_output("the reload", |text| text.contains("configuration version 2").then_some(()));
        // Each that was accepted has its upstream connection.
        origin.await_requests(open as usize);
        gate.open();
        for client in clients {
            assert_eq!(client.join().expect("a client"), 200);
        }
        let metrics = scrape(admin);
        nobody_is_blamed(&metrics);
        assert_eq!(metrics.sum("ringway_requests_total", &[("code", "5xx")]), 0.0);
        edge.signal("TERM");
        assert!(edge.finish().status.success());
    }

    /// One HTTP/2 client asks for more upstream connections than there are descriptors: what can't be had is refused with
    /// its own reason, and counts against nobody.
    fn a_connection_that_can_not_be_opened_is_our_own_fault(driver) within 300 {
        const STREAMS: usize = 100;
        let (origin, gate) = held();
        let folder = Folder::new(&format!("descriptors-h2-{}", driver.name()));
        let text = config(&origin).listener("http2: { streams_max: 200 }").to_string();
        let (mut edge, address, admin) = run(driver, "ulimit -n 128", &folder, &text);
        let client = h2::client::Client::connect(address);
        let mut streams: Vec<_> = (0..STREAMS)
            .map(|_| client.open(h2::client::request("GET", "/", &[]), h2::client::Then::End))
            .collect();
        edge.await_output("why", |text| {
            text.contains("a connection to an upstream could not be had: no file descriptor is left").then_some(())
        });
        eventually("every request is somewhere", || {
            let refused = scrape(admin).sum("ringway_refused_total", &[("reason", "out_of_descriptors")]);
            (refused > 0.0 && refused as usize + origin.request_count() == STREAMS).then_some(())
        });
        gate.open();
        let mut answers = [0; 2];
        for stream in &mut streams {
            let response = stream.response();
            match response.status {
                200 => answers[0] += 1,
                503 => {
                    assert_eq!(response.reason(), "out_of_descriptors");
                    answers[1] += 1;
                }
                other => panic!("{other}"),
            }
        }
        assert!(answers[0] >= 20 && answers[1] > 0, "{answers:?}");
        nobody_is_blamed(&scrape(admin));
        // With room again everything is as before.
        for _ in 0..10 {
            client.get("/").expect(200);
        }
    }

    fn the_soft_limit_is_raised_to_the_hard_one(driver) within 300 {
        let origin = Origin::start();
        let folder = Folder::new(&format!("descriptors-soft-{}", driver.name()));
        let (edge, address, _) = run(driver, "ulimit -Sn 64 && ulimit -Hn 4000", &folder, &config(&origin).to_string());
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", edge.id())).expect("/proc");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
        assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4000", "4000"]);
        let clients: Vec<_> = (0..100)
            .map(|_| {
                let mut client = Client::connect(address);
                client.get("/").expect(200);
                client
            })
            .collect();
        drop(clients);
    }
}
