//! What a batch says, by table and key: what it says twice about one row is written once.

use std::collections::BTreeMap;

use socialhub_domain::{Timestamp, event::Media};
use socialhub_event_log::Position;
use socialhub_projections::{feed::FeedChange, projection::Projected};
use uuid::Uuid;

use crate::postgres::feed::visibility_code;

/// The changes of a batch.
#[derive(Default)]
pub(super) struct Gathered<'a> {
    pub(super) people: BTreeMap<Uuid, Profile<'a>>,
    /// Who is erased, and by the event at which position: the last of their stream.
    pub(super) erased: BTreeMap<Uuid, Position>,
    /// By (followed, follower).
    pub(super) follows: BTreeMap<(Uuid, Uuid), PendingFollow>,
    pub(super) new_posts: Vec<NewPost<'a>>,
    pub(super) deleted_posts: Vec<(Uuid, Position)>,
    /// By (post, person): (active, position).
    pub(super) likes: BTreeMap<(Uuid, Uuid), (bool, Position)>,
    /// By (post, comment).
    pub(super) comments: BTreeMap<(Uuid, Uuid), PendingComment<'a>>,
}

/// What a batch says about a profile; what is none stays as it is.
#[derive(Default)]
pub(super) struct Profile<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) bio: Option<&'a str>,
    pub(super) avatar: Option<&'a str>,
    pub(super) created_at: Option<i64>,
    pub(super) position: Position,
}

/// The last word of a batch on a follow: since when, or that it has ended.
pub(super) struct PendingFollow {
    pub(super) at: Option<Timestamp>,
    pub(super) position: Position,
}

pub(super) struct NewPost<'a> {
    pub(super) id: Uuid,
    pub(super) author: Uuid,
    pub(super) username: &'a str,
    pub(super) content: &'a str,
    pub(super) visibility: i16,
    pub(super) media: &'a [Media],
    pub(super) at: Timestamp,
    pub(super) position: Position,
}

#[derive(Default)]
pub(super) struct PendingComment<'a> {
    pub(super) written: Option<NewComment<'a>>,
    pub(super) deleted: Option<Position>,
}

pub(super) struct NewComment<'a> {
    pub(super) user: Uuid,
    pub(super) username: &'a str,
    pub(super) text: &'a str,
    pub(super) at: Timestamp,
    pub(super) position: Position,
}

impl<'a> Gathered<'a> {
    pub(super) fn from(batch: &'a [Projected<FeedChange>]) -> Self {
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
            FeedChange::Register { .. } | FeedChange::UpdateProfile { .. } => {
                self.profile(position, change);
            }
            FeedChange::Erase { user } => {
                self.erased.insert(user.0, position);
            }
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
                // Positions rise within a batch: the last word is the last event's.
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

    fn profile(&mut self, position: Position, change: &'a FeedChange) {
        match change {
            FeedChange::Register {
                user,
                username,
                name,
                at,
            } => {
                let profile = self.people.entry(user.0).or_default();
                profile.username = Some(username);
                profile.name = Some(name);
                profile.created_at = Some(at.0);
                profile.position = position;
            }
            FeedChange::UpdateProfile {
                user,
                name,
                bio,
                avatar,
            } => {
                let profile = self.people.entry(user.0).or_default();
                profile.name = name.as_deref().or(profile.name);
                profile.bio = bio.as_deref().or(profile.bio);
                profile.avatar = avatar.as_deref().or(profile.avatar);
                profile.position = position;
            }
            _ => {}
        }
    }

    fn follow(&mut self, key: (Uuid, Uuid), at: Option<Timestamp>, position: Position) {
        self.follows.insert(key, PendingFollow { at, position });
    }

    /// Whose texts the batch brings.
    pub(super) fn authors(&self) -> impl Iterator<Item = Uuid> {
        let posts = self.new_posts.iter().map(|post| post.author);
        let written = self.comments.values().filter_map(|c| c.written.as_ref());
        posts.chain(written.map(|comment| comment.user))
    }

    /// Every post that the batch is about, in the order of their ids.
    pub(super) fn posts(&self) -> Vec<Uuid> {
        let new = self.new_posts.iter().map(|post| post.id);
        let deleted = self.deleted_posts.iter().map(|post| post.0);
        let liked = self.likes.keys().map(|key| key.0);
        let commented = self.comments.keys().map(|key| key.0);
        let mut posts: Vec<Uuid> = new.chain(deleted).chain(liked).chain(commented).collect();
        posts.sort_unstable();
        posts.dedup();
        posts
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
        visibility: visibility_code(*visibility),
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
