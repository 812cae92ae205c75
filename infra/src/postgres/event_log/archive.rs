//! The log's rows as they are, out of the database and into it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::UserId;
use socialhub_event_log::{
    ArchiveError, Credentials, EventRow, HeardOf, KeyRecord, KeyState, LogArchive, Over, Position,
    UnfinishedCopy, credential_key, require_same_keys,
};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    SCHEMA, copying, people, processes,
    queries::{self, CredentialsRow, credentials},
};
use crate::{
    event_rows::decode_metadata,
    postgres::{
        connect::{Access, OpenError, from_sql, to_sql},
        pool::{Pool, retrying},
        session::Session,
    },
};

/// Copying is no hurry: a page may take long on a busy server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it waits for an append of somebody else.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// One for reading, one for writing.
const CONNECTIONS: usize = 2;
/// The lock that `append_events` takes: one append at a time, whoever makes it.
const APPEND_LOCK: i64 = 8_316_291_640_277_037;

/// The columns [`row`] reads, in its order.
macro_rules! row_columns {
    () => {
        "SELECT e.position, e.event_id, e.command_id, e.aggregate_type, e.aggregate_id, e.sequence, e.event_type,
             e.event_version, e.payload::text, e.metadata::text, e.recorded_at"
    };
}

/// A log in a Postgres database, opened for copying rows.
#[derive(Debug, Clone)]
pub struct PgLogArchive {
    pool: Pool,
    /// The copy that what is written belongs to.
    copy: Arc<Mutex<Option<UnfinishedCopy>>>,
}

impl PgLogArchive {
    /// Opens a log that is there and up to date.
    ///
    /// # Errors
    /// When the database cannot be reached, or its schema is not this program's.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        let access = Access::new(url, "socialhub-archive", STATEMENT_TIMEOUT, LOCK_TIMEOUT)?;
        SCHEMA.require_current(&access).await?;
        Ok(Self {
            pool: Pool::new(access, CONNECTIONS),
            copy: Arc::default(),
        })
    }

    /// What every process on the log said last.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn processes(&self) -> Result<Vec<HeardOf>, ArchiveError> {
        let heard_of = retrying(|| processes::all(&self.pool)).await;
        heard_of.map_err(unavailable)
    }

    /// Marks the log as half of the copy under way, if anything was written.
    async fn mark(&self, connection: &mut Session, new: u64) -> Result<(), ArchiveError> {
        let copy = self.copy.lock().clone();
        match copy.filter(|_| new > 0) {
            Some(copy) => copying::mark(connection, &copy).await.map_err(unavailable),
            None => Ok(()),
        }
    }
}

fn unavailable(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Unavailable(error.to_string())
}

#[async_trait]
impl LogArchive for PgLogArchive {
    async fn head(&self) -> Result<Position, ArchiveError> {
        let head = retrying(|| queries::head(&self.pool)).await;
        head.map_err(unavailable)
    }

    fn keeps_any_text(&self) -> bool {
        false
    }

