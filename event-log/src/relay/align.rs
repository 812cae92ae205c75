//! Comparing what the relay saved with what the topics hold, before anything is published.
//!
//! A batch is visible on the topics a moment before it is saved as published. A relay that ends in between leaves
//! records that the saved frontier does not know of: they are taken over, so that nothing is published twice. Anything
//! else that does not fit means that log or broker went back in time; then nothing may be published before a person has
//! said so.

use std::{collections::BTreeMap, sync::Arc};

use socialhub_domain::Topic;
use uuid::Uuid;

use crate::{
    event::{Position, RecordedEvent},
    frontier::{Frontier, PartitionEnd, partition_for},
    port::{EventLog, LogError},
    reading::{READ_LIMIT, read_bounded},
    relay::port::{PartitionTail, TailRecord},
    wire::Publication,
};

/// What brings topics together with the log that they were published from.
const REPUBLISH: &str =
    "stop the relay, run `socialhub replay republish --yes`, then start it again";
/// What brings topics and read models together with a log that went back in time.
const START_OVER: &str = "stop relay and projectors, run `socialhub replay republish --yes` and `socialhub replay rebuild --all`, \
                          then start them again";

/// Log, frontier and topics do not fit together; says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misaligned(pub String);

/// The frontier that the topics show, from the one that was saved: as far as they can tell, see [`take_over`].
pub(crate) fn align(
    saved: &Frontier,
    counts: &BTreeMap<String, i32>,
    tails: &[PartitionTail],
) -> Result<Frontier, Misaligned> {
    check_counts(saved, counts)?;
    let mut aligned = saved.clone();
    aligned.partitions = counts.clone();
    for tail in tails {
        let end = saved.end(&tail.topic, tail.partition);
        if let Some(end) = end {
            check_end(end, tail)?;
        }
        // A later record of an earlier event is a repeat that somebody else has written.
        if let Some(last) = &tail.last
            && end.is_none_or(|end| last.offset > end.offset && last.position > end.position)
        {
            aligned.put_end(&tail.topic, tail.partition, last, Vec::new());
        }
    }
    Ok(aligned)
}

/// The frontier with what was published and not saved, event by event, as the log has it.
///
/// The topics show the last record of each partition alone. That may be somebody else's repeat of an earlier one, or be
/// removed already: then what is before the place up to which another partition shows that everything is published would be
/// in no record's chain, and nobody would miss it.
pub(crate) async fn take_over(
    log: &Arc<dyn EventLog>,
    saved: &Frontier,
    aligned: Frontier,
    tails: &[PartitionTail],
) -> Result<Frontier, LogError> {
    let upto = aligned.position;
    let mut taken = aligned;
    taken.position = saved.position;
    taken.ends.retain(|end| end.position <= saved.position);
    for end in &saved.ends {
        if taken.end(&end.topic, end.partition).is_none() {
            taken.ends.push(end.clone());
        }
    }
    while taken.position < upto {
        let events = read_bounded(&**log, taken.position, READ_LIMIT).await?;
        if events.is_empty() {
            let reason = format!("it ends at {}, before {upto}", taken.position);
            return Err(LogError::Unavailable(reason));
        }
        for event in events.iter().filter(|event| event.position <= upto) {
            let (topic, partition) = home_of(event, &taken.partitions);
            let mut tails = tails.iter();
            let tail = tails.find(|tail| tail.topic == topic.name() && tail.partition == partition);
            let next = TailRecord {
                offset: tail.map_or(-1, |tail| offset_of(event.event_id, tail)),
                position: event.position,
                event_id: event.event_id,
            };
            taken.advance(topic.name(), partition, &next);
        }
    }
    Ok(taken)
}

/// The topic and the partition that an event is published to.
pub(super) fn home_of(event: &RecordedEvent, counts: &BTreeMap<String, i32>) -> (Topic, i32) {
    let Publication { topic, key, .. } = Publication::of(event);
    let count = counts.get(topic.name()).copied().unwrap_or(1);
    (topic, partition_for(key.as_bytes(), count))
}

