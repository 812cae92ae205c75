//! The `post` aggregate: a post comes into being and may be deleted by its author. Likes and comments have streams of
//! their own, so that a popular post is no hot spot.

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::{
    Aggregate, Event, PostId, StreamId, Timestamp, UserId,
    event::{Media, PostCreated, PostDeleted, Visibility},
};

/// The decider of posts.
#[derive(Debug, Clone, Copy)]
pub struct Post;

/// A post that was written, as far as decisions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    /// The post.
    pub id: PostId,
    /// Who wrote it.
    pub author: UserId,
    /// Who may see it.
    pub visibility: Visibility,
    /// Whether it was deleted since.
    pub deleted: bool,
}

/// A post to be; its text was checked by [`crate::validation::content`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPost {
    /// The post.
    pub id: PostId,
    /// Who writes it.
    pub author: UserId,
    /// The author's username.
    pub username: String,
    /// The text.
    pub content: String,
    /// Who may see it.
    pub visibility: Visibility,
    /// Uploaded files, in order.
    pub media: Vec<Media>,
}

/// What may be asked of a post.
#[derive(Debug, Clone)]
pub enum PostCommand {
    /// Come into being.
    Create {
        /// The post.
        post: NewPost,
        /// When.
        at: Timestamp,
    },
    /// Go.
    Delete {
        /// Who asks.
        by: UserId,
        /// When.
        at: Timestamp,
    },
}

/// Why a post said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The id is a post's already.
    #[error("Post already exists")]
    AlreadyExists,
    /// There is none, or it was deleted.
    #[error("Post not found")]
    NotFound,
    /// Only its author may delete it.
    #[error("Not your post")]
    NotAuthor,
}

impl Post {
    /// The stream of a post.
    pub fn stream(id: PostId) -> StreamId {
        StreamId::new(Self::TYPE, id)
    }
}

impl Written {
    /// Whether a person may see the post, given whether they follow its author now. A deleted post nobody sees.
    pub fn is_visible_to(&self, reader: UserId, follows_author: bool) -> bool {
        !self.deleted
            && (reader == self.author
                || match self.visibility {
                    Visibility::Public => true,
                    Visibility::Followers => follows_author,
                    Visibility::Private => false,
                })
    }
}

fn create(state: Option<Written>, post: NewPost, at: Timestamp) -> Result<Vec<Event>, PostError> {
    if state.is_some() {
        return Err(PostError::AlreadyExists);
    }
    let event = PostCreated {
        post_id: post.id,
        user_id: post.author,
        username: post.username,
        content: post.content,
        visibility: post.visibility,
        media: post.media,
        timestamp: at,
    };
    Ok(vec![event.into()])
}

fn delete(state: Option<Written>, by: UserId, at: Timestamp) -> Result<Vec<Event>, PostError> {
    let post = state
        .filter(|post| !post.deleted)
        .ok_or(PostError::NotFound)?;
    if post.author != by {
        return Err(PostError::NotAuthor);
    }
    let event = PostDeleted {
        post_id: post.id,
        user_id: post.author,
        timestamp: at,
    };
    Ok(vec![event.into()])
}

impl Aggregate for Post {
    const TYPE: &'static str = "post";
    /// None before it was written.
    type State = Option<Written>;
    type Command = PostCommand;
    type Error = PostError;

    fn decide(state: &Self::State, command: PostCommand) -> Result<Vec<Event>, PostError> {
        match command {
            PostCommand::Create { post, at } => create(*state, post, at),
            PostCommand::Delete { by, at } => delete(*state, by, at),
        }
    }

    fn evolve(state: &mut Self::State, event: &Event) {
        match (state.as_mut(), event) {
            (_, Event::PostCreated(e)) => {
                *state = Some(Written {
                    id: e.post_id,
                    author: e.user_id,
                    visibility: e.visibility,
                    deleted: false,
                });
            }
            (Some(post), Event::PostDeleted(_)) => post.deleted = true,
            _ => {}
        }
    }
}
