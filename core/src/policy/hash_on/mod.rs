//! What of a request is hashed to keep a client on its arm or with its endpoint. Shared by the policies that hash.

pub mod settings;

use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::At;
use crate::settings::text::is_token;

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The header field `host`, or what stands for it.
    Host,
    /// In lower case; not `host`.
    Header(Box<str>),
    Cookie(Box<str>),
    ClientAddress,
}

pub(crate) fn compile(found: &mut Diagnostics, at: &At<'_>, raw: &settings::HashOn) -> Option<HashOn> {
    let given = usize::from(raw.header.is_some())
        + usize::from(raw.cookie.is_some())
        + usize::from(raw.client_address);
    if given != 1 {
        found.bad_value(at, "exactly one of `header`, `cookie` and `client_address: true` is hashed");
        return None;
    }
    let mut token = |name: &'static str, text: &String| {
        if is_token(text) {
            Some(text.clone())
        } else {
            found.bad_value(&at.field(name), format_args!("`{text}` is no name (RFC 9110 section 5.6.2)"));
            None
        }
    };
    match (&raw.header, &raw.cookie) {
        (Some(header), _) => token("header", header).map(|name| match name.to_ascii_lowercase() {
            name if name == "host" => HashOn::Host,
            name => HashOn::Header(name.into()),
        }),
        (_, Some(cookie)) => token("cookie", cookie).map(|name| HashOn::Cookie(name.into())),
        _ => Some(HashOn::ClientAddress),
    }
}
