//! Every row of the model for verification, in the form of its fold.

use futures::TryStreamExt;
use serde_json::{Value, json};
use socialhub_domain::{PostId, UserId, personal::ERASED_TEXT};
use socialhub_projections::{
    feed::fold::{HORIZON, MERGED, STRAY, TIMELINE, timeline_key, timeline_value},
    verify::{ModelRow, RowSink},
};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    feed::lower,
    postgres::{feed::visibility_of, model::from_sql, session::Session},
};

/// All of them.
pub(super) async fn all(connection: &mut Session, rows: &mut dyn RowSink) -> sqlx::Result<()> {
    for (sql, read) in TABLES {
        let mut found = sqlx::query(sql).fetch(&mut *connection);
        while let Some(row) = found.try_next().await? {
            rows.take(read(&row)?);
        }
    }
    Ok(())
}

type ReadRow = fn(&PgRow) -> sqlx::Result<ModelRow>;

/// First what says which rows of timelines need not be there. Timelines as readers see them: above the horizon, of posts
/// that are there.
const TABLES: &[(&str, ReadRow)] = &[
    ("SELECT user_id, position FROM horizons", horizon),
    (
        "SELECT follower_id, author_id FROM merged_authors",
        merged_author,
    ),
    (
        "SELECT id, position, username, name, NULLIF(bio, ''), NULLIF(avatar, ''),
                COALESCE(created_at, 0), username_lower, name_lower FROM people",
        person,
    ),
    ("SELECT user_id, position FROM erased", erased),
    (
        "SELECT user_id, position, followers, following, posts, merged,
                user_id IN (SELECT DISTINCT author_id FROM merged_authors)
         FROM tallies WHERE position > 0",
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
         FROM timeline t JOIN posts p ON p.position = t.position
         LEFT JOIN horizons h ON h.user_id = t.user_id
         WHERE t.position > COALESCE(h.position, 0)",
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

fn id(row: &PgRow, column: usize) -> sqlx::Result<Uuid> {
    row.try_get(column)
}

fn pair(row: &PgRow) -> sqlx::Result<String> {
    Ok(format!("{}/{}", id(row, 0)?, id(row, 1)?))
}

fn stray(row: &PgRow) -> sqlx::Result<ModelRow> {
    let position: i64 = row.try_get(0)?;
    let key = format!("{position:020}");
    Ok(model_row(STRAY, key, json!(true), position))
}

fn person(row: &PgRow) -> sqlx::Result<ModelRow> {
    let text = |column: usize| row.try_get::<Option<String>, _>(column);
    let mut value = json!({
        "username": text(2)?, "name": text(3)?, "bio": text(4)?, "avatar": text(5)?,
        "createdAt": row.try_get::<i64, _>(6)?,
    });
    // What people are found by follows from what is shown of them; the erased are not found.
    let erased = value["username"] == ERASED_TEXT;
    for (shown, found_by) in [(2, 7), (3, 8)] {
        let found_by = text(found_by)?;
        let shown = text(shown)?.filter(|_| !erased);
        if shown.as_deref().map(lower) != found_by {
            value["foundBy"] = json!(found_by);
        }
    }
    let key = id(row, 0)?.to_string();
    Ok(model_row("person", key, value, row.try_get(1)?))
}

fn erased(row: &PgRow) -> sqlx::Result<ModelRow> {
    let key = id(row, 0)?.to_string();
    Ok(model_row("erased", key, json!({}), row.try_get(1)?))
}

fn tally(row: &PgRow) -> sqlx::Result<ModelRow> {
    let mut value = json!({
        "followers": row.try_get::<i64, _>(2)?, "following": row.try_get::<i64, _>(3)?,
        "posts": row.try_get::<i64, _>(4)?,
    });
    // Whose posts are merged at read has followers who know of it; which these are is compared apart.
    let (merged, is_known): (bool, bool) = (row.try_get(5)?, row.try_get(6)?);
    if merged != is_known {
        value["merged"] = json!(merged);
    }
    let key = id(row, 0)?.to_string();
    Ok(model_row("tally", key, value, row.try_get(1)?))
}

fn follow(row: &PgRow) -> sqlx::Result<ModelRow> {
    let since: Option<i64> = row.try_get(3)?;
    let value = json!({
        "active": since.is_some(), "since": since,
        "followedAt": row.try_get::<Option<i64>, _>(4)?,
    });
    Ok(model_row("follow", pair(row)?, value, row.try_get(2)?))
}

fn post(row: &PgRow) -> sqlx::Result<ModelRow> {
    let value = if row.try_get(2)? {
        json!({ "deleted": true })
    } else {
        json!({
            "post": post_content(row)?, "likes": row.try_get::<i64, _>(3)?,
            "comments": row.try_get::<i64, _>(4)?,
        })
    };
    let key = id(row, 0)?.to_string();
    Ok(model_row("post", key, value, row.try_get(1)?))
}

fn post_content(row: &PgRow) -> sqlx::Result<Value> {
    let Some(author) = row.try_get::<Option<Uuid>, _>(5)? else {
        return Ok(Value::Null);
    };
    // Raw, not typed: what cannot be read shows as a difference instead of failing the whole verification.
    let media = match row.try_get::<Option<String>, _>(9)? {
        Some(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        None => Value::Array(Vec::new()),
    };
    Ok(json!({
        "author": author, "username": row.try_get::<String, _>(6)?,
        "content": row.try_get::<String, _>(7)?, "visibility": visibility_of(row.try_get(8)?),
        "media": media, "createdAt": row.try_get::<i64, _>(10)?,
        "created": row.try_get::<i64, _>(11)?,
    }))
}

fn like(row: &PgRow) -> sqlx::Result<ModelRow> {
    let value = json!({ "active": row.try_get::<bool, _>(3)? });
    Ok(model_row("like", pair(row)?, value, row.try_get(2)?))
}

fn comment(row: &PgRow) -> sqlx::Result<ModelRow> {
    let value = match row.try_get::<Option<i64>, _>(3)? {
        None => Value::Null,
        Some(created) => json!({
            "user": id(row, 4)?, "username": row.try_get::<String, _>(5)?,
            "text": row.try_get::<String, _>(6)?, "createdAt": row.try_get::<i64, _>(7)?,
            "created": created,
        }),
    };
    Ok(model_row("comment", pair(row)?, value, row.try_get(2)?))
}

fn timeline(row: &PgRow) -> sqlx::Result<ModelRow> {
    let user = UserId(id(row, 0)?);
    let position: i64 = row.try_get(1)?;
    let value = timeline_value(PostId(id(row, 2)?), UserId(id(row, 3)?));
    let key = timeline_key(user, from_sql(position));
    Ok(model_row(TIMELINE, key, value, position))
}

fn horizon(row: &PgRow) -> sqlx::Result<ModelRow> {
    let position: i64 = row.try_get(1)?;
    let key = id(row, 0)?.to_string();
    Ok(model_row(HORIZON, key, json!(position), position))
}

fn merged_author(row: &PgRow) -> sqlx::Result<ModelRow> {
    Ok(model_row(MERGED, pair(row)?, json!(true), 0))
}
