//! Events on their way into the log and out of it.

use serde::{Deserialize, Serialize};
use socialhub_domain::{
    Event, StreamId, Timestamp, UserId,
    upcast::{self, DecodeError},
};
use uuid::Uuid;

use crate::sealing;

/// A place in the log: 1 for the first event ever, then one more for each, without gaps. 0 is "before the first".
pub type Position = u64;

/// Who and what caused a command; the same for all its events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The person who acted, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<UserId>,
    /// When the command was handled, by the server's clock.
    pub occurred_at: Timestamp,
    /// What this belongs to: the request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The command, as its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<Uuid>,
    /// W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// An event about to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The event's own id (UUIDv7), for ever.
    pub event_id: Uuid,
    /// What happened.
    pub event: Event,
    /// The data as it shall stand in the log, when that is not the event's own JSON: with its personal fields sealed
    /// ([`crate::SealedLog`]).
    pub payload: Option<String>,
}

impl NewEvent {
    /// The data as it shall stand in the log.
    ///
    /// # Errors
    /// Never in practice: every event is made of strings, numbers and lists.
    pub fn stored_payload(&self) -> Result<String, serde_json::Error> {
        self.payload
            .clone()
            .map_or_else(|| self.event.to_payload(), Ok)
    }
}

/// An event as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its place in the log.
    pub position: Position,
    /// Its own id.
    pub event_id: Uuid,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// The public type name, e.g. `post.created`.
    pub event_type: String,
    /// The version it was written in.
    pub event_version: u32,
    /// The data as JSON text, in the version it was written in. Personal fields are sealed as the table holds them, and
    /// clear (or tombstones) as [`crate::SealedLog`] answers them.
    pub payload: String,
    /// Who and what caused it.
    pub metadata: Metadata,
    /// What of its row is damaged, if something is: then what that said is not known, and the event cannot be read. Where
    /// it belongs still is: its position and its stream.
    pub damage: Option<String>,
}

impl RecordedEvent {
    /// The event in today's shape.
    ///
    /// # Errors
    /// [`DecodeError`] when it cannot be read; projections park such an event.
    pub fn decode(&self) -> Result<Event, DecodeError> {
        if let Some(reason) = &self.damage {
            return Err(DecodeError::Damaged {
                event_type: self.event_type.clone(),
                reason: reason.clone(),
            });
        }
        let event = upcast::decode(&self.event_type, self.event_version, &self.payload);
        event.map_err(
            |error| match sealing::sealed_field(&self.event_type, &self.payload) {
                // That is why it has another shape.
                Some(field) => DecodeError::Sealed {
                    event_type: self.event_type.clone(),
                    field,
                },
                None => error,
            },
        )
    }
}
