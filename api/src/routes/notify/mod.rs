//! Notifications: the list, marks, and the stream.

mod delete;
mod list;
mod mark_all_read;
mod mark_read;
mod stream;

use serde::Serialize;
use socialhub_projections::notifications::ports::{NotificationKind, NotificationView};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::{router::Mounts, views::Time};

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.service(routes!(list::list));
    mounts.service(routes!(mark_all_read::mark_all_read));
    mounts.service(routes!(mark_read::mark_read));
    mounts.service(routes!(delete::delete));
    mounts.service(routes!(stream::stream));
}

/// A notification.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NotificationBody {
    /// The notification.
    id: Uuid,
    /// Its owner.
    user_id: Uuid,
    /// `FOLLOW`, `LIKE`, `COMMENT` or `POST`.
    #[serde(rename = "type")]
    #[schema(value_type = String, examples("LIKE"))]
    kind: NotificationKind,
    /// The text.
    message: String,
    /// Ids of what it is about.
    metadata: serde_json::Value,
    /// Whether it was read.
    read: bool,
    /// When what it tells of happened.
    created_at: Time,
}

impl From<NotificationView> for NotificationBody {
    fn from(view: NotificationView) -> Self {
        Self {
            id: view.id.0,
            user_id: view.user_id.0,
            kind: view.kind,
            message: view.message,
            metadata: view.metadata,
            read: view.read,
            created_at: Time(view.created_at),
        }
    }
}
