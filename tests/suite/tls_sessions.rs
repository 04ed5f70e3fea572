//! Sessions that are taken up again, and clients that prove who they are.

use ringway_tests::client::Client;
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::Origin;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::tls::{Authority, Dialer, Issued, Leaf, Wanted, listener_tls, shaken};
use std::io;
use std::path::Path;

const KEY_1: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const KEY_2: &str = "2222222222222222222222222222222222222222222222222222222222222222";

fn folder(name: &str, driver: Driver, authority: &Authority) -> Folder {
    let folder = Folder::new(&format!("tls-{name}-{}", driver.name()));
    authority.issue_to(&folder, "server", &Leaf::default());
    folder
}

fn config(origin: &Origin, folder: &Path, more: &str) -> Config {
    Config::to(origin).listener(&listener_tls(folder, &["server"], more))
}

/// One exchange on a new connection; says whether it took up an earlier session.
#[track_caller]
fn resumes(dialer: &Dialer, proxy: &Proxy) -> bool {
    let mut client = dialer.connect(proxy.address(), "localhost");
    // The tickets come before the answer.
    client.get("/").expect(200);
    shaken(&client).resumed
}

/// A handshake and an exchange: TLS 1.3 tells a client only after its own end of the handshake that it is refused.
fn exchange(dialer: &Dialer, proxy: &Proxy) -> io::Result<Client> {
    let mut client = dialer.try_connect(proxy.address(), "localhost")?;
    client.try_send(ringway_tests::client::get("/").as_bytes())?;
    client.try_response("GET").map_err(|error| io::Error::other(error.to_string()))?.expect(200);
    Ok(client)
}

