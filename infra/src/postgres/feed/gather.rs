//! What a batch says of people, row by row, and whom and which posts it is about.

use std::collections::BTreeMap;

use socialhub_event_log::Position;
use socialhub_projections::feed::FeedChange;
use uuid::Uuid;

use crate::feed::gather::Gathered;

/// What a batch says of people.
#[derive(Default)]
pub(super) struct People<'a> {
    pub(super) profiles: BTreeMap<Uuid, Profile<'a>>,
    /// Who is erased, and by the event at which position: the last of their stream.
    pub(super) erased: BTreeMap<Uuid, Position>,
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

impl<'a> People<'a> {
    pub(super) fn of(gathered: &Gathered<'a>) -> Self {
        let mut people = Self::default();
        for (position, change) in &gathered.people {
            people.add(*position, change);
        }
        people
    }

    fn add(&mut self, position: Position, change: &'a FeedChange) {
        match change {
            FeedChange::Register {
                user,
                username,
                name,
                at,
            } => {
                let profile = self.profiles.entry(user.0).or_default();
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
                let profile = self.profiles.entry(user.0).or_default();
                profile.name = name.as_deref().or(profile.name);
                profile.bio = bio.as_deref().or(profile.bio);
                profile.avatar = avatar.as_deref().or(profile.avatar);
                profile.position = position;
            }
            FeedChange::Erase { user } => {
                self.erased.insert(user.0, position);
            }
            _ => {}
        }
    }
}

/// Whose texts the batch brings.
pub(super) fn authors(gathered: &Gathered<'_>) -> impl Iterator<Item = Uuid> {
    let posts = gathered.new_posts.iter().map(|post| post.author);
    let written = gathered
        .comments
        .values()
        .filter_map(|c| c.written.as_ref());
    posts.chain(written.map(|comment| comment.user))
}

/// Every post that the batch is about, in the order of their ids.
pub(super) fn posts(gathered: &Gathered<'_>) -> Vec<Uuid> {
    let new = gathered.new_posts.iter().map(|post| post.id);
    let deleted = gathered.deleted_posts.iter().map(|post| post.0);
    let liked = gathered.likes.keys().map(|key| key.0);
    let commented = gathered.comments.keys().map(|key| key.0);
    let mut posts: Vec<Uuid> = new.chain(deleted).chain(liked).chain(commented).collect();
    posts.sort_unstable();
    posts.dedup();
    posts
}
