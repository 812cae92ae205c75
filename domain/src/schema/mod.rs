//! JSON Schema (2020-12) of what travels on the topics: one for each version of each event.
//!
//! Today's are made from the types of the catalogue. Older versions are in the log for ever, so their schemas are kept
//! as they were released, in `domain/schemas/released/`; that folder also holds today's versions as they were last
//! released, and [`compat`] holds the types against them.
//!
//! A schema describes the value of a record, `{"eventType", "data"}`; the data alone is at `#/$defs/data`. It allows
//! fields it does not name, since later versions may add some. Its comment says on which topic and under which key the
//! record is: a comment, since validators refuse keywords that they do not know.

pub mod compat;

use serde_json::{Map, Value, json};

use crate::{
    event::{self, CATALOGUE, Media, Visibility},
    ids::{CommentId, NotificationId, PostId, Timestamp, UserId},
    topic::Topic,
};

/// The dialect of every schema.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schemas of versions that are no longer written: (type, version, text as released).
const RETIRED: &[(&str, u32, &str)] = &[
    (
        "post.created",
        1,
        include_str!("../../schemas/released/post.created.v1.json"),
    ),
    (
        "user.followed",
        1,
        include_str!("../../schemas/released/user.followed.v1.json"),
    ),
];

/// A type that can say what its JSON looks like.
pub(crate) trait Describe {
    /// Whether a field of this type may be left out.
    const OPTIONAL: bool = false;

    /// Its schema.
    fn schema() -> Value;
}

macro_rules! describe {
    ($( $type:ty => $schema:tt ),* $(,)?) => {
        $(
            impl Describe for $type {
                fn schema() -> Value {
                    json!($schema)
                }
            }
        )*
    };
}

describe! {
    String => { "type": "string" },
    bool => { "type": "boolean" },
    u64 => { "type": "integer", "minimum": 0 },
    UserId => { "type": "string", "format": "uuid" },
    PostId => { "type": "string", "format": "uuid" },
    CommentId => { "type": "string", "format": "uuid" },
    NotificationId => { "type": "string", "format": "uuid" },
    Timestamp => { "type": "integer", "$comment": "Milliseconds since the Unix epoch, UTC." },
}

impl Describe for Visibility {
    fn schema() -> Value {
        let names = [Self::Public, Self::Followers, Self::Private].map(Self::as_str);
        json!({ "type": "string", "enum": names })
    }
}

impl Describe for Media {
    fn schema() -> Value {
        object(&[
            Field::of::<String>(
                "url",
                &["Where it is served from: a path below the gateway or an absolute address."],
            ),
            Field::of::<String>("content_type", &["The media type, e.g. `image/png`."]),
            Field::of::<u64>("size", &["Bytes."]),
        ])
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Describe> Describe for Option<T> {
    const OPTIONAL: bool = true;

    fn schema() -> Value {
        T::schema()
    }
}

/// A field of an event, as its type describes it.
pub(crate) struct Field {
    name: String,
    optional: bool,
    schema: Value,
}

impl Field {
    /// The field of a Rust name, type and documentation.
    pub(crate) fn of<T: Describe>(name: &str, docs: &[&str]) -> Self {
        let mut schema = T::schema();
        if let Value::Object(members) = &mut schema {
            members.insert("description".to_owned(), prose(docs).into());
        }
        Self {
            name: camel_case(name),
            optional: T::OPTIONAL,
            schema,
        }
    }
}

/// An event of the catalogue, as its types describe it.
pub(crate) struct DescribedEvent {
    pub(crate) event_type: &'static str,
    pub(crate) version: u32,
    pub(crate) topic: Topic,
    /// The Rust name of the field that is the record key.
    pub(crate) key: &'static str,
    pub(crate) docs: &'static [&'static str],
    pub(crate) fields: Vec<Field>,
}

/// One version of one event of the contract.
#[derive(Debug, Clone, PartialEq)]
pub struct EventSchema {
    /// The public type name, e.g. `post.created`.
    pub event_type: &'static str,
    /// The version.
    pub version: u32,
    /// Whether programs of today write it. The others stay readable for ever.
    pub current: bool,
    /// The topic it is published on.
    pub topic: Topic,
    /// The field of `data` that is the record key.
    pub key: String,
    /// The JSON Schema of the value.
    pub value: Value,
}

impl EventSchema {
    /// Its file in the folder of schemas, e.g. `post.created.v2.json`.
    pub fn file_name(&self) -> String {
        file_name(self.event_type, self.version)
    }

    /// The text of its file.
    pub fn text(&self) -> String {
        text(&self.value)
    }

    /// The JSON Schema of the `data` object alone.
    pub fn data(&self) -> &Value {
        &self.value["$defs"]["data"]
    }
}

/// The file of a version of an event.
pub fn file_name(event_type: &str, version: u32) -> String {
    format!("{event_type}.v{version}.json")
}

/// A document as text that is the same in every build: members by name, two spaces, a line end at the end.
pub fn text(document: &Value) -> String {
    format!("{:#}\n", sorted(document))
}

/// Whether a map of `serde_json` keeps the order of insertion is up to other crates of the build; this decides it.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let sorted = |(name, member): (&String, _)| (name.clone(), sorted(member));
            Value::Object(members.into_iter().map(sorted).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Every version of every event, in the order of the catalogue, oldest first.
///
/// # Errors
/// Never in practice: a test reads the retired ones.
pub fn all() -> Result<Vec<EventSchema>, serde_json::Error> {
    let mut schemas = Vec::new();
    for event in event::described() {
        let key = camel_case(event.key);
        for (_, version, text) in RETIRED.iter().filter(|(t, ..)| *t == event.event_type) {
            schemas.push(EventSchema {
                event_type: event.event_type,
                version: *version,
                current: false,
                topic: event.topic,
                key: key.clone(),
                value: serde_json::from_str(text)?,
            });
        }
        schemas.push(EventSchema {
            event_type: event.event_type,
            version: event.version,
            current: true,
            topic: event.topic,
            key,
            value: value_schema(&event),
        });
    }
    Ok(schemas)
}

/// The version of an event that is written today; none for a type that the catalogue does not have.
pub fn current_version(event_type: &str) -> Option<u32> {
    CATALOGUE
        .iter()
        .find(|(name, _)| *name == event_type)
        .map(|(_, version)| *version)
}

fn value_schema(event: &DescribedEvent) -> Value {
    let DescribedEvent {
        event_type,
        version,
        topic,
        ..
    } = event;
    let (topic, key) = (topic.name(), camel_case(event.key));
    json!({
        "$schema": DIALECT,
        "$comment": format!("On the topic `{topic}`, under the key `{key}` of the data."),
        "$id": format!("urn:socialhub:event:{event_type}:v{version}"),
        "title": format!("{event_type}, version {version}"),
        "description": prose(event.docs),
        "type": "object",
        "required": ["eventType", "data"],
        "properties": {
            "eventType": { "const": event_type },
            "data": { "$ref": "#/$defs/data" },
        },
        "$defs": { "data": object(&event.fields) },
    })
}

fn object(fields: &[Field]) -> Value {
    let required: Vec<_> = fields
        .iter()
        .filter(|field| !field.optional)
        .map(|field| field.name.clone())
        .collect();
    let properties: Map<String, Value> = fields
        .iter()
        .map(|field| (field.name.clone(), field.schema.clone()))
        .collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

/// Doc comments as running text.
fn prose(docs: &[&str]) -> String {
    let lines: Vec<_> = docs.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// The name on the wire of a Rust field.
pub(crate) fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

#[cfg(test)]
mod tests;
