//! `GET /feed/`

use axum::{extract::State, response::Response};

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

/// Public and followers' posts of the people one follows, newest first.
#[utoipa::path(
    get,
    path = "/feed",
    tag = "feed",
    params(PageParams),
    responses((status = 200, description = "Posts", body = FeedAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn home(
    State(app): State<App>,
    Signed(actor): Signed,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let viewer = actor.id;
    let list = List::new("feed", "");
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.feed, &app.models.counters];
    let freshness = app.settle(&models, Some(viewer), asked).await?;
    let mut page = app.api.feed.home(viewer, &request).await?;
    app.count(&mut page.items).await?;
    let writer = PostWriter { app: &app, viewer };
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let posts = page.items.into_iter().map(|view| writer.feed_post(view));
    let body = FeedAnswer {
        posts: posts.collect(),
        next_cursor: listing.cursor(&app, page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}
