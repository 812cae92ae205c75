//! The topics that events are published on.

use serde::{Deserialize, Serialize};

/// A topic of the public event contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// Posts, reactions and comments; keyed by post id.
    #[serde(rename = "POST_TOPIC")]
    Post,
    /// People and follows; keyed by the followed person, or the person.
    #[serde(rename = "USER_TOPIC")]
    User,
    /// Marks on notifications; keyed by their owner.
    #[serde(rename = "NOTIFICATION_TOPIC")]
    Notification,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 3] = [Self::Post, Self::User, Self::Notification];

    /// The topic's name on the broker.
    pub fn name(self) -> &'static str {
        match self {
            Self::Post => "POST_TOPIC",
            Self::User => "USER_TOPIC",
            Self::Notification => "NOTIFICATION_TOPIC",
        }
    }
}
