//! The documents. Ids are stored as text: FerretDB finds binary values only by reading everything.

use std::collections::HashSet;

use mongodb::bson::Document;
use serde::{Deserialize, Serialize};
use socialhub_domain::{
    CommentId, NotificationId, PostId, Timestamp, UserId, personal::ERASED_TEXT,
};
use socialhub_event_log::Position;
use socialhub_projections::notifications::{About, Notice, NotificationView};
use uuid::Uuid;

use crate::mongo::connection::{Fault, from_stored, to_stored};

/// What a notification is about, as stored.
mod kind {
    pub const FOLLOW: i32 = 0;
    pub const LIKE: i32 = 1;
    pub const COMMENT: i32 = 2;
    pub const OWN_POST: i32 = 3;
    pub const NEW_POST: i32 = 4;
}

/// A notification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Told {
    #[serde(rename = "_id")]
    pub id: String,
    pub user: String,
    pub position: i64,
    pub kind: i32,
    pub actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    pub username: String,
    pub at: i64,
    /// Whether it was meant to be told at all: not so when a follow turns out to have been over before the post.
    pub told: bool,
    pub read: bool,
    pub removed: bool,
    pub gone: bool,
    /// Whether its owner sees it: told, and neither removed nor gone.
    pub shown: bool,
}

/// What of a notification is derived from facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub told: bool,
    pub read: bool,
    pub removed: bool,
    pub gone: bool,
    /// Whoever did it is erased.
    pub erased: bool,
}

/// A change of what is derived: only of a document that still is as it was looked at. Who is too late changes nothing, so
/// a look that has grown stale takes nothing back; whoever changed it meanwhile has looked at newer facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Step {
    pub from: State,
    pub to: State,
}

impl State {
    /// What finds documents that are in this state, but for the name.
    pub(super) fn as_filter(self) -> Document {
        let mut filter = Document::new();
        for (name, value) in [
            ("told", self.told),
            ("read", self.read),
            ("removed", self.removed),
            ("gone", self.gone),
        ] {
            filter.insert(name, value);
        }
        filter
    }

    /// What leads here. What only ever becomes true is set only when it is: a stale look must not take it back.
    pub(super) fn as_update(self) -> Document {
        let mut set = Document::new();
        set.insert("told", self.told);
        set.insert("shown", self.told && !self.removed && !self.gone);
        for (name, raised) in [
            ("read", self.read),
            ("removed", self.removed),
            ("gone", self.gone),
        ] {
            if raised {
                set.insert(name, true);
            }
        }
        if self.erased {
            set.insert("username", ERASED_TEXT);
        }
        let mut update = Document::new();
        update.insert("$set", set);
        update
    }
}

impl Told {
    pub(super) fn new(position: Position, notice: &Notice) -> Self {
        let about = &notice.about;
        Self {
            id: notice.id().to_string(),
            user: notice.recipient.to_string(),
            position: to_stored(position),
            kind: match about {
                About::Follow { .. } => kind::FOLLOW,
                About::Like { .. } => kind::LIKE,
                About::Comment { .. } => kind::COMMENT,
                About::OwnPost { .. } => kind::OWN_POST,
                About::NewPost { .. } => kind::NEW_POST,
            },
            actor: about.actor().to_string(),
            post: about.post().map(|id| id.to_string()),
            comment: about.comment().map(|id| id.to_string()),
            username: notice.username.clone(),
            at: notice.at.0,
            told: true,
            read: false,
            removed: false,
            gone: false,
            shown: true,
        }
    }

    pub(super) fn state(&self) -> State {
        State {
            told: self.told,
            read: self.read,
            removed: self.removed,
            gone: self.gone,
            erased: self.username == ERASED_TEXT,
        }
    }

    /// As it is when the wishes say that it should not have been told.
    pub(super) fn untold(mut self) -> Self {
        self.told = false;
        self.shown = false;
        self
    }

    /// Whether wishes decide if it is told.
    pub(super) fn is_by_wish(&self) -> bool {
        self.kind == kind::NEW_POST
    }

    /// Whether it tells an author that their own post is live: it goes with the post's announcement.
    pub(super) fn is_of_own_post(&self) -> bool {
        self.kind == kind::OWN_POST
    }

    pub(super) fn position(&self) -> Position {
        from_stored(self.position)
    }

    /// Whether its owner has not read it, if everything up to a position counts as read.
    pub(super) fn is_unread(&self, read_up_to: Position) -> bool {
        !self.read && self.position() > read_up_to
    }

