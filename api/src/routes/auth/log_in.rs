//! `POST /auth/login`

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use socialhub_commands::log_in::LogIn;
use utoipa::ToSchema;

use super::SignedUser;
use crate::{
    error::ApiError,
    extract::{
        context::Origin,
        fields::{Check, Fields},
    },
    respond,
    state::App,
};

/// What somebody logs in with.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct LogInBody {
    /// E-mail address or username.
    identifier: String,
    /// The password.
    #[schema(format = Password)]
    password: String,
}

/// A fresh token.
#[derive(Serialize, ToSchema)]
struct LogInAnswer {
    /// A bearer token, good for 24 hours.
    token: String,
    /// The person.
    user: SignedUser,
}

fn given(text: &str) -> Check {
    if text.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(())
    }
}

fn parse(mut fields: Fields) -> Result<LogIn, ApiError> {
    let input = LogIn {
        identifier: fields.text("identifier", |text| given(text.trim())),
        password: fields.text("password", given),
    };
    fields.finish()?;
    Ok(input)
}

/// Signs somebody in.
#[utoipa::path(
    post,
    path = "/auth/login",
    tag = "auth",
    request_body = inline(LogInBody),
    responses(
        (status = 200, description = "Signed in", body = inline(LogInAnswer)),
        (status = 401, description = "`Invalid credentials`", body = crate::error::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn log_in(
    State(app): State<App>,
    origin: Origin,
    fields: Fields,
) -> Result<Response, ApiError> {
    let input = parse(fields)?;
    app.limiter.credentials(origin.address.0).await?;
    app.limiter.account("login", &input.identifier).await?;
    let signed = app.api.commands.log_in(input).await?;
    let body = LogInAnswer {
        token: signed.token,
        user: signed.user.into(),
    };
    Ok(respond::json(StatusCode::OK, &body))
}
