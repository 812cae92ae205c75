//! Events on the wire: what a topic's record holds, and how it is read.
//!
//! A record's value is the seed's JSON, `{"eventType", "data": {…, "timestamp"}}`, in the shape of the program that
//! published it; its headers are CloudEvents 1.0 in binary mode and the event's place in the log. Where an event goes
//! and what it is, is said by one function, [`Publication::of`], for the relay and for whoever reads the log itself.

use std::{collections::BTreeMap, str::FromStr};

use chrono::{DateTime, SecondsFormat};
use serde::Deserialize;
use serde_json::value::RawValue;
use socialhub_domain::{
    Event,
    event::CATALOGUE,
    topic::Topic,
    upcast::{self, DecodeError, Misfit},
};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    event::{Position, RecordedEvent},
    frontier::partition_for,
    unreadable,
};

/// The value of `ce_source`: events of all instances come from one log.
const SOURCE: &str = "/socialhub";

/// An event of the log as it is published: where to, under which key, and what it says.
#[derive(Debug)]
pub struct Publication {
    /// The topic.
    pub topic: Topic,
    /// The record key: what the event is ordered by on its topic.
    pub key: String,
    /// The event in today's shape, or why it cannot be read. It is published all the same, and parked by its consumers.
    pub event: Result<Event, DecodeError>,
}

impl Publication {
    /// What is published of an event of the log.
    pub fn of(recorded: &RecordedEvent) -> Self {
        match recorded.decode() {
            Ok(event) => Self {
                topic: event.topic(),
                key: event.key().to_string(),
                event: Ok(event),
            },
            Err(error) => {
                let topic = unreadable::topic_of(&recorded.event_type);
                Self {
                    topic,
                    key: unreadable::key_of(topic, recorded),
                    event: Err(error),
                }
            }
        }
    }
}

/// A record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireRecord {
    /// The topic.
    pub topic: Topic,
    /// The record key.
    pub key: String,
    /// The public JSON; for an event that cannot be read, the text that stands in the log.
    pub value: String,
    /// What the headers say.
    pub headers: WireHeaders,
}

/// What a record's headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireHeaders {
    /// The event's place in the log.
    pub position: Position,
    /// The place in the log of the record before it in its partition; 0 for the first.
    pub previous: Position,
    /// The event's own id.
    pub event_id: Uuid,
    /// The public type name.
    pub event_type: String,
    /// The version of the value's shape.
    pub version: u32,
    /// When it happened, RFC 3339; none when the log's time is beyond what that can say.
    pub time: Option<String>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// Why the relay could not read the event; none when it could.
    pub undecodable: Option<String>,
}

impl WireHeaders {
    /// The headers by name.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let readable = self.undecodable.is_none();
        let content_type = if readable {
            "application/json"
        } else {
            "text/plain; charset=utf-8"
        };
        let mut pairs = vec![
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", self.event_id.to_string()),
            ("ce_type", self.event_type.clone()),
            ("ce_source", SOURCE.to_owned()),
            ("content-type", content_type.to_owned()),
            ("socialhub-position", self.position.to_string()),
            ("socialhub-prev", self.previous.to_string()),
            ("socialhub-version", self.version.to_string()),
        ];
        let optional = [
            ("ce_time", &self.time),
            ("traceparent", &self.traceparent),
            ("socialhub-undecodable", &self.undecodable),
        ];
        for (name, value) in optional {
            pairs.extend(value.clone().map(|value| (name, value)));
        }
        pairs
    }

    /// What headers say, if they are those of the relay. Whoever else writes to the topic writes nothing of ours.
    ///
    /// # Errors
    /// [`Foreign`].
    pub fn parse<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, Foreign> {
        let pairs: BTreeMap<&str, &str> = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?)))
            .collect();
        let text = |name: &str| pairs.get(name).map(|value| (*value).to_owned());
        let position = needed(&pairs, "socialhub-position")?;
        if position == 0 {
            return Err(Foreign("socialhub-position"));
        }
        Ok(Self {
            position,
            previous: needed(&pairs, "socialhub-prev")?,
            event_id: needed(&pairs, "ce_id")?,
            event_type: needed(&pairs, "ce_type")?,
            version: needed(&pairs, "socialhub-version")?,
            time: text("ce_time"),
            traceparent: text("traceparent"),
            undecodable: text("socialhub-undecodable"),
        })
    }
}

/// Why a record is not the relay's: the header that it lacks, or that says what the relay never writes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it has no header `{0}` as the relay writes it")]
pub struct Foreign(&'static str);

/// A header that every record of the relay has.
fn needed<T: FromStr>(pairs: &BTreeMap<&str, &str>, name: &'static str) -> Result<T, Foreign> {
    let value = pairs.get(name).and_then(|value| value.parse().ok());
    value.ok_or(Foreign(name))
}

/// The public JSON, its data unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    event_type: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl WireRecord {
    /// The record of an event of the log; `previous` is the position of the record before it in its partition.
    ///
    /// # Errors
    /// Never in practice: every event is made of strings, numbers and lists.
    pub fn of(recorded: &RecordedEvent, previous: Position) -> Result<Self, serde_json::Error> {
        let Publication { topic, key, event } = Publication::of(recorded);
        let (value, version, undecodable) = match event {
            Ok(event) => (serde_json::to_string(&event)?, event.event_version(), None),
            Err(error) => (
                recorded.payload.clone(),
                recorded.event_version,
                Some(error.to_string()),
            ),
        };
        Ok(Self {
            topic,
            key,
            value,
            headers: WireHeaders {
                position: recorded.position,
                previous,
                event_id: recorded.event_id,
                event_type: recorded.event_type.clone(),
                version,
                time: DateTime::from_timestamp_millis(recorded.metadata.occurred_at.0)
                    .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
                traceparent: recorded.metadata.traceparent.clone(),
                undecodable,
            },
        })
    }

    /// Which of `count` partitions the record belongs to.
    pub fn partition(&self, count: i32) -> i32 {
        partition_for(self.key.as_bytes(), count)
    }

    /// The event in today's shape, also when the topic holds it in an older one.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    pub fn decode(&self) -> Result<Event, String> {
        if let Some(reason) = &self.headers.undecodable {
            return Err(reason.clone());
        }
        if self.is_todays() {
            return serde_json::from_str(&self.value).map_err(|error| self.malformed(error));
        }
        let envelope: Envelope<'_> =
            serde_json::from_str(&self.value).map_err(|error| self.malformed(error))?;
        upcast::decode(
            &envelope.event_type,
            self.headers.version,
            envelope.data.get(),
        )
        .map_err(|error| error.to_string())
    }

    fn is_todays(&self) -> bool {
        CATALOGUE.contains(&(self.headers.event_type.as_str(), self.headers.version))
    }

    fn malformed(&self, error: serde_json::Error) -> String {
        format!(
            "the record of `{}` does not decode: {}",
            self.headers.event_type,
            Misfit::from(error)
        )
    }
}

