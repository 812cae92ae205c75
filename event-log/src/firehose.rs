//! The log for those who may read it and no more: every event in today's shape, without anything personal.
//!
//! What is personal is left out, not covered: nobody has to be told of an erasure. The log is read as the database holds it,
//! so no key is asked for and what is sealed is never opened.

use std::sync::Arc;

use serde_json::value::RawValue;
use socialhub_domain::{StreamId, Timestamp, personal, upcast};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    event::{Position, RecordedEvent},
    json_fields::JsonFields,
    port::{EventLog, LogError},
};

/// An event with nothing personal in it.
#[derive(Debug, Clone)]
pub struct PublicEvent {
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
    /// The version of the payload's shape: today's, or the stored one when there is no payload.
    pub version: u32,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// The data but for its personal fields; none when this program cannot read the event. Then nothing is known of what
    /// in it is personal.
    pub payload: Option<Box<RawValue>>,
}

impl PublicEvent {
    fn of(recorded: RecordedEvent) -> Self {
        let impersonal = impersonal(&recorded);
        let (version, payload) = match impersonal {
            Some((version, payload)) => (version, Some(payload)),
            None => (recorded.event_version, None),
        };
        Self {
            position: recorded.position,
            event_id: recorded.event_id,
            stream: recorded.stream,
            sequence: recorded.sequence,
            event_type: recorded.event_type,
            version,
            occurred_at: recorded.metadata.occurred_at,
            payload,
        }
    }
}

/// An event's data in today's shape without its personal fields; none when it cannot be read.
fn impersonal(recorded: &RecordedEvent) -> Option<(u32, Box<RawValue>)> {
    if recorded.damage.is_some() {
        return None;
    }
    let personal = personal::fields_of(&recorded.event_type);
    // A sealed field is no text: what stands in its place for a moment lets the rest be decoded.
    let mut stored = JsonFields::parse(&recorded.payload)?;
    for field in personal {
        stored.set(&field.field, field.tombstone.json());
    }
    let (event_type, version) = (&recorded.event_type, recorded.event_version);
    let event = upcast::decode(event_type, version, &stored.to_json()).ok()?;
    let today = event.to_payload().ok()?;
    let mut fields = JsonFields::parse(&today)?;
    fields.retain(|name| personal.iter().all(|field| field.field != name));
    let payload = RawValue::from_string(fields.to_json()).ok()?;
    Some((event.event_version(), payload))
}

/// Reads a log without anything personal. Knows no way to write.
#[derive(Clone)]
pub struct Firehose {
    log: Arc<dyn EventLog>,
}

impl Firehose {
    /// Of a log, as the database holds it or opened: it makes no difference.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log }
    }

    /// The position of the newest event; 0 when there is none.
    ///
    /// # Errors
    /// When the log cannot answer.
    pub async fn head(&self) -> Result<Position, LogError> {
        self.log.head().await
    }

    /// Tells of new events. For waking up, not for deciding.
    pub fn watch_head(&self) -> watch::Receiver<Position> {
        self.log.watch_head()
    }

    /// At most `limit` events after a position, in order and none left out.
    ///
    /// # Errors
    /// When the log cannot answer, or an event is missing in it: better no answer than one with a hole.
    pub async fn read(&self, after: Position, limit: usize) -> Result<Vec<PublicEvent>, LogError> {
        let events = self.log.read_all(after, limit).await?;
        for (event, wanted) in events.iter().zip(after + 1..) {
            if event.position != wanted {
                return Err(LogError::Damaged {
                    position: wanted,
                    reason: format!("it is missing: position {} comes next", event.position),
                });
            }
        }
        Ok(events.into_iter().map(PublicEvent::of).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::Value;
    use socialhub_domain::event::CATALOGUE;

    use super::*;
    use crate::event::Metadata;

    fn recorded(event_type: &str, version: u32, payload: &str) -> RecordedEvent {
        RecordedEvent {
            position: 7,
            event_id: Uuid::from_u128(7),
            stream: StreamId::new("post", "1"),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version: version,
            payload: payload.to_owned(),
            metadata: Metadata::default(),
            damage: None,
        }
    }

    fn fixture(event_type: &str, version: u32) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../domain/fixtures/{event_type}.v{version}.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn payload(event: &PublicEvent) -> Value {
        serde_json::from_str(event.payload.as_ref().unwrap().get()).unwrap()
    }

    /// Not by the list of personal fields, but by what there may be besides: ids, numbers, truth values, the audience.
    fn assert_impersonal(event_type: &str, data: &Value) {
        for (name, value) in data.as_object().unwrap() {
            let id = value
                .as_str()
                .is_some_and(|text| text.parse::<Uuid>().is_ok());
            let plain = value.is_number() || value.is_boolean() || name == "visibility";
            assert!(id || plain, "{event_type}: {name} is {value}");
        }
    }

    #[test]
    fn no_event_of_any_version_keeps_anything_personal() {
        for (event_type, today) in CATALOGUE {
            for version in 1..=*today {
                let mut stored = fixture(event_type, version);
                let clear = PublicEvent::of(recorded(event_type, version, &stored.to_string()));
                assert_eq!(clear.version, *today);
                let data = payload(&clear);
                assert_impersonal(event_type, &data);
                assert!(data["timestamp"].is_number());
                // Sealed, it reads the same.
                for field in personal::fields_of(event_type) {
                    if let Some(value) = stored.get_mut(&field.field) {
                        *value = serde_json::json!({ "sealed": "AAAA" });
                    }
                }
                let sealed = PublicEvent::of(recorded(event_type, version, &stored.to_string()));
                assert_eq!(payload(&sealed), data, "{event_type} {version}");
            }
        }
    }

    #[test]
    fn of_what_cannot_be_read_nothing_is_told() {
        let registered = r#"{"userId":7,"username":"ada","name":"Ada","timestamp":5}"#;
        for (event_type, version, text) in [
            ("user.cloned", 1, r#"{"username":"ada"}"#),
            ("user.registered", 9, registered),
            ("user.registered", 1, registered),
            ("user.registered", 1, "ada"),
        ] {
            let event = PublicEvent::of(recorded(event_type, version, text));
            assert_eq!((event.version, event.position), (version, 7));
            assert!(event.payload.is_none(), "{event_type} {text}");
            assert!(!format!("{event:?}").contains("ada"));
        }
    }

    #[test]
    fn a_field_that_is_not_of_the_shape_is_not_passed_on() {
        let mut stored = fixture("post.deleted", 1);
        stored["note"] = "Ada wrote this".into();
        let event = PublicEvent::of(recorded("post.deleted", 1, &stored.to_string()));
        assert!(payload(&event).get("note").is_none());
    }
}
