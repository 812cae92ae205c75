//! Events as rows of a table, whatever the database.
//!
//! The metadata column carries the event id as well as the port's metadata, all values as strings: so the columns of
//! sqlite-es and postgres-es alone say everything that is public about an event, and cqrs-es, whose metadata is a map
//! from string to string, can load it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use socialhub_domain::{StreamId, Timestamp, UserId};
use socialhub_event_log::{Append, Metadata, NewEvent, SideWrite};
use uuid::Uuid;

/// One command's append with everything encoded that can be encoded before it reaches the one who writes.
#[derive(Debug, Clone)]
pub(crate) struct EncodedAppend {
    pub command_id: Uuid,
    pub stream: StreamId,
    pub expected_version: u64,
    pub events: Vec<EncodedEvent>,
    /// Who acted, if it was a person.
    pub actor: Option<UserId>,
    pub side: Vec<SideWrite>,
}

/// The columns of one event that do not depend on where it goes.
#[derive(Debug, Clone)]
pub(crate) struct EncodedEvent {
    pub event_id: Uuid,
    pub event_type: &'static str,
    pub event_version: String,
    pub payload: String,
    pub metadata: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMetadata<'a> {
    event_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<UserId>,
    /// Milliseconds since the Unix epoch, as a string.
    #[serde(borrow)]
    occurred_at: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    traceparent: Option<Cow<'a, str>>,
}

/// Encodes one command.
pub(crate) fn encode(append: Append) -> Result<EncodedAppend, serde_json::Error> {
    let events = append.events.iter();
    let events = events.map(|event| encode_event(event, &append.metadata));
    Ok(EncodedAppend {
        events: events.collect::<Result<_, _>>()?,
        command_id: append.command_id,
        stream: append.stream,
        expected_version: append.expected_version,
        actor: append.metadata.actor,
        side: append.side,
    })
}

fn encode_event(new: &NewEvent, metadata: &Metadata) -> Result<EncodedEvent, serde_json::Error> {
    let stored = StoredMetadata {
        event_id: new.event_id,
        actor: metadata.actor,
        occurred_at: metadata.occurred_at.0.to_string().into(),
        correlation_id: metadata.correlation_id.as_deref().map(Cow::Borrowed),
        causation_id: metadata.causation_id,
        traceparent: metadata.traceparent.as_deref().map(Cow::Borrowed),
    };
    Ok(EncodedEvent {
        event_id: new.event_id,
        event_type: new.event.event_type(),
        event_version: new.event.event_version().to_string(),
        payload: new.stored_payload()?,
        metadata: serde_json::to_string(&stored)?,
    })
}

/// The port's metadata out of the column.
pub(crate) fn decode_metadata(column: &str) -> Result<Metadata, Box<dyn std::error::Error>> {
    let stored: StoredMetadata<'_> = serde_json::from_str(column)?;
    Ok(Metadata {
        actor: stored.actor,
        occurred_at: Timestamp(stored.occurred_at.parse()?),
        correlation_id: stored.correlation_id.map(Cow::into_owned),
        causation_id: stored.causation_id,
        traceparent: stored.traceparent.map(Cow::into_owned),
    })
}
