//! A hash table that is built once and read by many: keys are byte strings within a numbered scope.
//! A key of up to 16 bytes stands in its slot, so that a hit touches one cache line; longer ones stand in one flat array.
//!
//! The hash needs no secret: an outsider chooses what is looked up, never what is stored, so the longest
//! probe is fixed when the table is built.
//!
//! Keys are read and compared by whole words, which overlap where a length is no multiple of eight: copies and comparisons
//! of unknown length are calls into the C library, and most keys are shorter than such a call is long.

use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct ScopedMap {
    /// A power of two of them, at most half of them taken.
    slots: Box<[Slot]>,
    /// Of keys that do not stand in their slots.
    keys: Box<[u8]>,
    letters: Letters,
}

/// Half a cache line, and never across two.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Slot {
    key: Key,
    /// Where a long key starts.
    key_start: u32,
    /// `EMPTY` ends a probe.
    value: u32,
}

const EMPTY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// The text itself, or of one of more than `PACKED_BYTES_MAX` bytes, a hash.
    words: [u64; 2],
    bytes: u32,
    scope: u32,
}

const PACKED_BYTES_MAX: usize = 16;

/// Whether a key is looked up as it is or in lower case. Stored keys are in lower case where that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Letters {
    #[default]
    AsTheyAre,
    Lowered,
}

#[derive(Debug, Default)]
pub(super) struct ScopedMapBuilder {
    entries: HashMap<(u32, Box<[u8]>), u32>,
}

impl ScopedMapBuilder {
    pub(super) fn find_or_insert(&mut self, scope: u32, key: &[u8], value: u32) -> u32 {
        *self.entries.entry((scope, key.into())).or_insert(value)
    }

    pub(super) fn freeze(self, letters: Letters) -> ScopedMap {
        let mut entries: Vec<_> = self.entries.into_iter().collect();
        // The same settings make the same table.
        entries.sort_unstable_by_key(|(_, value)| *value);
        let empty = Slot { key: Key::of(0, &[], letters), key_start: 0, value: EMPTY };
        let mut slots = vec![empty; (entries.len() * 2).next_power_of_two().max(2)].into_boxed_slice();
        let mut keys = Vec::new();
        for ((scope, text), value) in entries {
            let key = Key::of(scope, &text, letters);
            let mut at = key.hash() & (slots.len() - 1);
            while slots[at].value != EMPTY {
                at = (at + 1) & (slots.len() - 1);
            }
            let key_start = keys.len() as u32;
            if text.len() > PACKED_BYTES_MAX {
                keys.extend_from_slice(&text);
            }
            slots[at] = Slot { key, key_start, value };
        }
        ScopedMap { slots, keys: keys.into(), letters }
    }
}

