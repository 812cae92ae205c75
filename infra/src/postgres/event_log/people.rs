//! The keys of people and what is left to do for the erased: in the log's database.

use std::collections::HashMap;

use async_trait::async_trait;
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{
    ErasureStore, KeyRecord, KeyState, LogError, PendingErasure, PersonKey, PersonKeys, Position,
};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{PgEventLog, answer};
use crate::postgres::{
    connect::{from_sql, to_sql},
    pool::{Pool, retrying},
};

/// Answers that are looked through at a time.
const ANSWERS: usize = 1_000;

type KeyRow = (Uuid, Option<Vec<u8>>, Option<i64>);

fn record((user, key, erased_at): KeyRow) -> Result<KeyRecord, sqlx::Error> {
    let key = key
        .map(|bytes| bytes.try_into().map(PersonKey))
        .transpose()
        .map_err(|_| sqlx::Error::Decode("a key of another length".into()))?;
    Ok(KeyRecord {
        user_id: UserId(user),
        key,
        erased_at: erased_at.map(from_sql),
    })
}

pub(super) async fn find(
    executor: impl PgExecutor<'_>,
    people: &[Uuid],
) -> Result<HashMap<UserId, KeyState>, sqlx::Error> {
    let sql = "SELECT k.user_id, k.key, k.erased_at FROM unnest($1::uuid[]) AS u (id)
         JOIN person_keys AS k ON k.user_id = u.id";
    let rows: Vec<KeyRow> = sqlx::query_as(sql).bind(people).fetch_all(executor).await?;
    rows.into_iter()
        .map(|row| record(row).map(|record| (record.user_id, record.state())))
        .collect()
}

async fn offer(pool: &Pool, people: &[Uuid], keys: &[&[u8]]) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO person_keys (user_id, key) SELECT * FROM unnest($1::uuid[], $2::bytea[])
         ON CONFLICT DO NOTHING";
    let offered = sqlx::query(sql).bind(people).bind(keys);
    offered.execute(pool).await.map(|_| ())
}

async fn destroy(pool: &Pool, user: UserId, position: Position) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO person_keys AS k (user_id, erased_at) VALUES ($1, $2)
         ON CONFLICT (user_id) DO UPDATE SET key = NULL, erased_at = excluded.erased_at
         WHERE k.erased_at IS NULL";
    let destroyed = sqlx::query(sql).bind(user.0).bind(to_sql(position));
    destroyed.execute(pool).await.map(|_| ())
}

