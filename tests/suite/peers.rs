//! Other people's programs on either side: nginx as the origin, curl as the client. They know HTTP from elsewhere than we
//! do. A program that is not installed is said so and skipped; CI installs both.

use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::process::Process;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::stream::Address;
use ringway_tests::wait::eventually;
use ringway_tests::wire::Framing;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

/// Whether a program can be run here.
fn present(program: &str) -> bool {
    let there = Command::new(program).arg("-V").output().is_ok();
    if !there {
        println!("skipped: {program} is not installed");
    }
    there
}

/// nginx on a Unix socket in a folder of its own, serving files from it.
struct Nginx {
    // Before the folder, so that it ends before its files do.
    _process: Process,
    folder: Folder,
}

impl Nginx {
    fn start(name: &str, driver: Driver) -> Nginx {
        let folder = Folder::new(&format!("nginx-{name}-{}", driver.name()));
        fs::create_dir(folder.join("files")).expect("a folder");
        let here = folder.path().display();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n  access_log off;\n  client_body_temp_path {here}/body;\n  proxy_temp_path {here}/proxy;\n\
             fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n  scgi_temp_path {here}/scgi;\n\
             gzip on;\n  gzip_proxied any;\n  gzip_min_length 100;\n  gzip_types text/plain;\n  keepalive_requests 7;\n\
             server {{ listen unix:{here}/socket; root {here}/files; default_type text/plain;\n\
             location = /moved {{ return 302 /there; }} }}\n}}\n"
        );
        let file = folder.write("nginx.conf", text);
        let process = Process::spawn(Command::new("nginx").arg("-p").arg(folder.path()).arg("-c").arg(file));
        eventually("nginx", || UnixStream::connect(folder.join("socket")).ok());
        Nginx { _process: process, folder }
    }

    fn file(&self, name: &str, payload: Payload) {
        fs::write(self.folder.join("files").join(name), payload.to_vec()).expect("a file");
    }

    fn config(&self) -> Config {
        Config::to_addresses(&[Address::Unix(self.folder.join("socket"))])
    }
}

fn curl(proxy: &Proxy, target: &str, arguments: &[&str]) -> Output {
    let url = format!("http://{}{target}", proxy.address());
    let output = Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).arg(url).output();
    output.expect("curl runs")
}

#[track_caller]
fn curls(proxy: &Proxy, target: &str, arguments: &[&str]) -> Vec<u8> {
    let output = curl(proxy, target, arguments);
    assert!(output.status.success(), "curl {arguments:?}: {output:?}");
    output.stdout
}

for_each_driver! {
    fn nginx_serves_files(driver) {
        if !present("nginx") {
            return;
        }
        let nginx = Nginx::start("files", driver);
        let sizes = [0_u64, 1, 16_384, 70_000, 3 << 20];
        for bytes in sizes {
            nginx.file(&bytes.to_string(), Payload::new(bytes, bytes));
        }
        let proxy = Proxy::start(driver, &nginx.config());
        let mut client = proxy.connect();
        // More rounds than nginx serves on one connection: its closes are not the client's.
        for _ in 0..4 {
            for bytes in sizes {
                client.send(format!("GET /{bytes} HTTP/1.1\r\nHost: test\r\n\r\n"));
                let response = client.response_of("GET", Payload::new(bytes, bytes)).expect(200);
                assert_eq!(response.framing, Framing::Length(bytes));
                assert!(response.field("server").is_some_and(|server| server.starts_with("nginx")));
            }
        }
        client.get("/missing").expect(404);
        assert_eq!(client.get("/moved").expect(302).field("location"), Some("http://test/there"));
    }

    fn nginx_answers_conditions_and_ranges(driver) {
        if !present("nginx") {
            return;
        }
        let nginx = Nginx::start("conditions", driver);
        let payload = Payload::new(5, 50_000);
        nginx.file("file", payload);
        let proxy = Proxy::start(driver, &nginx.config());
        let mut client = proxy.connect();
        let ask = |lines: &str| format!("GET /file HTTP/1.1\r\nHost: test\r\n{lines}\r\n");
        let etag = client.ask(&ask("")).expect(200).field("etag").expect("an ETag").to_owned();
        client.ask(&ask(&format!("If-None-Match: {etag}\r\n"))).expect(304);
        let part = client.ask(&ask("Range: bytes=100-299\r\n")).expect(206);
        assert_eq!(part.body, payload.to_vec()[100..300]);
        client.ask(&ask("Range: bytes=60000-\r\n")).expect(416);
        // Compressed on the fly, so of unknown length: nginx sends chunks.
        let squeezed = client.ask(&ask("Accept-Encoding: gzip\r\n")).expect(200);
        assert_eq!((squeezed.framing, squeezed.field("content-encoding")), (Framing::Chunked, Some("gzip")));
        assert_eq!(squeezed.body[..2], [0x1f, 0x8b], "gzip's magic number");
        let head = client.ask("HEAD /file HTTP/1.1\r\nHost: test\r\n\r\n").expect(200);
        assert_eq!(head.field("content-length"), Some("50000"));
        client.ask("POST /file HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc").expect(405);
    }

    fn curl_downloads_and_uploads(driver) {
        if !present("curl") {
            return;
        }
        let folder = Folder::new(&format!("curl-{}", driver.name()));
        let payload = Payload::new(6, 200_000);
        let body = folder.write("body", payload.to_vec()).display().to_string();
        let origin = Origin::with(scripted);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        assert_eq!(curls(&proxy, "/plain", &[]), b"GET /plain");
        assert_eq!(curls(&proxy, "/old", &["--http1.0"]), b"GET /old");
        // With Expect: 100-continue and without, with a length and in chunks: the body comes back.
        for arguments in [
            &["-T", &body][..],
            &["-T", &body, "-H", "Expect:"],
            &["-T", &body, "-H", "Expect: 100-continue"],
            &["-T", &body, "-H", "Transfer-Encoding: chunked"],
            &["--data-binary", &format!("@{body}")],
        ] {
            assert!(curls(&proxy, "/up", arguments) == payload.to_vec(), "curl {arguments:?}");
        }
        let shown = curls(&proxy, "/head", &["-I"]);
        assert!(shown.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&shown));
        let failed = curl(&proxy, "/none", &["-f", "-H", "Host: a b"]);
        assert_eq!(failed.status.code(), Some(22), "curl -f fails on a 400: {failed:?}");
    }
}