    async fn read_rows(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<EventRow>, ArchiveError> {
        let rows = retrying(|| read_rows(&self.pool, after, limit)).await;
        rows.map_err(unavailable)?.iter().map(row).collect()
    }

    async fn read_stream_rows(
        &self,
        stream_type: &str,
        stream_id: &str,
    ) -> Result<Vec<EventRow>, ArchiveError> {
        let rows = retrying(|| read_stream_rows(&self.pool, stream_type, stream_id)).await;
        rows.map_err(unavailable)?.iter().map(row).collect()
    }

    async fn write_rows(&self, rows: Vec<EventRow>) -> Result<(), ArchiveError> {
        let mut transaction = self.pool.begin().await.map_err(unavailable)?;
        lock(&mut transaction).await?;
        let head = "SELECT coalesce(max(position), 0) FROM events";
        let head: i64 = sqlx::query_scalar(head)
            .fetch_one(&mut *transaction)
            .await
            .map_err(unavailable)?;
        for (row, before) in rows.iter().zip(from_sql(head)..) {
            row.follows(before)?;
        }
        insert(&mut transaction, &rows).await?;
        if let Some(stray) = stray(&mut transaction, head, &rows).await? {
            return Err(stray);
        }
        erase(&mut transaction, &rows).await.map_err(unavailable)?;
        self.mark(&mut transaction, rows.len() as u64).await?;
        transaction.commit().await.map_err(unavailable)
    }

    async fn read_credentials(
        &self,
        after: Option<UserId>,
        registered_by: Position,
        limit: usize,
    ) -> Result<Vec<Credentials>, ArchiveError> {
        let read = || read_credentials(&self.pool, after, registered_by, limit);
        retrying(read).await.map_err(unavailable)
    }

    async fn compare_credentials(&self, rows: Vec<Credentials>) -> Result<(), ArchiveError> {
        let other = retrying(|| other_credentials(&self.pool, &rows)).await;
        match other.map_err(unavailable)? {
            None => Ok(()),
            Some(user) => Err(ArchiveError::OtherCredentials(user)),
        }
    }

    async fn write_credentials(
        &self,
        rows: Vec<Credentials>,
        over: Over,
    ) -> Result<u64, ArchiveError> {
        let mut transaction = self.pool.begin().await.map_err(unavailable)?;
        // Numbers of epoch changes are drawn under it.
        lock(&mut transaction).await?;
        let replaced = match over {
            Over::Same => 0,
            Over::Older => replace_credentials(&mut transaction, &rows)
                .await
                .map_err(unavailable)?,
        };
        let new = replaced
            + insert_credentials(&mut transaction, &rows)
                .await
                .map_err(unavailable)?;
        let users: Vec<Uuid> = rows.iter().map(|row| row.user_id.0).collect();
        let sql = "SELECT user_id, username, email, password_hash, token_epoch FROM credentials
             WHERE user_id = ANY ($1)";
        let found: Vec<CredentialsRow> = sqlx::query_as(sql)
            .bind(users)
            .fetch_all(&mut *transaction)
            .await
            .map_err(unavailable)?;
        let found = found.into_iter().map(credentials);
        let found: HashMap<UserId, Credentials> = found.map(|row| (row.user_id, row)).collect();
        if let Some(other) = rows
            .iter()
            .find(|row| found.get(&row.user_id) != Some(*row))
        {
            return Err(ArchiveError::OtherCredentials(other.user_id));
        }
        self.mark(&mut transaction, new).await?;
        transaction.commit().await.map_err(unavailable)?;
        Ok(new)
    }

    async fn find_keys(
        &self,
        wanted: &[UserId],
    ) -> Result<HashMap<UserId, KeyState>, ArchiveError> {
        let wanted: Vec<Uuid> = wanted.iter().map(|user| user.0).collect();
        let found = retrying(|| people::find(&self.pool, &wanted)).await;
        found.map_err(unavailable)
    }

    async fn read_keys(
        &self,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, ArchiveError> {
        let read = retrying(|| people::page_of_a_copy(&self.pool, after, limit)).await;
        read.map_err(unavailable)
    }

    async fn write_keys(&self, records: Vec<KeyRecord>) -> Result<u64, ArchiveError> {
        let mut transaction = self.pool.begin().await.map_err(unavailable)?;
        let new = people::restore(&mut *transaction, &records)
            .await
            .map_err(unavailable)?;
        let users: Vec<Uuid> = records.iter().map(|record| record.user_id.0).collect();
        let found = people::find(&mut *transaction, &users)
            .await
            .map_err(unavailable)?;
        require_same_keys(&records, &found)?;
        self.mark(&mut transaction, new).await?;
        transaction.commit().await.map_err(unavailable)?;
        Ok(new)
    }

    async fn unfinished_copy(&self) -> Result<Option<UnfinishedCopy>, ArchiveError> {
        let found = retrying(|| copying::find(&self.pool)).await;
        found.map_err(unavailable)
    }

    async fn begin_copy(&self, copy: UnfinishedCopy) -> Result<(), ArchiveError> {
        let found = self.unfinished_copy().await?;
        if let Some(other) = found.filter(|found| found.id != copy.id) {
            return Err(ArchiveError::OtherCopy(other));
        }
        *self.copy.lock() = Some(copy);
        Ok(())
    }

    async fn mark_copy(&self) -> Result<(), ArchiveError> {
        let copy = self.copy.lock().clone();
        match copy {
            Some(copy) => {
                let marked = copying::mark(&self.pool, &copy).await;
                marked.map_err(unavailable)
            }
            None => Ok(()),
        }
    }

    async fn end_copy(&self) -> Result<(), ArchiveError> {
        let cleared = copying::clear(&self.pool).await;
        cleared.map_err(unavailable)?;
        *self.copy.lock() = None;
        Ok(())
    }
}

async fn lock(connection: &mut Session) -> Result<(), ArchiveError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(APPEND_LOCK)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}

async fn read_rows(pool: &Pool, after: Position, limit: usize) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = concat!(
        row_columns!(),
        " FROM events AS e WHERE e.position > $1 ORDER BY e.position LIMIT $2"
    );
    sqlx::query(sql)
        .bind(to_sql(after))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
}

async fn read_stream_rows(
    pool: &Pool,
    stream_type: &str,
    stream_id: &str,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = concat!(
        row_columns!(),
        " FROM events AS e WHERE e.aggregate_type = $1 AND e.aggregate_id = $2 ORDER BY e.sequence"
    );
    sqlx::query(sql)
        .bind(stream_type)
        .bind(stream_id)
        .fetch_all(pool)
        .await
}