#[cfg(test)]
mod tests {
    use socialhub_domain::{StreamId, Timestamp};

    use super::*;
    use crate::event::Metadata;

    fn recorded(event_type: &str, version: u32, payload: &str) -> RecordedEvent {
        RecordedEvent {
            position: 42,
            event_id: Uuid::from_u128(7),
            stream: StreamId::new("post", "1"),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version: version,
            payload: payload.to_owned(),
            metadata: Metadata {
                occurred_at: Timestamp(1_700_000_000_123),
                traceparent: Some("00-1-2-01".to_owned()),
                ..Metadata::default()
            },
            damage: None,
        }
    }

    const LIKED: &str = r#"{"postId":"00000000-0000-0000-0000-000000000001","postAuthorId":
        "00000000-0000-0000-0000-000000000002","likerId":"00000000-0000-0000-0000-000000000003",
        "likerUsername":"ann","timestamp":5}"#;

    #[test]
    fn the_value_is_the_public_json_and_the_key_is_the_catalogues() {
        let record = WireRecord::of(&recorded("post.liked", 1, LIKED), 40).unwrap();
        assert_eq!(record.topic, Topic::Post);
        assert_eq!(record.key, "00000000-0000-0000-0000-000000000001");
        let value: serde_json::Value = serde_json::from_str(&record.value).unwrap();
        assert_eq!(value["eventType"], "post.liked");
        assert_eq!(
            value["data"],
            serde_json::from_str::<serde_json::Value>(LIKED).unwrap()
        );
    }

    #[test]
    fn the_headers_are_those_of_cloudevents_and_our_own() {
        let record = WireRecord::of(&recorded("post.liked", 1, LIKED), 40).unwrap();
        let pairs: BTreeMap<&str, String> = record.headers.pairs().into_iter().collect();
        let found: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("ce_id", "00000000-0000-0000-0000-000000000007"),
                ("ce_source", "/socialhub"),
                ("ce_specversion", "1.0"),
                ("ce_time", "2023-11-14T22:13:20.123Z"),
                ("ce_type", "post.liked"),
                ("content-type", "application/json"),
                ("socialhub-position", "42"),
                ("socialhub-prev", "40"),
                ("socialhub-version", "1"),
                ("traceparent", "00-1-2-01"),
            ]
        );
        let bytes = record.headers.pairs();
        let bytes = bytes.iter().map(|(name, value)| (*name, value.as_bytes()));
        assert_eq!(WireHeaders::parse(bytes), Ok(record.headers.clone()));
    }

    #[test]
    fn what_cannot_be_read_is_published_as_it_is() {
        for (event_type, topic) in [
            ("user.cloned", Topic::User),
            ("notification.eaten", Topic::Notification),
            ("post.exploded", Topic::Post),
            ("nonsense", Topic::Post),
        ] {
            let record = WireRecord::of(&recorded(event_type, 3, "no json"), 0).unwrap();
            assert_eq!((record.topic, record.key.as_str()), (topic, "post/1"));
            assert_eq!(record.value, "no json");
            let reason = record.decode().unwrap_err();
            assert!(reason.contains("unknown event type"), "{reason}");
        }
    }

    #[test]
    fn an_older_shape_on_the_topic_is_lifted() {
        let follow = r#"{"followerId":"00000000-0000-0000-0000-000000000001","followingId":
            "00000000-0000-0000-0000-000000000002","followerUsername":"ann","timestamp":5}"#;
        let mut record = WireRecord::of(&recorded("user.followed", 1, follow), 0).unwrap();
        let lifted = record.decode().unwrap();
        record.value = format!(r#"{{"eventType":"user.followed","data":{follow}}}"#);
        record.headers.version = 1;
        assert_eq!(record.decode(), Ok(lifted));
        record.headers.version = 9;
        assert!(record.decode().unwrap_err().contains("no version 9"));
    }

    #[test]
    fn foreign_records_are_told_apart() {
        let parse = |pairs: &[(&str, &str)]| {
            WireHeaders::parse(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))
        };
        let foreign = |name| Err(Foreign(name));
        assert_eq!(parse(&[]), foreign("socialhub-position"));
        assert_eq!(
            parse(&[("ce_id", "x"), ("socialhub-position", "1")]),
            foreign("socialhub-prev")
        );
        for position in ["-1", "0", "first"] {
            let found = parse(&[("socialhub-position", position)]);
            assert_eq!(found, foreign("socialhub-position"));
        }
    }
}