impl ScopedMap {
    #[inline]
    pub(super) fn find(&self, scope: u32, text: &[u8]) -> Option<u32> {
        let key = Key::of(scope, text, self.letters);
        let mut at = key.hash() & (self.slots.len() - 1);
        loop {
            let slot = &self.slots[at];
            if slot.value == EMPTY {
                return None;
            }
            if slot.key == key && (text.len() <= PACKED_BYTES_MAX || self.has_text(slot, text)) {
                return Some(slot.value);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    fn has_text(&self, slot: &Slot, text: &[u8]) -> bool {
        let start = slot.key_start as usize;
        let stored = &self.keys[start..start + slot.key.bytes as usize];
        match self.letters {
            Letters::AsTheyAre => stored == text,
            Letters::Lowered => stored.eq_ignore_ascii_case(text),
        }
    }
}

impl Key {
    // Handed over in memory, it is written by halves and read as a whole, which the processor waits for: 95 ns instead of 55
    // for a look-up among prefixes (`lookup/prefixes/100`).
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn of(scope: u32, text: &[u8], letters: Letters) -> Self {
        let words = match text {
            [] => [0, 0],
            [one] => [u64::from(*one), 0],
            [first, second] => [u64::from(*first) | u64::from(*second) << 8, 0],
            [first, second, third] => {
                [u64::from(*first) | u64::from(*second) << 8 | u64::from(*third) << 16, 0]
            }
            _ if text.len() < 8 => [half(text.first_chunk()) | half(text.last_chunk()) << 32, 0],
            _ if text.len() <= PACKED_BYTES_MAX => [word(text.first_chunk()), word(text.last_chunk())],
            _ => [hash_of_long(text, letters), 0],
        };
        let words = if letters == Letters::Lowered && text.len() <= PACKED_BYTES_MAX {
            words.map(lower)
        } else {
            words
        };
        Key { words, bytes: text.len() as u32, scope }
    }

    #[inline]
    fn hash(self) -> usize {
        let seed = (u64::from(self.scope) << 32 | u64::from(self.bytes)).wrapping_mul(K);
        fold(self.words[0] ^ seed, self.words[1] ^ K) as usize
    }
}

/// Multiply and fold, sixteen bytes a step (the idea of wyhash and foldhash).
fn hash_of_long(text: &[u8], letters: Letters) -> u64 {
    let read = |at: usize| {
        let word = word(text[at..].first_chunk());
        if letters == Letters::Lowered { lower(word) } else { word }
    };
    let last = text.len() - PACKED_BYTES_MAX;
    let (mut state, mut at) = (0, 0);
    while at < last {
        state = fold(read(at) ^ state, read(at + 8) ^ K);
        at += PACKED_BYTES_MAX;
    }
    fold(read(last) ^ state, read(last + 8) ^ K)
}

#[inline]
fn half(bytes: Option<&[u8; 4]>) -> u64 {
    bytes.map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
}

#[inline]
fn word(bytes: Option<&[u8; 8]>) -> u64 {
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Eight ASCII letters at once, whatever else is among them: a byte's upper bit is set in `upper` if it is one of `A` to
/// `Z`, and moves to where letters differ by case. No sum reaches the next byte.
#[inline]
fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7F * ONES);
    let from_a = low + u64::from(0x80 - b'A') * ONES;
    let past_z = low + u64::from(0x7F - b'Z') * ONES;
    let upper = from_a & !past_z & !word & (0x80 * ONES);
    word | upper >> 2
}

const K: u64 = 0x9E37_79B9_7F4A_7C15;

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

/// A range of `candidates` or `matchers`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) end: u32,
}

#[cfg(test)]
mod tests {
    use super::{Letters, ScopedMapBuilder, lower};

    /// All lengths around those at which keys are read another way, all scopes apart.
    #[test]
    fn keys_of_all_lengths_are_found_and_no_others() {
        for letters in [Letters::AsTheyAre, Letters::Lowered] {
            let key = |bytes: usize, odd: Option<usize>| -> Vec<u8> {
                (0..bytes).map(|at| if odd == Some(at) { b'#' } else { b'a' + (at % 26) as u8 }).collect()
            };
            let mut builder = ScopedMapBuilder::default();
            for bytes in 0..70 {
                assert_eq!(builder.find_or_insert(0, &key(bytes, None), bytes as u32), bytes as u32);
                assert_eq!(
                    builder.find_or_insert(7, &key(bytes, None), 100 + bytes as u32),
                    100 + bytes as u32
                );
            }
            let map = builder.freeze(letters);
            for bytes in 0..70 {
                let stored = key(bytes, None);
                assert_eq!(map.find(0, &stored), Some(bytes as u32));
                assert_eq!(map.find(7, &stored), Some(100 + bytes as u32));
                assert_eq!(map.find(1, &stored), None);
                let found = map.find(0, &stored.to_ascii_uppercase());
                let expected = letters == Letters::Lowered || bytes == 0;
                assert_eq!(found, expected.then_some(bytes as u32), "{letters:?} {bytes}");
                for odd in 0..bytes {
                    assert_eq!(map.find(0, &key(bytes, Some(odd))), None, "{letters:?} {bytes} {odd}");
                }
            }
            assert_eq!(map.find(0, &key(70, None)), None);
        }
    }

    #[test]
    fn letters_are_lowered_eight_at_a_time() {
        for byte in 0..=u8::MAX {
            for other in [0, b'A', b'z', 0x7F, 0x80, 0xFF] {
                let bytes = [other, byte, other, other, byte, byte, other, byte];
                let lowered = bytes.map(|byte| byte.to_ascii_lowercase());
                assert_eq!(lower(u64::from_le_bytes(bytes)), u64::from_le_bytes(lowered), "{bytes:?}");
            }
        }
    }
}
