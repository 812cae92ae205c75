//! `POST /posts/{postId}/comment`

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use socialhub_commands::comment::Commented;
use socialhub_domain::{PostId, validation};
use utoipa::ToSchema;

use super::comments::CommentBody;
use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::{Fingerprint, Key, Origin},
        fields::Fields,
        path::Id,
    },
    respond,
    state::App,
    views::Time,
};

/// A comment to be.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
struct NewComment {
    /// The text.
    #[schema(min_length = 1, max_length = 2000)]
    comment: String,
}

/// The new comment.
#[derive(Serialize, ToSchema)]
struct CommentAnswer {
    /// The comment.
    comment: CommentBody,
}

impl From<Commented> for CommentBody {
    fn from(comment: Commented) -> Self {
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

/// Comments on a post.
#[utoipa::path(
    post,
    path = "/posts/{postId}/comment",
    tag = "posts",
    params(("postId" = Uuid, Path, description = "The post")),
    request_body = inline(NewComment),
    responses((status = 201, description = "Written", body = inline(CommentAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn comment(
    State(app): State<App>,
    Signed(actor): Signed,
    Id(post): Id<PostId>,
    origin: Origin,
    key: Key,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let text = fields.text("comment", validation::comment);
    fields.finish()?;
    let who = actor.id;
    let context = origin.keyed(Some(actor), key, "POST /posts/:postId/comment", || {
        Fingerprint::new()
            .field("postId", post.0)
            .field("comment", &text)
    });
    let done = app.api.commands.comment(&context, post, text).await?;
    let body = CommentAnswer {
        comment: done.result.clone().into(),
    };
    Ok(respond::written(who, &done, StatusCode::CREATED, &body))
}
