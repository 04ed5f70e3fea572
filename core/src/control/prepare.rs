//! From a configuration to what workers are handed: text loaded, names resolved, addresses bound, an install made.
//! Used at the start and by each reload; changes nothing that is in force.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::canaries::{Canaries, store};
use super::dns::{self, Addresses};
use super::order::{Source, StartError};
use super::prober;
use super::tls::{Keeper, Tls, UpstreamPart};
use crate::config;
use crate::config::snapshot::{AccessLogMode, EndpointAddress, ListenAddress, LogTarget, Snapshot, Upstream};
use crate::config::source::file::FileSource;
use crate::config::{Origin, Remark, Report, Severity};
use crate::net::connect::Address;
use crate::net::listener::{BindAddress, bind_all};
use crate::policy::balance::hash;
use crate::policy::balance::sticky::{self, Tags};
use crate::policy::balance::subset;
use crate::policy::balance::tiers::Member;
use crate::policy::health::{Traffic, Verdict};
use crate::proxy::core::{Install, ListenerId, proxy_version};
use crate::proxy::limiting;
use crate::proxy::standing::Standings;
use crate::proxy::upstream::{Group, Loans, Members, Resolved};
use crate::telemetry::journal;
use crate::telemetry::log_writer::{self, Target};

/// Listening sockets are kept by their configured address, so that a listener that is renamed keeps its queue.
pub(super) struct Listening {
    pub(super) name: Arc<str>,
    pub(super) configured: BindAddress,
    pub(super) bound: BindAddress,
    pub(super) id: ListenerId,
    pub(super) sockets: Vec<OwnedFd>,
}

/// What a server starts with.
pub(super) struct First {
    pub(super) snapshot: Snapshot,
    pub(super) file: Option<FileSource>,
    pub(super) name: String,
    pub(super) origin: Origin,
}

pub(super) fn load_first(source: Source) -> Result<First, StartError> {
    match source {
        Source::File(path) => {
            let name = path.display().to_string();
            let mut file = FileSource::new(path);
            let text = match file.poll() {
                Some(Ok(text)) => text,
                Some(Err(error)) => return Err(StartError::Source(error.to_string())),
                None => return Err(StartError::Source(format!("can't read {name}"))),
            };
            let snapshot = load(&text, &name, 1)?;
            Ok(First { snapshot, file: Some(file), name, origin: Origin::Text(text) })
        }
        Source::Text { name, text } => {
            let snapshot = load(text.as_bytes(), &name, 1)?;
            Ok(First { snapshot, file: None, name, origin: Origin::Text(text.into_bytes()) })
        }
        Source::Raw(raw) => {
            let snapshot = config::compile(&raw, 1).map_err(StartError::Config)?;
            Ok(First { snapshot, file: None, name: "configuration".to_owned(), origin: Origin::Raw(raw) })
        }
    }
}

pub(super) fn load(text: &[u8], name: &str, version: u64) -> Result<Snapshot, StartError> {
    let checked = config::check_text(text, name, version).map_err(StartError::Config)?;
    if !checked.warnings.is_empty() {
        journal::warn(checked.warnings);
    }
    Ok(checked.snapshot)
}

/// Makes what a snapshot needs for TLS, or says what is wrong with the files that it names.
pub(super) fn load_tls(
    keeper: &mut Keeper,
    snapshot: &Snapshot,
    before: &Tls,
    origin: &Origin,
    name: &str,
) -> Result<Tls, StartError> {
    let (tls, findings) = keeper.compile(snapshot, before, std::time::Instant::now());
    if !findings.errors.is_empty() {
        let report = config::report(origin, name, Severity::Error, &findings.errors);
        return Err(StartError::Config(report));
    }
    if !findings.warnings.is_empty() {
        journal::warn(config::report(origin, name, Severity::Warning, &findings.warnings));
    }
    Ok(tls)
}

