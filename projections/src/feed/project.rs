//! What each event does to the `feed` model.

use socialhub_domain::{
    CommentId, Event, PostId, Timestamp, UserId,
    event::{Media, Visibility},
    topic::Topic,
};
use socialhub_event_log::Position;

use crate::{projection::Projection, store::ModelName};

/// The projection of the `feed` model.
///
/// Its store keeps these rules, so that any order between streams gives the same tables:
/// - the last event by position decides a follow and a like;
/// - a deleted post or comment stays as a tombstone, and whatever else is said about it changes nothing;
/// - what an event refers to need not be known yet;
/// - who is erased stays so: what comes of theirs later, from another partition, shows tombstones like the rest.
#[derive(Debug, Clone, Copy)]
pub struct Feed;

/// One change of the `feed` model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedChange {
    /// A person exists from now on.
    Register {
        /// The person.
        user: UserId,
        /// Their username, as they spell it.
        username: String,
        /// Their display name.
        name: String,
        /// When they signed up.
        at: Timestamp,
    },
    /// A profile changes; what is none stays, empty text removes.
    UpdateProfile {
        /// Whose profile.
        user: UserId,
        /// The new display name.
        name: Option<String>,
        /// The new self-description.
        bio: Option<String>,
        /// The new picture's address.
        avatar: Option<String>,
    },
    /// A person is erased: everything of theirs shows tombstones from now on.
    Erase {
        /// Who it was.
        user: UserId,
    },
    /// Somebody follows somebody.
    Follow {
        /// Who follows.
        follower: UserId,
        /// Who is followed.
        followed: UserId,
        /// Since when.
        at: Timestamp,
    },
    /// Somebody follows somebody no more.
    Unfollow {
        /// Who followed.
        follower: UserId,
        /// Who was followed.
        followed: UserId,
    },
    /// A post is there.
    CreatePost {
        /// The post.
        post: PostId,
        /// Its author.
        author: UserId,
        /// The author's username at the time.
        username: String,
        /// The text.
        content: String,
        /// Who may see it.
        visibility: Visibility,
        /// Its files.
        media: Vec<Media>,
        /// When it was written.
        at: Timestamp,
    },
    /// A post is gone, with its likes and comments.
    DeletePost {
        /// The post.
        post: PostId,
    },
    /// Somebody likes a post, or no longer.
    SetLike {
        /// The post.
        post: PostId,
        /// Who.
        user: UserId,
        /// Whether they like it.
        active: bool,
    },
    /// A comment is there.
    AddComment {
        /// The post.
        post: PostId,
        /// The comment.
        comment: CommentId,
        /// Who wrote it.
        author: UserId,
        /// Their username at the time.
        username: String,
        /// The text.
        text: String,
        /// When it was written.
        at: Timestamp,
    },
    /// A comment is gone.
    DeleteComment {
        /// The post.
        post: PostId,
        /// The comment.
        comment: CommentId,
    },
}

impl Projection for Feed {
    const NAME: ModelName = ModelName("feed");
    const TOPICS: &'static [Topic] = &[Topic::Post, Topic::User];
    type Change = FeedChange;

    fn project(_position: Position, event: &Event) -> Vec<FeedChange> {
        person_change(event)
            .or_else(|| post_change(event))
            .into_iter()
            .collect()
    }
}

fn person_change(event: &Event) -> Option<FeedChange> {
    Some(match event {
        Event::UserRegistered(data) => FeedChange::Register {
            user: data.user_id,
            username: data.username.clone(),
            name: data.name.clone(),
            at: data.timestamp,
        },
        Event::UserProfileUpdated(data) => FeedChange::UpdateProfile {
            user: data.user_id,
            name: data.name.clone(),
            bio: data.bio.clone(),
            avatar: data.avatar.clone(),
        },
        Event::UserErased(data) => FeedChange::Erase { user: data.user_id },
        Event::UserFollowed(data) => FeedChange::Follow {
            follower: data.follower_id,
            followed: data.following_id,
            at: data.timestamp,
        },
        Event::UserUnfollowed(data) => FeedChange::Unfollow {
            follower: data.follower_id,
            followed: data.following_id,
        },
        _ => return None,
    })
}

fn post_change(event: &Event) -> Option<FeedChange> {
    Some(match event {
        Event::PostCreated(data) => FeedChange::CreatePost {
            post: data.post_id,
            author: data.user_id,
            username: data.username.clone(),
            content: data.content.clone(),
            visibility: data.visibility,
            media: data.media.clone(),
            at: data.timestamp,
        },
        Event::PostDeleted(data) => FeedChange::DeletePost { post: data.post_id },
        Event::PostLiked(data) => FeedChange::SetLike {
            post: data.post_id,
            user: data.liker_id,
            active: true,
        },
        Event::PostUnliked(data) => FeedChange::SetLike {
            post: data.post_id,
            user: data.liker_id,
            active: false,
        },
        Event::PostCommented(data) => FeedChange::AddComment {
            post: data.post_id,
            comment: data.comment_id,
            author: data.commenter_id,
            username: data.commenter_username.clone(),
            text: data.comment.clone(),
            at: data.timestamp,
        },
        Event::CommentDeleted(data) => FeedChange::DeleteComment {
            post: data.post_id,
            comment: data.comment_id,
        },
        _ => return None,
    })
}
