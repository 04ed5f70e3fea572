//! Two futures in one task. Both may be dropped at any time: in this engine a pending wait carries no data.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Which of the two finished first.
#[derive(Debug)]
pub enum First<A, B> {
    /// The first future.
    Left(A),
    /// The second future.
    Right(B),
}

/// Polls both, the left one first, and returns the one that is ready.
pub async fn race<A: Future, B: Future>(
    mut left: Pin<&mut A>,
    mut right: Pin<&mut B>,
) -> First<A::Output, B::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(a) = left.as_mut().poll(cx) {
            return Poll::Ready(First::Left(a));
        }
        if let Poll::Ready(b) = right.as_mut().poll(cx) {
            return Poll::Ready(First::Right(b));
        }
        Poll::Pending
    })
    .await
}
