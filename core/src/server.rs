//! A whole server in this process: the control thread and the workers that it starts. What the binaries are made of.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::base::panics;
use crate::control::order::Order;
pub use crate::control::order::{
    Overrides, Question, ReloadError, Running, Source as ConfigSource, StartError, World, explain,
};
use crate::control::plane;
pub use crate::control::prepare::check;
use crate::net::listener::BindAddress;
pub use crate::net::memory::release_program_text;

/// Orders that may wait for the control thread.
const ORDERS_MAX: usize = 16;

/// A running server. Dropping it stops it at once.
#[derive(Debug)]
pub struct Server {
    orders: mpsc::Sender<Order>,
    running: Running,
    control: Option<JoinHandle<Result<(), String>>>,
}

impl Server {
    /// Starts a server and returns once it serves.
    ///
    /// # Errors
    /// Whatever keeps it from serving; the error's text is meant for the operator.
    pub fn start(source: ConfigSource, overrides: Overrides) -> Result<Self, StartError> {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let (started, has_started) = std::sync::mpsc::channel();
        let for_admin = sender.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            // The first one stays: where no thread can be had later, work waits for it instead of failing.
            .thread_keep_alive(Duration::from_secs(u32::MAX.into()))
            .thread_name("control-blocking")
            .build()
            .map_err(StartError::Worker)?;
        drop(runtime.spawn_blocking(|| {}));
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(plane::run(source, overrides, (for_admin, orders), started)))
            .map_err(StartError::Worker)?;
        match has_started.recv() {
            Ok(Ok(running)) => Ok(Self { orders: sender, running, control: Some(control) }),
            Ok(Err(error)) => {
                let _ = control.join();
                Err(error)
            }
            Err(_) => {
                Err(StartError::Worker(std::io::Error::other("the control thread ended while it started")))
            }
        }
    }

    /// What it listens on and runs on.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Name and real address of each TCP listener.
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let tcp = |(name, address): &(String, BindAddress)| match address {
            BindAddress::Tcp(address) => Some((name.clone(), *address)),
            BindAddress::Unix(_) => None,
        };
        self.running.listeners.iter().filter_map(tcp).collect()
    }

    /// The admin interface's address, if it has one and it is TCP.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        match self.running.admin {
            Some(BindAddress::Tcp(address)) => Some(address),
            Some(BindAddress::Unix(_)) | None => None,
        }
    }

    /// Takes over a configuration text; returns its version once every worker has been sent it.
    ///
    /// # Errors
    /// Why it was refused; the configuration in force stays.
    pub fn reload(&self, text: &str) -> Result<u64, ReloadError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StartError::Worker(std::io::Error::other("the server has stopped"));
        self.orders.blocking_send(Order::Reload(text.to_owned(), reply)).map_err(|_| gone())?;
        answer.blocking_recv().map_err(|_| gone())?
    }

    /// Begins to finish: no new connections, requests in flight end, then the server does.
    pub fn drain(&self) {
        let _ = self.orders.blocking_send(Order::Drain);
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    /// Why it could not go on, if it was not told to end.
    pub fn wait(mut self) -> Result<(), String> {
        self.join()
    }

    /// Ends it without patience.
    pub fn stop(mut self) {
        let _ = self.orders.blocking_send(Order::Stop);
        let _ = self.join();
    }

    fn join(&mut self) -> Result<(), String> {
        let Some(control) = self.control.take() else { return Ok(()) };
        control.join().unwrap_or_else(|_| {
            let notes = panics::take_notes();
            Err(format!("the control thread has failed: {}", notes.last().map_or("", String::as_str)))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.control.is_some() {
            let _ = self.orders.try_send(Order::Stop);
            let _ = self.join();
        }
    }
}
