//! What channels and keys are called, and what goes over the channels.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use socialhub_chat::{ChatUser, Message, RoomId, Sign};
use uuid::Uuid;

/// The names of one system's channels and keys, and of this instance among the others.
#[derive(Debug)]
pub(super) struct Names {
    prefix: String,
    pub(super) instance: String,
    /// How everything that this instance publishes begins.
    own: String,
}

/// What a channel is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Channel<'a> {
    Room(&'a str),
    Signal(&'a str),
    Control,
}

impl Names {
    pub(super) fn new(prefix: &str, instance: Uuid) -> Self {
        Self {
            prefix: prefix.to_owned(),
            instance: instance.to_string(),
            own: format!("{{\"from\":\"{instance}\""),
        }
    }

    pub(super) fn room(&self, room: &RoomId) -> String {
        format!("{}chat:room:{room}", self.prefix)
    }

    pub(super) fn signal(&self, room: &RoomId) -> String {
        format!("{}chat:signal:{room}", self.prefix)
    }

    pub(super) fn control(&self) -> String {
        format!("{}chat:control", self.prefix)
    }

    pub(super) fn presence(&self, room: &RoomId) -> String {
        format!("{}chat:presence:{room}", self.prefix)
    }

    /// The pattern of all the rooms' presence.
    pub(super) fn all_presence(&self) -> String {
        format!("{}presence:*", self.pattern().trim_end_matches('*'))
    }

    pub(super) fn instances(&self) -> String {
        format!("{}chat:instances", self.prefix)
    }

    /// The pattern of all the channels. The prefix stands for itself.
    pub(super) fn pattern(&self) -> String {
        let mut pattern = String::new();
        for c in self.prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern + "chat:*"
    }

    pub(super) fn channel<'a>(&self, name: &'a str) -> Option<Channel<'a>> {
        let (kind, room) = name.strip_prefix(&self.prefix)?.split_at_checked(5)?;
        if kind != "chat:" {
            return None;
        }
        match room.split_once(':') {
            Some(("room", room)) => Some(Channel::Room(room)),
            Some(("signal", room)) => Some(Channel::Signal(room)),
            None if room == "control" => Some(Channel::Control),
            _ => None,
        }
    }

    /// Whether this instance published it.
    pub(super) fn is_own(&self, payload: &str) -> bool {
        payload.starts_with(&self.own)
    }
}

// `from` comes first in each of these: see [`Names::is_own`].

/// A hint on its way out. Without the messages it says only how far the room has got.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HintOut<'a> {
    pub(super) from: &'a str,
    pub(super) room_id: &'a RoomId,
    pub(super) seq: u64,
    pub(super) messages: &'a [&'a RawValue],
}

/// A hint that has come in.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HintIn {
    pub(super) room_id: RoomId,
    pub(super) seq: u64,
    pub(super) messages: Vec<Message>,
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    UserJoined,
    UserLeft,
    Typing,
    /// Who is in the room there has changed.
    Presence,
}

impl From<Sign> for Kind {
    fn from(sign: Sign) -> Self {
        match sign {
            Sign::UserJoined => Self::UserJoined,
            Sign::UserLeft => Self::UserLeft,
            Sign::Typing => Self::Typing,
        }
    }
}

impl Kind {
    pub(super) fn sign(self) -> Option<Sign> {
        match self {
            Self::UserJoined => Some(Sign::UserJoined),
            Self::UserLeft => Some(Sign::UserLeft),
            Self::Typing => Some(Sign::Typing),
            Self::Presence => None,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SignalOut<'a> {
    pub(super) from: &'a str,
    pub(super) room_id: &'a RoomId,
    pub(super) kind: Kind,
    pub(super) user: Option<&'a ChatUser>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SignalIn {
    pub(super) room_id: RoomId,
    pub(super) kind: Kind,
    pub(super) user: Option<ChatUser>,
}

#[derive(Serialize)]
pub(super) struct HeartbeatOut<'a> {
    pub(super) from: &'a str,
    /// Hints that could not be sent, since the instance began.
    pub(super) lost: u64,
}

#[derive(Deserialize)]
pub(super) struct HeartbeatIn {
    pub(super) from: String,
    pub(super) lost: u64,
}

/// The JSON text of what goes out.
pub(super) fn text<T: Serialize>(value: &T) -> String {
    // Only maps with keys that are no strings could fail, and there are none.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str) -> Names {
        Names::new(prefix, Uuid::from_u128(7))
    }

    #[test]
    fn channels_are_told_apart() {
        let names = names("a[b]*:");
        let room = RoomId::parse("dm:x:y").unwrap();
        assert_eq!(
            names.channel(&names.room(&room)),
            Some(Channel::Room("dm:x:y"))
        );
        assert_eq!(
            names.channel(&names.signal(&room)),
            Some(Channel::Signal("dm:x:y"))
        );
        assert_eq!(names.channel(&names.control()), Some(Channel::Control));
        assert_eq!(names.channel(&names.presence(&room)), None);
        assert_eq!(names.channel("chat:control"), None);
        assert_eq!(names.pattern(), "a\\[b\\]\\*:chat:*");
    }

    #[test]
    fn what_an_instance_says_itself_is_known() {
        let names = names("");
        let heartbeat = HeartbeatOut {
            from: &names.instance,
            lost: 3,
        };
        assert!(names.is_own(&text(&heartbeat)));
        let room = RoomId::parse("r").unwrap();
        let other = SignalOut {
            from: "another",
            room_id: &room,
            kind: Kind::Presence,
            user: None,
        };
        assert!(!names.is_own(&text(&other)));
    }
}
