//! Direct answers, compiled.

use std::sync::Arc;

use super::settings;
use crate::base::limits;
use crate::settings::diagnostics::{Diagnostics, FieldLine};
use crate::settings::report::{At, ProblemKind};

/// A direct answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    pub status: u16,
    pub content_type: Box<str>,
    pub headers: Box<[FieldLine]>,
    pub body: Arc<[u8]>,
}

pub(crate) fn compile(found: &mut Diagnostics, at: &At<'_>, respond: &settings::Respond) -> Option<Respond> {
    let errors_before = found.errors.count();
    let max = limits::RESPOND_BODY_BYTES_MAX;
    if respond.body.len() > max {
        let length = respond.body.len();
        found.bad_value(&at.field("body"), format_args!("{length} bytes; a direct answer has at most {max}"));
    }
    // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
    if matches!(respond.status, 204 | 205 | 304) && !respond.body.is_empty() {
        let message = format_args!("a response of status {} has no body", respond.status);
        found.errors.add(ProblemKind::Conflict, &at.field("body"), message).with(&at.field("status"));
    }
    if respond.content_type.is_empty() {
        found.bad_value(&at.field("content_type"), "expected a media type such as application/json");
    } else {
        found.field_value(&at.field("content_type"), &respond.content_type);
    }
    let fields = at.field("headers");
    let headers = found.field_lines(&fields, &respond.headers);
    if let Some(name) = respond.headers.keys().find(|name| name.eq_ignore_ascii_case("content-type")) {
        found
            .errors
            .add(ProblemKind::Conflict, &fields.field(name), "the media type is set by `content_type`")
            .on_key();
    }
    (found.errors.count() == errors_before).then(|| Respond {
        status: respond.status,
        content_type: respond.content_type.as_str().into(),
        headers: headers.into(),
        body: respond.body.as_bytes().into(),
    })
}
