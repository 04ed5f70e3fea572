//! Bodies of any size that nobody has to hold: byte N of a payload follows from its seed and N alone, so sender and
//! receiver make and check it piece by piece. Comparing with the stream is stronger than comparing digests, and a
//! failure names the first wrong byte.

/// A body: `bytes` bytes of the stream that `seed` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    pub seed: u64,
    pub bytes: u64,
}

impl Payload {
    pub fn new(seed: u64, bytes: u64) -> Payload {
        Payload { seed, bytes }
    }

    /// Writes the stream from `offset` on into `out`.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        fill(self.seed, offset, out);
    }

    /// The whole body; for small ones.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(self.bytes).expect("a payload that fits into memory")];
        self.fill(0, &mut all);
        all
    }

    /// The body in pieces of at most `piece_bytes`, in order, until `each` fails.
    pub fn pieces<E>(
        &self,
        piece_bytes: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = vec![0; piece_bytes];
        let mut offset = 0;
        while offset < self.bytes {
            let now = (self.bytes - offset).min(piece_bytes as u64) as usize;
            self.fill(offset, &mut piece[..now]);
            each(&piece[..now])?;
            offset += now as u64;
        }
        Ok(())
    }

    pub fn checker(&self) -> Checker {
        Checker { payload: *self, seen: 0, wrong_at: None, scratch: Vec::new() }
    }
}

/// Compares what arrives with what was sent.
#[derive(Debug)]
pub struct Checker {
    payload: Payload,
    seen: u64,
    wrong_at: Option<u64>,
    scratch: Vec<u8>,
}

impl Checker {
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.wrong_at.is_none() {
            self.scratch.resize(bytes.len(), 0);
            self.payload.fill(self.seen, &mut self.scratch);
            if self.scratch != bytes {
                let first = self.scratch.iter().zip(bytes).position(|(a, b)| a != b);
                self.wrong_at = Some(self.seen + first.expect("unequal slices of one length differ") as u64);
            }
        }
        self.seen += bytes.len() as u64;
    }

    /// What is wrong with what arrived, if anything.
    pub fn verdict(&self) -> Result<(), String> {
        self.verdict_at(self.payload.bytes)
    }

    /// The same, for a receiver that learns the length from the framing.
    pub fn verdict_at(&self, bytes: u64) -> Result<(), String> {
        match self.wrong_at {
            Some(at) => Err(format!("byte {at} of {bytes} is not the one that was sent")),
            None if self.seen != bytes => Err(format!("{} bytes arrived, {bytes} were sent", self.seen)),
            None => Ok(()),
        }
    }
}

/// Word `index` of a stream: splitmix64's output function over a counter (Steele, Lea, Flood, 2014).
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let ragged = (offset % 8) as usize;
    let mut index = offset / 8;
    let mut rest = out;
    if ragged != 0 && !rest.is_empty() {
        let head = rest.len().min(8 - ragged);
        rest[..head].copy_from_slice(&word(seed, index).to_le_bytes()[ragged..ragged + head]);
        rest = &mut rest[head..];
        index += 1;
    }
    for piece in rest.chunks_mut(8) {
        piece.copy_from_slice(&word(seed, index).to_le_bytes()[..piece.len()]);
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::Payload;

    #[test]
    fn any_cut_gives_the_same_stream() {
        let payload = Payload::new(7, 1000);
        let whole = payload.to_vec();
        for piece_bytes in [1, 3, 7, 8, 9, 64, 999, 1000, 2000] {
            let mut pieced = Vec::new();
            payload
                .pieces(piece_bytes, |piece| {
                    pieced.extend_from_slice(piece);
                    Ok::<(), ()>(())
                })
                .unwrap();
            assert_eq!(pieced, whole, "in pieces of {piece_bytes}");
        }
        assert_ne!(Payload::new(8, 1000).to_vec(), whole);
    }

    #[test]
    fn a_wrong_byte_is_named() {
        let payload = Payload::new(1, 100);
        let mut bytes = payload.to_vec();
        bytes[42] ^= 1;
        let mut checker = payload.checker();
        checker.feed(&bytes[..40]);
        checker.feed(&bytes[40..]);
        assert_eq!(checker.verdict().unwrap_err(), "byte 42 of 100 is not the one that was sent");
    }

    #[test]
    fn a_missing_byte_is_told() {
        let payload = Payload::new(1, 100);
        let mut checker = payload.checker();
        checker.feed(&payload.to_vec()[..99]);
        assert_eq!(checker.verdict().unwrap_err(), "99 bytes arrived, 100 were sent");
    }
}
