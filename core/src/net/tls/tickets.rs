//! Session tickets: what a client shows to take up an earlier session (RFC 8446 section 4.6.1, RFC 5077).
//!
//! Stateless: a ticket holds the session, sealed with a key that all workers share, and all nodes if it comes from a
//! file. Each ticket is sealed with a key of its own, derived from the shared one with 32 random bytes, so the number of
//! tickets that one shared key may seal has no bound to watch (random nonces of 96 bits would give out at 2^32).
//!
//! Keys are immutable. The control thread rotates them by making new ones and handing out a new server, so a worker
//! takes no lock here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;

/// Bytes of a key, as a file holds it.
pub const SECRET_BYTES: usize = 32;

const NAME_BYTES: usize = 16;
const SALT_BYTES: usize = 32;

struct Key {
    /// Says which key a ticket is sealed with; derived, so that it needs no place in the file.
    name: [u8; NAME_BYTES],
    secret: Prk,
}

impl Key {
    fn new(secret: &[u8; SECRET_BYTES]) -> Self {
        let secret = Prk::new_less_safe(HKDF_SHA256, secret);
        let mut name = [0; NAME_BYTES];
        secret
            .expand(&[b"ringway ticket key name"], Length(NAME_BYTES))
            .and_then(|derived| derived.fill(&mut name))
            .expect("16 bytes are within what HKDF can expand to");
        Self { name, secret }
    }

    /// The key of the one ticket with this salt.
    fn of_ticket(&self, salt: &[u8]) -> LessSafeKey {
        let info = [b"ringway ticket", salt];
        let derived = self.secret.expand(&info, &AES_256_GCM);
        LessSafeKey::new(UnboundKey::from(
            derived.expect("the key's length is within what HKDF can expand to"),
        ))
    }
}

struct Length(usize);

impl ring::hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Keys, the first of which seals; all open.
#[derive(Clone)]
pub struct TicketKeys(Arc<[Arc<Key>]>);

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TicketKeys").field(&self.0.len()).finish()
    }
}

impl TicketKeys {
    /// One key that nobody else has.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, ring::error::Unspecified> {
        Ok(Self([Arc::new(Key::new(&random()?))].into()))
    }

    /// The keys of a file, the sealing one first; at least one.
    pub fn of_secrets(secrets: &[[u8; SECRET_BYTES]]) -> Self {
        Self(secrets.iter().map(|secret| Arc::new(Key::new(secret))).collect())
    }

    /// A new random key to seal with; the one that sealed so far still opens.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn rotated(&self) -> Result<Self, ring::error::Unspecified> {
        let mut keys = vec![Arc::new(Key::new(&random()?))];
        keys.extend(self.0.first().map(Arc::clone));
        Ok(Self(keys.into()))
    }
}

fn random<const N: usize>() -> Result<[u8; N], ring::error::Unspecified> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(bytes)
}

/// Seals and opens the tickets of one listener.
pub(super) struct Ticketer {
    pub(super) keys: TicketKeys,
    /// What a session must have been made under to be taken up: a listener that asks for client certificates must not
    /// take one up that was made where none was asked for.
    pub(super) context: [u8; 32],
    pub(super) lifetime: Duration,
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Ticketer {
    fn aad(&self, name: &[u8], salt: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([name, salt, &self.context].concat())
    }
}

/// Used with one key for one ticket only.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    /// name, salt, sealed session, tag.
    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.0.first()?;
        let salt: [u8; SALT_BYTES] = random().ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + SALT_BYTES + session.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&salt);
        ticket.extend_from_slice(session);
        let sealed = &mut ticket[NAME_BYTES + SALT_BYTES..];
        let aad = self.aad(&key.name, &salt);
        let tag = key.of_ticket(&salt).seal_in_place_separate_tag(nonce(), aad, sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (salt, sealed) = rest.split_at_checked(SALT_BYTES)?;
        let key = self.keys.0.iter().find(|key| key.name == name)?;
        let mut session = sealed.to_vec();
        let opened =
            key.of_ticket(salt).open_in_place(nonce(), self.aad(name, salt), &mut session).ok()?.len();
        session.truncate(opened);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::{ProducesTickets as _, TicketKeys, Ticketer};
    use std::time::Duration;

    fn ticketer(keys: &TicketKeys, context: u8) -> Ticketer {
        Ticketer { keys: keys.clone(), context: [context; 32], lifetime: Duration::from_secs(1) }
    }

    #[test]
    fn a_ticket_is_opened_by_who_may() {
        let keys = TicketKeys::of_secrets(&[[1; 32], [2; 32]]);
        let sealed = ticketer(&keys, 0).encrypt(b"session").unwrap();
        let rotated = keys.rotated().unwrap();
        for (what, opener, opens) in [
            ("the same keys", ticketer(&keys, 0), true),
            ("the same keys on another node", ticketer(&TicketKeys::of_secrets(&[[1; 32]]), 0), true),
            (
                "the key is no longer the first",
                ticketer(&TicketKeys::of_secrets(&[[9; 32], [1; 32]]), 0),
                true,
            ),
            ("after one rotation", ticketer(&rotated, 0), true),
            ("after two rotations", ticketer(&rotated.rotated().unwrap(), 0), false),
            ("other keys", ticketer(&TicketKeys::of_secrets(&[[3; 32]]), 0), false),
            ("another context", ticketer(&keys, 1), false),
        ] {
            let opened = opener.decrypt(&sealed);
            assert_eq!(opened.as_deref(), opens.then_some(&b"session"[..]), "{what}");
        }
        for cut in 0..sealed.len() {
            assert_eq!(ticketer(&keys, 0).decrypt(&sealed[..cut]), None, "cut at {cut}");
        }
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(ticketer(&keys, 0).decrypt(&forged), None, "forged at {at}");
        }
    }
}
