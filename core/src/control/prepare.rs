//! From a configuration to what workers are handed: text loaded, names resolved, addresses bound, an install made.
//! Used at the start and by each reload; changes nothing that is in force.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::canaries::{Canaries, store};
use super::dns::{self, Addresses};
use super::order::{Source, StartError};
use super::prober;
use super::tls::{Keeper, Tls, UpstreamPart};
use crate::config;
use crate::config::snapshot::{
    AccessLogMode, Action, EndpointAddress, ListenAddress, LogTarget, Snapshot, Upstream,
};
use crate::config::source::file::FileSource;
use crate::config::{Origin, Remark, Report, Severity};
use crate::net::connect::Address;
use crate::net::listener::{BindAddress, bind_all, set_liveness};
use crate::policy::balance::hash;
use crate::policy::balance::sticky::{self, Tags};
use crate::policy::balance::subset;
use crate::policy::balance::tiers::Member;
use crate::policy::health::{Traffic, Verdict};
use crate::policy::rate_limit::{KeyHasher, Revision, Revisions};
use crate::proxy::core::{Changes, Install, ListenerId, liveness, proxy_version, upstream_settings};
use crate::proxy::limits;
use crate::proxy::standing::Standings;
use crate::proxy::upstream::{Configured, Group, Loans, Members, Resolved};
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

/// A name that can't be resolved is no reason not to start: its upstream answers 503 until it can. Those names come as well.
pub(super) async fn resolve_names(snapshot: &Snapshot, known: &Addresses) -> (Addresses, Vec<dns::Name>) {
    let (addresses, failed) = dns::resolve_all(dns::names(snapshot).into_keys(), known).await;
    for ((host, _), error) in &failed {
        journal::warn(format_args!(
            "can't resolve the upstream host `{host}`: {error}; it has no endpoints until that succeeds, and is asked for again"
        ));
    }
    (addresses, failed.into_iter().map(|(name, _)| name).collect())
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
                if matches!(configured, BindAddress::Tcp(_)) {
                    set_liveness(&kept.sockets, liveness(listener.tcp))
                        .map_err(|error| StartError::Bind { address: configured.to_string(), error })?;
                }
                new.push(kept);
                continue;
            }
            let (sockets, bound) = bind_all(&configured, workers, liveness(listener.tcp))
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
    pub(super) limiting: Option<Arc<limits::Shared>>,
    /// What rate limits are counted by, and were.
    revisions: Revisions,
    pub(super) canaries: Canaries,
}