async fn page(
    pool: &Pool,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<KeyRecord>, sqlx::Error> {
    let sql = "SELECT user_id, key, erased_at FROM person_keys
         WHERE $1::uuid IS NULL OR user_id > $1 ORDER BY user_id LIMIT $2";
    records(pool, sql, after, limit).await
}

/// As a copy takes them: whoever the log says is erased has no key, also while it is still there. All of one moment: who
/// is not erased then had credentials when those were read.
pub(super) async fn page_of_a_copy(
    pool: &Pool,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<KeyRecord>, sqlx::Error> {
    let sql = "SELECT k.user_id, CASE WHEN e.position IS NULL THEN k.key END, coalesce(k.erased_at, e.position)
         FROM person_keys AS k CROSS JOIN LATERAL (
             SELECT min(position) AS position FROM events
             WHERE aggregate_type = 'user' AND aggregate_id = k.user_id::text AND event_type = 'user.erased'
         ) AS e
         WHERE $1::uuid IS NULL OR k.user_id > $1 ORDER BY k.user_id LIMIT $2";
    records(pool, sql, after, limit).await
}

async fn records(
    pool: &Pool,
    sql: &str,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<KeyRecord>, sqlx::Error> {
    let rows: Vec<KeyRow> = sqlx::query_as(sql)
        .bind(after.map(|user| user.0))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(record).collect()
}

/// Answers how many records changed anything.
pub(super) async fn restore(
    executor: impl PgExecutor<'_>,
    records: &[KeyRecord],
) -> Result<u64, sqlx::Error> {
    let sql = "INSERT INTO person_keys AS k (user_id, key, erased_at)
         SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bigint[])
         ON CONFLICT (user_id) DO UPDATE SET key = NULL, erased_at = excluded.erased_at
         WHERE k.erased_at IS NULL AND excluded.erased_at IS NOT NULL";
    let users: Vec<Uuid> = records.iter().map(|record| record.user_id.0).collect();
    let keys: Vec<Option<&[u8]>> = records
        .iter()
        .map(|record| record.key.as_ref().map(|key| &key.0[..]))
        .collect();
    let erased: Vec<Option<i64>> = records
        .iter()
        .map(|record| record.erased_at.map(to_sql))
        .collect();
    let restored = sqlx::query(sql).bind(users).bind(keys).bind(erased);
    restored
        .execute(executor)
        .await
        .map(|done| done.rows_affected())
}

#[async_trait]
impl PersonKeys for PgEventLog {
    async fn find(&self, people: &[UserId]) -> Result<HashMap<UserId, KeyState>, LogError> {
        let people: Vec<Uuid> = people.iter().map(|user| user.0).collect();
        answer(retrying(|| find(&self.pool, &people)).await)
    }

    async fn obtain(
        &self,
        offered: Vec<(UserId, PersonKey)>,
    ) -> Result<HashMap<UserId, KeyState>, LogError> {
        let people: Vec<Uuid> = offered.iter().map(|(user, _)| user.0).collect();
        let keys: Vec<&[u8]> = offered.iter().map(|(_, key)| &key.0[..]).collect();
        answer(retrying(|| offer(&self.pool, &people, &keys)).await)?;
        // A statement of its own: it sees whoever was faster.
        answer(retrying(|| find(&self.pool, &people)).await)
    }

    async fn destroy(&self, user_id: UserId, position: Position) -> Result<(), LogError> {
        answer(retrying(|| destroy(&self.pool, user_id, position)).await)
    }

    async fn page(&self, after: Option<UserId>, limit: usize) -> Result<Vec<KeyRecord>, LogError> {
        answer(retrying(|| page(&self.pool, after, limit)).await)
    }

    async fn restore(&self, records: Vec<KeyRecord>) -> Result<(), LogError> {
        answer(retrying(|| restore(&self.pool, &records)).await).map(|_| ())
    }
}

async fn pending(pool: &Pool, after: Position) -> Result<Vec<PendingErasure>, sqlx::Error> {
    let sql = "SELECT e.aggregate_id::uuid, e.position, r.username, r.email
         FROM events AS e LEFT JOIN erasures AS r ON r.user_id = e.aggregate_id::uuid
         WHERE e.event_type = 'user.erased' AND e.position > $1 AND r.completed_at IS NULL
         ORDER BY e.position";
    let rows: Vec<(Uuid, i64, Option<String>, Option<String>)> = sqlx::query_as(sql)
        .bind(to_sql(after))
        .fetch_all(pool)
        .await?;
    let read = |(user, position, username, email)| PendingErasure {
        user_id: UserId(user),
        position: from_sql(position),
        username,
        email,
    };
    Ok(rows.into_iter().map(read).collect())
}

async fn last_erased(pool: &Pool, before: Position) -> Result<i64, sqlx::Error> {
    let sql = "SELECT coalesce(max(position), 0) FROM events WHERE event_type = 'user.erased' AND position < $1";
    let last = sqlx::query_scalar(sql).bind(to_sql(before));
    last.fetch_one(pool).await
}

/// Those without a key whose stream says so, or does not, or is not there.
async fn destroyed(pool: &Pool, said: Option<bool>) -> Result<Vec<UserId>, sqlx::Error> {
    let sql = "SELECT k.user_id FROM person_keys AS k CROSS JOIN LATERAL (
             SELECT bool_or(e.event_type = 'user.erased') AS said FROM events AS e
             WHERE e.aggregate_type = 'user' AND e.aggregate_id = k.user_id::text
         ) AS stream
         WHERE k.erased_at IS NOT NULL AND stream.said IS NOT DISTINCT FROM $1";
    let found: Vec<Uuid> = sqlx::query_scalar(sql).bind(said).fetch_all(pool).await?;
    Ok(found.into_iter().map(UserId).collect())
}

async fn last_answer(pool: &Pool) -> Result<i64, sqlx::Error> {
    let sql = "SELECT coalesce(max(id), 0) FROM answers";
    sqlx::query_scalar(sql).fetch_one(pool).await
}

/// Forgets what is theirs or names them of the answers after one; answers the last that was looked at. One statement is a
/// transaction of its own: it stays far below the time that the server lets it run, and holds nobody up.
async fn forget_piece(pool: &Pool, user: UserId, after: i64) -> Result<Option<i64>, sqlx::Error> {
    let sql = "WITH piece AS (
             SELECT max(p.id) AS last FROM (SELECT id FROM answers WHERE id > $2 ORDER BY id LIMIT $3) AS p
         ), forgotten AS (
             DELETE FROM answers AS a USING piece AS p
             WHERE a.id > $2 AND a.id <= p.last AND (a.owner = $1 OR position($1 IN a.body) > 0)
         )
         SELECT last FROM piece";
    sqlx::query_scalar(sql)
        .bind(user.to_string())
        .bind(after)
        .bind(to_sql(ANSWERS as u64))
        .fetch_one(pool)
        .await
}

async fn complete(pool: &Pool, erasure: &PendingErasure, at: Timestamp) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO erasures (user_id, position, completed_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id) DO UPDATE
         SET username = NULL, email = NULL, completed_at = excluded.completed_at";
    let completed = sqlx::query(sql)
        .bind(erasure.user_id.0)
        .bind(to_sql(erasure.position))
        .bind(at.0);
    completed.execute(pool).await.map(|_| ())
}

#[async_trait]
impl ErasureStore for PgEventLog {
    async fn pending(&self, after: Position) -> Result<Vec<PendingErasure>, LogError> {
        answer(retrying(|| pending(&self.pool, after)).await)
    }

    async fn last_erased(&self, before: Position) -> Result<Position, LogError> {
        answer(retrying(|| last_erased(&self.pool, before)).await).map(from_sql)
    }

    async fn unsaid(&self) -> Result<Vec<UserId>, LogError> {
        answer(retrying(|| destroyed(&self.pool, Some(false))).await)
    }

    async fn strangers(&self) -> Result<Vec<UserId>, LogError> {
        answer(retrying(|| destroyed(&self.pool, None)).await)
    }

    async fn forget_answers(&self, user_id: UserId) -> Result<(), LogError> {
        let top = answer(retrying(|| last_answer(&self.pool)).await)?;
        let mut after = 0;
        while after < top {
            match answer(retrying(|| forget_piece(&self.pool, user_id, after)).await)? {
                Some(last) => after = last,
                None => break,
            }
        }
        Ok(())
    }

    /// What was overwritten is cleared away by the server's own vacuum.
    async fn complete(&self, erasure: &PendingErasure, at: Timestamp) -> Result<(), LogError> {
        answer(retrying(|| complete(&self.pool, erasure, at)).await)
    }
}
