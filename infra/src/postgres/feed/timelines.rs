//! Keeping home timelines.
//!
//! The promise: above its owner's horizon a timeline has a row for every post that may stand in a feed and whose author
//! the owner follows, unless that author is merged at read; and no row of anybody the owner does not follow. Rows whose
//! post was deleted may remain until they are trimmed.

use std::collections::BTreeMap;

use socialhub_event_log::Position;
use socialhub_projections::runtime::WriteMode;
use uuid::Uuid;

use crate::{
    postgres::{
        model::{from_sql, to_sql},
        session::Session,
    },
    sqlite::feed::FeedLimits,
};

/// Followers and whom they follow.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    followers: Vec<Uuid>,
    authors: Vec<Uuid>,
}

impl Pairs {
    pub(super) fn push(&mut self, follower: Uuid, author: Uuid) {
        self.followers.push(follower);
        self.authors.push(author);
    }

    fn is_empty(&self) -> bool {
        self.followers.is_empty()
    }
}

/// What a batch does to timelines, in the order in which it is done.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Follows that ended, of authors who are fanned out.
    pub(super) left: Pairs,
    /// Follows that ended, of authors who are merged at read.
    pub(super) left_merged: Pairs,
    /// Authors who have too many followers from now on.
    pub(super) merging: Vec<Uuid>,
    /// Authors who have few enough again.
    pub(super) fanned_out_again: Vec<Uuid>,
    /// New follows of authors who are merged at read.
    pub(super) merged: Pairs,
    /// New follows of authors who are fanned out.
    pub(super) joined: Pairs,
    /// Where those follows began.
    pub(super) joined_at: Vec<i64>,
}

/// New posts that stand in timelines.
#[derive(Debug, Default)]
pub(super) struct FanOut {
    pub(super) authors: Vec<Uuid>,
    pub(super) positions: Vec<i64>,
}

/// The timelines that a batch touches, in its transaction.
pub(super) struct Timelines<'c> {
    connection: &'c mut Session,
    limits: FeedLimits,
    /// Timelines to be trimmed, and down to where their horizons rise at least.
    due: BTreeMap<Uuid, Position>,
}

impl<'c> Timelines<'c> {
    pub(super) fn new(connection: &'c mut Session, limits: FeedLimits) -> Self {
        Self {
            connection,
            limits,
            due: BTreeMap::new(),
        }
    }

    /// Follows began and ended, and authors crossed the limit. All these authors are locked.
    pub(super) async fn turn(&mut self, mut turns: Turns) -> sqlx::Result<()> {
        self.leave(&turns.left).await?;
        self.leave_merged(&turns.left_merged).await?;
        self.start_merging(&turns.merging).await?;
        self.merge(&turns.merged).await?;
        self.stop_merging(&turns.fanned_out_again, &mut turns.joined)
            .await?;
        self.join(&turns.joined).await
    }

