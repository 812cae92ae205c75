//! Password hashing, tokens, one-time codes, secrets.

mod hashing;
mod otp;
mod secrets;
mod tokens;

pub use hashing::BcryptPool;
pub use otp::MemoryOtps;
pub use secrets::{OsSecrets, SecretError, derive_key, load_or_create_secret};
pub use tokens::JwtTokens;
