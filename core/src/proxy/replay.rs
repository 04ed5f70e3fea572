//! What of a request's body has been sent, kept so that it can be sent again: up to a bound, and only while another
//! attempt may still come.

use std::cell::{Cell, RefCell};

/// The body of one request, as its client framed it.
#[derive(Debug, Default)]
pub(super) struct Replay {
    bytes: RefCell<Vec<u8>>,
    /// Everything that left the connection's buffer is in `bytes`.
    recording: Cell<bool>,
    bytes_max: usize,
    /// The head, which has left the buffer too, for whoever must encode it again.
    head: RefCell<Vec<u8>>,
}

impl Replay {
    /// Nothing kept, nothing to come: a body that leaves the buffer can't be sent again.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// The head and the first bytes of the body leave the buffer.
    pub(super) fn begin(&self, head: &[u8], body: &[u8]) {
        if self.bytes_max > 0 {
            self.recording.set(true);
            self.head.borrow_mut().extend_from_slice(head);
            self.push(body);
        }
    }

    /// Bytes of the body leave the buffer. Beyond the bound all is forgotten.
    pub(super) fn push(&self, body: &[u8]) {
        if !self.recording.get() {
            return;
        }
        let mut bytes = self.bytes.borrow_mut();
        if bytes.len() + body.len() > self.bytes_max {
            self.stop_borrowed(&mut bytes);
        } else {
            bytes.extend_from_slice(body);
        }
    }

    /// No further attempt will come.
    pub(super) fn stop(&self) {
        self.stop_borrowed(&mut self.bytes.borrow_mut());
    }

    fn stop_borrowed(&self, bytes: &mut Vec<u8>) {
        self.recording.set(false);
        *bytes = Vec::new();
    }

    /// The body can be sent again as far as it was read, and bytes that pass must be pushed.
    pub(super) fn is_recording(&self) -> bool {
        self.recording.get()
    }

    /// The head as it came.
    pub(super) fn head(&self) -> std::cell::Ref<'_, Vec<u8>> {
        self.head.borrow()
    }

    /// What of the body has left the buffer. Taken, so that the sending of it may wait; [`give_back`](Self::give_back)
    /// puts it back.
    pub(super) fn take(&self) -> Vec<u8> {
        self.bytes.take()
    }

    /// See [`take`](Self::take).
    pub(super) fn give_back(&self, bytes: Vec<u8>) {
        *self.bytes.borrow_mut() = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::Replay;

    #[test]
    fn keeps_up_to_its_bound_and_then_nothing() {
        let replay = Replay::new(8);
        assert!(!replay.is_recording());
        replay.push(b"lost");
        replay.begin(b"HEAD", b"abc");
        replay.push(b"defgh");
        assert!(replay.is_recording());
        assert_eq!(replay.head().as_slice(), b"HEAD");
        let bytes = replay.take();
        assert_eq!(bytes, b"abcdefgh");
        replay.give_back(bytes);
        replay.push(b"i");
        assert!(!replay.is_recording());
        assert!(replay.take().is_empty());
        replay.push(b"j");
        assert!(replay.take().is_empty(), "what is missing its start is of no use");
    }

    #[test]
    fn a_bound_of_zero_keeps_nothing() {
        let replay = Replay::new(0);
        replay.begin(b"HEAD", b"");
        assert!(!replay.is_recording());
        assert!(replay.head().is_empty());
    }
}
