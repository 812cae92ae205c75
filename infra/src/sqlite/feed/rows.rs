//! Every row of the model for verification, in the form of its fold.

use rusqlite::{Connection, Row};
use serde_json::{Value, json};
use socialhub_domain::{PostId, UserId, personal::ERASED_TEXT};
use socialhub_projections::{
    feed::fold::{HORIZON, MERGED, STRAY, TIMELINE, timeline_key, timeline_value},
    verify::{ModelRow, RowSink},
};
use uuid::Uuid;

use crate::{
    feed::lower,
    sqlite::{
        connection::{from_sql, read_id},
        feed::visibility_of,
    },
};

/// All of them.
pub(super) fn all(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()> {
    for (sql, read) in TABLES {
        let mut statement = connection.prepare(sql)?;
        for row in statement.query_map([], *read)? {
            rows.take(row?);
        }
    }
    Ok(())
}

type ReadRow = fn(&Row<'_>) -> rusqlite::Result<ModelRow>;

/// First what says which rows of timelines need not be there.
const TABLES: &[(&str, ReadRow)] = &[
    ("SELECT user_id, position FROM horizons", horizon),
    (
        "SELECT follower_id, author_id FROM merged_authors",
        merged_author,
    ),
    (
        "SELECT id, position, username, name, bio, avatar, created_at, username_lower, name_lower
         FROM people",
        person,
    ),
    ("SELECT user_id, position FROM erased", erased),
    (
        "SELECT user_id, position, followers, following, posts, merged,
                user_id IN (SELECT author_id FROM merged_authors) FROM tallies",
        tally,
    ),
    (
        "SELECT followed_id, follower_id, position, since, followed_at FROM follows",
        follow,
    ),
    (
        "SELECT s.id, s.position, s.deleted, s.likes, s.comments, p.author_id, p.username,
                p.content, p.visibility, p.media, p.created_at, p.position
         FROM post_states s LEFT JOIN posts p ON s.created <> 0 AND p.position = s.created",
        post,
    ),
    (
        "SELECT p.position FROM posts p
         LEFT JOIN post_states s ON s.id = p.id AND s.created = p.position WHERE s.id IS NULL",
        stray,
    ),
    ("SELECT post_id, user_id, position, active FROM likes", like),
    (
        "SELECT post_id, id, position, created, user_id, username, comment, created_at
         FROM comments",
        comment,
    ),
    (
        "SELECT t.user_id, t.position, p.id, p.author_id
         FROM timeline t CROSS JOIN posts p ON p.position = t.position",
        timeline,
    ),
];

fn model_row(table: &'static str, key: String, value: Value, position: i64) -> ModelRow {
    ModelRow {
        table,
        key,
        value: value.into(),
        position: from_sql(position),
    }
}

fn pair(row: &Row<'_>) -> rusqlite::Result<String> {
    Ok(format!("{}/{}", read_id(row, 0)?, read_id(row, 1)?))
}

fn stray(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let position: i64 = row.get(0)?;
    let key = format!("{position:020}");
    Ok(model_row(STRAY, key, json!(true), position))
}

fn person(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let mut value = json!({
        "username": row.get::<_, Option<String>>(2)?, "name": row.get::<_, Option<String>>(3)?,
        "bio": row.get::<_, Option<String>>(4)?, "avatar": row.get::<_, Option<String>>(5)?,
        "createdAt": row.get::<_, i64>(6)?,
    });
    // What people are found by follows from what is shown of them; the erased are not found.
    let erased = value["username"] == ERASED_TEXT;
    for (shown, found_by) in [(2, 7), (3, 8)] {
        let shown: Option<String> = row.get(shown)?;
        let found_by: Option<String> = row.get(found_by)?;
        let shown = shown.filter(|_| !erased);
        if shown.as_deref().map(lower) != found_by {
            value["foundBy"] = json!(found_by);
        }
    }
    Ok(model_row(
        "person",
        read_id(row, 0)?.to_string(),
        value,
        row.get(1)?,
    ))
}

fn erased(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let key = read_id(row, 0)?.to_string();
    Ok(model_row("erased", key, json!({}), row.get(1)?))
}

fn tally(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let mut value = json!({
        "followers": row.get::<_, i64>(2)?, "following": row.get::<_, i64>(3)?,
        "posts": row.get::<_, i64>(4)?,
    });
    // Whose posts are merged at read has followers who know of it; which these are is compared apart.
    let (merged, is_known): (bool, bool) = (row.get(5)?, row.get(6)?);
    if merged != is_known {
        value["merged"] = json!(merged);
    }
    Ok(model_row(
        "tally",
        read_id(row, 0)?.to_string(),
        value,
        row.get(1)?,
    ))
}

fn follow(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let since: Option<i64> = row.get(3)?;
    let value = json!({
        "active": since.is_some(), "since": since, "followedAt": row.get::<_, Option<i64>>(4)?,
    });
    Ok(model_row("follow", pair(row)?, value, row.get(2)?))
}

fn post(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let value = if row.get(2)? {
        json!({ "deleted": true })
    } else {
        json!({
            "post": post_content(row)?, "likes": row.get::<_, i64>(3)?,
            "comments": row.get::<_, i64>(4)?,
        })
    };
    Ok(model_row(
        "post",
        read_id(row, 0)?.to_string(),
        value,
        row.get(1)?,
    ))
}

fn post_content(row: &Row<'_>) -> rusqlite::Result<Value> {
    let Some(author) = row.get::<_, Option<[u8; 16]>>(5)? else {
        return Ok(Value::Null);
    };
    // Raw, not typed: what cannot be read shows as a difference instead of failing the whole verification.
    let media = match row.get::<_, Option<String>>(9)? {
        Some(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        None => Value::Array(Vec::new()),
    };
    Ok(json!({
        "author": Uuid::from_bytes(author), "username": row.get::<_, String>(6)?,
        "content": row.get::<_, String>(7)?, "visibility": visibility_of(row.get(8)?),
        "media": media, "createdAt": row.get::<_, i64>(10)?, "created": row.get::<_, i64>(11)?,
    }))
}

fn like(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let value = json!({ "active": row.get::<_, bool>(3)? });
    Ok(model_row("like", pair(row)?, value, row.get(2)?))
}

fn comment(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let value = match row.get::<_, Option<i64>>(3)? {
        None => Value::Null,
        Some(created) => json!({
            "user": read_id(row, 4)?, "username": row.get::<_, String>(5)?,
            "text": row.get::<_, String>(6)?, "createdAt": row.get::<_, i64>(7)?,
            "created": created,
        }),
    };
    Ok(model_row("comment", pair(row)?, value, row.get(2)?))
}

fn timeline(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let user = UserId(read_id(row, 0)?);
    let position: i64 = row.get(1)?;
    let (post, author) = (PostId(read_id(row, 2)?), UserId(read_id(row, 3)?));
    let key = timeline_key(user, from_sql(position));
    Ok(model_row(
        TIMELINE,
        key,
        timeline_value(post, author),
        position,
    ))
}

fn horizon(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let position: i64 = row.get(1)?;
    let key = read_id(row, 0)?.to_string();
    Ok(model_row(HORIZON, key, json!(position), position))
}

fn merged_author(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    Ok(model_row(MERGED, pair(row)?, json!(true), 0))
}
