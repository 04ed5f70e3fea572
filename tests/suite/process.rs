//! The binary as a person runs it: what it says when something is wrong, and what it does with signals. Tests that need
//! the well-known ports take turns.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::load::{Load, OnClose};
use ringway_tests::origin::{Origin, named, scripted};
use ringway_tests::process::{Finished, Process};
use ringway_tests::proxy::{Driver, scrape};
use ringway_tests::wait::{Gate, eventually, watched};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first test of a run builds the binary, and the others wait for it.
const BUILD_SECONDS_MAX: u64 = 300;

/// Held by whoever uses the ports that `demo` has by default.
fn well_known_ports() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The addresses that a running edge says it listens on: the first listener's and the admin port.
fn addresses(edge: &mut Process) -> (SocketAddr, SocketAddr) {
    edge.await_output("its addresses", |text| {
        let after = |word: &str| {
            let line = text.lines().find(|line| line.contains(word))?;
            line.split_whitespace()
                .map(|w| w.trim_start_matches("http://").trim_matches([',', ';', '.']))
                .find_map(|w| w.parse().ok())
        };
        Some((after("listening")?, after("admin")?))
    })
}

fn run(driver: Driver, folder: &Folder, text: &str) -> Process {
    let path = folder.write("ringway.yaml", text);
    Process::edge([
        "run".as_ref(),
        "--config".as_ref(),
        path.as_os_str(),
        "--io".as_ref(),
        driver.name().as_ref(),
    ])
}

/// A failure says one line that a person can act on, and no more.
#[track_caller]
fn failed(finished: &Finished, fragments: &[&str]) {
    assert!(!finished.status.success(), "{finished:?}");
    assert_eq!(finished.stderr.trim_end().lines().count(), 1, "one clear line: {}", finished.stderr);
    for fragment in fragments {
        assert!(finished.stderr.contains(fragment), "{fragment:?} in {}", finished.stderr);
    }
    for inside in ["panicked", "RUST_BACKTRACE", "Os {"] {
        assert!(!finished.stderr.contains(inside), "{}", finished.stderr);
    }
}

