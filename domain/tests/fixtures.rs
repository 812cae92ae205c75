//! Events as they were once written stay readable for ever: one fixture for each type and version ever published.
//!
//! A fixture is never changed: what it holds may stand in somebody's log. A new version of an event gets a new file.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;
use socialhub_domain::{
    Event,
    event::CATALOGUE,
    upcast::{self, ChainError, DecodeError, Upcaster, check_chain},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn fixture(event_type: &str, version: u32) -> Option<String> {
    fs::read_to_string(folder().join(format!("{event_type}.v{version}.json"))).ok()
}

/// Every version ever written of every type.
fn versions() -> impl Iterator<Item = (&'static str, u32)> {
    CATALOGUE
        .iter()
        .flat_map(|(event_type, today)| (1..=*today).map(move |version| (*event_type, version)))
}

#[test]
fn every_version_has_a_fixture_and_decodes() {
    for (event_type, version) in versions() {
        let payload = fixture(event_type, version);
        let payload = payload.unwrap_or_else(|| panic!("no fixture: {event_type}.v{version}.json"));
        let event = upcast::decode(event_type, version, &payload)
            .unwrap_or_else(|error| panic!("{event_type}.v{version}.json: {error}"));
        assert_eq!(event.event_type(), event_type);
    }
}

#[test]
fn every_fixture_is_of_the_catalogue() {
    let wanted: BTreeSet<String> = versions()
        .map(|(event_type, version)| format!("{event_type}.v{version}.json"))
        .collect();
    let found: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, wanted);
}

/// The other half of the promise: what is written today is what the fixture of today's version says, to the field.
#[test]
fn todays_shape_is_the_fixtures_shape() {
    for (event_type, today) in CATALOGUE {
        let payload = fixture(event_type, *today).unwrap();
        let event = upcast::decode(event_type, *today, &payload).unwrap();
        let written: Value = serde_json::from_str(&event.to_payload().unwrap()).unwrap();
        let fixture: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(written, fixture, "{event_type}");
    }
}

#[test]
fn the_public_json_is_type_and_data() {
    for (event_type, today) in CATALOGUE {
        let payload = fixture(event_type, *today).unwrap();
        let event = upcast::decode(event_type, *today, &payload).unwrap();
        let public = serde_json::to_value(&event).unwrap();
        let data: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(
            public,
            serde_json::json!({"eventType": event_type, "data": data})
        );
        assert_eq!(serde_json::from_value::<Event>(public).unwrap(), event);
    }
}

#[test]
fn old_posts_are_public_and_without_files() {
    let payload = fixture("post.created", 1).unwrap();
    let Event::PostCreated(post) = upcast::decode("post.created", 1, &payload).unwrap() else {
        panic!("not a post");
    };
    assert_eq!(post.visibility.as_str(), "public");
    assert!(post.media.is_empty());
}

#[test]
fn old_follows_do_not_ask_to_be_told() {
    let payload = fixture("user.followed", 1).unwrap();
    let Event::UserFollowed(follow) = upcast::decode("user.followed", 1, &payload).unwrap() else {
        panic!("not a follow");
    };
    assert!(!follow.notify);
}

#[test]
fn what_cannot_be_read_says_why() {
    let decode = upcast::decode;
    assert!(matches!(
        decode("post.exploded", 1, "{}"),
        Err(DecodeError::UnknownType(_))
    ));
    for version in [0, 3, u32::MAX] {
        let unknown = decode("post.created", version, "{}");
        assert!(matches!(unknown, Err(DecodeError::UnknownVersion { .. })));
    }
    for payload in ["", "{}", "[]", "null", "{\"postId\": 1}"] {
        for version in [1, 2] {
            let malformed = decode("post.created", version, payload);
            assert!(matches!(malformed, Err(DecodeError::Malformed { .. })));
        }
    }
}

fn step(event_type: &'static str, from: u32) -> Upcaster {
    Upcaster {
        event_type,
        from,
        lift: |_| {},
    }
}

#[test]
fn the_real_chain_is_whole() {
    assert_eq!(upcast::check(), Ok(()));
}

#[test]
fn a_gap_is_found() {
    let catalogue = [("a", 3)];
    let steps = [step("a", 1), step("a", 2)];
    assert_eq!(check_chain(&catalogue, &steps), Ok(()));
    let gap = ChainError::Gap {
        event_type: "a".into(),
        from: 2,
    };
    assert_eq!(check_chain(&catalogue, &steps[..1]), Err(gap));
}

#[test]
fn a_duplicate_is_found() {
    let steps = [step("a", 1), step("a", 1)];
    let duplicate = ChainError::Duplicate {
        event_type: "a".into(),
        from: 1,
    };
    assert_eq!(check_chain(&[("a", 2)], &steps), Err(duplicate));
}

#[test]
fn a_step_that_leads_nowhere_is_found() {
    for stray in [step("a", 0), step("a", 2), step("b", 1)] {
        let error = ChainError::Stray {
            event_type: stray.event_type.into(),
            from: stray.from,
        };
        let steps = [step("a", 1), stray];
        assert_eq!(check_chain(&[("a", 2)], &steps), Err(error));
    }
}
