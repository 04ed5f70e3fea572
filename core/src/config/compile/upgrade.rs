//! The protocols that a client may upgrade its connection to.

use super::Compiler;
use crate::settings::report::{At, ProblemKind};
use crate::settings::text::is_token;

impl Compiler<'_> {
    pub(super) fn upgrade(&mut self, list: &At<'_>, given: Option<&[String]>) -> Box<[Box<str>]> {
        let Some(texts) = given else { return Box::new(["websocket".into()]) };
        let mut protocols: Vec<Box<str>> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let at = list.index(index);
            let protocol = text.to_ascii_lowercase();
            // RFC 9110 section 7.8: a name, and perhaps a version.
            let well_formed = match protocol.split_once('/') {
                Some((name, version)) => is_token(name) && is_token(version),
                None => is_token(&protocol),
            };
            if !well_formed {
                self.bad_value(&at, format_args!("`{text}` is no protocol's name"));
            } else if protocol == "h2c" {
                self.bad_value(
                    &at,
                    "an upgrade to h2c would carry requests past the routes; it is never allowed",
                );
            } else if protocols.iter().any(|known| **known == *protocol) {
                self.errors.add(ProblemKind::Conflict, &at, format_args!("`{text}` is there twice"));
            } else {
                protocols.push(protocol.into());
            }
        }
        protocols.into()
    }
}
