//! What the chat service needs from outside: a durable log of messages, a way to know who a token speaks for, and
//! (when several instances run) a way to tell the others that a room has moved on, and a place that knows who is where.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::{Timestamp, UserId};
use uuid::Uuid;

use crate::{frame::Frame, inbox::Inbox, room_id::RoomId};

/// A person who chats, as their token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatUser {
    /// The person's id.
    #[serde(rename = "userId")]
    pub id: UserId,
    /// The person's public name.
    pub username: Arc<str>,
}

/// Knows who a bearer token speaks for.
pub trait TokenCheck: Send + Sync {
    /// The person, or nothing when the token is bad, expired or revoked. Must be cheap and must not block: open
    /// sockets are checked again every second.
    fn check(&self, token: &str) -> Option<ChatUser>;

    /// Whether a person is erased: then what they came in by counts no more, whatever it was.
    fn is_erased(&self, _user: UserId) -> bool {
        false
    }
}

/// A message on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its id.
    pub id: Uuid,
    /// The room it is for.
    pub room: RoomId,
    /// Who sent it.
    pub user: ChatUser,
    /// The text.
    pub text: String,
    /// The sender's own name for it: the same one again is the same message.
    pub client_id: Option<String>,
    /// When it was taken in.
    pub at: Timestamp,
}

/// A message of the log. Serializes as it goes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its id.
    pub id: Uuid,
    /// Its number in the room: 1, 2, 3, … without holes.
    pub seq: u64,
    /// The room.
    pub room_id: RoomId,
    /// Who sent it.
    pub user_id: UserId,
    /// The sender's name at the time.
    pub username: Arc<str>,
    /// The text.
    pub message: String,
    /// When it was taken in, milliseconds since the Unix epoch.
    pub timestamp: Timestamp,
}

impl Message {
    /// The message that a new one becomes at a place in its room.
    pub fn placed(new: NewMessage, seq: u64) -> Self {
        Self {
            id: new.id,
            seq,
            room_id: new.room,
            user_id: new.user.id,
            username: new.user.username,
            message: new.text,
            timestamp: new.at,
        }
    }
}

/// What became of one message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The message as it stands in the log: for a repeat, the earlier one.
    pub message: Message,
    /// Whether it was there already: same room, sender and `client_id`.
    pub duplicate: bool,
}

/// From which end a page is cut when more messages fit than its limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The newest of them.
    Newest,
    /// The oldest of them.
    Oldest,
}

/// Which messages of a room to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only messages with a greater `seq`.
    pub after: u64,
    /// Only messages with a smaller `seq`.
    pub before: Option<u64>,
    /// Which ones when there are more.
    pub direction: Direction,
    /// At most so many.
    pub limit: usize,
}

/// Messages of a room, by rising `seq`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The messages asked for.
    pub messages: Vec<Message>,
    /// The greatest `seq` of the room at the moment of reading, 0 when it has no message.
    pub last_seq: u64,
}

/// A fault of the log. Nothing of the batch counts as sent; asking again with the same `client_id` is safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatLogError {
    /// Too much is waiting.
    #[error("the chat log is busy")]
    Busy,
    /// The store cannot be used now.
    #[error("the chat log is not available: {0}")]
    Unavailable(String),
}

/// The durable log of messages.
#[async_trait]
pub trait ChatLog: Send + Sync {
    /// Appends a batch, giving each message the next `seq` of its room in the order of the batch, and returns when all
    /// of it is durable. Outcomes are in the order of the batch.
    ///
    /// # Errors
    /// [`ChatLogError`], for the whole batch.
    async fn append(&self, batch: Vec<NewMessage>) -> Result<Vec<Appended>, ChatLogError>;

    /// Reads messages of a room and its last `seq`, both at one moment.
    ///
    /// # Errors
    /// [`ChatLogError`].
    async fn read(&self, room: &RoomId, query: HistoryQuery) -> Result<History, ChatLogError>;

    /// Puts tombstones in the place of everything a person wrote and is called by, wherever they wrote, and does so with
    /// what may still come of theirs. Again is no fault.
    ///
    /// # Errors
    /// [`ChatLogError`]; some of it may have been done.
    async fn erase(&self, user: UserId) -> Result<(), ChatLogError>;

    /// The last `seq` of each of these rooms, in their order; 0 for one without a message. It is asked every few seconds
    /// for all the rooms that have members, so it should be one query.
    ///
    /// # Errors
    /// [`ChatLogError`].
    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<u64>, ChatLogError>;
}

/// A passing sign of somebody in a room. It is not ordered with messages, and may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// They came.
    UserJoined,
    /// They left.
    UserLeft,
    /// They are typing.
    Typing,
}

impl Sign {
    /// The event that clients see.
    pub(crate) fn event(self) -> &'static str {
        match self {
            Self::UserJoined => "user_joined",
            Self::UserLeft => "user_left",
            Self::Typing => "typing",
        }
    }
}

/// The way to the other instances. What they say comes in through the [`Inbox`]. Nothing here may block, and everything
/// may be lost: the log knows every message, and the [`PresenceStore`] everybody.
pub trait ChatBus: Send + Sync {
    /// Where to bring what the others say. Called once, before anything else.
    fn attach(&self, inbox: Inbox);

    /// A hint: these messages, by rising `seq`, are in the room's log now.
    fn announce(&self, room: &RoomId, messages: Vec<Arc<Frame>>);

    /// A sign of somebody here, for the members elsewhere.
    fn signal(&self, room: &RoomId, sign: Sign, user: &ChatUser);
}

/// The bus of a single instance: there is nobody to tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBus;

impl ChatBus for NoBus {
    fn attach(&self, _: Inbox) {}

    fn announce(&self, _: &RoomId, _: Vec<Arc<Frame>>) {}

    fn signal(&self, _: &RoomId, _: Sign, _: &ChatUser) {}
}

/// Who is in a room on this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomPeople {
    /// The room.
    pub room: RoomId,
    /// Each of them once.
    pub people: Vec<ChatUser>,
}

/// The place that knows who is in a room on the other instances cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("who is on the other instances is not known: {0}")]
pub struct PresenceError(pub String);

/// Knows who is in which room, on all instances together. What an instance put there ends with it, within seconds, also
/// when it is killed; the others are then told to ask again ([`Inbox::presence_is_stale`]).
#[async_trait]
pub trait PresenceStore: Send + Sync {
    /// Replaces what is known of this instance (no people: it has nobody there), tells the others if that is a change
    /// ([`Inbox::presence_changed`]), and answers who is there on the other instances, for each room in order.
    ///
    /// # Errors
    /// [`PresenceError`]; then some of it may have been done.
    async fn exchange(&self, here: &[RoomPeople]) -> Result<Vec<Vec<ChatUser>>, PresenceError>;

    /// Removes what an instance that was killed left of a person.
    ///
    /// # Errors
    /// [`PresenceError`], also while they are on an instance that lives: it takes them out when their socket ends.
    async fn erase(&self, _user: UserId) -> Result<(), PresenceError> {
        Ok(())
    }

    /// This instance ends: nobody is on it any more.
    async fn leave(&self);
}

/// The presence of a single instance: nobody is elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPresence;

#[async_trait]
impl PresenceStore for NoPresence {
    async fn exchange(&self, here: &[RoomPeople]) -> Result<Vec<Vec<ChatUser>>, PresenceError> {
        Ok(vec![Vec::new(); here.len()])
    }

    async fn leave(&self) {}
}
