//! A record as a row: what it says, without anything that says who somebody is.
//!
//! The rule is a list of what may stay, not of what must go: ids, numbers, switches, and words of fixed sets. A field that
//! somebody adds and forgets to think about is left out. Of an event that cannot be read nothing is known, so nothing of
//! its data is kept.

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Map, Value};
use socialhub_domain::{Event, Timestamp, personal};
use socialhub_event_log::{Position, WireRecord};
use uuid::Uuid;

use crate::store::Source;

/// Fields whose text is of a fixed set of words.
const WORDS: &[&str] = &["visibility"];
/// Who acted, by the first of these fields that an event has.
const ACTORS: &[&str] = &[
    "likerId",
    "commenterId",
    "followerId",
    "deletedBy",
    "userId",
];
/// Whom it concerns besides.
const TARGETS: &[&str] = &["postAuthorId", "followingId"];
/// The date of what has no time.
const NO_DATE: &str = "1970-01-01";
/// The longest type name that a folder is called by.
const TYPE_NAME: usize = 64;

/// One event, as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place in the log.
    pub position: Position,
    /// Its own id.
    pub event_id: Uuid,
    /// The public type name.
    pub event_type: String,
    /// The version of its data.
    pub version: u32,
    /// The topic.
    pub topic: String,
    /// The topic's partition.
    pub partition: i32,
    /// Its offset there; none when it was read from the log, because the topic did not have it any more.
    pub offset: Option<i64>,
    /// The record key.
    pub key: String,
    /// When it happened.
    pub occurred_at: Option<Timestamp>,
    /// Who acted.
    pub actor_id: Option<Uuid>,
    /// Whom it concerns: the post's author, the person who is followed.
    pub target_id: Option<Uuid>,
    /// The post.
    pub post_id: Option<Uuid>,
    /// The comment.
    pub comment_id: Option<Uuid>,
    /// What may be kept of its data, as JSON; none when it cannot be read.
    pub payload: Option<String>,
}

impl Row {
    /// The row of a record of a partition.
    pub fn of(record: &WireRecord, source: &Source, offset: Option<i64>) -> Self {
        let headers = &record.headers;
        let decoded = record.decode().ok();
        let version = decoded
            .as_ref()
            .map_or(headers.version, Event::event_version);
        let data = decoded.and_then(|event| impersonal(&event));
        let id = |names: &[&str]| {
            let found = names.iter().find_map(|name| data.as_ref()?.get(*name));
            found?.as_str()?.parse().ok()
        };
        let happened = data
            .as_ref()
            .and_then(|data| data.get("timestamp")?.as_i64());
        Self {
            position: headers.position,
            event_id: headers.event_id,
            event_type: headers.event_type.clone(),
            version,
            topic: source.name.clone(),
            partition: source.partition,
            offset,
            key: record.key.clone(),
            occurred_at: happened
                .or_else(|| millis(headers.time.as_deref()?))
                .map(Timestamp),
            actor_id: id(ACTORS),
            target_id: id(TARGETS),
            post_id: id(&["postId"]),
            comment_id: id(&["commentId"]),
            payload: data.map(|data| Value::Object(data).to_string()),
        }
    }

    /// The day it happened, in UTC, as its folder is called.
    pub fn date(&self) -> String {
        date(self.occurred_at)
    }

    /// The type as its folder is called.
    pub fn folder(&self) -> &str {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let name = self.event_type.as_str();
        let fits = !name.is_empty() && name.len() <= TYPE_NAME && name.chars().all(plain);
        if fits && !name.starts_with('.') {
            name
        } else {
            "other"
        }
    }

    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        let texts = self.event_type.len() + self.topic.len() + self.key.len();
        size_of::<Self>() + texts + self.payload.as_ref().map_or(0, String::len)
    }
}

/// The day of a moment, in UTC; a moment outside of the years that four digits can say has none.
pub fn date(moment: Option<Timestamp>) -> String {
    let moment = moment.and_then(|moment| DateTime::<Utc>::from_timestamp_millis(moment.0));
    match moment.filter(|moment| (1970..=9999).contains(&moment.year())) {
        Some(moment) => moment.format("%Y-%m-%d").to_string(),
        None => NO_DATE.to_owned(),
    }
}

fn millis(time: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(time).ok()?;
    Some(time.timestamp_millis())
}

