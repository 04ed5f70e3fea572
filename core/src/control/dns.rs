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

/// Resolves all names that are not in `known`, at the same time. The first failure ends it.
pub async fn resolve_all(
    wanted: impl Iterator<Item = Name>,
    known: &Addresses,
) -> Result<Addresses, (Name, io::Error)> {
    let mut all = Addresses::new();
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
            Ok(addresses) => all.insert(name, addresses),
            Err(error) => return Err((name, error)),
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{Addresses, resolve, resolve_all};

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn localhost_resolves_and_nonsense_does_not() {
        let found = block_on(resolve(&("localhost".into(), 80))).unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 80) && !found.is_empty());
        let (name, _) =
            block_on(resolve_all([("no-such-host.invalid".into(), 1)].into_iter(), &Addresses::new()))
                .unwrap_err();
        assert_eq!(&*name.0, "no-such-host.invalid");
    }

    #[test]
    fn known_names_are_not_asked_for_again() {
        let known =
            Addresses::from([(("no-such-host.invalid".into(), 1), vec!["127.0.0.1:1".parse().unwrap()])]);
        let all =
            block_on(resolve_all(known.keys().cloned().collect::<Vec<_>>().into_iter(), &known)).unwrap();
        assert_eq!(all, known);
    }
}
