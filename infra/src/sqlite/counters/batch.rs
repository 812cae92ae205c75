//! Writing what a batch adds up to.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Transaction, params, types::Type};
use socialhub_domain::{PostId, UserId, score::DecayedScore};
use socialhub_event_log::Position;

use super::state;
use crate::{
    counter_sums::{PersonSums, PostSums, Sums},
    sqlite::connection::{from_sql, id_bytes, to_sql},
};

/// Adds the sums to the rows.
pub(super) fn write(transaction: &Transaction<'_>, sums: Sums) -> rusqlite::Result<()> {
    write_posts(transaction, sums.posts)?;
    write_people(transaction, sums.people)
}

/// A post's row.
#[derive(Default)]
struct Post {
    state: i64,
    likes: i64,
    comments: i64,
    decay: DecayedScore,
    changed: Position,
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

    fn add(&mut self, sums: &PostSums) {
        self.changed = self.changed.max(sums.changed);
        if sums.gone || self.state == state::DELETED {
            // The tombstone: whatever was counted, before or after, counts no more.
            *self = Self {
                state: state::DELETED,
                changed: self.changed,
                ..Self::default()
            };
            return;
        }
        self.state = match sums.appeared {
            Some(true) if self.state == state::UNKNOWN => state::PUBLIC,
            Some(false) if self.state == state::UNKNOWN => state::RESTRICTED,
            _ => self.state,
        };
        self.likes += sums.likes;
        self.comments += sums.comments;
        self.decay.add_all(&sums.decay);
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
    posts: BTreeMap<PostId, PostSums>,
) -> rusqlite::Result<()> {
    let mut read = transaction.prepare_cached(
        "SELECT state, likes, comments, decay, changed FROM post_counter WHERE post = ?1",
    )?;
    let mut write = transaction.prepare_cached(
        "INSERT INTO post_counter (post, state, likes, comments, decay, score, changed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (post) DO UPDATE SET state = excluded.state, likes = excluded.likes,
             comments = excluded.comments, decay = excluded.decay, score = excluded.score,
             changed = excluded.changed",
    )?;
    for (id, sums) in posts {
        let stored = read.query_row([id_bytes(id.0)], Post::read).optional()?;
        let mut post = stored.unwrap_or_default();
        post.add(&sums);
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
    people: BTreeMap<UserId, PersonSums>,
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