/// What may be kept of an event's data.
fn impersonal(event: &Event) -> Option<Map<String, Value>> {
    let Ok(Value::Object(mut envelope)) = serde_json::to_value(event) else {
        return None;
    };
    let Some(Value::Object(mut data)) = envelope.remove("data") else {
        return None;
    };
    let personal = personal::fields_of(event.event_type());
    data.retain(|name, _| name == "media" || !personal.iter().any(|field| field.field == *name));
    let files = data.get("media").and_then(Value::as_array).map(Vec::len);
    data.retain(|name, value| match value {
        Value::Number(_) | Value::Bool(_) => true,
        Value::String(text) => WORDS.contains(&name.as_str()) || is_id(text),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    });
    if let Some(files) = files {
        data.insert("mediaCount".to_owned(), files.into());
    }
    Some(data)
}

fn is_id(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use socialhub_domain::{StreamId, event::CATALOGUE};
    use socialhub_event_log::{Metadata, RecordedEvent};

    use super::*;

    fn row(event_type: &str, version: u32, payload: &str) -> Row {
        let recorded = RecordedEvent {
            position: 7,
            event_id: Uuid::from_u128(9),
            stream: StreamId::new("post", "1"),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version: version,
            payload: payload.to_owned(),
            metadata: Metadata {
                occurred_at: Timestamp(1_700_000_000_123),
                ..Metadata::default()
            },
            damage: None,
        };
        let record = WireRecord::of(&recorded, 3).unwrap();
        Row::of(&record, &Source::partition("POST_TOPIC", 2), Some(11))
    }

    fn fixture(event_type: &str, version: u32) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../domain/fixtures/{event_type}.v{version}.json"));
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn no_text_of_any_event_is_kept_but_ids_and_fixed_words() {
        for (event_type, version) in CATALOGUE {
            let text = fixture(event_type, *version);
            let found = row(event_type, *version, &text);
            let payload: Map<String, Value> =
                serde_json::from_str(found.payload.as_deref().unwrap()).unwrap();
            let whole: Map<String, Value> = serde_json::from_str(&text).unwrap();
            for (name, value) in &payload {
                match value {
                    Value::String(text) if !is_id(text) => {
                        assert!(["public", "followers", "private"].contains(&text.as_str()));
                    }
                    Value::String(_) | Value::Number(_) | Value::Bool(_) => {}
                    other => panic!("{event_type}: {name} is {other}"),
                }
            }
            for (name, value) in whole {
                let kept = payload.get(&name) == Some(&value);
                let id = value.as_str().is_some_and(is_id);
                let free = value.is_number() || value.is_boolean() || id || name == "visibility";
                assert_eq!(kept, free, "{event_type}: {name}");
            }
            for field in personal::fields_of(event_type) {
                assert!(
                    !payload.contains_key(&field.field),
                    "{event_type}: {}",
                    field.field
                );
            }
            assert!(found.actor_id.is_some(), "{event_type}");
        }
    }

    #[test]
    fn columns_are_those_that_questions_ask_for() {
        let liked = row("post.liked", 1, &fixture("post.liked", 1));
        let data: Value = serde_json::from_str(&fixture("post.liked", 1)).unwrap();
        let id = |name: &str| data[name].as_str().map(|text| text.parse().unwrap());
        assert_eq!(liked.actor_id, id("likerId"));
        assert_eq!(liked.target_id, id("postAuthorId"));
        assert_eq!(liked.post_id, id("postId"));
        assert_eq!(
            liked.occurred_at.unwrap().0,
            data["timestamp"].as_i64().unwrap()
        );
        let created = row("post.created", 1, &fixture("post.created", 1));
        assert_eq!((created.version, created.target_id), (2, None));
        assert!(created.payload.unwrap().contains("\"mediaCount\":0"));
    }

    #[test]
    fn of_what_cannot_be_read_its_place_and_type_are_kept() {
        let secret = r#"{"phone":"555 1234","userId":"00000000-0000-0000-0000-000000000001"}"#;
        let unknown = row("user.cloned", 3, secret);
        assert_eq!(unknown.payload, None);
        assert_eq!(unknown.folder(), "user.cloned");
        assert_eq!(unknown.date(), "2023-11-14");
        assert!(!format!("{unknown:?}").contains("555"));
        for odd in ["", "../..", "Post=1", "a/b", &"x".repeat(65)] {
            assert_eq!(row(odd, 1, "no json").folder(), "other", "{odd}");
        }
    }

    #[test]
    fn a_moment_beyond_all_dates_has_none() {
        assert_eq!(date(Some(Timestamp(i64::MAX))), NO_DATE);
        assert_eq!(date(Some(Timestamp(-1))), NO_DATE);
        assert_eq!(date(None), NO_DATE);
        assert_eq!(date(Some(Timestamp(86_400_000))), "1970-01-02");
    }
}
