//! What an exchange has come to, checked and booked in the same way for every protocol.

use super::{Digest, stats::ErrorKind, target::Encoded, worker::Slot, worker::Worker};

/// A response that came to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Complete {
    pub(super) status: u16,
    pub(super) body_bytes: u64,
    pub(super) digest: u64,
    pub(super) grpc: Option<Call>,
}

/// What gRPC adds to a response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// None: there was none, or no number.
    pub(super) status: Option<usize>,
    pub(super) messages: u64,
    pub(super) is_between_messages: bool,
}

impl Worker {
    /// Books an exchange that was due at `due_ns`, sent at `sent_ns` and has just ended. The slot's clock is set.
    pub(super) fn settle(
        &self,
        slot: &Slot,
        target: &Encoded,
        due_ns: u64,
        sent_ns: u64,
        outcome: Result<Complete, ErrorKind>,
    ) -> Result<(), ErrorKind> {
        let now = self.now_ns();
        slot.now_ns.set(now);
        self.note_event(now);
        let result = outcome.and_then(|complete| {
            let verdict = self.check(target, &complete);
            let class = usize::from(complete.status / 100);
            let class = if class < 6 { class } else { 0 };
            self.record(due_ns, |interval| {
                interval.counts.statuses[class] += 1;
                interval.counts.body_bytes += complete.body_bytes;
                interval.counts.requests += u64::from(verdict.is_ok());
                if let Some(call) = &complete.grpc {
                    interval.counts.count_call(call.status, call.messages);
                }
            });
            verdict
        });
        // Latency is what a user would have waited: for any whole response, or until giving up.
        let waited = !matches!(
            result,
            Err(ErrorKind::Connect | ErrorKind::Tls | ErrorKind::Reset | ErrorKind::Malformed)
        );
        if waited {
            self.record(due_ns, |interval| {
                interval.latency.saturating_record(now.saturating_sub(due_ns));
                if let Some(service) = &mut interval.service {
                    service.saturating_record(now.saturating_sub(sent_ns));
                }
            });
        }
        if let Err(kind) = result {
            self.record_error(due_ns, kind);
        }
        result
    }

    fn check(&self, target: &Encoded, complete: &Complete) -> Result<(), ErrorKind> {
        let check = &self.plan.config.check;
        if check.status.map_or(complete.status >= 400, |asked| asked != complete.status) {
            return Err(ErrorKind::Status);
        }
        if let Some(call) = &complete.grpc {
            if call.status != Some(0) {
                return Err(ErrorKind::Grpc);
            }
            let expected = target.http2.as_ref().and_then(|http2| http2.messages_back);
            if !call.is_between_messages || expected.is_some_and(|n| n != call.messages) {
                return Err(ErrorKind::WrongLength);
            }
        }
        if check.body_bytes.is_some_and(|asked| asked != complete.body_bytes) {
            return Err(ErrorKind::WrongLength);
        }
        let verify = check.digest != Digest::Unchecked;
        if verify && *target.digest.get_or_init(|| complete.digest) != complete.digest {
            return Err(ErrorKind::WrongDigest);
        }
        Ok(())
    }
}
