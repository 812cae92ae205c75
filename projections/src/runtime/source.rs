//! The port of a source of records in partitions, some of which are this process's at a time.
//!
//! A consumer group deals the partitions out; who has one may lose it at any moment, and learn of it late. So the source
//! decides nothing: where a partition is read from, the model's own store says.

use std::{collections::BTreeMap, sync::mpsc::SyncSender};

use async_trait::async_trait;
use socialhub_event_log::{PartitionTail, WireRecord};

use crate::store::{GenerationId, Source};

/// What a source tells.
#[derive(Debug)]
pub enum Delivery {
    /// Partitions are this process's from now on. Nothing of them comes before the answer says from where.
    Assigned(Vec<Source>, Answer<Vec<(Source, Start)>>),
    /// Partitions are no longer this process's. Another gets them when this is answered, or after a while.
    Revoked(Vec<Source>, Answer<()>),
    /// Records of one partition.
    Records(Records),
}

/// Where a partition is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From the first record there is.
    Beginning,
    /// From this offset, or from the first record when that is not there any more: what lies between is noticed by the
    /// reader, since each record names the one before it.
    At(i64),
}

/// The answer that a source waits for. Dropped, it says that none will come.
#[derive(Debug)]
pub struct Answer<T>(SyncSender<T>);

impl<T> Answer<T> {
    /// An answer that goes to the other end of a channel with room for one.
    pub fn new(sender: SyncSender<T>) -> Self {
        Self(sender)
    }

    /// Gives the answer. The source may have stopped waiting.
    pub fn give(self, answer: T) {
        let _ = self.0.try_send(answer);
    }
}

/// Consecutive records of one partition.
#[derive(Debug)]
pub struct Records {
    /// The partition.
    pub source: Source,
    /// The records, by offset.
    pub delivered: Vec<Delivered>,
    /// Dropped when the records are done with: the source delivers only so much ahead.
    pub permit: Permit,
}

/// A record and the offset after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The record.
    pub record: WireRecord,
    /// The offset after it.
    pub next_offset: i64,
}

/// Room in a source, given back when this is dropped.
#[derive(Default)]
pub struct Permit(Option<Box<dyn FnOnce() + Send>>);

impl Permit {
    /// Room that is given back by calling a function.
    pub fn new(give_back: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(give_back)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(give_back) = self.0.take() {
            give_back();
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit")
    }
}

/// A source cannot go on; it is opened anew after a pause.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the topics cannot be read: {0}")]
pub struct SourceError(pub String);

/// A member of a consumer group.
#[async_trait]
pub trait PartitionedSource: Send {
    /// What comes next. May be dropped and called again without losing anything.
    ///
    /// # Errors
    /// [`SourceError`] when it must be opened anew.
    async fn next(&mut self) -> Result<Delivery, SourceError>;

    /// Tells the group how far a partition is done with: for tools that show lag, nothing is decided by it.
    fn commit(&mut self, source: &Source, next_offset: i64);

    /// Leaves the group.
    async fn close(self: Box<Self>);
}

/// Opens sources for the generations of one model: each generation has a group of its own.
#[async_trait]
pub trait Sources: Send + Sync {
    /// The ends of the partitions, for a check that they go with the log; none when the source cannot say.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn tails(
        &self,
        _partitions: &BTreeMap<String, i32>,
    ) -> Result<Vec<PartitionTail>, SourceError> {
        Ok(Vec::new())
    }

    /// Joins the group of a generation.
    ///
    /// # Errors
    /// [`SourceError`].
    fn open(&self, generation: GenerationId) -> Result<Box<dyn PartitionedSource>, SourceError>;
}