const BOTH: [&[&rustls::SupportedProtocolVersion]; 2] =
    [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

for_each_driver! {
    fn sessions_are_resumed_on_every_worker(driver) {
        let (origin, authority) = (Origin::start(), Authority::new());
        let folder = folder("resume", driver, &authority);
        let proxy = Proxy::start(driver, &config(&origin, folder.path(), "").workers(2));
        for versions in BOTH {
            let dialer = Dialer::new(&authority, &Wanted { versions, ..Wanted::default() });
            assert!(!resumes(&dialer, &proxy));
            // The kernel spreads connections over the workers.
            for _ in 0..16 {
                assert!(resumes(&dialer, &proxy));
            }
        }
        let resumed = proxy.metrics().sum("ringway_tls_handshakes_total", &[("resumed", "true")]);
        assert_eq!(resumed, 32.0);
    }

    fn keys_in_a_file_outlive_a_restart_and_their_first_place(driver) {
        let (origin, authority) = (Origin::start(), Authority::new());
        let folder = folder("keys", driver, &authority);
        let keys = folder.write("tickets", format!("{KEY_1}\n"));
        let more = format!("tickets: {{ keys: {} }}", keys.display());
        let dialer = Dialer::plain(&authority);
        let proxy = Proxy::start(driver, &config(&origin, folder.path(), &more));
        assert!(!resumes(&dialer, &proxy));
        drop(proxy);
        let proxy = Proxy::start(driver, &config(&origin, folder.path(), &more));
        assert!(resumes(&dialer, &proxy), "after a restart");
        // A new key in front: the old one still opens. The file is watched, so that is all there is to do.
        let before = proxy.metrics().sum("ringway_snapshots_installed_total", &[]);
        folder.write("tickets", format!("{KEY_2}\n{KEY_1}\n"));
        proxy.await_metric("ringway_snapshots_installed_total", &[], |n| n > before);
        assert!(resumes(&dialer, &proxy), "after a rotation");
        // The old one is gone: tickets that the new one sealed are good, others are not.
        let old = Dialer::plain(&authority);
        let before = proxy.metrics().sum("ringway_snapshots_installed_total", &[]);
        folder.write("tickets", format!("{KEY_2}\n"));
        proxy.await_metric("ringway_snapshots_installed_total", &[], |n| n > before);
        assert!(resumes(&dialer, &proxy), "sealed by the new key");
        assert!(!resumes(&old, &proxy));
    }

    fn a_ticket_is_worth_nothing_elsewhere(driver) {
        let (origin, authority) = (Origin::start(), Authority::new());
        let folder = folder("elsewhere", driver, &authority);
        let dialer = Dialer::plain(&authority);
        let proxy = Proxy::start(driver, &config(&origin, folder.path(), ""));
        assert!(!resumes(&dialer, &proxy) && resumes(&dialer, &proxy));
        let other = Proxy::start(driver, &config(&origin, folder.path(), ""));
        assert!(!resumes(&dialer, &other), "the key is random");
        let off = Proxy::start(driver, &config(&origin, folder.path(), "tickets: off"));
        assert!(!resumes(&dialer, &off) && !resumes(&dialer, &off), "there are no tickets");
    }

    fn client_certificates(driver) {
        let (origin, authority, stranger) = (Origin::start(), Authority::new(), Authority::new());
        let folder = folder("clients", driver, &authority);
        let clients = Authority::new();
        folder.write("clients.pem", clients.pem());
        let leaf = Leaf {
            names: &["client.example.org"],
            uris: &["spiffe://example.org/client"],
            common_name: "somebody",
            ..Leaf::default()
        };
        let good = clients.issue(&leaf);
        let expired = clients.issue(&Leaf { days: -2, ..leaf.clone() });
        let strange = stranger.issue(&leaf);
        let ca = folder.join("clients.pem");
        for (policy, none_is_served) in [("optional", true), ("required", false)] {
            let log = folder.join(&format!("{policy}.log"));
            let more = format!("client_certificates: {policy}, client_ca: {}", ca.display());
            let top = format!("access_log: {{ mode: all, path: {} }}", log.display());
            let proxy = Proxy::start(driver, &config(&origin, folder.path(), &more).top(&top));
            for versions in BOTH {
                let with = |certificate: Option<&Issued>| {
                    Dialer::new(&authority, &Wanted { versions, certificate, ..Wanted::default() })
                };
                assert_eq!(exchange(&with(None), &proxy).is_ok(), none_is_served, "{policy}, none");
                assert!(exchange(&with(Some(&expired)), &proxy).is_err(), "{policy}, expired");
                assert!(exchange(&with(Some(&strange)), &proxy).is_err(), "{policy}, of another authority");
                let dialer = with(Some(&good));
                for resumed in [false, true] {
                    let client = exchange(&dialer, &proxy).unwrap();
                    assert_eq!(shaken(&client).resumed, resumed, "{policy}");
                }
            }
            proxy.await_metric("ringway_refused_total", &[("reason", "tls_certificate_expired")], |n| n == 2.0);
            proxy.await_metric("ringway_refused_total", &[("reason", "tls_certificate_unknown_ca")], |n| n == 2.0);
            let missing = if none_is_served { 0.0 } else { 2.0 };
            proxy.await_metric("ringway_refused_total", &[("reason", "tls_certificate_missing")], |n| n == missing);
            drop(proxy);
            let text = std::fs::read_to_string(&log).unwrap();
            // Full and resumed, on both versions: the identity is in the session.
            assert_eq!(text.matches("\"tls_client\":\"somebody\"").count(), 4, "{text}");
            assert_eq!(text.matches("\"tls_client_sha256\":\"").count(), 4, "{text}");
        }
    }

    /// A session made where no certificate was asked for must not be a way around the certificate.
    fn tickets_do_not_lead_around_client_certificates(driver) {
        let (origin, authority, clients) = (Origin::start(), Authority::new(), Authority::new());
        let folder = folder("around", driver, &authority);
        folder.write("clients.pem", clients.pem());
        let keys = folder.write("tickets", format!("{KEY_1}\n"));
        let tickets = format!("tickets: {{ keys: {} }}", keys.display());
        let open = Proxy::start(driver, &config(&origin, folder.path(), &tickets));
        let required = format!(
            "client_certificates: required, client_ca: {}, {tickets}",
            folder.join("clients.pem").display()
        );
        let closed = Proxy::start(driver, &config(&origin, folder.path(), &required));
        for versions in BOTH {
            let dialer = Dialer::new(&authority, &Wanted { versions, ..Wanted::default() });
            assert!(!resumes(&dialer, &open) && resumes(&dialer, &open));
            assert!(exchange(&dialer, &closed).is_err());
        }
        assert_eq!(closed.metrics().sum("ringway_tls_handshakes_total", &[]), 0.0);
    }
}
