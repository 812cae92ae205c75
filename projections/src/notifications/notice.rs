//! One notification: its id, text and metadata, all derived from what it is about.

use std::ops::RangeInclusive;

use serde_json::{Value, json};
use socialhub_domain::{CommentId, NotificationId, PostId, Timestamp, UserId};
use socialhub_event_log::Position;
use uuid::Uuid;

use super::ports::{NotificationKind, NotificationView};

/// The namespace of derived notification ids. Never changes: clients and tombstones hold the ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d0c_3a6e_2f5b_5e0e_9d3f_7b1c_48a2_e411);

/// How many bytes of an id say what it lies near to: the time of a version 7 UUID.
const NEAR: usize = 6;

/// What somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who is told.
    pub recipient: UserId,
    /// What about.
    pub about: About,
    /// The username of who did it, as it was then.
    pub username: String,
    /// When it happened.
    pub at: Timestamp,
}

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum About {
    /// Somebody follows the recipient.
    Follow {
        /// Who.
        follower: UserId,
    },
    /// Somebody liked the recipient's post.
    Like {
        /// The post.
        post: PostId,
        /// Who.
        liker: UserId,
    },
    /// Somebody commented on the recipient's post.
    Comment {
        /// The post.
        post: PostId,
        /// The comment.
        comment: CommentId,
        /// Who.
        commenter: UserId,
    },
    /// The recipient's own post is live.
    OwnPost {
        /// The post.
        post: PostId,
        /// Its author, the recipient.
        author: UserId,
    },
    /// Somebody whom the recipient follows, and asked to be told of, shared a post.
    NewPost {
        /// The post.
        post: PostId,
        /// Who.
        author: UserId,
    },
}

impl About {
    /// The public type.
    pub fn kind(&self) -> NotificationKind {
        match self {
            Self::Follow { .. } => NotificationKind::Follow,
            Self::Like { .. } => NotificationKind::Like,
            Self::Comment { .. } => NotificationKind::Comment,
            Self::OwnPost { .. } | Self::NewPost { .. } => NotificationKind::Post,
        }
    }

    /// Who did it.
    pub fn actor(&self) -> UserId {
        match *self {
            Self::Follow { follower } => follower,
            Self::Like { liker, .. } => liker,
            Self::Comment { commenter, .. } => commenter,
            Self::OwnPost { author, .. } | Self::NewPost { author, .. } => author,
        }
    }

    /// The post whose deletion takes the notification away.
    pub fn post(&self) -> Option<PostId> {
        match *self {
            Self::Follow { .. } => None,
            Self::Like { post, .. }
            | Self::Comment { post, .. }
            | Self::OwnPost { post, .. }
            | Self::NewPost { post, .. } => Some(post),
        }
    }

    /// The comment whose deletion takes the notification away.
    pub fn comment(&self) -> Option<CommentId> {
        match *self {
            Self::Comment { comment, .. } => Some(comment),
            _ => None,
        }
    }

    /// The id of the notification to a recipient: the same whenever and however often it happens.
    ///
    /// A hash of (kind, recipient, subject, actor) whose first six bytes are those of the post, or of the recipient
    /// when there is none. Posts have rising ids, so what is written about the posts of today lies together in an
    /// index, and everything about one post is one range ([`ids_about`]).
    pub fn id(&self, recipient: UserId) -> NotificationId {
        let (kind, subject, near) = match *self {
            Self::Follow { .. } => (1, recipient.0, recipient.0),
            Self::Like { post, .. } => (2, post.0, post.0),
            Self::Comment { post, comment, .. } => return comment_id(post, comment),
            Self::OwnPost { post, .. } | Self::NewPost { post, .. } => (4, post.0, post.0),
        };
        let actor = self.actor();
        derive(
            near,
            &[
                &[kind],
                recipient.0.as_bytes(),
                subject.as_bytes(),
                actor.0.as_bytes(),
            ],
        )
    }

