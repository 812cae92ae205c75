//! Problem answers (RFC 9457) of the REST side, in the shape of the whole API.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// A field that is wrong, and how.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FieldError {
    pub(crate) field: &'static str,
    pub(crate) message: &'static str,
}

/// A problem to answer with.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) error: &'static str,
    pub(crate) detail: &'static str,
    pub(crate) errors: Vec<FieldError>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    error: &'a str,
    errors: &'a [FieldError],
    request_id: Option<&'a str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: &'static str, detail: &'static str) -> Self {
        Self {
            status,
            error,
            detail,
            errors: Vec::new(),
        }
    }

    /// A request with bad fields.
    pub(crate) fn invalid(field: &'static str, message: &'static str) -> Self {
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "Validation failed",
            "the request has fields that are not valid",
        );
        problem.errors.push(FieldError { field, message });
        problem
    }

    /// The answer; it repeats the request's id when the request has one.
    pub(crate) fn answer(&self, request: &HeaderMap) -> Response {
        let request_id = request.get("x-request-id").and_then(|id| id.to_str().ok());
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: self.detail,
            error: self.error,
            errors: &self.errors,
            request_id,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