impl Shared {
    /// What limits count in, and what each rate limit is counted by. Buckets stay as long as anything is limited; those of
    /// another size take over what was counted, but for requests that are under way.
    fn limits(
        &mut self,
        snapshot: &Snapshot,
        workers: usize,
        now_ns: u64,
    ) -> (Option<Arc<limits::Shared>>, Vec<Arc<Revision>>) {
        let limits = &snapshot.rate_limits;
        if limits.rates.is_empty() && limits.in_flight.is_empty() {
            self.limiting = None;
            self.revisions = Revisions::default();
            return (None, Vec::new());
        }
        let before = self.limiting.take();
        let shared = match before {
            Some(shared) if shared.keys_max == limits.keys_max => shared,
            Some(before) => {
                let shared = limits::Shared::new(workers, limits.keys_max, before.hasher);
                shared.node.take_over(&before.node, now_ns);
                shared
            }
            None => limits::Shared::new(workers, limits.keys_max, KeyHasher::new(secret())),
        };
        let rates = limits.rates.iter().map(|limit| (&*limit.rule.name, limit.rule.rate));
        let revisions = self.revisions.take_over(rates, &shared.hasher, now_ns);
        self.limiting = Some(Arc::clone(&shared));
        (Some(shared), revisions)
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
    let upstreams = snapshot.upstreams.iter().zip(&*install.upstreams).zip(&tls.upstreams);
    let of = |((upstream, configured), tls): ((&Upstream, &Arc<Configured>), &Option<Arc<UpstreamPart>>)| {
        let ejection = upstream.outlier_detection.map(|detection| detection.ejection);
        let watched = upstream.health_check.is_some() || ejection.is_some();
        let proxy = upstream.proxy_protocol.map(proxy_version);
        let endpoints = configured.members.endpoints.iter().filter(move |endpoint| {
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
    before: Option<Arc<Install>>,
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
    ) -> Result<Arc<Install>, Vec<Remark>> {
        for listener in &snapshot.listeners {
            let next = ListenerId(self.ids.len() as u32);
            self.ids.entry(Arc::clone(&listener.name)).or_insert(next);
        }
        let (tls, findings) = Keeper::default().compile(snapshot, &Tls::default(), std::time::Instant::now());
        if !findings.errors.is_empty() {
            return Err(findings.errors);
        }
        let parts = Parts {
            addresses: &Addresses::new(),
            ids: &self.ids,
            tls: &tls,
            workers,
            now_ms,
            before: self.before.as_deref(),
        };
        let install = Arc::new(install(snapshot, &mut self.shared, &parts));
        self.before = Some(Arc::clone(&install));
        Ok(install)
    }

    /// A listener's number, once an install had it.
    pub fn listener(&self, name: &str) -> Option<ListenerId> {
        self.ids.get(name).copied()
    }
}

/// What an install is made of, beside the snapshot.
pub(super) struct Parts<'p> {
    pub(super) addresses: &'p Addresses,
    pub(super) ids: &'p BTreeMap<Arc<str>, ListenerId>,
    pub(super) tls: &'p Tls,
    pub(super) workers: usize,
    /// The workers' clock; zero at the start, when no endpoint is a newcomer.
    pub(super) now_ms: u64,
    /// The install before this one.
    pub(super) before: Option<&'p Install>,
}

/// A snapshot with its names resolved, its lent connections and its endpoints' health at hand. What is as it was in the
/// install before is taken from there, and workers are told only what is not.
pub(super) fn install(snapshot: &Arc<Snapshot>, shared: &mut Shared, parts: &Parts<'_>) -> Install {
    let version = parts.before.map_or(1, |before| before.changes.version + 1);
    let before: HashMap<&str, (&Upstream, &Arc<Configured>)> =
        parts.before.map_or_else(HashMap::new, |before| {
            let upstreams = before.snapshot.upstreams.iter().zip(&*before.upstreams);
            upstreams.map(|(upstream, configured)| (&*upstream.name, (upstream, configured))).collect()
        });
    let same_limits = parts.before.is_some_and(|before| {
        let (old, new) = (&before.snapshot.limits, &snapshot.limits);
        // HTTP/2 is told of them.
        (old.header_bytes_max, old.header_count_max) == (new.header_bytes_max, new.header_count_max)
    });
    let mut changed = Vec::new();
    let upstreams: Arc<[Arc<Configured>]> = snapshot
        .upstreams
        .iter()
        .zip(&parts.tls.upstreams)
        .map(|(upstream, tls)| {
            let (endpoints, numbers) = resolve(upstream, tls.as_deref(), parts, shared);
            let client = tls.as_ref().map(|part| &part.client);
            if let Some((was, configured)) = before.get(&*upstream.name)
                && same_limits
                && *was == upstream
                && configured.members.endpoints == endpoints
                && configured.tls.as_ref().map(Arc::as_ptr) == client.map(Arc::as_ptr)
            {
                return Arc::clone(configured);
            }
            let configured = Arc::new(Configured {
                name: Arc::clone(&upstream.name),
                version,
                settings: upstream_settings(snapshot, upstream),
                tls: client.cloned(),
                members: members(upstream, endpoints, &numbers),
            });
            changed.push(Arc::clone(&configured));
            configured
        })
        .collect();
    let live: HashSet<_> = upstreams
        .iter()
        .flat_map(|u| u.members.endpoints.iter().map(|r| (Arc::clone(&u.name), r.address.clone())))
        .collect();
    shared.loans.retain(|key, _| live.contains(key));
    shared.standings.keep(|upstream, address| live.contains(&(Arc::clone(upstream), address.clone())));
    let mut listeners = vec![None; parts.ids.len()];
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        if let Some(id) = parts.ids.get(&listener.name) {
            listeners[id.0 as usize] = Some(index);
        }
    }
    let splits = snapshot.routes.iter().enumerate();
    let (limiting, revisions) = shared.limits(snapshot, parts.workers, parts.now_ms * 1_000_000);
    Install {
        limiting,
        revisions,
        trials: shared.canaries.configure(snapshot, parts.workers).into(),
        splits: splits
            .filter(|(_, r)| matches!(r.action, Action::Split(_)))
            .map(|(index, _)| index)
            .collect(),
        changes: Arc::new(changes(snapshot, parts.before, changed, version)),
        snapshot: Arc::clone(snapshot),
        upstreams,
        tls_servers: parts.tls.listeners.iter().map(|p| p.as_ref().map(|p| Arc::clone(&p.server))).collect(),
        listeners,
    }
}

fn changes(
    snapshot: &Arc<Snapshot>,
    before: Option<&Install>,
    upstreams: Vec<Arc<Configured>>,
    version: u64,
) -> Changes {
    let mut changes = Changes { upstreams, version, ..Changes::default() };
    if let Some(before) = before.filter(|before| !Arc::ptr_eq(&before.snapshot, snapshot)) {
        let stay: HashSet<&str> = snapshot.upstreams.iter().map(|u| &*u.name).collect();
        let gone = before.upstreams.iter().filter(|u| !stay.contains(&*u.name));
        changes.gone_upstreams = gone.map(|u| Arc::clone(&u.name)).collect();
        let stay: HashSet<&str> = snapshot.routes.iter().map(|r| &*r.name).collect();
        let gone = before.snapshot.routes.iter().filter(|r| !stay.contains(&*r.name));
        changes.gone_routes = gone.map(|r| Arc::clone(&r.name)).collect();
    }
    changes
}

/// An upstream's endpoints by their addresses, and for each the index of the configured one that it comes from.
fn resolve(
    upstream: &Upstream,
    tls: Option<&UpstreamPart>,
    parts: &Parts<'_>,
    shared: &mut Shared,
) -> (Vec<Resolved>, Vec<usize>) {
    let (mut all, mut numbers) = (Vec::new(), Vec::new());
    for (index, endpoint) in upstream.endpoints.iter().enumerate() {
        let tls_name = tls.and_then(|part| part.names.get(index).cloned().flatten());
        let found: Vec<Address> = match &endpoint.address {
            EndpointAddress::Ip(address) => vec![Address::Tcp(*address)],
            EndpointAddress::Unix(path) => vec![Address::Unix(Arc::new(path.clone()))],
            EndpointAddress::Name { host, port } => parts
                .addresses
                .get(&(Arc::clone(host), *port))
                .into_iter()
                .flatten()
                .map(|address| Address::Tcp(*address))
                .collect(),
        };
        for address in found {
            let key = (Arc::clone(&upstream.name), address.clone());
            numbers.push(index);
            all.push(Resolved {
                loans: Arc::clone(shared.loans.entry(key).or_insert_with(Loans::new)),
                standing: shared.standings.of(&upstream.name, &address, Verdict::Unchecked, parts.now_ms),
                tag: sticky::tag(&address.to_string(), hash::id(&upstream.name)),
                address,
                authority: Arc::clone(&endpoint.authority),
                weight: endpoint.weight.get(),
                tls_name: tls_name.clone(),
            });
        }
    }
    (all, numbers)
}

/// What requests are balanced over. Takes milliseconds and more where keys are hashed.
fn members(upstream: &Upstream, endpoints: Vec<Resolved>, numbers: &[usize]) -> Members {
    let of = |index: usize| &upstream.endpoints[index];
    let members: Vec<Member> = numbers
        .iter()
        .enumerate()
        .map(|(number, &index)| Member {
            number: number as u32,
            weight: of(index).weight.get(),
            priority: of(index).priority,
            distance: of(index).distance,
        })
        .collect();
    let labels: Vec<_> = numbers.iter().map(|&index| of(index).labels.clone()).collect();
    let shape = upstream.balance.hash.as_ref().map(|hash| hash.shape);
    let group = |members: &[Member]| {
        Group::new(members, shape, |number| {
            (hash::id(&endpoints[number].address.to_string()), endpoints[number].weight)
        })
    };
    let mut groups = vec![group(&members)];
    for selector in &upstream.subsets {
        let chosen: Vec<Member> =
            subset::select(&labels, selector).iter().map(|&at| members[at as usize]).collect();
        groups.push(group(&chosen));
    }
    let tags = upstream.sticky.as_ref().map(|_| Arc::new(Tags::new(endpoints.iter().map(|r| r.tag))));
    Members { endpoints, groups, tags }
}

#[cfg(test)]
mod tests {
    use super::Installer;
    use crate::base::clock::Monotonic;
    use crate::config::raw::{Io, Upstream, Workers};
    use crate::config::{RawConfig, compile};
    use crate::net::driver::{Executor, IoMode, yield_now};
    use crate::net::platform::Linux;
    use crate::proxy::core::{Core, Install, Node};
    use crate::proxy::log::LogBuffer;
    use std::sync::Arc;
    use std::time::Duration;

