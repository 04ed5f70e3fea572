//! Which of many regexes are worth asking: those whose literals the path has. `builder` makes one for the regexes of a node
//! that a few automata could not take, `search` asks it. It may let a regex through that does not fit, and never keeps one
//! back that does.
//!
//! The idea is that of RE2's `FilteredRE2` and of Hyperscan's literal matcher: take from each pattern what every match has
//! to contain. Instead of an automaton over all literals, a few bytes of one stand for each pattern, the rarest among all
//! patterns, in a hash table that is asked once for each place in the path (Karp and Rabin, 1987). So no literal hides
//! another, the time is linear in the path whatever the literals are, and a pattern costs some 50 bytes.

use std::collections::{HashMap, HashSet};

use regex_syntax::hir::{Hir, HirKind};

use super::table::Range;
use crate::base::limits::{REGEX_GROUPS_MAX, REGEX_LITERAL_BYTES_MAX};

/// Groups of matchers, each behind the windows of its patterns. No window is of two groups.
#[derive(Debug)]
pub(super) struct LiteralFilter {
    long: Windows<LONG_BYTES>,
    short: Windows<SHORT_BYTES>,
    groups: Box<[Range]>,
}

const LONG_BYTES: usize = 8;
const SHORT_BYTES: usize = 4;

/// As many bytes of a literal as are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Window {
    Long([u8; LONG_BYTES]),
    Short([u8; SHORT_BYTES]),
}

impl LiteralFilter {
    /// For each group, its matchers and its windows. At most `REGEX_GROUPS_MAX` groups.
    pub(super) fn new(groups: &[(Range, Vec<Window>)]) -> Self {
        let (mut long, mut short) = (Vec::new(), Vec::new());
        for (group, (_, windows)) in groups.iter().enumerate() {
            for window in windows {
                match window {
                    Window::Long(bytes) => long.push((*bytes, group as u32)),
                    Window::Short(bytes) => short.push((*bytes, group as u32)),
                }
            }
        }
        LiteralFilter {
            long: Windows::new(&long),
            short: Windows::new(&short),
            groups: groups.iter().map(|(matchers, _)| *matchers).collect(),
        }
    }

    /// The matchers of each group of which a window is in the path, each group once.
    #[inline]
    pub(super) fn each_group(&self, path: &[u8], mut ask: impl FnMut(Range)) {
        let mut asked = [0_u64; REGEX_GROUPS_MAX / 64];
        let mut found = |group: u32| {
            let (word, bit) = (&mut asked[group as usize / 64], 1 << (group % 64));
            if *word & bit == 0 {
                *word |= bit;
                ask(self.groups[group as usize]);
            }
        };
        self.long.each(path, &mut found);
        self.short.each(path, &mut found);
    }
}

/// From windows to groups.
#[derive(Debug)]
struct Windows<const BYTES: usize> {
    /// Of a hash, the upper bits as a number: whether some window has these. Nearly all places of a path end here.
    known: Box<[u64]>,
    /// Half of them taken at most.
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The lower bits of a window's hash. Two windows that share them let each other's groups through.
    tag: u32,
    /// `EMPTY` ends a probe.
    group: u32,
}

const EMPTY: u32 = u32::MAX;

impl<const BYTES: usize> Windows<BYTES> {
    fn new(windows: &[([u8; BYTES], u32)]) -> Self {
        if windows.is_empty() {
            return Windows { known: Box::default(), slots: Box::default() };
        }
        let size = (windows.len() * 2).next_power_of_two();
        let mut known = vec![0; (size / 8).max(1)].into_boxed_slice();
        let mut slots = vec![Slot { tag: 0, group: EMPTY }; size].into_boxed_slice();
        for (bytes, group) in windows {
            let hash = hash(bytes);
            let bit = upper(hash, known.len() * 64);
            known[bit / 64] |= 1 << (bit % 64);
            let mut at = upper(hash, size);
            while slots[at].group != EMPTY {
                at = (at + 1) % size;
            }
            slots[at] = Slot { tag: hash as u32, group: *group };
        }
        Windows { known, slots }
    }

