//! The `counters` read model on SQLite: one row a post, one row a person.
//!
//! A batch is summed up in memory first and written row by row at its end, so a post that is liked a thousand times in
//! a batch is written once. Scores are kept exactly ([`DecayedScore`]) beside the number that the trending list is
//! ordered by.
//!
//! [`DecayedScore`]: socialhub_domain::score::DecayedScore

mod batch;
mod reader;
mod rows;
#[cfg(test)]
mod tests;

use rusqlite::{Connection, Transaction};
use socialhub_projections::{
    counters::{CounterChange, CounterFold, Counters},
    projection::Projected,
    verify::{Entity, RowSink},
};

pub use self::reader::SqliteCounterReader;
use crate::{
    counter_sums::Sums,
    sqlite::{
        connection::id_bytes,
        model::{SqliteModel, copy_rows},
    },
};

/// The writer of the `counters` model. Remembers nothing between batches.
#[derive(Debug, Default)]
pub struct SqliteCounters;

/// What is known of a post, as stored.
mod state {
    /// Liked or commented, but its creation has not arrived.
    pub const UNKNOWN: i64 = 0;
    /// There, and may trend.
    pub const PUBLIC: i64 = 1;
    /// There, not for everybody.
    pub const RESTRICTED: i64 = 2;
    /// Gone for good.
    pub const DELETED: i64 = 3;
}

impl SqliteModel for SqliteCounters {
    type Projection = Counters;
    type Fold = CounterFold;

    // Counts may be below zero for a moment, when what they take back has yet to arrive: readers show no less than
    // zero. Only what may trend has a score, so the index holds nothing else.
    const SCHEMA: &'static str = "
        CREATE TABLE IF NOT EXISTS post_counter (
            post BLOB PRIMARY KEY,
            state INTEGER NOT NULL,
            likes INTEGER NOT NULL,
            comments INTEGER NOT NULL,
            decay BLOB NOT NULL,
            score REAL,
            changed INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS post_counter_trending
            ON post_counter (score DESC, post DESC) WHERE score IS NOT NULL;
        CREATE TABLE IF NOT EXISTS person_counter (
            person BLOB PRIMARY KEY,
            followers INTEGER NOT NULL,
            following INTEGER NOT NULL,
            posts INTEGER NOT NULL,
            changed INTEGER NOT NULL
        ) WITHOUT ROWID;
    ";

    fn open(connection: &Connection) -> rusqlite::Result<Self> {
        // 16 MB at most: the rows of a batch are spread over the whole table.
        connection.pragma_update(None, "cache_size", -16_384)?;
        Ok(Self)
    }

    fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        batch: &[Projected<CounterChange>],
    ) -> rusqlite::Result<()> {
        batch::write(transaction, Sums::of(batch))
    }

    fn rolled_back(&mut self) {}

    fn rows(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()> {
        rows::all(connection, rows)
    }

    const KINDS: &'static [&'static str] = &["person", "post"];

    fn mend(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
        let (table, of) = match entity.table {
            "person" => ("person_counter", "person = ?1"),
            _ => ("post_counter", "post = ?1"),
        };
        match entity.id() {
            Some(id) => copy_rows(connection, table, of, &[&id_bytes(id)]),
            None => Ok(()),
        }
    }
}
