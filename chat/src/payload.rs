//! What clients send, read so that a bad payload is answered and the answer names the field that is wrong.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::{ack::Refusal, room_id::RoomId};

/// The longest message, in characters.
const LONGEST_MESSAGE: usize = 4_000;
/// The longest name a client may give a message, in characters.
const LONGEST_CLIENT_ID: usize = 100;

/// What a client sends as `auth` when it connects.
#[derive(Deserialize)]
pub(crate) struct ConnectAuth {
    pub(crate) token: String,
}

/// The fields of an event's payload.
pub(crate) struct Fields(Map<String, Json>);

impl Fields {
    /// Reads a payload. Nothing stands for one that is missing or not JSON.
    pub(crate) fn of(payload: Option<Json>) -> Result<Self, Refusal> {
        match payload {
            Some(Json::Object(fields)) => Ok(Self(fields)),
            _ => Err(Refusal::invalid("the payload must be an object")),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.0.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("{name} must be a string"))),
        }
    }

    /// The room it is about.
    pub(crate) fn room(&mut self) -> Result<RoomId, Refusal> {
        let name = self.text("roomId")?.unwrap_or_default();
        RoomId::parse(&name).map_err(|error| invalid(error.to_string()))
    }

    /// The text to send.
    pub(crate) fn message(&mut self) -> Result<String, Refusal> {
        let text = self.text("message")?.unwrap_or_default();
        if within(&text, LONGEST_MESSAGE) {
            Ok(text)
        } else {
            Err(invalid("message must be 1 to 4000 characters"))
        }
    }

    /// The client's own name for the message.
    pub(crate) fn client_id(&mut self) -> Result<Option<String>, Refusal> {
        let id = self.text("clientId")?;
        if id.as_ref().is_none_or(|id| within(id, LONGEST_CLIENT_ID)) {
            Ok(id)
        } else {
            Err(invalid("clientId must be 1 to 100 characters"))
        }
    }

    /// The last `seq` that the client has.
    pub(crate) fn after(&mut self) -> Result<Option<u64>, Refusal> {
        match self.0.remove("after") {
            None | Some(Json::Null) => Ok(None),
            // Beyond what any store counts to there is nothing to ask for.
            Some(Json::Number(number)) if number.as_u64().is_some_and(|n| n < 1 << 53) => {
                Ok(number.as_u64())
            }
            Some(_) => Err(invalid("after must be a whole number, a seq")),
        }
    }
}

fn invalid(detail: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::invalid(detail)
}

fn within(text: &str, longest: usize) -> bool {
    // Counting characters is needed only when the bytes alone do not decide.
    !text.is_empty() && (text.len() <= longest || text.chars().take(longest + 1).count() <= longest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(payload: Json) -> Fields {
        Fields::of(Some(payload)).unwrap_or_else(|refusal| panic!("{}", refusal.detail))
    }

    fn detail<T>(outcome: Result<T, Refusal>) -> String {
        match outcome {
            Ok(_) => "ok".to_owned(),
            Err(refusal) => refusal.detail.into_owned(),
        }
    }

    #[test]
    fn faults_name_the_field() {
        for payload in [None, Some(json!(null)), Some(json!("x")), Some(json!([1]))] {
            assert_eq!(detail(Fields::of(payload)), "the payload must be an object");
        }
        assert!(detail(fields(json!({})).room()).starts_with("roomId"));
        assert!(detail(fields(json!({"roomId": 5})).room()).starts_with("roomId"));
        assert!(detail(fields(json!({"message": {}})).message()).starts_with("message"));
        assert!(detail(fields(json!({"clientId": ""})).client_id()).starts_with("clientId"));
        for after in [json!(-1), json!(1.5), json!("1"), json!(1u64 << 60)] {
            assert!(detail(fields(json!({"after": after})).after()).starts_with("after"));
        }
    }

    #[test]
    fn messages_are_counted_in_characters() {
        let message = |text: String| fields(json!({"message": text})).message().is_ok();
        assert!(message("é".repeat(4_000)));
        assert!(!message("é".repeat(4_001)));
        assert!(!message(String::new()));
    }

    #[test]
    fn what_is_optional_may_be_missing() {
        let mut payload = fields(json!({"after": null}));
        assert_eq!(payload.after(), Ok(None));
        assert_eq!(payload.client_id(), Ok(None));
    }
}