for_each_driver! {
    fn a_port_in_use(driver) within 300 {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let arguments = ["proxy", "--listen", &address, "--to", "http://127.0.0.1:1", "--io", driver.name()];
        let finished = Process::edge(arguments).finish();
        assert!(!finished.status.success(), "{finished:?}");
        // It waited for a moment, and said so.
        let lines: Vec<&str> = finished.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", finished.stderr);
        for (line, fragment) in lines.into_iter().zip(["waiting for", "something else listens there already"]) {
            assert!(line.contains(fragment) && line.contains(&address), "{fragment:?} in {line}");
        }
    }

    /// A process that was killed keeps its port for some milliseconds on `io_uring`: the next one waits for it.
    fn a_restart_after_a_kill_finds_its_port(driver) within 300 {
        let folder = Folder::new(&format!("restart-{}", driver.name()));
        let origin = Origin::start();
        let mut edge = run(driver, &folder, &Config::to(&origin).workers(2).to_string());
        let (address, admin) = addresses(&mut edge);
        let text = Config::to(&origin).workers(2).to_string();
        // Both ports as the kernel chose them.
        let text = text.replacen("127.0.0.1:0", &admin.to_string(), 1).replacen("127.0.0.1:0", &address.to_string(), 1);
        for _ in 0..5 {
            let clients: Vec<_> = (0..32)
                .map(|_| {
                    let mut client = Client::connect(address);
                    client.get("/").expect(200);
                    client
                })
                .collect();
            edge.signal("KILL");
            edge = run(driver, &folder, &text);
            drop(clients);
            assert_eq!(addresses(&mut edge), (address, admin));
        }
    }

    /// A port that is freed while the start waits for it is taken then.
    fn a_port_that_becomes_free(driver) within 300 {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let arguments = ["proxy", "--listen", &address.to_string(), "--to", "http://127.0.0.1:1", "--io", driver.name()];
        let mut edge = Process::edge(arguments);
        edge.await_output("that it waits", |text| text.contains("waiting for").then_some(()));
        drop(taken);
        edge.await_output("that it listens", |text| text.contains("listening on").then_some(()));
    }

    /// Two SIGTERMs at once, as of a supervisor that signals the group and the process, are one: what is in flight is
    /// finished. One that comes later stops at once.
    fn signals_to_end_within_a_second_are_one(driver) within 300 {
        let folder = Folder::new(&format!("terms-{}", driver.name()));
        for later in [false, true] {
            let gate = Gate::new();
            let held = gate.clone();
            let origin = Origin::with(move |exchange| {
                held.wait();
                scripted(exchange)
            });
            let mut edge = run(driver, &folder, &Config::to(&origin).to_string());
            let (address, _) = addresses(&mut edge);
            let mut client = Client::connect(address);
            client.send(get("/in-flight"));
            origin.await_requests(1);
            edge.signal("TERM");
            edge.signal("INT");
            edge.await_output("the drain", |text| text.contains("draining for up to").then_some(()));
            if later {
                eventually("the end of the second that signals are one in", || {
                    edge.signal("TERM");
                    edge.stderr().contains("stopping at once").then_some(())
                });
            }
            gate.open();
            if !later {
                client.response("GET").expect(200);
            }
            assert!(edge.finish().status.success());
        }
    }

    fn no_permission(driver) within 300 {
        let arguments = ["proxy", "--listen", "unix:/nowhere/at/all/socket", "--to", "http://127.0.0.1:1", "--io", driver.name()];
        failed(&Process::edge(arguments).finish(), &["/nowhere/at/all/socket"]);
    }

    fn an_address_that_is_not_ours(driver) within 300 {
        let arguments = ["proxy", "--listen", "192.0.2.1:80", "--to", "http://127.0.0.1:1", "--io", driver.name()];
        failed(&Process::edge(arguments).finish(), &["192.0.2.1:80"]);
    }

    /// A name that nobody knows is no reason not to start; a request there says what is wrong.
    fn an_unknown_host(driver) within 300 {
        let arguments =
            ["proxy", "--listen", "127.0.0.1:0", "--to", "http://no-such-host.invalid:80", "--io", driver.name()];
        let mut edge = Process::edge(arguments);
        let text = edge.await_output("the unknown host", |text| {
            text.lines().find(|line| line.contains("no-such-host.invalid")).map(str::to_owned)
        });
        assert!(!text.contains("panicked"), "{text}");
    }

    fn proxy_needs_no_file(driver) within 300 {
        let (one, two) = (Origin::with(named("one")), Origin::with(named("two")));
        let (to_one, to_two) = (one.address().to_string(), two.address().to_string());
        let arguments = [
            "proxy", "--listen", "127.0.0.1:0", "--to", &to_one, "--to", &to_two, "--workers", "1", "--io", driver.name(),
        ];
        let mut edge = Process::edge(arguments);
        let address: SocketAddr = edge.await_output("its address", |text| {
            text.split_whitespace()
                .map(|word| word.trim_start_matches("http://").trim_matches([',', ';', '.']))
                .find_map(|word| word.parse().ok().filter(|a: &SocketAddr| a.port() != 0))
        });
        let mut client = Client::connect(address);
        let mut answers: Vec<_> = (0..4).map(|_| client.get("/").expect(200).text()).collect();
        answers.sort_unstable();
        assert_eq!(answers, ["one", "one", "two", "two"]);
        drop(client);
        edge.signal("TERM");
        let finished = edge.finish();
        assert!(finished.status.success(), "{finished:?}");
    }

    /// SIGTERM: what is in flight is finished, and the exit is a clean one.
    fn a_term_drains(driver) within 300 {
        let folder = Folder::new(&format!("term-{}", driver.name()));
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let mut edge = run(driver, &folder, &Config::to(&origin).to_string());
        let (address, admin) = addresses(&mut edge);
        assert_eq!(scrape(admin).sum("ringway_io_driver", &[("driver", driver.name())]), 1.0);
        let mut client = Client::connect(address);
        client.send(get("/in-flight"));
        origin.await_requests(1);
        edge.signal("TERM");
        eventually("no new connections", || Client::try_connect(&address.into()).is_err().then_some(()));
        gate.open();
        let response = client.response("GET").expect(200);
        assert!(response.closes(), "{:?}", response.head);
        let finished = edge.finish();
        assert!(finished.status.success(), "{finished:?}");
    }

    /// SIGHUP and a changed file both reload, under load and without a failed request; a bad file is said and ignored.
    fn a_changed_file_is_taken_over(driver) within 300 {
        let folder = Folder::new(&format!("reload-{}", driver.name()));
        let (one, two) = (Origin::with(named("one")), Origin::with(named("two")));
        let mut edge = run(driver, &folder, &Config::to(&one).to_string());
        let (address, admin) = addresses(&mut edge);
        let load = Load::start(address, 4, "/", OnClose::Reconnect);
        load.await_answers(100);
        folder.write("ringway.yaml", Config::to(&two).to_string());
        edge.signal("HUP");
        eventually("the new origin", || (two.request_count() > 0).then_some(()));
        // The file again, and nobody tells.
        folder.write("ringway.yaml", Config::to(&one).to_string());
        let before = one.request_count();
        eventually("the old origin again", || (one.request_count() > before + 50).then_some(()));
        folder.write("ringway.yaml", "version: 1\nlisteners: nonsense\n");
        edge.signal("HUP");
        eventually("the refusal", || (scrape(admin).sum("ringway_reloads_refused_total", &[]) >= 1.0).then_some(()));
        edge.await_output("why it was refused", |text| text.contains("listeners").then_some(()));
        load.await_answers(100);
        let tally = load.stop();
        assert_eq!(tally.failures, Vec::<String>::new());
        edge.signal("TERM");
        assert!(edge.finish().status.success());
    }

    /// Ten thousand clients that have asked once and stay: each costs the process less than 2 KiB of its own memory.
    fn ten_thousand_idle_connections_are_cheap(driver) within 300 {
        const CONNECTIONS: usize = 10_000;
        const BYTES_EACH_MAX: u64 = 2048;
        let _turn = well_known_ports();
        let folder = Folder::new(&format!("idle-{}", driver.name()));
        let origin = Origin::start();
        let mut edge = run(driver, &folder, &Config::to(&origin).listener("connections_max: 20000").to_string());
        let (address, admin) = addresses(&mut edge);
        let mut warm: Vec<_> = (0..100).map(|_| Client::connect(address)).collect();
        for client in &mut warm {
            client.get("/").expect(200);
        }
        let before = edge.memory_kib("VmRSS");
        let mut idle = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(address);
            client.get("/").expect(200);
            idle.push(client);
        }
        let open = (CONNECTIONS + warm.len()) as f64;
        eventually("all of them open", || {
            (scrape(admin).sum("ringway_downstream_connections", &[]) == open).then_some(())
        });
        let each = (edge.memory_kib("VmRSS") - before) * 1024 / CONNECTIONS as u64;
        println!("{each} bytes an idle connection");
        assert!(each <= BYTES_EACH_MAX, "{each} bytes an idle connection");
        assert_eq!(scrape(admin).sum("ringway_buffers_taken", &[]), 0.0);
        for client in idle.iter_mut().step_by(499) {
            client.get("/").expect(200);
        }
    }

    /// The README's first promise: `demo` prints three curl commands, each works as printed, and Ctrl-C leaves cleanly.
    fn the_demo_does_what_it_prints(driver) within 300 {
        let _turn = well_known_ports();
        let mut demo = Process::edge(["demo", "--io", driver.name()]);
        let commands = demo.await_output("three curl commands", |text| {
            let commands: Vec<_> =
                text.lines().map(str::trim).filter(|line| line.starts_with("curl ")).map(str::to_owned).collect();
            text.contains("Ctrl-C").then_some(commands)
        });
        // By path, by host, and to nowhere; what each is said to show.
        let shows: [(&str, &[&str]); 3] = [
            ("HTTP/1.1 200", &["origin `users` received", "X-Forwarded-For: 127.0.0.1", "Via: 1.1 ringway"]),
            ("HTTP/1.1 200", &["origin `orders` received", "X-Forwarded-For: 127.0.0.1"]),
            ("HTTP/1.1 404", &["application/problem+json", "no_route", "request_id"]),
        ];
        assert_eq!(commands.len(), shows.len(), "{commands:?}");
        for (command, (status, fragments)) in commands.iter().zip(shows) {
            let output = Command::new("sh").args(["-c", command]).output().expect("sh");
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && shown.starts_with(status), "{command}: {output:?}");
            for fragment in fragments {
                assert!(shown.contains(fragment), "{fragment:?} after {command}: {shown}");
            }
            assert!(!shown.contains("6.6.6.6"), "a forged address after {command}: {shown}");
        }
        demo.signal("INT");
        let finished = demo.finish();
        assert!(finished.status.success(), "{finished:?}");
    }
}

