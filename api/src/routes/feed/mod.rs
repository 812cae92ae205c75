//! Feeds: one's own, trending, and the stream of new posts.

mod home;
mod stream;
mod trending;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::{router::Mounts, views::FeedPost};

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.service(routes!(home::home));
    mounts.service(routes!(trending::trending));
    mounts.service(routes!(stream::stream));
}

/// Posts of a feed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FeedAnswer {
    /// The posts.
    posts: Vec<FeedPost>,
    /// The cursor of the next page.
    next_cursor: Option<String>,
}
