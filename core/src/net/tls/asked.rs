//! What rustls does not tell whoever leads a handshake, and the resolver of certificates hears.

use std::cell::RefCell;

/// What rustls says when no certificate can be shown.
pub(super) const NO_CERTIFICATE: &str = "no server certificate chain resolved";

thread_local! {
    /// The name that the client asked for whose first message was processed last, until somebody takes it. rustls'
    /// unbuffered connections don't tell it, but the resolver hears it, in the same call that processes the message.
    static NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// The resolver was asked for this name.
pub(super) fn note_name(name: Option<&str>) {
    NAME.set(name.map(Box::from));
}

/// The name that was asked for in the message that was just processed.
pub(super) fn take_name() -> Option<Box<str>> {
    NAME.take()
}
