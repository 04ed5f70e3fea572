//! Among which endpoints a request is balanced, and where one worker's balancing over them stands.

use std::rc::Rc;
use std::sync::Arc;

use super::endpoint::Endpoint;
use super::{Settings, Unavailable, Want};
use crate::net::stream::Transport;
use crate::policy::balance::hash::{Key, Shape, Tables};
use crate::policy::balance::slow_start::Ongoing;
use crate::policy::balance::tiers::{self, Layout, Member, Tier, Tiers};
use crate::policy::balance::{Candidate, Choice, Rule, State, Weight};
use crate::proxy::standing::Admission;

/// Endpoints of an upstream that a request may go to: all of them, or a subset. Made by the control thread and shared by
/// all workers.
#[derive(Debug)]
pub struct Group {
    layout: Layout,
    tables: Option<Tables>,
    /// Ascending.
    numbers: Box<[u32]>,
}

impl Group {
    /// Takes milliseconds and more where keys are hashed: not for a worker. `endpoint` gives an endpoint's id and weight by
    /// its number.
    pub fn new(
        members: &[Member],
        shape: Option<Shape>,
        endpoint: impl Fn(usize) -> (u64, u32),
    ) -> Arc<Self> {
        let layout = Layout::new(members);
        let tables = shape.map(|shape| Tables::build(&layout, shape, endpoint));
        let mut numbers: Box<[u32]> = members.iter().map(|member| member.number).collect();
        numbers.sort_unstable();
        Arc::new(Self { layout, tables, numbers })
    }

    fn has(&self, number: usize) -> bool {
        u32::try_from(number).is_ok_and(|number| self.numbers.binary_search(&number).is_ok())
    }
}

/// One worker's state of a group.
#[derive(Debug)]
pub(super) struct Balancer {
    group: Arc<Group>,
    tiers: Tiers,
    /// The state of everybody's health that `tiers` were planned for; `None`: never yet.
    planned: Option<u32>,
    /// Endpoints that wait for the request that decides whether they are back.
    trials: Vec<u32>,
    /// The one endpoint that there is, if nothing speaks against it.
    sole: Option<u32>,
    slow: Ongoing,
    state: State,
    /// The same for further attempts, which must not move the turns of first ones: a request that fails at one endpoint and
    /// goes on to the next would send everybody's first attempt to the one that fails.
    repeats: State,
}

impl Balancer {
    /// Begins its rotation where `draw` says, so that workers do not all begin with the same endpoint.
    pub(super) fn new(group: Arc<Group>, draw: u64) -> Self {
        Self {
            group,
            tiers: Tiers::single(0),
            planned: None,
            trials: Vec::new(),
            sole: None,
            slow: Ongoing::default(),
            state: State::starting_at(draw),
            repeats: State::starting_at(draw),
        }
    }

    /// Takes over a group made anew of the same endpoints.
    pub(super) fn replace(&mut self, group: Arc<Group>) {
        self.group = group;
        self.planned = None;
    }

    /// Plans anew if somebody's health has changed since.
    fn plan<S>(&mut self, endpoints: &[Rc<Endpoint<S>>], settings: &Settings, changes: u32) {
        if self.planned == Some(changes) {
            return;
        }
        self.planned = Some(changes);
        let panic = tiers::Settings { panic_percent: settings.panic_percent, ..tiers::Settings::default() };
        let word = |i: usize| endpoints[i].observer.standing().word();
        self.tiers = Tiers::plan(&self.group.layout, |i| word(i).is_usable(), panic);
        let numbers = self.group.numbers.iter();
        self.trials = numbers.copied().filter(|&i| word(i as usize).may_probe()).collect();
        self.sole = match *self.group.numbers {
            [only] if word(only as usize).is_usable() && self.trials.is_empty() => Some(only),
            _ => None,
        };
        self.slow = Ongoing::default();
        if let Some(curve) = &settings.slow_start {
            for since in self.group.numbers.iter().filter_map(|&i| word(i as usize).healthy_since_ms()) {
                // The first endpoints of a start have nobody who could take their share meanwhile.
                if since > 0 {
                    self.slow.begin(curve, since);
                }
            }
        }
    }

