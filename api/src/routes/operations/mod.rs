//! Liveness, readiness, metrics, and the description of this API.

use axum::{
    extract::State,
    response::{Html, IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, StatusCode, header::CONTENT_SECURITY_POLICY, header::CONTENT_TYPE,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::{
    error::ApiError,
    extract::auth::is_operator,
    openapi,
    readiness::{NotReady, PartFigures, Readiness},
    respond,
    router::Mounts,
    state::App,
};

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.single(routes!(livez));
    mounts.single(routes!(readyz));
    mounts.single(routes!(metrics));
    mounts.single(routes!(document));
    mounts.single(routes!(docs));
}

/// The program runs.
#[derive(Serialize, ToSchema)]
struct Alive {
    /// `ok`.
    status: &'static str,
}

/// Whether the program can serve.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Ready {
    /// Whether it can.
    ready: bool,
    /// Every part that is not ready.
    not_ready: Vec<NotReady>,
    /// How far each part of this process is that follows the event log.
    parts: Vec<PartFigures>,
}

/// Answers as long as the program runs.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "operations",
    responses((status = 200, description = "Alive", body = inline(Alive)))
)]
pub(crate) async fn livez() -> Response {
    respond::json(StatusCode::OK, &Alive { status: "ok" })
}

/// Whether the program can serve, and what is in the way.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "Ready", body = inline(Ready)),
        (status = 503, description = "Not ready; says what is not", body = inline(Ready)),
    )
)]
pub(crate) async fn readyz(State(app): State<App>) -> Response {
    readiness(&*app.api.readiness, app.api.shutdown.is_cancelled()).await
}

/// The answer to the question whether a process can serve.
pub(crate) async fn readiness(readiness: &dyn Readiness, shutting_down: bool) -> Response {
    let mut not_ready = readiness.not_ready().await;
    if shutting_down {
        not_ready.push(NotReady {
            name: "server".to_owned(),
            reason: "shutting down".to_owned(),
        });
    }
    let ready = not_ready.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let parts = readiness.figures();
    respond::json(
        status,
        &Ready {
            ready,
            not_ready,
            parts,
        },
    )
}

/// Metrics in Prometheus' text format; wants the operator's token when one is set for it.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain")),
    security((), ("operator" = []))
)]
pub(crate) async fn metrics(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = app.api.settings.operator_token.as_deref();
    if wanted.is_some_and(|wanted| !is_operator(wanted, &headers)) {
        return Err(ApiError::unauthorized());
    }
    Ok(exposition((app.api.metrics)()))
}

/// Metrics as Prometheus reads them.
pub(crate) fn exposition(text: String) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], text).into_response()
}

/// This API as an OpenAPI document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operations",
    responses((status = 200, description = "The document", body = Object))
)]
pub(crate) async fn document() -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, kind)], openapi::text()).into_response()
}

/// This API as a page to read. It loads nothing from elsewhere.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "operations",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(crate) async fn docs() -> Response {
    let policy = HeaderValue::from_static(
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    );
    ([(CONTENT_SECURITY_POLICY, policy)], Html(openapi::PAGE)).into_response()
}