/// Checks a configuration's text and the files that it names, as a start would. Returns the snapshot and the warnings.
///
/// # Errors
/// All that is wrong with it.
pub fn check(text: &[u8], name: &str) -> Result<(Snapshot, Vec<Report>), Report> {
    let checked = config::check_text(text, name, 1)?;
    let origin = Origin::Text(text.to_vec());
    let (_, findings) =
        Keeper::default().compile(&checked.snapshot, &Tls::default(), std::time::Instant::now());
    if !findings.errors.is_empty() {
        return Err(config::report(&origin, name, Severity::Error, &findings.errors));
    }
    let of_files = config::report(&origin, name, Severity::Warning, &findings.warnings);
    let warnings = [checked.warnings, of_files].into_iter().filter(|report| !report.is_empty()).collect();
    Ok((checked.snapshot, warnings))
}

pub(super) fn bind_address(address: &ListenAddress) -> BindAddress {
    match address {
        ListenAddress::Ip(address) => BindAddress::Tcp(*address),
        ListenAddress::Unix(path) => BindAddress::Unix(path.clone()),
    }
}

pub(super) async fn resolve_names(snapshot: &Snapshot, known: &Addresses) -> Result<Addresses, StartError> {
    dns::resolve_all(dns::names(snapshot).into_keys(), known)
        .await
        .map_err(|((host, _), error)| StartError::UnknownHost { host: host.to_string(), error })
}

pub(super) fn log_target(snapshot: &Snapshot) -> Target {
    match (&snapshot.access_log.mode, &snapshot.access_log.target) {
        (AccessLogMode::Off, _) => Target::Nowhere,
        (_, LogTarget::Stdout) => Target::Stdout,
        (_, LogTarget::Stderr) => Target::Stderr,
        (_, LogTarget::File(path)) => Target::File(path.clone()),
    }
}

/// Whether the files that this process writes can be written.
pub(super) fn check_files(snapshot: &Snapshot) -> Result<(), StartError> {
    if let Some(folder) = &snapshot.state_dir {
        store::probe(folder)
            .map_err(|error| StartError::StateDir { path: folder.display().to_string(), error })?;
    }
    let access = match log_target(snapshot) {
        Target::File(path) => Some(path),
        Target::Nowhere | Target::Stdout | Target::Stderr => None,
    };
    let decisions = match &snapshot.decision_log {
        Some(LogTarget::File(path)) => Some(path.clone()),
        _ => None,
    };
    access.into_iter().chain(decisions).try_for_each(|path| {
        log_writer::append(&path)
            .map(drop)
            .map_err(|error| StartError::AccessLog { path: path.display().to_string(), error })
    })
}

/// Binds what the snapshot names and `old` does not have, and takes over the rest of `old`. On failure nothing that
/// was bound before is lost: `old` is only drained at the end.
pub(super) fn listen(
    snapshot: &Snapshot,
    ids: &mut BTreeMap<Arc<str>, ListenerId>,
    mut old: Vec<Listening>,
    workers: usize,
) -> Result<Vec<Listening>, StartError> {
    let mut new = Vec::new();
    for listener in &snapshot.listeners {
        let next = ListenerId(ids.len() as u32);
        let id = *ids.entry(Arc::clone(&listener.name)).or_insert(next);
        for address in &listener.addresses {
            let configured = bind_address(address);
            if let Some(at) = old.iter().position(|l| l.configured == configured) {
                let mut kept = old.swap_remove(at);
                kept.name = Arc::clone(&listener.name);
                kept.id = id;
                new.push(kept);
                continue;
            }
            let (sockets, bound) = bind_all(&configured, workers)
                .map_err(|error| StartError::Bind { address: configured.to_string(), error })?;
            new.push(Listening { name: Arc::clone(&listener.name), configured, bound, id, sockets });
        }
    }
    Ok(new)
}

/// What workers share of each endpoint, by upstream and address: it outlives reloads.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) loans: HashMap<(Arc<str>, Address), Arc<Loans>>,
    pub(super) standings: Standings,
    pub(super) limiting: Option<Arc<limiting::Shared>>,
    pub(super) canaries: Canaries,
}

