//! `GET /notify/stream`

use axum::{extract::State, response::Response};
use http::HeaderMap;

use super::NotificationBody;
use crate::{
    error::ApiError,
    state::App,
    stream::{Topic, open},
};

/// One's notifications, as they become visible: server-sent events whose `data` is a notification. Ids are opaque;
/// `Last-Event-ID` resumes after one.
#[utoipa::path(
    get,
    path = "/notify/stream",
    tag = "notify",
    params(("Last-Event-ID" = Option<String>, Header, description = "Where to resume")),
    responses((status = 200, description = "Events", body = NotificationBody, content_type = "text/event-stream")),
    security(("bearer" = []))
)]
pub(crate) async fn stream(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    open(app, Topic::Notifications, &headers).await
}