fn row(row: &PgRow) -> Result<EventRow, ArchiveError> {
    let read = || -> Result<EventRow, sqlx::Error> {
        Ok(EventRow {
            position: from_sql(row.try_get(0)?),
            event_id: row.try_get(1)?,
            command_id: row.try_get(2)?,
            stream_type: row.try_get(3)?,
            stream_id: row.try_get(4)?,
            sequence: from_sql(row.try_get(5)?),
            event_type: row.try_get(6)?,
            event_version: row.try_get(7)?,
            payload: row.try_get(8)?,
            metadata: row.try_get(9)?,
            recorded_at: row.try_get(10)?,
        })
    };
    read().map_err(|error| ArchiveError::Damaged {
        position: row.try_get(0).map_or(0, from_sql),
        reason: error.to_string(),
    })
}

/// Inserts the rows but those whose place in their stream is taken.
async fn insert(connection: &mut Session, rows: &[EventRow]) -> Result<(), ArchiveError> {
    // Who acted in an event whose metadata cannot be read is not known.
    let actor = |row: &EventRow| decode_metadata(&row.metadata).ok()?.actor;
    let actors: Vec<_> = rows.iter().map(|row| Some(actor(row)?.0)).collect();
    let sql = "INSERT INTO events (position, event_id, command_id, aggregate_type, aggregate_id, sequence, event_type,
             event_version, payload, metadata, recorded_at, actor)
         SELECT r.position, r.event_id, r.command_id, r.aggregate_type, r.aggregate_id, r.sequence, r.event_type,
             r.event_version, r.payload::json, r.metadata::json, r.recorded_at, r.actor
         FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
             $9::text[], $10::text[], $11::bigint[], $12::uuid[])
             AS r (position, event_id, command_id, aggregate_type, aggregate_id, sequence, event_type, event_version,
                 payload, metadata, recorded_at, actor)
         ON CONFLICT DO NOTHING";
    fn column<'r, T>(rows: &'r [EventRow], of: impl Fn(&'r EventRow) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    sqlx::query(sql)
        .bind(column(rows, |row| to_sql(row.position)))
        .bind(column(rows, |row| row.event_id))
        .bind(column(rows, |row| row.command_id))
        .bind(column(rows, |row| row.stream_type.as_str()))
        .bind(column(rows, |row| row.stream_id.as_str()))
        .bind(column(rows, |row| to_sql(row.sequence)))
        .bind(column(rows, |row| row.event_type.as_str()))
        .bind(column(rows, |row| row.event_version.as_str()))
        .bind(column(rows, |row| row.payload.as_str()))
        .bind(column(rows, |row| row.metadata.as_str()))
        .bind(column(rows, |row| row.recorded_at))
        .bind(actors)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}

/// The first row that is not where its stream goes on: it was not inserted, or the one before it is missing.
async fn stray(
    connection: &mut Session,
    head: i64,
    rows: &[EventRow],
) -> Result<Option<ArchiveError>, ArchiveError> {
    let sql = "SELECT n.position FROM generate_series($1::bigint + 1, $1::bigint + $2::bigint) AS n (position)
         LEFT JOIN events AS e ON e.position > $1 AND e.position = n.position
         LEFT JOIN events AS b ON e.sequence > 1 AND b.aggregate_type = e.aggregate_type
             AND b.aggregate_id = e.aggregate_id AND b.sequence = e.sequence - 1 AND b.position < e.position
         WHERE e.position IS NULL OR (e.sequence > 1 AND b.position IS NULL)
         ORDER BY n.position LIMIT 1";
    // Planned anew for each batch: a plan that was made while the log was empty reads all of it each time.
    let stray: Option<i64> = sqlx::query_scalar(sql)
        .persistent(false)
        .bind(head)
        .bind(to_sql(rows.len() as u64))
        .fetch_optional(connection)
        .await
        .map_err(unavailable)?;
    let row = stray.and_then(|stray| rows.iter().find(|row| row.position == from_sql(stray)));
    Ok(row.map(EventRow::astray))
}

async fn read_credentials(
    pool: &Pool,
    after: Option<UserId>,
    registered_by: Position,
    limit: usize,
) -> Result<Vec<Credentials>, sqlx::Error> {
    let sql = "SELECT c.user_id, c.username, c.email, c.password_hash, c.token_epoch
         FROM credentials AS c JOIN events AS e
             ON e.aggregate_type = 'user' AND e.aggregate_id = c.user_id::text AND e.sequence = 1
         WHERE ($1::uuid IS NULL OR c.user_id > $1) AND e.position <= $2
         ORDER BY c.user_id LIMIT $3";
    let found: Vec<CredentialsRow> = sqlx::query_as(sql)
        .bind(after.map(|user| user.0))
        .bind(to_sql(registered_by))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    Ok(found.into_iter().map(credentials).collect())
}

