//! Deterministic automata over bytes: what regexes of routes become. A match reads each byte once, keeps nothing
//! between matches and nothing for each thread, and many patterns can be asked in one pass.
//!
//! Built from Thompson automata by the subset construction (Rabin and Scott, 1959), and out of one another as
//! their product. Both can grow exponentially, so both have a budget and give up at its end: `WholeRegex` then
//! falls back to an engine that builds its states as it goes, and `builder` to smaller products.

use std::collections::HashMap;

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;

/// Every text either fits some of its patterns or none; a pattern has to fit the whole text.
pub(super) struct Automaton {
    /// Bytes that no pattern tells apart share a class.
    classes: Box<[u8; 256]>,
    /// A row of `next` has a power of two of cells: finding one is a shift.
    row_bits: u8,
    start: u16,
    next: Box<[u16]>,
    /// By state: the set of patterns that fit a text which ends here. Set 0 is empty.
    accepts: Box<[u16]>,
    /// Ascending numbers of patterns.
    sets: Box<[Box<[u32]>]>,
}

/// No text that comes here fits anything any more.
const DEAD: u16 = 0;

/// The cells of a table, and so its bytes: two each.
const CELLS_MAX: usize = 1 << 20;

/// States of a Thompson automaton that is tried: a step of the construction may look at all of them.
const NFA_STATES_MAX: usize = 2_000;

/// Steps that a construction may take, shared by all that draw on it. A step is one look at one member of a set.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) const fn new(steps: usize) -> Self {
        Budget(steps)
    }

    /// A part of it, to be given back with what is left.
    pub(super) fn portion(&mut self, steps: usize) -> Budget {
        let steps = steps.min(self.0);
        self.0 -= steps;
        Budget(steps)
    }

    pub(super) fn give_back(&mut self, portion: &Budget) {
        self.0 += portion.0;
    }

    #[must_use]
    fn take(&mut self, steps: usize) -> bool {
        let enough = self.0 >= steps;
        self.0 = self.0.saturating_sub(steps);
        enough
    }
}

impl Automaton {
    /// `None` where the budget ends or where the patterns look around by more than the text's two ends.
    pub(super) fn of_nfa(nfa: &NFA, budget: &mut Budget) -> Option<Self> {
        if nfa.states().len() > NFA_STATES_MAX {
            return None;
        }
        if !nfa.look_set_any().iter().all(|look| matches!(look, Look::Start | Look::End)) {
            return None;
        }
        let mut closure = Closure::new(nfa);
        let mut start = Vec::new();
        closure.add(nfa.start_anchored(), At::Start, &mut start)?;
        let mut classes = Box::new([0; 256]);
        for byte in 0..=u8::MAX {
            classes[usize::from(byte)] = nfa.byte_classes().get(byte);
        }
        let mut accepting = Closure::new(nfa);
        let step = |from: &[u32], byte: u8, to: &mut Vec<u32>| {
            closure.reset();
            for state in from {
                let next = match nfa.state(StateID::must(*state as usize)) {
                    State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
                    State::Sparse(many) => many.matches_byte(byte),
                    State::Dense(many) => many.matches_byte(byte),
                    _ => None,
                };
                if let Some(next) = next {
                    closure.add(next, At::Inside, to)?;
                }
            }
            to.sort_unstable();
            Some(())
        };
        let accepts = |from: &[u32]| {
            accepting.reset();
            let mut ends = Vec::new();
            for state in from {
                accepting.add(StateID::must(*state as usize), At::End, &mut ends)?;
            }
            let mut patterns: Vec<u32> = ends
                .iter()
                .filter_map(|state| match nfa.state(StateID::must(*state as usize)) {
                    State::Match { pattern_id } => Some(pattern_id.as_u32()),
                    _ => None,
                })
                .collect();
            patterns.sort_unstable();
            patterns.dedup();
            Some(patterns)
        };
        start.sort_unstable();
        construct(start, classes, budget, step, accepts)
    }

