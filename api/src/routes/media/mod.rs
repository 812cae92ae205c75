//! `GET /media/{postId}/{name}`: uploaded files.
//!
//! Files of public posts are anybody's. Those of other posts need a token, or the signed address that the post's JSON
//! gives to somebody who may see it; the signature names that person, who is looked up again at each request.

use axum::{
    body::Body,
    extract::{RawPathParams, State, rejection::RawPathParamsRejection},
    response::Response,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use socialhub_domain::{PostId, UserId, event::Visibility, post::Post};
use utoipa_axum::routes;

use crate::{
    error::ApiError,
    extract::{auth::MaybeSigned, paging::ListQuery},
    media::{ByteRange, MediaError, OpenMedia},
    router::Mounts,
    sign::same,
    state::{App, Shared},
};

/// Signed addresses change once an hour, so that a browser can cache what they lead to.
const SIGNING_STEP: i64 = 3_600;
/// The longest last segment of an address.
const NAME_MAX: usize = 64;

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.single(routes!(file));
}

fn not_found() -> ApiError {
    ApiError::not_found("Media not found")
}

/// The signature that lets `viewer` read files of a post until `expires` (seconds since the epoch).
fn signature(app: &Shared, post: PostId, viewer: UserId, expires: i64) -> String {
    let sum = app.signer.full(
        "media",
        &[
            post.0.as_bytes(),
            viewer.0.as_bytes(),
            &expires.to_le_bytes(),
        ],
    );
    URL_SAFE_NO_PAD.encode(&sum[..16])
}

fn now_seconds(app: &Shared) -> i64 {
    app.api.clock.now().0.div_euclid(1_000)
}

/// An address of a post's file that works without a token for this viewer, for one to two hours. Addresses of other
/// hosts stay as they are.
pub(crate) fn signed(app: &Shared, post: PostId, viewer: UserId, url: String) -> String {
    if !url.starts_with("/media/") {
        return url;
    }
    let expires = (now_seconds(app).div_euclid(SIGNING_STEP) + 2) * SIGNING_STEP;
    let signature = signature(app, post, viewer, expires);
    format!("{url}?viewer={viewer}&exp={expires}&sig={signature}")
}

/// Whom a signed address was made for; none when it is not signed, or no longer good.
fn signed_viewer(app: &Shared, post: PostId, query: &ListQuery) -> Option<UserId> {
    let get = |name| query.get(name).ok().flatten();
    let viewer: UserId = get("viewer")?.parse().ok()?;
    let expires: i64 = get("exp")?.parse().ok()?;
    let wanted = signature(app, post, viewer, expires);
    let good = same(get("sig")?.as_bytes(), wanted.as_bytes());
    (good && now_seconds(app) < expires).then_some(viewer)
}

/// The post and the file's name, when both look as they should.
fn address(params: &RawPathParams) -> Option<(PostId, &str)> {
    let get = |wanted| {
        params
            .iter()
            .find_map(|(name, value)| (name == wanted).then_some(value))
    };
    let name = get("name")?;
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let good = name.len() <= NAME_MAX && name.split('.').all(plain);
    good.then(|| Some((get("postId")?.parse().ok()?, name)))?
}

/// A file of a post. Ranges and `If-None-Match` work as usual.
#[utoipa::path(
    get,
    path = "/media/{postId}/{name}",
    tag = "media",
    params(
        ("postId" = Uuid, Path, description = "The post"),
        ("name" = String, Path, description = "The file, e.g. `0.png`"),
        ("viewer" = Option<Uuid>, Query, description = "Of a signed address"),
        ("exp" = Option<i64>, Query, description = "Of a signed address"),
        ("sig" = Option<String>, Query, description = "Of a signed address"),
        ("Range" = Option<String>, Header, description = "One range of bytes")
    ),
    responses(
        (status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 206, description = "A part of it", content_type = "application/octet-stream"),
        (status = 304, description = "As you have it"),
        (status = 416, description = "No such part", body = crate::error::ProblemBody, content_type = "application/problem+json"),
    ),
    security((), ("bearer" = []))
)]
pub(crate) async fn file(
    State(app): State<App>,
    MaybeSigned(actor): MaybeSigned,
    params: Result<RawPathParams, RawPathParamsRejection>,
    query: ListQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let params = params.map_err(|_| not_found())?;
    let (post, name) = address(&params).ok_or_else(not_found)?;
    let viewer = actor
        .map(|actor| actor.id)
        .or_else(|| signed_viewer(&app, post, &query));
    let models = [&app.models.feed];
    let (_, visibility) = app
        .look_up(&models, viewer, None, Post::stream(post), || {
            app.api.feed.post_for_media(post, viewer)
        })
        .await?
        .or_missing("Media not found")?;
    let open = open_part(&app, post, name, &headers).await?;
    Ok(serve(open, visibility, &headers))
}

