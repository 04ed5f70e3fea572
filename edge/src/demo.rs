//! `ringway-edge demo`: the edge with a built-in policy in front of two small origins in this process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringway::server::{ConfigSource, Overrides, Server};

/// Connections that one demo origin holds at a time.
const CONNECTIONS_MAX: usize = 256;

/// Bytes that a demo origin reads of one request head.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// The policy; `{users}` and `{orders}` are the origins' addresses.
const POLICY: &str = include_str!("demo.yaml");

/// Runs until Ctrl-C.
pub(crate) fn run(overrides: Overrides) -> ExitCode {
    let origins = origin("users").and_then(|users| Ok((users, origin("orders")?)));
    let (users, orders) = match origins {
        Ok(addresses) => addresses,
        Err(error) => return super::fail(format_args!("can't start a demo origin: {error}")),
    };
    let text = POLICY.replace("{users}", &users).replace("{orders}", &orders);
    let server = match Server::start(ConfigSource::Text { name: "demo policy".into(), text }, overrides) {
        Ok(server) => server,
        Err(error) => return super::fail(error),
    };
    print!("{}", INTRODUCTION.replace("{users}", &users).replace("{orders}", &orders));
    let _ = io::stdout().flush();
    match server.wait() {
        Ok(()) => {
            println!("\ndrained, bye");
            ExitCode::SUCCESS
        }
        Err(reason) => super::fail(reason),
    }
}

const INTRODUCTION: &str = "
The Ringway edge serves on http://127.0.0.1:8080, in front of two origins:
  users   http://{users}
  orders  http://{orders}

Try:
  curl -i http://127.0.0.1:8080/users/42
      routed by path to `users`; the prefix is rewritten, X-Forwarded-* and Via are added: the origin echoes them
  curl -i -H 'Host: orders.example.com' -H 'X-Forwarded-For: 6.6.6.6' http://127.0.0.1:8080/
      routed by host to `orders`; the forged X-Forwarded-For is replaced by your address
  curl -i http://127.0.0.1:8080/nowhere
      no route: a problem document with a reason code and a request id

Metrics, readiness and the policy in force: curl http://127.0.0.1:9901/
Ctrl-C drains and leaves.
";

/// Starts an origin on a port of its own; returns its address. It lives as long as the process.
fn origin(name: &'static str) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new().name(format!("demo-{name}")).spawn(move || {
        for stream in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let open = Arc::clone(&open);
            std::thread::spawn(move || {
                // A client that breaks off ends its thread and nothing else.
                let _ = serve(name, &stream);
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    })?;
    Ok(address)
}

/// Answers every request with what it received.
fn serve(name: &str, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        let mut limited = (&mut reader).take(HEAD_BYTES_MAX);
        while !head.ends_with(b"\r\n\r\n") {
            if limited.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        skip_body(&mut reader, &head)?;
        let body = format!("origin `{name}` received:\n\n{}", head.trim_end());
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: demo-{name}\r\nContent-Length: {}\r\n\r\n{body}\n",
            body.len() + 1
        );
        // One write: the reader is only read from.
        let mut writer = stream;
        let to_head = head.starts_with("HEAD ");
        let end = response.find("\r\n\r\n").map_or(response.len(), |at| at + 4);
        writer.write_all(&response.as_bytes()[..if to_head { end } else { response.len() }])?;
    }
}

/// Reads a request's body away. The edge has checked its framing.
fn skip_body(reader: &mut BufReader<&TcpStream>, head: &str) -> io::Result<()> {
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if let Some(length) = field("content-length").and_then(|text| text.parse::<u64>().ok()) {
        io::copy(&mut reader.take(length), &mut io::sink())?;
    } else if field("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.take(4_096).read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            io::copy(&mut reader.take(size + 2), &mut io::sink())?;
        }
        let mut line = String::new();
        while reader.take(4_096).read_line(&mut line)? > 2 {
            line.clear();
        }
    }
    Ok(())
}