    const UPSTREAMS: usize = 20_000;

    /// What this thread has computed so far: wall time would measure the machine's other load.
    fn cpu() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// An install of many upstreams that `change` has gone over.
    fn install(installer: &mut Installer, change: impl FnOnce(&mut Vec<Upstream>)) -> Arc<Install> {
        let mut raw = RawConfig::proxy(&["127.0.0.1:1"], &["http://127.0.0.1:2"], Workers::Auto, Io::Auto);
        for number in 1..UPSTREAMS {
            let address = format!("127.{}.{}.1:80", number / 250, number % 250);
            raw.upstreams.push(Upstream::new(&format!("upstream-{number}"), &[&address]));
        }
        change(&mut raw.upstreams);
        let snapshot = compile(&raw, 1).expect("a good configuration");
        installer.install(&Arc::new(snapshot), 1, 1).expect("no files")
    }

    #[test]
    fn workers_are_told_what_differs_and_take_it_over_in_turns() {
        let mut installer = Installer::default();
        let first = install(&mut installer, |_| {});
        let same = install(&mut installer, |_| {});
        assert!(same.changes.upstreams.is_empty() && same.changes.gone_upstreams.is_empty());
        let one = install(&mut installer, |all| all[7].idle_connections_max = 3);
        let names = |install: &Install| -> Vec<String> {
            install.changes.upstreams.iter().map(|u| u.name.to_string()).collect()
        };
        assert_eq!(names(&one), ["upstream-7"]);
        assert!(Arc::ptr_eq(&one.upstreams[8], &first.upstreams[8]));
        let none = install(&mut installer, |all| all.truncate(1));
        assert_eq!(none.changes.gone_upstreams.len(), UPSTREAMS - 1);
        let back = install(&mut installer, |_| {});
        assert_eq!(back.changes.upstreams.len(), UPSTREAMS - 1, "all but the one that stayed");
        let all = install(&mut installer, |all| {
            for upstream in all {
                upstream.idle_connections_max = 5;
            }
        });
        assert_eq!(all.changes.upstreams.len(), UPSTREAMS);
        let mut executor = Executor::new(IoMode::Epoll).expect("a runtime");
        let ran = executor.run(async move {
            let (log, _lines) = crossbeam_channel::unbounded();
            let platform = Linux::new(Monotonic::start(), 1);
            let core = Core::new(0, platform, Node::new(1, 7), &first, LogBuffer::new(log));
            let installs = [("the same", same), ("one", one), ("gone", none), ("back", back), ("all", all)];
            // The control thread, too, holds installs until no worker does: to free one takes longer than a turn.
            for (what, install) in &installs {
                let mut turns = 0;
                let mut longest = Duration::ZERO;
                let mut turn = cpu();
                core.install(install);
                loop {
                    longest = longest.max(cpu().saturating_sub(turn));
                    if !core.has_changes() {
                        break;
                    }
                    turn = cpu();
                    yield_now().await;
                    turns += 1;
                }
                println!("{what}: {turns} turns, the longest {longest:?}");
                let changed = install.changes.upstreams.len() + install.changes.gone_upstreams.len();
                assert!(turns >= changed / 256, "{what}: {changed} changes in {turns} turns");
            }
        });
        assert!(ran.is_ok());
    }
}
