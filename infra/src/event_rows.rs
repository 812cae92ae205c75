//! Events as rows of a table, whatever the database.
//!
//! The metadata column carries the event id as well as the port's metadata, all values as strings: so the columns of
//! sqlite-es and postgres-es alone say everything that is public about an event, and cqrs-es, whose metadata is a map
//! from string to string, can load it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use socialhub_domain::{StreamId, Timestamp, UserId, upcast::Misfit};
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

/// What the columns of an event say that can be damaged without its place in the log being so.
pub(crate) struct Readable {
    pub event_version: u32,
    pub metadata: Metadata,
    /// What cannot be read; the fields beside it stand in for it.
    pub damage: Option<String>,
}

impl Readable {
    /// Reads what is there. For a time that cannot be read the one of recording stands in: lag and age count on it.
    pub(crate) fn of(version: &str, metadata: &str, recorded_at: i64) -> Self {
        let version_read = version.parse();
        let metadata_read = decode_metadata(metadata);
        let damage = match (&version_read, &metadata_read) {
            (Ok(_), Ok(_)) => None,
            (Err(error), _) => Some(format!("its version is damaged: {error}")),
            (_, Err(error)) => Some(format!("its metadata are damaged: {error}")),
        };
        Self {
            event_version: version_read.unwrap_or_default(),
            metadata: metadata_read.unwrap_or_else(|_| Metadata {
                occurred_at: Timestamp(recorded_at),
                ..Metadata::default()
            }),
            damage,
        }
    }
}

/// Why a column of metadata cannot be read, without what stands there: this is published and logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataFault {
    #[error("{0}")]
    Shape(Misfit),
    #[error("the time is no number")]
    Time,
}

/// The port's metadata out of the column.
pub(crate) fn decode_metadata(column: &str) -> Result<Metadata, MetadataFault> {
    let stored: StoredMetadata<'_> =
        serde_json::from_str(column).map_err(|error| MetadataFault::Shape(error.into()))?;
    let occurred_at = stored.occurred_at.parse();
    Ok(Metadata {
        actor: stored.actor,
        occurred_at: Timestamp(occurred_at.map_err(|_| MetadataFault::Time)?),
        correlation_id: stored.correlation_id.map(Cow::into_owned),
        causation_id: stored.causation_id,
        traceparent: stored.traceparent.map(Cow::into_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"eventId":"00000000-0000-0000-0000-000000000001","occurredAt":"5","correlationId":"r"}"#;

    #[test]
    fn damage_is_told_without_what_stands_there_and_the_time_of_recording_stands_in() {
        let whole = Readable::of("2", GOOD, 9);
        assert_eq!((whole.event_version, whole.damage), (2, None));
        assert_eq!(whole.metadata.occurred_at, Timestamp(5));
        for (version, metadata, reason) in [
            ("two", GOOD, "its version is damaged"),
            ("2", "{}", "its metadata are damaged"),
            ("2", "nonsense", "its metadata are damaged: it is no JSON"),
            (
                "2",
                &GOOD.replace("\"5\"", "\"secret\""),
                "the time is no number",
            ),
            ("2", &GOOD.replace("\"5\"", "7"), "it has another shape"),
        ] {
            let found = Readable::of(version, metadata, 9);
            let damage = found.damage.unwrap();
            assert!(damage.contains(reason), "{damage}");
            assert!(!damage.contains("secret"), "{damage}");
            let time = if version == "2" { 9 } else { 5 };
            assert_eq!(found.metadata.occurred_at, Timestamp(time), "{metadata}");
        }
    }
}
