//! The topics, in AsyncAPI: one channel each, one message for each version of each event.

use serde_json::{Map, Value, json};
use socialhub_domain::{Topic, schema::EventSchema};

/// Everything that the document says of the topics.
pub(super) fn document(schemas: &[EventSchema]) -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    for topic in Topic::ALL {
        channels.insert(topic.name().to_owned(), channel(topic, schemas));
        operations.insert(operation_name(topic).to_owned(), operation(topic, schemas));
    }
    let mut messages: Map<_, _> = schemas
        .iter()
        .map(|schema| (name(schema), message(schema)))
        .collect();
    messages.insert("undecodable".to_owned(), undecodable());
    let mut parts = Map::new();
    for schema in schemas {
        let mut value = schema.value.clone();
        if let Value::Object(members) = &mut value {
            // References are read from the root of this document, and the dialect is its own.
            members.retain(|name, _| !matches!(name.as_str(), "$defs" | "$schema" | "$id"));
        }
        value["properties"]["data"] = component("schemas", &data_name(schema));
        parts.insert(name(schema), value);
        parts.insert(data_name(schema), schema.data().clone());
    }
    parts.insert("eventHeaders".to_owned(), headers());
    json!({
        "servers": {
            "kafka": {
                "host": "localhost:9092",
                "protocol": "kafka",
                "description": "The broker of the distributed profile. Records are written in transactions: read \
                    them with `isolation.level=read_committed`.",
            },
        },
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": parts },
    })
}

fn name(schema: &EventSchema) -> String {
    format!("{}.v{}", schema.event_type, schema.version)
}

fn data_name(schema: &EventSchema) -> String {
    format!("{}.data", name(schema))
}

fn component(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn operation_name(topic: Topic) -> &'static str {
    match topic {
        Topic::Post => "publishPostEvent",
        Topic::User => "publishUserEvent",
        Topic::Notification => "publishNotificationEvent",
    }
}

fn summary(topic: Topic) -> &'static str {
    match topic {
        Topic::Post => "Posts, likes and comments; keyed by the post.",
        Topic::User => "People and follows; keyed by the person, or by the followed one.",
        Topic::Notification => "Marks on notifications; keyed by their owner.",
    }
}

/// The messages of a topic, by name.
fn messages(topic: Topic, schemas: &[EventSchema]) -> Vec<String> {
    let own = schemas
        .iter()
        .filter(|schema| schema.topic == topic)
        .map(name);
    own.chain(["undecodable".to_owned()]).collect()
}

fn channel(topic: Topic, schemas: &[EventSchema]) -> Value {
    let messages: Map<_, _> = messages(topic, schemas)
        .into_iter()
        .map(|name| {
            let component = component("messages", &name);
            (name, component)
        })
        .collect();
    json!({
        "address": topic.name(),
        "title": topic.name(),
        "summary": summary(topic),
        "description": "Records of one key are in one partition, in the order of the log. The relay makes the topic \
            with `KAFKA_PARTITIONS` partitions (6 unless set) and chooses the partition by murmur2 of the key, as \
            Java clients do. `socialhub-position` rises within a partition; a record at or below the greatest \
            position that you have handled is a repeat. `socialhub-prev` is the position of the record before it in \
            its partition: when it is beyond what you have, records are missing. Values are clear text, also of people \
            who are erased later: records are removed after `KAFKA_RETENTION_SECONDS` (7 days unless set), in segments of \
            at most a day. After `user.erased` forget what you keep of that person.",
        "servers": [{ "$ref": "#/servers/kafka" }],
        "messages": messages,
        "bindings": {
            "kafka": {
                "topic": topic.name(),
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": 604_800_000,
                },
                "bindingVersion": "0.5.0",
            },
        },
    })
}

fn operation(topic: Topic, schemas: &[EventSchema]) -> Value {
    let channel = format!("#/channels/{}", topic.name());
    let messages: Vec<_> = messages(topic, schemas)
        .iter()
        .map(|name| json!({ "$ref": format!("{channel}/messages/{name}") }))
        .collect();
    json!({
        "action": "send",
        "channel": { "$ref": channel },
        "summary": "The relay publishes the event log, in its order.",
        "messages": messages,
    })
}

fn message(schema: &EventSchema) -> Value {
    let title = if schema.current {
        format!("{}, version {}", schema.event_type, schema.version)
    } else {
        format!(
            "{}, version {}, of older programs",
            schema.event_type, schema.version
        )
    };
    json!({
        "name": schema.event_type,
        "title": title,
        "summary": schema.value["description"],
        "contentType": "application/json",
        "headers": {
            "allOf": [
                component("schemas", "eventHeaders"),
                {
                    "type": "object",
                    "properties": {
                        "ce_type": { "const": schema.event_type },
                        "content-type": { "const": "application/json" },
                        "socialhub-version": { "const": schema.version.to_string() },
                    },
                },
            ],
        },
        "payload": component("schemas", &name(schema)),
        "bindings": {
            "kafka": {
                "key": {
                    "type": "string",
                    "format": "uuid",
                    "description": format!("`{}` of the data.", schema.key),
                },
                "bindingVersion": "0.5.0",
            },
        },
    })
}

