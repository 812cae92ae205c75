//! What the relay publishes to.

use std::collections::BTreeMap;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{event::Position, wire::WireRecord};

/// A record on its way to the partition that was chosen for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The partition of its topic.
    pub partition: i32,
    /// The record.
    pub record: WireRecord,
}

/// The end of one partition, as it is on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTail {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The first offset that is still there.
    pub earliest: i64,
    /// The offset that the next record would get.
    pub next: i64,
    /// The last committed record that the relay has written, if it is still there.
    pub last: Option<TailRecord>,
}

/// The last record of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailRecord {
    /// Its offset.
    pub offset: i64,
    /// Its event's place in the log.
    pub position: Position,
    /// Its event's own id.
    pub event_id: Uuid,
}

/// Why something was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The broker did not do it. What was under way is not visible, or not known to be: the ends of the partitions say.
    #[error("the broker does not take records: {0}")]
    Failed(String),
    /// Another publisher has begun after this one and nothing of this one will be taken any more.
    #[error("another relay has taken over")]
    Fenced,
    /// Trying again will not help.
    #[error("cannot publish: {0}")]
    Refused(String),
}

/// Publishes in transactions: what is published together is visible whole or not at all, and whoever begins last shuts
/// out all who began before.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Makes the topics that are missing and says how many partitions each has, by its name.
    ///
    /// # Errors
    /// [`PublishError`].
    async fn topics(&self) -> Result<BTreeMap<String, i32>, PublishError>;

    /// Shuts out every publisher that began before and ends what it left open. Nothing that began before becomes visible
    /// once this has returned.
    ///
    /// # Errors
    /// [`PublishError`].
    async fn begin(&self) -> Result<(), PublishError>;

    /// The ends of all partitions.
    ///
    /// # Errors
    /// [`PublishError`].
    async fn tails(
        &self,
        partitions: &BTreeMap<String, i32>,
    ) -> Result<Vec<PartitionTail>, PublishError>;

    /// Removes every record there is, so that the topics hold only what is published from now on. Offsets go on rising.
    /// Only after [`Publisher::begin`].
    ///
    /// # Errors
    /// [`PublishError`]; some partitions may be empty.
    async fn clear(&self, partitions: &BTreeMap<String, i32>) -> Result<(), PublishError>;

    /// Publishes records in this order, whole or not at all; answers the offset of each. After an error, whatever it is,
    /// the caller begins anew and looks at the ends.
    ///
    /// # Errors
    /// [`PublishError`].
    async fn publish(&self, records: Vec<Outgoing>) -> Result<Vec<i64>, PublishError>;
}
