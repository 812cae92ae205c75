//! Making what differs what it is in another generation.

use rusqlite::{Connection, params};
use socialhub_projections::{
    feed::fold::{MERGED, STRAY, TIMELINE},
    verify::Entity,
};

use crate::sqlite::{connection::id_bytes, model::copy_rows};

/// Timelines last: they are of posts and authors. Tallies after what says whose posts are merged.
pub(super) const KINDS: &[&str] = &[
    "person", "erased", "follow", MERGED, "tally", "post", STRAY, "like", "comment", TIMELINE,
];

/// A key that is not made of what it should be names nothing that could be copied.
pub(super) fn mend(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
    let of_id = |table: &str, of: &str| match entity.id() {
        Some(id) => copy_rows(connection, table, of, &[&id_bytes(id)]),
        None => Ok(()),
    };
    let of_pair = |table: &str, of: &str| match entity.pair() {
        Some((left, right)) => {
            copy_rows(connection, table, of, &[&id_bytes(left), &id_bytes(right)])
        }
        None => Ok(()),
    };
    match entity.table {
        "person" => of_id("people", "id = ?1"),
        "erased" => of_id("erased", "user_id = ?1"),
        "tally" => {
            of_id("tallies", "user_id = ?1")?;
            settle_merging(connection, entity)
        }
        "follow" => of_pair("follows", "followed_id = ?1 AND follower_id = ?2"),
        "post" => {
            copy_content(connection, entity)?;
            of_id("post_states", "id = ?1")
        }
        STRAY => match entity.key.parse::<i64>() {
            Ok(position) => copy_rows(connection, "posts", "position = ?1", &[&position]),
            Err(_) => Ok(()),
        },
        "like" => of_pair("likes", "post_id = ?1 AND user_id = ?2"),
        "comment" => of_pair("comments", "post_id = ?1 AND id = ?2"),
        MERGED if entity.wanted => merge(connection, entity),
        MERGED => of_pair("merged_authors", "follower_id = ?1 AND author_id = ?2"),
        TIMELINE => mend_timeline(connection, entity),
        _ => Ok(()),
    }
}

/// Another generation may fan out whose posts are merged here.
fn merge(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
    let Some((reader, author)) = entity.pair() else {
        return Ok(());
    };
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO main.merged_authors (follower_id, author_id) VALUES (?1, ?2)",
        )?
        .execute([id_bytes(reader), id_bytes(author)])
        .map(|_| ())
}

/// When an author crossed the limit may depend on how events came in batches: what followers' rows say counts.
fn settle_merging(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
    let Some(id) = entity.id() else {
        return Ok(());
    };
    connection
        .prepare_cached(
            "UPDATE main.tallies SET merged =
                 EXISTS (SELECT 1 FROM main.merged_authors WHERE author_id = ?1)
             WHERE user_id = ?1",
        )?
        .execute([id_bytes(id)])
        .map(|_| ())
}

/// The content of a post, which is found by the position in its state. Either state may be the wrong one, so another
/// post's content stays.
fn copy_content(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
    let Some(id) = entity.id() else {
        return Ok(());
    };
    for statement in [
        "DELETE FROM main.posts WHERE id = ?1
             AND position = (SELECT created FROM main.post_states WHERE id = ?1)",
        "DELETE FROM main.posts
         WHERE position = (SELECT created FROM other.post_states WHERE id = ?1 AND created <> 0)",
        "INSERT INTO main.posts SELECT * FROM other.posts
         WHERE position = (SELECT created FROM other.post_states WHERE id = ?1 AND created <> 0)",
    ] {
        connection
            .prepare_cached(statement)?
            .execute([id_bytes(id)])?;
    }
    Ok(())
}

/// The other generation's timelines may end elsewhere, so what is wanted is written here: as a row, or, if the author's
/// posts are merged at read, as a word that they are.
fn mend_timeline(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
    let Some((user, position)) = entity.id_and_position() else {
        return Ok(());
    };
    let row = params![id_bytes(user), position];
    connection
        .prepare_cached("DELETE FROM main.timeline WHERE user_id = ?1 AND position = ?2")?
        .execute(row)?;
    if !entity.wanted {
        return Ok(());
    }
    for statement in [
        "INSERT INTO main.timeline SELECT ?1, ?2
         WHERE NOT EXISTS (SELECT 1 FROM main.posts p JOIN main.tallies t ON t.user_id = p.author_id
             WHERE p.position = ?2 AND t.merged <> 0)",
        "INSERT OR IGNORE INTO main.merged_authors (follower_id, author_id)
         SELECT ?1, p.author_id FROM main.posts p JOIN main.tallies t ON t.user_id = p.author_id
         WHERE p.position = ?2 AND t.merged <> 0",
    ] {
        connection.prepare_cached(statement)?.execute(row)?;
    }
    Ok(())
}
