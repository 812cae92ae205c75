//! What SQLite does with the rows of a read model when nobody has to find out what they are.

use std::{path::Path, time::Instant};

use rusqlite::Connection;
use socialhub_infra::sqlite::connection::{Durability, open_writer};

/// The page cache of a generation that is filled has as many KiB, and its write-ahead log is carried over after as many pages.
const CACHE_KIB: i64 = 48 * 1024;
const CHECKPOINT_PAGES: i64 = 64_000;

/// Rows that were copied, and how long that took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copied {
    pub rows: u64,
    pub seconds: f64,
}

impl Copied {
    pub(crate) fn per_second(self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

/// Copies every row of a file by plain `INSERT … SELECT` into a new one with the same tables and indexes that is opened as
/// a generation's is. Only that counts, with the commits. Table by table it is the most that SQLite can do: into an empty table
/// with the same columns it carries rows and index entries over in their order.
pub(crate) fn copy(from: &Path, to: &Path) -> rusqlite::Result<Copied> {
    let target = open_writer(to, Durability::Normal)?;
    target.pragma_update(None, "cache_size", -CACHE_KIB)?;
    target.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    target.execute("ATTACH ?1 AS source", [from.to_string_lossy()])?;
    let tables = make_tables(&target)?;
    let begin = Instant::now();
    let mut rows = 0;
    for table in tables {
        let copy = format!("INSERT INTO main.\"{table}\" SELECT * FROM source.\"{table}\"");
        rows += target.execute(&copy, [])? as u64;
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Copied { rows, seconds })
}

/// Makes the tables and indexes of the source; answers the tables' names.
fn make_tables(target: &Connection) -> rusqlite::Result<Vec<String>> {
    let all = "SELECT type, name, sql FROM source.sqlite_master
         WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY type = 'index'";
    let parts: Vec<(String, String, String)> = target
        .prepare(all)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut tables = Vec::new();
    for (kind, name, make) in parts {
        target.execute_batch(&make)?;
        if kind == "table" {
            tables.push(name);
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_rows_and_the_indexes() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from.db", "to.db"].map(|name| folder.path().join(name));
        let source = open_writer(&from, Durability::Normal).unwrap();
        let make = "CREATE TABLE a (x INTEGER PRIMARY KEY, y TEXT); CREATE INDEX a_y ON a (y);
             CREATE TABLE b (z BLOB PRIMARY KEY) WITHOUT ROWID;
             INSERT INTO a VALUES (1, 'one'), (2, 'two'); INSERT INTO b VALUES (x'00')";
        source.execute_batch(make).unwrap();
        assert_eq!(copy(&from, &to).unwrap().rows, 3);
        let copied = Connection::open(&to).unwrap();
        let count = |sql: &str| copied.query_row(sql, [], |row| row.get::<_, u64>(0));
        assert_eq!(
            count("SELECT count(*) FROM a INDEXED BY a_y WHERE y > ''"),
            Ok(2)
        );
        assert_eq!(count("SELECT count(*) FROM b"), Ok(1));
    }
}
