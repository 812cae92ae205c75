//! Posts, reactions and comments.

mod comment;
mod comments;
mod create;
mod delete;
mod delete_comment;
mod like;
mod list;
mod read;
mod upload;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::{router::Mounts, views::PostBody};

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.service(routes!(create::create));
    mounts.service(routes!(read::read, delete::delete));
    mounts.service(routes!(list::posts_of));
    mounts.service(routes!(like::toggle, like::set, like::unset));
    mounts.service(routes!(comment::comment));
    mounts.service(routes!(comments::comments));
    mounts.service(routes!(delete_comment::delete_comment));
}

/// A post.
#[derive(Serialize, ToSchema)]
pub(crate) struct PostAnswer {
    /// The post.
    post: PostBody,
}
