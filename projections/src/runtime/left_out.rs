//! Records of the topics that the relay has not written. They are left out, counted, and told of: whoever may write to a
//! topic must neither stop a consumer nor flood its log.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use socialhub_domain::{Clock, topic::Topic};
use socialhub_event_log::LeftOut;

/// Between two lines about one topic.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What a consumer has left out, by topic.
pub struct LeftOutTally {
    consumer: String,
    clock: Arc<dyn Clock>,
    topics: Mutex<BTreeMap<&'static str, OfTopic>>,
}

struct OfTopic {
    sum: LeftOut,
    /// When there was a line about it.
    told: Option<Instant>,
    /// How many have come since.
    untold: u64,
}

impl LeftOutTally {
    /// Nothing yet; `consumer` is the part of the process that reads the topics, as `/readyz` names it.
    pub fn new(consumer: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            consumer,
            clock,
            topics: Mutex::default(),
        }
    }

    /// A record is left out. The first of a topic is told of at once.
    pub fn leave_out(&self, topic: Topic, partition: i32, offset: i64, reason: String) {
        let (topic, consumer) = (topic.name(), self.consumer.clone());
        metrics::counter!(
            "socialhub_projection_foreign_records_total", "topic" => topic, "consumer" => consumer.clone()
        )
        .increment(1);
        let last = LeftOut {
            consumer,
            topic: topic.to_owned(),
            records: 0,
            partition,
            offset,
            reason,
            at: self.clock.now(),
        };
        let mut topics = self.topics.lock();
        let of_topic = topics.entry(topic).or_insert_with(|| OfTopic {
            sum: last.clone(),
            told: None,
            untold: 0,
        });
        of_topic.sum = LeftOut {
            records: of_topic.sum.records + 1,
            ..last
        };
        of_topic.untold += 1;
        of_topic.tell_if_due(Instant::now());
    }

    /// Tells of what has come since the last line about a topic, once that is long enough ago. To be called now and then.
    pub fn tell(&self) {
        for of_topic in self.topics.lock().values_mut() {
            of_topic.tell_if_due(Instant::now());
        }
    }

    /// What has been left out so far, by topic.
    pub fn sums(&self) -> Vec<LeftOut> {
        let topics = self.topics.lock();
        topics.values().map(|topic| topic.sum.clone()).collect()
    }
}

impl OfTopic {
    fn tell_if_due(&mut self, now: Instant) {
        if let Some(records) = self.due(now) {
            let LeftOut {
                consumer,
                topic,
                partition,
                offset,
                reason,
                ..
            } = &self.sum;
            tracing::warn!(
                consumer,
                topic,
                records,
                partition,
                offset,
                reason,
                "records that the relay has not written are left out: `replay status` counts them"
            );
        }
    }

    /// How many the next line is about; none before it is due.
    fn due(&mut self, now: Instant) -> Option<u64> {
        let rested = |told: Instant| now.duration_since(told) >= TELL_EVERY;
        if self.untold == 0 || !self.told.is_none_or(rested) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use socialhub_domain::Timestamp;

    use super::*;

    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp(self.0)
        }
    }

    fn tally() -> LeftOutTally {
        LeftOutTally::new("projection feed".to_owned(), Arc::new(At(7)))
    }

    #[test]
    fn each_topic_is_summed_up_with_its_last_record() {
        let tally = tally();
        for offset in [3, 9] {
            tally.leave_out(Topic::Post, 1, offset, format!("reason {offset}"));
        }
        tally.leave_out(Topic::User, 2, 4, "another".to_owned());
        let sum = |topic: Topic, records, partition, offset, reason: &str| LeftOut {
            consumer: "projection feed".to_owned(),
            topic: topic.name().to_owned(),
            records,
            partition,
            offset,
            reason: reason.to_owned(),
            at: Timestamp(7),
        };
        assert_eq!(
            tally.sums(),
            [
                sum(Topic::Post, 2, 1, 9, "reason 9"),
                sum(Topic::User, 1, 2, 4, "another"),
            ]
        );
    }

    #[test]
    fn the_first_is_told_of_at_once_and_the_others_together_a_minute_later() {
        let tally = tally();
        for offset in 0..1_000 {
            tally.leave_out(Topic::Post, 0, offset, String::new());
        }
        let mut topics = tally.topics.lock();
        let of_topic = topics.get_mut(Topic::Post.name()).unwrap();
        assert_eq!(of_topic.untold, 999);
        let told = of_topic.told.unwrap();
        assert_eq!(of_topic.due(told + TELL_EVERY / 2), None);
        assert_eq!(of_topic.due(told + TELL_EVERY), Some(999));
        assert_eq!(of_topic.due(told + 5 * TELL_EVERY), None);
    }
}