impl Shared {
    /// What limits count in: what there is, unless it has another size or nothing is limited any more.
    fn limits(&mut self, snapshot: &Snapshot, workers: usize) -> Option<Arc<limiting::Shared>> {
        let limits = &snapshot.rate_limits;
        if limits.rates.is_empty() && limits.in_flight.is_empty() {
            self.limiting = None;
        } else if self.limiting.as_ref().is_none_or(|shared| shared.keys_max != limits.keys_max) {
            self.limiting = Some(limiting::Shared::new(workers, limits.keys_max, secret()));
        }
        self.limiting.clone()
    }
}

/// A secret of this process: who knows it could make keys that share a bucket.
fn secret() -> [u64; 2] {
    use std::hash::{BuildHasher, RandomState};
    // std keys each with 128 random bits of the system.
    [RandomState::new().hash_one(0), RandomState::new().hash_one(1)]
}

/// Whom the prober has to look after: endpoints of upstreams with checks or outlier detection, and those whose health
/// says that there was one.
pub(super) fn targets(install: &Install, tls: &Tls) -> Vec<prober::Target> {
    let snapshot = &install.snapshot;
    let upstreams = snapshot.upstreams.iter().zip(&install.upstreams).zip(&tls.upstreams);
    let of = |((upstream, members), tls): ((&Upstream, &Members), &Option<Arc<UpstreamPart>>)| {
        let ejection = upstream.outlier_detection.map(|detection| detection.ejection);
        let watched = upstream.health_check.is_some() || ejection.is_some();
        let proxy = upstream.proxy_protocol.map(proxy_version);
        let endpoints = members.endpoints.iter().filter(move |endpoint| {
            let state = endpoint.standing.state();
            watched || state.verdict != Verdict::Unchecked || state.traffic != Traffic::Admitting
        });
        endpoints
            .map(|endpoint| prober::Target {
                upstream: Arc::clone(&upstream.name),
                address: endpoint.address.clone(),
                authority: Arc::clone(&endpoint.authority),
                standing: Arc::clone(&endpoint.standing),
                check: upstream.health_check.clone(),
                ejection,
                tls: tls
                    .as_ref()
                    .zip(endpoint.tls_name.as_ref())
                    .map(|(part, name)| (Arc::clone(&part.client), name.clone())),
                proxy,
            })
            .collect::<Vec<_>>()
    };
    upstreams.flat_map(of).collect()
}

/// Makes installs as the control thread does, one after another, for workers that run in a simulation. Names are not
/// resolved, no socket is bound, and no file is read but those that a configuration names for TLS.
#[derive(Default)]
pub struct Installer {
    shared: Shared,
    ids: BTreeMap<Arc<str>, ListenerId>,
}

impl std::fmt::Debug for Installer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installer").field("ids", &self.ids).finish_non_exhaustive()
    }
}

impl Installer {
    /// The next install. Endpoints that stay keep what workers share of them. `now_ms` is the workers' clock; zero for the
    /// first.
    ///
    /// # Errors
    /// All that is wrong with files for TLS.
    pub fn install(
        &mut self,
        snapshot: &Arc<Snapshot>,
        now_ms: u64,
        workers: usize,
    ) -> Result<Install, Vec<Remark>> {
        for listener in &snapshot.listeners {
            let next = ListenerId(self.ids.len() as u32);
            self.ids.entry(Arc::clone(&listener.name)).or_insert(next);
        }
        let (tls, findings) = Keeper::default().compile(snapshot, &Tls::default(), std::time::Instant::now());
        if !findings.errors.is_empty() {
            return Err(findings.errors);
        }
        Ok(install(snapshot, &Addresses::new(), &mut self.shared, now_ms, workers, &self.ids, &tls))
    }

    /// A listener's number, once an install had it.
    pub fn listener(&self, name: &str) -> Option<ListenerId> {
        self.ids.get(name).copied()
    }
}

