//! `GET /posts/{postId}`

use axum::{extract::State, response::Response};
use socialhub_domain::{PostId, post::Post};

use super::PostAnswer;
use crate::{
    error::ApiError,
    extract::{auth::Signed, context::MinPosition, path::Id},
    respond,
    state::App,
    views::PostWriter,
};

/// A post.
#[utoipa::path(
    get,
    path = "/posts/{postId}",
    tag = "posts",
    params(("postId" = Uuid, Path, description = "The post")),
    responses((status = 200, description = "The post", body = inline(PostAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn read(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let viewer = actor.id;
    let models = [&app.models.feed, &app.models.counters];
    let (freshness, mut view) = app
        .look_up(&models, Some(viewer), asked, Post::stream(post), || {
            app.api.feed.post(post, viewer)
        })
        .await?
        .or_missing("Post not found")?;
    app.count(std::slice::from_mut(&mut view)).await?;
    let writer = PostWriter { app: &app, viewer };
    let post = writer.post(view);
    Ok(respond::read(freshness, &PostAnswer { post }))
}
