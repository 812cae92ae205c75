//! `GET /posts/{postId}/comments`

use axum::{extract::State, response::Response};
use serde::Serialize;
use socialhub_domain::{PostId, post::Post};
use socialhub_projections::feed::ports::CommentView;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::MinPosition,
        paging::{List, ListQuery, PageParams},
        path::Id,
    },
    respond::Listing,
    state::App,
    views::Time,
};

/// A comment.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommentBody {
    /// The comment.
    pub id: Uuid,
    /// The post.
    pub post_id: Uuid,
    /// Who wrote it.
    pub user_id: Uuid,
    /// Their username.
    pub username: String,
    /// The text.
    pub comment: String,
    /// When it was written.
    pub created_at: Time,
}

impl From<CommentView> for CommentBody {
    fn from(comment: CommentView) -> Self {
        Self {
            id: comment.id.0,
            post_id: comment.post_id.0,
            user_id: comment.user_id.0,
            username: comment.username,
            comment: comment.comment,
            created_at: Time(comment.created_at),
        }
    }
}

/// A post's comments.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CommentsAnswer {
    /// Oldest first.
    comments: Vec<CommentBody>,
    /// The cursor of the next page.
    next_cursor: Option<String>,
}

/// A post's comments, oldest first.
#[utoipa::path(
    get,
    path = "/posts/{postId}/comments",
    tag = "posts",
    params(("postId" = Uuid, Path, description = "The post"), PageParams),
    responses((status = 200, description = "Comments", body = inline(CommentsAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn comments(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let list = List::new("comments", post.to_string());
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.feed];
    let (freshness, page) = app
        .look_up(&models, Some(actor.id), asked, Post::stream(post), || {
            app.api.feed.comments(post, actor.id, &request)
        })
        .await?
        .or_missing("Post not found")?;
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let body = CommentsAnswer {
        comments: page.items.into_iter().map(CommentBody::from).collect(),
        next_cursor: listing.cursor(&app, page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}
