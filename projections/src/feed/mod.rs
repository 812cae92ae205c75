//! The `feed` read model: people, follows, posts, comments, likes, and home timelines.

pub mod fold;
pub mod ports;
pub mod project;

pub use fold::FeedFold;
pub use ports::{
    CommentView, FeedItem, FeedReader, FollowEntry, PersonSummary, PostView, Profile, RecentPost,
};
pub use project::{Feed, FeedChange};
