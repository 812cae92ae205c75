//! `GET /feed/stream`

use axum::{extract::State, response::Response};
use http::HeaderMap;

use crate::{
    error::ApiError,
    state::App,
    stream::{NewPost, Topic, open},
};

/// New posts of one's feed, as they become visible: server-sent events whose `data` is `{"postId"}`. Ids are opaque;
/// `Last-Event-ID` resumes after one.
#[utoipa::path(
    get,
    path = "/feed/stream",
    tag = "feed",
    params(("Last-Event-ID" = Option<String>, Header, description = "Where to resume")),
    responses((status = 200, description = "Events", body = NewPost, content_type = "text/event-stream")),
    security(("bearer" = []))
)]
pub(crate) async fn stream(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    open(app, Topic::Feed, &headers).await
}