    /// Posts above the horizon each have a row, so those are few.
    async fn leave(&mut self, pairs: &Pairs) -> sqlx::Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "DELETE FROM timeline t USING (
                 SELECT p.user_id, q.position
                 FROM unnest($1::uuid[], $2::uuid[]) AS p(user_id, author_id)
                 LEFT JOIN horizons h ON h.user_id = p.user_id
                 CROSS JOIN LATERAL (
                     SELECT position FROM posts WHERE author_id = p.author_id AND visibility < 2
                     AND position > COALESCE(h.position, 0)) q
             ) gone WHERE t.user_id = gone.user_id AND t.position = gone.position",
        )
        .bind(&pairs.followers)
        .bind(&pairs.authors)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// Only some of a merged author's many posts have rows: look at the rows, which are bounded.
    async fn leave_merged(&mut self, pairs: &Pairs) -> sqlx::Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        for sql in [
            "DELETE FROM merged_authors m
             USING unnest($1::uuid[], $2::uuid[]) AS p(follower_id, author_id)
             WHERE m.follower_id = p.follower_id AND m.author_id = p.author_id",
            "DELETE FROM timeline t USING (
                 SELECT p.user_id, q.position
                 FROM unnest($1::uuid[], $2::uuid[]) AS p(user_id, author_id)
                 CROSS JOIN LATERAL (
                     SELECT r.position FROM timeline r JOIN posts w ON w.position = r.position
                     WHERE r.user_id = p.user_id AND w.author_id = p.author_id) q
             ) gone WHERE t.user_id = gone.user_id AND t.position = gone.position",
        ] {
            sqlx::query(sql)
                .bind(&pairs.followers)
                .bind(&pairs.authors)
                .execute(&mut *self.connection)
                .await?;
        }
        Ok(())
    }

    /// From here on these authors' posts are merged at read. Rows that are there stay: a reader shows a post once.
    async fn start_merging(&mut self, authors: &[Uuid]) -> sqlx::Result<()> {
        if authors.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO merged_authors (follower_id, author_id)
             SELECT follower_id, followed_id FROM follows
             WHERE followed_id = ANY($1) AND since IS NOT NULL ON CONFLICT DO NOTHING",
        )
        .bind(authors)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn merge(&mut self, pairs: &Pairs) -> sqlx::Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO merged_authors (follower_id, author_id)
             SELECT * FROM unnest($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING",
        )
        .bind(&pairs.followers)
        .bind(&pairs.authors)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// Everybody who follows these authors joins them again, to catch up on what was not fanned out meanwhile. Half of the
    /// limit must have left since the last time, so this costs one backfill for each of those.
    async fn stop_merging(&mut self, authors: &[Uuid], joined: &mut Pairs) -> sqlx::Result<()> {
        if authors.is_empty() {
            return Ok(());
        }
        let followers: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "WITH gone AS (
                 DELETE FROM merged_authors m USING follows f
                 WHERE f.followed_id = ANY($1) AND f.since IS NOT NULL
                     AND m.follower_id = f.follower_id AND m.author_id = f.followed_id)
             SELECT follower_id, followed_id FROM follows
             WHERE followed_id = ANY($1) AND since IS NOT NULL",
        )
        .bind(authors)
        .fetch_all(&mut *self.connection)
        .await?;
        for (follower, author) in followers {
            joined.push(follower, author);
        }
        Ok(())
    }

    /// The newest posts of authors join the timelines of their new followers, down to the horizons. When there are more
    /// than a timeline holds, the horizon rises instead of the cost.
    async fn join(&mut self, pairs: &Pairs) -> sqlx::Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        let due: Vec<(Uuid, i64)> = sqlx::query_as(
            "WITH found AS MATERIALIZED (
                 SELECT p.user_id, b.position, b.rank
                 FROM unnest($1::uuid[], $2::uuid[]) AS p(user_id, author_id)
                 LEFT JOIN horizons h ON h.user_id = p.user_id
                 CROSS JOIN LATERAL (
                     SELECT n.position, row_number() OVER (ORDER BY n.position DESC) AS rank
                     FROM (SELECT position FROM posts
                           WHERE author_id = p.author_id AND visibility < 2
                               AND position > COALESCE(h.position, 0)
                           ORDER BY position DESC LIMIT $3 + 1) n) b
             ), added AS (
                 INSERT INTO timeline (user_id, position)
                 SELECT user_id, position FROM found WHERE rank <= $3 ORDER BY 1, 2
                 ON CONFLICT DO NOTHING RETURNING user_id, position
             )
             SELECT user_id, position FROM found WHERE rank > $3
             UNION ALL
             SELECT DISTINCT user_id, 0 FROM added
             WHERE uuid_hash_extended(user_id, position) % $4 = 0",
        )
        .bind(&pairs.followers)
        .bind(&pairs.authors)
        .bind(to_sql(self.limits.timeline_rows as u64))
        .bind(self.every())
        .fetch_all(&mut *self.connection)
        .await?;
        for (user, position) in due {
            self.trim(user, from_sql(position));
        }
        Ok(())
    }

    /// New posts of authors, for everybody who follows them but those whose follows began in this batch, at the given
    /// positions: joining brought them these posts. The authors are locked, and none of them was fanned out again in this
    /// batch.
    ///
    /// So nobody can have a row of these posts yet. Live that is looked at nevertheless; a generation that is being filled
    /// relies on it, because rows that may be there already cost half as much again.
    pub(super) async fn fan_out(
        &mut self,
        mode: WriteMode,
        posts: &FanOut,
        joined_at: &[i64],
    ) -> sqlx::Result<()> {
        if posts.authors.is_empty() {
            return Ok(());
        }
        let on_conflict = match mode {
            WriteMode::Live => "ON CONFLICT DO NOTHING",
            WriteMode::Bulk => "",
        };
        let sql = format!(
            "WITH added AS (
                 INSERT INTO timeline (user_id, position)
                 SELECT f.follower_id, p.position
                 FROM unnest($1::uuid[], $2::bigint[]) AS p(author_id, position)
                 JOIN follows f ON f.followed_id = p.author_id AND f.since IS NOT NULL
                 LEFT JOIN horizons h ON h.user_id = f.follower_id
                 WHERE p.position > COALESCE(h.position, 0)
                     AND f.since NOT IN (SELECT unnest($3::bigint[]))
                 ORDER BY 1, 2 {on_conflict} RETURNING user_id, position
             )
             SELECT DISTINCT user_id FROM added
             WHERE uuid_hash_extended(user_id, position) % $4 = 0"
        );
        let due: Vec<Uuid> = sqlx::query_scalar(&sql)
            .bind(&posts.authors)
            .bind(&posts.positions)
            .bind(joined_at)
            .bind(self.every())
            .fetch_all(&mut *self.connection)
            .await?;
        for user in due {
            self.trim(user, 0);
        }
        Ok(())
    }

    /// A row is one of the few after which its timeline is trimmed by its hash alone, so no counter has to be kept for
    /// anybody.
    fn every(&self) -> i64 {
        to_sql(self.limits.trim_every.max(1))
    }

    fn trim(&mut self, user: Uuid, at_least: Position) {
        let due = self.due.entry(user).or_default();
        *due = at_least.max(*due);
    }

    /// Raises the horizons that are due, in the order of ids, and clears away what stands at or below them.
    ///
    /// What another batch is clearing away is left to it: these deletions wait for nobody.
    pub(super) async fn finish(self) -> sqlx::Result<()> {
        if self.due.is_empty() {
            return Ok(());
        }
        let users: Vec<Uuid> = self.due.keys().copied().collect();
        let at_least: Vec<i64> = self
            .due
            .values()
            .map(|position| to_sql(*position))
            .collect();
        sqlx::query(
            "INSERT INTO horizons (user_id, position)
             SELECT d.user_id, d.position FROM (
                 SELECT u.user_id, GREATEST(u.at_least, (
                     SELECT t.position FROM timeline t WHERE t.user_id = u.user_id
                     ORDER BY t.position DESC OFFSET $3 LIMIT 1)) AS position
                 FROM unnest($1::uuid[], $2::bigint[]) AS u(user_id, at_least)) d
             WHERE d.position > 0 ORDER BY d.user_id
             ON CONFLICT (user_id) DO UPDATE SET position = excluded.position
             WHERE excluded.position > horizons.position",
        )
        .bind(&users)
        .bind(at_least)
        .bind(to_sql(self.limits.timeline_rows as u64))
        .execute(&mut *self.connection)
        .await?;
        sqlx::query(
            "DELETE FROM timeline WHERE ctid = ANY (ARRAY(
                 SELECT t.ctid FROM horizons h
                 JOIN timeline t ON t.user_id = h.user_id AND t.position <= h.position
                 WHERE h.user_id = ANY($1) FOR UPDATE OF t SKIP LOCKED))",
        )
        .bind(&users)
        .execute(self.connection)
        .await?;
        Ok(())
    }
}
