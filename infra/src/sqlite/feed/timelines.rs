//! Keeping home timelines.
//!
//! The promise: a timeline has a row for every post above its owner's horizon that may stand in a feed and whose author
//! the owner follows, unless that author is merged at read; and no row of anybody the owner does not follow. Rows whose
//! post was deleted may remain until they are trimmed.

use rusqlite::{OptionalExtension, Transaction, params};
use socialhub_event_log::Position;
use uuid::Uuid;

use crate::sqlite::{
    connection::{from_sql, id_bytes, read_id, to_sql},
    feed::{FOLLOWERS, FeedLimits, PUBLIC},
};

/// How many rows wait in memory at most.
const PENDING_ROWS: usize = 100_000;

/// The timelines of everybody, as their writer sees them: rows wait here, to be written in the order of their keys.
#[derive(Debug)]
pub(super) struct Timelines {
    limits: FeedLimits,
    pending: Vec<(Uuid, Position)>,
    /// The highest horizon of anybody; none before it was read. What is above it needs no look at a horizon.
    highest_horizon: Option<Position>,
}

impl Timelines {
    pub(super) fn new(limits: FeedLimits) -> Self {
        Self {
            limits,
            pending: Vec::new(),
            highest_horizon: None,
        }
    }

    /// Forgets what a transaction that was rolled back has taught.
    pub(super) fn forget(&mut self) {
        self.pending.clear();
        self.highest_horizon = None;
    }

    /// New posts of an author, for everybody who follows them.
    pub(super) fn fan_out(
        &mut self,
        transaction: &Transaction<'_>,
        author: Uuid,
        positions: &[Position],
    ) -> rusqlite::Result<()> {
        for follower in followers(transaction, author)? {
            self.pending
                .extend(positions.iter().map(|position| (follower, *position)));
            self.flush_if_many(transaction)?;
        }
        Ok(())
    }

    /// People follow an author who is fanned out: the author's posts join their timelines, down to the horizons.
    pub(super) fn join(
        &mut self,
        transaction: &Transaction<'_>,
        author: Uuid,
        followers: &[Uuid],
    ) -> rusqlite::Result<()> {
        for follower in followers {
            self.backfill(transaction, *follower, author)?;
            self.flush_if_many(transaction)?;
        }
        Ok(())
    }

