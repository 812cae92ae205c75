//! Rows that commit with events: credentials, token epochs, stored answers. None of them ever reaches the log itself.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::{Timestamp, UserId};

use crate::{event::Position, port::LogError};

/// How a person proves who they are. Personal and secret: lives beside the log, never in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The person.
    pub user_id: UserId,
    /// Their username as they spell it; unique whatever the case.
    pub username: String,
    /// Their e-mail address as they spell it; unique whatever the case.
    pub email: String,
    /// The bcrypt hash of their password.
    pub password_hash: String,
    /// Tokens that carry a smaller epoch are refused.
    pub token_epoch: u64,
}

/// Shows neither hash nor address, so that none reaches a log line.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user_id", &self.user_id)
            .field("token_epoch", &self.token_epoch)
            .finish_non_exhaustive()
    }
}

/// Whose answer to which request: the scope of an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AnswerKey {
    /// The user's id, or `anonymous`.
    pub owner: String,
    /// The command's route, e.g. `POST /posts`.
    pub route: String,
    /// The client's key, at most 255 characters.
    pub key: String,
}

/// The stored answer to a command that came with an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// SHA-256 of the decoded fields and files, so that another content under the same key is noticed.
    pub fingerprint: [u8; 32],
    /// The use case's result as JSON, without secrets.
    pub body: String,
    /// Where the log stood after the command; filled in by the log when it commits.
    pub position: Position,
    /// When it was stored; it may be forgotten 24 hours later.
    pub stored_at: Timestamp,
}

impl StoredAnswer {
    /// How long an answer stands, in milliseconds: 24 hours.
    pub const LIFETIME_MS: i64 = 24 * 60 * 60 * 1000;

    /// Whether the answer has had its time: it is no longer found, and its key may be used anew.
    pub fn expired(&self, now: Timestamp) -> bool {
        now.0.saturating_sub(self.stored_at.0) >= Self::LIFETIME_MS
    }
}

/// What a username or e-mail address is unique by and found by: itself in lower case.
pub fn credential_key(text: &str) -> String {
    text.to_lowercase()
}

/// A row that commits with the events of its command.
#[derive(Debug, Clone)]
pub enum SideWrite {
    /// A new person's credentials; the command fails as a whole when username or e-mail is taken.
    InsertCredentials(Credentials),
    /// A new password; raises the token epoch by one, so that every older token stops working.
    ResetPassword {
        /// Whose password.
        user_id: UserId,
        /// The new bcrypt hash.
        password_hash: String,
    },
    /// A person is erased: their credentials and stored answers go, their tokens are dead ([`crate::erasure::ERASED_EPOCH`]),
    /// and what else there is to do is noted ([`crate::ErasureStore`]). Commits with `user.erased`. Again is no fault.
    Erase {
        /// Who.
        user_id: UserId,
    },
    /// The answer to keep; the command fails as a whole when the key has one already.
    StoreAnswer {
        /// Whose answer to which request.
        key: AnswerKey,
        /// The answer; its `position` is filled in at commit.
        answer: StoredAnswer,
    },
}

/// Reads what lies beside the log.
#[async_trait]
pub trait CredentialsReader: Send + Sync {
    /// By e-mail address or username, whatever the case.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn find_by_identifier(&self, identifier: &str) -> Result<Option<Credentials>, LogError>;

    /// By id.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn find_by_id(&self, user_id: UserId) -> Result<Option<Credentials>, LogError>;

    /// Every token epoch that is not the initial one (1), for the in-process cache at start; that of the erased is
    /// [`crate::erasure::ERASED_EPOCH`].
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn raised_epochs(&self) -> Result<Vec<(UserId, u64)>, LogError>;

    /// The stored answer under a key, if there is one younger than 24 hours before `now`.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn find_answer(
        &self,
        key: &AnswerKey,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, LogError>;
}
