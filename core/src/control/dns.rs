//! Names to addresses, by the system's resolver. Never called by a worker.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::limits::{ADDRESSES_PER_NAME_MAX, RESOLVE_TIMEOUT_MS};
use crate::config::snapshot::{EndpointAddress, Snapshot};

/// Host in lower case and port.
pub type Name = (Arc<str>, u16);

/// What names resolved to; sorted, so that equal answers compare equal.
pub type Addresses = HashMap<Name, Vec<SocketAddr>>;

/// All names of a snapshot, and how often to ask again: the shortest refresh of the upstreams that use a name.
pub fn names(snapshot: &Snapshot) -> HashMap<Name, Duration> {
    let mut names: HashMap<Name, Duration> = HashMap::new();
    for upstream in &snapshot.upstreams {
        for endpoint in &upstream.endpoints {
            if let EndpointAddress::Name { host, port } = &endpoint.address {
                let refresh = names.entry((Arc::clone(host), *port)).or_insert(upstream.dns_refresh);
                *refresh = (*refresh).min(upstream.dns_refresh);
            }
        }
    }
    names
}

/// Asks the system's resolver, off this thread.
pub async fn resolve(name: &Name) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((name.0.as_ref(), name.1));
    let found = tokio::time::timeout(Duration::from_millis(RESOLVE_TIMEOUT_MS), lookup)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer in time"))??;
    let unique: BTreeSet<SocketAddr> = found.take(ADDRESSES_PER_NAME_MAX).collect();
    if unique.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(unique.into_iter().collect())
}

/// How long after so many failures in a row a name without addresses is asked for again: a second, then twice as long each
/// time, and at most as long as it would be refreshed.
pub fn retry_after(failures: u32, refresh: Duration) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(16)).min(refresh)
}

/// Resolves all names that are not in `known`, at the same time; and those that have no address, with the reasons.
pub async fn resolve_all(
    wanted: impl Iterator<Item = Name>,
    known: &Addresses,
) -> (Addresses, Vec<(Name, io::Error)>) {
    let mut all = Addresses::new();
    let mut failed = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for name in wanted {
        if let Some(addresses) = known.get(&name) {
            all.insert(name, addresses.clone());
        } else {
            tasks.spawn(async move {
                let found = resolve(&name).await;
                (name, found)
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        // A panic in the resolver's task is no answer.
        let Ok((name, found)) = done else { continue };
        match found {
            Ok(addresses) => {
                all.insert(name, addresses);
            }
            Err(error) => failed.push((name, error)),
        }
    }
    (all, failed)
}

#[cfg(test)]
mod tests {
    use super::{Addresses, Duration, resolve, resolve_all, retry_after};

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn localhost_resolves_and_nonsense_does_not() {
        let found = block_on(resolve(&("localhost".into(), 80))).unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 80) && !found.is_empty());
        let names = [("no-such-host.invalid".into(), 1), ("localhost".into(), 80)];
        let (all, failed) = block_on(resolve_all(names.into_iter(), &Addresses::new()));
        assert_eq!((all.len(), failed.len()), (1, 1));
        assert_eq!(&*failed[0].0.0, "no-such-host.invalid");
    }

    #[test]
    fn known_names_are_not_asked_for_again() {
        let known =
            Addresses::from([(("no-such-host.invalid".into(), 1), vec!["127.0.0.1:1".parse().unwrap()])]);
        let (all, failed) =
            block_on(resolve_all(known.keys().cloned().collect::<Vec<_>>().into_iter(), &known));
        assert_eq!((all, failed.len()), (known, 0));
    }

    #[test]
    fn a_name_without_addresses_is_asked_for_again_and_again() {
        let wait = |failures| retry_after(failures, Duration::from_secs(30)).as_secs();
        assert_eq!([1, 2, 3, 5, 6, 7, u32::MAX].map(wait), [1, 2, 4, 16, 30, 30, 30]);
        assert_eq!(retry_after(3, Duration::from_secs(2)), Duration::from_secs(2));
    }
}
