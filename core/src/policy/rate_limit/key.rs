//! Names of buckets: a keyed 56-bit hash of a rule's name and of a key's parts, and the
//! number of the rule's revision. A client that does not know the seed
//! can't make two keys meet. By chance two of ten million do with probability 7·10⁻⁴.
//!
//! The hash is `SipHash-1-3` (Aumasson and Bernstein, "`SipHash`: a fast short-input PRF", 2012), the variant that std uses
//! against floods of its tables; std's own can't be given a seed. A test compares the two.

/// A key's name ends in the number of its rule's revision.
const REVISION_BITS: u64 = 0xff;

/// A rule's stable name, hashed, and the number of its revision in the low byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

impl RuleId {
    /// The last revision that a rule can have.
    pub const REVISION_MAX: u8 = u8::MAX;

    /// How often the rule's rate was changed.
    #[inline]
    pub(super) fn revision(self) -> u8 {
        (self.0 & REVISION_BITS) as u8
    }

    /// The next revision. There is one: the caller has looked.
    pub(super) fn next(self) -> Self {
        debug_assert!(self.revision() < Self::REVISION_MAX);
        Self(self.0 + 1)
    }
}

/// A bucket's name: of a rule and a key, in 56 bits that are never all zero; the low byte is the rule's revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub(super) u64);

impl KeyHash {
    fn new(hash: u64, revision: u8) -> Self {
        Self((hash & !REVISION_BITS).max(REVISION_BITS + 1) | u64::from(revision))
    }

    /// The same key of another revision of its rule.
    pub(super) fn of_revision(self, revision: u8) -> Self {
        Self::new(self.0, revision)
    }

    pub(super) fn revision(self) -> u8 {
        (self.0 & REVISION_BITS) as u8
    }

    /// True if `key` is the same key, of whatever revision.
    #[inline]
    pub(super) fn is_same(key: u64, other: u64) -> bool {
        (key ^ other) <= REVISION_BITS
    }

    /// The key without its revision.
    #[inline]
    pub(super) fn without_revision(key: u64) -> u64 {
        key & !REVISION_BITS
    }
}

/// Makes names. One for all workers of a node, or they would count apart.
#[derive(Clone, Copy)]
pub struct KeyHasher {
    seed: [u64; 2],
}

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHasher(seed hidden)")
    }
}

impl KeyHasher {
    /// `seed` is secret and drawn anew by each process.
    pub fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// A rule's name, hashed: done once, when a snapshot is compiled.
    pub fn rule(&self, name: &str) -> RuleId {
        self.numbered_rule(name, 0)
    }

    /// The same, told apart from other rules that have or had the same name.
    pub(super) fn numbered_rule(&self, name: &str, number: u64) -> RuleId {
        let mut sip = Sip::new(self.seed);
        sip.word(number);
        sip.write(name.as_bytes());
        RuleId(sip.finish() & !REVISION_BITS)
    }

    /// A key's name. Parts are told apart: `["ab", "c"]` is another key than `["a", "bc"]`.
    #[inline]
    pub fn key(&self, rule: RuleId, parts: &[&[u8]]) -> KeyHash {
        let mut sip = Sip::new(self.seed);
        sip.word(rule.0 & !REVISION_BITS);
        for part in parts {
            sip.word(part.len() as u64);
            sip.write(part);
        }
        KeyHash::new(sip.finish(), rule.revision())
    }
}

#[cfg(test)]
impl KeyHash {
    pub(super) fn of(value: u64) -> Self {
        Self::new(value.rotate_left(8), 0)
    }
}

/// `SipHash-1-3`. Each `write` starts on a word's border and pads its last word, which is `SipHash` as it stands for one
/// `write`, and unambiguous for several, whose lengths are written before.
struct Sip {
    v: [u64; 4],
    bytes: usize,
    tail: u64,
}

impl Sip {
    #[inline]
    fn new([k0, k1]: [u64; 2]) -> Self {
        let v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        Self { v, bytes: 0, tail: 0 }
    }

    #[inline]
    fn word(&mut self, word: u64) {
        self.flush();
        self.v[3] ^= word;
        self.round();
        self.v[0] ^= word;
        self.bytes += 8;
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.flush();
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        for (i, byte) in rest.iter().enumerate() {
            self.tail |= u64::from(*byte) << (8 * i);
        }
        self.bytes += rest.len();
    }

    #[inline]
    fn flush(&mut self) {
        if !self.bytes.is_multiple_of(8) {
            let tail = std::mem::take(&mut self.tail);
            self.bytes = self.bytes / 8 * 8;
            self.word(tail);
        }
    }

    #[inline]
    fn finish(mut self) -> u64 {
        let last = self.tail | (self.bytes as u64) << 56;
        self.v[3] ^= last;
        self.round();
        self.v[0] ^= last;
        self.v[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    #[inline]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use super::{KeyHash, KeyHasher, Sip};

    #[test]
    fn the_hash_is_that_of_std() {
        let text: Vec<u8> = (0..100).collect();
        for len in 0..text.len() {
            let mut theirs = std::hash::DefaultHasher::new();
            theirs.write(&text[..len]);
            let mut ours = Sip::new([0, 0]);
            ours.write(&text[..len]);
            assert_eq!(ours.finish(), theirs.finish(), "{len} bytes");
        }
    }

    #[test]
    fn parts_rules_and_seeds_are_told_apart() {
        let hasher = KeyHasher::new([1, 2]);
        let (a, b) = (hasher.rule("a"), hasher.rule("b"));
        let mut seen = std::collections::HashSet::new();
        let keys: &[&[&[u8]]] = &[
            &[],
            &[b""],
            &[b"", b""],
            &[b"ab", b"c"],
            &[b"a", b"bc"],
            &[b"abc"],
            &[b"abc", b""],
            &[b"abc\0"],
            &[b"12345678"],
            &[b"1234567", b"8"],
            &[b"12345678", b""],
        ];
        for parts in keys {
            for rule in [a, b] {
                assert!(seen.insert(hasher.key(rule, parts)), "{parts:?}");
                assert!(seen.insert(KeyHasher::new([1, 3]).key(rule, parts)), "{parts:?}");
                assert_eq!(hasher.key(rule, parts), hasher.key(rule, parts));
                let next = hasher.key(rule.next(), parts);
                assert!(seen.insert(next) && KeyHash::is_same(next.0, hasher.key(rule, parts).0));
                assert_eq!(next.of_revision(0), hasher.key(rule, parts));
            }
        }
    }

    #[test]
    fn a_name_is_never_that_of_no_key() {
        for hash in [0, 1, 0xff, 0x100, u64::MAX] {
            assert!(KeyHash::without_revision(KeyHash::new(hash, 0).0) != 0, "{hash}");
        }
    }
}
