//! Events as rows, both ways.
//!
//! The metadata column carries the event id as well as the port's metadata, all values as strings: so the columns of
//! sqlite-es alone say everything that is public about an event, and cqrs-es, whose metadata is a map from string to
//! string, can load it.

use std::borrow::Cow;

use rusqlite::{Row, Rows};
use serde::{Deserialize, Serialize};
use socialhub_domain::{StreamId, Timestamp, UserId};
use socialhub_event_log::{Append, LogError, Metadata, NewEvent, RecordedEvent, SideWrite};
use uuid::Uuid;

use crate::sqlite::connection::from_sql;

/// One command's append with everything encoded that can be encoded before it reaches the writer's thread.
#[derive(Debug)]
pub(super) struct EncodedAppend {
    pub command_id: Uuid,
    pub stream: StreamId,
    pub expected_version: u64,
    pub events: Vec<EncodedEvent>,
    pub side: Vec<SideWrite>,
}

/// The columns of one event that do not depend on where it goes.
#[derive(Debug)]
pub(super) struct EncodedEvent {
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
pub(super) fn encode(append: Append) -> Result<EncodedAppend, serde_json::Error> {
    let events = append.events.iter();
    let events = events.map(|event| encode_event(event, &append.metadata));
    Ok(EncodedAppend {
        events: events.collect::<Result<_, _>>()?,
        command_id: append.command_id,
        stream: append.stream,
        expected_version: append.expected_version,
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
        payload: new.event.to_payload()?,
        metadata: serde_json::to_string(&stored)?,
    })
}

/// The columns [`decode_all`] reads, in its order.
macro_rules! event_columns {
    () => {
        "position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata"
    };
}
pub(super) use event_columns;

/// Reads all rows of a query for [`event_columns`]. The inner error is a row that the log did not write.
pub(super) fn decode_all(
    mut rows: Rows<'_>,
) -> rusqlite::Result<Result<Vec<RecordedEvent>, LogError>> {
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let position = from_sql(row.get(0)?);
        match decode(row, position) {
            Ok(event) => events.push(event),
            Err(error) => {
                let reason = error.to_string();
                return Ok(Err(LogError::Damaged { position, reason }));
            }
        }
    }
    Ok(Ok(events))
}

fn decode(row: &Row<'_>, position: u64) -> Result<RecordedEvent, Box<dyn std::error::Error>> {
    let stored: StoredMetadata<'_> = serde_json::from_str(row.get_ref(8)?.as_str()?)?;
    Ok(RecordedEvent {
        position,
        event_id: Uuid::from_slice(row.get_ref(1)?.as_blob()?)?,
        stream: StreamId {
            aggregate_type: row.get(2)?,
            aggregate_id: row.get(3)?,
        },
        sequence: from_sql(row.get(4)?),
        event_type: row.get(5)?,
        event_version: row.get_ref(6)?.as_str()?.parse()?,
        payload: row.get(7)?,
        metadata: Metadata {
            actor: stored.actor,
            occurred_at: Timestamp(stored.occurred_at.parse()?),
            correlation_id: stored.correlation_id.map(Cow::into_owned),
            causation_id: stored.causation_id,
            traceparent: stored.traceparent.map(Cow::into_owned),
        },
    })
}
