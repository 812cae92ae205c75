//! `PATCH /notify/notifications/read-all`

use axum::{extract::State, response::Response};
use http::StatusCode;

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::Origin},
    respond,
    state::App,
    views::Message,
};

/// Marks every notification there is now as read.
#[utoipa::path(
    patch,
    path = "/notify/notifications/read-all",
    tag = "notify",
    responses((status = 200, description = "Read", body = Message)),
    security(("bearer" = []))
)]
pub(crate) async fn mark_all_read(
    State(app): State<App>,
    Signed(actor): Signed,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    // "All" is up to the read model's position: it must have seen what this person did.
    let models = [&app.models.notifications];
    app.settle(&models, Some(who), None).await?;
    let context = origin.context(Some(actor));
    let done = app.api.commands.mark_all_read(&context).await?;
    let body = Message {
        message: "All notifications marked as read",
    };
    Ok(respond::written(who, &done, StatusCode::OK, &body))
}
