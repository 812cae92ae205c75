//! Every event as a row of Parquet files, for questions that no read model answers.
//!
//! The consumer reads all topics, keeps rows in memory for a while and writes them as files below `events/`, by date and
//! type. Files alone say nothing: what counts is the [`commit_log`] of each partition, objects numbered from 1 that are
//! created only if they are not there yet. A commit names the files it adds and how far the partition has been read with
//! them, so files and place change in one step, whoever else believes the partition is theirs. `docs/decisions/0015` argues
//! why nothing is there twice and nothing is missing.
//!
//! Everything here works on ports: [`Objects`] is a folder or a bucket, [`RowFormat`] is Parquet.

mod buffer;
pub mod commit;
pub mod commit_log;
pub mod compaction;
pub mod consumer;
pub mod memory;
mod partition;
pub mod ports;
pub mod row;
pub mod writer;

use std::time::Duration;

pub use commit::{Commit, FileEntry, PartitionState, Reached};
pub use commit_log::{CommitLog, Written};
pub use consumer::{AnalyticsConsumer, AnalyticsLag, AnalyticsStatus, AnalyticsTask, RATE_OVER};
pub use memory::MemoryObjects;
pub use ports::{Created, FormatError, Object, Objects, ObjectsError, RowFormat};
pub use row::Row;
pub use writer::{PartitionWriter, Ports, WriteError};

/// How much is gathered, merged and kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows of a partition that are held before they are written.
    pub rows: usize,
    /// Their bytes, over all partitions of a process.
    pub bytes: usize,
    /// How long a row is held at most.
    pub age: Duration,
    /// Small files of one date and type in a partition from which on they are merged, also while the day goes on.
    pub merge_from: usize,
    /// Rows of a merged file at most. A file of half as many is not merged again.
    pub merged_rows: u64,
    /// How long a file that nothing names stays: past any query or write that is under way.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rows: 20_000,
            bytes: 64 << 20,
            age: Duration::from_secs(60),
            merge_from: 8,
            merged_rows: 200_000,
            grace: Duration::from_secs(3600),
        }
    }
}
