//! The whole proxy, simulated: see `ringway_tests::sim`. Each test is a scenario that runs with several seeds.

mod breakers;
mod closes;
mod drains;
mod hedges;
mod limits;
mod mirrors;
mod mixed;
mod reloads;
mod retries;
mod slow;
mod timeouts;
mod tunnels;
mod workers;

use std::fmt::Write;

/// A configuration: one listener, one upstream `app` at these ports of origins, and one route for everything.
#[derive(Clone, Debug, Default)]
struct Config {
    ports: Vec<u16>,
    listener: String,
    upstream: String,
    route: String,
    top: String,
    upstreams: String,
}

impl Config {
    fn to(ports: &[u16]) -> Self {
        Self { ports: ports.to_vec(), ..Self::default() }
    }

    /// A line of the listener, such as `timeouts: { request_head: 1s }`.
    fn listener(mut self, line: &str) -> Self {
        let _ = writeln!(self.listener, "    {line}");
        self
    }

    fn upstream(mut self, line: &str) -> Self {
        let _ = writeln!(self.upstream, "    {line}");
        self
    }

    /// A further upstream.
    fn and_upstream(mut self, line: &str) -> Self {
        let _ = writeln!(self.upstreams, "  - {line}");
        self
    }

    fn route(mut self, line: &str) -> Self {
        let _ = writeln!(self.route, "    {line}");
        self
    }

    /// A line at the top level.
    fn top(mut self, line: &str) -> Self {
        let _ = writeln!(self.top, "{line}");
        self
    }

    fn text(&self) -> String {
        let Self { ports, listener, upstream, route, top, upstreams } = self;
        let endpoints: Vec<_> = ports.iter().map(|port| format!("\"http://10.0.1.1:{port}\"")).collect();
        format!(
            "version: 1\n{top}listeners:\n  - name: public\n    address: 10.0.0.1:80\n    http2: {{ enabled: false }}\n{listener}\
             upstreams:\n  - name: app\n    endpoints: [{}]\n{upstream}{upstreams}routes:\n  - name: all\n    upstream: app\n{route}",
            endpoints.join(", ")
        )
    }
}
