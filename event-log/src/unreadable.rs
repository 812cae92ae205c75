//! Where an event belongs that this program cannot read.
//!
//! It is parked by its readers, and later events of its sequence behind it; so it must have the sequence's own key, as far as
//! that can be found out: they would overtake it otherwise.

use socialhub_domain::{
    Aggregate, StreamId, follow::Follow, post::Post, reaction::Reaction, topic::Topic, user::User,
};
use uuid::Uuid;

use crate::{event::RecordedEvent, json_fields::JsonFields};

/// The topic of an event, by its type's name.
pub(crate) fn topic_of(event_type: &str) -> Topic {
    match event_type.split_once('.') {
        Some(("user", _)) => Topic::User,
        Some(("notification", _)) => Topic::Notification,
        _ => Topic::Post,
    }
}

/// What an event is ordered by on its topic: as its data says, even if the rest of them says nothing; else as its stream
/// does; else its stream alone.
pub(crate) fn key_of(topic: Topic, recorded: &RecordedEvent) -> String {
    in_data(topic, &recorded.payload)
        .or_else(|| in_stream(topic, &recorded.stream))
        .map_or_else(|| recorded.stream.to_string(), |id| id.to_string())
}

/// The fields that events of a topic are ordered by: the first that is there.
fn key_fields(topic: Topic) -> &'static [&'static str] {
    match topic {
        Topic::Post => &["postId"],
        Topic::User => &["followingId", "userId"],
        Topic::Notification => &["userId"],
    }
}

fn in_data(topic: Topic, payload: &str) -> Option<Uuid> {
    let fields = JsonFields::parse(payload)?;
    let name = key_fields(topic)
        .iter()
        .find(|name| fields.get(name).is_some())?;
    fields.parsed(name)
}

fn in_stream(topic: Topic, stream: &StreamId) -> Option<Uuid> {
    let id = stream.aggregate_id.as_str();
    let text = match (topic, stream.aggregate_type.as_str()) {
        (Topic::Post, Post::TYPE) | (Topic::User, User::TYPE) => id,
        (Topic::Post, Reaction::TYPE) => id.split_once(':')?.0,
        (Topic::User, Follow::TYPE) => id.split_once(':')?.1,
        _ => return None,
    };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use socialhub_domain::{PostId, UserId, event::CATALOGUE, testing::id, upcast};

    use super::*;
    use crate::event::Metadata;

    fn recorded(event_type: &str, stream: StreamId, payload: &str) -> RecordedEvent {
        RecordedEvent {
            position: 7,
            event_id: Uuid::from_u128(7),
            stream,
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version: 1,
            payload: payload.to_owned(),
            metadata: Metadata::default(),
            damage: None,
        }
    }

    /// What is said without reading the event is what is said of every event that can be read.
    #[test]
    fn topic_and_key_are_the_catalogues() {
        for (event_type, today) in CATALOGUE {
            for version in 1..=*today {
                let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join(format!("../domain/fixtures/{event_type}.v{version}.json"));
                let payload = fs::read_to_string(path).unwrap();
                let event = upcast::decode(event_type, version, &payload).unwrap();
                let topic = topic_of(event_type);
                assert_eq!(topic, event.topic(), "{event_type}");
                let found = in_data(topic, &payload);
                assert_eq!(found, Some(event.key()), "{event_type} {version}");
            }
        }
    }

    #[test]
    fn a_stream_tells_when_the_data_do_not() {
        let (post, user, other) = (PostId(id(1)), UserId(id(2)), UserId(id(3)));
        for (event_type, stream, key) in [
            ("post.created", Post::stream(post), id(1)),
            ("post.liked", Reaction::stream(post, user), id(1)),
            ("user.renamed", User::stream(user), id(2)),
            ("user.followed", Follow::stream(user, other), id(3)),
        ] {
            for payload in ["no json", "{}", r#"{"postId":7,"followingId":"x"}"#] {
                let event = recorded(event_type, stream.clone(), payload);
                let found = key_of(topic_of(event_type), &event);
                assert_eq!(found, key.to_string(), "{event_type} {payload}");
            }
        }
    }

    #[test]
    fn else_it_is_alone_with_its_stream() {
        for (kind, of) in [("comment", "1"), ("post", "1"), ("reaction", "1")] {
            let event = recorded("post.exploded", StreamId::new(kind, of), "{");
            assert_eq!(key_of(Topic::Post, &event), format!("{kind}/{of}"));
        }
    }
}
