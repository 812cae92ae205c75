//! The ends of partitions: the last committed record of each that the relay has written.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
    types::RDKafkaErrorCode,
};
use socialhub_event_log::{PartitionTail, PublishError, TailRecord, partition_for};

use crate::kafka::{KafkaSettings, complain, headers};

/// How far back a record is looked for first: a transaction's end takes an offset, too.
const FIRST_LOOK: i64 = 8;
/// How much further each time.
const FURTHER: i64 = 16;

/// Says nothing of a partition's end, which is what is looked for here and no error.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            complain(&error, reason);
        }
    }
}

impl ConsumerContext for Quiet {}

/// One partition being looked at.
struct Look {
    tail: PartitionTail,
    /// The name on the broker.
    topic: String,
    /// The first offset that was looked at.
    from: i64,
    /// Into how many partitions the topic is divided.
    count: i32,
}

/// Reads the ends of all partitions.
pub(super) fn read(
    settings: &KafkaSettings,
    partitions: &BTreeMap<String, i32>,
) -> Result<Vec<PartitionTail>, PublishError> {
    let failed = |error: KafkaError| PublishError::Failed(error.to_string());
    let mut config = settings.client("socialhub-relay-ends");
    // A group's name is needed to read by assignment; nothing is ever committed under it.
    config
        .set("group.id", format!("{}-ends", settings.transactional_id))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet).map_err(failed)?;
    let deadline = Instant::now() + settings.message_timeout;
    let mut tails = Vec::new();
    // Topic by topic: the event that says that a partition ends names its number alone.
    for (name, count) in partitions {
        let looks: KafkaResult<Vec<Look>> = (0..*count)
            .map(|partition| open(&consumer, settings, name, *count, partition))
            .collect();
        let mut looks = looks.map_err(failed)?;
        let mut reach = FIRST_LOOK;
        loop {
            let open: Vec<&mut Look> = looks.iter_mut().filter(|look| !look.is_done()).collect();
            if open.is_empty() {
                break;
            }
            look_back(&consumer, open, reach, deadline).map_err(failed)?;
            reach = reach.saturating_mul(FURTHER);
        }
        tails.extend(looks.into_iter().map(|look| look.tail));
    }
    Ok(tails)
}

fn open(
    consumer: &BaseConsumer<Quiet>,
    settings: &KafkaSettings,
    name: &str,
    count: i32,
    partition: i32,
) -> KafkaResult<Look> {
    let topic = settings.topic(name);
    let (earliest, next) =
        consumer.fetch_watermarks(&topic, partition, settings.request_timeout)?;
    Ok(Look {
        tail: PartitionTail {
            topic: name.to_owned(),
            partition,
            earliest,
            next,
            last: None,
        },
        topic,
        from: next,
        count,
    })
}

impl Look {
    /// Whether a record's key belongs to the partition: a copy that somebody else put there is not the relay's.
    fn is_home_of(&self, message: &BorrowedMessage<'_>) -> bool {
        let key = message.key().unwrap_or_default();
        partition_for(key, self.count) == self.tail.partition
    }

    fn is_done(&self) -> bool {
        self.tail.last.is_some() || self.from <= self.tail.earliest
    }
}

/// Reads the last `reach` offsets of partitions of one topic; what was found is noted.
fn look_back(
    consumer: &BaseConsumer<Quiet>,
    mut looks: Vec<&mut Look>,
    reach: i64,
    deadline: Instant,
) -> KafkaResult<()> {
    let mut assignment = TopicPartitionList::new();
    let mut open = HashMap::new();
    for (nth, look) in looks.iter_mut().enumerate() {
        look.from = (look.tail.next - reach).max(look.tail.earliest);
        let partition = look.tail.partition;
        assignment.add_partition_offset(&look.topic, partition, Offset::Offset(look.from))?;
        open.insert(partition, nth);
    }
    consumer.assign(&assignment)?;
    while !open.is_empty() {
        if Instant::now() >= deadline {
            return Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::OperationTimedOut,
            ));
        }
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                let nth = open.get(&message.partition());
                let look = nth.and_then(|nth| looks.get_mut(*nth));
                if let (Some(look), Ok(headers)) = (look, headers(message.headers()))
                    && look.is_home_of(&message)
                {
                    look.tail.last = Some(TailRecord {
                        offset: message.offset(),
                        position: headers.position,
                        event_id: headers.event_id,
                    });
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(())
}
