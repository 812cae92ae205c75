//! `DELETE /users/me`

use axum::{extract::State, response::Response};
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::Origin,
        fields::{Check, Fields},
    },
    respond,
    state::App,
};

/// What somebody proves with that it is them.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct EraseBody {
    /// The password.
    #[schema(format = Password)]
    password: String,
}

fn given(text: &str) -> Check {
    if text.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(())
    }
}

/// Erases the account, for good.
///
/// Posts and comments stay as tombstones, so that counts and threads stay right; everything personal is gone. The username
/// and the e-mail address are free again at once.
#[utoipa::path(
    delete,
    path = "/users/me",
    tag = "users",
    request_body = inline(EraseBody),
    responses(
        (status = 204, description = "Erased: tokens are dead, the rest follows within moments"),
        (status = 401, description = "`Unauthorized`, or `Invalid credentials` for a wrong password", body = crate::error::ProblemBody, content_type = "application/problem+json"),
    ),
    security(("bearer" = []))
)]
pub(crate) async fn erase(
    State(app): State<App>,
    Signed(actor): Signed,
    origin: Origin,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let password = fields.text("password", given);
    fields.finish()?;
    app.limiter.credentials(origin.address.0).await?;
    app.limiter.account("login", &actor.username).await?;
    let who = actor.id;
    let context = origin.context(Some(actor));
    let done = app.api.commands.erase_user(&context, password).await?;
    Ok(respond::written_empty(who, &done))
}
