//! `GET /feed/trending`

use axum::{extract::State, response::Response};
use socialhub_domain::{PostId, UserId};
use socialhub_projections::{
    Freshness, Page, PageRequest,
    counters::{STAND_IN_POSTS, TrendingPost, stand_in},
};

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
///
/// While the counters are away the newest posts are ranked by their age and counts, and the answer says `X-Stale`.
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
    let (freshness, page) = ranked(&app, viewer, asked, &request).await?;
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

/// A page of the ranking; without the counters, of what stands in for it.
async fn ranked(
    app: &App,
    viewer: UserId,
    asked: Option<u64>,
    request: &PageRequest,
) -> Result<(Freshness, Page<TrendingPost>), ApiError> {
    let models = [&app.models.counters, &app.models.feed];
    if let Ok(freshness) = app.settle(&models, Some(viewer), asked).await
        && let Some(page) = app.api.counters.trending(request).await?
    {
        return Ok((freshness, page));
    }
    let freshness = app.settle(&[&app.models.feed], Some(viewer), asked).await?;
    let recent = app.api.feed.recent(STAND_IN_POSTS).await?;
    let stale = Freshness {
        stale: true,
        ..freshness
    };
    Ok((stale, stand_in(&recent, request)))
}
