//! Redirections, compiled.

use super::settings;
use crate::settings::address::host_field;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// A redirection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub target: RedirectTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTarget {
    /// The Location field as it stands.
    Location(Box<str>),
    /// `None` keeps the request's; the query is kept. With neither `scheme` nor `host` the request's port is
    /// kept too; with either, a port is written only if it is given here.
    Parts { scheme: Option<Scheme>, host: Option<Box<str>>, port: Option<u16>, path: Option<Box<str>> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

pub(crate) fn compile(
    found: &mut Diagnostics,
    at: &At<'_>,
    redirect: &settings::Redirect,
) -> Option<Redirect> {
    let errors_before = found.errors.count();
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        let message =
            format_args!("{} is no redirection; expected 301, 302, 303, 307 or 308", redirect.status);
        found.bad_value(&at.field("status"), message);
    }
    let has_parts = redirect.scheme.is_some()
        || redirect.host.is_some()
        || redirect.port.is_some()
        || redirect.path.is_some();
    let target = if let Some(location) = &redirect.location {
        if has_parts {
            let message = "either `location` or `scheme`, `host`, `port` and `path`, not both";
            found.errors.add(ProblemKind::Conflict, at, message);
        }
        if location.is_empty() || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = "a location has no blanks, control or non-ASCII characters; percent-encode them";
            found.bad_value(&at.field("location"), message);
        }
        RedirectTarget::Location(location.as_str().into())
    } else {
        if !has_parts {
            let message =
                "a redirection needs `location`, or at least one of `scheme`, `host`, `port` and `path`";
            found.errors.add(ProblemKind::MissingField, at, message);
        }
        redirect_parts(found, at, redirect)
    };
    (found.errors.count() == errors_before).then_some(Redirect { status: redirect.status, target })
}

fn redirect_parts(found: &mut Diagnostics, at: &At<'_>, redirect: &settings::Redirect) -> RedirectTarget {
    let scheme = match redirect.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => {
            found.bad_value(&at.field("scheme"), format_args!("`{other}`: expected `http` or `https`"));
            None
        }
    };
    let host = redirect.host.as_ref().and_then(|text| match host_field(text) {
        Ok(host) if host.ends_with(']') || !host.contains(':') => Some(host.into()),
        Ok(_) => {
            found.bad_value(&at.field("host"), "the port is given by `port`");
            None
        }
        Err(error) => {
            found.bad_address(&at.field("host"), text, &error);
            None
        }
    });
    if let Some(path) = &redirect.path {
        found.rewritten_path(&at.field("path"), path);
    }
    RedirectTarget::Parts { scheme, host, port: redirect.port, path: redirect.path.as_deref().map(Box::from) }
}
