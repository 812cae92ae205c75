//! Bodies: read with a limit and a deadline, whatever the client does.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};

use crate::{error::ApiError, state::Shared};

/// After a refusal the rest of a body of up to this many bytes is read and thrown away, so that a client that is still
/// sending gets to read the answer instead of a broken connection.
const DRAIN_LIMIT: usize = 128 * 1024 * 1024;

/// The media type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?;
    Some(essence.trim().to_ascii_lowercase())
}

/// Whether the body is a form with files.
pub(crate) fn is_multipart(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let prefix = b"multipart/form-data";
        value
            .as_bytes()
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

/// Whether the body says it is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| {
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    })
}

/// 415 naming what is taken.
pub(crate) fn wrong_type(taken: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type")
        .detail(format!("the Content-Type must be {taken}"))
}

/// The body was not here in time.
pub(crate) fn too_slow() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "Request timeout")
        .detail("the body did not arrive in time")
}

/// The body ended before it should.
pub(crate) fn broken() -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "Bad request").detail("the body broke off")
}

/// Reads a small body as a whole.
pub(crate) async fn read(app: &Shared, body: Body) -> Result<Bytes, ApiError> {
    let settings = &app.api.settings;
    let mut body = body.into_data_stream();
    let reading = collect(&mut body, settings.json_limit);
    let read = tokio::time::timeout(settings.body_timeout, reading)
        .await
        .map_err(|_| too_slow())?;
    match read? {
        Some(bytes) => Ok(bytes),
        None => {
            drain(&mut body, settings.body_timeout).await;
            Err(too_large(settings.json_limit))
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Too large")
        .detail(format!("the body must be at most {limit} bytes"))
}

/// The whole body; none when it is larger than the limit. A body in one piece is not copied.
async fn collect<S>(body: &mut S, limit: usize) -> Result<Option<Bytes>, ApiError>
where
    S: Stream<Item = Result<Bytes, axum::Error>> + Unpin,
{
    let mut first = Bytes::new();
    let mut joined: Option<BytesMut> = None;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| broken())?;
        let so_far = joined.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + chunk.len() > limit {
            return Ok(None);
        }
        match &mut joined {
            Some(joined) => joined.extend_from_slice(&chunk),
            None if first.is_empty() => first = chunk,
            None => {
                let mut both = BytesMut::from(first.as_ref());
                both.extend_from_slice(&chunk);
                joined = Some(both);
            }
        }
    }
    Ok(Some(joined.map_or(first, BytesMut::freeze)))
}

/// Reads and throws away what a client is still sending, within bounds of size and time.
pub(crate) async fn drain<S, E>(body: &mut S, limit: Duration)
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let reading = async {
        let mut left = DRAIN_LIMIT;
        while let Some(Ok(chunk)) = body.next().await {
            match left.checked_sub(chunk.len()) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // Out of time or not: the answer goes out now.
    let _ = tokio::time::timeout(limit, reading).await;
}
