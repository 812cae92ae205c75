//! Rows on their way into files.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use super::row::Row;

/// Rows by date and type, each list by position.
pub type Groups = BTreeMap<(String, String), Vec<Row>>;

/// Rows of one partition that are in no file yet.
#[derive(Debug, Default)]
pub struct Buffer {
    groups: Arc<Groups>,
    rows: usize,
    bytes: usize,
    since: Option<Instant>,
}

impl Buffer {
    /// Adds a row; positions rise.
    pub fn push(&mut self, row: Row) {
        self.rows += 1;
        self.bytes += row.size();
        self.since.get_or_insert_with(Instant::now);
        let group = (row.date(), row.folder().to_owned());
        // Shared only while a file is being made of them, and then nothing is added.
        Arc::make_mut(&mut self.groups)
            .entry(group)
            .or_default()
            .push(row);
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how much memory they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the first of them came.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The rows.
    pub fn groups(&self) -> Arc<Groups> {
        Arc::clone(&self.groups)
    }

    /// Forgets everything at or below a position.
    pub fn drop_upto(&mut self, position: u64) {
        let known = |rows: &Vec<Row>| rows.first().is_some_and(|row| row.position <= position);
        if !self.groups.values().any(known) {
            return;
        }
        let groups = Arc::make_mut(&mut self.groups);
        for rows in groups.values_mut() {
            rows.retain(|row| row.position > position);
        }
        groups.retain(|_, rows| !rows.is_empty());
        self.rows = groups.values().map(Vec::len).sum();
        self.bytes = groups.values().flatten().map(Row::size).sum();
        if self.rows == 0 {
            self.since = None;
        }
    }
}
