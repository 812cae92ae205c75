//! `POST /auth/verify-otp`

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use socialhub_domain::validation;
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{context::Origin, fields::Fields},
    respond,
    state::App,
};

/// A code to be checked.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct VerifyOtpBody {
    /// The address the code was mailed to.
    #[schema(format = Email)]
    email: String,
    /// The code.
    #[schema(pattern = "^[0-9]{6}$")]
    otp: String,
}

/// The code is good.
#[derive(Serialize, ToSchema)]
struct VerifyOtpAnswer {
    /// Always true; a bad code is answered 400.
    valid: bool,
}

/// Checks a one-time code; the fifth wrong try burns it.
#[utoipa::path(
    post,
    path = "/auth/verify-otp",
    tag = "auth",
    request_body = inline(VerifyOtpBody),
    responses((status = 200, description = "A good code", body = inline(VerifyOtpAnswer)))
)]
pub(crate) async fn verify_otp(
    State(app): State<App>,
    origin: Origin,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let email = fields.text("email", |text| validation::email(text.trim()));
    let otp = fields.text("otp", validation::otp);
    fields.finish()?;
    app.limiter.credentials(origin.address.0).await?;
    app.limiter.account("otp", &email).await?;
    app.api.commands.verify_otp(email, otp).await?;
    Ok(respond::json(
        StatusCode::OK,
        &VerifyOtpAnswer { valid: true },
    ))
}
