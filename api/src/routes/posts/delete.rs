//! `DELETE /posts/{postId}`

use axum::{extract::State, response::Response};
use socialhub_domain::PostId;

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::Origin, path::Id},
    respond,
    state::App,
};

/// Deletes an own post.
#[utoipa::path(
    delete,
    path = "/posts/{postId}",
    tag = "posts",
    params(("postId" = Uuid, Path, description = "The post")),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = []))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let context = origin.context(Some(actor));
    let done = app.api.commands.delete_post(&context, post).await?;
    Ok(respond::written_empty(who, &done))
}
