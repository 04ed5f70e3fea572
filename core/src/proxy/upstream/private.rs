//! Connections to endpoints that belong to one client's connection.
//!
//! NTLM and Negotiate authenticate the connection and not the request (RFC 4559 section 6): whatever is sent over it later
//! is answered as that user. So a connection over which either was offered or used is given to the client's connection, and
//! is used for nobody else until one of the two ends. It still counts among the endpoint's connections.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use super::Upstream;
use super::endpoint::Endpoint;
use crate::base::limits::PRIVATE_CONNECTIONS_MAX;
use crate::net::platform::Dial;

/// The private connections of one client's connection. Most clients have none, and it costs them one word.
#[allow(clippy::box_collection)] // The vector's three words would stand in the task of every idle connection.
pub struct Private<S>(Cell<Option<Box<Vec<Connection<S>>>>>);

impl<S> fmt::Debug for Private<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private")
    }
}

impl<S> Default for Private<S> {
    fn default() -> Self {
        Self(Cell::new(None))
    }
}

#[derive(Debug)]
struct Connection<S> {
    upstream: Rc<Upstream<S>>,
    endpoint: Rc<Endpoint<S>>,
    dial: Rc<Dial>,
    /// `None` once it was taken.
    stream: Option<S>,
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        if self.stream.take().is_some() {
            self.endpoint.open.set(self.endpoint.open.get() - 1);
            self.upstream.queue.call_next();
        }
    }
}

impl<S> Private<S> {
    fn with<T>(&self, of: impl FnOnce(&mut Vec<Connection<S>>) -> T) -> Option<T> {
        let mut connections = self.0.take()?;
        let result = of(&mut connections);
        self.0.set(Some(connections).filter(|connections| !connections.is_empty()));
        Some(result)
    }

    /// The endpoint of this upstream that the client is known to.
    pub(super) fn endpoint(&self, upstream: &Upstream<S>) -> Option<Rc<Endpoint<S>>> {
        self.with(|connections| {
            let of = |connection: &&Connection<S>| std::ptr::eq(Rc::as_ptr(&connection.upstream), upstream);
            connections.iter().rev().find(of).map(|connection| Rc::clone(&connection.endpoint))
        })
        .flatten()
    }

    /// Takes the connection to an endpoint, with its place among the endpoint's connections.
    pub(super) fn take(&self, endpoint: &Rc<Endpoint<S>>) -> Option<S> {
        self.with(|connections| {
            let at = connections.iter().position(|c| Rc::ptr_eq(&c.endpoint, endpoint))?;
            let mut connection = connections.swap_remove(at);
            // Once the endpoint has left the configuration, or is connected to otherwise, the connection ends here.
            if endpoint.reuses(&connection.dial) { connection.stream.take() } else { None }
        })
        .flatten()
    }

    /// Keeps a connection, with its place among the endpoint's connections. The one that is kept longest makes room.
    pub(super) fn put(
        &self,
        upstream: &Rc<Upstream<S>>,
        endpoint: &Rc<Endpoint<S>>,
        dial: &Rc<Dial>,
        stream: S,
    ) {
        let mut connections = self.0.take().unwrap_or_default();
        if connections.len() >= PRIVATE_CONNECTIONS_MAX {
            connections.remove(0);
        }
        connections.push(Connection {
            upstream: Rc::clone(upstream),
            endpoint: Rc::clone(endpoint),
            dial: Rc::clone(dial),
            stream: Some(stream),
        });
        self.0.set(Some(connections));
    }
}