/// A snapshot with its names resolved, its lent connections and endpoints' health at hand. `now_ms` is the workers' clock; zero
/// at the start, when no endpoint is a newcomer.
pub(super) fn install(
    snapshot: &Arc<Snapshot>,
    addresses: &Addresses,
    shared: &mut Shared,
    now_ms: u64,
    workers: usize,
    ids: &BTreeMap<Arc<str>, ListenerId>,
    tls: &Tls,
) -> Install {
    let upstreams: Vec<Members> = snapshot
        .upstreams
        .iter()
        .zip(&tls.upstreams)
        .map(|(upstream, tls)| {
            let mut all = Vec::new();
            let mut members = Vec::new();
            let mut labels = Vec::new();
            for (index, endpoint) in upstream.endpoints.iter().enumerate() {
                let tls_name = tls.as_ref().and_then(|part| part.names.get(index).cloned().flatten());
                let found: Vec<Address> = match &endpoint.address {
                    EndpointAddress::Ip(address) => vec![Address::Tcp(*address)],
                    EndpointAddress::Unix(path) => vec![Address::Unix(Arc::new(path.clone()))],
                    EndpointAddress::Name { host, port } => addresses
                        .get(&(Arc::clone(host), *port))
                        .into_iter()
                        .flatten()
                        .map(|address| Address::Tcp(*address))
                        .collect(),
                };
                for address in found {
                    let key = (Arc::clone(&upstream.name), address.clone());
                    let text = address.to_string();
                    members.push(Member {
                        number: all.len() as u32,
                        weight: endpoint.weight.get(),
                        priority: endpoint.priority,
                        distance: endpoint.distance,
                    });
                    labels.push(endpoint.labels.clone());
                    all.push(Resolved {
                        loans: Arc::clone(shared.loans.entry(key).or_insert_with(Loans::new)),
                        standing: shared.standings.of(&upstream.name, &address, Verdict::Unchecked, now_ms),
                        tag: sticky::tag(&text, hash::id(&upstream.name)),
                        address,
                        authority: Arc::clone(&endpoint.authority),
                        weight: endpoint.weight.get(),
                        tls_name: tls_name.clone(),
                    });
                }
            }
            let shape = upstream.balance.hash.as_ref().map(|hash| hash.shape);
            let of = |members: &[Member]| {
                Group::new(members, shape, |number| {
                    (hash::id(&all[number].address.to_string()), all[number].weight)
                })
            };
            let mut groups = vec![of(&members)];
            for selector in &upstream.subsets {
                let chosen: Vec<Member> =
                    subset::select(&labels, selector).iter().map(|&at| members[at as usize]).collect();
                groups.push(of(&chosen));
            }
            let tags =
                upstream.sticky.as_ref().map(|_| Arc::new(Tags::new(all.iter().map(|r: &Resolved| r.tag))));
            Members { endpoints: all, groups, tags }
        })
        .collect();
    let live: std::collections::HashSet<_> = snapshot
        .upstreams
        .iter()
        .zip(&upstreams)
        .flat_map(|(u, all)| all.endpoints.iter().map(|r| (Arc::clone(&u.name), r.address.clone())))
        .collect();
    shared.loans.retain(|key, _| live.contains(key));
    shared.standings.keep(|upstream, address| live.contains(&(Arc::clone(upstream), address.clone())));
    let mut listeners = vec![None; ids.len()];
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        if let Some(id) = ids.get(&listener.name) {
            listeners[id.0 as usize] = Some(index);
        }
    }
    Install {
        limiting: shared.limits(snapshot, workers),
        trials: shared.canaries.configure(snapshot, workers),
        snapshot: Arc::clone(snapshot),
        upstreams,
        tls_clients: tls.upstreams.iter().map(|p| p.as_ref().map(|p| Arc::clone(&p.client))).collect(),
        tls_servers: tls.listeners.iter().map(|p| p.as_ref().map(|p| Arc::clone(&p.server))).collect(),
        listeners,
    }
}
