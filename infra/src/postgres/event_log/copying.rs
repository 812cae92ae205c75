//! The mark of a copy that has not ended.

use socialhub_event_log::UnfinishedCopy;
use sqlx::PgExecutor;

use crate::postgres::{
    connect::OpenError,
    pool::{Pool, retrying},
};

/// The copy that was begun here and has not ended.
pub(super) async fn find(
    executor: impl PgExecutor<'_>,
) -> Result<Option<UnfinishedCopy>, sqlx::Error> {
    let sql = "SELECT copy, command FROM unfinished_copy";
    let found: Option<(String, String)> = sqlx::query_as(sql).fetch_optional(executor).await?;
    Ok(found.map(|(id, command)| UnfinishedCopy { id, command }))
}

pub(super) async fn mark(
    executor: impl PgExecutor<'_>,
    copy: &UnfinishedCopy,
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO unfinished_copy (copy, command) VALUES ($1, $2)
         ON CONFLICT (id) DO UPDATE SET copy = excluded.copy, command = excluded.command";
    let marked = sqlx::query(sql).bind(&copy.id).bind(&copy.command);
    marked.execute(executor).await.map(|_| ())
}

pub(super) async fn clear(executor: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    let cleared = sqlx::query("DELETE FROM unfinished_copy").execute(executor);
    cleared.await.map(|_| ())
}

/// Makes sure that the log is not half a copy.
pub(super) async fn require_whole(pool: &Pool) -> Result<(), OpenError> {
    let found = retrying(|| find(pool)).await;
    match found.map_err(OpenError::Unreachable)? {
        None => Ok(()),
        Some(copy) => Err(OpenError::Unfinished(copy)),
    }
}
