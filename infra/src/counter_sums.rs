//! What a batch says about the `counters`, summed up by post and by person: a post that is liked a thousand times in it is
//! written once.

use std::collections::BTreeMap;

use socialhub_domain::{
    PostId, UserId,
    score::{COMMENT_WEIGHT, DecayedScore, LIKE_WEIGHT},
};
use socialhub_event_log::Position;
use socialhub_projections::{counters::CounterChange, projection::Projected};

/// The sums of a batch. In key order, so that they are written page after page.
#[derive(Default)]
pub(crate) struct Sums {
    pub(crate) posts: BTreeMap<PostId, PostSums>,
    pub(crate) people: BTreeMap<UserId, PersonSums>,
}

/// What is added to a post.
#[derive(Default)]
pub(crate) struct PostSums {
    /// Whether it appeared, and then whether everybody may see it.
    pub(crate) appeared: Option<bool>,
    /// Whether it was deleted.
    pub(crate) gone: bool,
    pub(crate) likes: i64,
    pub(crate) comments: i64,
    pub(crate) decay: DecayedScore,
    pub(crate) changed: Position,
}

/// What is added to a person.
#[derive(Default)]
pub(crate) struct PersonSums {
    pub(crate) followers: i64,
    pub(crate) following: i64,
    pub(crate) posts: i64,
    pub(crate) changed: Position,
}

impl Sums {
    pub(crate) fn of<'a>(events: impl IntoIterator<Item = &'a Projected<CounterChange>>) -> Self {
        let mut sums = Self::default();
        for event in events {
            for change in &event.changes {
                sums.add(event.position, change);
            }
        }
        sums
    }

    fn add(&mut self, position: Position, change: &CounterChange) {
        match *change {
            CounterChange::PostAdded {
                post,
                author,
                public,
            } => {
                self.person(position, author).posts += 1;
                self.post(position, post).appeared.get_or_insert(public);
            }
            CounterChange::PostRemoved { post, author } => {
                self.person(position, author).posts -= 1;
                self.post(position, post).gone = true;
            }
            CounterChange::Liked { post, at } => {
                let post = self.post(position, post);
                post.likes += 1;
                post.decay.add(at, LIKE_WEIGHT);
            }
            CounterChange::Unliked { post, liked_at } => {
                let post = self.post(position, post);
                post.likes -= 1;
                post.decay.add(liked_at, -LIKE_WEIGHT);
            }
            CounterChange::Commented { post, at } => {
                let post = self.post(position, post);
                post.comments += 1;
                post.decay.add(at, COMMENT_WEIGHT);
            }
            CounterChange::CommentRemoved { post, written_at } => {
                let post = self.post(position, post);
                post.comments -= 1;
                post.decay.add(written_at, -COMMENT_WEIGHT);
            }
            CounterChange::Followed {
                follower,
                following,
            } => self.follow(position, follower, following, 1),
            CounterChange::Unfollowed {
                follower,
                following,
            } => self.follow(position, follower, following, -1),
        }
    }

    fn follow(&mut self, position: Position, follower: UserId, following: UserId, by: i64) {
        self.person(position, following).followers += by;
        self.person(position, follower).following += by;
    }

    fn person(&mut self, position: Position, id: UserId) -> &mut PersonSums {
        let person = self.people.entry(id).or_default();
        person.changed = person.changed.max(position);
        person
    }

    fn post(&mut self, position: Position, id: PostId) -> &mut PostSums {
        let post = self.posts.entry(id).or_default();
        post.changed = post.changed.max(position);
        post
    }
}
