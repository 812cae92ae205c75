//! One batch of changes, summed up in memory and written at its end.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, OptionalExtension, Transaction, params, types::Type};
use socialhub_domain::{
    PostId, UserId,
    score::{COMMENT_WEIGHT, DecayedScore, LIKE_WEIGHT},
};
use socialhub_event_log::Position;
use socialhub_projections::counters::CounterChange;

use super::state;
use crate::sqlite::connection::{from_sql, id_bytes, to_sql};

/// The rows a batch touches, as they will be. In key order, so that they are written page after page.
pub(super) struct Batch<'t> {
    read_post: CachedStatement<'t>,
    posts: BTreeMap<PostId, Post>,
    people: BTreeMap<UserId, Person>,
}

#[derive(Default)]
struct Post {
    state: i64,
    likes: i64,
    comments: i64,
    decay: DecayedScore,
    changed: Position,
}

/// What is added to a person's row.
#[derive(Default)]
struct Person {
    followers: i64,
    following: i64,
    posts: i64,
    changed: Position,
}

impl<'t> Batch<'t> {
    pub(super) fn new(transaction: &'t Transaction<'_>) -> rusqlite::Result<Self> {
        let read_post = transaction.prepare_cached(
            "SELECT state, likes, comments, decay, changed FROM post_counter WHERE post = ?1",
        )?;
        Ok(Self {
            read_post,
            posts: BTreeMap::new(),
            people: BTreeMap::new(),
        })
    }

    pub(super) fn add(
        &mut self,
        position: Position,
        change: &CounterChange,
    ) -> rusqlite::Result<()> {
        match *change {
            CounterChange::PostAdded {
                post,
                author,
                public,
            } => {
                self.person(position, author).posts += 1;
                self.post(position, post)?.appear(public);
            }
            CounterChange::PostRemoved { post, author } => {
                self.person(position, author).posts -= 1;
                self.post(position, post)?.disappear();
            }
            CounterChange::Liked { post, at } => {
                let post = self.post(position, post)?;
                post.likes += 1;
                post.decay.add(at, LIKE_WEIGHT);
            }
            CounterChange::Unliked { post, liked_at } => {
                let post = self.post(position, post)?;
                post.likes -= 1;
                post.decay.add(liked_at, -LIKE_WEIGHT);
            }
            CounterChange::Commented { post, at } => {
                let post = self.post(position, post)?;
                post.comments += 1;
                post.decay.add(at, COMMENT_WEIGHT);
            }
            CounterChange::CommentRemoved { post, written_at } => {
                let post = self.post(position, post)?;
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
        Ok(())
    }

    fn follow(&mut self, position: Position, follower: UserId, following: UserId, by: i64) {
        self.person(position, following).followers += by;
        self.person(position, follower).following += by;
    }

    fn person(&mut self, position: Position, id: UserId) -> &mut Person {
        let person = self.people.entry(id).or_default();
        person.changed = person.changed.max(position);
        person
    }

    fn post(&mut self, position: Position, id: PostId) -> rusqlite::Result<&mut Post> {
        let post = match self.posts.entry(id) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let stored = self
                    .read_post
                    .query_row([id_bytes(id.0)], Post::read)
                    .optional()?;
                entry.insert(stored.unwrap_or_default())
            }
        };
        post.changed = post.changed.max(position);
        Ok(post)
    }

    pub(super) fn write(self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        write_posts(transaction, self.posts)?;
        write_people(transaction, self.people)
    }
}

impl Post {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let decay = DecayedScore::from_bytes(row.get_ref(3)?.as_blob()?).ok_or_else(|| {
            rusqlite::Error::FromSqlConversionFailure(3, Type::Blob, "not a stored score".into())
        })?;
        Ok(Self {
            state: row.get(0)?,
            likes: row.get(1)?,
            comments: row.get(2)?,
            decay,
            changed: from_sql(row.get(4)?),
        })
    }

    fn appear(&mut self, public: bool) {
        if self.state == state::UNKNOWN {
            self.state = if public {
                state::PUBLIC
            } else {
                state::RESTRICTED
            };
        }
    }

    fn disappear(&mut self) {
        self.state = state::DELETED;
    }

    /// The number it is ranked by; none when it does not trend.
    fn score(&self) -> Option<f64> {
        if self.state == state::PUBLIC {
            self.decay.log2()
        } else {
            None
        }
    }
}

fn write_posts(
    transaction: &Transaction<'_>,
    posts: BTreeMap<PostId, Post>,
) -> rusqlite::Result<()> {
    let mut write = transaction.prepare_cached(
        "INSERT INTO post_counter (post, state, likes, comments, decay, score, changed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (post) DO UPDATE SET state = excluded.state, likes = excluded.likes,
             comments = excluded.comments, decay = excluded.decay, score = excluded.score,
             changed = excluded.changed",
    )?;
    for (id, mut post) in posts {
        if post.state == state::DELETED {
            // The tombstone: whatever was counted, before or after, counts no more.
            post = Post {
                state: state::DELETED,
                changed: post.changed,
                ..Post::default()
            };
        }
        write.execute(params![
            id_bytes(id.0),
            post.state,
            post.likes,
            post.comments,
            post.decay.to_bytes(),
            post.score(),
            to_sql(post.changed),
        ])?;
    }
    Ok(())
}

fn write_people(
    transaction: &Transaction<'_>,
    people: BTreeMap<UserId, Person>,
) -> rusqlite::Result<()> {
    let mut write = transaction.prepare_cached(
        "INSERT INTO person_counter (person, followers, following, posts, changed)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (person) DO UPDATE SET followers = followers + excluded.followers,
             following = following + excluded.following, posts = posts + excluded.posts,
             changed = max(changed, excluded.changed)",
    )?;
    for (id, added) in people {
        write.execute(params![
            id_bytes(id.0),
            added.followers,
            added.following,
            added.posts,
            to_sql(added.changed),
        ])?;
    }
    Ok(())
}
