//! The chat log as rows, for copying it from one store to another: backup, restore, moving house.
//!
//! A copy keeps ids, numbers and times. Every adapter passes the contract suite in `tests/src/contract/chat_archive.rs`.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::{UserId, personal::ERASED_TEXT};

use crate::{ports::Message, room_id::RoomId};

/// A sender's own name for a message: the same one again is the same message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessageName {
    /// The room.
    pub room_id: RoomId,
    /// The sender.
    pub user_id: UserId,
    /// The name.
    pub client_id: String,
    /// The message's number in the room.
    pub seq: u64,
}

/// What a copy knows of the chat log that it is brought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// What is there already must be as it is brought.
    Same,
    /// It is older than what is brought: whoever was erased since is erased here, too.
    Older,
}

/// What becomes of a message that is there when it is brought once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// It stays.
    Stays,
    /// It becomes the tombstone that is brought.
    Erased,
}

impl Meeting {
    /// The one rule of every adapter. A tombstone stays whatever is brought: who is erased stays erased.
    ///
    /// # Errors
    /// [`ChatArchiveError::Other`], when it is another message.
    pub fn of(found: &Message, new: &Message, known: Known) -> Result<Self, ChatArchiveError> {
        let same_but_words = Message {
            username: found.username.clone(),
            message: found.message.clone(),
            ..new.clone()
        };
        let same = *found == same_but_words;
        match (found == new || is_tombstone(found), is_tombstone(new)) {
            (true, _) if same => Ok(Self::Stays),
            (false, true) if same && known == Known::Older => Ok(Self::Erased),
            _ => Err(ChatArchiveError::Other {
                room: new.room_id.clone(),
                seq: new.seq,
            }),
        }
    }
}

/// Nobody can be called so.
fn is_tombstone(message: &Message) -> bool {
    &*message.username == ERASED_TEXT && message.message == ERASED_TEXT
}

/// Why rows were not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ChatArchiveError {
    /// The store cannot answer now, or refuses. Of rows that were to be written none, or all, are there.
    #[error("the chat log is unavailable: {0}")]
    Unavailable(String),
    /// A message is not the next one of its room. Nothing was written.
    #[error("message {seq} of the room {room} does not follow on {last}")]
    Gap {
        /// The room.
        room: RoomId,
        /// Where the room stands.
        last: u64,
        /// The number that was to be written.
        seq: u64,
    },
    /// The store has something else in this place. Nothing was written.
    #[error("the room {room} has another message {seq}")]
    Other {
        /// The room.
        room: RoomId,
        /// The place.
        seq: u64,
    },
}

/// A chat log whose rows can be read and written as they are.
///
/// Rows are in the order of the rooms' names, byte by byte; in a room messages by `seq`, names by sender and text. What
/// is written and is there already, the same in everything, is left alone. Writing is all or nothing, and answers how
/// many rows are new, or became tombstones. Of somebody who is erased in this log messages come as tombstones, and names
/// not at all.
///
/// Names are read before messages and may be written before them: so a copy of a log that is in use has the message to
/// every name.
#[async_trait]
pub trait ChatArchive: Send + Sync {
    /// At most `limit` messages after a room's number.
    ///
    /// # Errors
    /// [`ChatArchiveError`].
    async fn read_messages(
        &self,
        after: Option<(RoomId, u64)>,
        limit: usize,
    ) -> Result<Vec<Message>, ChatArchiveError>;

    /// Makes sure that no other message is in the place of one of these, as [`Meeting::of`] has it. Writes nothing.
    ///
    /// # Errors
    /// [`ChatArchiveError`].
    async fn compare_messages(
        &self,
        messages: Vec<Message>,
        known: Known,
    ) -> Result<(), ChatArchiveError>;

    /// Writes messages in their order. With a message that becomes a tombstone go the sender's names in its room.
    ///
    /// # Errors
    /// [`ChatArchiveError`].
    async fn write_messages(
        &self,
        messages: Vec<Message>,
        known: Known,
    ) -> Result<u64, ChatArchiveError>;

    /// At most `limit` names after a room's, sender's and text.
    ///
    /// # Errors
    /// [`ChatArchiveError`].
    async fn read_names(
        &self,
        after: Option<(RoomId, UserId, String)>,
        limit: usize,
    ) -> Result<Vec<MessageName>, ChatArchiveError>;

    /// Makes sure that none of these names stands for another message. Writes nothing.
    ///
    /// # Errors
    /// [`ChatArchiveError`].
    async fn compare_names(&self, names: Vec<MessageName>) -> Result<(), ChatArchiveError>;

    /// Writes names in their order.
    ///
    /// # Errors
    /// [`ChatArchiveError`].
    async fn write_names(&self, names: Vec<MessageName>) -> Result<u64, ChatArchiveError>;
}
