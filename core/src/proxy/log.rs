//! The access log's worker side: one JSON line for each exchange, gathered and sent away in batches.
//!
//! The worker never writes to a file: full batches go through a bounded channel to a thread that may block. If that
//! one can't follow, lines are dropped and counted; requests are never held up.

use std::cell::RefCell;
use std::fmt::Write as _;

use crossbeam_channel::{Sender, TrySendError};

use super::record::{Draft, Record, Wanted};
use crate::config::snapshot::AccessLogMode;

/// A batch is sent when it has grown to this, or at the next round.
const BATCH_BYTES: usize = 16 * 1024;

/// Bytes of one logged text; longer ones are cut.
const TEXT_BYTES_MAX: usize = 2 * 1024;

/// Lines of one worker that have not been sent yet.
#[derive(Debug)]
pub struct LogBuffer {
    lines: RefCell<Vec<u8>>,
    sender: Sender<Vec<u8>>,
}

/// Whether to write a line for this request.
pub(super) fn wanted(mode: AccessLogMode, sample: f64, random: impl FnOnce() -> u64) -> Wanted {
    match mode {
        AccessLogMode::Off => Wanted::Never,
        AccessLogMode::All => Wanted::Always,
        AccessLogMode::Sampled if ((random() >> 11) as f64 / (1_u64 << 53) as f64) < sample => Wanted::Always,
        AccessLogMode::Sampled => Wanted::IfFailed,
    }
}

impl LogBuffer {
    /// Sends batches to `sender`.
    pub fn new(sender: Sender<Vec<u8>>) -> Self {
        Self { lines: RefCell::default(), sender }
    }

    /// Adds a line. Returns lines dropped.
    pub(super) fn write(&self, draft: &Draft, record: &Record, unix_ms: u64, duration_us: u64) -> u64 {
        if draft.wanted == Wanted::IfFailed && record.status < 500 {
            return 0;
        }
        let mut lines = self.lines.borrow_mut();
        let line = render(draft, record, unix_ms, duration_us);
        lines.extend_from_slice(line.as_bytes());
        if lines.len() < BATCH_BYTES {
            return 0;
        }
        drop(lines);
        self.flush()
    }

    /// Sends what there is. Returns lines dropped.
    pub fn flush(&self) -> u64 {
        let batch = std::mem::take(&mut *self.lines.borrow_mut());
        if batch.is_empty() {
            return 0;
        }
        match self.sender.try_send(batch) {
            Ok(()) => 0,
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                memchr::memchr_iter(b'\n', &batch).count() as u64
            }
        }
    }
}

fn render(draft: &Draft, record: &Record, unix_ms: u64, duration_us: u64) -> String {
    let mut line = String::with_capacity(384);
    let _ = write!(line, "{{\"time_unix_ms\":{unix_ms},\"request_id\":\"{:016x}\"", record.id);
    if let Some(client) = draft.client {
        let _ = write!(line, ",\"client\":\"{client}\"");
    }
    for (name, text) in [
        ("method", draft.method.as_str()),
        ("host", &draft.host),
        ("target", &draft.target),
        ("protocol", draft.version),
        ("user_agent", &draft.user_agent),
    ] {
        field(&mut line, name, text);
    }
    if let Some(tls) = &draft.tls {
        field(&mut line, "tls_version", tls.version);
        if let Some(name) = &tls.server_name {
            field(&mut line, "tls_server_name", name);
        }
        if let Some(client) = &tls.client {
            field(&mut line, "tls_client", client.common_name.as_deref().unwrap_or_default());
            field(&mut line, "tls_client_sha256", &client.fingerprint);
        }
    }
    let _ = write!(line, ",\"status\":{},\"duration_us\":{duration_us}", record.status);
    if let Some(status) = record.grpc_status {
        let _ = write!(line, ",\"grpc_status\":{}", status.code());
    }
    let (received, sent) = (record.request_bytes, record.response_bytes);
    let _ = write!(line, ",\"request_body_bytes\":{received},\"response_body_bytes\":{sent}");
    if let Some(route) = &record.route {
        field(&mut line, "route", route);
    }
    if let Some(arm) = &draft.arm {
        field(&mut line, "arm", arm);
    }
    if let Some(endpoint) = &record.endpoint {
        field(&mut line, "endpoint", &endpoint.to_string());
    }
    if record.attempts > 1 {
        let _ = write!(line, ",\"attempts\":{}", record.attempts);
    }
    if let Some(refused) = record.retry_refused {
        field(&mut line, "retry_refused", refused);
    }
    if let Some(reason) = record.reason {
        field(&mut line, "reason", reason.code());
    }
    line.push_str("}\n");
    line
}

fn field(line: &mut String, name: &str, text: &str) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let _ = write!(line, ",\"{name}\":\"");
    for c in text[..end].chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            c if c < ' ' || c == '\u{7f}' => {
                let _ = write!(line, "\\u{:04x}", c as u32);
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::{LogBuffer, render, wanted};
    use crate::base::reason::ReasonCode;
    use crate::config::snapshot::AccessLogMode;
    use crate::proxy::record::{Draft, Record, Wanted};

    #[test]
    fn a_line_is_json_whatever_a_client_sends() {
        let draft = Draft {
            method: "GET".into(),
            target: "/a\"b\\c\u{1}é".into(),
            user_agent: "x".repeat(5_000),
            version: "HTTP/1.1",
            ..Draft::default()
        };
        let record = Record { status: 200, reason: Some(ReasonCode::NoRoute), ..Record::new(7, 0) };
        let line = render(&draft, &record, 1, 2);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["target"], "/a\"b\\c\u{1}é");
        assert_eq!(value["reason"], "no_route");
        assert_eq!(value["request_id"], "0000000000000007");
        assert_eq!(value["user_agent"].as_str().unwrap().len(), 2_048);
        assert!(line.ends_with("}\n"));
    }

    #[test]
    fn a_full_channel_drops_lines_and_counts_them() {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let log = LogBuffer::new(sender);
        let record = Record::new(1, 0);
        log.write(&Draft::default(), &record, 0, 0);
        assert_eq!(log.flush(), 0);
        log.write(&Draft::default(), &record, 0, 0);
        log.write(&Draft::default(), &record, 0, 0);
        assert_eq!(log.flush(), 2);
        assert_eq!(receiver.len(), 1);
    }

    #[test]
    fn sampling() {
        assert_eq!(wanted(AccessLogMode::Off, 1.0, || 0), Wanted::Never);
        assert_eq!(wanted(AccessLogMode::All, 0.0, || u64::MAX), Wanted::Always);
        assert_eq!(wanted(AccessLogMode::Sampled, 0.5, || u64::MAX / 4), Wanted::Always);
        assert_eq!(wanted(AccessLogMode::Sampled, 0.5, || u64::MAX / 4 * 3), Wanted::IfFailed);
        assert_eq!(wanted(AccessLogMode::Sampled, 0.0, || 0), Wanted::IfFailed);
    }
}
