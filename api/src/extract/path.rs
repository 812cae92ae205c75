//! Ids in paths. One that is not a UUID is answered 400 naming the parameter; one that is nobody's is the use case's
//! 404.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use socialhub_domain::{CommentId, NotificationId, PostId, UserId};

use crate::{error::ApiError, state::App};

/// An id that a path parameter can hold.
pub(crate) trait PathId: FromStr {
    /// The parameter's name.
    const NAME: &'static str;
}

impl PathId for UserId {
    const NAME: &'static str = "userId";
}
impl PathId for PostId {
    const NAME: &'static str = "postId";
}
impl PathId for CommentId {
    const NAME: &'static str = "commentId";
}
impl PathId for NotificationId {
    const NAME: &'static str = "id";
}

/// The id of this type in the path.
pub(crate) struct Id<T>(pub T);

impl<T: PathId> FromRequestParts<App> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let wrong = || ApiError::bad_field(T::NAME, "must be a UUID");
        let params = RawPathParams::from_request_parts(parts, app)
            .await
            .map_err(|_| wrong())?;
        let text = params.iter().find(|(name, _)| *name == T::NAME);
        text.and_then(|(_, text)| text.parse().ok())
            .map(Self)
            .ok_or_else(wrong)
    }
}
