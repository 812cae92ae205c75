//! The `reaction` aggregate: one person's like of one post, on a stream of the two: a like of a post with a million
//! likes never contends with another's.

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::{
    Aggregate, Event, PostId, StreamId, Timestamp, UserId,
    event::{PostLiked, PostUnliked},
};

/// The decider of reactions.
#[derive(Debug, Clone, Copy)]
pub struct Reaction;

/// Whether the like is set, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReactionState {
    /// When the like that holds now was given; none when there is none.
    pub liked_at: Option<Timestamp>,
}

/// What the person wants of their like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// That it is there.
    Like,
    /// That it is not.
    Unlike,
    /// The opposite of what is now.
    Toggle,
}

/// A wish about the like of a post that is there and that the person may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReactionCommand {
    /// What is wanted.
    pub wish: Wish,
    /// The post.
    pub post: PostId,
    /// The post's author.
    pub post_author: UserId,
    /// Who reacts.
    pub liker: UserId,
    /// Their username.
    pub liker_username: String,
    /// When.
    pub at: Timestamp,
}

/// A reaction never says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReactionError {}

impl Reaction {
    /// The stream of a post and a person.
    pub fn stream(post: PostId, liker: UserId) -> StreamId {
        StreamId::new(Self::TYPE, format_args!("{post}:{liker}"))
    }
}

impl Aggregate for Reaction {
    const TYPE: &'static str = "reaction";
    type State = ReactionState;
    type Command = ReactionCommand;
    type Error = ReactionError;

    fn decide(
        state: &ReactionState,
        command: ReactionCommand,
    ) -> Result<Vec<Event>, ReactionError> {
        let c = command;
        Ok(match (c.wish, state.liked_at) {
            (Wish::Like, Some(_)) | (Wish::Unlike, None) => Vec::new(),
            (Wish::Like | Wish::Toggle, None) => vec![
                PostLiked {
                    post_id: c.post,
                    post_author_id: c.post_author,
                    liker_id: c.liker,
                    liker_username: c.liker_username,
                    timestamp: c.at,
                }
                .into(),
            ],
            (Wish::Unlike | Wish::Toggle, Some(original_timestamp)) => vec![
                PostUnliked {
                    post_id: c.post,
                    post_author_id: c.post_author,
                    liker_id: c.liker,
                    liker_username: c.liker_username,
                    original_timestamp,
                    timestamp: c.at,
                }
                .into(),
            ],
        })
    }

    fn evolve(state: &mut ReactionState, event: &Event) {
        match event {
            Event::PostLiked(e) => state.liked_at = Some(e.timestamp),
            Event::PostUnliked(_) => state.liked_at = None,
            _ => {}
        }
    }
}