/// Credentials as the parameters `$1` to `$7` of a statement, which reads them as the table `c`.
macro_rules! brought {
    () => {
        "unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[]) WITH ORDINALITY
             AS c (user_id, username, username_key, email, email_key, hash, epoch, nth)"
    };
}

fn with_credentials<'q>(
    query: sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>,
    rows: &[Credentials],
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    fn column<'r, T>(rows: &'r [Credentials], of: impl Fn(&'r Credentials) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    query
        .bind(column(rows, |row| row.user_id.0))
        .bind(column(rows, |row| row.username.clone()))
        .bind(column(rows, |row| credential_key(&row.username)))
        .bind(column(rows, |row| row.email.clone()))
        .bind(column(rows, |row| credential_key(&row.email)))
        .bind(column(rows, |row| row.password_hash.clone()))
        .bind(column(rows, |row| to_sql(row.token_epoch)))
}

/// The first person of whom, or under a name of whom, there are other credentials.
async fn other_credentials(
    pool: &Pool,
    rows: &[Credentials],
) -> Result<Option<UserId>, sqlx::Error> {
    let sql = concat!(
        "SELECT c.user_id FROM ",
        brought!(),
        " CROSS JOIN LATERAL (
             SELECT * FROM credentials AS k WHERE k.user_id = c.user_id
             UNION ALL SELECT * FROM credentials AS k WHERE k.username_key = c.username_key
             UNION ALL SELECT * FROM credentials AS k WHERE k.email_key = c.email_key
         ) AS k
         WHERE (k.user_id, k.username, k.email, k.password_hash, k.token_epoch)
             <> (c.user_id, c.username, c.email, c.hash, c.epoch)
         ORDER BY c.nth LIMIT 1"
    );
    let found = with_credentials(sqlx::query(sql), rows);
    let found = found.fetch_optional(pool).await?;
    found.map(|row| row.try_get(0).map(UserId)).transpose()
}

/// Replaces those of the same person that are not the same.
async fn replace_credentials(
    connection: &mut Session,
    rows: &[Credentials],
) -> Result<u64, sqlx::Error> {
    let sql = concat!(
        "UPDATE credentials AS k
         SET username = c.username, username_key = c.username_key, email = c.email, email_key = c.email_key,
             password_hash = c.hash, token_epoch = c.epoch,
             epoch_change = CASE WHEN k.token_epoch = c.epoch THEN k.epoch_change ELSE nextval('epoch_changes') END
         FROM ",
        brought!(),
        " WHERE k.user_id = c.user_id
             AND (k.username, k.email, k.password_hash, k.token_epoch) <> (c.username, c.email, c.hash, c.epoch)"
    );
    let done = with_credentials(sqlx::query(sql), rows);
    Ok(done.execute(connection).await?.rows_affected())
}

async fn insert_credentials(
    connection: &mut Session,
    rows: &[Credentials],
) -> Result<u64, sqlx::Error> {
    let sql = concat!(
        "INSERT INTO credentials (user_id, username, username_key, email, email_key, password_hash, token_epoch,
             epoch_change)
         SELECT c.user_id, c.username, c.username_key, c.email, c.email_key, c.hash, c.epoch,
             CASE WHEN c.epoch > 1 THEN nextval('epoch_changes') END
         FROM ",
        brought!(),
        " ON CONFLICT DO NOTHING"
    );
    let done = with_credentials(sqlx::query(sql), rows);
    Ok(done.execute(connection).await?.rows_affected())
}

/// What `append_events` does with an erasure: notes what is left to do, and removes what can be removed at once.
async fn erase(connection: &mut Session, rows: &[EventRow]) -> Result<(), sqlx::Error> {
    let erased = rows
        .iter()
        .filter_map(|row| Some((row.erases()?.0, to_sql(row.position))));
    let (users, positions): (Vec<Uuid>, Vec<i64>) = erased.unzip();
    if users.is_empty() {
        return Ok(());
    }
    let note = "INSERT INTO erasures (user_id, position, username, email)
         SELECT e.user_id, e.position, k.username, k.email
         FROM unnest($1::uuid[], $2::bigint[]) AS e (user_id, position)
         LEFT JOIN credentials AS k ON k.user_id = e.user_id
         ON CONFLICT (user_id) DO NOTHING";
    sqlx::query(note)
        .bind(&users)
        .bind(positions)
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM credentials WHERE user_id = ANY ($1)")
        .bind(&users)
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM answers WHERE owner = ANY ($1)")
        .bind(users.iter().map(Uuid::to_string).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
