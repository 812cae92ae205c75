//! The chat service, in AsyncAPI: one channel, the events of its clients with their acknowledgements, and its own.
//!
//! The schemas are held against a running server by the contract test of the official client (`tests/js`).

use serde_json::{Map, Value, json};

/// What goes in and out: (message, event, what it means, schema of the payload).
const MESSAGES: [(&str, &str, &str, &str); 14] = [
    (
        "joinRoom",
        "join_room",
        "Enter a room and get its history; joining again sends it again.",
        "joinRoom",
    ),
    (
        "sendMessage",
        "send_message",
        "Say something in a room that was joined.",
        "sendMessage",
    ),
    ("leaveRoom", "leave_room", "Leave a room.", "roomOnly"),
    (
        "startTyping",
        "typing",
        "Let the others in a room know that one is typing.",
        "roomOnly",
    ),
    ("done", "ack", "Acknowledgement: it is done.", "ackDone"),
    (
        "joined",
        "ack",
        "Acknowledgement of `join_room`.",
        "ackJoined",
    ),
    (
        "sent",
        "ack",
        "Acknowledgement of `send_message`: the message is durable.",
        "ackSent",
    ),
    (
        "refused",
        "ack",
        "Acknowledgement of what was not done.",
        "ackRefused",
    ),
    (
        "history",
        "message_history",
        "To who joins: the last 50 messages, or those after `after`.",
        "chatHistory",
    ),
    (
        "newMessage",
        "new_message",
        "To everybody in the room, the sender too: once each, in the order of `seq`.",
        "chatMessage",
    ),
    (
        "userJoined",
        "user_joined",
        "To the others: somebody came.",
        "chatSignal",
    ),
    (
        "userLeft",
        "user_left",
        "To the others: somebody went.",
        "chatSignal",
    ),
    (
        "typing",
        "typing",
        "To the others: somebody is typing.",
        "chatSignal",
    ),
    (
        "presence",
        "presence",
        "To everybody in the room: who is there now.",
        "chatPresence",
    ),
];

/// What a client asks for: (operation, message, good acknowledgement).
const ASKED: [(&str, &str, &str); 4] = [
    ("joinRoom", "joinRoom", "joined"),
    ("sendMessage", "sendMessage", "sent"),
    ("leaveRoom", "leaveRoom", "done"),
    ("startTyping", "startTyping", "done"),
];

/// What the service says by itself: (operation, message).
const TOLD: [(&str, &str); 6] = [
    ("tellHistory", "history"),
    ("tellMessage", "newMessage"),
    ("tellJoined", "userJoined"),
    ("tellLeft", "userLeft"),
    ("tellTyping", "typing"),
    ("tellPresence", "presence"),
];

/// Everything that the document says of chat.
pub(super) fn document() -> Value {
    let mut messages = Map::new();
    let mut references = Map::new();
    for (key, event, summary, payload) in MESSAGES {
        let message = json!({
            "name": event,
            "title": key,
            "summary": summary,
            "contentType": "application/json",
            "payload": schema(payload),
        });
        messages.insert(key.to_owned(), message);
        references.insert(
            key.to_owned(),
            json!({ "$ref": format!("#/components/messages/{key}") }),
        );
    }
    json!({
        "servers": {
            "chat": {
                "host": "localhost:8080",
                "pathname": "/socket.io/",
                "protocol": "ws",
                "description": "Socket.IO 4 (Engine.IO 4) over websocket or polling, namespace `/`.",
                "security": [{ "$ref": "#/components/securitySchemes/bearer" }],
            },
        },
        "channels": {
            "chat": {
                "address": "/",
                "title": "Chat",
                "description": "A message's `name` is the Socket.IO event, its payload the one argument. Events of \
                    clients may ask for an acknowledgement; `ok` says which of the two it is. Without a good token \
                    connecting fails with `connect_error`, \"Unauthorized\".",
                "servers": [{ "$ref": "#/servers/chat" }],
                "messages": references,
            },
        },
        "operations": operations(),
        "components": {
            "messages": messages,
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "In the `Authorization` header, or as `token` of the CONNECT packet's `auth`.",
                },
            },
        },
    })
}

