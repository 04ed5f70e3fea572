//! The configuration text of a test's proxy: one listener on a free port and one route to one upstream, unless the test
//! says otherwise. Each piece is written as in the file, so that a reader of a test sees the product's own words.

use crate::origin::Origin;
use crate::stream::Address;
use std::fmt;
use std::fmt::Write;

/// A configuration under construction; `Display` gives the file's text.
#[derive(Clone, Debug)]
pub struct Config {
    workers: usize,
    top: Vec<String>,
    listener: Vec<String>,
    upstream: Vec<String>,
    route: Vec<String>,
    upstreams: Vec<(String, Vec<String>)>,
    routes: Option<String>,
}

impl Config {
    /// Everything to this origin.
    pub fn to(origin: &Origin) -> Config {
        Config::to_addresses(&[origin.address().clone()])
    }

    /// Everything to these origins.
    pub fn to_all(origins: &[&Origin]) -> Config {
        Config::to_addresses(&origins.iter().map(|origin| origin.address().clone()).collect::<Vec<_>>())
    }

    pub fn to_addresses(addresses: &[Address]) -> Config {
        let urls: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Config::to_urls(&urls.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Everything to these endpoints, as the file writes them.
    pub fn to_urls(urls: &[&str]) -> Config {
        Config {
            workers: 1,
            top: Vec::new(),
            listener: Vec::new(),
            upstream: Vec::new(),
            route: Vec::new(),
            upstreams: vec![("origin".to_owned(), urls.iter().map(|url| (*url).to_owned()).collect())],
            routes: None,
        }
    }

    /// How many workers; one unless said, so that pools and caps are those of one worker.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Config {
        self.workers = workers;
        self
    }

    /// A line at the top level, such as `timeouts: { request_head: 200ms }`.
    #[must_use]
    pub fn top(mut self, line: &str) -> Config {
        self.top.push(line.to_owned());
        self
    }

    /// A line of the listener, such as `trusted_hops: 1`.
    #[must_use]
    pub fn listener(mut self, line: &str) -> Config {
        self.listener.push(line.to_owned());
        self
    }

    /// A line of the upstream `origin`, such as `connections_max: 2`.
    #[must_use]
    pub fn upstream(mut self, line: &str) -> Config {
        self.upstream.push(line.to_owned());
        self
    }

    /// A line of the one route, such as `connect: true`.
    #[must_use]
    pub fn route(mut self, line: &str) -> Config {
        self.route.push(line.to_owned());
        self
    }

    /// A further upstream, for use with [`Config::routes`].
    #[must_use]
    pub fn and_upstream(mut self, name: &str, origin: &Origin) -> Config {
        self.upstreams.push((name.to_owned(), vec![origin.address().to_string()]));
        self
    }

    /// The whole list of routes instead of the one, as YAML list items without indentation.
    #[must_use]
    pub fn routes(mut self, routes: &str) -> Config {
        self.routes = Some(routes.to_owned());
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "version: 1\nworkers: {}\npin: false\nadmin:\n  address: 127.0.0.1:0\n  hosts: [test]",
            self.workers
        )?;
        for line in &self.top {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "listeners:\n  - name: public\n    address: 127.0.0.1:0")?;
        for line in &self.listener {
            writeln!(f, "    {line}")?;
        }
        writeln!(f, "upstreams:")?;
        for (name, endpoints) in &self.upstreams {
            let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
            writeln!(f, "  - name: {name}\n    endpoints: [{}]", endpoints.join(", "))?;
            if name == "origin" {
                for line in &self.upstream {
                    writeln!(f, "    {line}")?;
                }
            }
        }
        writeln!(f, "routes:")?;
        if let Some(routes) = &self.routes {
            return routes.lines().try_for_each(|line| writeln!(f, "  {line}"));
        }
        writeln!(f, "  - name: all\n    upstream: origin")?;
        for line in &self.route {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

/// A list of `count` routes, `/p0` and so on, to the upstream `origin`.
pub fn many_routes(count: usize) -> String {
    let mut routes = String::new();
    for index in 0..count {
        let _ = writeln!(
            routes,
            "- {{ name: r{index}, match: {{ path: {{ prefix: /p{index} }} }}, upstream: origin }}"
        );
    }
    routes
}
