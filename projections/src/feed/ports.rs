//! What the `feed` model answers, and the port its readers implement.
//!
//! Every list is newest first by log position unless it says otherwise. `viewer` is who asks: what they may not see is
//! as if it were not there.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::{
    CommentId, PostId, Timestamp, UserId,
    event::{Media, Visibility},
};
use socialhub_event_log::Position;

use crate::{
    page::{Page, PageRequest},
    store::ReadError,
};

/// A person's public profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The person.
    pub id: UserId,
    /// Display name.
    pub name: String,
    /// Username as they spell it.
    pub username: String,
    /// Picture's address.
    pub avatar: Option<String>,
    /// Self-description.
    pub bio: Option<String>,
    /// How many follow them.
    pub followers_count: u64,
    /// How many they follow.
    pub following_count: u64,
    /// How many posts they have that are not deleted.
    pub posts_count: u64,
    /// When they signed up.
    pub created_at: Timestamp,
    /// Whether the viewer follows them.
    pub is_following: bool,
}

/// A person in a search result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonSummary {
    /// The person.
    pub id: UserId,
    /// Username.
    pub username: String,
    /// Display name.
    pub name: String,
    /// Picture's address.
    pub avatar: Option<String>,
}

/// A person in a list of followers or followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowEntry {
    /// The person.
    pub person: PersonSummary,
    /// Since when.
    pub followed_at: Timestamp,
}

/// A post as a viewer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostView {
    /// The post.
    pub id: PostId,
    /// Its author.
    pub user_id: UserId,
    /// The author's username (from the author's own events where known, else from the post).
    pub username: String,
    /// The author's picture.
    pub avatar: Option<String>,
    /// The text.
    pub content: String,
    /// Who may see it.
    pub visibility: Visibility,
    /// Its files.
    pub media: Vec<Media>,
    /// Likes, as this model counts them (readers of Redis counters may know better).
    pub like_count: u64,
    /// Comments, likewise.
    pub comment_count: u64,
    /// Whether the viewer likes it.
    pub liked_by_me: bool,
    /// When it was written.
    pub created_at: Timestamp,
    /// The position of its creation: the sort key of every list of posts.
    pub position: Position,
}

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommentView {
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
    /// When it was written.
    pub created_at: Timestamp,
}

/// A new post in somebody's feed, for streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedItem {
    /// The post.
    pub post_id: PostId,
    /// Its position: where a stream resumes.
    pub position: Position,
}

/// How a recent public post is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentPost {
    /// The post.
    pub post_id: PostId,
    /// Likes, as this model counts them.
    pub like_count: u64,
    /// Comments, likewise.
    pub comment_count: u64,
    /// When it was written.
    pub created_at: Timestamp,
}

/// Reads the current generation of the `feed` model.
#[async_trait]
pub trait FeedReader: Send + Sync {
    /// A profile; none when nobody has that id.
    async fn profile(&self, id: UserId, viewer: UserId) -> Result<Option<Profile>, ReadError>;

    /// People whose username or name starts with the text, whatever the case, by username.
    async fn search(
        &self,
        prefix: &str,
        page: &PageRequest,
    ) -> Result<Page<PersonSummary>, ReadError>;

    /// The newest public posts, at most so many.
    async fn recent(&self, limit: usize) -> Result<Vec<RecentPost>, ReadError>;

    /// Who follows a person; none when nobody has that id.
    async fn followers(
        &self,
        id: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError>;

    /// Whom a person follows; none when nobody has that id.
    async fn following(
        &self,
        id: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError>;

    /// A post; none when there is none that the viewer may see.
    async fn post(&self, id: PostId, viewer: UserId) -> Result<Option<PostView>, ReadError>;

    /// Those of the given posts that the viewer may see, in the order given.
    async fn posts(&self, ids: &[PostId], viewer: UserId) -> Result<Vec<PostView>, ReadError>;

    /// A person's posts that the viewer may see; none when nobody has that id.
    async fn posts_of(
        &self,
        author: UserId,
        viewer: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<PostView>>, ReadError>;

    /// At most `limit` posts of a person that are there after a position, oldest first, whoever may see them and whether or
    /// not the person is: for removing what belongs to them.
    async fn all_posts_of(
        &self,
        author: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<FeedItem>, ReadError>;

    /// A post's comments, oldest first; none when there is no such post that the viewer may see.
    async fn comments(
        &self,
        post: PostId,
        viewer: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<CommentView>>, ReadError>;

    /// The viewer's home feed: `public` and `followers` posts of those they follow.
    async fn home(&self, viewer: UserId, page: &PageRequest) -> Result<Page<PostView>, ReadError>;

    /// At most `limit` posts of the viewer's home feed after a position, oldest first, for streams.
    async fn home_after(
        &self,
        viewer: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<FeedItem>, ReadError>;

    /// Whether the file at a media path (`/media/…`) belongs to a post that is there, and that post as the viewer sees
    /// it. `viewer` is none for an anonymous request: only public posts answer.
    async fn post_for_media(
        &self,
        id: PostId,
        viewer: Option<UserId>,
    ) -> Result<Option<Visibility>, ReadError>;
}