#[test]
fn a_file_that_is_not_there() {
    watched("a_file_that_is_not_there", BUILD_SECONDS_MAX, || {
        let arguments = ["run", "--config", "/nowhere/ringway.yaml"];
        failed(&Process::edge(arguments).finish(), &["/nowhere/ringway.yaml", "No such file"]);
    });
}

/// A bad file is told in full: each error with its place, in `check` and in `run` alike.
#[test]
fn a_bad_file() {
    watched("a_bad_file", BUILD_SECONDS_MAX, || {
        let folder = Folder::new("bad");
        let origin = Origin::start();
        let good = Config::to(&origin).to_string();
        let bad = good.replace("upstream: origin", "upstrem: origin").replace("workers: 1", "workers: many");
        let path = folder.write("ringway.yaml", &bad);
        for command in ["check", "run"] {
            let finished = Process::edge([command.as_ref(), "--config".as_ref(), path.as_os_str()]).finish();
            assert!(!finished.status.success(), "{finished:?}");
            for fragment in ["upstrem", "did you mean `upstream`", "many", &format!("{}:2:", path.display())]
            {
                assert!(finished.stderr.contains(fragment), "{fragment:?} in {}", finished.stderr);
            }
        }
        let path = folder.write("ringway.yaml", &good);
        let finished = Process::edge(["check".as_ref(), "--config".as_ref(), path.as_os_str()]).finish();
        assert!(finished.status.success(), "{finished:?}");
    });
}

