//! `DELETE /posts/{postId}/comments/{commentId}`

use axum::{extract::State, response::Response};
use socialhub_domain::{CommentId, PostId};

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::Origin, path::Id},
    respond,
    state::App,
};

/// Deletes a comment: its author's to do, or the post's author's.
#[utoipa::path(
    delete,
    path = "/posts/{postId}/comments/{commentId}",
    tag = "posts",
    params(
        ("postId" = Uuid, Path, description = "The post"),
        ("commentId" = Uuid, Path, description = "The comment")
    ),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = []))
)]
pub(crate) async fn delete_comment(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    Id(comment): Id<CommentId>,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let context = origin.context(Some(actor));
    let commands = &app.api.commands;
    let done = commands.delete_comment(&context, post, comment).await?;
    Ok(respond::written_empty(who, &done))
}
