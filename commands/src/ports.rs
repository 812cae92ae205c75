//! What the write side needs of the outside.

use async_trait::async_trait;
use bytes::Bytes;
use socialhub_domain::{NotificationId, PostId, Timestamp, UserId};
use socialhub_event_log::Position;

use crate::{context::Actor, error::CommandError};

/// A port cannot do its work now. Becomes a 503.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

impl From<PortError> for CommandError {
    fn from(error: PortError) -> Self {
        Self::Unavailable(error.0)
    }
}

/// Hashes and checks passwords on a bounded pool of its own, so that logins never starve other requests.
#[async_trait]
pub trait PasswordHasher: Send + Sync {
    /// The bcrypt hash of a password of 8 to 72 bytes.
    ///
    /// # Errors
    /// When the pool's queue is full.
    async fn hash(&self, password: String) -> Result<String, PortError>;

    /// Whether the password fits the hash; with no hash (unknown user) it takes the same time and answers no.
    ///
    /// # Errors
    /// When the pool's queue is full.
    async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, PortError>;
}

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Unauthorized")]
pub struct BadToken;

/// Makes and checks JWTs (HS256, 24 h; claims `id`, `username`, `iat`, `exp`, `ver`).
pub trait Tokens: Send + Sync {
    /// A token for a person at a token epoch.
    fn issue(&self, actor: &Actor, epoch: u64, now: Timestamp) -> String;

    /// Who a token speaks for. Refuses a bad signature, another algorithm, an expired one, and one of an epoch older
    /// than the person's.
    ///
    /// # Errors
    /// [`BadToken`], without saying why.
    fn verify(&self, token: &str, now: Timestamp) -> Result<Actor, BadToken>;

    /// Whether this process knows that a person is erased.
    fn is_erased(&self, _user: UserId) -> bool {
        false
    }

    /// Learns that a person's token epoch was raised: older tokens are refused from now on in this process.
    fn raise_epoch(&self, user: UserId, epoch: u64);
}

/// Sends mail.
#[async_trait]
pub trait Mailer: Send + Sync {
    /// Sends a plain-text mail.
    ///
    /// # Errors
    /// When it could not be handed over.
    async fn send(&self, to: &str, subject: &str, text: &str) -> Result<(), PortError>;

    /// Removes what is kept of mails to an address, whatever the case. Nothing is kept of what was handed over to
    /// another server.
    ///
    /// # Errors
    /// When it could not be removed.
    async fn forget(&self, _to: &str) -> Result<(), PortError> {
        Ok(())
    }

    /// Looks whether mail could be handed over now. Where nothing can be away there is nothing to look for.
    ///
    /// # Errors
    /// Why not.
    async fn look(&self) -> Result<(), PortError> {
        Ok(())
    }
}

/// The verdict on a one-time code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtpVerdict {
    /// It is the code.
    Good,
    /// It is not, or there is none, or it was burnt or is too old.
    Bad,
}

/// Keeps one-time codes: hashed, 5 minutes, burnt by the fifth wrong try.
#[async_trait]
pub trait OtpStore: Send + Sync {
    /// Keeps a new code for an address (in lower case), in place of an older one.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn put(&self, email: &str, otp: &str, now: Timestamp) -> Result<(), PortError>;

    /// Checks a code and counts a wrong try.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn check(&self, email: &str, otp: &str, now: Timestamp) -> Result<OtpVerdict, PortError>;

    /// Uses a code up: of all who do so at once, wherever they are, one is told that it was there.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn use_up(&self, email: &str, otp: &str) -> Result<bool, PortError>;

    /// Forgets the code of an address.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn burn(&self, email: &str) -> Result<(), PortError>;
}

/// A source of secrets.
pub trait Secrets: Send + Sync {
    /// Six random digits from a CSPRNG.
    fn otp(&self) -> String;
}

/// A file that was stored but that no event names yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFile {
    /// The address it will be served from.
    pub url: String,
    /// The sniffed type.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its content, for idempotency fingerprints.
    pub sha256: [u8; 32],
}

/// Why an upload was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UploadError {
    /// 413.
    #[error("{0}")]
    TooLarge(String),
    /// 415.
    #[error("{0}")]
    UnsupportedType(String),
    /// 400: the body broke off or is malformed.
    #[error("{0}")]
    Broken(String),
    /// 503: the store cannot take it.
    #[error("{0}")]
    Unavailable(String),
}

/// Takes one file piece by piece. Dropping it without `finish` leaves nothing behind.
#[async_trait]
pub trait Upload: Send {
    /// The next piece. Sniffs the type at the start and counts the bytes on the way.
    ///
    /// # Errors
    /// [`UploadError`]; nothing is left behind.
    async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError>;

    /// The file is complete: durable when this returns.
    ///
    /// # Errors
    /// [`UploadError`]; nothing is left behind.
    async fn finish(self: Box<Self>) -> Result<StagedFile, UploadError>;
}

/// Stores uploaded files. A file belongs to a post by its name, so that a sweeper can ask the log whether the post is
/// there.
#[async_trait]
pub trait MediaStore: Send + Sync {
    /// Begins the `index`-th file of a post that is about to be created.
    ///
    /// # Errors
    /// [`UploadError::Unavailable`].
    async fn begin(&self, post: PostId, index: usize) -> Result<Box<dyn Upload>, UploadError>;

    /// Removes all files of a post: it was refused, or deleted. Removing what is not there succeeds.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn remove_post(&self, post: PostId) -> Result<(), PortError>;
}

/// What a command must ask of the notifications model.
#[async_trait]
pub trait NotificationLookup: Send + Sync {
    /// Whose a notification is; none when there is none.
    ///
    /// # Errors
    /// When the model cannot be read.
    async fn owner(&self, id: NotificationId) -> Result<Option<UserId>, PortError>;

    /// The position of the model, up to which "all read" holds.
    ///
    /// # Errors
    /// When the model cannot be read.
    async fn position(&self) -> Result<Position, PortError>;
}

/// What a command must ask of the counters.
#[async_trait]
pub trait LikeCountLookup: Send + Sync {
    /// The like count of a post, for who may see it, as the read model has it now; never waited for.
    ///
    /// # Errors
    /// When the model cannot be read.
    async fn like_count(&self, post: PostId, viewer: UserId) -> Result<u64, PortError>;
}
