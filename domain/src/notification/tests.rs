//! Given/when/then tests of the marks on notifications.

use super::{Inbox, InboxCommand, Mark, Notification, NotificationCommand, NotificationError};
use crate::{
    Event, NotificationId, Timestamp, UserId,
    event::{NotificationAllRead, NotificationDeleted, NotificationRead},
    testing::{given, id},
};

const NOTE: NotificationId = NotificationId(id(5));
const ADA: UserId = UserId(id(1));

fn mark(mark: Mark) -> NotificationCommand {
    NotificationCommand {
        mark,
        id: NOTE,
        owner: ADA,
        at: Timestamp(1),
    }
}

fn read() -> Event {
    NotificationRead {
        notification_id: NOTE,
        user_id: ADA,
        timestamp: Timestamp(1),
    }
    .into()
}

fn deleted() -> Event {
    NotificationDeleted {
        notification_id: NOTE,
        user_id: ADA,
        timestamp: Timestamp(1),
    }
    .into()
}

fn all_read(up_to: u64) -> Event {
    NotificationAllRead {
        user_id: ADA,
        up_to,
        timestamp: Timestamp(1),
    }
    .into()
}

fn mark_all(up_to: u64) -> InboxCommand {
    InboxCommand::MarkAllRead {
        owner: ADA,
        up_to,
        at: Timestamp(1),
    }
}

#[test]
fn read_twice_is_read_once() {
    given::<Notification>([])
        .when(mark(Mark::Read))
        .then([read()])
        .when(mark(Mark::Read))
        .then_nothing();
}

#[test]
fn what_was_deleted_is_gone() {
    given::<Notification>([read()])
        .when(mark(Mark::Delete))
        .then([deleted()])
        .when(mark(Mark::Delete))
        .then_error(NotificationError::NotFound);
    given::<Notification>([deleted()])
        .when(mark(Mark::Read))
        .then_error(NotificationError::NotFound);
}

#[test]
fn all_read_only_goes_forward() {
    given::<Inbox>([])
        .when(mark_all(0))
        .then_nothing()
        .when(mark_all(7))
        .then([all_read(7)])
        .when(mark_all(7))
        .then_nothing()
        .when(mark_all(6))
        .then_nothing()
        .when(mark_all(8))
        .then([all_read(8)]);
}
