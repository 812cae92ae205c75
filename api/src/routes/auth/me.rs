//! `GET /auth/me`

use axum::{extract::State, response::Response};

use crate::{
    error::ApiError,
    extract::{auth::Signed, context::MinPosition},
    routes::users::{ProfileAnswer, answer_profile},
    state::App,
};

/// Who the token speaks for.
#[utoipa::path(
    get,
    path = "/auth/me",
    tag = "auth",
    responses((status = 200, description = "One's own profile", body = ProfileAnswer)),
    security(("bearer" = []))
)]
pub(crate) async fn me(
    State(app): State<App>,
    Signed(actor): Signed,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    answer_profile(&app, actor.id, actor.id, asked).await
}
