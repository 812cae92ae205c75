//! The `inbox` aggregate: how far a person has read all of their notifications.

use serde::Serialize;

use crate::{Aggregate, Event, StreamId, Timestamp, UserId, event::NotificationAllRead};

/// The decider of "mark all as read".
#[derive(Debug, Clone, Copy)]
pub struct Inbox;

/// How far everything is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxState {
    /// The position up to which everything is read; 0 for nothing.
    pub read_up_to: u64,
}

/// What may be asked of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxCommand {
    /// Mark everything up to a position as read.
    MarkAllRead {
        /// Whose notifications.
        owner: UserId,
        /// The read model's position when it was asked; later ones stay unread.
        up_to: u64,
        /// When.
        at: Timestamp,
    },
}

/// An inbox never says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {}

impl Inbox {
    /// The stream of a person's inbox.
    pub fn stream(owner: UserId) -> StreamId {
        StreamId::new(Self::TYPE, owner)
    }
}

impl Aggregate for Inbox {
    const TYPE: &'static str = "inbox";
    type State = InboxState;
    type Command = InboxCommand;
    type Error = InboxError;

    fn decide(state: &InboxState, command: InboxCommand) -> Result<Vec<Event>, InboxError> {
        let InboxCommand::MarkAllRead { owner, up_to, at } = command;
        if up_to <= state.read_up_to {
            return Ok(Vec::new());
        }
        let event = NotificationAllRead {
            user_id: owner,
            up_to,
            timestamp: at,
        };
        Ok(vec![event.into()])
    }

    fn evolve(state: &mut InboxState, event: &Event) {
        if let Event::NotificationAllRead(e) = event {
            state.read_up_to = state.read_up_to.max(e.up_to);
        }
    }
}
