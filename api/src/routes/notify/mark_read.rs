//! `PATCH /notify/notifications/{id}/read`

use axum::{extract::State, response::Response};
use http::StatusCode;
use socialhub_domain::NotificationId;

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::Origin, path::Id},
    respond,
    state::App,
    views::Message,
};

/// Marks a notification as read; twice is once.
#[utoipa::path(
    patch,
    path = "/notify/notifications/{id}/read",
    tag = "notify",
    params(("id" = Uuid, Path, description = "The notification")),
    responses((status = 200, description = "Read", body = Message)),
    security(("bearer" = []))
)]
pub(crate) async fn mark_read(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(id): Id<NotificationId>,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    // Whose a notification is, the command asks of the read model: it must have seen what this person did.
    let models = [&app.models.notifications];
    app.settle(&models, Some(who), None).await?;
    let context = origin.context(Some(actor));
    let done = app.api.commands.mark_read(&context, id).await?;
    let body = Message {
        message: "Notification marked as read",
    };
    Ok(respond::written(who, &done, StatusCode::OK, &body))
}
