//! The rows that change all the time, kept in memory between batches: a hot post's counters are read once and written
//! once a batch, however many liked it.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{CachedStatement, OptionalExtension, Row, Transaction, params};
use socialhub_event_log::Position;
use uuid::Uuid;

use crate::sqlite::connection::{from_sql, id_bytes, to_sql};

/// How many rows of each kind are kept between batches.
const CACHED_ROWS: usize = 50_000;

/// A row of counters keyed by an id.
pub(super) trait CountRow: Copy + Default {
    /// Reads one by its id.
    const SELECT: &'static str;
    /// Writes one: its id, then the rest.
    const WRITE: &'static str;

    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;
    fn write(&self, id: Uuid, statement: &mut CachedStatement<'_>) -> rusqlite::Result<()>;
    /// The flag that says the table does not know this yet.
    fn dirty(&mut self) -> &mut bool;
}

/// The rows of one table that are in memory.
#[derive(Debug, Default)]
pub(super) struct Counts<T> {
    cached: HashMap<Uuid, T>,
    /// What the present batch asked for.
    asked: Vec<Uuid>,
}

impl<T: CountRow> Counts<T> {
    /// A row; a new one for what was never heard of.
    pub(super) fn get(
        &mut self,
        transaction: &Transaction<'_>,
        id: Uuid,
    ) -> rusqlite::Result<&mut T> {
        self.asked.push(id);
        match self.cached.entry(id) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let stored = transaction
                    .prepare_cached(T::SELECT)?
                    .query_row([id_bytes(id)], T::read)
                    .optional()?;
                Ok(entry.insert(stored.unwrap_or_default()))
            }
        }
    }

    /// Writes what changed, in the order of the table.
    pub(super) fn flush(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        self.asked.sort_unstable();
        self.asked.dedup();
        let mut statement = transaction.prepare_cached(T::WRITE)?;
        for id in self.asked.drain(..) {
            if let Some(row) = self.cached.get_mut(&id)
                && std::mem::take(row.dirty())
            {
                row.write(id, &mut statement)?;
            }
        }
        if self.cached.len() > CACHED_ROWS {
            self.cached.clear();
        }
        Ok(())
    }

    /// Forgets everything, written or not.
    pub(super) fn forget(&mut self) {
        self.cached.clear();
        self.asked.clear();
    }
}

/// The state of a post.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PostState {
    /// The position of its creation; 0 before it is known.
    pub(super) created: Position,
    pub(super) deleted: bool,
    pub(super) likes: i64,
    pub(super) comments: i64,
    position: Position,
    dirty: bool,
}

impl PostState {
    /// Notes that an event changed it.
    pub(super) fn touch(&mut self, position: Position) {
        self.position = self.position.max(position);
        self.dirty = true;
    }

    /// Makes it a tombstone, which says when it became one, whatever came before.
    pub(super) fn bury(&mut self, position: Position) {
        *self = Self {
            created: self.created,
            deleted: true,
            position,
            dirty: true,
            ..Self::default()
        };
    }
}

impl CountRow for PostState {
    const SELECT: &'static str = "SELECT created, deleted, likes, comments, position
         FROM post_states WHERE id = ?1";
    const WRITE: &'static str =
        "INSERT OR REPLACE INTO post_states (id, created, deleted, likes, comments, position)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            created: from_sql(row.get(0)?),
            deleted: row.get(1)?,
            likes: row.get(2)?,
            comments: row.get(3)?,
            position: from_sql(row.get(4)?),
            dirty: false,
        })
    }

    fn write(&self, id: Uuid, statement: &mut CachedStatement<'_>) -> rusqlite::Result<()> {
        statement.execute(params![
            id_bytes(id),
            to_sql(self.created),
            self.deleted,
            self.likes,
            self.comments,
            to_sql(self.position),
        ])?;
        Ok(())
    }

    fn dirty(&mut self) -> &mut bool {
        &mut self.dirty
    }
}

/// The counts of a profile.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) followers: i64,
    pub(super) following: i64,
    pub(super) posts: i64,
    /// Whether the person's posts are merged into feeds when they are read.
    merged: bool,
    position: Position,
    dirty: bool,
}

impl Tally {
    /// Notes that an event changed it.
    pub(super) fn touch(&mut self, position: Position) {
        self.position = self.position.max(position);
        self.dirty = true;
    }

    pub(super) fn is_merged(&self) -> bool {
        self.merged
    }

    pub(super) fn set_merged(&mut self, merged: bool) {
        self.dirty |= merged != self.merged;
        self.merged = merged;
    }
}

impl CountRow for Tally {
    const SELECT: &'static str = "SELECT followers, following, posts, merged, position
         FROM tallies WHERE user_id = ?1";
    const WRITE: &'static str =
        "INSERT OR REPLACE INTO tallies (user_id, followers, following, posts, merged, position)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            followers: row.get(0)?,
            following: row.get(1)?,
            posts: row.get(2)?,
            merged: row.get(3)?,
            position: from_sql(row.get(4)?),
            dirty: false,
        })
    }

    fn write(&self, id: Uuid, statement: &mut CachedStatement<'_>) -> rusqlite::Result<()> {
        statement.execute(params![
            id_bytes(id),
            self.followers,
            self.following,
            self.posts,
            self.merged,
            to_sql(self.position),
        ])?;
        Ok(())
    }

    fn dirty(&mut self) -> &mut bool {
        &mut self.dirty
    }
}
