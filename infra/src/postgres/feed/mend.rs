//! Making what differs what it is in another generation.

use socialhub_projections::{
    feed::fold::{MERGED, STRAY, TIMELINE},
    verify::Entity,
};
use uuid::Uuid;

use crate::postgres::{model::copy_rows, session::Session};

/// Timelines last: they are of posts and authors. Tallies after what says whose posts are merged.
pub(super) const KINDS: &[&str] = &[
    "person", "erased", "follow", MERGED, "tally", "post", STRAY, "like", "comment", TIMELINE,
];

/// A key that is not made of what it should be names nothing that could be copied.
pub(super) async fn mend(
    connection: &mut Session,
    other: &str,
    entity: &Entity,
) -> sqlx::Result<()> {
    match entity.table {
        STRAY => mend_stray(connection, other, entity).await,
        TIMELINE => mend_timeline(connection, entity).await,
        "person" | "erased" | "tally" | "post" => match entity.id() {
            Some(id) => mend_one(connection, other, entity.table, id).await,
            None => Ok(()),
        },
        MERGED if entity.wanted => merge(connection, entity).await,
        kind => match entity.pair() {
            Some((left, right)) => mend_pair(connection, other, kind, [left, right]).await,
            None => Ok(()),
        },
    }
}

async fn mend_one(connection: &mut Session, other: &str, kind: &str, id: Uuid) -> sqlx::Result<()> {
    match kind {
        "person" => copy_rows(connection, other, "people", "id = $1", &[id]).await,
        "erased" => copy_rows(connection, other, "erased", "user_id = $1", &[id]).await,
        "tally" => {
            copy_rows(connection, other, "tallies", "user_id = $1", &[id]).await?;
            // When an author crossed the limit may depend on how events came in batches: what followers' rows say
            // counts.
            let settle = "UPDATE tallies SET merged =
                              EXISTS (SELECT FROM merged_authors WHERE author_id = $1)
                          WHERE user_id = $1";
            run(connection, settle, id).await
        }
        _ => {
            copy_content(connection, other, id).await?;
            copy_rows(connection, other, "post_states", "id = $1", &[id]).await
        }
    }
}

/// Another generation may fan out whose posts are merged here.
async fn merge(connection: &mut Session, entity: &Entity) -> sqlx::Result<()> {
    let Some((reader, author)) = entity.pair() else {
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO merged_authors (follower_id, author_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    )
    .bind(reader)
    .bind(author)
    .execute(connection)
    .await
    .map(|_| ())
}

async fn mend_pair(
    connection: &mut Session,
    other: &str,
    kind: &str,
    pair: [Uuid; 2],
) -> sqlx::Result<()> {
    let (table, of) = match kind {
        "follow" => ("follows", "followed_id = $1 AND follower_id = $2"),
        "like" => ("likes", "post_id = $1 AND user_id = $2"),
        "comment" => ("comments", "post_id = $1 AND id = $2"),
        _ => ("merged_authors", "follower_id = $1 AND author_id = $2"),
    };
    copy_rows(connection, other, table, of, &pair).await
}

/// The content of a post, which is found by the position in its state. Either state may be the wrong one, so another
/// post's content stays.
async fn copy_content(connection: &mut Session, other: &str, id: Uuid) -> sqlx::Result<()> {
    let there = format!(
        "position = (SELECT created FROM {other}.post_states WHERE id = $1 AND created <> 0)"
    );
    for statement in [
        "DELETE FROM posts WHERE id = $1
             AND position = (SELECT created FROM post_states WHERE id = $1)"
            .to_owned(),
        format!("DELETE FROM posts WHERE {there}"),
        format!("INSERT INTO posts SELECT * FROM {other}.posts WHERE {there}"),
    ] {
        run(connection, &statement, id).await?;
    }
    Ok(())
}

async fn run(connection: &mut Session, statement: &str, id: Uuid) -> sqlx::Result<()> {
    sqlx::query(statement)
        .bind(id)
        .execute(connection)
        .await
        .map(|_| ())
}

async fn mend_stray(connection: &mut Session, other: &str, entity: &Entity) -> sqlx::Result<()> {
    let Ok(position) = entity.key.parse::<i64>() else {
        return Ok(());
    };
    for statement in [
        "DELETE FROM posts WHERE position = $1".to_owned(),
        format!("INSERT INTO posts SELECT * FROM {other}.posts WHERE position = $1"),
    ] {
        sqlx::query(&statement)
            .bind(position)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The other generation's timelines may end elsewhere, so what is wanted is written here: as a row, or, if the author's
/// posts are merged at read, as a word that they are.
async fn mend_timeline(connection: &mut Session, entity: &Entity) -> sqlx::Result<()> {
    let Some((user, position)) = entity.id_and_position() else {
        return Ok(());
    };
    let mut statements = vec!["DELETE FROM timeline WHERE user_id = $1 AND position = $2"];
    if entity.wanted {
        statements.extend([
            "INSERT INTO timeline SELECT $1::uuid, $2::bigint
             WHERE NOT EXISTS (SELECT FROM posts p JOIN tallies t ON t.user_id = p.author_id
                 WHERE p.position = $2 AND t.merged)",
            "INSERT INTO merged_authors (follower_id, author_id)
             SELECT $1::uuid, p.author_id FROM posts p JOIN tallies t ON t.user_id = p.author_id
             WHERE p.position = $2 AND t.merged
             ON CONFLICT DO NOTHING",
        ]);
    }
    for statement in statements {
        sqlx::query(statement)
            .bind(user)
            .bind(position)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
