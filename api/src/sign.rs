//! Keyed hashes: cursors a client cannot forge, media addresses that work without a token for a while, and passwords in
//! fingerprints that cannot be guessed from the stored hash.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of a full keyed hash.
const FULL: usize = 32;
/// Bytes of a cursor's checksum.
const SHORT: usize = 8;

/// Signs with the program's own key.
#[derive(Clone)]
pub(crate) struct Signer(Hmac<Sha256>);

impl Signer {
    /// Signs with this key. The keyed state is made once and copied for each use.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        // A key of the block's size cannot be refused.
        let mut block = [0_u8; 64];
        block[..32].copy_from_slice(key);
        Self(Hmac::new((&block).into()))
    }

    /// The keyed hash of some parts. `purpose` keeps one use's hashes from fitting another's; lengths keep parts apart.
    pub(crate) fn full(&self, purpose: &str, parts: &[&[u8]]) -> [u8; FULL] {
        let mut mac = self.0.clone();
        mac.update(purpose.as_bytes());
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// The start of the keyed hash.
    pub(crate) fn short(&self, purpose: &str, parts: &[&[u8]]) -> [u8; SHORT] {
        let full = self.full(purpose, parts);
        let mut short = [0; SHORT];
        short.copy_from_slice(&full[..SHORT]);
        short
    }

    /// An opaque text that only this program can have made and that only fits the same `kind` and `scope`.
    pub(crate) fn seal(&self, kind: &str, scope: &str, key: &str) -> String {
        let sum = self.short(
            "cursor",
            &[kind.as_bytes(), scope.as_bytes(), key.as_bytes()],
        );
        let mut bytes = Vec::with_capacity(1 + SHORT + key.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&sum);
        bytes.extend_from_slice(key.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What [`Signer::seal`] was given; none when it was not made by it for this `kind` and `scope`.
    pub(crate) fn unseal(&self, kind: &str, scope: &str, text: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&version, rest) = bytes.split_first()?;
        let (sum, key) = rest.split_at_checked(SHORT)?;
        let key = str::from_utf8(key).ok()?;
        let wanted = self.short(
            "cursor",
            &[kind.as_bytes(), scope.as_bytes(), key.as_bytes()],
        );
        (version == VERSION && same(sum, &wanted)).then(|| key.to_owned())
    }
}

/// The version of sealed texts.
const VERSION: u8 = 1;

/// Compares without telling by its time where they differ.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .fold(0, |differing, (a, b)| differing | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_texts_open_only_for_their_kind_and_scope() {
        let signer = Signer::new(&[7; 32]);
        let sealed = signer.seal("followers", "u1", "42:x");
        assert_eq!(
            signer.unseal("followers", "u1", &sealed).as_deref(),
            Some("42:x")
        );
        assert_eq!(signer.unseal("followers", "u2", &sealed), None);
        assert_eq!(signer.unseal("following", "u1", &sealed), None);
        assert_eq!(
            Signer::new(&[8; 32]).unseal("followers", "u1", &sealed),
            None
        );
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let signer = Signer::new(&[7; 32]);
        let sealed = signer.seal("feed", "", "123456");
        for index in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(signer.unseal("feed", "", &changed), None, "{changed}");
        }
        assert_eq!(signer.unseal("feed", "", ""), None);
        assert_eq!(signer.unseal("feed", "", "AQ"), None);
    }
}
