//! The one type every projection takes: a public event and where it stands, whether it came from the log or from Kafka.

use socialhub_domain::Event;
use socialhub_event_log::{Position, RecordedEvent};
use uuid::Uuid;

use crate::store::Source;

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
    /// The public event of a log entry: the same function the relay uses before it publishes.
    pub fn from_log(recorded: &RecordedEvent) -> Self {
        let (sequence, event) = match recorded.decode() {
            Ok(event) => {
                let sequence = SequenceKey {
                    topic: event.topic().name().to_owned(),
                    key: event.key().to_string(),
                };
                (sequence, Ok(event))
            }
            Err(error) => (
                SequenceKey {
                    topic: "undecodable".to_owned(),
                    key: recorded.stream.to_string(),
                },
                Err(Undecodable {
                    event_type: recorded.event_type.clone(),
                    raw: recorded.payload.clone(),
                    reason: error.to_string(),
                }),
            ),
        };
        Self {
            position: recorded.position,
            event_id: recorded.event_id,
            sequence,
            event,
        }
    }
}

/// A batch of records of one source, in the source's order.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    /// Where they come from.
    pub source: Source,
    /// The records, positions rising.
    pub records: Vec<PublicRecord>,
    /// The offset after the last record, where the source has offsets (Kafka).
    pub next_offset: Option<i64>,
}
