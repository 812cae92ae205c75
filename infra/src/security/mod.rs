//! Password hashing, tokens, one-time codes, secrets, the cipher of personal fields.

mod hashing;
mod otp;
mod sealing;
mod secrets;
mod tokens;

pub use hashing::BcryptPool;
pub use otp::MemoryOtps;
pub use sealing::AesGcmCipher;
pub use secrets::{OsSecrets, SecretError, derive_key, load_or_create_secret};
pub use tokens::JwtTokens;