    #[inline]
    fn each(&self, path: &[u8], found: &mut impl FnMut(u32)) {
        if self.slots.is_empty() {
            return;
        }
        for bytes in path.windows(BYTES) {
            let hash = hash(bytes);
            let bit = upper(hash, self.known.len() * 64);
            if self.known[bit / 64] >> (bit % 64) & 1 == 0 {
                continue;
            }
            let mut at = upper(hash, self.slots.len());
            while self.slots[at].group != EMPTY {
                if self.slots[at].tag == hash as u32 {
                    found(self.slots[at].group);
                }
                at = (at + 1) % self.slots.len();
            }
        }
    }
}

/// Of eight bytes or four. The upper bits of a product depend on all bits of its factors (Knuth, volume 3, section 6.4);
/// the lower ones, which do not, are mixed with them.
#[inline]
fn hash(window: &[u8]) -> u64 {
    let long = window.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let short = || window.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
    let product = u128::from(long.or_else(short).unwrap_or_default()) * 0x9E37_79B9_7F4A_7C15;
    product as u64 ^ (product >> 64) as u64
}

/// A number below a power of two.
#[inline]
fn upper(hash: u64, size: usize) -> usize {
    ((u128::from(hash) * size as u128) >> 64) as usize
}

/// For each pattern, by what every text that fits it has to contain, the window that the fewest others have; the first of
/// several. Nothing for a pattern without a literal that is long enough.
pub(super) fn rarest_windows(patterns: &[&[Box<[u8]>]]) -> Vec<Option<Window>> {
    let mut counts: HashMap<Window, u32> = HashMap::new();
    for literals in patterns {
        let own: HashSet<Window> = literals.iter().flat_map(|literal| windows(literal)).collect();
        for window in own {
            *counts.entry(window).or_default() += 1;
        }
    }
    let rank = |window: &Window| (counts.get(window).copied(), matches!(window, Window::Short(_)));
    let rarest =
        |literals: &&[Box<[u8]>]| literals.iter().flat_map(|literal| windows(literal)).min_by_key(rank);
    patterns.iter().map(rarest).collect()
}

/// A short one of a long literal is never rarer than the long ones around it.
fn windows(literal: &[u8]) -> impl Iterator<Item = Window> {
    let long = literal.windows(LONG_BYTES).filter_map(|bytes| bytes.try_into().ok().map(Window::Long));
    let short = if literal.len() < LONG_BYTES { literal } else { &[] };
    long.chain(short.windows(SHORT_BYTES).filter_map(|bytes| bytes.try_into().ok().map(Window::Short)))
}

/// What every text that fits contains: the literals of a pattern that are no part of a choice, each as long as it goes on
/// without a gap. Those that are too short to be looked for are left out, and all beyond a bound.
pub(super) fn required_literals(hir: &Hir) -> Box<[Box<[u8]>]> {
    let mut literals = Literals { ended: Vec::new(), bytes: 0, open: Vec::new() };
    literals.read(hir);
    literals.end();
    literals.ended.into()
}

struct Literals {
    ended: Vec<Box<[u8]>>,
    /// Of all of them.
    bytes: usize,
    /// What the text read so far ends with.
    open: Vec<u8>,
}

impl Literals {
    fn read(&mut self, hir: &Hir) {
        match hir.kind() {
            // They take no byte, so what stands around them touches.
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => self.open.extend_from_slice(&literal.0),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.read(part)),
            HirKind::Capture(capture) => self.read(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => {
                // The first time touches what is before; what follows touches the last time, which may be another.
                self.read(&repetition.sub);
                if repetition.max != Some(1) {
                    self.end();
                }
            }
            // A literal that ignores case is a class.
            HirKind::Class(_) | HirKind::Alternation(_) | HirKind::Repetition(_) => self.end(),
        }
    }

    fn end(&mut self) {
        self.open.truncate(REGEX_LITERAL_BYTES_MAX - self.bytes);
        if self.open.len() >= SHORT_BYTES {
            self.bytes += self.open.len();
            self.ended.push(self.open.as_slice().into());
        }
        self.open.clear();
    }
}
