//! Every row of the notifications, for verification.

use rusqlite::{Connection, Row, params};
use serde_json::json;
use socialhub_domain::UserId;
use socialhub_projections::{
    notifications::{PERSON, UNREAD},
    verify::{ModelRow, RowSink},
};
use uuid::Uuid;

use super::{flag, notice_columns, read_notice, wishes::OPEN};
use crate::sqlite::connection::{from_sql, read_id};

pub(super) fn all(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()> {
    let mut collect = |sql: &str, read: fn(&Row<'_>) -> rusqlite::Result<ModelRow>| {
        let mut query = connection.prepare(sql)?;
        for row in query.query_map(params![], read)? {
            rows.take(row?);
        }
        Ok::<_, rusqlite::Error>(())
    };
    collect("SELECT id, changed FROM gone", |row| bare("gone", row))?;
    collect("SELECT person, changed FROM erased", |row| {
        bare("erased", row)
    })?;
    collect("SELECT id, flags, changed FROM mark", mark)?;
    collect(
        concat!(
            "SELECT ",
            notice_columns!(),
            ", n.position, n.flags, n.position <= r.read_up_to, n.changed, r.person, n.id
             FROM notification n JOIN recipient r ON r.number = n.recipient
             JOIN recipient a ON a.number = n.actor"
        ),
        notification,
    )?;
    // A person whose last notification was taken out again has a row, but nothing to say.
    collect(
        "SELECT person, read_up_to, changed FROM recipient WHERE read_up_to > 0",
        read_up_to,
    )?;
    collect(
        "SELECT person, unread, changed FROM recipient WHERE unread <> 0",
        unread,
    )?;
    collect(
        &format!("SELECT author, follower, since FROM wish WHERE until = {OPEN}"),
        wish,
    )
}

/// An id and the position it is there since.
fn bare(table: &'static str, row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    Ok(ModelRow {
        table,
        key: read_id(row, 0)?.to_string(),
        value: json!({}).into(),
        position: from_sql(row.get(1)?),
    })
}

fn mark(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let flags: i64 = row.get(1)?;
    Ok(ModelRow {
        table: "mark",
        key: read_id(row, 0)?.to_string(),
        value: json!({"read": flags & flag::READ != 0, "removed": flags & flag::REMOVED != 0})
            .into(),
        position: from_sql(row.get(2)?),
    })
}

fn notification(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let position = from_sql(row.get(6)?);
    let flags: i64 = row.get(7)?;
    let read = flags & flag::READ != 0 || row.get(8)?;
    let view = read_notice(row, UserId(read_id(row, 10)?))?.into_view(position, read);
    Ok(ModelRow {
        table: "notification",
        // As it is found by; the view has the id that follows from what it says.
        key: read_id(row, 11)?.to_string(),
        value: json!({
            "view": view,
            "position": position,
            "gone": flags & flag::GONE != 0,
            "removed": flags & flag::REMOVED != 0,
        })
        .into(),
        position: from_sql(row.get(9)?),
    })
}

fn read_up_to(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    person(row, PERSON, "readUpTo")
}

fn unread(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    person(row, UNREAD, "unread")
}

fn person(row: &Row<'_>, table: &'static str, name: &str) -> rusqlite::Result<ModelRow> {
    Ok(ModelRow {
        table,
        key: read_id(row, 0)?.to_string(),
        value: json!({ name: row.get::<_, i64>(1)? }).into(),
        position: from_sql(row.get(2)?),
    })
}

fn wish(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let (author, follower): (Uuid, Uuid) = (read_id(row, 0)?, read_id(row, 1)?);
    let since = from_sql(row.get(2)?);
    Ok(ModelRow {
        table: "wish",
        key: format!("{author}/{follower}"),
        value: json!({ "since": since }).into(),
        position: since,
    })
}
