//! The log as rows, for copying it from one store to another: backup, restore, moving house.
//!
//! A copy keeps everything: positions, ids, sequences, the payload's very bytes. So it does not go through
//! [`crate::EventLog::append`], which gives out positions and decides; it writes rows that another log has decided on.
//! Every adapter passes the contract suite in `tests/src/contract/archive.rs`.

use std::{collections::HashMap, fmt};

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use socialhub_domain::{
    UserId,
    event::{EventData, UserErased},
};
use uuid::Uuid;

use crate::{
    event::Position,
    keys::{KeyRecord, KeyState},
    side::Credentials,
};

/// An event exactly as the log's table holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventRow {
    /// Its place in the log.
    pub position: Position,
    /// Its own id.
    pub event_id: Uuid,
    /// The command that made it: the same command sent again is known by this.
    pub command_id: Uuid,
    /// The type of its stream.
    pub stream_type: String,
    /// The id of its stream.
    pub stream_id: String,
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// The public type name, e.g. `post.created`.
    pub event_type: String,
    /// The version it was written in, as the table has it.
    pub event_version: String,
    /// The data, byte for byte.
    pub payload: String,
    /// The metadata, byte for byte.
    pub metadata: String,
    /// When it was written, by the writer's clock, in milliseconds since the Unix epoch.
    pub recorded_at: i64,
}

impl EventRow {
    /// Checks that it is the next row of a log that stands at `head`.
    ///
    /// # Errors
    /// [`ArchiveError::Gap`].
    pub fn follows(&self, head: Position) -> Result<(), ArchiveError> {
        if self.position == head + 1 {
            return Ok(());
        }
        Err(ArchiveError::Gap {
            head,
            found: self.position,
        })
    }

    /// Who is erased by it, if it is a `user.erased`.
    pub fn erases(&self) -> Option<UserId> {
        let erases = self.event_type == UserErased::TYPE && self.stream_type == "user";
        erases.then(|| self.stream_id.parse().ok()).flatten()
    }

    /// What of it should be JSON and is not, and why: somebody else wrote that.
    pub fn no_json(&self) -> Option<String> {
        let texts = [("data", &self.payload), ("metadata", &self.metadata)];
        texts.iter().find_map(|(what, text)| {
            let error = serde_json::from_str::<IgnoredAny>(text).err()?;
            let position = self.position;
            Some(format!(
                "the {what} of event {position} are no JSON ({error})"
            ))
        })
    }

    /// The error of a row that is not the next one of its stream.
    pub fn astray(&self) -> ArchiveError {
        ArchiveError::Stream {
            position: self.position,
            stream: format!("{}/{}", self.stream_type, self.stream_id),
        }
    }
}

/// A copy into a log that was begun and has not ended: until it has, the log is not whole, and nobody may serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedCopy {
    /// Which copy: only the same one can end it.
    pub id: String,
    /// The command that makes it, to be run again.
    pub command: String,
}

impl fmt::Display for UnfinishedCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, .. } = self;
        write!(
            f,
            "`{command}` was interrupted here: run it again, to its end, before anything else"
        )
    }
}

/// What a copy is brought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing, or the same log: what is there already must be as it is brought.
    Same,
    /// The beginning of the log that is brought: what has changed since without an event, or was erased, gives way.
    Older,
}

/// Why rows were not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store cannot answer now, or refuses. Of rows that were to be written none, or all, are there.
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
    /// The rows are not the next ones of this log. Nothing was written.
    #[error("position {found} does not follow on the log's position {head}")]
    Gap {
        /// Where the log stands.
        head: Position,
        /// The position that was to be written next.
        found: Position,
    },
    /// An event is not the next one of its stream, or its id is taken. Nothing was written.
    #[error("the event at position {position} does not follow on its stream {stream}")]
    Stream {
        /// The event's position.
        position: Position,
        /// The stream.
        stream: String,
    },
    /// Somebody's username, e-mail address or id is taken by other credentials. Nothing was written.
    #[error("there are other credentials of, or under a name of, the person {0}")]
    OtherCredentials(UserId),
    /// Somebody has another key. Nothing was written.
    #[error("there is another key of the person {0}")]
    OtherKey(UserId),
    /// Another copy was begun here and has not ended. Nothing was written.
    #[error("{0}")]
    OtherCopy(UnfinishedCopy),
    /// What is personal in an event is sealed with a key that is not there.
    #[error(
        "the event at position {position} needs the key of the person {user_id}, which is not there"
    )]
    NoKey {
        /// The event's position.
        position: Position,
        /// Whose key.
        user_id: UserId,
    },
}