/// The record of an event that the publishing program could not read.
fn undecodable() -> Value {
    json!({
        "name": "undecodable",
        "title": "An event that the publisher could not read",
        "summary": "It holds its place in the order; its value is the text that stands in the log. Pass it over.",
        "contentType": "text/plain",
        "headers": {
            "allOf": [
                component("schemas", "eventHeaders"),
                {
                    "type": "object",
                    "required": ["socialhub-undecodable"],
                    "properties": {
                        "content-type": { "const": "text/plain; charset=utf-8" },
                        "socialhub-undecodable": { "type": "string", "description": "Why, in words." },
                    },
                },
            ],
        },
        "payload": { "type": "string" },
        "bindings": {
            "kafka": {
                "key": { "type": "string", "description": "The stream of the event, `type/id`." },
                "bindingVersion": "0.5.0",
            },
        },
    })
}

/// The headers of every record. All of them are text.
fn headers() -> Value {
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in binary mode, and the event's place in the log.",
        "required": [
            "ce_specversion",
            "ce_id",
            "ce_type",
            "ce_source",
            "content-type",
            "socialhub-position",
            "socialhub-prev",
            "socialhub-version",
        ],
        "properties": {
            "ce_specversion": { "type": "string", "const": "1.0" },
            "ce_id": { "type": "string", "format": "uuid", "description": "The event's own id: the same in a repeat." },
            "ce_type": { "type": "string", "description": "The event's type, e.g. `post.created`." },
            "ce_source": { "type": "string", "const": "/socialhub" },
            "ce_time": { "type": "string", "format": "date-time", "description": "When the command was handled." },
            "content-type": { "type": "string" },
            "socialhub-position": {
                "type": "string",
                "pattern": "^[1-9][0-9]*$",
                "description": "The event's place in the log: 1, 2, 3, … over all topics.",
            },
            "socialhub-prev": {
                "type": "string",
                "pattern": "^(0|[1-9][0-9]*)$",
                "description": "The position of the record before it in its partition; 0 for the first.",
            },
            "socialhub-version": {
                "type": "string",
                "pattern": "^[1-9][0-9]*$",
                "description": "The version of the value's shape.",
            },
            "traceparent": { "type": "string", "description": "W3C trace context of the request that caused it." },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use socialhub_domain::{StreamId, Timestamp};
    use socialhub_event_log::{Metadata, RecordedEvent, wire::WireRecord};
    use uuid::Uuid;

    use super::*;

    fn record(event_type: &str, payload: &str) -> WireRecord {
        let recorded = RecordedEvent {
            position: 2,
            event_id: Uuid::from_u128(7),
            stream: StreamId::new("notification", "1"),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version: 1,
            payload: payload.to_owned(),
            metadata: Metadata {
                occurred_at: Timestamp(1_700_000_000_123),
                traceparent: Some("00-1-2-01".to_owned()),
                ..Metadata::default()
            },
            damage: None,
        };
        WireRecord::of(&recorded, 1).unwrap()
    }

    const READ: &str = r#"{"notificationId":"00000000-0000-0000-0000-000000000001","userId":
        "00000000-0000-0000-0000-000000000002","timestamp":5}"#;

    /// The relay's headers are those of the document, and what it fixes is what they say.
    #[test]
    fn the_headers_are_those_of_the_relay() {
        let (readable, unreadable) = (record("notification.read", READ), record("post.eaten", "?"));
        let schemas = socialhub_domain::schema::all().unwrap();
        let read = schemas
            .iter()
            .find(|schema| schema.event_type == "notification.read");
        for (record, message) in [
            (readable, message(read.unwrap())),
            (unreadable, undecodable()),
        ] {
            let common = headers();
            let own = &message["headers"]["allOf"][1];
            let pairs = record.headers.pairs();
            for (name, value) in &pairs {
                let fields = [&common["properties"][name], &own["properties"][name]];
                assert!(fields.iter().any(|field| field.is_object()), "{name}");
                for fixed in fields.iter().filter_map(|field| field.get("const")) {
                    assert_eq!(fixed, value, "{name}");
                }
            }
            let names: BTreeSet<&str> = pairs.iter().map(|(name, _)| *name).collect();
            for required in [&common, own] {
                for name in required["required"].as_array().into_iter().flatten() {
                    assert!(names.contains(name.as_str().unwrap()), "{name}");
                }
            }
        }
    }
}
