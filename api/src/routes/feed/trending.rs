//! `GET /feed/trending`

use axum::{extract::State, response::Response};
use socialhub_domain::PostId;

use super::FeedAnswer;
use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::MinPosition,
        paging::{List, ListQuery, PageParams},
    },
    respond::Listing,
    state::App,
    views::PostWriter,
};

/// Public posts by score: likes and comments count, older ones less (half-life 6 hours).
#[utoipa::path(
    get,
    path = "/feed/trending",
    tag = "feed",
    params(PageParams),
    responses((status = 200, description = "Posts", body = FeedAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn trending(
    State(app): State<App>,
    Signed(actor): Signed,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let viewer = actor.id;
    let list = List::new("trending", "");
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.counters, &app.models.feed];
    let freshness = app.settle(&models, Some(viewer), asked).await?;
    let page = app.api.counters.trending(&request).await?;
    let ids: Vec<PostId> = page.items.iter().map(|item| item.post_id).collect();
    let mut posts = app.api.feed.posts(&ids, viewer).await?;
    app.count(&mut posts).await?;
    let writer = PostWriter { app: &app, viewer };
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let posts = posts.into_iter().map(|view| writer.feed_post(view));
    let body = FeedAnswer {
        posts: posts.collect(),
        next_cursor: listing.cursor(&app, page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}