/// Makes sure that nobody's key, where it is there, is another than the one that was to be written.
///
/// # Errors
/// [`ArchiveError::OtherKey`].
pub fn require_same_keys(
    records: &[KeyRecord],
    found: &HashMap<UserId, KeyState>,
) -> Result<(), ArchiveError> {
    let differs = |record: &&KeyRecord| match (&record.key, found.get(&record.user_id)) {
        (Some(key), Some(KeyState::Present(found))) => key != found,
        (_, found) => found.is_none(),
    };
    other_key(records.iter().find(differs))
}

/// Makes sure that nobody's key is another than the one that is to be written; it need not be there yet.
///
/// # Errors
/// [`ArchiveError::OtherKey`].
pub fn require_no_other_keys(
    records: &[KeyRecord],
    found: &HashMap<UserId, KeyState>,
) -> Result<(), ArchiveError> {
    let differs = |record: &&KeyRecord| match (&record.key, found.get(&record.user_id)) {
        (Some(key), Some(KeyState::Present(found))) => key != found,
        _ => false,
    };
    other_key(records.iter().find(differs))
}

fn other_key(differs: Option<&KeyRecord>) -> Result<(), ArchiveError> {
    match differs {
        None => Ok(()),
        Some(record) => Err(ArchiveError::OtherKey(record.user_id)),
    }
}

/// A log whose rows can be read and written as they are.
///
/// Whoever writes must be the only one: on a file the adapter holds the log's lock, on a server it takes the log's lock
/// for each call and refuses what does not follow on the head.
#[async_trait]
pub trait LogArchive: Send + Sync {
    /// The position of the newest event; 0 when there is none.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn head(&self) -> Result<Position, ArchiveError>;

    /// Whether data and metadata are kept whatever they are; else only JSON can be written.
    fn keeps_any_text(&self) -> bool;

    /// At most `limit` rows after a position, in order.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn read_rows(&self, after: Position, limit: usize)
    -> Result<Vec<EventRow>, ArchiveError>;

    /// The rows of a stream, in order; none when there is no such stream.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn read_stream_rows(
        &self,
        stream_type: &str,
        stream_id: &str,
    ) -> Result<Vec<EventRow>, ArchiveError>;

    /// Writes the next rows of the log, all of them or none. A `user.erased` does what it did where it was appended: with
    /// it go the person's credentials, and what else there is to do is noted.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn write_rows(&self, rows: Vec<EventRow>) -> Result<(), ArchiveError>;

    /// At most `limit` credentials after a person's (in the order of ids), of people whose first event is at or before
    /// a position: so they belong to a log that ends there. None left when it answers none.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn read_credentials(
        &self,
        after: Option<UserId>,
        registered_by: Position,
        limit: usize,
    ) -> Result<Vec<Credentials>, ArchiveError>;

    /// Makes sure that none of these people, and nobody under a name of theirs, has other credentials.
    ///
    /// # Errors
    /// [`ArchiveError::OtherCredentials`], or when the store cannot answer.
    async fn compare_credentials(&self, rows: Vec<Credentials>) -> Result<(), ArchiveError>;

    /// Writes credentials, all of them or none; those that are there already, the same in everything, are left alone, and
    /// older ones of the same person are replaced. Answers how many are new.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn write_credentials(
        &self,
        rows: Vec<Credentials>,
        over: Over,
    ) -> Result<u64, ArchiveError>;

    /// The keys of some people; who never had one is left out.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn find_keys(&self, people: &[UserId])
    -> Result<HashMap<UserId, KeyState>, ArchiveError>;

    /// At most `limit` keys and marks of destroyed ones after a person's, in the order of ids.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn read_keys(
        &self,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, ArchiveError>;

    /// Writes keys and marks, all of them or none. A mark takes a key's place, and a key takes no mark's: nobody who is
    /// erased here comes back. Answers how many people's records are new or became marks.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn write_keys(&self, records: Vec<KeyRecord>) -> Result<u64, ArchiveError>;

    /// The copy that was begun here and has not ended.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn unfinished_copy(&self) -> Result<Option<UnfinishedCopy>, ArchiveError>;

    /// From now on whatever is written marks the log, in the same transaction, as half this copy. A copy that finds
    /// everything there leaves no mark.
    ///
    /// # Errors
    /// [`ArchiveError::OtherCopy`].
    async fn begin_copy(&self, copy: UnfinishedCopy) -> Result<(), ArchiveError>;

    /// Marks the log as half of the copy under way now: what is written next lies elsewhere, and cannot do it in its own
    /// transaction.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn mark_copy(&self) -> Result<(), ArchiveError>;

    /// Removes the mark: the log is whole.
    ///
    /// # Errors
    /// [`ArchiveError`].
    async fn end_copy(&self) -> Result<(), ArchiveError>;
}
