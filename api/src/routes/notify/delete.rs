//! `DELETE /notify/notifications/{id}`

use axum::{extract::State, response::Response};
use socialhub_domain::NotificationId;

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::Origin, path::Id},
    respond,
    state::App,
};

/// Removes a notification.
#[utoipa::path(
    delete,
    path = "/notify/notifications/{id}",
    tag = "notify",
    params(("id" = Uuid, Path, description = "The notification")),
    responses((status = 204, description = "Removed")),
    security(("bearer" = []))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(id): Id<NotificationId>,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let models = [&app.models.notifications];
    app.settle(&models, Some(who), None).await?;
    let context = origin.context(Some(actor));
    let done = app.api.commands.delete_notification(&context, id).await?;
    Ok(respond::written_empty(who, &done))
}
