//! A hash that stays the same over processes and builds, for names.

/// FNV-1a, 64 bits: names a configuration; it is no proof against forgery.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
