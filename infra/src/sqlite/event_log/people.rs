//! The keys of people and what is left to do for the erased: in the log's file, through its one writer.

use std::collections::HashMap;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{
    ErasureStore, KeyRecord, KeyState, LogError, PendingErasure, PersonKey, PersonKeys, Position,
};

use super::SqliteEventLog;
use crate::sqlite::connection::{checkpoint, from_sql, id_bytes, read_id, to_sql};

/// Answers that are looked through at a time.
const ANSWERS: usize = 1_000;

/// Reads `key, erased_at` from a column on.
fn key_and_mark(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<(Option<PersonKey>, Option<Position>)> {
    let key = row.get::<_, Option<[u8; 32]>>(column)?.map(PersonKey);
    let erased_at: Option<i64> = row.get(column + 1)?;
    Ok((key, erased_at.map(from_sql)))
}

fn find(connection: &Connection, user_id: UserId) -> rusqlite::Result<Option<KeyState>> {
    let sql = "SELECT key, erased_at FROM person_keys WHERE user_id = ?1";
    let found = connection
        .prepare_cached(sql)?
        .query_row([id_bytes(user_id.0)], |row| key_and_mark(row, 0))
        .optional()?;
    Ok(found.map(|(key, erased_at)| {
        KeyRecord {
            user_id,
            key,
            erased_at,
        }
        .state()
    }))
}

/// In one transaction, whole or not at all.
fn together<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

/// The keys of some people.
pub(super) fn find_keys(
    connection: &Connection,
    people: &[UserId],
) -> rusqlite::Result<HashMap<UserId, KeyState>> {
    let mut found = HashMap::with_capacity(people.len());
    for user in people {
        if let Some(state) = find(connection, *user)? {
            found.insert(*user, state);
        }
    }
    Ok(found)
}

/// Keys and marks after a person's.
pub(super) fn read_keys(
    connection: &Connection,
    after: Option<UserId>,
    limit: usize,
) -> rusqlite::Result<Vec<KeyRecord>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = "SELECT user_id, key, erased_at FROM person_keys
         WHERE ?1 IS NULL OR user_id > ?1 ORDER BY user_id LIMIT ?2";
    let after = after.map(|user| id_bytes(user.0));
    let read = |row: &Row<'_>| {
        let (key, erased_at) = key_and_mark(row, 1)?;
        Ok(KeyRecord {
            user_id: UserId(read_id(row, 0)?),
            key,
            erased_at,
        })
    };
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(params![after, limit], read)?.collect()
}

/// Brings a record back; answers whether that changed anything.
pub(super) fn restore(connection: &Connection, record: &KeyRecord) -> rusqlite::Result<bool> {
    let sql = "INSERT INTO person_keys (user_id, key, erased_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (user_id) DO UPDATE SET key = NULL, erased_at = excluded.erased_at
         WHERE person_keys.erased_at IS NULL AND excluded.erased_at IS NOT NULL";
    let row = params![
        id_bytes(record.user_id.0),
        record.key.as_ref().map(|key| key.0),
        record.erased_at.map(to_sql),
    ];
    Ok(connection.prepare_cached(sql)?.execute(row)? > 0)
}

#[async_trait]
impl PersonKeys for SqliteEventLog {
    async fn find(&self, people: &[UserId]) -> Result<HashMap<UserId, KeyState>, LogError> {
        let people = people.to_vec();
        self.read(move |connection| find_keys(connection, &people))
            .await
    }

    async fn obtain(
        &self,
        offered: Vec<(UserId, PersonKey)>,
    ) -> Result<HashMap<UserId, KeyState>, LogError> {
        self.write(move |connection| {
            together(connection, |connection| {
                let sql = "INSERT OR IGNORE INTO person_keys (user_id, key) VALUES (?1, ?2)";
                let mut standing = HashMap::with_capacity(offered.len());
                for (user, key) in offered {
                    let row = params![id_bytes(user.0), key.0];
                    connection.prepare_cached(sql)?.execute(row)?;
                    if let Some(state) = find(connection, user)? {
                        standing.insert(user, state);
                    }
                }
                Ok(standing)
            })
        })
        .await
    }

    async fn destroy(&self, user_id: UserId, position: Position) -> Result<(), LogError> {
        self.write(move |connection| {
            let sql = "INSERT INTO person_keys (user_id, erased_at) VALUES (?1, ?2)
                 ON CONFLICT (user_id) DO UPDATE SET key = NULL, erased_at = excluded.erased_at
                 WHERE erased_at IS NULL";
            let row = params![id_bytes(user_id.0), to_sql(position)];
            connection.prepare_cached(sql)?.execute(row)?;
            Ok(())
        })
        .await
    }

    async fn page(&self, after: Option<UserId>, limit: usize) -> Result<Vec<KeyRecord>, LogError> {
        self.read(move |connection| read_keys(connection, after, limit))
            .await
    }

    async fn restore(&self, records: Vec<KeyRecord>) -> Result<(), LogError> {
        self.write(move |connection| {
            together(connection, |connection| {
                for record in &records {
                    restore(connection, record)?;
                }
                Ok(())
            })
        })
        .await
    }
}

#[async_trait]
impl ErasureStore for SqliteEventLog {
    async fn pending(&self, after: Position) -> Result<Vec<PendingErasure>, LogError> {
        self.read(move |connection| pending(connection, after))
            .await
    }

