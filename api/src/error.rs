//! Errors as clients see them: `application/problem+json` (RFC 9457) with the short message of the contract in `error`.
//!
//! A handler returns an [`ApiError`]; its response carries a [`Problem`] as an extension, and the outermost layer
//! writes the body, because only there the request's id is at hand.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use socialhub_commands::{CommandError, FieldError};
use socialhub_projections::{Freshness, ReadError};
use utoipa::ToSchema;

/// A bad field, by its name on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BadField {
    /// The field, header or query parameter, e.g. `email`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl From<FieldError> for BadField {
    fn from(error: FieldError) -> Self {
        Self {
            field: error.field,
            message: error.message,
        }
    }
}

/// The body of every error.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemBody<'a> {
    /// Always `about:blank`: the status says it all.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, in a sentence.
    pub detail: &'a str,
    /// The short message of the contract, e.g. `User already exists`.
    pub error: &'a str,
    /// Every bad field; empty when the error is about none.
    pub errors: &'a [BadField],
    /// The request's id, as in `X-Request-Id`.
    pub request_id: &'a str,
}

/// What went wrong, before it is written down.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub status: StatusCode,
    pub error: Cow<'static, str>,
    pub detail: Option<Cow<'static, str>>,
    pub errors: Vec<BadField>,
    /// Seconds until it makes sense to ask again.
    pub retry_after: Option<u64>,
    /// A header this kind of error comes with.
    pub header: Option<(HeaderName, HeaderValue)>,
    /// For the log only.
    pub cause: Option<String>,
}

/// Why a request was not answered as asked.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Problem>);

/// Seconds a client is asked to wait when the server cannot serve it now.
const RETRY_SECONDS: u64 = 1;

impl ApiError {
    /// An error with the contract's short message.
    pub(crate) fn new(status: StatusCode, error: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Problem {
            status,
            error: error.into(),
            detail: None,
            errors: Vec::new(),
            retry_after: None,
            header: None,
            cause: None,
        }))
    }

    /// 400 naming fields.
    pub(crate) fn invalid(errors: Vec<BadField>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "Validation failed");
        error.0.errors = errors;
        error
    }

    /// 400 naming one field.
    pub(crate) fn bad_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![BadField {
            field: field.into(),
            message: message.into(),
        }])
    }

    /// 404 with the contract's short message.
    pub(crate) fn not_found(error: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// Says that the read model was behind what was asked for: what is not found may be there.
    pub(crate) fn seen_at(mut self, freshness: Freshness) -> Self {
        if freshness.stale {
            self.0.header = Some((
                HeaderName::from_static("x-stale"),
                HeaderValue::from_static("true"),
            ));
            self.0.detail = Some("the read model is behind: it may be there, ask again".into());
        }
        self
    }

    /// 401: no or no good token.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized").detail("a valid bearer token is needed")
    }

    /// 429.
    pub(crate) fn too_many(seconds: u64, detail: &'static str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests")
            .detail(detail)
            .retry_after(seconds)
    }

    /// 503: certainly not applied.
    pub(crate) fn unavailable(cause: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Temporarily unavailable")
            .retry_after(RETRY_SECONDS)
            .cause(cause)
    }

    /// 504: may or may not have been applied.
    pub(crate) fn outcome_unknown() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "outcome unknown")
            .detail("it may have been applied; ask again with the same Idempotency-Key")
    }

    /// 500: ours. The cause is logged, never told.
    pub(crate) fn internal(cause: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error").cause(cause)
    }

    /// Adds a sentence.
    pub(crate) fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds `Retry-After`, in seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let text = error.to_string();
        match error {
            CommandError::Invalid(fields) => {
                Self::invalid(fields.into_iter().map(BadField::from).collect())
            }
            CommandError::Refused(short) => Self::new(StatusCode::BAD_REQUEST, short),
            CommandError::Unauthenticated(short) => Self::new(StatusCode::UNAUTHORIZED, short),
            CommandError::Forbidden(short) => Self::new(StatusCode::FORBIDDEN, short),
            CommandError::NotFound(short) => Self::not_found(short),
            CommandError::StillRunning | CommandError::Contended => {
                Self::new(StatusCode::CONFLICT, text).retry_after(RETRY_SECONDS)
            }
            CommandError::TooLarge(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Too large").detail(text)
            }
            CommandError::UnsupportedMedia(_) => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type").detail(text)
            }
            CommandError::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, text),
            CommandError::Unavailable(cause) => Self::unavailable(cause),
            CommandError::OutcomeUnknown => Self::outcome_unknown(),
            CommandError::Internal(cause) => Self::internal(cause),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        Self::unavailable(error.0)
    }
}

impl Problem {
    /// The body's JSON.
    pub(crate) fn render(&self, request_id: &str) -> Vec<u8> {
        let body = ProblemBody {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail(),
            error: &self.error,
            errors: &self.errors,
            request_id,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    fn detail(&self) -> &str {
        match &self.detail {
            Some(detail) => detail,
            None if self.errors.is_empty() => &self.error,
            None => "some fields are not as they should be; `errors` names all of them",
        }
    }
}
