//! `POST` and `PUT /users/follow/{userId}`

use axum::{extract::State, response::Response};
use http::StatusCode;
use socialhub_domain::UserId;
use utoipa::ToSchema;

use super::FollowAnswer;
use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::{Fingerprint, Key, Origin},
        fields::{Fields, OptionalFields},
        path::Id,
    },
    respond,
    state::App,
};

/// How to follow.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct FollowWish {
    /// Whether to be told of new posts.
    notify: Option<bool>,
}

/// Whether an existing follow notifies.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct ChangeFollowBody {
    /// Whether to be told of new posts.
    notify: bool,
}

/// Follows a person.
#[utoipa::path(
    post,
    path = "/users/follow/{userId}",
    tag = "users",
    params(("userId" = Uuid, Path, description = "Whom to follow")),
    request_body = inline(Option<FollowWish>),
    responses((status = 200, description = "Following", body = FollowAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn follow(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(user): Id<UserId>,
    origin: Origin,
    key: Key,
    OptionalFields(mut fields): OptionalFields,
) -> Result<Response, ApiError> {
    let notify = fields.optional_flag("notify");
    fields.finish()?;
    let who = actor.id;
    let context = origin.keyed(Some(actor), key, "POST /users/follow/:userId", || {
        Fingerprint::new().field("userId", user.0).field(
            "notify",
            notify.map_or(&[][..], |yes| if yes { b"1" } else { b"0" }),
        )
    });
    let done = app.api.commands.follow(&context, user, notify).await?;
    let body = FollowAnswer::new("Followed successfully", &done.result);
    Ok(respond::written(who, &done, StatusCode::OK, &body))
}

/// Changes whether an existing follow notifies.
#[utoipa::path(
    put,
    path = "/users/follow/{userId}",
    tag = "users",
    params(("userId" = Uuid, Path, description = "Who is followed")),
    request_body = inline(ChangeFollowBody),
    responses((status = 200, description = "Changed", body = FollowAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn change_follow(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(user): Id<UserId>,
    origin: Origin,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let notify = fields.flag("notify");
    fields.finish()?;
    let who = actor.id;
    let context = origin.context(Some(actor));
    let done = app
        .api
        .commands
        .change_follow(&context, user, notify)
        .await?;
    let body = FollowAnswer::new("Follow changed", &done.result);
    Ok(respond::written(who, &done, StatusCode::OK, &body))
}
