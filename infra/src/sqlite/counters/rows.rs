//! Every row of the counters, for verification.

use rusqlite::{Connection, Row};
use serde_json::json;
use socialhub_domain::score::DecayedScore;
use socialhub_projections::verify::{ModelRow, RowSink, same};

use super::state;
use crate::sqlite::connection::{from_sql, read_id};

pub(super) fn all(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()> {
    let mut people = connection
        .prepare("SELECT person, followers, following, posts, changed FROM person_counter")?;
    for row in people.query_map([], person)? {
        rows.take(row?);
    }
    let mut posts = connection
        .prepare("SELECT post, state, likes, comments, score, changed, decay FROM post_counter")?;
    for row in posts.query_map([], post)? {
        rows.take(row?);
    }
    Ok(())
}

fn person(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    Ok(ModelRow {
        table: "person",
        key: read_id(row, 0)?.to_string(),
        value: json!({
            "followers": row.get::<_, i64>(1)?,
            "following": row.get::<_, i64>(2)?,
            "posts": row.get::<_, i64>(3)?,
        })
        .into(),
        position: from_sql(row.get(4)?),
    })
}

fn post(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let name = match row.get(1)? {
        state::PUBLIC => "public",
        state::RESTRICTED => "restricted",
        state::DELETED => "deleted",
        _ => "unknown",
    };
    let score: Option<f64> = row.get(4)?;
    let mut value = json!({
        "state": name,
        "likes": row.get::<_, i64>(2)?,
        "comments": row.get::<_, i64>(3)?,
        "log2Score": score,
    });
    // The sums that the next like is added to must be those of the score that is served.
    let sums = DecayedScore::from_bytes(row.get_ref(6)?.as_blob()?);
    let ranked = row.get::<_, i64>(1)? == state::PUBLIC;
    let summed = sums.as_ref().and_then(DecayedScore::log2);
    if sums.is_none() || (ranked && !same(&json!(summed), &json!(score))) {
        value["log2Sums"] = json!(summed);
    }
    Ok(ModelRow {
        table: "post",
        key: read_id(row, 0)?.to_string(),
        value: value.into(),
        position: from_sql(row.get(5)?),
    })
}
