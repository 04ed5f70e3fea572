//! Changes of a body's content on its way: a chain of transforms between the framing that it came in and the one that it
//! goes out in. Compression, validation and translation are transforms; `flow` runs the chain, and the pump knows of none.
//!
//! Back-pressure is inside: a transform takes no more input once it has made [`PIECE_BYTES`], so a body that grows a
//! thousandfold takes more steps, not more memory. Sans-IO.

use super::content::FlowError;

/// A transform takes no more input while so many bytes that it made are waiting for whoever comes next.
pub const PIECE_BYTES: usize = 32 * 1024;

/// One change of a body's content.
pub trait Transform: std::fmt::Debug {
    /// Takes from the front of `input`, which is not empty, and appends what that becomes to `out`. Returns how many bytes
    /// it took: all, unless `out` has reached [`PIECE_BYTES`]. It then comes again with the rest.
    fn data(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, FlowError>;

    /// The content has ended: appends what was held back. `trailers` is the section behind the content as it came, for
    /// [`parse_trailers`](super::chunked::parse_trailers), or empty; what is left in it goes on. True when all is out;
    /// otherwise `out` has reached [`PIECE_BYTES`], and it comes again.
    fn end(&mut self, trailers: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, FlowError>;
}

/// Transforms in a row.
#[derive(Debug)]
pub(super) struct Chain {
    links: Vec<Link>,
    /// How many of the links, from the first on, have ended.
    ended: usize,
    /// What is behind the content, as far as nobody has taken it.
    pub(super) trailers: Vec<u8>,
}

#[derive(Debug)]
struct Link {
    transform: Box<dyn Transform>,
    /// What it has not taken yet.
    input: Vec<u8>,
}

impl Chain {
    /// In the order in which the content passes them.
    pub(super) fn new(transforms: Vec<Box<dyn Transform>>) -> Self {
        debug_assert!(!transforms.is_empty());
        let links = transforms.into_iter().map(|transform| Link { transform, input: Vec::new() }).collect();
        Self { links, ended: 0, trailers: Vec::new() }
    }

    /// Content for the first, to be given when nothing [waits](Self::waits).
    pub(super) fn push(&mut self, content: &[u8]) {
        self.links[0].input.extend_from_slice(content);
    }

    /// What came in is not all taken: it runs again before there is more.
    pub(super) fn waits(&self) -> bool {
        self.links.iter().any(|link| !link.input.is_empty())
    }

    /// Each takes what it will, once; appends what comes out of the last to `out`. `over`: no content will follow. True when
    /// the last one has ended.
    pub(super) fn run(&mut self, over: bool, out: &mut Vec<u8>) -> Result<bool, FlowError> {
        for at in 0..self.links.len() {
            let (before, rest) = self.links.split_at_mut(at + 1);
            let Link { transform, input } = &mut before[at];
            let made = rest.first_mut().map_or(&mut *out, |next| &mut next.input);
            if !input.is_empty() && made.len() < PIECE_BYTES {
                let taken = transform.data(input, made)?;
                input.drain(..taken);
            }
            let last = if at == 0 { over } else { self.ended >= at };
            if last
                && self.ended == at
                && input.is_empty()
                && made.len() < PIECE_BYTES
                && transform.end(&mut self.trailers, made)?
            {
                self.ended = at + 1;
            }
        }
        Ok(self.ended == self.links.len())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Chain, FlowError, PIECE_BYTES, Transform};

    /// Each byte becomes many, in pieces that are bounded; then a mark.
    #[derive(Debug)]
    pub(in super::super) struct Grow {
        pub(in super::super) by: usize,
        pub(in super::super) left: usize,
    }

    impl Transform for Grow {
        fn data(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, FlowError> {
            for (at, &byte) in input.iter().enumerate() {
                if self.left == 0 {
                    self.left = self.by;
                }
                let made = self.left.min(PIECE_BYTES - out.len());
                out.resize(out.len() + made, byte);
                self.left -= made;
                if self.left > 0 {
                    return Ok(at);
                }
            }
            Ok(input.len())
        }

        fn end(&mut self, _: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, FlowError> {
            out.push(b'!');
            Ok(true)
        }
    }

    #[test]
    fn a_body_that_grows_takes_steps_and_not_memory() {
        let grow = |by| Box::new(Grow { by, left: 0 }) as Box<dyn Transform>;
        let mut chain = Chain::new(vec![grow(1_000), grow(700)]);
        chain.push(b"abc");
        let (mut all, mut most) = (0_usize, 0);
        loop {
            let mut out = Vec::new();
            let ended = chain.run(true, &mut out).unwrap();
            all += out.len();
            most = most.max(out.len() + chain.links.iter().map(|link| link.input.len()).sum::<usize>());
            if ended {
                break;
            }
        }
        assert_eq!(all, (3 * 1_000 + 1) * 700 + 1, "nothing is lost, and each ends once, in its turn");
        assert!(most <= 2 * PIECE_BYTES + 3 + 1, "{most} bytes at once");
        assert!(!chain.waits());
    }
}
