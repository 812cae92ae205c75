//! `PATCH /users/profile`

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use socialhub_commands::update_profile::{ProfileChanged, UpdateProfile};
use socialhub_domain::validation;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::Origin, fields::Fields},
    respond,
    state::App,
};

/// The changes; what is left out stays.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct ChangeProfileBody {
    /// Display name.
    #[schema(min_length = 1, max_length = 100)]
    name: Option<String>,
    /// Self-description; empty or `null` removes it.
    #[schema(max_length = 500)]
    bio: Option<String>,
    /// Picture: an http(s) or `/media/…` address; empty or `null` removes it.
    #[schema(max_length = 2000)]
    avatar: Option<String>,
}

/// The profile after the change.
#[derive(Serialize, ToSchema)]
struct ChangeProfileAnswer {
    /// The person.
    user: ChangedProfile,
}

/// One's profile.
#[derive(Serialize, ToSchema)]
struct ChangedProfile {
    /// The person.
    id: Uuid,
    /// Username.
    username: String,
    /// Display name.
    name: String,
    /// Self-description.
    bio: Option<String>,
    /// Picture.
    avatar: Option<String>,
}

impl From<ProfileChanged> for ChangedProfile {
    fn from(profile: ProfileChanged) -> Self {
        Self {
            id: profile.id.0,
            username: profile.username,
            name: profile.name,
            bio: profile.bio,
            avatar: profile.avatar,
        }
    }
}

fn parse(mut fields: Fields) -> Result<UpdateProfile, ApiError> {
    let input = UpdateProfile {
        name: fields.optional_text("name", |text| validation::name(text.trim())),
        bio: fields.clearable_text("bio", |text| validation::bio(text.trim())),
        avatar: fields.clearable_text("avatar", |text| validation::avatar(text.trim())),
    };
    fields.finish()?;
    Ok(input)
}

/// Changes one's own profile.
#[utoipa::path(
    patch,
    path = "/users/profile",
    tag = "users",
    request_body = inline(ChangeProfileBody),
    responses((status = 200, description = "Changed", body = inline(ChangeProfileAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn change_profile(
    State(app): State<App>,
    Signed(actor): Signed,
    origin: Origin,
    fields: Fields,
) -> Result<Response, ApiError> {
    let input = parse(fields)?;
    let who = actor.id;
    let context = origin.context(Some(actor));
    let done = app.api.commands.update_profile(&context, input).await?;
    let user = done.result.clone().into();
    let body = ChangeProfileAnswer { user };
    Ok(respond::written(who, &done, StatusCode::OK, &body))
}
