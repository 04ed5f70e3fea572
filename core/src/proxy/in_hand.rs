//! A request as it lies in its connection's buffer until its response has begun: it may have to be sent again. Where a
//! wait is not over at once, it is kept at its own size and the buffer goes to others.

use std::future::{Future, poll_fn};
use std::pin::Pin;

use crate::base::buffer::Buffer;

/// A whole request at the front of its connection's buffer; what lies behind it is the next one's.
#[derive(Debug)]
pub(super) struct InHand<'b> {
    buffer: Option<&'b mut Buffer>,
    bytes: usize,
}

impl<'b> InHand<'b> {
    /// The first `bytes` of the buffer.
    pub(super) fn new(buffer: &'b mut Buffer, bytes: usize) -> Self {
        Self { buffer: Some(buffer), bytes }
    }

    /// It has left the buffer, or is about to.
    pub(super) fn nothing() -> Self {
        Self { buffer: None, bytes: 0 }
    }

    /// Gives the buffer to others for as long as something is waited for.
    pub(super) fn park(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.park();
        }
    }

    /// The same, if others may soon have to wait for one.
    pub(super) fn park_if_scarce(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.park_if_scarce();
        }
    }

    /// Parks the buffer if `wait` is not over at once.
    pub(super) async fn parking<F: Future>(&mut self, wait: Pin<&mut F>) -> F::Output {
        match &mut self.buffer {
            Some(buffer) => parking(buffer, wait).await,
            None => wait.await,
        }
    }

    /// It will not be sent again.
    pub(super) fn done(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(std::mem::take(&mut self.bytes));
        }
    }
}

/// Waits, and parks `buffer` if that is not over at once.
pub(super) async fn parking<F: Future>(buffer: &mut Buffer, mut wait: Pin<&mut F>) -> F::Output {
    poll_fn(|cx| {
        let polled = wait.as_mut().poll(cx);
        if polled.is_pending() {
            // After the first time it has nothing left to do.
            buffer.park();
        }
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{Future, pending, ready};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::InHand;
    use crate::base::buffer::{BufferPool, Purpose};
    use crate::base::kept::KeptAccount;

    #[test]
    fn it_is_parked_while_a_wait_lasts_and_not_without_one() {
        let account = KeptAccount::new(1 << 20);
        let pool = BufferPool::new(1 << 20, &account);
        let mut cx = Context::from_waker(Waker::noop());
        let share = pool.share(None);
        let Poll::Ready(mut buffer) = pin!(share.take(Purpose::Request)).poll(&mut cx) else {
            panic!("full")
        };
        buffer.spare()[..5].copy_from_slice(b"onTWO");
        buffer.fill(5);
        let mut request = InHand::new(&mut buffer, 2);
        assert!(pin!(request.parking(pin!(ready(())))).poll(&mut cx).is_ready());
        assert_eq!((pool.taken(), account.bytes()), (1, 0));
        assert!(pin!(request.parking(pin!(pending::<()>()))).poll(&mut cx).is_pending());
        assert_eq!((pool.taken(), account.bytes()), (0, 5));
        request.done();
        request.done();
        assert_eq!(buffer.filled(), b"TWO", "what follows it stays");
        drop(buffer);
        assert_eq!(account.bytes(), 0);
    }
}
