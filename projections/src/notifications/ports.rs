//! What the `notifications` model answers, and the port its readers implement.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::{NotificationId, Timestamp, UserId};
use socialhub_event_log::Position;

use crate::{
    page::{Page, PageRequest},
    store::ReadError,
};

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NotificationKind {
    /// Somebody follows them.
    Follow,
    /// Somebody liked their post.
    Like,
    /// Somebody commented on their post.
    Comment,
    /// A new post: their own is live, or one of somebody they asked to be told of.
    Post,
}

/// A notification as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationView {
    /// The notification.
    pub id: NotificationId,
    /// Its owner.
    pub user_id: UserId,
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: NotificationKind,
    /// The text.
    pub message: String,
    /// Ids of what it is about (`postId`, `likerId`, …).
    pub metadata: serde_json::Value,
    /// Whether it was read.
    pub read: bool,
    /// When what it tells of happened.
    pub created_at: Timestamp,
    /// The position of the event behind it: the sort key, and where a stream resumes.
    #[serde(skip)]
    pub position: Position,
}

/// A page of notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationPage {
    /// The page, newest first.
    pub page: Page<NotificationView>,
    /// How many of all of them are unread.
    pub unread_count: u64,
}

/// Reads the current generation of the `notifications` model.
#[async_trait]
pub trait NotificationReader: Send + Sync {
    /// A person's notifications, newest first.
    async fn list(
        &self,
        user: UserId,
        unread_only: bool,
        page: &PageRequest,
    ) -> Result<NotificationPage, ReadError>;

    /// Whose a notification is; none when there is none, or it was deleted.
    async fn owner(&self, id: NotificationId) -> Result<Option<UserId>, ReadError>;

    /// At most `limit` notifications of a person after a position, oldest first, for streams.
    async fn after(
        &self,
        user: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<NotificationView>, ReadError>;
}