    async fn last_erased(&self, before: Position) -> Result<Position, LogError> {
        self.read(move |connection| {
            let sql = "SELECT coalesce(max(position), 0) FROM events INDEXED BY events_erased
                 WHERE event_type = 'user.erased' AND position < ?1";
            connection.query_row(sql, [to_sql(before)], |row| row.get(0).map(from_sql))
        })
        .await
    }

    async fn unsaid(&self) -> Result<Vec<UserId>, LogError> {
        self.read(|connection| destroyed(connection, Some(false)))
            .await
    }

    async fn strangers(&self) -> Result<Vec<UserId>, LogError> {
        self.read(|connection| destroyed(connection, None)).await
    }

    async fn forget_answers(&self, user_id: UserId) -> Result<(), LogError> {
        let top = self.read(|connection| last_answer(connection)).await?;
        let mut after = 0;
        while after < top {
            let piece = move |connection: &mut Connection| forget_piece(connection, user_id, after);
            match self.write(piece).await? {
                Some(last) => after = last,
                None => break,
            }
        }
        Ok(())
    }

    async fn complete(&self, erasure: &PendingErasure, at: Timestamp) -> Result<(), LogError> {
        let (user_id, position) = (erasure.user_id, erasure.position);
        self.write(move |connection| {
            let sql = "UPDATE erasures SET username = NULL, email = NULL WHERE user_id = ?1";
            connection.execute(sql, [id_bytes(user_id.0)])?;
            // What was overwritten still stands in the WAL: keys, addresses, names. As long as that is so it is not complete,
            // and whoever is killed here, or held up by a reader, tries again.
            checkpoint(connection)?;
            let sql = "INSERT INTO erasures (user_id, position, completed_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (user_id) DO UPDATE SET completed_at = excluded.completed_at";
            connection
                .execute(sql, params![id_bytes(user_id.0), to_sql(position), at.0])
                .map(|_| ())
        })
        .await
    }
}

/// Where the log says that somebody is erased.
pub(super) fn said_erased(
    connection: &Connection,
    user_id: UserId,
) -> rusqlite::Result<Option<Position>> {
    let sql = "SELECT min(position) FROM events
         WHERE aggregate_type = 'user' AND aggregate_id = ?1 AND event_type = 'user.erased'";
    let mut statement = connection.prepare_cached(sql)?;
    let position: Option<i64> = statement.query_row([user_id.to_string()], |row| row.get(0))?;
    Ok(position.map(from_sql))
}

/// Those after a position with work left, by position.
fn pending(connection: &Connection, after: Position) -> rusqlite::Result<Vec<PendingErasure>> {
    let sql = "SELECT aggregate_id, position FROM events INDEXED BY events_erased
         WHERE event_type = 'user.erased' AND position > ?1 ORDER BY position";
    let mut statement = connection.prepare_cached(sql)?;
    let erased = statement
        .query_map([to_sql(after)], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<Vec<(String, i64)>>>()?;
    let mut pending = Vec::new();
    for (user, position) in erased {
        if let Ok(user_id) = user.parse() {
            pending.extend(left_to_do(connection, user_id, from_sql(position))?);
        }
    }
    Ok(pending)
}

/// Those without a key whose stream says so, or does not, or is not there.
fn destroyed(connection: &Connection, said: Option<bool>) -> rusqlite::Result<Vec<UserId>> {
    let sql = "SELECT user_id FROM person_keys WHERE erased_at IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let destroyed: Vec<UserId> = statement
        .query_map([], |row| read_id(row, 0).map(UserId))?
        .collect::<rusqlite::Result<_>>()?;
    let sql = "SELECT max(event_type = 'user.erased') FROM events
         WHERE aggregate_type = 'user' AND aggregate_id = ?1";
    let mut is_said = connection.prepare_cached(sql)?;
    let mut found = Vec::new();
    for user in destroyed {
        let is_so: Option<bool> = is_said.query_row([user.to_string()], |row| row.get(0))?;
        if is_so == said {
            found.push(user);
        }
    }
    Ok(found)
}

fn last_answer(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT coalesce(max(id), 0) FROM answers";
    connection.query_row(sql, [], |row| row.get(0))
}

/// Forgets what is theirs or names them of the answers after one; answers the last that was looked at. A transaction of
/// its own: commands wait no longer than for that.
fn forget_piece(
    connection: &Connection,
    user_id: UserId,
    after: i64,
) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT max(id) FROM (SELECT id FROM answers WHERE id > ?1 ORDER BY id LIMIT ?2)";
    let piece = params![after, to_sql(ANSWERS as u64)];
    let last: Option<i64> = connection.query_row(sql, piece, |row| row.get(0))?;
    let sql =
        "DELETE FROM answers WHERE id > ?1 AND id <= ?2 AND (owner = ?3 OR instr(body, ?3) > 0)";
    connection.execute(sql, params![after, last, user_id.to_string()])?;
    Ok(last)
}

/// An erasure, unless it is complete.
fn left_to_do(
    connection: &Connection,
    user_id: UserId,
    position: Position,
) -> rusqlite::Result<Option<PendingErasure>> {
    let sql = "SELECT username, email, completed_at FROM erasures WHERE user_id = ?1";
    let noted: Option<(Option<String>, Option<String>, Option<i64>)> = connection
        .prepare_cached(sql)?
        .query_row([id_bytes(user_id.0)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let (username, email, completed) = noted.unwrap_or_default();
    Ok(completed.is_none().then_some(PendingErasure {
        user_id,
        position,
        username,
        email,
    }))
}
