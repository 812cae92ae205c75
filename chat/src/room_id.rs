//! Names of rooms, and who may enter them.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use socialhub_domain::UserId;

/// The longest name of a room, in characters.
const LONGEST: usize = 100;

/// What a room between two people is called: this, then their ids in ascending order with a colon between.
const DIRECT: &str = "dm:";

/// The name of a room: 1 to 100 visible characters (no white space, no control characters). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(Arc<str>);

/// A text that cannot be a room's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("roomId must be 1 to {LONGEST} visible characters")]
pub struct InvalidRoomId;

impl RoomId {
    /// Reads a name.
    ///
    /// # Errors
    /// [`InvalidRoomId`].
    pub fn parse(text: &str) -> Result<Self, InvalidRoomId> {
        let visible = |c: char| !c.is_whitespace() && !c.is_control();
        let length = text.chars().take(LONGEST + 1).count();
        if length == 0 || length > LONGEST || !text.chars().all(visible) {
            return Err(InvalidRoomId);
        }
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a person may enter and read it: only the two whom it names if it starts with `dm:` (nobody when it is
    /// not two ids, lower-case and ascending), everybody otherwise.
    pub fn admits(&self, user: UserId) -> bool {
        match self.0.strip_prefix(DIRECT) {
            None => true,
            Some(pair) => direct_pair(pair).is_some_and(|(a, b)| user == a || user == b),
        }
    }
}

/// The two ids of a direct room, when they are spelled the one right way.
fn direct_pair(pair: &str) -> Option<(UserId, UserId)> {
    let (first, second) = pair.split_once(':')?;
    let (a, b): (UserId, UserId) = (first.parse().ok()?, second.parse().ok()?);
    let canonical = a.to_string() == first && b.to_string() == second;
    (canonical && first < second).then_some((a, b))
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for RoomId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RoomId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Borrow<str> for RoomId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    #[test]
    fn names_are_visible_and_bounded() {
        assert!(RoomId::parse("room-123").is_ok());
        assert!(RoomId::parse(&"é".repeat(100)).is_ok());
        for bad in ["", " ", "a b", "a\nb", "\u{0}", &"x".repeat(101)] {
            assert_eq!(RoomId::parse(bad), Err(InvalidRoomId), "{bad:?}");
        }
    }

    #[test]
    fn direct_rooms_admit_only_their_two() {
        let room = RoomId::parse(&format!("dm:{}:{}", user(1), user(2))).unwrap();
        assert!(room.admits(user(1)) && room.admits(user(2)));
        assert!(!room.admits(user(3)));
    }

    #[test]
    fn direct_rooms_have_one_spelling() {
        for name in [
            format!("dm:{}:{}", user(2), user(1)),
            format!("dm:{}:{}", user(1), user(1)),
            format!("dm:{}:{}", user(1), user(0xabc)).replace("abc", "ABC"),
            format!("dm:{}", user(1)),
            "dm:".to_owned(),
        ] {
            assert!(!RoomId::parse(&name).unwrap().admits(user(1)), "{name}");
        }
    }

    #[test]
    fn other_rooms_admit_everybody() {
        assert!(RoomId::parse("general").unwrap().admits(user(9)));
    }
}
