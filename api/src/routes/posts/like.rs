//! `POST`, `PUT` and `DELETE /posts/{postId}/like`

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use socialhub_commands::{Done, react::Liked};
use socialhub_domain::{PostId, UserId};
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::{Fingerprint, Key, Origin},
        path::Id,
    },
    respond,
    state::App,
};

/// The like after the command.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LikeAnswer {
    /// Whether one likes the post now.
    liked: bool,
    /// The post's likes as the read model has them now.
    like_count: u64,
}

fn answer(who: UserId, done: &Done<Liked>) -> Response {
    let body = LikeAnswer {
        liked: done.result.liked,
        like_count: done.result.like_count,
    };
    respond::written(who, done, StatusCode::OK, &body)
}

/// Likes a post, or takes the like back.
#[utoipa::path(
    post,
    path = "/posts/{postId}/like",
    tag = "posts",
    params(("postId" = Uuid, Path, description = "The post")),
    responses((status = 200, description = "Toggled", body = LikeAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn toggle(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    origin: Origin,
    key: Key,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let context = origin.keyed(Some(actor), key, "POST /posts/:postId/like", || {
        Fingerprint::new().field("postId", post.0)
    });
    let done = app.api.commands.toggle_like(&context, post).await?;
    Ok(answer(who, &done))
}

/// Likes a post, if one does not yet.
#[utoipa::path(
    put,
    path = "/posts/{postId}/like",
    tag = "posts",
    params(("postId" = Uuid, Path, description = "The post")),
    responses((status = 200, description = "Liked", body = LikeAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn set(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let context = origin.context(Some(actor));
    let done = app.api.commands.set_like(&context, post, true).await?;
    Ok(answer(who, &done))
}

/// Takes a like back, if there is one.
#[utoipa::path(
    delete,
    path = "/posts/{postId}/like",
    tag = "posts",
    params(("postId" = Uuid, Path, description = "The post")),
    responses((status = 200, description = "Not liked", body = LikeAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn unset(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    origin: Origin,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let context = origin.context(Some(actor));
    let done = app.api.commands.set_like(&context, post, false).await?;
    Ok(answer(who, &done))
}
