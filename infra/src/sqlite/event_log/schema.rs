//! The file's schema: migrations in order, counted by `PRAGMA user_version`.
//!
//! To change the schema, add a file to `migrations/sqlite/event_log/` and a line here; never edit a released one.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

const MIGRATIONS: &[&str] = &[
    include_str!("../../../../migrations/sqlite/event_log/0001_event_log.sql"),
    include_str!("../../../../migrations/sqlite/event_log/0002_erasure.sql"),
    include_str!("../../../../migrations/sqlite/event_log/0003_unfinished_copy.sql"),
];

/// The version this program writes.
const VERSION: usize = MIGRATIONS.len();

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings a file to today's version, each step whole or not at all.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let found = version(connection)?;
    refuse_newer(found, path)?;
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", step + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Makes sure that a file that will only be read has exactly today's version.
pub(super) fn require_current(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let found = version(connection)?;
    refuse_newer(found, path)?;
    if found < VERSION {
        let path = path.to_owned();
        return Err(OpenError::Older {
            path,
            found,
            known: VERSION,
        });
    }
    Ok(())
}

fn refuse_newer(found: usize, path: &Path) -> Result<(), OpenError> {
    if found > VERSION {
        let path = path.to_owned();
        return Err(OpenError::Newer {
            path,
            found,
            known: VERSION,
        });
    }
    Ok(())
}
