//! What an acknowledgement says.

use std::{borrow::Cow, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{frame::Frame, ports::ChatUser};

/// Why an event was not carried out; mirrors the problem answers of REST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// As an HTTP status.
    pub(crate) status: u16,
    /// A short, stable text.
    pub(crate) error: &'static str,
    /// What to do about it.
    pub(crate) detail: Cow<'static, str>,
}

impl Refusal {
    fn new(status: u16, error: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            error,
            detail: detail.into(),
        }
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "Validation failed", detail)
    }

    pub(crate) fn not_admitted() -> Self {
        Self::new(
            403,
            "Forbidden",
            "a dm: room admits only the two people it names, ids lower-case and ascending",
        )
    }

    pub(crate) fn not_joined() -> Self {
        Self::new(403, "Forbidden", "join the room first")
    }

    pub(crate) fn left() -> Self {
        Self::new(409, "Conflict", "the room was left in the meantime")
    }

    pub(crate) fn unknown_event() -> Self {
        Self::new(404, "Unknown event", "there is no such event")
    }

    pub(crate) fn too_fast() -> Self {
        Self::new(429, "Too many requests", "slow down")
    }

    pub(crate) fn too_many_rooms(most: usize) -> Self {
        let detail = format!("a socket may be in {most} rooms");
        Self::new(429, "Too many rooms", detail)
    }

    pub(crate) fn busy() -> Self {
        Self::new(
            503,
            "Service unavailable",
            "not done: try again in a moment",
        )
    }

    /// Nobody knows what became of a message: it is shown like any other if it was stored after all.
    pub(crate) fn perhaps_stored() -> Self {
        Self::new(
            503,
            "Service unavailable",
            "perhaps not stored: send it again under the same clientId",
        )
    }
}

/// A person in a room, as clients see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present(pub(crate) ChatUser);

impl Serialize for Present {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Present", 2)?;
        fields.serialize_field("userId", &self.0.id)?;
        fields.serialize_field("username", &self.0.username)?;
        fields.end()
    }
}

/// The outcome of an event.
#[derive(Debug, Clone)]
pub(crate) enum Ack {
    /// Done, nothing to add.
    Done,
    /// The room was entered.
    Joined {
        /// Who is there, the caller included.
        members: Vec<Present>,
        /// Whether the history leaves no hole after what the caller had.
        recovered: bool,
    },
    /// The message is durable.
    Sent(Arc<Frame>),
    /// Not done.
    Refused(Refusal),
}

impl Serialize for Ack {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Ack", 8)?;
        fields.serialize_field("ok", &!matches!(self, Self::Refused(_)))?;
        match self {
            Self::Done => {}
            Self::Joined { members, recovered } => {
                fields.serialize_field("members", members)?;
                fields.serialize_field("recovered", recovered)?;
            }
            Self::Sent(frame) => {
                let message = &frame.message;
                fields.serialize_field("id", &message.id)?;
                fields.serialize_field("seq", &message.seq)?;
                fields.serialize_field("roomId", &message.room_id)?;
                fields.serialize_field("userId", &message.user_id)?;
                fields.serialize_field("username", &message.username)?;
                fields.serialize_field("message", &message.message)?;
                fields.serialize_field("timestamp", &message.timestamp)?;
            }
            Self::Refused(refusal) => fields.serialize_field("error", refusal)?,
        }
        fields.end()
    }
}

/// Answers the sender of an event, at most once. Dropping it unanswered is allowed (the client's own timeout speaks).
pub(crate) type Reply = Box<dyn FnOnce(&Ack) + Send>;
