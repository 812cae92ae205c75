//! What the `counters` model answers, and the port its readers implement.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::{PostId, UserId};

use crate::{
    page::{Page, PageRequest},
    store::ReadError,
};

/// A post's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PostCounts {
    /// Likes.
    pub likes: u64,
    /// Comments.
    pub comments: u64,
}

/// A person's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PersonCounts {
    /// Followers.
    pub followers: u64,
    /// Followed.
    pub following: u64,
    /// Posts.
    pub posts: u64,
}

/// A post in the trending list.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrendingPost {
    /// The post.
    pub post_id: PostId,
    /// log2 of its forward-decayed score.
    pub log2_score: f64,
}

/// Reads the current generation of the `counters` model.
///
/// `None` means that the store cannot be trusted now (emptied, behind what was last served): the caller falls back to
/// the counts of the `feed` model.
#[async_trait]
pub trait CounterReader: Send + Sync {
    /// The counts of the given posts, in the order given; zeros for a post without any.
    async fn post_counts(&self, ids: &[PostId]) -> Result<Option<Vec<PostCounts>>, ReadError>;

    /// The counts of a person.
    async fn person_counts(&self, id: UserId) -> Result<Option<PersonCounts>, ReadError>;

    /// Public posts by score, highest first, ties by post id, newest first.
    async fn trending(&self, page: &PageRequest) -> Result<Page<TrendingPost>, ReadError>;
}
