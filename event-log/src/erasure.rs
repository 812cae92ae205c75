//! Erasures that were asked for and are not complete.
//!
//! `user.erased` commits together with what can be done at once: credentials and stored answers go, tokens are dead. What
//! is left (the key, read models, chat, files, mails) is done afterwards, step by step, from here. The log itself says who
//! was erased, so an erasure is pending also where nobody asked this program for it: after an import.

use async_trait::async_trait;
use socialhub_domain::{Timestamp, UserId};

use crate::{event::Position, port::LogError};

/// The token epoch of the erased: no token was ever issued at it.
pub const ERASED_EPOCH: u64 = i64::MAX as u64;

/// An erasure with work left.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingErasure {
    /// Who.
    pub user_id: UserId,
    /// Where their `user.erased` stands.
    pub position: Position,
    /// Their username, as far as it is known: kept until all is done, for finding what is theirs.
    pub username: Option<String>,
    /// Their e-mail address, likewise.
    pub email: Option<String>,
}

/// Shows neither name nor address, so that none reaches a log line.
impl std::fmt::Debug for PendingErasure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingErasure")
            .field("user_id", &self.user_id)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// What the log's store keeps of erasures.
#[async_trait]
pub trait ErasureStore: Send + Sync {
    /// Those after a position with work left, by position.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn pending(&self, after: Position) -> Result<Vec<PendingErasure>, LogError>;

    /// Where the log's last `user.erased` before a position stands; 0 when there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn last_erased(&self, before: Position) -> Result<Position, LogError>;

    /// People of the log whose keys were destroyed, and of whose erasure the log says nothing: it was brought back from a
    /// copy that is older than the keys.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn unsaid(&self) -> Result<Vec<UserId>, LogError>;

    /// People whose keys were destroyed and of whom the log has nothing at all: it was brought back from a copy that is older
    /// than they are. Something else that was brought back may have more of them.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn strangers(&self) -> Result<Vec<UserId>, LogError>;

    /// Forgets every stored answer that is theirs or names them, of whomever it is.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn forget_answers(&self, user_id: UserId) -> Result<(), LogError>;

    /// All is done: name and address are forgotten, and nothing of what was deleted stays in the store's files.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn complete(&self, erasure: &PendingErasure, at: Timestamp) -> Result<(), LogError>;
}
