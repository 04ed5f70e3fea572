//! Records that no sound peer sends: of any type and content, under a connection's own keys.
//!
//! For tests and fuzz targets, which include this file in crates of their own; so it knows nothing but rustls.

use rustls::crypto::cipher::{MessageEncrypter, OutboundPlainMessage};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite};

/// Goes on where a connection of rustls' has stopped; see `dangerous_extract_secrets`.
pub struct Forger {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl std::fmt::Debug for Forger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forger").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Forger {
    pub fn new(suite: SupportedCipherSuite, (sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
        else {
            panic!("an unknown cipher")
        };
        let encrypter = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let (fixed, explicit) = iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len);
                suite.aead_alg.encrypter(key, fixed, explicit)
            }
        };
        Self { encrypter, sequence }
    }

    /// One record with this content.
    pub fn record(&mut self, content_type: ContentType, content: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ: content_type,
            version: ProtocolVersion::TLSv1_2,
            payload: content.into(),
        };
        let record = self.encrypter.encrypt(message, self.sequence).expect("a key");
        self.sequence += 1;
        record.encode()
    }
}
