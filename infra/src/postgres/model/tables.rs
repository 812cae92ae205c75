//! The tables that every generation has beside its model's own. Names stand without a schema: the connection's search
//! path is the generation's.

use socialhub_domain::Timestamp;
use socialhub_projections::{
    Checkpoint, ParkedLetter, Source, record::SequenceKey, store::ParkedSequence,
};
use sqlx::{PgExecutor, Row, postgres::PgRow};

use crate::postgres::{
    model::{from_sql, to_sql},
    session::Session,
};

/// Makes them.
pub(super) const SCHEMA: &str = r#"
CREATE TABLE checkpoint (
    source text COLLATE "C" NOT NULL, partition integer NOT NULL, position bigint NOT NULL, event_id uuid NOT NULL,
    next_offset bigint, partitions integer, PRIMARY KEY (source, partition)) WITH (fillfactor = 50);
CREATE TABLE parked (
    position bigint PRIMARY KEY, event_id uuid NOT NULL, topic text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
    raw text NOT NULL, reason text NOT NULL, attempts integer NOT NULL, parked_at bigint NOT NULL);
CREATE TABLE attempt (
    source text COLLATE "C" NOT NULL, partition integer NOT NULL, position bigint NOT NULL, tries integer NOT NULL,
    PRIMARY KEY (source, partition, position));
CREATE TABLE writer_end (
    source text COLLATE "C" NOT NULL, partition integer NOT NULL, clean boolean NOT NULL,
    PRIMARY KEY (source, partition));
"#;

/// Every checkpoint.
pub(super) async fn checkpoints(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Checkpoint>> {
    let rows = sqlx::query(
        "SELECT source, partition, position, event_id, next_offset, partitions FROM checkpoint
         ORDER BY source, partition",
    )
    .fetch_all(executor)
    .await?;
    let read = |row: &PgRow| {
        Ok(Checkpoint {
            source: Source {
                name: row.try_get(0)?,
                partition: row.try_get(1)?,
            },
            position: from_sql(row.try_get(2)?),
            event_id: row.try_get(3)?,
            next_offset: row.try_get(4)?,
            partitions: row.try_get(5)?,
        })
    };
    rows.iter().map(read).collect()
}

/// The sequences of the letters.
pub(super) async fn parked_sequences(
    executor: impl PgExecutor<'_>,
) -> sqlx::Result<Vec<ParkedSequence>> {
    let rows = sqlx::query(
        "SELECT DISTINCT ON (topic, key) topic, key, position, attempts, count(*) OVER (PARTITION BY topic, key)
         FROM parked ORDER BY topic, key, position",
    )
    .fetch_all(executor)
    .await?;
    let read = |row: &PgRow| {
        Ok(ParkedSequence {
            sequence: SequenceKey {
                topic: row.try_get(0)?,
                key: row.try_get(1)?,
            },
            first: from_sql(row.try_get(2)?),
            is_tried: row.try_get::<i32, _>(3)? > 0,
            events: from_sql(row.try_get(4)?),
        })
    };
    let mut found = rows.iter().map(read).collect::<sqlx::Result<Vec<_>>>()?;
    found.sort_by_key(|sequence| sequence.first);
    Ok(found)
}

/// Every letter, by position.
pub(super) async fn letters(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<ParkedLetter>> {
    let rows = sqlx::query(
        "SELECT position, event_id, topic, key, raw, reason, attempts, parked_at FROM parked
         ORDER BY position",
    )
    .fetch_all(executor)
    .await?;
    let read = |row: &PgRow| {
        Ok(ParkedLetter {
            position: from_sql(row.try_get(0)?),
            event_id: row.try_get(1)?,
            topic: row.try_get(2)?,
            key: row.try_get(3)?,
            raw: row.try_get(4)?,
            reason: row.try_get(5)?,
            attempts: row.try_get::<i32, _>(6)?.cast_unsigned(),
            parked_at: Timestamp(row.try_get(7)?),
        })
    };
    rows.iter().map(read).collect()
}

/// How many letters there are.
pub(super) async fn count_letters(executor: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    let count = sqlx::query_scalar("SELECT count(*) FROM parked")
        .fetch_one(executor)
        .await?;
    Ok(from_sql(count))
}

/// Text as Postgres can hold it. A letter must go in whatever it says, so the one character that cannot is replaced.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Parks letters.
pub(super) async fn insert_letters(
    connection: &mut Session,
    letters: &[ParkedLetter],
) -> sqlx::Result<()> {
    for letter in letters {
        sqlx::query(
            "INSERT INTO parked (position, event_id, topic, key, raw, reason, attempts, parked_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (position) DO UPDATE SET event_id = excluded.event_id,
                 topic = excluded.topic, key = excluded.key, raw = excluded.raw,
                 reason = excluded.reason, attempts = excluded.attempts,
                 parked_at = excluded.parked_at",
        )
        .bind(to_sql(letter.position))
        .bind(letter.event_id)
        .bind(storable(&letter.topic))
        .bind(storable(&letter.key))
        .bind(storable(&letter.raw))
        .bind(storable(&letter.reason))
        .bind(letter.attempts.cast_signed())
        .bind(letter.parked_at.0)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Removes a letter; answers whether it was there.
pub(super) async fn delete_letter(
    executor: impl PgExecutor<'_>,
    position: u64,
) -> sqlx::Result<bool> {
    let deleted = sqlx::query("DELETE FROM parked WHERE position = $1")
        .bind(to_sql(position))
        .execute(executor)
        .await?;
    Ok(deleted.rows_affected() == 1)
}