/// Opens what is asked for. With `If-Range` a part is given only of the file the client has another part of.
async fn open_part(
    app: &Shared,
    post: PostId,
    name: &str,
    headers: &HeaderMap,
) -> Result<OpenMedia, ApiError> {
    let range = byte_range(headers);
    let Some(condition) = headers.get(IF_RANGE).filter(|_| range.is_some()) else {
        return open(app, post, name, range).await;
    };
    let whole = open(app, post, name, None).await?;
    if condition.as_bytes() == quoted(&whole.etag).as_bytes() {
        open(app, post, name, range).await
    } else {
        Ok(whole)
    }
}

fn outside(size: u64) -> ApiError {
    let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "Range not satisfiable");
    match HeaderValue::from_str(&format!("bytes */{size}")) {
        Ok(range) => error.header(CONTENT_RANGE, range),
        Err(_) => error,
    }
}

async fn open(
    app: &Shared,
    post: PostId,
    name: &str,
    range: Option<ByteRange>,
) -> Result<OpenMedia, ApiError> {
    app.api
        .media
        .open(post, name, range)
        .await
        .map_err(|error| match error {
            MediaError::NotFound => not_found(),
            MediaError::RangeNotSatisfiable { size } => outside(size).detail(error.to_string()),
            MediaError::Unavailable(cause) => ApiError::unavailable(cause),
        })
}

/// The one range that is asked for; several, or nonsense, count as none, as RFC 9110 allows.
fn byte_range(headers: &HeaderMap) -> Option<ByteRange> {
    let value = headers.get(RANGE)?.to_str().ok()?;
    let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", last) => Some(ByteRange::Last(number(last)?)),
        (first, "") => Some(ByteRange::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::Between(first, last))
        }
    }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let etag = quoted(etag);
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == "*" || one == etag)
}

/// Whether a browser may show it by itself. SVG may run scripts, so it is not among them.
fn is_passive(content_type: &str) -> bool {
    let kinds = ["image/", "video/", "audio/"];
    kinds.iter().any(|kind| content_type.starts_with(kind)) && !content_type.contains("svg")
}

fn serve(open: OpenMedia, visibility: Visibility, headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    safety(response.headers_mut(), &open);
    caching(response.headers_mut(), &open, visibility);
    if has_already(headers, &open.etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let length = match open.range {
        Some((first, last)) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {first}-{last}/{}", open.size);
            put(response.headers_mut(), CONTENT_RANGE, &range);
            last - first + 1
        }
        None => open.size,
    };
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    *response.body_mut() = Body::from_stream(open.body);
    response
}

/// Nothing that was uploaded may act in the name of this site.
fn safety(headers: &mut HeaderMap, open: &OpenMedia) {
    put(headers, CONTENT_TYPE, &open.content_type);
    put(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(
        headers,
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; sandbox",
    );
    // Pages of the configured origins show these files.
    put(
        headers,
        HeaderName::from_static("cross-origin-resource-policy"),
        "cross-origin",
    );
    if !is_passive(&open.content_type) {
        put(headers, CONTENT_DISPOSITION, "attachment");
    }
}

fn caching(headers: &mut HeaderMap, open: &OpenMedia, visibility: Visibility) {
    let caching = match visibility {
        Visibility::Public => "public, max-age=31536000, immutable",
        Visibility::Followers | Visibility::Private => "private, no-cache",
    };
    put(headers, CACHE_CONTROL, caching);
    put(headers, ETAG, &quoted(&open.etag));
    put(headers, ACCEPT_RANGES, "bytes");
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(value: &str) -> Option<ByteRange> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, value.parse().unwrap());
        byte_range(&headers)
    }

    #[test]
    fn single_ranges_are_read_and_everything_else_is_left() {
        assert_eq!(range("bytes=0-4"), Some(ByteRange::Between(0, 4)));
        assert_eq!(range("bytes=7-"), Some(ByteRange::From(7)));
        assert_eq!(range("bytes=-3"), Some(ByteRange::Last(3)));
        for other in [
            "bytes=4-0",
            "bytes=a-b",
            "bytes=-",
            "items=0-1",
            "bytes=0-1,3-4",
            "bytes=+1-2",
        ] {
            assert_eq!(range(other), None, "{other}");
        }
        let huge = "99999999999999999999999";
        assert_eq!(
            range(&format!("bytes={huge}-")),
            Some(ByteRange::From(u64::MAX))
        );
    }

    #[test]
    fn svg_is_not_passive() {
        assert!(is_passive("image/png"));
        assert!(!is_passive("image/svg+xml"));
        assert!(!is_passive("text/html"));
    }
}
