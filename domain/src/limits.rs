//! Every limit on what people may send, in one place. Characters are Unicode scalar values unless bytes are named.

/// The longest display name, in characters.
pub const NAME_MAX: usize = 100;
/// The shortest username, in characters.
pub const USERNAME_MIN: usize = 3;
/// The longest username, in characters.
pub const USERNAME_MAX: usize = 30;
/// The shortest password, in bytes.
pub const PASSWORD_MIN_BYTES: usize = 8;
/// The longest password, in bytes: bcrypt looks at no more than 72.
pub const PASSWORD_MAX_BYTES: usize = 72;
/// The longest e-mail address, in bytes (RFC 5321's path of 256 less its angle brackets).
pub const EMAIL_MAX_BYTES: usize = 254;
/// The longest part before the `@`, in bytes (RFC 5321).
pub const EMAIL_LOCAL_MAX_BYTES: usize = 64;
/// Digits of a one-time code.
pub const OTP_DIGITS: usize = 6;
/// The longest self-description, in characters.
pub const BIO_MAX: usize = 500;
/// The longest address of a picture, in characters.
pub const AVATAR_MAX: usize = 2_000;
/// The longest text of a post, in characters.
pub const CONTENT_MAX: usize = 10_000;
/// The most files of one post.
pub const FILES_MAX: usize = 10;
/// The biggest file of a post, in bytes (10 MB).
pub const FILE_MAX_BYTES: u64 = 10 * 1024 * 1024;
/// The longest comment, in characters.
pub const COMMENT_MAX: usize = 2_000;
/// The longest `Idempotency-Key`, in characters.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;
