//! `GET /users/followers/{userId}` and `GET /users/following/{userId}`

use axum::{extract::State, response::Response};
use serde::Serialize;
use socialhub_domain::{UserId, user::User};
use socialhub_projections::feed::ports::FollowEntry;
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
    views::{Person, Time},
};

/// A person in a list of follows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FollowPerson {
    /// The person.
    #[serde(flatten)]
    person: Person,
    /// Since when.
    followed_at: Time,
}

/// Who follows a person.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FollowersAnswer {
    /// Newest first.
    followers: Vec<FollowPerson>,
    /// The cursor of the next page.
    next_cursor: Option<String>,
}

/// Whom a person follows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FollowingAnswer {
    /// Newest first.
    following: Vec<FollowPerson>,
    /// The cursor of the next page.
    next_cursor: Option<String>,
}

fn people(items: Vec<FollowEntry>) -> Vec<FollowPerson> {
    items
        .into_iter()
        .map(|entry| FollowPerson {
            person: entry.person.into(),
            followed_at: Time(entry.followed_at),
        })
        .collect()
}

/// Who follows a person, newest first.
#[utoipa::path(
    get,
    path = "/users/followers/{userId}",
    tag = "users",
    params(("userId" = Uuid, Path, description = "The person"), PageParams),
    responses((status = 200, description = "Followers", body = inline(FollowersAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn followers(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(user): Id<UserId>,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let list = List::new("followers", user.to_string());
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.feed];
    let (freshness, page) = app
        .look_up(&models, Some(actor.id), asked, User::stream(user), || {
            app.api.feed.followers(user, &request)
        })
        .await?
        .or_missing("User not found")?;
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let body = FollowersAnswer {
        followers: people(page.items),
        next_cursor: listing.cursor(&app, page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}

/// Whom a person follows, newest first.
#[utoipa::path(
    get,
    path = "/users/following/{userId}",
    tag = "users",
    params(("userId" = Uuid, Path, description = "The person"), PageParams),
    responses((status = 200, description = "Followed people", body = inline(FollowingAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn following(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(user): Id<UserId>,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let list = List::new("following", user.to_string());
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.feed];
    let (freshness, page) = app
        .look_up(&models, Some(actor.id), asked, User::stream(user), || {
            app.api.feed.following(user, &request)
        })
        .await?
        .or_missing("User not found")?;
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let body = FollowingAnswer {
        following: people(page.items),
        next_cursor: listing.cursor(&app, page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}
