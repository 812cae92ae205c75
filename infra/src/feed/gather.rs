//! What a batch says, by table and key: what it says twice about one row is written once.

use std::collections::BTreeMap;

use socialhub_domain::{
    Timestamp,
    event::{Media, Visibility},
};
use socialhub_event_log::Position;
use socialhub_projections::{feed::FeedChange, projection::Projected};
use uuid::Uuid;

/// The changes of a batch.
#[derive(Default)]
pub(crate) struct Gathered<'a> {
    /// Changes of profiles, erasures among them, in the order of the batch.
    pub(crate) people: Vec<(Position, &'a FeedChange)>,
    /// By (followed, follower).
    pub(crate) follows: BTreeMap<(Uuid, Uuid), PendingFollow>,
    pub(crate) new_posts: Vec<NewPost<'a>>,
    pub(crate) deleted_posts: Vec<(Uuid, Position)>,
    /// By (post, person): (active, position).
    pub(crate) likes: BTreeMap<(Uuid, Uuid), (bool, Position)>,
    /// By (post, comment).
    pub(crate) comments: BTreeMap<(Uuid, Uuid), PendingComment<'a>>,
}

/// The last word of a batch on a follow: since when, or that it has ended.
pub(crate) struct PendingFollow {
    pub(crate) at: Option<Timestamp>,
    pub(crate) position: Position,
}

pub(crate) struct NewPost<'a> {
    pub(crate) id: Uuid,
    pub(crate) author: Uuid,
    pub(crate) username: &'a str,
    pub(crate) content: &'a str,
    pub(crate) visibility: Visibility,
    pub(crate) media: &'a [Media],
    pub(crate) at: Timestamp,
    pub(crate) position: Position,
}

#[derive(Default)]
pub(crate) struct PendingComment<'a> {
    pub(crate) written: Option<NewComment<'a>>,
    pub(crate) deleted: Option<Position>,
}

pub(crate) struct NewComment<'a> {
    pub(crate) user: Uuid,
    pub(crate) username: &'a str,
    pub(crate) text: &'a str,
    pub(crate) at: Timestamp,
    pub(crate) position: Position,
}

impl<'a> Gathered<'a> {
    pub(crate) fn from(batch: &'a [Projected<FeedChange>]) -> Self {
        let mut gathered = Self::default();
        for projected in batch {
            for change in &projected.changes {
                gathered.add(projected.position, change);
            }
        }
        gathered
    }

    fn add(&mut self, position: Position, change: &'a FeedChange) {
        match change {
            FeedChange::Register { .. }
            | FeedChange::UpdateProfile { .. }
            | FeedChange::Erase { .. } => self.people.push((position, change)),
            // Positions rise within a batch: the last word is the last event's.
            FeedChange::Follow {
                follower,
                followed,
                at,
            } => self.follow((followed.0, follower.0), Some(*at), position),
            FeedChange::Unfollow { follower, followed } => {
                self.follow((followed.0, follower.0), None, position);
            }
            FeedChange::CreatePost { .. } => self.new_posts.extend(new_post(position, change)),
            FeedChange::DeletePost { post } => self.deleted_posts.push((post.0, position)),
            FeedChange::SetLike { post, user, active } => {
                self.likes.insert((post.0, user.0), (*active, position));
            }
            FeedChange::AddComment { post, comment, .. } => {
                let pending = self.comments.entry((post.0, comment.0)).or_default();
                if pending.written.is_none() {
                    pending.written = new_comment(position, change);
                }
            }
            FeedChange::DeleteComment { post, comment } => {
                let pending = self.comments.entry((post.0, comment.0)).or_default();
                pending.deleted.get_or_insert(position);
            }
        }
    }

    fn follow(&mut self, key: (Uuid, Uuid), at: Option<Timestamp>, position: Position) {
        self.follows.insert(key, PendingFollow { at, position });
    }
}

fn new_post(position: Position, change: &FeedChange) -> Option<NewPost<'_>> {
    let FeedChange::CreatePost {
        post,
        author,
        username,
        content,
        visibility,
        media,
        at,
    } = change
    else {
        return None;
    };
    Some(NewPost {
        id: post.0,
        author: author.0,
        username,
        content,
        visibility: *visibility,
        media,
        at: *at,
        position,
    })
}

fn new_comment(position: Position, change: &FeedChange) -> Option<NewComment<'_>> {
    let FeedChange::AddComment {
        author,
        username,
        text,
        at,
        ..
    } = change
    else {
        return None;
    };
    Some(NewComment {
        user: author.0,
        username,
        text,
        at: *at,
        position,
    })
}
