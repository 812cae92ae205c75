//! How far the relay has published the log, partition by partition.
//!
//! A partition that gets no events stands still while the log goes on. So a reader of partitions cannot say by itself
//! how much of the log it has seen; together with the frontier it can: a partition whose last record it has handled is
//! as far as the relay. For one that has news after a long silence, the relay remembers the silence for a while: its reader
//! is as far as the event before the news.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{event::Position, port::LogError, relay::TailRecord};

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
    /// Stretches of the log without an event for the partition, as far as they still say something: see
    /// [`Frontier::advance`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quiet: Vec<Quiet>,
}

/// A stretch of the log without an event for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// The event before it, which is in the partition; 0 when there was none.
    pub after: Position,
    /// The event that ended it.
    pub next: Position,
}

impl Quiet {
    /// How much further in the log the one is than the other: 1 when nothing lies between them.
    fn length(self) -> u64 {
        self.next.saturating_sub(self.after)
    }
}

impl PartitionEnd {
    /// How far somebody has seen the log who has handled the partition's events up to a position; none when nothing of
    /// the partition is missing, which is as far as the relay.
    ///
    /// Never too far. Behind by what is missing, or, where the relay no longer knows how long the partition was quiet, by
    /// at most twice that; by more where a program led that kept no stretches, and after a rewind.
    pub fn seen(&self, handled: Position) -> Option<Position> {
        if handled >= self.position {
            return None;
        }
        let mut quiet = self.quiet.iter();
        let since = quiet.find(|quiet| (quiet.after..quiet.next).contains(&handled));
        Some(since.map_or(handled, |quiet| quiet.next - 1))
    }
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

    /// Takes note of a partition's next record. To be told of every one, in the log's order.
    ///
    /// How long the partition was quiet before is remembered until the relay has gone on by as much: then somebody who
    /// still lacks that record is behind by more than half of what it seems. So of a partition's stretches each is longer
    /// than all later ones together, and there are few of them however long the log is.
    pub fn advance(&mut self, topic: &str, partition: i32, next: &TailRecord) {
        let known = self.end(topic, partition);
        let mut quiet = known.map_or_else(Vec::new, |end| end.quiet.clone());
        quiet.push(Quiet {
            after: known.map_or(0, |end| end.position),
            next: next.position,
        });
        let log = self.position.max(next.position);
        quiet.retain(|quiet| quiet.length() > 1 && log.saturating_sub(quiet.next) < quiet.length());
        self.put_end(topic, partition, next, quiet);
    }

    /// Takes note of a partition's last record.
    pub(crate) fn put_end(
        &mut self,
        topic: &str,
        partition: i32,
        last: &TailRecord,
        quiet: Vec<Quiet>,
    ) {
        self.position = self.position.max(last.position);
        let end = PartitionEnd {
            topic: topic.to_owned(),
            partition,
            offset: last.offset,
            position: last.position,
            event_id: last.event_id,
            quiet,
        };
        let mut ends = self.ends.iter_mut();
        match ends.find(|end| end.topic == topic && end.partition == partition) {
            Some(known) => *known = end,
            None => self.ends.push(end),
        }
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
    use proptest::prelude::*;

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

    const TOPIC: &str = "POST_TOPIC";

    /// What the relay remembers when a partition gets some of the log's events.
    fn published(positions: impl IntoIterator<Item = Position>) -> Frontier {
        let mut frontier = Frontier::default();
        for position in positions {
            let next = TailRecord {
                offset: 0,
                position,
                event_id: Uuid::nil(),
            };
            frontier.advance(TOPIC, 0, &next);
        }
        frontier
    }

    fn seen(frontier: &Frontier, handled: Position) -> Option<Position> {
        frontier.end(TOPIC, 0).unwrap().seen(handled)
    }

    #[test]
    fn news_after_a_silence_throw_nobody_back_to_its_beginning() {
        let mut frontier = published([5, 360]);
        assert_eq!(seen(&frontier, 5), Some(359));
        assert_eq!(seen(&frontier, 360), None);
        // Filled from the log up to here.
        assert_eq!(seen(&frontier, 200), Some(359));
        assert_eq!(seen(&frontier, 4), Some(4), "the fifth is missing");
        frontier = published([5, 360, 361, 362, 400]);
        assert_eq!(seen(&frontier, 5), Some(359));
        assert_eq!(seen(&frontier, 362), Some(399));
        assert_eq!(seen(&published([1_143]), 0), Some(1_142));
    }

    #[test]
    fn a_frontier_of_a_program_that_kept_no_stretches_is_read() {
        let mut saved = serde_json::to_value(published([5, 360])).unwrap();
        saved["ends"][0].as_object_mut().unwrap().remove("quiet");
        let read: Frontier = serde_json::from_value(saved).unwrap();
        assert_eq!(seen(&read, 5), Some(5));
    }

    proptest! {
        /// Whatever a partition gets: nobody seems to have seen what is missing, nobody seems to lack more than twice
        /// what is missing, and little is remembered.
        #[test]
        fn nobody_seems_further_than_they_are_or_much_behind(
            steps in proptest::collection::vec(prop_oneof![1_u64..4, 1_u64..2_000], 1..200),
            handled in any::<proptest::sample::Index>(),
        ) {
            let mut end = 0;
            let mut step_on = |step: &u64| {
                end += step;
                end
            };
            let positions: Vec<_> = steps.iter().map(&mut step_on).collect();
            let frontier = published(positions.iter().copied());
            let nth = handled.index(positions.len());
            let handled = if nth == 0 { 0 } else { positions[nth - 1] };
            let seen = seen(&frontier, handled).unwrap();
            let missing = positions[nth];
            prop_assert!(handled <= seen && seen < missing);
            prop_assert!(end - seen <= 2 * (end - missing + 1));
            let quiet = &frontier.ends[0].quiet;
            prop_assert!(quiet.len() as u32 <= u64::BITS - end.leading_zeros(), "{quiet:?}");
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
