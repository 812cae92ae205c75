//! Who is erased: tombstones for what is there, and for what comes later.
//!
//! A batch with an erasure in it passes the generation's gate alone: no other batch can be about to write what it does not
//! see yet, and every later one sees who is erased.

use std::collections::{BTreeMap, HashSet};

use socialhub_domain::personal::ERASED_TEXT;
use socialhub_event_log::Position;
use uuid::Uuid;

use crate::postgres::{model::to_sql, session::Session};

/// Remembers who is erased and puts tombstones in the place of everything personal about them.
pub(super) async fn erase(
    connection: &mut Session,
    erased: &BTreeMap<Uuid, Position>,
) -> sqlx::Result<()> {
    if erased.is_empty() {
        return Ok(());
    }
    let users: Vec<Uuid> = erased.keys().copied().collect();
    let positions: Vec<i64> = erased.values().copied().map(to_sql).collect();
    sqlx::query(
        "INSERT INTO erased (user_id, position) SELECT * FROM unnest($1::uuid[], $2::bigint[])
         ON CONFLICT DO NOTHING",
    )
    .bind(&users)
    .bind(&positions)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO people (id, username, name, position)
         SELECT u.id, $3, $3, u.position FROM unnest($1::uuid[], $2::bigint[]) AS u (id, position)
         ON CONFLICT (id) DO UPDATE SET username = $3, name = $3, username_lower = NULL,
             name_lower = NULL, bio = NULL, avatar = NULL, position = excluded.position",
    )
    .bind(&users)
    .bind(&positions)
    .bind(ERASED_TEXT)
    .execute(&mut *connection)
    .await?;
    for sql in [
        "UPDATE posts SET username = $2, content = $2, media = NULL WHERE author_id = ANY($1)",
        "UPDATE comments SET username = $2, comment = $2 WHERE user_id = ANY($1)",
    ] {
        sqlx::query(sql)
            .bind(&users)
            .bind(ERASED_TEXT)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Those of some people who are erased.
pub(super) async fn among(
    connection: &mut Session,
    people: impl Iterator<Item = Uuid>,
) -> sqlx::Result<HashSet<Uuid>> {
    let people: HashSet<Uuid> = people.collect();
    if people.is_empty() {
        return Ok(people);
    }
    let people: Vec<Uuid> = people.into_iter().collect();
    let found: Vec<Uuid> = sqlx::query_scalar("SELECT user_id FROM erased WHERE user_id = ANY($1)")
        .bind(people)
        .fetch_all(connection)
        .await?;
    Ok(found.into_iter().collect())
}