    /// Whether a client may go on with the endpoint that it has a connection of its own to.
    pub(super) fn may_return<S: Transport>(
        &self,
        endpoints: &[Rc<Endpoint<S>>],
        number: usize,
        want: &Want<'_, S>,
    ) -> bool {
        self.group.has(number)
            && endpoints[number].observer.admission() != Admission::Closed
            && !want.avoid.iter().any(|avoid| Rc::ptr_eq(avoid, &endpoints[number]))
    }

    /// Chooses an endpoint. What `want` avoids is chosen only if nobody else has room.
    pub(super) fn choose<S: Transport>(
        &mut self,
        endpoints: &[Rc<Endpoint<S>>],
        settings: &Settings,
        changes: u32,
        want: &Want<'_, S>,
        now_ms: u64,
        mut draw: impl FnMut() -> u64,
    ) -> Result<usize, Unavailable> {
        self.plan(endpoints, settings, changes);
        let avoided = |i: usize| want.avoid.iter().any(|avoid| Rc::ptr_eq(avoid, &endpoints[i]));
        let takes = |i: usize| endpoints[i].has_room(settings) && !avoided(i);
        if let Some(only) = self.sole.map(|only| only as usize)
            && takes(only)
        {
            return Ok(only);
        }
        if let Some(i) = want.sticky
            && self.group.has(i)
            && takes(i)
            && endpoints[i].observer.admission() != Admission::Closed
        {
            return Ok(i);
        }
        if !self.trials.is_empty() && want.avoid.is_empty() {
            let trial = |&i: &usize| endpoints[i].observer.admission() == Admission::Trial && takes(i);
            if let Some(i) = self.trials.iter().map(|&i| i as usize).find(trial) {
                return Ok(i);
            }
        }
        let key = want.key.filter(|_| self.group.tables.is_some());
        let chosen = self.tiers.choose(|| key.map_or_else(&mut draw, Key::draw));
        let Some(tier) = chosen else {
            return Err(if self.group.numbers.is_empty() {
                Unavailable::NoEndpoint
            } else {
                Unavailable::Unhealthy
            });
        };
        let state = if want.repeat { &mut self.repeats } else { &mut self.state };
        let slow = self.slow;
        let hashed = self.group.tables.as_ref().zip(key);
        let ewma = settings.rule == Rule::PeakEwma;
        let curve = settings.slow_start.as_ref().filter(|_| !slow.is_over(now_ms));
        let mut pick = |tier: &Tier, takes: &dyn Fn(usize) -> bool| {
            let choice = Choice { rule: settings.rule, tier, weights: slow.weights(tier, now_ms), hashed };
            let candidate = |i: usize| {
                let endpoint = &endpoints[i];
                let whole = Weight::whole(endpoint.weight.get());
                let active = endpoint.active.get();
                Candidate {
                    weight: curve.map_or(whole, |curve| endpoint.weight_now(curve, whole, now_ms)),
                    active,
                    load_ns: if ewma {
                        endpoint.latency.get().load_ns(active, now_ms * 1_000_000, &settings.ewma)
                    } else {
                        0
                    },
                    usable: takes(i),
                }
            };
            state.pick(choice, candidate, &mut draw)
        };
        if let Some(i) = pick(tier, &takes) {
            return Ok(i);
        }
        // Another level, an endpoint that is ejected and may be back, another try with the one that failed: better than none.
        let ejected = |i: usize| endpoints[i].observer.standing().word().is_last_resort() && takes(i);
        let numbers = || self.group.numbers.iter().map(|&i| i as usize);
        self.tiers
            .others(tier)
            .find_map(|tier| pick(tier, &takes))
            .or_else(|| if want.last_resort { numbers().find(|&i| ejected(i)) } else { None })
            .or_else(|| pick(tier, &|i| endpoints[i].has_room(settings)))
            .ok_or(Unavailable::Busy)
    }
}
