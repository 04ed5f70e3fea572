//! What tables of hashes and tiers share: spreading 64 bits, scaling them, and an endpoint's share.

/// The step of `SplitMix64`: 2^64 divided by the golden ratio.
pub(super) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a table is made of, for one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) number: u32,
    pub(super) id: u64,
    /// At least 1.
    pub(super) weight: u32,
}

/// The finaliser of `SplitMix64` (G. Steele et al., 2014): a bijection in which every bit depends on every bit.
#[inline]
pub(super) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// `hash` mapped to 0..`len` by its upper bits; cheaper than a remainder.
#[inline]
pub(super) fn scale(hash: u64, len: usize) -> usize {
    ((u128::from(hash) * len as u128) >> 64) as usize
}
