//! Commits, and what they add up to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use uuid::Uuid;

/// The commits of numbers that this divides hold the state they lead to, so that nobody needs the ones before.
pub const STATE_EVERY: u64 = 32;

/// How far a partition has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// The place in the log of the last event that is in a file.
    pub position: Position,
    /// That event's id.
    pub event_id: Uuid,
    /// The offset to go on from; none while everything came from the log.
    pub next_offset: Option<i64>,
    /// Into how many partitions the topic was divided then; none when the relay had not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
}

/// A file of rows of one date and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Its name below the store's prefix. No other file is ever called that.
    pub name: String,
    /// The day of its rows.
    pub date: String,
    /// Their type, as the folder is called.
    #[serde(rename = "type")]
    pub event_type: String,
    /// How many there are.
    pub rows: u64,
    /// The file's size.
    pub bytes: u64,
    /// The position of the first of them.
    pub first: Position,
    /// The position of the last.
    pub last: Position,
}

impl FileEntry {
    /// The folder of a date and type.
    pub fn folder(date: &str, event_type: &str) -> String {
        format!("events/date={date}/type={event_type}")
    }

    /// The folder that it is in.
    pub fn own_folder(&self) -> String {
        Self::folder(&self.date, &self.event_type)
    }
}

/// One step of a partition, whole or not there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// Its own id: how a writer knows its commit again.
    pub id: Uuid,
    /// When it was made, by its writer's clock.
    pub at: Timestamp,
    /// How far the partition is read with it; none when it adds no events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// Files that are there from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<FileEntry>,
    /// Files that others have taken the place of. They are kept for readers that have begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Files that are going to be deleted: removed ones, and such as no commit ever named. No later commit may add them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swept: Vec<String>,
    /// What all commits up to this one add up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PartitionState>,
}

impl Commit {
    /// How many rows are in files with it that were in none before: what others were merged into counts for nothing.
    pub fn rows(&self) -> u64 {
        match self.reached {
            Some(_) => self.added.iter().map(|file| file.rows).sum(),
            None => 0,
        }
    }
}

/// Why a commit that was made for one state cannot be made on a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// Somebody else has read the partition further.
    Moved,
    /// A file that was to be replaced is not there any more, or one that was to be deleted is.
    Replaced,
    /// A file that was to be added is being deleted.
    Swept,
}

/// What the commits of a partition add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionState {
    /// The number of the last commit; 0 when there is none.
    pub number: u64,
    /// How far it is read.
    pub reached: Option<Reached>,
    /// The files that are there, by name.
    pub files: BTreeMap<String, FileEntry>,
    /// Files that others have taken the place of, and when.
    pub removed: BTreeMap<String, Timestamp>,
}

impl PartitionState {
    /// The position up to which everything is in files.
    pub fn position(&self) -> Position {
        self.reached.map_or(0, |reached| reached.position)
    }

    /// Goes on by the commit of the next number.
    pub fn apply(&mut self, commit: &Commit) {
        self.number += 1;
        if let Some(reached) = commit.reached {
            self.reached = Some(reached);
        }
        for name in &commit.removed {
            self.files.remove(name);
            self.removed.insert(name.clone(), commit.at);
        }
        for name in &commit.swept {
            self.removed.remove(name);
        }
        for file in &commit.added {
            self.files.insert(file.name.clone(), file.clone());
        }
    }

    /// Whether a commit that was made before somebody else's may still be made after it.
    ///
    /// # Errors
    /// [`Conflict`]: what it is about is not as it was.
    pub fn check(&self, mine: &Commit, theirs: &Commit) -> Result<(), Conflict> {
        if mine.reached.is_some() && theirs.reached.is_some() {
            return Err(Conflict::Moved);
        }
        if mine
            .removed
            .iter()
            .any(|name| !self.files.contains_key(name))
        {
            return Err(Conflict::Replaced);
        }
        // What looked as if nobody named it is named now.
        if mine.swept.iter().any(|name| self.files.contains_key(name)) {
            return Err(Conflict::Replaced);
        }
        if mine
            .added
            .iter()
            .any(|file| theirs.swept.contains(&file.name))
        {
            return Err(Conflict::Swept);
        }
        Ok(())
    }
}
