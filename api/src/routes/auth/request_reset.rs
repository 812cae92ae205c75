//! `POST /auth/request-reset`

use axum::{extract::State, response::Response};
use socialhub_domain::validation;
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{
        context::{Fingerprint, Key, Origin},
        fields::Fields,
    },
    respond,
    state::App,
    views::Message,
};

/// Whose password was forgotten.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct RequestResetBody {
    /// E-mail address.
    #[schema(format = Email)]
    email: String,
}

/// Mails a one-time code, good for 5 minutes. The answer is the same for an unknown address.
#[utoipa::path(
    post,
    path = "/auth/request-reset",
    tag = "auth",
    request_body = inline(RequestResetBody),
    responses((status = 200, description = "Taken note of", body = Message))
)]
pub(crate) async fn request_reset(
    State(app): State<App>,
    origin: Origin,
    key: Key,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let email = fields.text("email", |text| validation::email(text.trim()));
    fields.finish()?;
    app.limiter.credentials(origin.address.0).await?;
    app.limiter.account("request-reset", &email).await?;
    let context = origin.keyed(None, key, "POST /auth/request-reset", || {
        Fingerprint::new().field("email", &email)
    });
    let done = app.api.commands.request_reset(&context, email).await?;
    let body = Message {
        message: "If the address is known, a code is on its way",
    };
    Ok(respond::written_by_nobody(&done, &body))
}
