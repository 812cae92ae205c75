//! `GET /notify/notifications`

use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::NotificationBody;
use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::MinPosition,
        paging::{List, ListQuery, PageParams},
    },
    respond::Listing,
    state::App,
};

/// One's notifications.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NotificationsAnswer {
    /// Newest first.
    notifications: Vec<NotificationBody>,
    /// How many of all are unread.
    unread_count: u64,
    /// The cursor of the next page.
    next_cursor: Option<String>,
}

/// One's notifications, newest first.
#[utoipa::path(
    get,
    path = "/notify/notifications",
    tag = "notify",
    params(("unread" = Option<bool>, Query, description = "Only those that are unread"), PageParams),
    responses((status = 200, description = "Notifications", body = inline(NotificationsAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn list(
    State(app): State<App>,
    Signed(actor): Signed,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let unread = query.flag("unread")?;
    let list = List::new("notifications", if unread { "unread" } else { "" });
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.notifications];
    let freshness = app.settle(&models, Some(actor.id), asked).await?;
    let reader = &app.api.notifications;
    let found = reader.list(actor.id, unread, &request).await?;
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let items = found.page.items.into_iter();
    let body = NotificationsAnswer {
        notifications: items.map(NotificationBody::from).collect(),
        unread_count: found.unread_count,
        next_cursor: listing.cursor(&app, found.page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}
