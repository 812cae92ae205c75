//! The `comment` aggregate: a comment comes into being and may be deleted by its author or the post's.

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::{
    Aggregate, CommentId, Event, PostId, StreamId, Timestamp, UserId,
    event::{CommentDeleted, PostCommented},
};

/// The decider of comments.
#[derive(Debug, Clone, Copy)]
pub struct Comment;

/// A comment that was written, as far as decisions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// The comment.
    pub id: CommentId,
    /// The post it is on.
    pub post: PostId,
    /// The post's author.
    pub post_author: UserId,
    /// Who wrote it.
    pub author: UserId,
    /// When it was written.
    pub written_at: Timestamp,
    /// Whether it was deleted since.
    pub deleted: bool,
}

/// A comment to be, on a post that is there and that its author may see; its text was checked by
/// [`crate::validation::comment`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewComment {
    /// The comment.
    pub id: CommentId,
    /// The post.
    pub post: PostId,
    /// The post's author.
    pub post_author: UserId,
    /// Who comments.
    pub author: UserId,
    /// Their username.
    pub username: String,
    /// The text.
    pub text: String,
}

/// What may be asked of a comment.
#[derive(Debug, Clone)]
pub enum CommentCommand {
    /// Come into being.
    Create {
        /// The comment.
        comment: NewComment,
        /// When.
        at: Timestamp,
    },
    /// Go.
    Delete {
        /// The post it was asked for under; another post's comment is not found.
        post: PostId,
        /// Who asks.
        by: UserId,
        /// When.
        at: Timestamp,
    },
}

/// Why a comment said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommentError {
    /// The id is a comment's already.
    #[error("Comment already exists")]
    AlreadyExists,
    /// There is none, it is another post's, or it was deleted.
    #[error("Comment not found")]
    NotFound,
    /// Only its author and the post's may delete it.
    #[error("Not your comment")]
    NotAllowed,
}

impl Comment {
    /// The stream of a comment.
    pub fn stream(id: CommentId) -> StreamId {
        StreamId::new(Self::TYPE, id)
    }
}

fn create(
    state: Option<Remark>,
    comment: NewComment,
    at: Timestamp,
) -> Result<Vec<Event>, CommentError> {
    if state.is_some() {
        return Err(CommentError::AlreadyExists);
    }
    let event = PostCommented {
        post_id: comment.post,
        comment_id: comment.id,
        post_author_id: comment.post_author,
        commenter_id: comment.author,
        commenter_username: comment.username,
        comment: comment.text,
        timestamp: at,
    };
    Ok(vec![event.into()])
}

fn delete(
    state: Option<Remark>,
    post: PostId,
    by: UserId,
    at: Timestamp,
) -> Result<Vec<Event>, CommentError> {
    let comment = state
        .filter(|comment| !comment.deleted && comment.post == post)
        .ok_or(CommentError::NotFound)?;
    if by != comment.author && by != comment.post_author {
        return Err(CommentError::NotAllowed);
    }
    let event = CommentDeleted {
        post_id: comment.post,
        comment_id: comment.id,
        deleted_by: by,
        original_timestamp: comment.written_at,
        timestamp: at,
    };
    Ok(vec![event.into()])
}

impl Aggregate for Comment {
    const TYPE: &'static str = "comment";
    /// None before it was written.
    type State = Option<Remark>;
    type Command = CommentCommand;
    type Error = CommentError;

    fn decide(state: &Self::State, command: CommentCommand) -> Result<Vec<Event>, CommentError> {
        match command {
            CommentCommand::Create { comment, at } => create(*state, comment, at),
            CommentCommand::Delete { post, by, at } => delete(*state, post, by, at),
        }
    }

    fn evolve(state: &mut Self::State, event: &Event) {
        match (state.as_mut(), event) {
            (_, Event::PostCommented(e)) => {
                *state = Some(Remark {
                    id: e.comment_id,
                    post: e.post_id,
                    post_author: e.post_author_id,
                    author: e.commenter_id,
                    written_at: e.timestamp,
                    deleted: false,
                });
            }
            (Some(comment), Event::CommentDeleted(_)) => comment.deleted = true,
            _ => {}
        }
    }
}
