//! `GET /posts/user/{userId}`

use axum::{extract::State, response::Response};
use serde::Serialize;
use socialhub_domain::{UserId, user::User};
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::MinPosition,
        paging::{List, ListQuery, PageParams},
        path::Id,
    },
    respond::Listing,
    state::App,
    views::{PostBody, PostWriter},
};

/// Posts.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PostsAnswer {
    /// Newest first.
    posts: Vec<PostBody>,
    /// The cursor of the next page.
    next_cursor: Option<String>,
}

/// A person's posts that one may see, newest first.
#[utoipa::path(
    get,
    path = "/posts/user/{userId}",
    tag = "posts",
    params(("userId" = Uuid, Path, description = "Their author"), PageParams),
    responses((status = 200, description = "Posts", body = inline(PostsAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn posts_of(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(author): Id<UserId>,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let viewer = actor.id;
    let list = List::new("posts-of", author.to_string());
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.feed, &app.models.counters];
    let (freshness, mut page) = app
        .look_up(&models, Some(viewer), asked, User::stream(author), || {
            app.api.feed.posts_of(author, viewer, &request)
        })
        .await?
        .or_missing("User not found")?;
    app.count(&mut page.items).await?;
    let writer = PostWriter { app: &app, viewer };
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let body = PostsAnswer {
        posts: page
            .items
            .into_iter()
            .map(|view| writer.post(view))
            .collect(),
        next_cursor: listing.cursor(&app, page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}
