//! A part: one kind of thing that is copied, as lines of JSON.
//!
//! Whoever adds a part implements [`Part`] and [`Lines`] and adds them to the lists in the binary's wiring; export, import
//! and migration then carry it, with checksums, resumed where they stopped. A part whose files an operator may want to
//! keep elsewhere (keys, say) needs nothing more: each part has files of its own.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use socialhub_domain::UserId;
use socialhub_event_log::{Over, Position};

/// Why a part could not be read, checked or written. Each is a sentence for an operator, without its last stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// The store does not answer, or cannot take more. Trying again may help.
    #[error("{0}")]
    Store(String),
    /// What was read is not as it must be.
    #[error("{0}")]
    Bad(String),
    /// The target holds something else than the beginning of what is copied.
    #[error("{0}")]
    Foreign(String),
}

/// Some lines of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The lines, each with its line feed.
    pub text: Vec<u8>,
    /// How many there are; may be none although there is more to come.
    pub lines: u64,
    /// Where to read on.
    pub cursor: String,
    /// What the operator should know: it is not as it should be, and the copy goes on all the same.
    pub remarks: Vec<String>,
}

/// What writing did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Lines that were not there yet.
    pub new: u64,
    /// What the operator should know, as in [`Page`].
    pub remarks: Vec<String>,
}

/// What lines are of no use without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The part.
    pub part: &'static str,
    /// Whose lines there must be in it, and the first event that needs them.
    pub people: HashMap<UserId, Position>,
}

/// What the lines of a part must be, whatever store they are for.
#[async_trait]
pub trait Lines: Send + Sync {
    /// The part's name.
    fn name(&self) -> &'static str;

    /// Makes sure that lines are sound and follow on a cursor. Answers the cursor after them.
    ///
    /// # Errors
    /// [`PartError::Bad`].
    async fn check(&self, cursor: &str, text: &[u8]) -> Result<String, PartError>;

    /// What the lines that were checked so far need of another part.
    fn needs(&self) -> Option<Needs> {
        None
    }

    /// What of the lines that were checked so far not every store takes.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether one of the lines that were checked so far is this person's: asked of a part that another one needs.
    fn has(&self, person: UserId) -> bool {
        let _ = person;
        false
    }
}

/// One kind of thing that is copied, in its store. Lines have an order and a cursor that says how far one is in it; the empty cursor
/// is the beginning.
#[async_trait]
pub trait Part: Send + Sync {
    /// What it is called; its files are called by it.
    fn name(&self) -> &'static str;

    /// Whether it lies in the log's database: then what is written marks the log as half a copy by itself.
    fn lies_with_the_log(&self) -> bool {
        false
    }

    /// How many lines there are up to a cursor, and in all, when that can be told without counting.
    async fn progress(&self, cursor: &str) -> Option<(u64, u64)> {
        let _ = cursor;
        None
    }

    /// The lines after a cursor; none at the end.
    ///
    /// # Errors
    /// [`PartError`].
    async fn read(&self, cursor: &str) -> Result<Option<Page>, PartError>;

    /// Makes sure that the store can take a copy that ends with this cursor. Nothing was written before it is asked.
    ///
    /// # Errors
    /// [`PartError::Foreign`].
    async fn ready_for(&self, last: &str) -> Result<(), PartError> {
        let _ = last;
        Ok(())
    }

    /// Makes sure that nothing the store holds is in the way of lines. Every line of every part is compared before the first
    /// one is written: so what does not belong there is refused before anything is changed. Answers whether the lines after
    /// these are to be compared, too.
    ///
    /// # Errors
    /// [`PartError`].
    async fn compare(&self, text: &[u8], over: Over) -> Result<bool, PartError> {
        let _ = (text, over);
        Ok(false)
    }

    /// Writes lines, durably, in their order. What is there already, the same in everything, is left alone: so an
    /// interrupted copy is done again from its beginning.
    ///
    /// # Errors
    /// [`PartError`]; of the lines all or none are there, and none after [`PartError::Foreign`].
    async fn write(&self, text: &[u8], over: Over) -> Result<Written, PartError>;
}

impl Page {
    /// Rows as lines.
    ///
    /// # Errors
    /// When a row is not JSON; there are none such.
    pub fn of<R: Serialize>(rows: &[R], cursor: String) -> Result<Self, PartError> {
        let mut text = Vec::with_capacity(rows.len() * 512);
        for row in rows {
            serde_json::to_writer(&mut text, row)
                .map_err(|error| PartError::Bad(error.to_string()))?;
            text.push(b'\n');
        }
        Ok(Self {
            text,
            lines: rows.len() as u64,
            cursor,
            remarks: Vec::new(),
        })
    }
}

/// The rows that lines hold.
///
/// # Errors
/// [`PartError::Bad`], with the line's number in this text.
pub fn rows<R: DeserializeOwned>(text: &[u8]) -> Result<Vec<R>, PartError> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines
        .enumerate()
        .map(|(nth, line)| {
            serde_json::from_slice(line)
                .map_err(|error| PartError::Bad(format!("line {}: {error}", nth + 1)))
        })
        .collect()
}