fn operations() -> Value {
    let channel = json!({ "$ref": "#/channels/chat" });
    let message = |key: &str| json!({ "$ref": format!("#/channels/chat/messages/{key}") });
    let mut operations = Map::new();
    for (name, asked, answer) in ASKED {
        let operation = json!({
            "action": "receive",
            "channel": channel,
            "messages": [message(asked)],
            "reply": { "channel": channel, "messages": [message(answer), message("refused")] },
        });
        operations.insert(name.to_owned(), operation);
    }
    for (name, told) in TOLD {
        let operation = json!({
            "action": "send",
            "channel": channel,
            "messages": [message(told)],
        });
        operations.insert(name.to_owned(), operation);
    }
    Value::Object(operations)
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object of these fields, all required but those named.
fn object(fields: &Value, optional: &[&str]) -> Value {
    let names = fields
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.keys());
    let required: Vec<_> = names
        .filter(|name| !optional.contains(&name.as_str()))
        .collect();
    json!({ "type": "object", "required": required, "properties": fields })
}

/// What a client sends, what it is answered, and what it is told.
fn schemas() -> Value {
    let room = schema("roomId");
    let message = json!({
        "id": uuid("Its id."),
        "seq": { "type": "integer", "minimum": 1, "description": "Its number in the room: 1, 2, 3, … without holes." },
        "roomId": room,
        "userId": uuid("Who sent it."),
        "username": { "type": "string", "description": "The sender's name at the time." },
        "message": { "type": "string", "minLength": 1, "maxLength": 4000 },
        "timestamp": { "type": "integer", "description": "Milliseconds since the Unix epoch, UTC." },
    });
    let person = json!({ "userId": uuid("Who."), "username": { "type": "string" } });
    let people = json!({ "type": "array", "maxItems": 500, "items": object(&person, &[]) });
    let after = json!({
        "type": ["integer", "null"],
        "minimum": 0,
        "maximum": (1_u64 << 53) - 1,
        "description": "The last `seq` that the client has: only what is after it, at most 1,000 messages.",
    });
    let client_id = json!({
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": 100,
        "description": "The sender's own name for it: the same one again is not sent twice.",
    });
    let done = json!({ "const": true });
    let mut sent = message.clone();
    sent["ok"] = done.clone();
    let recovered = json!({ "type": "boolean", "description": "Whether the history leaves no hole after `after`." });
    let refusal = json!({
        "status": { "type": "integer", "minimum": 400, "maximum": 599, "description": "As an HTTP status." },
        "error": { "type": "string", "description": "A short, stable text." },
        "detail": { "type": "string", "description": "What to do about it." },
    });
    json!({
        "roomId": {
            "type": "string",
            "minLength": 1,
            "maxLength": 100,
            "pattern": "^\\S+$",
            "description": "Visible characters. `dm:<userId>:<userId>`, ids ascending, admits only those two.",
        },
        "joinRoom": object(&json!({ "roomId": room, "after": after }), &["after"]),
        "sendMessage": object(
            &json!({ "roomId": room, "message": message["message"], "clientId": client_id }),
            &["clientId"],
        ),
        "roomOnly": object(&json!({ "roomId": room }), &[]),
        "ackDone": object(&json!({ "ok": done }), &[]),
        "ackJoined": object(&json!({ "ok": done, "members": people, "recovered": recovered }), &[]),
        "ackSent": object(&sent, &[]),
        "ackRefused": object(&json!({ "ok": { "const": false }, "error": object(&refusal, &[]) }), &[]),
        "chatMessage": object(&message, &[]),
        "chatHistory": { "type": "array", "items": schema("chatMessage") },
        "chatSignal": object(&json!({ "roomId": room, "userId": uuid("Who."), "username": { "type": "string" } }), &[]),
        "chatPresence": object(&json!({ "roomId": room, "users": people }), &[]),
    })
}

fn uuid(description: &str) -> Value {
    json!({ "type": "string", "format": "uuid", "description": description })
}
