//! `POST /auth/signup`

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use socialhub_commands::sign_up::SignUp;
use socialhub_domain::validation;
use utoipa::ToSchema;

use super::SignedUser;
use crate::{
    error::ApiError,
    extract::{
        context::{Fingerprint, Key, Origin},
        fields::Fields,
    },
    respond,
    state::{App, Shared},
};

/// What somebody signs up with.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct SignUpBody {
    /// Display name.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// E-mail address, unique.
    #[schema(format = Email)]
    email: String,
    /// Unique whatever the case.
    #[schema(pattern = "^[A-Za-z0-9_.-]{3,30}$")]
    username: String,
    /// 8 to 72 bytes.
    #[schema(format = Password, min_length = 8, max_length = 72)]
    password: String,
}

/// The new person, signed in.
#[derive(Serialize, ToSchema)]
struct SignUpAnswer {
    /// `User created`.
    message: &'static str,
    /// A bearer token, good for 24 hours.
    token: String,
    /// The person.
    user: SignedUser,
}

fn parse(mut fields: Fields) -> Result<SignUp, ApiError> {
    let input = SignUp {
        name: fields.text("name", |text| validation::name(text.trim())),
        email: fields.text("email", |text| validation::email(text.trim())),
        username: fields.text("username", |text| validation::username(text.trim())),
        password: fields.text("password", validation::password),
    };
    fields.finish()?;
    Ok(input)
}

/// The password goes in as a keyed hash: the stored fingerprint must not be a shortcut around bcrypt.
fn fingerprint(app: &Shared, input: &SignUp) -> Fingerprint {
    let password = app.signer.full("password", &[input.password.as_bytes()]);
    Fingerprint::new()
        .field("name", &input.name)
        .field("email", &input.email)
        .field("username", &input.username)
        .field("password", password)
}

/// Registers a person and signs them in.
#[utoipa::path(
    post,
    path = "/auth/signup",
    tag = "auth",
    request_body = inline(SignUpBody),
    responses((status = 201, description = "Registered", body = inline(SignUpAnswer)))
)]
pub(crate) async fn sign_up(
    State(app): State<App>,
    origin: Origin,
    key: Key,
    fields: Fields,
) -> Result<Response, ApiError> {
    let input = parse(fields)?;
    app.limiter.credentials(origin.address.0).await?;
    let context = origin.keyed(None, key, "POST /auth/signup", || fingerprint(&app, &input));
    let mut done = app.api.commands.sign_up(&context, input).await?;
    let body = SignUpAnswer {
        message: "User created",
        token: std::mem::take(&mut done.result.token),
        user: done.result.user.clone().into(),
    };
    let who = done.result.user.id;
    Ok(respond::written(who, &done, StatusCode::CREATED, &body))
}
