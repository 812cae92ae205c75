//! `POST /auth/reset-password`

use axum::{extract::State, response::Response};
use socialhub_commands::reset_password::ResetPassword;
use socialhub_domain::validation;
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{context::Origin, fields::Fields},
    respond,
    state::App,
    views::Message,
};

/// What a password is reset with.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct ResetPasswordBody {
    /// The address the code was mailed to.
    #[schema(format = Email)]
    email: String,
    /// The code.
    #[schema(pattern = "^[0-9]{6}$")]
    otp: String,
    /// 8 to 72 bytes.
    #[schema(format = Password, min_length = 8, max_length = 72)]
    new_password: String,
}

fn parse(mut fields: Fields) -> Result<ResetPassword, ApiError> {
    let input = ResetPassword {
        email: fields.text("email", |text| validation::email(text.trim())),
        otp: fields.text("otp", validation::otp),
        new_password: fields.text("newPassword", validation::password),
    };
    fields.finish()?;
    Ok(input)
}

/// Sets a new password; every older token stops working.
#[utoipa::path(
    post,
    path = "/auth/reset-password",
    tag = "auth",
    request_body = inline(ResetPasswordBody),
    responses((status = 200, description = "Done", body = Message))
)]
pub(crate) async fn reset_password(
    State(app): State<App>,
    origin: Origin,
    fields: Fields,
) -> Result<Response, ApiError> {
    let input = parse(fields)?;
    app.limiter.credentials(origin.address.0).await?;
    app.limiter.account("otp", &input.email).await?;
    let context = origin.context(None);
    let done = app.api.commands.reset_password(&context, input).await?;
    let body = Message {
        message: "Password reset",
    };
    Ok(respond::written_by_nobody(&done, &body))
}
