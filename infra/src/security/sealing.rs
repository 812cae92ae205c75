//! The cipher of personal fields: AES-256-GCM with a random nonce in front of what it sealed.
//!
//! A nonce of 96 random bits is good for some 2^32 fields under one key, and a key is one person's.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use rand::{RngCore, rngs::ThreadRng};
use socialhub_event_log::{FieldCipher, PersonKey, keys::KEY_BYTES};

/// The bytes of a nonce.
const NONCE_BYTES: usize = 12;

/// AES-256-GCM.
#[derive(Debug, Clone, Copy, Default)]
pub struct AesGcmCipher;

fn cipher(key: &PersonKey) -> Aes256Gcm {
    Aes256Gcm::new(&key.0.into())
}

/// Cryptographically secure, seeded by the system.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ThreadRng::default().fill_bytes(&mut bytes);
    bytes
}

impl FieldCipher for AesGcmCipher {
    fn new_key(&self) -> PersonKey {
        PersonKey(random::<KEY_BYTES>())
    }

    fn seal(&self, key: &PersonKey, context: &[u8], clear: &[u8]) -> Vec<u8> {
        let nonce = random::<NONCE_BYTES>();
        let payload = Payload {
            msg: clear,
            aad: context,
        };
        let sealed = cipher(key)
            .encrypt(&nonce.into(), payload)
            .expect("AES-GCM fails only for texts of many gigabytes");
        [&nonce[..], &sealed].concat()
    }

    fn open(&self, key: &PersonKey, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload {
            msg: sealed,
            aad: context,
        };
        cipher(key).decrypt(&(*nonce).into(), payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let cipher = AesGcmCipher;
        let (key, other) = (cipher.new_key(), cipher.new_key());
        assert!(key != other);
        for clear in [&b""[..], b"x", "grüße".as_bytes(), &[0; 10_000]] {
            let sealed = cipher.seal(&key, b"here", clear);
            assert_eq!(cipher.open(&key, b"here", &sealed).as_deref(), Some(clear));
            assert_eq!(cipher.open(&other, b"here", &sealed), None);
            assert_eq!(cipher.open(&key, b"there", &sealed), None);
            for index in 0..sealed.len().min(64) {
                let mut damaged = sealed.clone();
                damaged[index] ^= 1;
                assert_eq!(cipher.open(&key, b"here", &damaged), None);
            }
            assert_ne!(sealed, cipher.seal(&key, b"here", clear), "nonces repeat");
        }
        assert_eq!(cipher.open(&key, b"here", b"short"), None);
    }
}
