use std::{collections::BTreeSet, fs, path::Path};

use super::{
    compat::{Change, Class, check},
    *,
};
use crate::upcast;

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn released(event_type: &str, version: u32) -> Value {
    let path = folder("schemas/released").join(file_name(event_type, version));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}: copy it there from docs/contract/schemas when the version is released",
            path.display()
        )
    });
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn assert_compatible(released: &Value, new: &Value, change: Change) {
    let mut found = check(released, new, change);
    found.retain(|finding| finding.class == Class::Breaks);
    assert!(found.is_empty(), "{}: {found:#?}", new["title"]);
}

#[test]
fn every_version_of_every_event_has_a_schema() {
    let found: Vec<_> = all()
        .unwrap()
        .iter()
        .map(|schema| (schema.event_type, schema.version, schema.current))
        .collect();
    let wanted: Vec<_> = CATALOGUE
        .iter()
        .flat_map(|(event_type, today)| {
            (1..=*today).map(move |version| (*event_type, version, version == *today))
        })
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn todays_schemas_are_compatible_with_the_released_ones() {
    // The others are made of nothing but what was released: what holds them is what was once written.
    for schema in all().unwrap().iter().filter(|schema| schema.current) {
        let released = released(schema.event_type, schema.version);
        assert_compatible(&released, &schema.value, Change::SameVersion);
    }
}

#[test]
fn a_new_version_keeps_what_consumers_of_the_old_one_read() {
    for pair in all().unwrap().windows(2) {
        if pair[0].event_type == pair[1].event_type {
            let mut old = pair[0].value.clone();
            old["$id"] = pair[1].value["$id"].clone();
            assert_compatible(&old, &pair[1].value, Change::NextVersion);
        }
    }
}

#[test]
fn the_folder_of_released_schemas_holds_nothing_else() {
    let found: BTreeSet<String> = fs::read_dir(folder("schemas/released"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let wanted = all().unwrap().iter().map(EventSchema::file_name).collect();
    assert_eq!(found, wanted);
}

/// The value is what the schema says, to the last member and with nothing left out.
#[track_caller]
fn assert_fits(schema: &Value, value: &Value, at: &str) {
    let is_one = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        other => panic!("{at}: this test does not know the type {other:?}"),
    };
    assert!(is_one, "{at}: {value} is no {}", schema["type"]);
    for (rule, wanted) in schema.as_object().unwrap() {
        match rule.as_str() {
            "type" | "description" | "$comment" => {}
            "enum" => assert!(wanted.as_array().unwrap().contains(value), "{at}: {value}"),
            "format" if wanted == "uuid" => {
                assert!(
                    uuid::Uuid::try_parse(value.as_str().unwrap()).is_ok(),
                    "{at}"
                );
            }
            "minimum" => assert!(value.as_i64() >= wanted.as_i64(), "{at}: {value}"),
            "items" => {
                for item in value.as_array().unwrap() {
                    assert_fits(wanted, item, at);
                }
            }
            "properties" => assert_members_fit(wanted, value, at),
            "required" => {
                let has = |name: &Value| value.get(name.as_str().unwrap()).is_some();
                assert!(wanted.as_array().unwrap().iter().all(has), "{at}: {value}");
            }
            other => panic!("{at}: this test does not know `{other}: {wanted}`"),
        }
    }
}

#[track_caller]
fn assert_members_fit(fields: &Value, value: &Value, at: &str) {
    let members = value.as_object().unwrap();
    for (name, member) in members {
        let at = format!("{at}.{name}");
        let field = fields.get(name);
        assert_fits(
            field.unwrap_or_else(|| panic!("{at} is not in the schema")),
            member,
            &at,
        );
    }
    for name in fields.as_object().unwrap().keys() {
        assert!(
            members.contains_key(name),
            "{at}: the fixture has no {name}"
        );
    }
}

fn fixture(schema: &EventSchema) -> Value {
    let text = fs::read_to_string(folder("fixtures").join(schema.file_name())).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What was once released and what was once written cannot be changed one without the other, whoever writes it today or not.
#[test]
fn what_was_ever_written_fits_what_was_released_for_it() {
    for schema in all().unwrap() {
        let released = released(schema.event_type, schema.version);
        let data = &released["$defs"]["data"];
        assert_fits(data, &fixture(&schema), &schema.file_name());
    }
}

/// Upcasters lift what was written into what was released for the next version, and lose nothing of it on the way.
#[test]
fn what_was_once_written_is_lifted_into_every_later_version_and_nothing_is_lost() {
    for schema in all().unwrap().iter().filter(|schema| !schema.current) {
        let old = fixture(schema);
        let name = schema.file_name();
        let mut lifted = old.clone();
        for step in upcast::UPCASTERS {
            if step.event_type == schema.event_type && step.from >= schema.version {
                (step.lift)(lifted.as_object_mut().unwrap());
                let next = released(step.event_type, step.from + 1);
                assert_fits(&next["$defs"]["data"], &lifted, &name);
            }
        }
        let read = upcast::decode(schema.event_type, schema.version, &old.to_string()).unwrap();
        let read: Value = serde_json::from_str(&read.to_payload().unwrap()).unwrap();
        assert_eq!(read, lifted, "{name}");
        for (field, value) in old.as_object().unwrap() {
            assert_eq!(&read[field], value, "{name}: {field}");
        }
    }
}

#[test]
fn what_is_written_fits_its_schema() {
    for schema in all().unwrap().iter().filter(|schema| schema.current) {
        let payload = fixture(schema).to_string();
        let event = upcast::decode(schema.event_type, schema.version, &payload).unwrap();
        let written: Value = serde_json::from_str(&event.to_payload().unwrap()).unwrap();
        assert_fits(schema.data(), &written, schema.event_type);
        let key = written[&schema.key].as_str().unwrap();
        assert_eq!(key, event.key().to_string());
        assert_eq!(schema.topic, event.topic());
    }
}

#[test]
fn the_audiences_are_all_there() {
    for visibility in [
        Visibility::Public,
        Visibility::Followers,
        Visibility::Private,
    ] {
        // One that is not listed here does not compile: list it here and in its schema.
        match visibility {
            Visibility::Public | Visibility::Followers | Visibility::Private => {}
        }
        let name = serde_json::to_value(visibility).unwrap();
        let names = &Visibility::schema()["enum"];
        assert!(names.as_array().unwrap().contains(&name), "{name}");
    }
}

#[test]
fn a_schema_says_what_its_type_says() {
    let schemas = all().unwrap();
    let find = |wanted| schemas.iter().find(|s| s.event_type == wanted).unwrap();
    let update = find("user.profile_updated");
    assert_eq!(update.data()["required"], json!(["userId", "timestamp"]));
    assert_eq!(
        update.value["properties"]["eventType"],
        json!({"const": "user.profile_updated"})
    );
    let marks = find("notification.all_read");
    assert_eq!(marks.key, "userId");
    assert_eq!(
        marks.data()["properties"]["upTo"],
        json!({
            "type": "integer",
            "minimum": 0,
            "description": "The position of the notifications read model when it was asked: later ones stay unread.",
        })
    );
}

#[test]
fn the_text_does_not_depend_on_the_order_of_members() {
    let document: Value = serde_json::from_str(r#"{"b": [{"d": 1, "c": 2}], "a": {}}"#).unwrap();
    let wanted =
        "{\n  \"a\": {},\n  \"b\": [\n    {\n      \"c\": 2,\n      \"d\": 1\n    }\n  ]\n}\n";
    assert_eq!(text(&document), wanted);
}

/// The checker against one change of the post's schema: what it says, in both kinds of change.
#[track_caller]
fn assert_found(edit: impl FnOnce(&mut Value), same: &[&str], next: &[&str]) {
    let schemas = all().unwrap();
    let post = schemas.iter().rfind(|s| s.event_type == "post.created");
    let old = post.unwrap().value.clone();
    let mut new = old.clone();
    edit(&mut new["$defs"]["data"]);
    assert_ne!(old, new);
    for (change, wanted) in [(Change::SameVersion, same), (Change::NextVersion, next)] {
        let found: Vec<_> = check(&old, &new, change)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, wanted, "{change:?}");
    }
}

fn remove(value: &mut Value, name: &str) {
    value.as_object_mut().unwrap().remove(name).unwrap();
}

fn require(data: &mut Value, name: &str) {
    data["required"].as_array_mut().unwrap().push(name.into());
}

#[test]
fn an_optional_field_may_be_added() {
    let add = |data: &mut Value| data["properties"]["language"] = json!({"type": "string"});
    assert_found(add, &[], &[]);
}

#[test]
fn a_new_required_field_is_found_unless_the_version_is_new() {
    let add = |data: &mut Value| {
        data["properties"]["language"] = json!({"type": "string"});
        require(data, "language");
    };
    let found = "data.language: the field is required now, which older data does not satisfy";
    assert_found(add, &[found], &[]);
}

#[test]
fn a_removed_field_is_found() {
    let found = ["data.content: the field was removed"];
    assert_found(
        |data| remove(&mut data["properties"], "content"),
        &found,
        &found,
    );
    let nested = ["data.media[].size: the field was removed"];
    let edit = |data: &mut Value| {
        remove(
            &mut data["properties"]["media"]["items"]["properties"],
            "size",
        );
    };
    assert_found(edit, &nested, &nested);
}

#[test]
fn a_renamed_field_is_found() {
    let rename = |data: &mut Value| {
        let fields = data["properties"].as_object_mut().unwrap();
        let content = fields.remove("content").unwrap();
        fields.insert("text".to_owned(), content);
        *data["required"].as_array_mut().unwrap() = vec!["text".into()];
    };
    let schemas = all().unwrap();
    let old = &schemas
        .iter()
        .rfind(|s| s.event_type == "post.created")
        .unwrap()
        .value;
    let mut new = old.clone();
    rename(&mut new["$defs"]["data"]);
    let found = check(old, &new, Change::NextVersion);
    assert!(
        found.iter().any(|one| one.at == "data.content"),
        "{found:?}"
    );
}

#[test]
fn a_retyped_field_is_found() {
    let found = [r#"data.content: `type` was "string", is "array""#];
    assert_found(
        |data| data["properties"]["content"]["type"] = "array".into(),
        &found,
        &found,
    );
    let format = [r#"data.postId: `format` was "uuid", is nothing"#];
    assert_found(
        |data| remove(&mut data["properties"]["postId"], "format"),
        &format,
        &format,
    );
    let bound = ["data.media[].size: `minimum` was 0, is 1"];
    let edit = |data: &mut Value| {
        data["properties"]["media"]["items"]["properties"]["size"]["minimum"] = 1.into();
    };
    assert_found(edit, &bound, &bound);
    let nullable = [r#"data.content: `type` was "string", is ["string","null"]"#];
    let edit = |data: &mut Value| data["properties"]["content"]["type"] = json!(["string", "null"]);
    assert_found(edit, &nullable, &nullable);
}

#[test]
fn an_enumeration_that_lost_a_value_is_found() {
    let found = [r#"data.visibility: the enumeration lost "private""#];
    let edit = |data: &mut Value| {
        data["properties"]["visibility"]["enum"] = json!(["public", "followers"]);
    };
    assert_found(edit, &found, &found);
    let gone = ["data.visibility: `enum` was added or removed"];
    assert_found(
        |data| remove(&mut data["properties"]["visibility"], "enum"),
        &gone,
        &gone,
    );
}

#[test]
fn a_new_value_of_an_enumeration_needs_a_new_version() {
    let found = [r#"data.visibility: the enumeration gained "friends", which needs a new version"#];
    let edit = |data: &mut Value| {
        data["properties"]["visibility"]["enum"] =
            json!(["public", "followers", "private", "friends"]);
    };
    let told = [
        r#"data.visibility: the enumeration gained "friends": do not take the values of before for all"#,
    ];
    assert_found(edit, &found, &told);
}

#[test]
fn what_a_new_version_may_do_is_told_apart_from_what_breaks() {
    let old = json!({ "enum": ["a"] });
    let classes = |change| {
        let found = check(&old, &json!({ "enum": ["b"] }), change);
        found
            .iter()
            .map(|finding| finding.class)
            .collect::<Vec<_>>()
    };
    assert_eq!(classes(Change::SameVersion), [Class::Breaks, Class::Breaks]);
    assert_eq!(classes(Change::NextVersion), [Class::Breaks, Class::Widens]);
}

#[test]
fn another_topic_or_key_is_found() {
    let schemas = all().unwrap();
    let post = schemas.iter().rfind(|s| s.event_type == "post.created");
    let old = &post.unwrap().value;
    let comment = old["$comment"].as_str().unwrap();
    let found = |comment: Value, change| -> Vec<String> {
        let mut new = old.clone();
        new["$comment"] = comment;
        let found = check(old, &new, change);
        found.iter().map(ToString::to_string).collect()
    };
    for change in [Change::SameVersion, Change::NextVersion] {
        for (from, to) in [("POST_TOPIC", "USER_TOPIC"), ("postId", "userId")] {
            let moved = comment.replace(from, to);
            let (topic, key) = (moved.split('`').nth(1), moved.split('`').nth(3));
            let wanted = format!(
                "the record: was on `POST_TOPIC` under `postId`, is on `{}` under `{}`",
                topic.unwrap(),
                key.unwrap()
            );
            assert_eq!(found(moved.into(), change), [wanted]);
        }
        let words = comment.replace("On the topic", "Published on");
        assert_eq!(found(words.into(), change), [""; 0]);
        assert_eq!(found(Value::Null, change).len(), 1);
    }
    // Of a copy from before it was noted nothing can be said.
    let mut older = old.clone();
    remove(&mut older, "$comment");
    assert_eq!(check(&older, old, Change::SameVersion), []);
}

#[test]
fn every_schema_says_where_its_records_are() {
    for schema in all().unwrap() {
        let EventSchema {
            topic, key, value, ..
        } = &schema;
        let topic = topic.name();
        let wanted = format!("On the topic `{topic}`, under the key `{key}` of the data.");
        assert_eq!(value["$comment"], wanted, "{}", schema.file_name());
    }
}

#[test]
fn a_field_that_may_be_left_out_all_at_once_is_found() {
    let edit = |data: &mut Value| {
        data["required"]
            .as_array_mut()
            .unwrap()
            .retain(|name| name != "username");
    };
    let found = ["data.username: the field was always there and may now be left out"];
    assert_found(edit, &found, &found);
}

#[test]
fn words_for_people_may_change() {
    let edit = |data: &mut Value| data["properties"]["content"]["description"] = "Words.".into();
    assert_found(edit, &[], &[]);
}

#[test]
fn what_the_checker_does_not_know_must_stay() {
    let found = [r"data: `additionalProperties` was nothing, is false"];
    assert_found(
        |data| data["additionalProperties"] = false.into(),
        &found,
        &found,
    );
    let items = ["data.media: `items` was added or removed"];
    assert_found(
        |data| remove(&mut data["properties"]["media"], "items"),
        &items,
        &items,
    );
}

#[test]
fn a_reference_that_leads_nowhere_is_found() {
    let schema = json!({"properties": {"data": {"$ref": "#/$defs/data"}}});
    let found = check(&schema, &schema, Change::SameVersion);
    assert_eq!(found[0].to_string(), "data: a `$ref` leads nowhere");
}