    /// One automaton for many of one pattern each: pattern n of it is `parts[n]`. It starts where each of them is
    /// after `prefix`, which therefore is not asked again. A single part is cut to what follows the prefix.
    pub(super) fn product(parts: &[&Automaton], prefix: &[u8], budget: &mut Budget) -> Option<Self> {
        let start: Vec<u32> = parts
            .iter()
            .enumerate()
            .filter_map(|(index, part)| {
                let state = part.run(part.start, prefix)?;
                Some([index as u32, u32::from(state)])
            })
            .flatten()
            .collect();
        // A set is a list of pairs: a part and the state that it is in.
        let step = |from: &[u32], byte: u8, to: &mut Vec<u32>| {
            for pair in from.chunks_exact(2) {
                let next = parts[pair[0] as usize].step(pair[1] as u16, byte);
                if next != DEAD {
                    to.extend([pair[0], u32::from(next)]);
                }
            }
            Some(())
        };
        let accepts = |from: &[u32]| {
            let fits = |pair: &&[u32]| parts[pair[0] as usize].accepts[pair[1] as usize] != 0;
            Some(from.chunks_exact(2).filter(fits).map(|pair| pair[0]).collect())
        };
        construct(start, common_classes(parts), budget, step, accepts)
    }

    #[inline]
    fn step(&self, state: u16, byte: u8) -> u16 {
        self.next[usize::from(state) << self.row_bits | usize::from(self.classes[usize::from(byte)])]
    }

    #[inline]
    fn run(&self, mut state: u16, text: &[u8]) -> Option<u16> {
        for byte in text {
            state = self.step(state, *byte);
            if state == DEAD {
                return None;
            }
        }
        Some(state)
    }

    /// The number of the set of patterns that fit.
    #[inline]
    pub(super) fn matching(&self, text: &[u8]) -> usize {
        self.run(self.start, text).map_or(0, |state| usize::from(self.accepts[usize::from(state)]))
    }

    #[inline]
    pub(super) fn is_match(&self, text: &[u8]) -> bool {
        self.matching(text) != 0
    }

    /// The patterns of each set; that of set 0 is empty.
    pub(super) fn sets(&self) -> &[Box<[u32]>] {
        &self.sets
    }

    /// Whether every text that starts with `prefix` fits, line feeds aside: no request target has one (RFC 9112
    /// section 3.2), and `.` means anything else.
    pub(super) fn takes_all_after(&self, prefix: &[u8]) -> bool {
        let Some(state) = self.run(self.start, prefix) else { return false };
        let mut seen = vec![false; self.accepts.len()];
        let mut open = vec![state];
        while let Some(state) = open.pop() {
            if self.accepts[usize::from(state)] == 0 {
                return false;
            }
            for byte in (0..=u8::MAX).filter(|byte| *byte != b'\n') {
                let next = self.step(state, byte);
                if !std::mem::replace(&mut seen[usize::from(next)], true) {
                    open.push(next);
                }
            }
        }
        true
    }
}

impl std::fmt::Debug for Automaton {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Automaton")
            .field("states", &self.accepts.len())
            .field("cells", &self.next.len())
            .finish_non_exhaustive()
    }
}

/// Where in the text a closure is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Inside,
    End,
}

/// What can be reached without reading a byte.
struct Closure<'n> {
    nfa: &'n NFA,
    /// The round in which a state was last seen: forgetting all of them is counting up.
    seen: Vec<u32>,
    round: u32,
    open: Vec<StateID>,
}

impl<'n> Closure<'n> {
    fn new(nfa: &'n NFA) -> Self {
        Closure { nfa, seen: vec![0; nfa.states().len()], round: 1, open: Vec::new() }
    }

    fn reset(&mut self) {
        self.round += 1;
    }

