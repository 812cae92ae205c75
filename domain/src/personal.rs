//! Which fields of which events are personal, whose they are, and what stands in their place when they are gone.
//!
//! The log keeps each of these fields sealed with the key of the person it is about. When that person is erased the key is
//! destroyed, and whoever reads the log finds the field's [`Tombstone`]. One rule a kind of field:
//!
//! | field | tombstone |
//! |---|---|
//! | names, usernames, texts of posts and comments | the text [`ERASED_TEXT`] |
//! | self-description, picture | the empty text, which removes them |
//! | files | the empty list |
//!
//! `user.erased` makes the read models write exactly these, so a model that saw the clear text and one that was rebuilt
//! afterwards are the same.

use std::{collections::HashMap, sync::OnceLock};

use crate::{
    UserId,
    event::{Event, PERSONAL},
    schema::camel_case,
};

/// What stands where a name or a text was.
pub const ERASED_TEXT: &str = "[erased]";

/// What stands in the place of a personal field that cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tombstone {
    /// [`ERASED_TEXT`].
    Text,
    /// Empty text: as if it had been removed.
    Removed,
    /// The empty list.
    NoFiles,
}

impl Tombstone {
    /// The JSON that stands in the field's place.
    pub fn json(self) -> &'static str {
        match self {
            Self::Text => "\"[erased]\"",
            Self::Removed => "\"\"",
            Self::NoFiles => "[]",
        }
    }
}

/// A personal field as the catalogue marks it, by Rust names.
pub(crate) struct MarkedField {
    pub(crate) field: &'static str,
    pub(crate) owner: &'static str,
    pub(crate) tombstone: Tombstone,
}

/// A personal field of an event's data, by its names on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalField {
    /// The field, e.g. `followerUsername`.
    pub field: String,
    /// The field that names whose it is, e.g. `followerId`.
    pub owner: String,
    /// What stands in its place once it cannot be read.
    pub tombstone: Tombstone,
}

type Fields = HashMap<&'static str, Vec<PersonalField>>;

fn catalogue() -> &'static Fields {
    static CATALOGUE: OnceLock<Fields> = OnceLock::new();
    let named = |marked: &MarkedField| PersonalField {
        field: camel_case(marked.field),
        owner: camel_case(marked.owner),
        tombstone: marked.tombstone,
    };
    CATALOGUE.get_or_init(|| {
        PERSONAL
            .iter()
            .map(|(event_type, fields)| (*event_type, fields.iter().map(named).collect()))
            .collect()
    })
}

/// The personal fields of a type of event, in every version of it; none for a type that the catalogue does not have.
pub fn fields_of(event_type: &str) -> &'static [PersonalField] {
    catalogue().get(event_type).map_or(&[], Vec::as_slice)
}

/// Every type of event that has personal fields, with them.
pub fn all() -> impl Iterator<Item = (&'static str, &'static [PersonalField])> {
    PERSONAL
        .iter()
        .map(|(event_type, _)| (*event_type, fields_of(event_type)))
        .filter(|(_, fields)| !fields.is_empty())
}

/// The event as it reads when the keys of some people are gone.
pub fn redacted(event: &Event, erased: impl Fn(UserId) -> bool) -> Event {
    let text = |field: &mut String| ERASED_TEXT.clone_into(field);
    let mut event = event.clone();
    match &mut event {
        Event::UserRegistered(data) if erased(data.user_id) => {
            text(&mut data.username);
            text(&mut data.name);
        }
        Event::UserProfileUpdated(data) if erased(data.user_id) => {
            data.name.iter_mut().for_each(text);
            data.bio.iter_mut().for_each(String::clear);
            data.avatar.iter_mut().for_each(String::clear);
        }
        Event::UserFollowed(data) if erased(data.follower_id) => text(&mut data.follower_username),
        Event::UserFollowChanged(data) if erased(data.follower_id) => {
            text(&mut data.follower_username);
        }
        Event::UserUnfollowed(data) if erased(data.follower_id) => {
            text(&mut data.follower_username);
        }
        Event::PostCreated(data) if erased(data.user_id) => {
            text(&mut data.username);
            text(&mut data.content);
            data.media.clear();
        }
        Event::PostLiked(data) if erased(data.liker_id) => text(&mut data.liker_username),
        Event::PostUnliked(data) if erased(data.liker_id) => text(&mut data.liker_username),
        Event::PostCommented(data) if erased(data.commenter_id) => {
            text(&mut data.commenter_username);
            text(&mut data.comment);
        }
        _ => {}
    }
    event
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::Value;

    use super::*;
    use crate::{event::CATALOGUE, upcast};

    fn fixture(event_type: &str, version: u32) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("fixtures/{event_type}.v{version}.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Texts that are not personal: ids, and what comes of a fixed set of words.
    const PLAIN: &[&str] = &["visibility"];

    #[test]
    fn every_text_and_list_of_every_event_is_personal_or_an_id() {
        for (event_type, today) in CATALOGUE {
            let fixture = fixture(event_type, *today);
            for (name, value) in fixture.as_object().unwrap() {
                let id = value
                    .as_str()
                    .is_some_and(|text| text.parse::<uuid::Uuid>().is_ok());
                if id || PLAIN.contains(&name.as_str()) || value.is_number() || value.is_boolean() {
                    continue;
                }
                let marked = fields_of(event_type)
                    .iter()
                    .any(|field| &field.field == name);
                assert!(marked, "{event_type}: {name} says nothing of whose it is");
            }
        }
    }

    #[test]
    fn whose_a_field_is_stands_in_the_same_event() {
        let mut seen = 0;
        for (event_type, fields) in all() {
            let version = CATALOGUE
                .iter()
                .find(|(name, _)| *name == event_type)
                .unwrap()
                .1;
            for version in 1..=version {
                for field in fields {
                    let owner = &fixture(event_type, version)[&field.owner];
                    let id = owner.as_str().unwrap().parse::<UserId>();
                    assert!(id.is_ok(), "{event_type} {version}: {}", field.field);
                    seen += 1;
                }
            }
        }
        assert!(seen > 15);
        assert_eq!(
            fields_of("post.commented")[0],
            PersonalField {
                field: "commenterUsername".to_owned(),
                owner: "commenterId".to_owned(),
                tombstone: Tombstone::Text,
            }
        );
        assert!(fields_of("post.exploded").is_empty());
    }

    /// Reading a payload with its personal fields replaced gives what [`redacted`] makes of the clear event.
    #[test]
    fn tombstones_in_the_payload_are_those_of_the_event() {
        for (event_type, today) in CATALOGUE {
            for version in 1..=*today {
                let mut payload = fixture(event_type, version);
                let read = |payload: &Value| {
                    upcast::decode(event_type, version, &payload.to_string()).unwrap()
                };
                let clear = read(&payload);
                for field in fields_of(event_type) {
                    if let Some(value) = payload.get_mut(&field.field) {
                        *value = serde_json::from_str(field.tombstone.json()).unwrap();
                    }
                }
                assert_eq!(redacted(&clear, |_| true), read(&payload), "{event_type}");
                assert_eq!(redacted(&clear, |_| false), clear);
            }
        }
    }
}
