//! Use cases: commenting and deleting comments.

use serde::{Deserialize, Serialize};
use socialhub_domain::{
    CommentId, PostId, StreamId, Timestamp, UserId,
    comment::{Comment, CommentCommand, NewComment, Remark},
    post::Post,
    validation::{self, Problems},
};

use crate::{
    CommandContext, CommandError, Commands, Done,
    error::valid,
    executor::{Loaded, Next, Target},
    visibility::{self, Sight},
};

/// The new comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commented {
    /// The comment.
    pub id: CommentId,
    /// The post.
    pub post_id: PostId,
    /// Who wrote it.
    pub user_id: UserId,
    /// Their username.
    pub username: String,
    /// The text.
    pub comment: String,
    /// When.
    pub created_at: Timestamp,
}

impl Commands {
    /// Comments, 1 to 2,000 characters. 404 `Post not found`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn comment(
        &self,
        ctx: &CommandContext,
        post: PostId,
        comment: String,
    ) -> Result<Done<Commented>, CommandError> {
        let actor = ctx.actor()?;
        valid(Problems::default().with("comment", validation::comment(&comment)))?;
        let id = CommentId(self.ports.ids.next_id());
        let target = Target::fresh(Comment::stream(id)).looking_at(Post::stream(post));
        let run = self.execute::<Comment, _>(
            ctx,
            target,
            |_, loaded, at| {
                visibility::with_visible_post(loaded, post, actor.id, |post| {
                    let comment = NewComment {
                        id,
                        post: post.id,
                        post_author: post.author,
                        author: actor.id,
                        username: actor.username.clone(),
                        text: comment.clone(),
                    };
                    CommentCommand::Create { comment, at }
                })
            },
            |_, at| Commented {
                id,
                post_id: post,
                user_id: actor.id,
                username: actor.username.clone(),
                comment: comment.clone(),
                created_at: at,
            },
        );
        self.idempotent(ctx, run).await
    }

    /// Deletes a comment: its author's or the post's author's to do. 404 `Comment not found`, 403.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn delete_comment(
        &self,
        ctx: &CommandContext,
        post: PostId,
        comment: CommentId,
    ) -> Result<Done<()>, CommandError> {
        let actor = ctx.actor()?;
        let target = Target::existing(Comment::stream(comment)).looking_at(Post::stream(post));
        let run = self.execute::<Comment, _>(
            ctx,
            target,
            |state, loaded, at| {
                may_ask(*state, post, actor.id, loaded)?.map_or_else(
                    || {
                        let by = actor.id;
                        Ok(Next::Decide(CommentCommand::Delete { post, by, at }))
                    },
                    |stream| Ok(Next::Load(stream)),
                )
            },
            |_, _| (),
        );
        self.idempotent(ctx, run).await
    }
}

/// Whether the actor may know of the comment at all; answers with the stream that must be loaded to tell.
///
/// A deleted post takes its comments with it. Whoever wrote the comment may remove it even when the post is hidden
/// from them since; to others the comments of a hidden post are not there.
fn may_ask(
    comment: Option<Remark>,
    post: PostId,
    actor: UserId,
    loaded: &Loaded,
) -> Result<Option<StreamId>, CommandError> {
    let state = loaded.state::<Post>(&Post::stream(post))?.flatten();
    if state.is_none_or(|post| post.deleted) {
        return Err(CommandError::NO_COMMENT);
    }
    if comment.is_some_and(|comment| comment.author == actor) {
        return Ok(None);
    }
    match visibility::look(state, actor, loaded)? {
        Sight::Seen(_) => Ok(None),
        Sight::Unseen => Err(CommandError::NO_COMMENT),
        Sight::Depends(stream) => Ok(Some(stream)),
    }
}
