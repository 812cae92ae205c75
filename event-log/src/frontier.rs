//! How far the relay has published the log, partition by partition.
//!
//! A partition that gets no events stands still while the log goes on. So a reader of partitions cannot say by itself
//! how much of the log it has seen; together with the frontier it can: a partition whose last record it has handled is
//! as far as the relay.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{event::Position, port::LogError};

/// The last record that was published to a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionEnd {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// The event's place in the log.
    pub position: Position,
    /// The event's own id.
    pub event_id: Uuid,
}

/// How far the relay has published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    /// Every event up to here is on its topic.
    pub position: Position,
    /// How many partitions each topic has, by its name. It must not change: a key would move to another partition, and
    /// its events could overtake each other.
    pub partitions: BTreeMap<String, i32>,
    /// The last record of each partition that has one.
    pub ends: Vec<PartitionEnd>,
}

impl Frontier {
    /// The last record of a partition, if it has one.
    pub fn end(&self, topic: &str, partition: i32) -> Option<&PartitionEnd> {
        self.ends
            .iter()
            .find(|end| end.topic == topic && end.partition == partition)
    }

    /// How many partitions a topic has; none while the relay has not seen it.
    pub fn count(&self, topic: &str) -> Option<i32> {
        self.partitions.get(topic).copied()
    }

    /// The partition that a key's records are in; none while the relay has not seen the topic.
    pub fn partition_of(&self, topic: &str, key: &str) -> Option<i32> {
        Some(partition_for(key.as_bytes(), self.count(topic)?))
    }
}

/// Reads what the relay has saved.
#[async_trait]
pub trait FrontierReader: Send + Sync {
    /// How far the relay is; the default before it has ever run.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn frontier(&self) -> Result<Frontier, LogError>;
}

/// The partition of a key among `count`: murmur2 as in Kafka's own clients, so that a producer of somebody else's would
/// put the same key in the same place.
///
/// Source: `org.apache.kafka.common.utils.Utils.murmur2` (Austin Appleby's MurmurHash2, seed 0x9747b28c), made positive
/// by its sign bit.
pub fn partition_for(key: &[u8], count: i32) -> i32 {
    let positive = (murmur2(key) & 0x7fff_ffff).cast_signed();
    positive % count.max(1)
}

fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MIX: u32 = 0x5bd1_e995;
    // Kafka's keys are shorter than 4 GiB; the length is mixed in as 32 bits.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(MIX);
        k ^= k >> 24;
        k = k.wrapping_mul(MIX);
        hash = hash.wrapping_mul(MIX) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Kafka's own test of its hash names.
    #[test]
    fn the_hash_is_kafkas() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn partitions_lie_in_their_range() {
        for key in 0..1_000_u32 {
            let partition = partition_for(&key.to_le_bytes(), 3);
            assert!((0..3).contains(&partition));
        }
    }
}