    pub(super) fn notice(&self) -> Result<Notice, Fault> {
        let actor = UserId(parse(&self.actor)?);
        let post = || parse(self.post.as_deref().unwrap_or_default()).map(PostId);
        let comment = || parse(self.comment.as_deref().unwrap_or_default()).map(CommentId);
        let about = match self.kind {
            kind::FOLLOW => About::Follow { follower: actor },
            kind::LIKE => About::Like {
                post: post()?,
                liker: actor,
            },
            kind::COMMENT => About::Comment {
                post: post()?,
                comment: comment()?,
                commenter: actor,
            },
            kind::OWN_POST => About::OwnPost {
                post: post()?,
                author: actor,
            },
            kind::NEW_POST => About::NewPost {
                post: post()?,
                author: actor,
            },
            other => return Err(Fault::Rejected(format!("no kind of notification: {other}"))),
        };
        Ok(Notice {
            recipient: UserId(parse(&self.user)?),
            about,
            username: self.username.clone(),
            at: Timestamp(self.at),
        })
    }

    /// What its owner sees; everything up to a position counts as read.
    pub(super) fn view(&self, read_up_to: Position) -> Result<NotificationView, Fault> {
        let position = self.position();
        let read = !self.is_unread(read_up_to);
        Ok(self.notice()?.into_view(position, read))
    }
}

/// An id that was stored as text.
pub(super) fn parse(text: &str) -> Result<Uuid, Fault> {
    text.parse()
        .map_err(|_| Fault::Rejected("a text that is no id".to_owned()))
}

/// Something that happened to a notification, a post or a comment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fact {
    #[serde(rename = "_id")]
    pub id: String,
    /// The notification, post, comment or person.
    #[serde(default)]
    pub about: String,
    pub position: i64,
}

/// Its owner read it.
pub(super) const READ: &str = "read";
/// Its owner removed it.
pub(super) const REMOVED: &str = "removed";
/// The post or comment is gone.
pub(super) const GONE: &str = "gone";
/// The person is erased.
pub(super) const ERASED: &str = "erased";

/// The id of a fact about something.
pub(super) fn fact_id(what: &str, about: &str) -> String {
    format!("{what}:{about}")
}

impl Fact {
    fn new(position: Position, what: &str, about: String) -> Self {
        Self {
            id: fact_id(what, &about),
            about,
            position: to_stored(position),
        }
    }

    pub(super) fn marked(position: Position, what: &str, id: NotificationId) -> Self {
        Self::new(position, what, id.to_string())
    }

    pub(super) fn erased(position: Position, user: UserId) -> Self {
        Self::new(position, ERASED, user.to_string())
    }

    pub(super) fn gone(position: Position, id: Uuid) -> Self {
        Self::new(position, GONE, id.to_string())
    }
}

/// The ids of facts that are there.
pub(super) struct Facts(HashSet<String>);

impl Facts {
    /// Whether they say this about something.
    pub(super) fn say(&self, what: &str, about: &str) -> bool {
        self.0.contains(&fact_id(what, about))
    }

    /// Those that a notification's owner may make, and its actor's erasure.
    pub(super) fn about(&self, told: &Told) -> impl Iterator<Item = String> {
        let marks = [READ, REMOVED].map(|what| fact_id(what, &told.id));
        let all = marks.into_iter().chain([fact_id(ERASED, &told.actor)]);
        all.filter(|id| self.0.contains(id))
    }
}

impl FromIterator<String> for Facts {
    fn from_iter<I: IntoIterator<Item = String>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

/// From this position on a follower wants to be told of an author's posts, or does not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Wish {
    #[serde(rename = "_id")]
    pub id: String,
    pub author: String,
    pub follower: String,
    pub position: i64,
    pub wanted: bool,
}

impl Wish {
    pub(super) fn new(position: Position, author: UserId, follower: UserId, wanted: bool) -> Self {
        Self {
            id: format!("{author}/{follower}/{position}"),
            author: author.to_string(),
            follower: follower.to_string(),
            position: to_stored(position),
            wanted,
        }
    }
}

/// A post that those who asked for it are told of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Announcement {
    #[serde(rename = "_id")]
    pub post: String,
    pub author: String,
    pub position: i64,
    pub username: String,
    pub at: i64,
}

impl Announcement {
    /// Whether it says what the author's own notification says.
    pub(super) fn agrees_with(&self, told: &Told) -> bool {
        told.post.as_ref() == Some(&self.post)
            && (&self.author, self.position, &self.username, self.at)
                == (&told.user, told.position, &told.username, told.at)
    }

    /// The notification to a follower.
    pub(super) fn told_to(&self, follower: &str) -> Result<Told, Fault> {
        let notice = Notice {
            recipient: UserId(parse(follower)?),
            about: About::NewPost {
                post: PostId(parse(&self.post)?),
                author: UserId(parse(&self.author)?),
            },
            username: self.username.clone(),
            at: Timestamp(self.at),
        };
        Ok(Told::new(from_stored(self.position), &notice))
    }
}

/// A person read everything up to a position.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReadUpTo {
    #[serde(rename = "_id")]
    pub id: String,
    pub user: String,
    pub up_to: i64,
}

impl ReadUpTo {
    pub(super) fn new(user: UserId, up_to: Position) -> Self {
        Self {
            id: format!("{user}/{up_to}"),
            user: user.to_string(),
            up_to: to_stored(up_to),
        }
    }
}