    /// The text; usernames stand in it without quotes.
    pub fn message(&self, username: &str) -> String {
        match self {
            Self::Follow { .. } => format!("{username} started following you"),
            Self::Like { .. } => format!("{username} liked your post"),
            Self::Comment { .. } => format!("{username} commented on your post"),
            Self::OwnPost { .. } => "Your post is live".to_owned(),
            Self::NewPost { .. } => format!("{username} shared a new post"),
        }
    }

    /// Ids of what it is about, for clients.
    pub fn metadata(&self) -> Value {
        match self {
            Self::Follow { follower } => json!({"followerId": follower}),
            Self::Like { post, liker } => json!({"postId": post, "likerId": liker}),
            Self::Comment {
                post,
                comment,
                commenter,
            } => json!({"postId": post, "commentId": comment, "commenterId": commenter}),
            Self::OwnPost { post, author } | Self::NewPost { post, author } => {
                json!({"postId": post, "userId": author})
            }
        }
    }
}

/// The id of the notification about a comment. Its recipient and actor follow from the comment and need not be known.
pub fn comment_id(post: PostId, comment: CommentId) -> NotificationId {
    derive(post.0, &[&[3], comment.0.as_bytes()])
}

/// The range in which every notification about a post has its id. Other ids may lie in it too.
pub fn ids_about(post: PostId) -> RangeInclusive<NotificationId> {
    let bounds = [0x00, 0xff].map(|fill| {
        let mut bytes = [fill; 16];
        bytes[..NEAR].copy_from_slice(&post.0.as_bytes()[..NEAR]);
        NotificationId(Uuid::from_bytes(bytes))
    });
    bounds[0]..=bounds[1]
}

fn derive(near: Uuid, parts: &[&[u8]]) -> NotificationId {
    let hash = Uuid::new_v5(&NAMESPACE, &parts.concat());
    let mut bytes = hash.into_bytes();
    bytes[..NEAR].copy_from_slice(&near.as_bytes()[..NEAR]);
    // Version 8: a layout of one's own.
    NotificationId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

impl Notice {
    /// The notification's id.
    pub fn id(&self) -> NotificationId {
        self.about.id(self.recipient)
    }

    /// What its owner sees.
    pub fn into_view(self, position: Position, read: bool) -> NotificationView {
        NotificationView {
            id: self.id(),
            user_id: self.recipient,
            kind: self.about.kind(),
            message: self.about.message(&self.username),
            metadata: self.about.metadata(),
            read,
            created_at: self.at,
            position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n << 80 | n)
    }

    #[test]
    fn ids_depend_on_kind_recipient_subject_and_actor() {
        let (post, other) = (PostId(id(1)), PostId(id(2)));
        let (me, you) = (UserId(id(3)), UserId(id(4)));
        let comment = CommentId(id(5));
        let ids = [
            About::Follow { follower: me }.id(you),
            About::Follow { follower: you }.id(me),
            About::Like { post, liker: me }.id(you),
            About::Like { post, liker: you }.id(you),
            About::Like {
                post: other,
                liker: me,
            }
            .id(you),
            About::Comment {
                post,
                comment,
                commenter: me,
            }
            .id(you),
            About::OwnPost { post, author: you }.id(you),
            About::NewPost { post, author: you }.id(me),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert_eq!(About::Like { post, liker: me }.id(you), ids[2]);
        assert_eq!(comment_id(post, comment), ids[5]);
    }

    #[test]
    fn ids_about_a_post_lie_in_its_range() {
        let (post, user) = (PostId(id(7)), UserId(id(8)));
        for about in [
            About::Like { post, liker: user },
            About::NewPost { post, author: user },
            About::Comment {
                post,
                comment: CommentId(id(9)),
                commenter: user,
            },
        ] {
            assert!(ids_about(post).contains(&about.id(user)));
            assert!(!ids_about(PostId(id(6))).contains(&about.id(user)));
        }
    }

    /// Tombstones and clients hold ids: they may never change.
    #[test]
    fn ids_are_for_ever() {
        let (post, liker) = (PostId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let id = About::Like { post, liker }.id(UserId(Uuid::from_u128(3)));
        assert_eq!(id.to_string(), "00000000-0000-8ae7-abcb-1f3e253ea914");
    }
}
