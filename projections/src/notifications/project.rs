//! What an event does to the notifications.

use socialhub_domain::{
    CommentId, Event, NotificationId, PostId, Timestamp, UserId,
    event::{PostCommented, PostCreated, PostLiked, UserFollowed, Visibility},
    topic::Topic,
};
use socialhub_event_log::Position;

use super::notice::{About, Notice};
use crate::{projection::Projection, store::ModelName};

/// The projection of the `notifications` model.
#[derive(Debug, Clone, Copy)]
pub struct Notifications;

/// A change of the notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotificationChange {
    /// Somebody is told something, unless they were before.
    Tell(Notice),
    /// Those who asked to be told of the author's posts, at this position of the log, are told.
    Announce {
        /// The post.
        post: PostId,
        /// Its author.
        author: UserId,
        /// The author's username.
        username: String,
        /// When it was written.
        at: Timestamp,
    },
    /// From here on a follower wants to be told of an author's posts, or does not.
    Wish {
        /// Whose posts.
        author: UserId,
        /// Who.
        follower: UserId,
        /// Whether they want it.
        wanted: bool,
    },
    /// A person is erased: whatever they did is told under the tombstone's name from now on, also what comes later.
    Erase(UserId),
    /// The post is gone, and with it every notification about it.
    PostGone(PostId),
    /// The comment is gone, and with it the notification about it.
    CommentGone {
        /// The post it stood under.
        post: PostId,
        /// The comment.
        comment: CommentId,
    },
    /// Its owner read it.
    Read(NotificationId),
    /// Its owner removed it.
    Removed(NotificationId),
    /// A person read everything up to a position of the log.
    AllRead {
        /// Who.
        user: UserId,
        /// The last position that is read.
        up_to: Position,
    },
}

impl Projection for Notifications {
    const NAME: ModelName = ModelName("notifications");
    const TOPICS: &'static [Topic] = &[Topic::Post, Topic::User, Topic::Notification];
    type Change = NotificationChange;

    fn project(_position: Position, event: &Event) -> Vec<NotificationChange> {
        match event {
            Event::UserFollowed(data) => followed(data),
            Event::UserFollowChanged(data) => {
                vec![wish(data.follower_id, data.following_id, data.notify)]
            }
            Event::UserUnfollowed(data) => {
                vec![wish(data.follower_id, data.following_id, false)]
            }
            Event::PostCreated(data) => created(data),
            Event::PostLiked(data) => liked(data).into_iter().collect(),
            Event::PostCommented(data) => commented(data).into_iter().collect(),
            Event::UserErased(data) => vec![NotificationChange::Erase(data.user_id)],
            Event::PostDeleted(data) => vec![NotificationChange::PostGone(data.post_id)],
            Event::CommentDeleted(data) => vec![NotificationChange::CommentGone {
                post: data.post_id,
                comment: data.comment_id,
            }],
            Event::NotificationRead(data) => vec![NotificationChange::Read(data.notification_id)],
            Event::NotificationDeleted(data) => {
                vec![NotificationChange::Removed(data.notification_id)]
            }
            Event::NotificationAllRead(data) => vec![NotificationChange::AllRead {
                user: data.user_id,
                up_to: data.up_to,
            }],
            _ => Vec::new(),
        }
    }
}

fn wish(follower: UserId, author: UserId, wanted: bool) -> NotificationChange {
    NotificationChange::Wish {
        author,
        follower,
        wanted,
    }
}

fn followed(data: &UserFollowed) -> Vec<NotificationChange> {
    if data.follower_id == data.following_id {
        return Vec::new();
    }
    let told = NotificationChange::Tell(Notice {
        recipient: data.following_id,
        about: About::Follow {
            follower: data.follower_id,
        },
        username: data.follower_username.clone(),
        at: data.timestamp,
    });
    vec![told, wish(data.follower_id, data.following_id, data.notify)]
}

fn created(data: &PostCreated) -> Vec<NotificationChange> {
    if data.visibility == Visibility::Private {
        return Vec::new();
    }
    let live = NotificationChange::Tell(Notice {
        recipient: data.user_id,
        about: About::OwnPost {
            post: data.post_id,
            author: data.user_id,
        },
        username: data.username.clone(),
        at: data.timestamp,
    });
    let announce = NotificationChange::Announce {
        post: data.post_id,
        author: data.user_id,
        username: data.username.clone(),
        at: data.timestamp,
    };
    vec![live, announce]
}

fn liked(data: &PostLiked) -> Option<NotificationChange> {
    (data.liker_id != data.post_author_id).then(|| {
        NotificationChange::Tell(Notice {
            recipient: data.post_author_id,
            about: About::Like {
                post: data.post_id,
                liker: data.liker_id,
            },
            username: data.liker_username.clone(),
            at: data.timestamp,
        })
    })
}

fn commented(data: &PostCommented) -> Option<NotificationChange> {
    (data.commenter_id != data.post_author_id).then(|| {
        NotificationChange::Tell(Notice {
            recipient: data.post_author_id,
            about: About::Comment {
                post: data.post_id,
                comment: data.comment_id,
                commenter: data.commenter_id,
            },
            username: data.commenter_username.clone(),
            at: data.timestamp,
        })
    })
}
