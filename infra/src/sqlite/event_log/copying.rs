//! The mark of a copy that has not ended.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use socialhub_event_log::UnfinishedCopy;

use super::OpenError;

/// The copy that was begun here and has not ended.
pub(super) fn find(connection: &Connection) -> rusqlite::Result<Option<UnfinishedCopy>> {
    let sql = "SELECT copy, command FROM unfinished_copy";
    connection
        .query_row(sql, [], |row| {
            Ok(UnfinishedCopy {
                id: row.get(0)?,
                command: row.get(1)?,
            })
        })
        .optional()
}

pub(super) fn mark(connection: &Connection, copy: &UnfinishedCopy) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO unfinished_copy (id, copy, command) VALUES (1, ?1, ?2)";
    connection
        .prepare_cached(sql)?
        .execute([&copy.id, &copy.command])?;
    Ok(())
}

pub(super) fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM unfinished_copy", [])?;
    Ok(())
}

/// Makes sure that the log is not half a copy.
pub(super) fn require_whole(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    match find(connection)? {
        None => Ok(()),
        Some(copy) => Err(OpenError::Unfinished {
            path: path.to_owned(),
            copy,
        }),
    }
}
