//! What an event does to the counters.

use socialhub_domain::{
    Event, PostId, Timestamp, UserId,
    event::{PostCreated, Visibility},
    topic::Topic,
};
use socialhub_event_log::Position;

use crate::{projection::Projection, store::ModelName};

/// The projection of the `counters` model.
#[derive(Debug, Clone, Copy)]
pub struct Counters;

/// A change of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterChange {
    /// The author has one post more.
    PostAdded {
        /// The post.
        post: PostId,
        /// Its author.
        author: UserId,
        /// Whether it may trend.
        public: bool,
    },
    /// The author has one post less; the post's own counts and score are gone for good.
    PostRemoved {
        /// The post.
        post: PostId,
        /// Its author.
        author: UserId,
    },
    /// One like more.
    Liked {
        /// The post.
        post: PostId,
        /// When it was liked.
        at: Timestamp,
    },
    /// One like less.
    Unliked {
        /// The post.
        post: PostId,
        /// When it had been liked: what is taken out of the score.
        liked_at: Timestamp,
    },
    /// One comment more.
    Commented {
        /// The post.
        post: PostId,
        /// When the comment was written.
        at: Timestamp,
    },
    /// One comment less.
    CommentRemoved {
        /// The post.
        post: PostId,
        /// When the comment had been written: what is taken out of the score.
        written_at: Timestamp,
    },
    /// One follow more.
    Followed {
        /// Who follows.
        follower: UserId,
        /// Who is followed.
        following: UserId,
    },
    /// One follow less.
    Unfollowed {
        /// Who followed.
        follower: UserId,
        /// Who was followed.
        following: UserId,
    },
}

impl Projection for Counters {
    const NAME: ModelName = ModelName("counters");
    const TOPICS: &'static [Topic] = &[Topic::Post, Topic::User];
    type Change = CounterChange;

    fn project(_position: Position, event: &Event) -> Vec<CounterChange> {
        change(event).into_iter().collect()
    }
}

fn change(event: &Event) -> Option<CounterChange> {
    Some(match event {
        Event::PostCreated(data) => added(data),
        Event::PostDeleted(data) => CounterChange::PostRemoved {
            post: data.post_id,
            author: data.user_id,
        },
        Event::PostLiked(data) => CounterChange::Liked {
            post: data.post_id,
            at: data.timestamp,
        },
        Event::PostUnliked(data) => CounterChange::Unliked {
            post: data.post_id,
            liked_at: data.original_timestamp,
        },
        Event::PostCommented(data) => CounterChange::Commented {
            post: data.post_id,
            at: data.timestamp,
        },
        Event::CommentDeleted(data) => CounterChange::CommentRemoved {
            post: data.post_id,
            written_at: data.original_timestamp,
        },
        Event::UserFollowed(data) => CounterChange::Followed {
            follower: data.follower_id,
            following: data.following_id,
        },
        Event::UserUnfollowed(data) => CounterChange::Unfollowed {
            follower: data.follower_id,
            following: data.following_id,
        },
        _ => return None,
    })
}

fn added(data: &PostCreated) -> CounterChange {
    CounterChange::PostAdded {
        post: data.post_id,
        author: data.user_id,
        public: data.visibility == Visibility::Public,
    }
}
