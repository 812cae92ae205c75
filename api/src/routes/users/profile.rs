//! `GET /users/profile/{userId}`

use axum::{extract::State, response::Response};
use serde::Serialize;
use socialhub_domain::{UserId, user::User};
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::MinPosition, path::Id},
    respond,
    state::{App, Shared},
    views::ProfileBody,
};

/// A profile.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProfileAnswer {
    /// The person.
    user: ProfileBody,
}

/// A person's public profile.
#[utoipa::path(
    get,
    path = "/users/profile/{userId}",
    tag = "users",
    params(("userId" = Uuid, Path, description = "The person")),
    responses((status = 200, description = "The profile", body = ProfileAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn profile(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(user): Id<UserId>,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    answer_profile(&app, user, actor.id, asked).await
}

/// Answers with a profile as the viewer sees it.
pub(crate) async fn answer_profile(
    app: &Shared,
    user: UserId,
    viewer: UserId,
    asked: Option<u64>,
) -> Result<Response, ApiError> {
    let models = [&app.models.feed, &app.models.counters];
    let (freshness, mut profile) = app
        .look_up(&models, Some(viewer), asked, User::stream(user), || {
            app.api.feed.profile(user, viewer)
        })
        .await?
        .or_missing("User not found")?;
    if let Some(counts) = app.api.counters.person_counts(user).await? {
        profile.followers_count = counts.followers;
        profile.following_count = counts.following;
        profile.posts_count = counts.posts;
    }
    let user = profile.into();
    Ok(respond::read(freshness, &ProfileAnswer { user }))
}
