//! What of a request's body has left the buffer, kept for those who may want it again: another attempt, and mirrors. It is
//! kept once, as the client framed it, up to what each of them wants, and only for as long as one does.

use std::cell::RefCell;
use std::rc::Rc;

use crate::base::kept::{Kept, KeptAccount};
use crate::base::reason::ReasonCode;

/// Keeps what passes.
#[derive(Debug)]
pub(in super::super) struct Tee {
    /// What another attempt may want, in bytes; 0: nothing.
    retry_bytes_max: usize,
    /// What mirrors want, in bytes of content.
    mirror_bytes_max: Option<usize>,
    /// On the heap, since few requests have any, and each has a place for it in its task.
    copy: RefCell<Option<Box<Copy>>>,
}

#[derive(Debug)]
struct Copy {
    /// The head, which has left the buffer too, for whoever must encode it again.
    head: Vec<u8>,
    body: Option<Kept>,
    for_retry: bool,
    /// Mirrors want it, or why they get nothing.
    for_mirrors: Result<(), ReasonCode>,
}

/// What chunked framing may add to a body of the largest size.
const FRAMING_BYTES: usize = 4 * 1024;

impl Tee {
    /// Nothing kept yet.
    pub(super) fn none() -> Self {
        Self { retry_bytes_max: 0, mirror_bytes_max: None, copy: RefCell::default() }
    }

    /// Keeps for another attempt and for mirrors.
    pub(in super::super) fn new(retry_bytes_max: usize, mirror_bytes_max: Option<usize>) -> Self {
        Self { retry_bytes_max, mirror_bytes_max, ..Self::none() }
    }

    /// The head and the first bytes of the body leave the buffer.
    pub(in super::super) fn begin(&self, account: &Rc<KeptAccount>, head: &[u8], body: &[u8]) {
        let for_retry = self.retry_bytes_max > 0;
        if !for_retry && self.mirror_bytes_max.is_none() {
            return;
        }
        let head = if for_retry { head.to_vec() } else { Vec::new() };
        let for_mirrors = self.mirror_bytes_max.map(|_| ()).ok_or(ReasonCode::MirrorBodyTooLarge);
        let body_so_far = Some(Kept::new(account));
        *self.copy.borrow_mut() = Some(Box::new(Copy { head, body: body_so_far, for_retry, for_mirrors }));
        self.push(body);
    }

    /// Bytes of the body leave the buffer. Who wants less than that goes without any; and so do all where the worker has no
    /// room.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut copy = self.copy.borrow_mut();
        let Some(copy) = copy.as_deref_mut() else { return };
        let Copy { body: Some(body), for_retry, for_mirrors, .. } = copy else { return };
        let length = body.as_slice().len() + bytes.len();
        *for_retry &= length <= self.retry_bytes_max;
        if for_mirrors.is_ok() && self.mirror_bytes_max.is_some_and(|max| length > max + FRAMING_BYTES) {
            *for_mirrors = Err(ReasonCode::MirrorBodyTooLarge);
        }
        if (*for_retry || for_mirrors.is_ok()) && body.extend(bytes).is_err() {
            *for_retry = false;
            *for_mirrors = for_mirrors.and(Err(ReasonCode::MirrorNoMemory));
        }
        copy.drop_unwanted();
    }

    /// No further attempt will come.
    pub(in super::super) fn stop_for_retry(&self) {
        if let Some(copy) = &mut *self.copy.borrow_mut() {
            copy.for_retry = false;
            copy.drop_unwanted();
        }
    }

    /// Gives mirrors what they wanted, once; or why there is nothing.
    pub(in super::super) fn give_to_mirrors(&self, with: impl FnOnce(Result<&[u8], ReasonCode>)) {
        if let Some(copy) = &mut *self.copy.borrow_mut() {
            with(copy.for_mirrors.map(|()| copy.body.as_ref().map_or(&b""[..], Kept::as_slice)));
            copy.for_mirrors = Err(ReasonCode::MirrorBodyTooLarge);
            copy.drop_unwanted();
        }
    }

    /// The body can be sent again as far as it was read.
    pub(in super::super) fn may_resend(&self) -> bool {
        self.copy.borrow().as_ref().is_some_and(|copy| copy.for_retry)
    }

    /// Somebody wants every byte that passes.
    pub(super) fn is_watching(&self) -> bool {
        self.copy.borrow().as_ref().is_some_and(|copy| copy.is_wanted())
    }

    /// Gives the head as it came, if it has left the buffer.
    pub(in super::super) fn with_head<T>(&self, with: impl FnOnce(Option<&[u8]>) -> T) -> T {
        with(
            self.copy.borrow().as_ref().filter(|copy| !copy.head.is_empty()).map(|copy| copy.head.as_slice()),
        )
    }

    /// What of the body has left the buffer. Taken, so that the sending of it may wait; [`give_back`](Self::give_back)
    /// puts it back.
    pub(in super::super) fn take(&self) -> Option<Kept> {
        self.copy.borrow_mut().as_mut().and_then(|copy| copy.body.take())
    }

    /// See [`take`](Self::take).
    pub(in super::super) fn give_back(&self, body: Option<Kept>) {
        if let Some(copy) = &mut *self.copy.borrow_mut() {
            copy.body = body;
        }
    }
}

