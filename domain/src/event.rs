//! The event catalogue: every domain event, as stored in the log and as published on the topics.
//!
//! One shape serves both: the payload in the log is the `data` object of the public contract, `timestamp` included, so
//! that what a consumer reads over Kafka and what is rebuilt from the log cannot differ. Field names are camelCase on
//! the wire. When an event's shape changes, raise its version here, add an upcaster in [`crate::upcast`] and a fixture.
//! The JSON Schemas of the contract are made from these types, in [`crate::schema`].
//!
//! `#[personal(Tombstone of owner)]` before a field says that it is personal, which field of the event names the person it
//! is about, and what stands in its place once that person is erased ([`crate::personal`]). Ids are pseudonyms and stay.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CommentId, NotificationId, PostId, Timestamp, UserId},
    personal::{MarkedField, Tombstone},
    schema::{DescribedEvent, Field},
    topic::Topic,
};

/// Who may see a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Everybody.
    #[default]
    Public,
    /// The author and those who follow them.
    Followers,
    /// The author alone.
    Private,
}

impl Visibility {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Followers => "followers",
            Self::Private => "private",
        }
    }
}

/// One uploaded file of a post.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Media {
    /// Where it is served from: a path below the gateway (`/media/…`) or an absolute address.
    pub url: String,
    /// The sniffed media type, e.g. `image/png`.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
}

/// What every event's data has: a type name, a version, the topic and key it travels under, and a time.
pub trait EventData: Serialize + for<'de> Deserialize<'de> + Into<Event> {
    /// The public type name, e.g. `post.created`.
    const TYPE: &'static str;
    /// The version that is written today; older ones are lifted by upcasters.
    const VERSION: u32;
    /// The topic it is published on.
    const TOPIC: Topic;
}

