//! Who asks: the bearer token. A client's `x-user-payload` is not looked at.

use axum::extract::FromRequestParts;
use http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use socialhub_commands::Actor;

use crate::{
    error::ApiError,
    state::{App, Shared},
};

/// No token of ours is longer; a longer one is not worth a look.
const TOKEN_MAX: usize = 4_096;

/// A person with a good token.
pub(crate) struct Signed(pub Actor);

/// A person with a good token, or nobody when the request brings none. A bad token is still refused.
pub(crate) struct MaybeSigned(pub Option<Actor>);

impl FromRequestParts<App> for Signed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        verify(app, &parts.headers).map(Self)
    }
}

impl FromRequestParts<App> for MaybeSigned {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if parts.headers.contains_key(AUTHORIZATION) {
            verify(app, &parts.headers).map(|actor| Self(Some(actor)))
        } else {
            Ok(Self(None))
        }
    }
}

/// Who the request's token speaks for.
pub(crate) fn verify(app: &Shared, headers: &HeaderMap) -> Result<Actor, ApiError> {
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