impl Copy {
    fn is_wanted(&self) -> bool {
        self.for_retry || self.for_mirrors.is_ok()
    }

    fn drop_unwanted(&mut self) {
        if !self.is_wanted() {
            self.body = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FRAMING_BYTES, KeptAccount, ReasonCode, Tee};

    fn taken(tee: &Tee) -> Option<Vec<u8>> {
        let bytes = tee.take();
        let copy = bytes.as_ref().map(|bytes| bytes.as_slice().to_vec());
        tee.give_back(bytes);
        copy
    }

    fn mirrored(tee: &Tee) -> Option<Result<Vec<u8>, ReasonCode>> {
        let mut given = None;
        tee.give_to_mirrors(|body| given = Some(body.map(<[u8]>::to_vec)));
        given
    }

    #[test]
    fn keeps_up_to_its_bound_and_then_nothing() {
        let (account, tee) = (KeptAccount::new(1 << 20), Tee::new(8, None));
        assert!(!tee.may_resend());
        tee.push(b"lost");
        tee.begin(&account, b"HEAD", b"abc");
        tee.push(b"defgh");
        assert!(tee.may_resend());
        tee.with_head(|head| assert_eq!(head, Some(b"HEAD".as_slice())));
        assert_eq!(taken(&tee).as_deref(), Some(&b"abcdefgh"[..]));
        tee.push(b"i");
        assert!(!tee.may_resend());
        assert_eq!(taken(&tee), None);
        tee.push(b"j");
        assert_eq!(taken(&tee), None, "what is missing its start is of no use");
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn a_bound_of_zero_keeps_nothing() {
        let (account, tee) = (KeptAccount::new(1 << 20), Tee::new(0, None));
        tee.begin(&account, b"HEAD", b"");
        assert!(!tee.may_resend());
        tee.with_head(|head| assert_eq!(head, None));
    }

    #[test]
    fn without_room_it_does_without() {
        let (account, tee) = (KeptAccount::new(40), Tee::new(100, Some(100)));
        tee.begin(&account, b"HEAD", b"0123456789");
        assert!(tee.may_resend());
        tee.push(b"a");
        assert!(!tee.may_resend());
        tee.push(b"b");
        assert_eq!((account.bytes(), account.refusals()), (0, 1), "all of it is given up, and counted once");
        assert_eq!(mirrored(&tee), Some(Err(ReasonCode::MirrorNoMemory)));
    }

    #[test]
    fn a_body_that_two_want_is_kept_once_and_each_by_its_own_bound() {
        let (account, tee) = (KeptAccount::new(1 << 20), Tee::new(4, Some(6)));
        tee.begin(&account, b"HEAD", b"abcd");
        assert_eq!(account.bytes(), 4);
        tee.push(b"e");
        assert!(!tee.may_resend() && tee.is_watching(), "mirrors still want it");
        assert_eq!(mirrored(&tee), Some(Ok(b"abcde".to_vec())));
        assert_eq!((account.bytes(), tee.is_watching()), (0, false));

        let tee = Tee::new(usize::MAX, Some(2));
        tee.begin(&account, b"HEAD", b"ab");
        tee.push(&[b'c'; FRAMING_BYTES + 1]);
        assert!(tee.may_resend(), "what is too much for mirrors is not for another attempt");
        assert_eq!(mirrored(&tee), Some(Err(ReasonCode::MirrorBodyTooLarge)));
        tee.stop_for_retry();
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn a_response_that_has_begun_leaves_mirrors_what_they_want() {
        let (account, tee) = (KeptAccount::new(1 << 20), Tee::new(100, Some(100)));
        tee.begin(&account, b"HEAD", b"ab");
        tee.stop_for_retry();
        tee.push(b"cd");
        assert_eq!((tee.may_resend(), mirrored(&tee)), (false, Some(Ok(b"abcd".to_vec()))));
        assert_eq!(account.bytes(), 0);
    }
}
