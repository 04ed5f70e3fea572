//! What of a request's body has been sent, kept so that it can be sent again: up to a bound, and only while another
//! attempt may still come. Mirrors gather what they need of it here too.

use std::cell::RefCell;

use super::mirror::Gather;

/// The body of one request, as its client framed it.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// On the heap, since few requests have one, and each has a place for it in its task.
    kept: RefCell<Option<Box<Kept>>>,
    bytes_max: usize,
    gather: Option<Box<Gather>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The head, which has left the connection's buffer too, for whoever must encode it again.
    head: Vec<u8>,
    /// Everything of the body that left the buffer, as long as this is recording.
    body: Vec<u8>,
    recording: bool,
}

impl Replay {
    /// Nothing kept, nothing to come: a body that leaves the buffer can't be sent again.
    pub(super) fn new(bytes_max: usize, gather: Option<Gather>) -> Self {
        Self { bytes_max, gather: gather.map(Box::new), ..Self::default() }
    }

    /// What is gathered for mirrors.
    pub(super) fn gathered(&self) -> Option<&Gather> {
        self.gather.as_deref()
    }

    /// The head and the first bytes of the body leave the buffer.
    pub(super) fn begin(&self, head: &[u8], body: &[u8]) {
        if self.bytes_max > 0 {
            let kept = Kept { head: head.to_vec(), body: Vec::new(), recording: true };
            *self.kept.borrow_mut() = Some(Box::new(kept));
        }
        self.push(body);
    }

    /// Bytes of the body leave the buffer. Beyond the bound all is forgotten.
    pub(super) fn push(&self, body: &[u8]) {
        if let Some(gather) = &self.gather {
            gather.push(body);
        }
        if let Some(kept) = &mut *self.kept.borrow_mut()
            && kept.recording
        {
            if kept.body.len() + body.len() > self.bytes_max {
                kept.stop();
            } else {
                kept.body.extend_from_slice(body);
            }
        }
    }

    /// No further attempt will come.
    pub(super) fn stop(&self) {
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.stop();
        }
    }

    /// The body can be sent again as far as it was read, and bytes that pass must be pushed.
    pub(super) fn is_recording(&self) -> bool {
        self.kept.borrow().as_ref().is_some_and(|kept| kept.recording)
    }

    /// Somebody wants every byte that passes.
    pub(super) fn is_watching(&self) -> bool {
        self.is_recording() || self.gathered().is_some_and(Gather::is_gathering)
    }

    /// Gives the head as it came, if it has left the buffer.
    pub(super) fn with_head<T>(&self, with: impl FnOnce(Option<&[u8]>) -> T) -> T {
        with(self.kept.borrow().as_ref().map(|kept| kept.head.as_slice()))
    }

    /// What of the body has left the buffer. Taken, so that the sending of it may wait; [`give_back`](Self::give_back)
    /// puts it back.
    pub(super) fn take(&self) -> Vec<u8> {
        self.kept.borrow_mut().as_mut().map(|kept| std::mem::take(&mut kept.body)).unwrap_or_default()
    }

    /// See [`take`](Self::take).
    pub(super) fn give_back(&self, bytes: Vec<u8>) {
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.body = bytes;
        }
    }
}

impl Kept {
    fn stop(&mut self) {
        self.recording = false;
        self.body = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::Replay;

    #[test]
    fn keeps_up_to_its_bound_and_then_nothing() {
        let replay = Replay::new(8, None);
        assert!(!replay.is_recording());
        replay.push(b"lost");
        replay.begin(b"HEAD", b"abc");
        replay.push(b"defgh");
        assert!(replay.is_recording());
        replay.with_head(|head| assert_eq!(head, Some(b"HEAD".as_slice())));
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
        let replay = Replay::new(0, None);
        replay.begin(b"HEAD", b"");
        assert!(!replay.is_recording());
        replay.with_head(|head| assert_eq!(head, None));
    }
}
