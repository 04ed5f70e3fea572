//! The bytes that `/bytes/N` consists of, and their digest: known on both sides, so that a body can be checked.

use std::sync::OnceLock;

/// The pattern repeats after so many bytes.
pub const PERIOD_BYTES: usize = 1 << 20;

/// One period of the pattern: noise, so that a piece lost, doubled or out of place changes the digest.
pub fn period() -> &'static [u8] {
    static PERIOD: OnceLock<Vec<u8>> = OnceLock::new();
    PERIOD.get_or_init(|| {
        // xorshift64 (Marsaglia, 2003), with printable output so that a dump of a body can be read.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'0' + (state >> 58) as u8
        };
        (0..PERIOD_BYTES).map(|_| next()).collect()
    })
}

/// The longest contiguous piece of a body from `offset` on that is not longer than `left`.
pub fn piece(offset: u64, left: u64) -> &'static [u8] {
    let start = (offset % PERIOD_BYTES as u64) as usize;
    let rest = &period()[start..];
    &rest[..rest.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
}

/// XXH3-64 of the first `bytes` bytes.
pub fn digest(bytes: u64) -> u64 {
    let mut hasher = twox_hash::XxHash3_64::new();
    let mut offset = 0;
    while offset < bytes {
        let piece = piece(offset, bytes - offset);
        std::hash::Hasher::write(&mut hasher, piece);
        offset += piece.len() as u64;
    }
    std::hash::Hasher::finish(&hasher)
}

#[cfg(test)]
mod tests {
    use super::{PERIOD_BYTES, digest, period, piece};

    #[test]
    fn pieces_cover_a_body_without_gap() {
        assert_eq!(piece(0, 10), &period()[..10]);
        assert_eq!(piece(PERIOD_BYTES as u64 - 1, 10), &period()[PERIOD_BYTES - 1..]);
        assert_eq!(piece(PERIOD_BYTES as u64, 10), &period()[..10]);
        assert!(period().iter().all(u8::is_ascii_graphic));
    }

    #[test]
    fn digests_tell_lengths_apart() {
        assert_eq!(digest(0), twox_hash::XxHash3_64::oneshot(b""));
        assert_eq!(digest(1000), twox_hash::XxHash3_64::oneshot(&period()[..1000]));
        assert_ne!(digest(PERIOD_BYTES as u64), digest(2 * PERIOD_BYTES as u64));
    }
}