#[test]
fn the_schema_is_json() {
    watched("the_schema_is_json", BUILD_SECONDS_MAX, || {
        let finished = Process::edge(["schema"]).finish();
        assert!(finished.status.success(), "{finished:?}");
        let schema: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
        for name in ["listeners", "upstreams", "routes", "timeouts", "limits"] {
            assert!(!schema["properties"][name]["description"].is_null(), "{name} is described");
        }
    });
}

/// `explain` says what the proxy would do, on the output; what makes no sense of the question, as any failure.
#[test]
fn explain_answers_questions() {
    watched("explain", BUILD_SECONDS_MAX, || {
        let folder = Folder::new("explain");
        let path = folder.write(
            "ringway.yaml",
            "version: 1\nlisteners: [{ name: a, address: '127.0.0.1:0' }]\n\
             routes:\n- { name: keyed, match: { headers: [{ name: x-key, present: true }] }, respond: { status: 204 } }\n\
             - { name: rest, redirect: { status: 308, scheme: https } }\n",
        );
        let explain = |arguments: &[&str]| {
            let first = ["explain", "--config", path.to_str().expect("a path")];
            Process::edge(first.iter().chain(arguments)).finish()
        };
        let keyed = explain(&["GET http://test/a", "-H", "X-Key: 1"]);
        assert!(keyed.status.success(), "{keyed:?}");
        assert!(keyed.stdout.contains("answer          204, our own"), "{}", keyed.stdout);
        assert!(
            keyed.stdout.contains("rest: agrees, but the chosen route wins by more headers"),
            "{}",
            keyed.stdout
        );
        let rest = explain(&["http://test:81/a?b"]);
        assert!(rest.stdout.contains("308 to https://test/a?b"), "{}", rest.stdout);
        assert!(rest.stdout.contains("keyed: the header `x-key` is missing"), "{}", rest.stdout);
        failed(&explain(&["test"]), &["`test`", "http://host/path"]);
        failed(&explain(&["/", "--source", "here"]), &["`here` is no IP address"]);
    });
}
