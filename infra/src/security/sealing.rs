//! The cipher of personal fields: AES-256-GCM with a random nonce in front of what it sealed.
//!
//! A nonce of 96 random bits is good for some 2^32 fields under one key, and a key is one person's.

use rand::{RngCore, rngs::ThreadRng};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use socialhub_event_log::{FieldCipher, PersonKey, keys::KEY_BYTES};

/// The bytes of a nonce.
const NONCE_BYTES: usize = 12;

/// AES-256-GCM.
#[derive(Debug, Clone, Copy, Default)]
pub struct AesGcmCipher;

/// "Less safe" in that it leaves the choice of nonces to whoever uses it: they are random here.
fn cipher(key: &PersonKey) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, &key.0).expect("a key is 32 bytes long");
    LessSafeKey::new(key)
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
        let mut sealed = Vec::with_capacity(NONCE_BYTES + clear.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(clear);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = cipher(key)
            .seal_in_place_separate_tag(nonce, Aad::from(context), &mut sealed[NONCE_BYTES..])
            .expect("AES-GCM fails only for texts of many gigabytes");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    fn open(&self, key: &PersonKey, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), sealed.to_vec());
        let clear = cipher(key).open_in_place(nonce, Aad::from(context), &mut text);
        let length = clear.ok()?.len();
        text.truncate(length);
        Some(text)
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

    /// Logs outlive whatever computes this: test case 16 of "The Galois/Counter Mode of Operation" (McGrew and Viega).
    #[test]
    fn what_is_sealed_is_the_standards() {
        let bytes = |text: &str| -> Vec<u8> {
            let digit = |index| u8::from_str_radix(&text[index..index + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(digit).collect()
        };
        let half = "feffe9928665731c6d6a8f9467308308";
        let key = PersonKey(bytes(&[half, half].concat()).try_into().unwrap());
        let sealed = bytes(concat!(
            "cafebabefacedbaddecaf888",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ));
        let clear = bytes(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        ));
        let context = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        assert_eq!(AesGcmCipher.open(&key, &context, &sealed), Some(clear));
    }
}
