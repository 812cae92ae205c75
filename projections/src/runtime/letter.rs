//! What a letter keeps of its event: nothing personal, since it may outlive the person. Retrying reads the log.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::OnceLock,
};

use serde_json::{Map, Value};
use socialhub_domain::{
    event::CATALOGUE,
    personal::{ERASED_TEXT, redacted},
    schema,
};
use uuid::Uuid;

use crate::record::PublicRecord;

/// The event as a letter shows it.
pub(super) fn raw(record: &PublicRecord) -> String {
    match &record.event {
        // Every event is made of strings, numbers and lists: this cannot fail.
        Ok(event) => serde_json::to_string(&redacted(event, |_| true)).unwrap_or_default(),
        Err(undecodable) => match serde_json::from_str(&undecodable.raw) {
            Ok(mut data) => {
                hide(&mut data, false);
                data.to_string()
            }
            // Somebody wrote it past the program.
            Err(_) => format!("no JSON, of length {}", undecodable.raw.len()),
        },
    }
}

/// Hides whatever may be personal: of an event that cannot be read it is not known what is. What stays are ids, types of
/// events, the names of fields that the catalogue has, and numbers where the catalogue has them.
fn hide(data: &mut Value, number_stays: bool) {
    match data {
        Value::String(text) => {
            let known = CATALOGUE.iter().any(|(name, _)| name == text);
            if !known && Uuid::try_parse(text).is_err() {
                ERASED_TEXT.clone_into(text);
            }
        }
        Value::Number(_) if !number_stays => *data = Value::from(ERASED_TEXT),
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, false)),
        Value::Object(members) => {
            for (nth, (name, mut member)) in std::mem::take(members).into_iter().enumerate() {
                let known = known_fields().get(&name);
                hide(&mut member, known.is_some_and(|field| field.is_number));
                let name = match known {
                    Some(_) => name,
                    None => format!("{ERASED_TEXT} {nth}"),
                };
                members.insert(name, member);
            }
        }
        Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

/// A field that the catalogue has somewhere.
struct KnownField {
    /// Whether it is a number wherever it is.
    is_number: bool,
}

fn known_fields() -> &'static HashMap<String, KnownField> {
    static KNOWN: OnceLock<HashMap<String, KnownField>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = HashMap::new();
        for schema in schema::all().unwrap_or_default() {
            collect(&schema.value, &mut known);
            collect(schema.data(), &mut known);
        }
        known
    })
}

fn collect(schema: &Value, known: &mut HashMap<String, KnownField>) {
    let nothing = Map::new();
    let fields = schema["properties"].as_object().unwrap_or(&nothing);
    for (name, field) in fields {
        let is_number = field["type"] == "integer";
        match known.entry(name.clone()) {
            Entry::Occupied(mut found) => found.get_mut().is_number &= is_number,
            Entry::Vacant(place) => {
                place.insert(KnownField { is_number });
            }
        }
        collect(field, known);
        collect(&field["items"], known);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::json;
    use socialhub_domain::{StreamId, testing::id};
    use socialhub_event_log::{Metadata, RecordedEvent, WireRecord};

    use super::*;

    /// What nobody but the person may know, as text and as a number.
    const WORD: &str = "qlorsecret";
    const NUMBER: u64 = 4_915_112_345_678;

    fn recorded(event_type: &str, event_version: u32, payload: &str) -> RecordedEvent {
        RecordedEvent {
            position: 7,
            event_id: id(7),
            stream: StreamId::new("post", id(1)),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version,
            payload: payload.to_owned(),
            metadata: Metadata::default(),
            damage: None,
        }
    }

    /// What a letter keeps of it, and why it was parked if it cannot be read, whichever way it came.
    fn kept(recorded: &RecordedEvent) -> (String, Option<String>) {
        let from_wire = PublicRecord::from_wire(WireRecord::of(recorded, 3).unwrap());
        assert_eq!(from_wire, PublicRecord::from_log(recorded));
        let reason = from_wire.event.as_ref().err();
        (raw(&from_wire), reason.map(|why| why.reason.clone()))
    }

    /// Answers whether it could not be read.
    #[track_caller]
    fn assert_nothing_personal(event_type: &str, version: u32, payload: &str) -> bool {
        let (raw, reason) = kept(&recorded(event_type, version, payload));
        let unreadable = reason.is_some();
        for told in [raw, reason.unwrap_or_default()] {
            let told = told.to_lowercase();
            let secret = told.contains(WORD) || told.contains(&NUMBER.to_string());
            assert!(!secret, "{event_type} {version}: {payload}: {told}");
        }
        unreadable
    }

    fn fixtures() -> Vec<(&'static str, u32, Value)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../domain/fixtures");
        let versions = CATALOGUE.iter().flat_map(|(event_type, today)| {
            (1..=*today).map(move |version| (*event_type, version))
        });
        versions
            .map(|(event_type, version)| {
                let file = folder.join(schema::file_name(event_type, version));
                let text = fs::read_to_string(file).unwrap();
                (event_type, version, serde_json::from_str(&text).unwrap())
            })
            .collect()
    }

    #[test]
    fn whatever_stands_in_a_field_a_letter_says_nothing_personal() {
        let secrets = [
            json!(WORD),
            json!(NUMBER.to_string()),
            json!([WORD, NUMBER]),
            json!({ WORD: NUMBER, "name": WORD, "media": { NUMBER.to_string(): WORD } }),
        ];
        let mut unreadable = 0;
        for (event_type, version, fixture) in fixtures() {
            let names = fixture.as_object().unwrap().keys().cloned();
            for name in names.chain([WORD.to_owned()]) {
                for secret in &secrets {
                    let mut payload = fixture.clone();
                    payload[&name] = secret.clone();
                    let payload = payload.to_string();
                    unreadable += u32::from(assert_nothing_personal(event_type, version, &payload));
                    // By a program that does not know the version, and of a type that nobody knows.
                    assert!(assert_nothing_personal(event_type, 99, &payload));
                    assert!(assert_nothing_personal("post.shouted", 1, &payload));
                }
            }
        }
        assert!(unreadable > 100, "{unreadable}");
    }

    #[test]
    fn neither_does_one_of_a_text_that_is_no_event() {
        for payload in [
            WORD.to_owned(),
            format!("{{\"comment\": \"{WORD}\", \"postId\": {NUMBER}"),
            format!("\"{WORD}\""),
            NUMBER.to_string(),
            format!("[\"{WORD}\", {NUMBER}]"),
        ] {
            assert!(assert_nothing_personal("post.commented", 1, &payload));
        }
        let (raw, reason) = kept(&recorded("post.commented", 1, "{\n\"a"));
        assert_eq!(raw, "no JSON, of length 4");
        let reason = reason.unwrap();
        assert!(
            reason.ends_with("does not decode: it ends too early at line 2, column 2"),
            "{reason}"
        );
    }

    #[test]
    fn what_helps_whoever_mends_it_stays() {
        for (event_type, version, fixture) in fixtures() {
            let (raw, _) = kept(&recorded(event_type, version + 90, &fixture.to_string()));
            let raw: Value = serde_json::from_str(&raw).unwrap();
            let (found, wanted) = (raw.as_object().unwrap(), fixture.as_object().unwrap());
            assert!(found.keys().eq(wanted.keys()), "{event_type}: {raw}");
            assert_eq!(found["timestamp"], wanted["timestamp"]);
            for (name, value) in wanted.iter().filter(|(name, _)| name.ends_with("Id")) {
                assert_eq!(&found[name], value, "{event_type}: {name}");
            }
        }
    }
}
