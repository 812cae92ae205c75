//! The one type every projection takes: a public event and where it stands, whether it came from the log or from Kafka.

use socialhub_domain::Event;
use socialhub_event_log::{Position, Publication, RecordedEvent, WireRecord};
use uuid::Uuid;

/// A public event with its place in the log and in its source.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicRecord {
    /// Its place in the log.
    pub position: Position,
    /// Its own id.
    pub event_id: Uuid,
    /// What it is ordered by: topic and record key. Later events of a parked sequence are parked behind it.
    pub sequence: SequenceKey,
    /// The event, or why it cannot be read.
    pub event: Result<Event, Undecodable>,
}

/// What an event is ordered by on its topic: `(topic, key)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceKey {
    /// The topic's name.
    pub topic: String,
    /// The record key.
    pub key: String,
}

/// An event that cannot be read: the raw text and the reason, kept for whoever repairs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    /// The public type name as found.
    pub event_type: String,
    /// What was found.
    pub raw: String,
    /// Why it cannot be read.
    pub reason: String,
}

impl PublicRecord {
    /// The public event of a log entry: by the same function that the relay publishes it by.
    pub fn from_log(recorded: &RecordedEvent) -> Self {
        let Publication { topic, key, event } = Publication::of(recorded);
        Self {
            position: recorded.position,
            event_id: recorded.event_id,
            sequence: SequenceKey {
                topic: topic.name().to_owned(),
                key,
            },
            event: event.map_err(|error| Undecodable {
                event_type: recorded.event_type.clone(),
                raw: recorded.payload.clone(),
                reason: error.to_string(),
            }),
        }
    }

    /// The public event of a topic's record: what [`PublicRecord::from_log`] makes of the event it was published from.
    pub fn from_wire(record: WireRecord) -> Self {
        let event = record.decode();
        let WireRecord {
            topic,
            key,
            value,
            headers,
        } = record;
        Self {
            position: headers.position,
            event_id: headers.event_id,
            sequence: SequenceKey {
                topic: topic.name().to_owned(),
                key,
            },
            event: event.map_err(|reason| Undecodable {
                event_type: headers.event_type,
                raw: value,
                reason,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use socialhub_domain::{StreamId, Timestamp, event::CATALOGUE};
    use socialhub_event_log::Metadata;

    use super::*;

    fn recorded(event_type: &str, event_version: u32, payload: &str) -> RecordedEvent {
        RecordedEvent {
            position: 7,
            event_id: Uuid::from_u128(7),
            stream: StreamId::new("post", "1"),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version,
            payload: payload.to_owned(),
            metadata: Metadata {
                occurred_at: Timestamp(5),
                ..Metadata::default()
            },
            damage: None,
        }
    }

    #[track_caller]
    fn assert_both_ways_are_equal(recorded: &RecordedEvent) -> PublicRecord {
        let published = WireRecord::of(recorded, 3).unwrap();
        let from_wire = PublicRecord::from_wire(published);
        assert_eq!(from_wire, PublicRecord::from_log(recorded));
        from_wire
    }

    #[test]
    fn what_comes_over_the_wire_is_what_stands_in_the_log() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../domain/fixtures");
        let versions: usize = CATALOGUE.iter().map(|(_, today)| *today as usize).sum();
        let mut seen = 0;
        for file in fs::read_dir(fixtures).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let (event_type, version) = name
                .strip_suffix(".json")
                .unwrap()
                .rsplit_once(".v")
                .unwrap();
            let payload = fs::read_to_string(file.path()).unwrap();
            let event = recorded(event_type, version.parse().unwrap(), &payload);
            assert!(assert_both_ways_are_equal(&event).event.is_ok(), "{name}");
            seen += 1;
        }
        assert_eq!(seen, versions);
    }

    #[test]
    fn so_does_what_cannot_be_read() {
        for (event_type, version, payload) in [
            ("post.exploded", 1, "{}"),
            ("user.followed", 9, "{}"),
            ("post.created", 2, "{\"postId\": 1}"),
            ("post.created", 1, "no json"),
        ] {
            let event = recorded(event_type, version, payload);
            assert!(assert_both_ways_are_equal(&event).event.is_err());
        }
    }
}
