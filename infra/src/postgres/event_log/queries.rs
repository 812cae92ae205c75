//! The single queries: pages of the log, its head, and what lies beside it.

use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{AnswerKey, Credentials, ERASED_EPOCH, StoredAnswer, credential_key};
use uuid::Uuid;

use crate::postgres::{
    connect::{from_sql, to_sql},
    pool::Pool,
};

/// The columns `user_id, username, email, password_hash, token_epoch`.
pub(super) type CredentialsRow = (Uuid, String, String, String, i64);

/// Credentials from their columns.
pub(super) fn credentials(
    (user, username, email, password_hash, epoch): CredentialsRow,
) -> Credentials {
    Credentials {
        user_id: UserId(user),
        username,
        email,
        password_hash,
        token_epoch: from_sql(epoch),
    }
}

/// By e-mail address or username, whatever the case; the address goes before.
pub(super) async fn find_by_identifier(
    pool: &Pool,
    identifier: &str,
) -> Result<Option<Credentials>, sqlx::Error> {
    let key = credential_key(identifier);
    if has_nul(&key) {
        return Ok(None);
    }
    let sql = "SELECT user_id, username, email, password_hash, token_epoch FROM credentials WHERE email_key = $1
         UNION ALL
         SELECT user_id, username, email, password_hash, token_epoch FROM credentials WHERE username_key = $1";
    let found: Vec<CredentialsRow> = sqlx::query_as(sql).bind(key).fetch_all(pool).await?;
    Ok(found.into_iter().next().map(credentials))
}

/// By id.
pub(super) async fn find_by_id(
    pool: &Pool,
    user: UserId,
) -> Result<Option<Credentials>, sqlx::Error> {
    let sql = "SELECT user_id, username, email, password_hash, token_epoch FROM credentials WHERE user_id = $1";
    let found: Option<CredentialsRow> = sqlx::query_as(sql)
        .bind(user.0)
        .fetch_optional(pool)
        .await?;
    Ok(found.map(credentials))
}

/// Every token epoch whose change came after a cursor, and the cursor after them.
pub(super) async fn epochs_since(
    pool: &Pool,
    cursor: i64,
) -> Result<(Vec<(UserId, u64)>, i64), sqlx::Error> {
    let sql = "SELECT user_id, token_epoch, epoch_change FROM credentials WHERE epoch_change > $1
         UNION ALL SELECT user_id, $2, epoch_change FROM erasures WHERE epoch_change > $1
         ORDER BY epoch_change";
    let changed: Vec<(Uuid, i64, i64)> = sqlx::query_as(sql)
        .bind(cursor)
        .bind(to_sql(ERASED_EPOCH))
        .fetch_all(pool)
        .await?;
    let last = changed.last().map_or(cursor, |(_, _, change)| *change);
    let epochs = changed
        .into_iter()
        .map(|(user, epoch, _)| (UserId(user), from_sql(epoch)));
    Ok((epochs.collect(), last))
}

/// The answer under a key, however old.
pub(super) async fn find_answer(
    pool: &Pool,
    key: &AnswerKey,
) -> Result<Option<StoredAnswer>, sqlx::Error> {
    if [&key.owner, &key.route, &key.key]
        .into_iter()
        .any(|text| has_nul(text))
    {
        return Ok(None);
    }
    let sql = "SELECT fingerprint, body, position, stored_at FROM answers
         WHERE owner = $1 AND route = $2 AND key = $3";
    let found: Option<(Vec<u8>, String, i64, i64)> = sqlx::query_as(sql)
        .bind(&key.owner)
        .bind(&key.route)
        .bind(&key.key)
        .fetch_optional(pool)
        .await?;
    let Some((fingerprint, body, position, stored_at)) = found else {
        return Ok(None);
    };
    let fingerprint = fingerprint
        .try_into()
        .map_err(|_| sqlx::Error::Decode("a fingerprint of another length".into()))?;
    Ok(Some(StoredAnswer {
        fingerprint,
        body,
        position: from_sql(position),
        stored_at: Timestamp(stored_at),
    }))
}

/// The position of a person's last event; 0 when they have none.
pub(super) async fn last_position_of(pool: &Pool, actor: UserId) -> Result<u64, sqlx::Error> {
    let sql = "SELECT max(position) FROM events WHERE actor = $1";
    let last: Option<i64> = sqlx::query_scalar(sql)
        .bind(actor.0)
        .fetch_one(pool)
        .await?;
    Ok(last.map_or(0, from_sql))
}

/// Events after a position, as rows.
pub(super) async fn read_all(
    pool: &Pool,
    after: u64,
    limit: usize,
) -> Result<Vec<sqlx::postgres::PgRow>, sqlx::Error> {
    let sql = concat!(
        "SELECT ",
        super::rows::event_columns!(),
        " FROM events AS e WHERE e.position > $1 ORDER BY e.position LIMIT $2"
    );
    sqlx::query(sql)
        .bind(to_sql(after))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
}

/// The position of the newest event; 0 when there is none.
pub(super) async fn head(pool: &Pool) -> Result<u64, sqlx::Error> {
    let sql = "SELECT max(position) FROM events";
    let last: Option<i64> = sqlx::query_scalar(sql).fetch_one(pool).await?;
    Ok(last.map_or(0, from_sql))
}

/// No text in Postgres holds a NUL, so nothing is found by one.
fn has_nul(text: &str) -> bool {
    text.contains('\0')
}
