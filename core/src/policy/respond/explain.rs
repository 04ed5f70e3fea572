//! What is answered.

use super::Respond;
use crate::policy::explain::line;

/// The answer.
pub fn explain(respond: &Respond, out: &mut String) {
    line(out, "answer", format_args!("{}, our own", respond.status));
}
