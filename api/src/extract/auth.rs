//! Who asks: the bearer token, or what the gateway says it has found in it. A client's own `x-user-payload` is not looked
//! at: it counts only together with the gateway's secret.

use axum::extract::FromRequestParts;
use http::{HeaderMap, StatusCode, header::AUTHORIZATION, request::Parts};
use serde::Deserialize;
use socialhub_commands::Actor;
use socialhub_domain::UserId;

use crate::{
    error::ApiError,
    sign::same,
    state::{App, Shared},
};

/// What the gateway says about a person: `{"id", "username"}`.
pub(crate) const USER_PAYLOAD: &str = "x-user-payload";
/// On a question that the gateway asks for itself, not for a client.
const GATEWAY_CHECK: &str = "x-gateway-check";
/// What the gateway proves itself with.
const GATEWAY_SECRET: &str = "x-gateway-secret";
/// No token of ours is longer; a longer one is not worth a look.
const TOKEN_MAX: usize = 4_096;

/// A person with a good token.
pub(crate) struct Signed(pub Actor);

/// A person with a good token, or nobody when the request brings none. A bad token is still refused.
pub(crate) struct MaybeSigned(pub Option<Actor>);

/// The operator, by their token. Where there is none, nobody is.
pub(crate) struct Operator;

impl FromRequestParts<App> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Some(wanted) = &app.api.settings.operator_token else {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden")
                .detail("this is for the operator, and OPERATOR_TOKEN is not set"));
        };
        if is_operator(wanted, &parts.headers) {
            Ok(Self)
        } else {
            Err(ApiError::unauthorized().detail("the operator's token is needed"))
        }
    }
}

/// Whether the request brings the operator's token.
pub(crate) fn is_operator(wanted: &str, headers: &HeaderMap) -> bool {
    let given = bearer(headers).unwrap_or_default();
    same(given.as_bytes(), wanted.as_bytes())
}

impl FromRequestParts<App> for Signed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        verify(app, &parts.headers).map(Self)
    }
}

impl FromRequestParts<App> for MaybeSigned {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let named = parts.headers.contains_key(AUTHORIZATION) || vouched(app, &parts.headers);
        if named {
            verify(app, &parts.headers).map(|actor| Self(Some(actor)))
        } else {
            Ok(Self(None))
        }
    }
}

/// Who the request speaks for: as the gateway has found out, or as its token says.
pub(crate) fn verify(app: &Shared, headers: &HeaderMap) -> Result<Actor, ApiError> {
    if vouched(app, headers) {
        return payload(headers).ok_or_else(ApiError::unauthorized);
    }
    verify_token(app, headers)
}

/// Whether the request comes from the gateway and names a person.
fn vouched(app: &Shared, headers: &HeaderMap) -> bool {
    headers.contains_key(USER_PAYLOAD) && from_gateway(app, headers)
}

/// Whether the request brings the gateway's secret.
fn from_gateway(app: &Shared, headers: &HeaderMap) -> bool {
    let Some(wanted) = &app.api.settings.gateway_secret else {
        return false;
    };
    headers
        .get(GATEWAY_SECRET)
        .is_some_and(|given| same(given.as_bytes(), wanted.as_bytes()))
}

/// Whether the gateway asks for itself, to find out about a client's token.
pub(crate) fn is_gateway_check(app: &Shared, headers: &HeaderMap) -> bool {
    headers.contains_key(GATEWAY_CHECK) && from_gateway(app, headers)
}

#[derive(Deserialize)]
struct Payload {
    id: UserId,
    username: String,
}

fn payload(headers: &HeaderMap) -> Option<Actor> {
    let payload: Payload = serde_json::from_slice(headers.get(USER_PAYLOAD)?.as_bytes()).ok()?;
    Some(Actor {
        id: payload.id,
        username: payload.username,
    })
}

/// Who the request's token speaks for.
pub(crate) fn verify_token(app: &Shared, headers: &HeaderMap) -> Result<Actor, ApiError> {
    let token = bearer(headers).ok_or_else(ApiError::unauthorized)?;
    app.api
        .tokens
        .verify(token, app.api.clock.now())
        .map_err(|_| ApiError::unauthorized())
}

/// The bearer token; none when there is none, or more than one `Authorization` header, so that no two parts of a
/// system can disagree on which one counts.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    let good = values.next().is_none()
        && scheme.eq_ignore_ascii_case("bearer")
        && (1..=TOKEN_MAX).contains(&token.len());
    good.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        bearer(&headers).map(str::to_owned)
    }

    #[test]
    fn only_one_plain_bearer_token_counts() {
        assert_eq!(of(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(of(&["bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(of(&["Basic abc"]), None);
        assert_eq!(of(&["Bearer "]), None);
        assert_eq!(of(&["Bearer"]), None);
        assert_eq!(of(&["Bearer a", "Bearer a"]), None);
        assert_eq!(of(&[&format!("Bearer {}", "a".repeat(5_000))]), None);
    }
}