macro_rules! events {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident = $type:literal v $version:literal on $topic:ident keyed $key:ident {
            $(
                $(#[doc = $fdoc:literal])*
                $(#[personal($tombstone:ident of $owner:ident)])?
                $(#[serde($($rule:tt)*)])*
                $field:ident : $ftype:ty
            ),* $(,)?
        }
    )*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase")]
            pub struct $name {
                $(
                    $(#[doc = $fdoc])*
                    $(#[serde($($rule)*)])*
                    pub $field: $ftype,
                )*
                /// When it happened.
                pub timestamp: Timestamp,
            }

            impl EventData for $name {
                const TYPE: &'static str = $type;
                const VERSION: u32 = $version;
                const TOPIC: Topic = Topic::$topic;
            }

            impl From<$name> for Event {
                fn from(data: $name) -> Self {
                    Self::$name(data)
                }
            }
        )*

        /// Any event of the catalogue. Serializes as the public JSON, `{"eventType": …, "data": {…}}`.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(tag = "eventType", content = "data")]
        pub enum Event {
            $(
                $(#[doc = $doc])*
                #[serde(rename = $type)]
                $name($name),
            )*
        }

        /// The catalogue itself: (type name, version written today), in the order of this file.
        pub const CATALOGUE: &[(&str, u32)] = &[ $( ($type, $version), )* ];

        /// The personal fields of each type, by their Rust names.
        pub(crate) const PERSONAL: &[(&str, &[MarkedField])] = &[ $(
            ($type, &[ $( $(
                MarkedField {
                    field: stringify!($field),
                    owner: stringify!($owner),
                    tombstone: Tombstone::$tombstone,
                },
            )? )* ]),
        )* ];

        /// What the types above say of themselves, in the order of this file.
        pub(crate) fn described() -> Vec<DescribedEvent> {
            vec![ $(
                DescribedEvent {
                    event_type: $type,
                    version: $version,
                    topic: Topic::$topic,
                    key: stringify!($key),
                    docs: &[ $($doc),* ],
                    fields: vec![
                        $( Field::of::<$ftype>(stringify!($field), &[ $($fdoc),* ]), )*
                        Field::of::<Timestamp>("timestamp", &["When it happened."]),
                    ],
                },
            )* ]
        }

        impl Event {
            /// The public type name, e.g. `post.created`.
            pub fn event_type(&self) -> &'static str {
                match self { $( Self::$name(_) => $type, )* }
            }

            /// The version of the shape that is written today.
            pub fn event_version(&self) -> u32 {
                match self { $( Self::$name(_) => $version, )* }
            }

            /// The topic it is published on.
            pub fn topic(&self) -> Topic {
                match self { $( Self::$name(_) => Topic::$topic, )* }
            }

            /// The record key: what this event is ordered by on its topic.
            pub fn key(&self) -> uuid::Uuid {
                match self { $( Self::$name(data) => data.$key.0, )* }
            }

            /// When it happened.
            pub fn timestamp(&self) -> Timestamp {
                match self { $( Self::$name(data) => data.timestamp, )* }
            }

            /// The `data` object as JSON text: the payload in the log.
            ///
            /// # Errors
            /// Never in practice: every event is made of strings, numbers and lists.
            pub fn to_payload(&self) -> Result<String, serde_json::Error> {
                match self { $( Self::$name(data) => serde_json::to_string(data), )* }
            }

            /// Reads the `data` object of an event of the current version.
            ///
            /// Answers `None` for a type that is not in the catalogue.
            pub(crate) fn from_current(event_type: &str, payload: &str) -> Option<Result<Self, serde_json::Error>> {
                match event_type {
                    $( $type => Some(serde_json::from_str::<$name>(payload).map(Self::$name)), )*
                    _ => None,
                }
            }
        }
    };
}

events! {
    /// Somebody signed up.
    UserRegistered = "user.registered" v 1 on User keyed user_id {
        /// The new person.
        user_id: UserId,
        /// Their name for logging in and for mentions, unique whatever the case.
        #[personal(Text of user_id)]
        username: String,
        /// Their display name.
        #[personal(Text of user_id)]
        name: String,
    }
    /// Somebody changed their profile; fields left out stay as they were.
    UserProfileUpdated = "user.profile_updated" v 1 on User keyed user_id {
        /// Whose profile.
        user_id: UserId,
        /// The new display name.
        #[personal(Text of user_id)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The new self-description; empty text removes it.
        #[personal(Removed of user_id)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bio: Option<String>,
        /// The new picture's address; empty text removes it.
        #[personal(Removed of user_id)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        avatar: Option<String>,
    }
    /// Somebody is erased: whatever was personal about them is gone, and nothing more is taken from them.
    UserErased = "user.erased" v 1 on User keyed user_id {
        /// Whoever it was.
        user_id: UserId,
    }
    /// Somebody started to follow somebody.
    UserFollowed = "user.followed" v 2 on User keyed following_id {
        /// Who follows.
        follower_id: UserId,
        /// Who is followed.
        following_id: UserId,
        /// The follower's username.
        #[personal(Text of follower_id)]
        follower_username: String,
        /// Whether the follower wants to be told of new posts.
        notify: bool,
    }
    /// A follower changed whether they want to be told of new posts.
    UserFollowChanged = "user.follow_changed" v 1 on User keyed following_id {
        /// Who follows.
        follower_id: UserId,
        /// Who is followed.
        following_id: UserId,
        /// The follower's username.
        #[personal(Text of follower_id)]
        follower_username: String,
        /// Whether the follower wants to be told of new posts.
        notify: bool,
    }
    /// Somebody stopped following somebody.
    UserUnfollowed = "user.unfollowed" v 1 on User keyed following_id {
        /// Who followed.
        follower_id: UserId,
        /// Who was followed.
        following_id: UserId,
        /// The follower's username.
        #[personal(Text of follower_id)]
        follower_username: String,
        /// The wish they had when they left.
        notify: bool,
    }
    /// A post was written.
    PostCreated = "post.created" v 2 on Post keyed post_id {
        /// The new post.
        post_id: PostId,
        /// Its author.
        user_id: UserId,
        /// The author's username.
        #[personal(Text of user_id)]
        username: String,
        /// The text.
        #[personal(Text of user_id)]
        content: String,
        /// Who may see it.
        visibility: Visibility,
        /// Uploaded files, in the order they were sent.
        #[personal(NoFiles of user_id)]
        media: Vec<Media>,
    }
    /// A post was deleted by its author.
    PostDeleted = "post.deleted" v 1 on Post keyed post_id {
        /// The post.
        post_id: PostId,
        /// Its author.
        user_id: UserId,
    }
    /// Somebody liked a post.
    PostLiked = "post.liked" v 1 on Post keyed post_id {
        /// The post.
        post_id: PostId,
        /// Its author.
        post_author_id: UserId,
        /// Who liked it.
        liker_id: UserId,
        /// The liker's username.
        #[personal(Text of liker_id)]
        liker_username: String,
    }
    /// Somebody took a like back.
    PostUnliked = "post.unliked" v 1 on Post keyed post_id {
        /// The post.
        post_id: PostId,
        /// Its author.
        post_author_id: UserId,
        /// Who had liked it.
        liker_id: UserId,
        /// The liker's username.
        #[personal(Text of liker_id)]
        liker_username: String,
        /// When the like that is taken back happened.
        original_timestamp: Timestamp,
    }
    /// Somebody commented on a post.
    PostCommented = "post.commented" v 1 on Post keyed post_id {
        /// The post.
        post_id: PostId,
        /// The new comment.
        comment_id: CommentId,
        /// The post's author.
        post_author_id: UserId,
        /// Who commented.
        commenter_id: UserId,
        /// The commenter's username.
        #[personal(Text of commenter_id)]
        commenter_username: String,
        /// The text.
        #[personal(Text of commenter_id)]
        comment: String,
    }
    /// A comment was deleted, by its author or the post's.
    CommentDeleted = "comment.deleted" v 1 on Post keyed post_id {
        /// The post.
        post_id: PostId,
        /// The comment.
        comment_id: CommentId,
        /// Who deleted it.
        deleted_by: UserId,
        /// When the comment was written.
        original_timestamp: Timestamp,
    }
    /// A notification was marked as read.
    NotificationRead = "notification.read" v 1 on Notification keyed user_id {
        /// The notification.
        notification_id: NotificationId,
        /// Its owner.
        user_id: UserId,
    }
    /// A notification was removed by its owner.
    NotificationDeleted = "notification.deleted" v 1 on Notification keyed user_id {
        /// The notification.
        notification_id: NotificationId,
        /// Its owner.
        user_id: UserId,
    }
    /// Everything up to a position was marked as read.
    NotificationAllRead = "notification.all_read" v 1 on Notification keyed user_id {
        /// Whose notifications.
        user_id: UserId,
        /// The position of the notifications read model when it was asked: later ones stay unread.
        up_to: u64,
    }
}