    /// Adds those that read a byte, match or wait for the end. `None` for one that needs both ends at once in a
    /// way that a set of states does not tell.
    fn add(&mut self, from: StateID, at: At, into: &mut Vec<u32>) -> Option<()> {
        self.open.push(from);
        while let Some(id) = self.open.pop() {
            if std::mem::replace(&mut self.seen[id.as_usize()], self.round) == self.round {
                continue;
            }
            match self.nfa.state(id) {
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Match { .. } => {
                    into.push(id.as_u32());
                }
                State::Look { look: Look::End, next } => {
                    if at == At::End {
                        self.open.push(*next);
                    } else {
                        into.push(id.as_u32());
                    }
                }
                State::Look { next, .. } => match at {
                    At::Start => self.open.push(*next),
                    At::Inside => {}
                    At::End => return None,
                },
                State::Union { alternates } => self.open.extend(alternates.iter().rev()),
                State::BinaryUnion { alt1, alt2 } => self.open.extend([*alt2, *alt1]),
                State::Capture { next, .. } => self.open.push(*next),
                State::Fail => {}
            }
        }
        Some(())
    }
}

/// Two bytes share a class if they do in each part.
fn common_classes(parts: &[&Automaton]) -> Box<[u8; 256]> {
    let mut classes = Box::new([0; 256]);
    let mut known: HashMap<(u8, u8), u8> = HashMap::new();
    for part in parts {
        known.clear();
        for (class, theirs) in classes.iter_mut().zip(part.classes.iter()) {
            // At most 256 pairs are told apart, so a number fits.
            let next = known.len() as u8;
            *class = *known.entry((*class, *theirs)).or_insert(next);
        }
    }
    classes
}

/// The part that both constructions share. A state is a set, written as a list in one fixed order.
fn construct(
    start: Vec<u32>,
    classes: Box<[u8; 256]>,
    budget: &mut Budget,
    mut step: impl FnMut(&[u32], u8, &mut Vec<u32>) -> Option<()>,
    mut accepts: impl FnMut(&[u32]) -> Option<Vec<u32>>,
) -> Option<Automaton> {
    let mut representatives: Vec<u8> = Vec::new();
    for (byte, class) in classes.iter().enumerate() {
        if usize::from(*class) == representatives.len() {
            representatives.push(byte as u8);
        }
    }
    let row_bits = representatives.len().next_power_of_two().trailing_zeros() as u8;
    let mut states: Vec<Box<[u32]>> = vec![Box::default(), start.into()];
    let mut numbers: HashMap<Box<[u32]>, u16> =
        states.iter().enumerate().map(|(number, state)| (state.clone(), number as u16)).collect();
    let mut sets: Vec<Box<[u32]>> = vec![Box::default()];
    let mut set_numbers: HashMap<Box<[u32]>, u16> = HashMap::from([(Box::default(), 0)]);
    let (mut next, mut accepting) = (vec![DEAD; 1 << row_bits], vec![0]);
    let (mut at, mut to) = (1, Vec::new());
    while at < states.len() {
        let state = states[at].clone();
        if !budget.take((state.len() + 1) * representatives.len()) || next.len() >= CELLS_MAX {
            return None;
        }
        let set: Box<[u32]> = accepts(&state)?.into();
        let fresh = u16::try_from(sets.len()).ok()?;
        let number = *set_numbers.entry(set).or_insert_with_key(|set| {
            sets.push(set.clone());
            fresh
        });
        accepting.push(number);
        for byte in &representatives {
            to.clear();
            step(&state, *byte, &mut to)?;
            let number = if let Some(number) = numbers.get(to.as_slice()) {
                *number
            } else {
                let number = u16::try_from(states.len()).ok()?;
                states.push(to.as_slice().into());
                numbers.insert(to.as_slice().into(), number);
                number
            };
            next.push(number);
        }
        next.resize((at + 1) << row_bits, DEAD);
        at += 1;
    }
    Some(Automaton {
        classes,
        row_bits,
        // An empty start is the dead state itself.
        start: if states[1].is_empty() { DEAD } else { 1 },
        next: next.into(),
        accepts: accepting.into(),
        sets: sets.into(),
    })
}
