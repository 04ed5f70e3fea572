//! A hash table that is built once and read by many: keys are byte strings within a numbered scope.
//! One flat array of slots and one of key bytes, so that a hit touches two cache lines.
//!
//! The hash needs no secret: an outsider chooses what is looked up, never what is stored, so the longest
//! probe is fixed when the table is built.

use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct ScopedMap {
    /// A power of two of them, at most half of them taken.
    slots: Box<[Slot]>,
    keys: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    scope: u32,
    key_start: u32,
    key_bytes: u32,
    /// `EMPTY` ends a probe.
    value: u32,
}

const EMPTY: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct ScopedMapBuilder {
    entries: HashMap<(u32, Box<[u8]>), u32>,
}

impl ScopedMapBuilder {
    pub(super) fn find_or_insert(&mut self, scope: u32, key: &[u8], value: u32) -> u32 {
        *self.entries.entry((scope, key.into())).or_insert(value)
    }

    pub(super) fn freeze(self) -> ScopedMap {
        let mut entries: Vec<_> = self.entries.into_iter().collect();
        // The same settings make the same table.
        entries.sort_unstable_by_key(|(_, value)| *value);
        let empty = Slot { hash: 0, scope: 0, key_start: 0, key_bytes: 0, value: EMPTY };
        let mut slots = vec![empty; (entries.len() * 2).next_power_of_two().max(2)].into_boxed_slice();
        let mut keys = Vec::new();
        for ((scope, key), value) in entries {
            let hash = hash(scope, &key);
            let mut at = hash as usize & (slots.len() - 1);
            while slots[at].value != EMPTY {
                at = (at + 1) & (slots.len() - 1);
            }
            let key_start = keys.len() as u32;
            slots[at] = Slot { hash, scope, key_start, key_bytes: key.len() as u32, value };
            keys.extend_from_slice(&key);
        }
        ScopedMap { slots, keys: keys.into() }
    }
}

impl ScopedMap {
    pub(super) fn find(&self, scope: u32, key: &[u8]) -> Option<u32> {
        let hash = hash(scope, key);
        let mut at = hash as usize & (self.slots.len() - 1);
        loop {
            let slot = &self.slots[at];
            if slot.value == EMPTY {
                return None;
            }
            if slot.hash == hash && slot.scope == scope {
                let start = slot.key_start as usize;
                if self.keys[start..start + slot.key_bytes as usize] == *key {
                    return Some(slot.value);
                }
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

/// Multiply and fold, eight bytes a step (the idea of wyhash and foldhash).
fn hash(scope: u32, key: &[u8]) -> u32 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut state = fold(u64::from(scope) ^ (key.len() as u64) << 32 ^ K, K);
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        state = fold(state ^ u64::from_le_bytes(word.try_into().expect("chunks of eight")), K);
    }
    let mut tail = [0; 8];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    (fold(state ^ u64::from_le_bytes(tail), K) >> 32) as u32
}

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}