    /// People follow an author who is merged at read.
    #[expect(
        clippy::unused_self,
        reason = "one of the four ways a timeline can turn, called like the others"
    )]
    pub(super) fn merge(
        &self,
        transaction: &Transaction<'_>,
        author: Uuid,
        followers: &[Uuid],
    ) -> rusqlite::Result<()> {
        let mut insert = transaction.prepare_cached(
            "INSERT OR IGNORE INTO merged_authors (follower_id, author_id) VALUES (?1, ?2)",
        )?;
        for follower in followers {
            insert.execute(params![id_bytes(*follower), id_bytes(author)])?;
        }
        Ok(())
    }

    /// An author now has too many followers: from here on their posts are merged at read. Rows that are there stay: a
    /// reader shows a post once.
    pub(super) fn start_merging(
        &self,
        transaction: &Transaction<'_>,
        author: Uuid,
    ) -> rusqlite::Result<()> {
        self.merge(transaction, author, &followers(transaction, author)?)
    }

    /// An author has few enough followers again: timelines catch up on what was not fanned out meanwhile. Half of the
    /// limit must have left since the last time, so this costs one backfill for each of those.
    pub(super) fn stop_merging(
        &mut self,
        transaction: &Transaction<'_>,
        author: Uuid,
    ) -> rusqlite::Result<()> {
        let followers = followers(transaction, author)?;
        for follower in &followers {
            unmerge(transaction, *follower, author)?;
        }
        self.join(transaction, author, &followers)
    }

    /// Somebody follows an author no more.
    pub(super) fn leave(
        &mut self,
        transaction: &Transaction<'_>,
        follower: Uuid,
        author: Uuid,
        merged: bool,
    ) -> rusqlite::Result<()> {
        // Rows may still wait from authors handled before; none of them is this author's, whose turn it is now.
        if merged {
            unmerge(transaction, follower, author)?;
            // Only some of a merged author's many posts have rows: look at the rows, which are bounded.
            transaction
                .prepare_cached(
                    "DELETE FROM timeline WHERE user_id = ?1 AND position IN (
                         SELECT t.position FROM timeline t CROSS JOIN posts p
                         ON p.position = t.position
                         WHERE t.user_id = ?1 AND p.author_id = ?2)",
                )?
                .execute(params![id_bytes(follower), id_bytes(author)])?;
            return Ok(());
        }
        // Each of the author's posts above the horizon has a row, so those are bounded as well, and mostly fewer.
        let horizon = self.horizon(transaction, follower)?;
        transaction
            .prepare_cached(
                "DELETE FROM timeline WHERE user_id = ?1 AND position IN (
                     SELECT position FROM posts
                     WHERE author_id = ?2 AND visibility IN (0, 1) AND position > ?3)",
            )?
            .execute(params![
                id_bytes(follower),
                id_bytes(author),
                to_sql(horizon)
            ])?;
        Ok(())
    }

    /// Writes the rows that wait, and trims timelines whose turn it is.
    pub(super) fn flush(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut rows = std::mem::take(&mut self.pending);
        rows.sort_unstable();
        rows.dedup();
        for own in rows.chunk_by(|left, right| left.0 == right.0) {
            self.write_own(transaction, own)?;
        }
        rows.clear();
        self.pending = rows;
        Ok(())
    }

    fn flush_if_many(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        if self.pending.len() < PENDING_ROWS {
            return Ok(());
        }
        self.flush(transaction)
    }

    /// Writes rows of one person, positions rising.
    fn write_own(
        &mut self,
        transaction: &Transaction<'_>,
        rows: &[(Uuid, Position)],
    ) -> rusqlite::Result<()> {
        let user = rows[0].0;
        let horizon = if rows[0].1 > self.highest_horizon(transaction)? {
            0
        } else {
            self.horizon(transaction, user)?
        };
        let mut insert = transaction
            .prepare_cached("INSERT OR IGNORE INTO timeline (user_id, position) VALUES (?1, ?2)")?;
        let mut trim = false;
        for &(_, position) in rows {
            if position > horizon {
                insert.execute(params![id_bytes(user), to_sql(position)])?;
                trim |= is_turn(user, position, self.limits.trim_every);
            }
        }
        if trim {
            self.trim(transaction, user)?;
        }
        Ok(())
    }

    /// Cuts a timeline down to its newest rows.
    fn trim(&mut self, transaction: &Transaction<'_>, user: Uuid) -> rusqlite::Result<()> {
        let keep = to_sql(self.limits.timeline_rows as u64);
        let first_to_go: Option<i64> = transaction
            .prepare_cached(
                "SELECT position FROM timeline WHERE user_id = ?1
                 ORDER BY position DESC LIMIT 1 OFFSET ?2",
            )?
            .query_row(params![id_bytes(user), keep], |row| row.get(0))
            .optional()?;
        match first_to_go {
            Some(position) => self.raise_horizon(transaction, user, from_sql(position)),
            None => Ok(()),
        }
    }

    /// Adds the newest posts of an author to a timeline. When there are more above the horizon than a timeline holds, the
    /// horizon rises instead of the cost.
    fn backfill(
        &mut self,
        transaction: &Transaction<'_>,
        user: Uuid,
        author: Uuid,
    ) -> rusqlite::Result<()> {
        let horizon = self.horizon(transaction, user)?;
        let keep = self.limits.timeline_rows;
        let mut positions = Vec::new();
        for visibility in [PUBLIC, FOLLOWERS] {
            let mut newest = transaction.prepare_cached(
                "SELECT position FROM posts
                 WHERE author_id = ?1 AND visibility = ?2 AND position > ?3
                 ORDER BY position DESC LIMIT ?4",
            )?;
            let limit = to_sql(keep as u64 + 1);
            let mut rows = newest.query(params![
                id_bytes(author),
                visibility,
                to_sql(horizon),
                limit
            ])?;
            while let Some(row) = rows.next()? {
                positions.push(from_sql(row.get(0)?));
            }
        }
        if positions.len() > keep {
            positions.sort_unstable_by(|left, right| right.cmp(left));
            self.raise_horizon(transaction, user, positions[keep])?;
            positions.truncate(keep);
        }
        self.pending
            .extend(positions.into_iter().map(|position| (user, position)));
        Ok(())
    }

    /// Raises a horizon and removes what stands at or below it. Waiting rows are checked when they are written.
    fn raise_horizon(
        &mut self,
        transaction: &Transaction<'_>,
        user: Uuid,
        position: Position,
    ) -> rusqlite::Result<()> {
        let highest = self.highest_horizon(transaction)?;
        self.highest_horizon = Some(highest.max(position));
        transaction
            .prepare_cached("INSERT OR REPLACE INTO horizons (user_id, position) VALUES (?1, ?2)")?
            .execute(params![id_bytes(user), to_sql(position)])?;
        transaction
            .prepare_cached("DELETE FROM timeline WHERE user_id = ?1 AND position <= ?2")?
            .execute(params![id_bytes(user), to_sql(position)])?;
        Ok(())
    }

    fn horizon(&mut self, transaction: &Transaction<'_>, user: Uuid) -> rusqlite::Result<Position> {
        if self.highest_horizon(transaction)? == 0 {
            return Ok(0);
        }
        let stored: Option<i64> = transaction
            .prepare_cached("SELECT position FROM horizons WHERE user_id = ?1")?
            .query_row([id_bytes(user)], |row| row.get(0))
            .optional()?;
        Ok(stored.map_or(0, from_sql))
    }

    fn highest_horizon(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<Position> {
        if let Some(position) = self.highest_horizon {
            return Ok(position);
        }
        let highest: Option<i64> = transaction
            .prepare_cached("SELECT MAX(position) FROM horizons")?
            .query_row([], |row| row.get(0))?;
        let position = highest.map_or(0, from_sql);
        self.highest_horizon = Some(position);
        Ok(position)
    }
}

/// Whether a row is one of the few after which its timeline is trimmed. It depends on the row alone, so no counter has
/// to be kept for anybody.
fn is_turn(user: Uuid, position: Position, every: u64) -> bool {
    let mixed = (user.as_u128() as u64 ^ position).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32).is_multiple_of(every.max(1))
}

fn followers(transaction: &Transaction<'_>, author: Uuid) -> rusqlite::Result<Vec<Uuid>> {
    transaction
        .prepare_cached(
            "SELECT follower_id FROM follows WHERE followed_id = ?1 AND since IS NOT NULL",
        )?
        .query_map([id_bytes(author)], |row| read_id(row, 0))?
        .collect()
}

fn unmerge(transaction: &Transaction<'_>, follower: Uuid, author: Uuid) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM merged_authors WHERE follower_id = ?1 AND author_id = ?2")?
        .execute(params![id_bytes(follower), id_bytes(author)])?;
    Ok(())
}
