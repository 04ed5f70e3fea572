//! What of a request's body has been sent, kept so that it can be sent again: up to a bound, and only while another
//! attempt may still come. Mirrors gather what they need of it here too.

use std::cell::RefCell;
use std::rc::Rc;

use super::mirror::Gather;
use crate::base::kept::{Kept as Bytes, KeptAccount};

/// The body of one request, as its client framed it.
#[derive(Debug)]
pub(super) struct Replay {
    /// On the heap, since few requests have one, and each has a place for it in its task.
    kept: RefCell<Option<Box<Kept>>>,
    bytes_max: usize,
    gather: Option<Box<Gather>>,
}

#[derive(Debug)]
struct Kept {
    /// The head, which has left the connection's buffer too, for whoever must encode it again.
    head: Vec<u8>,
    /// Everything of the body that left the buffer, as long as this is recording.
    body: Option<Bytes>,
    recording: bool,
}

impl Replay {
    /// Nothing kept, nothing to come: a body that leaves the buffer can't be sent again.
    pub(super) fn new(bytes_max: usize, gather: Option<Gather>) -> Self {
        Self { kept: RefCell::default(), bytes_max, gather: gather.map(Box::new) }
    }

    /// What is gathered for mirrors.
    pub(super) fn gathered(&self) -> Option<&Gather> {
        self.gather.as_deref()
    }

    /// The head and the first bytes of the body leave the buffer.
    pub(super) fn begin(&self, account: &Rc<KeptAccount>, head: &[u8], body: &[u8]) {
        if self.bytes_max > 0 {
            let kept = Kept { head: head.to_vec(), body: Some(Bytes::new(account)), recording: true };
            *self.kept.borrow_mut() = Some(Box::new(kept));
        }
        self.push(body);
    }

    /// Bytes of the body leave the buffer. Beyond the bound, or the worker's room for them, all is forgotten.
    pub(super) fn push(&self, body: &[u8]) {
        if let Some(gather) = &self.gather {
            gather.push(body);
        }
        if let Some(kept) = &mut *self.kept.borrow_mut()
            && kept.recording
        {
            kept.push(body, self.bytes_max);
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
    pub(super) fn take(&self) -> Option<Bytes> {
        self.kept.borrow_mut().as_mut().and_then(|kept| kept.body.take())
    }

    /// See [`take`](Self::take).
    pub(super) fn give_back(&self, bytes: Option<Bytes>) {
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.body = bytes;
        }
    }
}

impl Kept {
    fn push(&mut self, bytes: &[u8], bytes_max: usize) {
        let fits = |body: &mut Bytes| body.as_slice().len() + bytes.len() <= bytes_max;
        if !self.body.as_mut().is_some_and(|body| fits(body) && body.extend(bytes).is_ok()) {
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.recording = false;
        self.body = None;
    }
}

#[cfg(test)]
mod tests {
    use super::{KeptAccount, Replay};

    fn taken(replay: &Replay) -> Option<Vec<u8>> {
        let bytes = replay.take();
        let copy = bytes.as_ref().map(|bytes| bytes.as_slice().to_vec());
        replay.give_back(bytes);
        copy
    }

    #[test]
    fn keeps_up_to_its_bound_and_then_nothing() {
        let (account, replay) = (KeptAccount::new(1 << 20), Replay::new(8, None));
        assert!(!replay.is_recording());
        replay.push(b"lost");
        replay.begin(&account, b"HEAD", b"abc");
        replay.push(b"defgh");
        assert!(replay.is_recording());
        replay.with_head(|head| assert_eq!(head, Some(b"HEAD".as_slice())));
        assert_eq!(taken(&replay).as_deref(), Some(&b"abcdefgh"[..]));
        replay.push(b"i");
        assert!(!replay.is_recording());
        assert_eq!(taken(&replay), None);
        replay.push(b"j");
        assert_eq!(taken(&replay), None, "what is missing its start is of no use");
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn a_bound_of_zero_keeps_nothing() {
        let (account, replay) = (KeptAccount::new(1 << 20), Replay::new(0, None));
        replay.begin(&account, b"HEAD", b"");
        assert!(!replay.is_recording());
        replay.with_head(|head| assert_eq!(head, None));
    }

    #[test]
    fn without_room_it_does_without() {
        let (account, replay) = (KeptAccount::new(40), Replay::new(100, None));
        replay.begin(&account, b"HEAD", b"0123456789");
        assert!(replay.is_recording());
        replay.push(b"a");
        assert!(!replay.is_recording());
        replay.push(b"b");
        assert_eq!((account.bytes(), account.refusals()), (0, 1), "all of it is given up, and counted once");
    }
}
