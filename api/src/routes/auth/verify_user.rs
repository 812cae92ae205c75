//! `GET /auth/verify-user`: what the gateway asks for every protected request.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};
use serde::Serialize;
use socialhub_commands::Actor;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    extract::auth::{USER_PAYLOAD, is_gateway_check, verify_token},
    respond,
    state::App,
};

/// Whether the token is good.
#[derive(Serialize, ToSchema)]
struct Valid {
    /// Whether it is.
    valid: bool,
}

/// The person, as services behind the gateway get to know them.
#[derive(Serialize)]
struct UserPayload<'a> {
    id: Uuid,
    username: &'a str,
}

/// The header's value; none when a username could not stand in a header, which none can.
fn payload(actor: &Actor) -> Option<HeaderValue> {
    let payload = UserPayload {
        id: actor.id.0,
        username: &actor.username,
    };
    HeaderValue::from_maybe_shared(serde_json::to_vec(&payload).ok()?).ok()
}

/// Checks a token; `x-user-payload` of a good one says whose it is.
#[utoipa::path(
    get,
    path = "/auth/verify-user",
    tag = "auth",
    responses(
        (status = 200, description = "A good token", body = inline(Valid), headers(("x-user-payload" = String, description = "JSON: id, username"))),
        (status = 401, description = "No good token", body = inline(Valid)),
    ),
    security(("bearer" = []))
)]
pub(crate) async fn verify_user(State(app): State<App>, headers: HeaderMap) -> Response {
    let payload = verify_token(&app, &headers)
        .ok()
        .and_then(|actor| payload(&actor));
    let Some(payload) = payload else {
        let mut response = respond::json(StatusCode::UNAUTHORIZED, &Valid { valid: false });
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        return response;
    };
    // A gateway that asks for itself wants no body: nginx would drop the connection after one.
    let mut response = if is_gateway_check(&app, &headers) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        respond::json(StatusCode::OK, &Valid { valid: true })
    };
    response.headers_mut().insert(USER_PAYLOAD, payload);
    response
}
