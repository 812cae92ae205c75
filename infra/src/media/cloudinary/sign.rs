//! Cloudinary's two signatures, both with SHA-256, which it takes as it takes its older SHA-1.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use sha2::{Digest, Sha256};

/// How many characters of a delivery signature made with SHA-256 an address holds.
const DELIVERY_LENGTH: usize = 32;

/// The signature of a call: over its parameters in the order of their names, and the secret. The file, the key and what
/// the path says are not among them.
pub(super) fn call(parameters: &[(&str, String)], secret: &str) -> String {
    let mut sorted: Vec<_> = parameters.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let pairs: Vec<_> = sorted
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let digest = Sha256::digest(format!("{}{secret}", pairs.join("&")));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The signature of a delivery address: over what comes behind it, but for the version, and the secret.
pub(super) fn delivery(public_id: &str, secret: &str) -> String {
    let mut signature = URL_SAFE.encode(Sha256::digest(format!("{public_id}{secret}")));
    signature.truncate(DELIVERY_LENGTH);
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests were made with `sha256sum` of what Cloudinary's documentation says is signed, with its example.
    #[test]
    fn the_documented_example_is_signed() {
        let parameters = [
            ("timestamp", "1315060510".to_owned()),
            ("public_id", "sample_image".to_owned()),
            ("eager", "w_400,h_300,c_pad|w_260,h_200,c_crop".to_owned()),
        ];
        assert_eq!(
            call(&parameters, "abcd"),
            "cc927e1290f9e3ae4c1a741eda21a4630b4ce80f9ce0bc0296337d25cf40f91e"
        );
        assert_eq!(
            delivery("sample_image", "abcd"),
            "MgNQ8QkjOcdp3rhfDtsFkzREBDBuzQ7L"
        );
    }
}
