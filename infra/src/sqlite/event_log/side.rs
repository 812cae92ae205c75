//! What lies beside the log, credentials and stored answers: reading it, and what an erasure takes of it.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{
    AnswerKey, Credentials, ERASED_EPOCH, Position, StoredAnswer, credential_key,
};

use crate::sqlite::connection::{from_sql, id_bytes, read_id, to_sql};

/// By e-mail address or username, whatever the case.
pub(super) fn find_by_identifier(
    connection: &Connection,
    identifier: &str,
) -> rusqlite::Result<Option<Credentials>> {
    let key = credential_key(identifier);
    let by_email = "SELECT user_id, username, email, password_hash, token_epoch
         FROM credentials WHERE email_key = ?1";
    if let Some(found) = find_credentials(connection, by_email, &key)? {
        return Ok(Some(found));
    }
    let by_username = "SELECT user_id, username, email, password_hash, token_epoch
         FROM credentials WHERE username_key = ?1";
    find_credentials(connection, by_username, &key)
}

/// By id.
pub(super) fn find_by_id(
    connection: &Connection,
    user: UserId,
) -> rusqlite::Result<Option<Credentials>> {
    let by_id = "SELECT user_id, username, email, password_hash, token_epoch
         FROM credentials WHERE user_id = ?1";
    find_credentials(connection, by_id, &id_bytes(user.0))
}

fn find_credentials(
    connection: &Connection,
    sql: &str,
    key: &dyn ToSql,
) -> rusqlite::Result<Option<Credentials>> {
    connection
        .prepare_cached(sql)?
        .query_row([key], credentials)
        .optional()
}

/// Credentials from the columns `user_id, username, email, password_hash, token_epoch`.
pub(super) fn credentials(row: &Row<'_>) -> rusqlite::Result<Credentials> {
    Ok(Credentials {
        user_id: UserId(read_id(row, 0)?),
        username: row.get(1)?,
        email: row.get(2)?,
        password_hash: row.get(3)?,
        token_epoch: from_sql(row.get(4)?),
    })
}

/// With a `user.erased` at a position: notes what is left to do, and removes what can be removed at once.
pub(super) fn erase(
    connection: &Connection,
    user: UserId,
    position: Position,
) -> rusqlite::Result<()> {
    let id = id_bytes(user.0);
    let note = "INSERT OR IGNORE INTO erasures (user_id, position, username, email)
         SELECT ?1, ?2, c.username, c.email
         FROM (SELECT 1) LEFT JOIN credentials c ON c.user_id = ?1";
    connection
        .prepare_cached(note)?
        .execute(params![id, to_sql(position)])?;
    connection
        .prepare_cached("DELETE FROM credentials WHERE user_id = ?1")?
        .execute([id])?;
    connection
        .prepare_cached("DELETE FROM answers WHERE owner = ?1")?
        .execute([user.to_string()])?;
    Ok(())
}

/// Every token epoch above the initial one, and that of the erased.
pub(super) fn raised_epochs(connection: &Connection) -> rusqlite::Result<Vec<(UserId, u64)>> {
    let sql = "SELECT user_id, token_epoch FROM credentials WHERE token_epoch > 1
         UNION ALL SELECT user_id, ?1 FROM erasures";
    let mut statement = connection.prepare_cached(sql)?;
    let read = |row: &Row<'_>| Ok((UserId(read_id(row, 0)?), from_sql(row.get(1)?)));
    statement.query_map([to_sql(ERASED_EPOCH)], read)?.collect()
}

/// The answer under a key, however old.
pub(super) fn find_answer(
    connection: &Connection,
    key: &AnswerKey,
) -> rusqlite::Result<Option<StoredAnswer>> {
    let sql = "SELECT fingerprint, body, position, stored_at FROM answers
         WHERE owner = ?1 AND route = ?2 AND key = ?3";
    let read = |row: &Row<'_>| {
        Ok(StoredAnswer {
            fingerprint: row.get(0)?,
            body: row.get(1)?,
            position: from_sql(row.get(2)?),
            stored_at: Timestamp(row.get(3)?),
        })
    };
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_row([&key.owner, &key.route, &key.key], read)
        .optional()
}
