//! What several routes answer: posts, people, times.

use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};
use socialhub_commands::create_post::CreatedPost;
use socialhub_domain::{
    PostId, Timestamp, UserId,
    event::{Media, Visibility},
};
use socialhub_projections::feed::ports::{PersonSummary, PostView, Profile};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{error::ApiError, state::Shared};

/// A time, written as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, format = DateTime, examples("2026-01-31T12:00:00.000Z"))]
pub(crate) struct Time(pub Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = DateTime::from_timestamp_millis(self.0.0).unwrap_or_default();
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// A short text about what was done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message {
    /// In words.
    pub message: &'static str,
}

/// A person, briefly.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Person {
    /// The person.
    pub id: Uuid,
    /// Username.
    pub username: String,
    /// Display name.
    pub name: String,
    /// Picture's address.
    pub avatar: Option<String>,
}

impl From<PersonSummary> for Person {
    fn from(person: PersonSummary) -> Self {
        Self {
            id: person.id.0,
            username: person.username,
            name: person.name,
            avatar: person.avatar,
        }
    }
}

/// A person's public profile.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProfileBody {
    /// The person.
    pub id: Uuid,
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
    /// How many posts they have.
    pub posts_count: u64,
    /// When they signed up.
    pub created_at: Time,
    /// Whether the one who asks follows them.
    pub is_following: bool,
}

impl From<Profile> for ProfileBody {
    fn from(profile: Profile) -> Self {
        Self {
            id: profile.id.0,
            name: profile.name,
            username: profile.username,
            avatar: profile.avatar,
            bio: profile.bio,
            followers_count: profile.followers_count,
            following_count: profile.following_count,
            posts_count: profile.posts_count,
            created_at: Time(profile.created_at),
            is_following: profile.is_following,
        }
    }
}

/// A file of a post.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MediaBody {
    /// Where it is served from. For a post that is not public the address is signed for the one who asked, and works
    /// without a token for one to two hours.
    pub url: String,
    /// Its type.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
}

/// A post.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PostBody {
    /// The post.
    pub id: Uuid,
    /// Its author.
    pub user_id: Uuid,
    /// The author's username.
    pub username: String,
    /// The author's picture.
    pub avatar: Option<String>,
    /// The text.
    pub content: String,
    /// `public`, `followers` or `private`.
    #[schema(value_type = String, examples("public"))]
    pub visibility: &'static str,
    /// Addresses of its files.
    pub media_urls: Vec<String>,
    /// Its files.
    pub media: Vec<MediaBody>,
    /// Likes.
    pub like_count: u64,
    /// Comments.
    pub comment_count: u64,
    /// Whether the one who asks likes it.
    pub liked_by_me: bool,
    /// When it was written.
    pub created_at: Time,
}

/// The author of a post in a feed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Author {
    /// Username.
    pub username: String,
    /// Picture's address.
    pub avatar: Option<String>,
}

/// The counts of a post in a feed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counts {
    /// Likes.
    pub likes: u64,
    /// Comments.
    pub comments: u64,
}

/// A post in a feed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeedPost {
    /// The post.
    #[serde(flatten)]
    pub post: PostBody,
    /// Its author.
    pub user: Author,
    /// Its counts.
    #[serde(rename = "_count")]
    pub count: Counts,
}

/// Makes bodies of posts for one viewer.
pub(crate) struct PostWriter<'a> {
    pub app: &'a Shared,
    pub viewer: UserId,
}

impl PostWriter<'_> {
    fn media(&self, post: PostId, visibility: Visibility, media: Vec<Media>) -> Vec<MediaBody> {
        let url = |url: String| match visibility {
            Visibility::Public => url,
            _ => crate::routes::media::signed(self.app, post, self.viewer, url),
        };
        media
            .into_iter()
            .map(|file| MediaBody {
                url: url(file.url),
                content_type: file.content_type,
                size: file.size,
            })
            .collect()
    }

    /// A post as the read model has it.
    pub(crate) fn post(&self, view: PostView) -> PostBody {
        let media = self.media(view.id, view.visibility, view.media);
        PostBody {
            id: view.id.0,
            user_id: view.user_id.0,
            username: view.username,
            avatar: view.avatar,
            content: view.content,
            visibility: view.visibility.as_str(),
            media_urls: media.iter().map(|file| file.url.clone()).collect(),
            media,
            like_count: view.like_count,
            comment_count: view.comment_count,
            liked_by_me: view.liked_by_me,
            created_at: Time(view.created_at),
        }
    }

    /// A post that was just written, with its author's picture.
    pub(crate) fn created(&self, post: CreatedPost, avatar: Option<String>) -> PostBody {
        let media = self.media(post.id, post.visibility, post.media);
        PostBody {
            id: post.id.0,
            user_id: post.user_id.0,
            username: post.username,
            avatar,
            content: post.content,
            visibility: post.visibility.as_str(),
            media_urls: media.iter().map(|file| file.url.clone()).collect(),
            media,
            like_count: 0,
            comment_count: 0,
            liked_by_me: false,
            created_at: Time(post.created_at),
        }
    }

    /// A post as feeds show it.
    pub(crate) fn feed_post(&self, view: PostView) -> FeedPost {
        FeedPost {
            user: Author {
                username: view.username.clone(),
                avatar: view.avatar.clone(),
            },
            count: Counts {
                likes: view.like_count,
                comments: view.comment_count,
            },
            post: self.post(view),
        }
    }
}

impl Shared {
    /// Puts the counters' numbers in place of the feed model's, where the counters can be trusted.
    pub(crate) async fn count(&self, posts: &mut [PostView]) -> Result<(), ApiError> {
        if posts.is_empty() {
            return Ok(());
        }
        let ids: Vec<PostId> = posts.iter().map(|post| post.id).collect();
        let Some(counts) = self.api.counters.post_counts(&ids).await? else {
            return Ok(());
        };
        for (post, count) in posts.iter_mut().zip(counts) {
            post.like_count = count.likes;
            post.comment_count = count.comments;
        }
        Ok(())
    }
}
