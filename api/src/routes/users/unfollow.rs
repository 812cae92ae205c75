//! `DELETE /users/unfollow/{userId}`

use axum::{extract::State, response::Response};
use http::StatusCode;
use socialhub_domain::UserId;

use super::FollowAnswer;
use crate::{
    error::ApiError,
    extract::{auth::Signed, context::Origin, path::Id},
    respond,
    state::App,
};

/// Ends a follow; following again takes it up.
#[utoipa::path(
    delete,
    path = "/users/unfollow/{userId}",
    tag = "users",
    params(("userId" = Uuid, Path, description = "Whom to follow no more")),
    responses((status = 200, description = "No longer following", body = FollowAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn unfollow(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(user): Id<UserId>,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let context = origin.context(Some(actor));
    let done = app.api.commands.unfollow(&context, user).await?;
    let body = FollowAnswer::new("Unfollowed successfully", &done.result);
    Ok(respond::written(who, &done, StatusCode::OK, &body))
}
