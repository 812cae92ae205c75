//! The marks on notifications. A notification itself is no aggregate: the read model makes it from what happened. What
//! its owner does with it is: [`Notification`] holds the marks on one, [`Inbox`] those on all of a person's.

mod inbox;
#[cfg(test)]
mod tests;

pub use inbox::{Inbox, InboxCommand, InboxError, InboxState};

use serde::Serialize;

use crate::{
    Aggregate, Event, NotificationId, StreamId, Timestamp, UserId,
    event::{NotificationDeleted, NotificationRead},
};

/// The decider of the marks on one notification.
#[derive(Debug, Clone, Copy)]
pub struct Notification;

/// The marks on one notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Marks {
    /// Marked as read.
    pub read: bool,
    /// Removed by its owner.
    pub deleted: bool,
}

/// What an owner may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Take note of it.
    Read,
    /// Remove it.
    Delete,
}

/// A mark set by the notification's owner; that it is theirs was checked before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationCommand {
    /// Which mark.
    pub mark: Mark,
    /// The notification.
    pub id: NotificationId,
    /// Its owner.
    pub owner: UserId,
    /// When.
    pub at: Timestamp,
}

/// Why a notification said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotificationError {
    /// It was removed.
    #[error("Notification not found")]
    NotFound,
}

impl Notification {
    /// The stream of a notification.
    pub fn stream(id: NotificationId) -> StreamId {
        StreamId::new(Self::TYPE, id)
    }
}

impl Aggregate for Notification {
    const TYPE: &'static str = "notification";
    type State = Marks;
    type Command = NotificationCommand;
    type Error = NotificationError;

    fn decide(state: &Marks, c: NotificationCommand) -> Result<Vec<Event>, NotificationError> {
        if state.deleted {
            return Err(NotificationError::NotFound);
        }
        Ok(match c.mark {
            Mark::Read if state.read => Vec::new(),
            Mark::Read => vec![
                NotificationRead {
                    notification_id: c.id,
                    user_id: c.owner,
                    timestamp: c.at,
                }
                .into(),
            ],
            Mark::Delete => vec![
                NotificationDeleted {
                    notification_id: c.id,
                    user_id: c.owner,
                    timestamp: c.at,
                }
                .into(),
            ],
        })
    }

    fn evolve(state: &mut Marks, event: &Event) {
        match event {
            Event::NotificationRead(_) => state.read = true,
            Event::NotificationDeleted(_) => state.deleted = true,
            _ => {}
        }
    }
}
