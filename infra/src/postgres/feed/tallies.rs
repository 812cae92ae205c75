//! The rows that lock authors and count for profiles.

use std::collections::BTreeMap;

use socialhub_event_log::Position;
use socialhub_projections::runtime::WriteMode;
use sqlx::Row;
use uuid::Uuid;

use crate::postgres::{model::to_sql, session::Session};

/// What a batch adds to somebody's counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    followers_before: i64,
    was_merged: bool,
    pub(super) followers: i64,
    pub(super) following: i64,
    pub(super) posts: i64,
    merged: bool,
    position: Position,
}

impl Tally {
    /// Notes that an event changed it.
    pub(super) fn touch(&mut self, position: Position) {
        self.position = self.position.max(position);
    }

    /// Whether the person's posts are merged into feeds when they are read.
    pub(super) fn is_merged(&self) -> bool {
        self.merged
    }

    /// Decides anew whether they are: above the limit, until half of it have left. Answers what it was before.
    pub(super) fn weigh(&mut self, limit: u64) -> bool {
        let was = self.merged;
        let bound = if was { limit / 2 } else { limit };
        self.merged = self.followers_before + self.followers > to_sql(bound);
        was
    }

    fn is_changed(&self) -> bool {
        self.position > 0 || self.merged != self.was_merged
    }
}

/// The counts of everybody whom a batch is about, by id.
pub(super) struct Tallies(BTreeMap<Uuid, Tally>);

impl Tallies {
    /// Locks everybody's row, in the order of ids, making those that are missing. From here on nobody else changes who
    /// follows them or what they have written, and statements see all that was.
    ///
    /// A filling generation has one writer, which needs no locks.
    pub(super) async fn lock(
        connection: &mut Session,
        mode: WriteMode,
        mut people: Vec<Uuid>,
    ) -> sqlx::Result<Self> {
        people.sort_unstable();
        people.dedup();
        if people.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        // Missing rows first: whoever waits here for another's new row holds nothing that the other could want.
        sqlx::query(
            "INSERT INTO tallies (user_id) SELECT p.id FROM unnest($1::uuid[]) AS p(id)
             ON CONFLICT DO NOTHING",
        )
        .bind(&people)
        .execute(&mut *connection)
        .await?;
        let sql = match mode {
            WriteMode::Live => {
                "SELECT user_id, followers, merged FROM tallies WHERE user_id = ANY($1)
                 ORDER BY user_id FOR UPDATE"
            }
            WriteMode::Bulk => {
                "SELECT user_id, followers, merged FROM tallies WHERE user_id = ANY($1)"
            }
        };
        let rows = sqlx::query(sql).bind(&people).fetch_all(connection).await?;
        let mut tallies = BTreeMap::new();
        for row in rows {
            let merged = row.try_get(2)?;
            let tally = Tally {
                followers_before: row.try_get(1)?,
                was_merged: merged,
                merged,
                ..Tally::default()
            };
            tallies.insert(row.try_get(0)?, tally);
        }
        Ok(Self(tallies))
    }

    /// The counts of somebody who was locked.
    pub(super) fn of(&mut self, id: Uuid) -> &mut Tally {
        self.0.entry(id).or_default()
    }

    /// Adds what the batch changed.
    pub(super) async fn write(self, connection: &mut Session) -> sqlx::Result<()> {
        let changed: Vec<(Uuid, Tally)> = self
            .0
            .into_iter()
            .filter(|row| row.1.is_changed())
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let column = |read: fn(&Tally) -> i64| changed.iter().map(|row| read(&row.1)).collect();
        let (followers, following, posts, positions): (Vec<i64>, Vec<i64>, Vec<i64>, Vec<i64>) = (
            column(|tally| tally.followers),
            column(|tally| tally.following),
            column(|tally| tally.posts),
            column(|tally| to_sql(tally.position)),
        );
        sqlx::query(
            "UPDATE tallies t SET followers = t.followers + c.followers,
                 following = t.following + c.following, posts = t.posts + c.posts,
                 merged = c.merged, position = GREATEST(t.position, c.position)
             FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[],
                         $6::bigint[])
                 AS c(user_id, followers, following, posts, merged, position)
             WHERE t.user_id = c.user_id",
        )
        .bind(changed.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(followers)
        .bind(following)
        .bind(posts)
        .bind(changed.iter().map(|row| row.1.merged).collect::<Vec<_>>())
        .bind(positions)
        .execute(connection)
        .await?;
        Ok(())
    }
}
