//! The parts of the chat log: messages, and the senders' own names for them.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use socialhub_chat::{ChatArchive, ChatArchiveError, Known, Message, MessageName, RoomId};
use socialhub_domain::UserId;
use socialhub_event_log::Over;
use socialhub_replay_tools::transfer::{Lines, Page, Part, PartError, Written, rows};

/// The parts' names.
const MESSAGES: &str = "chat-messages";
const NAMES: &str = "chat-names";

/// Rows of a page.
const PAGE: usize = 1_000;

fn fault(error: ChatArchiveError) -> PartError {
    match error {
        ChatArchiveError::Unavailable(reason) => {
            PartError::Store(format!("the chat log is unavailable: {reason}"))
        }
        other => PartError::Foreign(other.to_string()),
    }
}

/// A chat log is as old as the event log beside it.
fn known(over: Over) -> Known {
    match over {
        Over::Same => Known::Same,
        Over::Older => Known::Older,
    }
}

/// A cursor is a row's key as JSON.
fn key<K: DeserializeOwned>(cursor: &str) -> Result<Option<K>, PartError> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let bad = |_| PartError::Bad(format!("{cursor:?} is no place to go on from"));
    serde_json::from_str(cursor).map(Some).map_err(bad)
}

fn cursor<K: Serialize>(key: &K) -> Result<String, PartError> {
    serde_json::to_string(key).map_err(|error| PartError::Bad(error.to_string()))
}

/// Everybody's messages.
pub struct ChatMessages(pub Arc<dyn ChatArchive>);

type MessageKey = (RoomId, u64);

#[async_trait]
impl Part for ChatMessages {
    fn name(&self) -> &'static str {
        MESSAGES
    }

    async fn read(&self, after: &str) -> Result<Option<Page>, PartError> {
        let after: Option<MessageKey> = key(after)?;
        let messages = self.0.read_messages(after, PAGE).await.map_err(fault)?;
        let Some(last) = messages.last() else {
            return Ok(None);
        };
        let cursor = cursor(&(&last.room_id, last.seq))?;
        Page::of(&messages, cursor).map(Some)
    }

    async fn compare(&self, text: &[u8], over: Over) -> Result<bool, PartError> {
        let compared = self.0.compare_messages(rows(text)?, known(over)).await;
        compared.map_err(fault)?;
        Ok(true)
    }

    async fn write(&self, text: &[u8], over: Over) -> Result<Written, PartError> {
        let written = self.0.write_messages(rows(text)?, known(over)).await;
        let new = written.map_err(fault)?;
        Ok(Written {
            new,
            remarks: Vec::new(),
        })
    }
}

/// Lines of messages: in each room from 1, without a hole.
pub struct MessageLines;

#[async_trait]
impl Lines for MessageLines {
    fn name(&self) -> &'static str {
        MESSAGES
    }

    async fn check(&self, after: &str, text: &[u8]) -> Result<String, PartError> {
        let mut last: Option<MessageKey> = key(after)?;
        for Message { room_id, seq, .. } in rows::<Message>(text)? {
            let wanted = match &last {
                Some((room, seq)) if *room == room_id => Some(seq + 1),
                Some((room, _)) if room.as_str() > room_id.as_str() => None,
                _ => Some(1),
            };
            if wanted != Some(seq) {
                let reason = format!("message {seq} of the room {room_id} is not in its place");
                return Err(PartError::Bad(reason));
            }
            last = Some((room_id, seq));
        }
        last.map_or(Ok(String::new()), |last| cursor(&last))
    }
}

/// What senders called their messages.
pub struct ChatNames(pub Arc<dyn ChatArchive>);

type NameKey = (RoomId, UserId, String);

#[async_trait]
impl Part for ChatNames {
    fn name(&self) -> &'static str {
        NAMES
    }

    async fn read(&self, after: &str) -> Result<Option<Page>, PartError> {
        let after: Option<NameKey> = key(after)?;
        let names = self.0.read_names(after, PAGE).await.map_err(fault)?;
        let Some(last) = names.last() else {
            return Ok(None);
        };
        let cursor = cursor(&(&last.room_id, last.user_id, &last.client_id))?;
        Page::of(&names, cursor).map(Some)
    }

    async fn compare(&self, text: &[u8], _: Over) -> Result<bool, PartError> {
        self.0.compare_names(rows(text)?).await.map_err(fault)?;
        Ok(true)
    }

    async fn write(&self, text: &[u8], _: Over) -> Result<Written, PartError> {
        let new = self.0.write_names(rows(text)?).await.map_err(fault)?;
        Ok(Written {
            new,
            remarks: Vec::new(),
        })
    }
}

/// Lines of names, each once.
pub struct NameLines;

#[async_trait]
impl Lines for NameLines {
    fn name(&self) -> &'static str {
        NAMES
    }

    async fn check(&self, after: &str, text: &[u8]) -> Result<String, PartError> {
        let mut last: Option<NameKey> = key(after)?;
        for name in rows::<MessageName>(text)? {
            let next = (name.room_id, name.user_id, name.client_id);
            if last.as_ref().is_some_and(|last| *last >= next) {
                let reason = format!("a name in the room {} is not in its place", next.0);
                return Err(PartError::Bad(reason));
            }
            last = Some(next);
        }
        last.map_or(Ok(String::new()), |last| cursor(&last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(room: &str, seq: u64) -> String {
        let id = "0198c1c2-0000-7000-8000-000000000001";
        format!(
            "{{\"id\":\"{id}\",\"seq\":{seq},\"roomId\":\"{room}\",\"userId\":\"{id}\",\"username\":\"a\",\"message\":\"m\",\"timestamp\":1}}\n"
        )
    }

    #[tokio::test]
    async fn messages_of_a_room_have_no_hole() {
        let check = async |after: &str, lines: &[(&str, u64)]| {
            let text: String = lines.iter().map(|(room, seq)| line(room, *seq)).collect();
            MessageLines.check(after, text.as_bytes()).await
        };
        let good = check("", &[("a", 1), ("a", 2), ("b", 1)]).await.unwrap();
        assert_eq!(good, r#"["b",1]"#);
        assert_eq!(check(&good, &[("b", 2)]).await.unwrap(), r#"["b",2]"#);
        for bad in [&[("b", 1)][..], &[("b", 3)], &[("a", 3)], &[("c", 2)]] {
            assert!(check(&good, bad).await.is_err(), "{bad:?}");
        }
    }
}
