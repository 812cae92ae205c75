//! The log's port.
//!
//! Every adapter passes the one contract suite in `tests/src/contract/event_log.rs`; to add an adapter, implement
//! [`EventLog`] (and [`crate::CredentialsReader`]) in `infra` and stamp the suite for it.

use async_trait::async_trait;
use socialhub_domain::{StreamId, UserId};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    event::{Metadata, NewEvent, Position, RecordedEvent},
    side::{SideWrite, StoredAnswer},
};

/// One command's append: events of one stream and the rows that commit with them. Whole or not there.
#[derive(Debug, Clone)]
pub struct Append {
    /// The command's id. A second append of the same id changes nothing and answers what the first one did.
    pub command_id: Uuid,
    /// The stream the events belong to.
    pub stream: StreamId,
    /// How many events the stream must have now. Checked only when there are events to append.
    pub expected_version: u64,
    /// The events, in order; may be empty when only side rows are written.
    pub events: Vec<NewEvent>,
    /// Who and what caused them.
    pub metadata: Metadata,
    /// Rows that commit with the events.
    pub side: Vec<SideWrite>,
}

/// What an append did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The position of the last event written; for a command without events, where the log stood at its commit.
    pub position: Position,
    /// The stream's version after it.
    pub version: u64,
}

/// The credential that is already taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialField {
    /// The username.
    Username,
    /// The e-mail address.
    Email,
}

/// Why an append did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else appended to the stream first: load again and decide again.
    #[error("the stream is at version {actual}, not {expected}")]
    VersionConflict {
        /// What the command was decided on.
        expected: u64,
        /// What the stream has.
        actual: u64,
    },
    /// Username or e-mail is taken.
    #[error("credentials are taken")]
    CredentialsTaken(CredentialField),
    /// Whoever acts is erased: nothing of theirs is written any more, whenever their request began.
    #[error("who acts is erased")]
    ActorErased,
    /// Whose password is to be reset has no credentials any more: they have been erased meanwhile.
    #[error("there are no such credentials")]
    NoCredentials,
    /// The idempotency key has an answer already.
    #[error("the idempotency key has an answer already")]
    AnswerExists(Box<StoredAnswer>),
    /// Certainly not applied: the queue is full, the store refused, or the log is closing. The client may try again.
    #[error("not applied: {0}")]
    Unavailable(String),
    /// The connection was lost in the commit and the truth could not be found out in time.
    #[error("outcome unknown")]
    OutcomeUnknown,
}

/// Why the log could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The store cannot answer now.
    #[error("the event log is unavailable: {0}")]
    Unavailable(String),
    /// A row does not have the shape the log writes.
    #[error("the event log is damaged at position {position}: {reason}")]
    Damaged {
        /// Where.
        position: Position,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that nobody destroyed is missing. Whoever reads waits for it: without it they would take what is sealed for
    /// erased.
    #[error(
        "the key of person {user_id} is not in the key store, although the event at position {position} needs it: \
         restore the keys"
    )]
    NoKey {
        /// Where.
        position: Position,
        /// Whose.
        user_id: UserId,
    },
}

/// The event log.
///
/// Promises: positions are dense and commit in order, so a reader of `after = N` never misses an event that commits
/// later; an append is whole or not there; of concurrent appends that expect the same version exactly one wins.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends one command. Concurrent calls are gathered into one commit (group commit).
    ///
    /// # Errors
    /// [`AppendError`]; all but `OutcomeUnknown` mean that nothing was written.
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// A whole stream, in order; empty when there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError>;

    /// Several streams in one round trip, each as [`EventLog::read_stream`] gives it, in the order asked.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn read_streams(&self, streams: &[StreamId])
    -> Result<Vec<Vec<RecordedEvent>>, LogError>;

    /// At most `limit` events after a position, in order.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn read_all(&self, after: Position, limit: usize)
    -> Result<Vec<RecordedEvent>, LogError>;

    /// The position of the newest event; 0 when there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn head(&self) -> Result<Position, LogError>;

    /// The head as this process knows it, told on each commit (and, for a reader beside the writing process, found by
    /// polling). For waking up, not for deciding: [`EventLog::head`] is the truth.
    fn watch_head(&self) -> watch::Receiver<Position>;
}