/// Where an event is in its partition if it is the last one there, or before what is.
fn offset_of(event: Uuid, tail: &PartitionTail) -> i64 {
    match &tail.last {
        Some(last) if last.event_id == event => last.offset,
        Some(last) => last.offset - 1,
        // What is left, if anything, is not the relay's: ours was removed.
        None => tail.earliest - 1,
    }
}

fn check_counts(saved: &Frontier, counts: &BTreeMap<String, i32>) -> Result<(), Misaligned> {
    for (topic, count) in counts {
        match saved.partitions.get(topic) {
            Some(before) if before != count => {
                // A broker adds partitions and takes none away.
                let back = if before > count {
                    format!("give the topic {before} partitions again, or ")
                } else {
                    String::new()
                };
                return Err(Misaligned(format!(
                    "{topic} has {count} partitions but had {before}: a key would move to another partition and its \
                     events could overtake each other; {back}{START_OVER}"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A partition must hold what was saved as its end, unless that was removed because of its age.
fn check_end(end: &PartitionEnd, tail: &PartitionTail) -> Result<(), Misaligned> {
    let place = format!("{}-{}", tail.topic, tail.partition);
    let removed_by_age = tail.earliest > end.offset && tail.next > end.offset;
    let held = match &tail.last {
        Some(last) if last.offset == end.offset => {
            end.is_rewound() || last.event_id == end.event_id
        }
        Some(last) => last.offset > end.offset || end.is_rewound(),
        None => end.is_rewound(),
    };
    if held || removed_by_age {
        return Ok(());
    }
    Err(Misaligned(format!(
        "{place} does not hold the event of position {} at offset {}, which was published there: the broker lost records, \
         or it is another one; {REPUBLISH}",
        end.position, end.offset
    )))
}

/// Checks that the log holds the last event of each partition at its place.
pub(crate) async fn check_log(
    log: &Arc<dyn EventLog>,
    frontier: &Frontier,
) -> Result<Result<(), Misaligned>, LogError> {
    let head = log.head().await?;
    if frontier.position > head {
        return Ok(Err(Misaligned(format!(
            "events up to position {} are published but the log ends at {head}: the log went back in time, or it is \
             another one; {START_OVER}",
            frontier.position
        ))));
    }
    for end in frontier.ends.iter().filter(|end| !end.is_rewound()) {
        let found = log.read_all(end.position.saturating_sub(1), 1).await?;
        let same = found
            .first()
            .is_some_and(|event| event.position == end.position && event.event_id == end.event_id);
        if !same {
            return Ok(Err(Misaligned(format!(
                "the log does not hold event {} at position {}, which is the last in {}-{}: the log went back in time, \
                 or it is another one; {START_OVER}",
                end.event_id, end.position, end.topic, end.partition
            ))));
        }
    }
    Ok(Ok(()))
}

impl PartitionEnd {
    /// Whether the relay was rewound: what stands at the offset is an older record than the one that is meant.
    fn is_rewound(&self) -> bool {
        self.event_id.is_nil()
    }
}

impl Frontier {
    /// The frontier from which everything after a position is published anew; `last` says which event of each partition
    /// is the last up to there.
    pub(crate) fn rewound(
        to: Position,
        partitions: BTreeMap<String, i32>,
        tails: &[PartitionTail],
        last: impl Fn(&str, i32) -> Position,
    ) -> Self {
        let ends = tails.iter().map(|tail| PartitionEnd {
            topic: tail.topic.clone(),
            partition: tail.partition,
            offset: tail.next - 1,
            position: last(&tail.topic, tail.partition),
            event_id: Uuid::nil(),
            quiet: Vec::new(),
        });
        Self {
            position: to,
            ends: ends.collect(),
            partitions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "POST_TOPIC";

    fn id(position: Position) -> Uuid {
        Uuid::from_u128(u128::from(position))
    }

    fn saved(offset: i64, position: Position) -> Frontier {
        let mut frontier = Frontier {
            position,
            partitions: counts(),
            ends: Vec::new(),
        };
        frontier.advance(TOPIC, 0, &record(offset, position));
        frontier
    }

    fn counts() -> BTreeMap<String, i32> {
        BTreeMap::from([(TOPIC.to_owned(), 1)])
    }

    fn record(offset: i64, position: Position) -> TailRecord {
        TailRecord {
            offset,
            position,
            event_id: id(position),
        }
    }

    fn tail(earliest: i64, next: i64, last: Option<TailRecord>) -> PartitionTail {
        PartitionTail {
            topic: TOPIC.to_owned(),
            partition: 0,
            earliest,
            next,
            last,
        }
    }

    #[test]
    fn what_was_published_and_not_saved_is_taken_over() {
        let aligned = align(&saved(4, 5), &counts(), &[tail(0, 10, Some(record(8, 9)))]).unwrap();
        assert_eq!(aligned.position, 9);
        assert_eq!(aligned.end(TOPIC, 0).unwrap().offset, 8);
        let first = align(
            &Frontier::default(),
            &counts(),
            &[tail(0, 3, Some(record(1, 2)))],
        )
        .unwrap();
        assert_eq!((first.position, first.partitions), (2, counts()));
    }

    #[test]
    fn a_repeat_by_somebody_else_moves_nothing() {
        let frontier = saved(4, 5);
        let repeated = align(&frontier, &counts(), &[tail(0, 10, Some(record(8, 3)))]);
        assert_eq!(repeated, Ok(frontier));
    }

    #[test]
    fn what_fits_stays() {
        let frontier = saved(4, 5);
        let fits = align(&frontier, &counts(), &[tail(0, 6, Some(record(4, 5)))]);
        assert_eq!(fits, Ok(frontier));
    }

    #[test]
    fn age_explains_what_is_missing_and_nothing_else_does() {
        let frontier = saved(4, 5);
        let aged = align(&frontier, &counts(), &[tail(6, 6, None)]);
        assert_eq!(aged, Ok(frontier.clone()));
        for tail in [
            tail(0, 0, None),
            tail(0, 6, None),
            tail(0, 3, Some(record(2, 3))),
            tail(0, 6, Some(record(4, 7))),
        ] {
            let refused = align(&frontier, &counts(), &[tail]).unwrap_err();
            assert!(
                refused.0.contains("socialhub replay republish"),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn what_was_taken_over_without_its_record_fits_the_next_time() {
        for tail in [tail(6, 8, None), tail(0, 8, Some(record(7, 3)))] {
            let mut frontier = saved(4, 5);
            let next = TailRecord {
                offset: offset_of(id(9), &tail),
                ..record(0, 9)
            };
            frontier.advance(TOPIC, 0, &next);
            assert_eq!(align(&frontier, &counts(), &[tail]), Ok(frontier));
        }
    }

    #[test]
    fn another_partition_count_is_refused() {
        let more = BTreeMap::from([(TOPIC.to_owned(), 2)]);
        let refused = align(&saved(4, 5), &more, &[]).unwrap_err();
        assert!(refused.0.contains("has 2 partitions but had 1"));
        assert!(!refused.0.contains("partitions again"), "{refused:?}");
    }

    #[test]
    fn a_rewound_frontier_accepts_the_records_before_it() {
        let tails = [tail(0, 10, Some(record(8, 9)))];
        let rewound = Frontier::rewound(3, counts(), &tails, |_, _| 2);
        assert_eq!(align(&rewound, &counts(), &tails), Ok(rewound.clone()));
        let again = align(&rewound, &counts(), &[tail(0, 12, Some(record(10, 4)))]).unwrap();
        assert_eq!(again.position, 4);
    }
}
