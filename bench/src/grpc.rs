//! gRPC's message framing over HTTP/2, as far as load and origin need it: lengths, no contents.

/// One byte that says "not compressed", four bytes of length.
pub const PREFIX_BYTES: usize = 5;
/// `grpc-status` has codes from 0 (ok) to this.
pub const STATUS_MAX: usize = 16;

/// The methods that the origin answers, and the shape of their streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One message there, the same back.
    Unary,
    /// One message there; `x-bench-messages` times the same back.
    ServerStream,
    /// Any number there; the first of them back.
    ClientStream,
    /// Each message there comes back at once.
    Bidi,
}

impl Method {
    pub const ALL: [Self; 4] = [Self::Unary, Self::ServerStream, Self::ClientStream, Self::Bidi];

    pub fn path(self) -> &'static str {
        match self {
            Self::Unary => "/bench.Echo/Unary",
            Self::ServerStream => "/bench.Echo/ServerStream",
            Self::ClientStream => "/bench.Echo/ClientStream",
            Self::Bidi => "/bench.Echo/Bidi",
        }
    }

    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.path() == path)
    }

    /// Messages each way in a stream of `messages`.
    pub fn messages(self, messages: u64) -> (u64, u64) {
        match self {
            Self::Unary => (1, 1),
            Self::ServerStream => (1, messages),
            Self::ClientStream => (messages, 1),
            Self::Bidi => (messages, messages),
        }
    }
}

/// Appends one message to `wire`.
pub fn encode(content: &[u8], wire: &mut Vec<u8>) {
    wire.push(0);
    wire.extend_from_slice(&(content.len() as u32).to_be_bytes());
    wire.extend_from_slice(content);
}

/// Adds to `first` what `piece` has of a direction's first message, with its prefix. `piece` may hold more.
pub fn keep_first(first: &mut Vec<u8>, mut piece: &[u8]) {
    loop {
        let whole = match first.get(1..PREFIX_BYTES) {
            Some(&[a, b, c, d]) => PREFIX_BYTES + u32::from_be_bytes([a, b, c, d]) as usize,
            _ => PREFIX_BYTES,
        };
        let (taken, rest) = piece.split_at(piece.len().min(whole - first.len()));
        if taken.is_empty() {
            return;
        }
        first.extend_from_slice(taken);
        piece = rest;
    }
}

/// Counts the messages of one direction, however they are cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    /// Of the message that is under way.
    content_left: u64,
    pub complete: u64,
    pub content_bytes: u64,
}

impl Messages {
    /// Takes all of `data`.
    pub fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.prefix_filled < PREFIX_BYTES {
                let n = data.len().min(PREFIX_BYTES - self.prefix_filled);
                self.prefix[self.prefix_filled..self.prefix_filled + n].copy_from_slice(&data[..n]);
                self.prefix_filled += n;
                data = &data[n..];
                if self.prefix_filled < PREFIX_BYTES {
                    return;
                }
                let length = [self.prefix[1], self.prefix[2], self.prefix[3], self.prefix[4]];
                self.content_left = u64::from(u32::from_be_bytes(length));
            }
            let n = data.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
            self.content_left -= n as u64;
            self.content_bytes += n as u64;
            data = &data[n..];
            if self.content_left == 0 {
                self.complete += 1;
                self.prefix_filled = 0;
            }
        }
    }

    /// Whether what came ends with a message.
    pub fn is_between_messages(&self) -> bool {
        self.prefix_filled == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Messages, Method, encode, keep_first};

    #[test]
    fn methods_are_known_by_path() {
        for method in Method::ALL {
            assert_eq!(Method::of_path(method.path()), Some(method));
        }
        assert_eq!(Method::of_path("/bench.Echo/Other"), None);
        assert_eq!(Method::Bidi.messages(7), (7, 7));
        assert_eq!(Method::ServerStream.messages(7), (1, 7));
    }

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in prop::collection::vec(0..70_usize, 0..8),
            cut in 1..40_usize,
        ) {
            let mut wire = Vec::new();
            for &length in &lengths {
                encode(&vec![b'x'; length], &mut wire);
            }
            let mut messages = Messages::default();
            wire.chunks(cut).for_each(|piece| messages.feed(piece));
            prop_assert!(messages.is_between_messages());
            prop_assert_eq!(messages.complete, lengths.len() as u64);
            prop_assert_eq!(messages.content_bytes, lengths.iter().sum::<usize>() as u64);
            let mut first = Vec::new();
            wire.chunks(cut).for_each(|piece| keep_first(&mut first, piece));
            prop_assert_eq!(&first[..], &wire[..lengths.first().map_or(0, |length| 5 + length)]);
            let mut cut_off = Messages::default();
            cut_off.feed(&wire[..wire.len().saturating_sub(1)]);
            prop_assert!(wire.is_empty() || cut_off.complete < lengths.len() as u64);
        }
    }
}
