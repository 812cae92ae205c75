//! The projectors' consumer: a member of a group, its partitions dealt out eagerly.
//!
//! Eagerly: at each change everybody gives back everything before anybody gets anything, so a partition has two readers
//! only when one of them was given up for dead; then the model's store decides. Each partition has a queue of its own in
//! librdkafka, which fetches ahead into it as much as the settings allow and no more; records leave it only while the
//! projector has room for them, so a slow partition holds up no other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{
        BaseConsumer, CommitMode, Consumer, ConsumerContext, DefaultConsumerContext,
        base_consumer::PartitionQueue,
    },
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
    types::RDKafkaRespErr,
};
use socialhub_domain::topic::Topic;
use socialhub_event_log::{PartitionTail, WireRecord, partition_for};
use socialhub_projections::{
    GenerationId, Source,
    runtime::{
        Answer, Delivered, Delivery, LeftOutTally, PartitionedSource, Permit, Records, SourceError,
        Sources, Start,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::kafka::{
    KafkaSettings, complain, headers, is_not_there, millis, partitions_of, tails, topics_are_there,
};

/// How many records are handed over at once at most.
const BATCH: usize = 1024;
/// How many bytes of values are handed over at once at most, one record aside: a process may have many partitions.
const BATCH_BYTES: usize = 1 << 20;
/// How many batches of a partition may be on their way to its writer.
const AHEAD: usize = 2;
/// How often the thread looks around when nothing wakes it.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// How often offsets are committed, for tools that show lag.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How often it is told that the brokers are away.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long taking partitions away waits for the batches in hand.
const HANDOVER: Duration = Duration::from_secs(10);

/// How long leaving the group is waited for: a broker that is away does not answer.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

type Group = BaseConsumer<Member>;

/// Opens consumers for the generations of one model.
pub struct KafkaSources {
    settings: KafkaSettings,
    group: String,
    topics: Vec<Topic>,
    left_out: Arc<LeftOutTally>,
}

impl KafkaSources {
    /// Consumers of some topics; `group` is the first generation's, later ones are `group.<n>`. What they leave out is
    /// summed up in `left_out`.
    pub fn new(
        settings: KafkaSettings,
        group: &str,
        topics: &[Topic],
        left_out: Arc<LeftOutTally>,
    ) -> Self {
        Self {
            settings,
            group: group.to_owned(),
            topics: topics.to_vec(),
            left_out,
        }
    }
}

#[async_trait]
impl Sources for KafkaSources {
    async fn tails(
        &self,
        partitions: &BTreeMap<String, i32>,
    ) -> Result<Vec<PartitionTail>, SourceError> {
        let (settings, partitions) = (self.settings.clone(), partitions.clone());
        let (reply, answer) = oneshot::channel();
        // A thread of its own: nobody waits for it at the program's end.
        thread::Builder::new()
            .name("kafka-ends".to_owned())
            .spawn(move || {
                // The asker may have gone away.
                let _ = reply.send(tails::read(&settings, &partitions));
            })
            .map_err(|error| SourceError(error.to_string()))?;
        match answer.await {
            Ok(tails) => tails.map_err(|error| SourceError(error.to_string())),
            Err(_) => Err(SourceError("their ends were not read".to_owned())),
        }
    }

    fn open(&self, generation: GenerationId) -> Result<Box<dyn PartitionedSource>, SourceError> {
        let group = match generation {
            GenerationId(0 | 1) => self.group.clone(),
            later => format!("{}.{later}", self.group),
        };
        let source = KafkaSource::join(
            &self.settings,
            &group,
            &self.topics,
            Arc::clone(&self.left_out),
        )?;
        Ok(Box::new(source))
    }
}

/// A member of a consumer group, on a thread of its own.
pub struct KafkaSource {
    deliveries: mpsc::UnboundedReceiver<Result<Delivery, SourceError>>,
    shared: Arc<Shared>,
    left: Option<oneshot::Receiver<()>>,
}

/// What the thread and the async side share.
struct Shared {
    closing: AtomicBool,
    /// Offsets to be committed.
    done: Mutex<HashMap<Source, i64>>,
    awake: Mutex<bool>,
    wake: Condvar,
}

impl Shared {
    fn wake(&self) {
        *self.awake.lock() = true;
        self.wake.notify_one();
    }

    /// Waits until something wakes the thread, or a while.
    fn rest(&self) {
        let mut awake = self.awake.lock();
        if !*awake {
            self.wake.wait_for(&mut awake, LOOK_AROUND);
        }
        *awake = false;
    }
}

/// What librdkafka calls when partitions come and go; it does so on the thread that polls.
struct Member {
    settings: KafkaSettings,
    /// The topics' names on the broker.
    topics: Vec<String>,
    consumer: OnceLock<Weak<Group>>,
    shared: Arc<Shared>,
    left_out: Arc<LeftOutTally>,
    deliveries: mpsc::UnboundedSender<Result<Delivery, SourceError>>,
    parts: Mutex<Vec<Part>>,
    /// It was called since somebody looked. Whoever polls is not told of what was handled here: it looks as if nothing had come.
    called: AtomicBool,
    /// Since when it waits to be dealt its partitions, if it does.
    waiting: Mutex<Option<Instant>>,
}

/// One partition that is ours.
struct Part {
    source: Source,
    topic: Topic,
    /// Into how many the topic is divided, if that is known.
    partitions: Option<i32>,
    queue: PartitionQueue<Member>,
    ahead: Arc<AtomicUsize>,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.called.store(true, Ordering::Relaxed);
        // As it is logged where nobody looks on.
        DefaultConsumerContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        complain(&error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        self.called.store(true, Ordering::Relaxed);
        let outcome = if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assigned(consumer, partitions)
        } else {
            self.revoked();
            *self.waiting.lock() = Some(Instant::now());
            consumer.unassign()
        };
        if let Err(error) = outcome {
            self.fail(&error.to_string());
        }
    }

    fn commit_callback(&self, _: KafkaResult<()>, _: &TopicPartitionList) {
        self.called.store(true, Ordering::Relaxed);
    }
}

impl Member {
    fn fail(&self, reason: &str) {
        // Nobody listens any more when the source is closed.
        let _ = self.deliveries.send(Err(SourceError(reason.to_owned())));
    }

    fn revoked(&self) {
        let parts = std::mem::take(&mut *self.parts.lock());
        if parts.is_empty() {
            return;
        }
        let sources = parts.iter().map(|part| part.source.clone()).collect();
        // From here on nothing of them is handed over.
        drop(parts);
        let (sender, answer) = sync_channel(1);
        let told = Delivery::Revoked(sources, Answer::new(sender));
        if self.deliveries.send(Ok(told)).is_ok() {
            let _ = answer.recv_timeout(HANDOVER);
        }
    }

    fn assigned(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> KafkaResult<()> {
        let mut sources = Vec::new();
        for element in partitions.elements() {
            if let Some(topic) = self.settings.logical(element.topic()) {
                sources.push(Source::partition(topic.name(), element.partition()));
            }
        }
        let starts = self.starts(sources);
        let mut assignment = TopicPartitionList::new();
        let (mut parts, mut counts) = (Vec::new(), HashMap::new());
        for (source, start) in starts {
            let name = self.settings.topic(&source.name);
            let offset = self.first_offset(consumer, &name, source.partition, start);
            assignment.add_partition_offset(&name, source.partition, offset)?;
            let partitions = *counts
                .entry(name.clone())
                .or_insert_with(|| partitions_of(&self.settings, consumer, &name));
            if let Some(part) = self.part(source, &name, partitions) {
                parts.push(part);
            }
        }
        // Their queues were set apart before, so that nothing of them comes by another way.
        consumer.assign(&assignment)?;
        *self.parts.lock() = parts;
        *self.waiting.lock() = None;
        Ok(())
    }

    /// From where the partitions are read, as soon as the projector knows. It is told also that there are none for it.
    fn starts(&self, sources: Vec<Source>) -> Vec<(Source, Start)> {
        let (sender, answer): (_, Receiver<Vec<(Source, Start)>>) = sync_channel(1);
        let told = Delivery::Assigned(sources, Answer::new(sender));
        if self.deliveries.send(Ok(told)).is_err() {
            return Vec::new();
        }
        // Ends with an error when the projector lets go of this source.
        answer.recv().unwrap_or_default()
    }

    /// An offset that is not there any more becomes the first that is.
    fn first_offset(
        &self,
        consumer: &BaseConsumer<Self>,
        name: &str,
        partition: i32,
        start: Start,
    ) -> Offset {
        let Start::At(offset) = start else {
            return Offset::Beginning;
        };
        match consumer.fetch_watermarks(name, partition, self.settings.request_timeout) {
            Ok((earliest, next)) if (earliest..=next).contains(&offset) => Offset::Offset(offset),
            Ok((earliest, next)) => {
                tracing::warn!(
                    topic = name,
                    partition,
                    offset,
                    earliest,
                    next,
                    "the topic does not go on where the model is: reading from its beginning"
                );
                Offset::Beginning
            }
            // The first fetch will say.
            Err(_) => Offset::Offset(offset),
        }
    }

    fn part(&self, source: Source, name: &str, partitions: Option<i32>) -> Option<Part> {
        let consumer = self.consumer.get()?.upgrade()?;
        let topic = self.settings.logical(name)?;
        let mut queue = consumer.split_partition_queue(name, source.partition)?;
        let shared = Arc::clone(&self.shared);
        queue.set_nonempty_callback(move || shared.wake());
        Some(Part {
            source,
            topic,
            partitions,
            queue,
            ahead: Arc::default(),
        })
    }

    /// Whether the group has dealt out nothing for too long, although the brokers answer and have the topics. A client of
    /// librdkafka may wait for ever for an answer to "who coordinates the group?" that it has lost with the broker it had
    /// asked, and is of no use any more; and of a group in which somebody holds up everybody it is as good to try it anew.
    fn waits_in_vain(&self) -> bool {
        let since = *self.waiting.lock();
        if since.is_none_or(|since| since.elapsed() < self.settings.join_within) {
            return false;
        }
        // Another client: this one may not know.
        let is_possible = topics_are_there(&self.settings, &self.topics);
        if !is_possible {
            // It counts from when it is.
            *self.waiting.lock() = Some(Instant::now());
        }
        is_possible
    }

    /// Hands over what has come and there is room for; answers whether there was anything.
    fn hand_over(&self) -> bool {
        let mut any = false;
        for part in &*self.parts.lock() {
            while part.ahead.load(Ordering::Acquire) < AHEAD {
                match part.next_batch(&self.left_out) {
                    Ok(Polled { records: 0, .. }) => break,
                    Ok(Polled { delivered, .. }) => {
                        any = true;
                        if delivered.is_empty() {
                            // The others have their turn before the next of what is left out.
                            break;
                        }
                        self.deliver(part, delivered);
                    }
                    Err(error) => {
                        self.fail(&format!("{}: {error}", part.source));
                        return false;
                    }
                }
            }
        }
        any
    }

    fn deliver(&self, part: &Part, delivered: Vec<Delivered>) {
        part.ahead.fetch_add(1, Ordering::AcqRel);
        let (ahead, shared) = (Arc::clone(&part.ahead), Arc::clone(&self.shared));
        let permit = Permit::new(move || {
            ahead.fetch_sub(1, Ordering::AcqRel);
            shared.wake();
        });
        let records = Records {
            source: part.source.clone(),
            delivered,
            permit,
        };
        // Nobody listens any more when the source is closed.
        let _ = self.deliveries.send(Ok(Delivery::Records(records)));
    }
}

/// What a partition's queue gave.
struct Polled {
    /// How many records, with those that are left out.
    records: usize,
    /// Those that are ours.
    delivered: Vec<Delivered>,
}

impl Part {
    fn next_batch(&self, left_out: &LeftOutTally) -> KafkaResult<Polled> {
        let mut delivered = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        while records < BATCH && bytes < BATCH_BYTES {
            match self.queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    records += 1;
                    bytes += message.payload_len();
                    match read(self.topic, self.partitions, &message) {
                        Ok(ours) => delivered.push(ours),
                        Err(reason) => {
                            let (partition, offset) = (message.partition(), message.offset());
                            left_out.leave_out(self.topic, partition, offset, reason);
                        }
                    }
                }
                Some(Err(error)) if records == 0 => return Err(error),
                // What came before it is handed over first; it comes again.
                Some(Err(_)) => break,
            }
        }
        Ok(Polled { records, delivered })
    }
}

/// A record of ours, or why it is none. A copy in another partition would come out of its order, or a second time.
fn read(
    topic: Topic,
    partitions: Option<i32>,
    message: &BorrowedMessage<'_>,
) -> Result<Delivered, String> {
    let headers = headers(message.headers()).map_err(|foreign| foreign.to_string())?;
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    let key = key.ok_or("its key is no text")?;
    let place = partitions.map(|count| partition_for(key.as_bytes(), count));
    if place.is_some_and(|place| place != message.partition()) {
        return Err("its key belongs to another partition".to_owned());
    }
    let value = String::from_utf8_lossy(message.payload().unwrap_or_default());
    Ok(Delivered {
        record: WireRecord {
            topic,
            key: key.to_owned(),
            value: value.into_owned(),
            headers,
        },
        next_offset: message.offset() + 1,
    })
}

impl KafkaSource {
    /// Joins a group that reads some topics.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn join(
        settings: &KafkaSettings,
        group: &str,
        topics: &[Topic],
        left_out: Arc<LeftOutTally>,
    ) -> Result<Self, SourceError> {
        let told = |error: KafkaError| SourceError(error.to_string());
        let shared = Arc::new(Shared {
            closing: AtomicBool::new(false),
            done: Mutex::default(),
            awake: Mutex::default(),
            wake: Condvar::new(),
        });
        let (sender, deliveries) = mpsc::unbounded_channel();
        let member = Member {
            settings: settings.clone(),
            topics: topics
                .iter()
                .map(|topic| settings.topic(topic.name()))
                .collect(),
            consumer: OnceLock::new(),
            shared: Arc::clone(&shared),
            left_out,
            deliveries: sender,
            parts: Mutex::default(),
            called: AtomicBool::new(false),
            waiting: Mutex::new(Some(Instant::now())),
        };
        let mut consumer: Group = config(settings, group)
            .create_with_context(member)
            .map_err(told)?;
        let waking = Arc::clone(&shared);
        consumer.set_nonempty_callback(move || waking.wake());
        let consumer = Arc::new(consumer);
        // Set once, here.
        let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
        let names = consumer.context().topics.iter();
        let names: Vec<&str> = names.map(String::as_str).collect();
        consumer.subscribe(&names).map_err(told)?;
        let (leaving, left) = oneshot::channel();
        let polling = Arc::clone(&shared);
        thread::Builder::new()
            .name(format!("kafka-{group}"))
            .spawn(move || {
                serve(&consumer, &polling);
                // Their queues hold the consumer: they go first, then it leaves the group.
                consumer.context().parts.lock().clear();
                drop(consumer);
                let _ = leaving.send(());
            })
            .map_err(|error| SourceError(error.to_string()))?;
        Ok(Self {
            deliveries,
            shared,
            left: Some(left),
        })
    }
}

fn config(settings: &KafkaSettings, group: &str) -> rdkafka::ClientConfig {
    let mut config = settings.client("socialhub-projector");
    config
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("partition.assignment.strategy", "roundrobin")
        .set("session.timeout.ms", millis(settings.session_timeout))
        .set(
            "heartbeat.interval.ms",
            millis(settings.session_timeout / 5),
        )
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "100")
        // What is fetched ahead of the writers, for each partition.
        .set("queued.min.messages", "8192")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.queue.backoff.ms", "10");
    config
}

fn serve(consumer: &Arc<Group>, shared: &Shared) {
    let (mut committed, mut told) = (Instant::now(), None);
    while !shared.closing.load(Ordering::Acquire) {
        match attend(consumer) {
            Err(Ended) => return,
            Ok(None) => {}
            Ok(Some(error)) => {
                let is_due = |told: Instant| told.elapsed() >= TELL_EVERY;
                if told.is_none_or(is_due) {
                    tracing::warn!(%error, "the topics cannot be read for now");
                    told = Some(Instant::now());
                }
            }
        }
        let any = consumer.context().hand_over();
        if committed.elapsed() >= COMMIT_EVERY {
            committed = Instant::now();
            commit(consumer, shared);
            consumer.context().left_out.tell();
            if consumer.context().waits_in_vain() {
                let patience = consumer.context().settings.join_within;
                let told =
                    format!("the group has dealt out nothing for {patience:?}: joining it anew");
                consumer.context().fail(&told);
                return;
            }
        }
        if !any {
            shared.rest();
        }
    }
    commit(consumer, shared);
}

/// The source has failed for good.
struct Ended;

/// Rebalances and errors; records come by the queues of their partitions. Everything that waits: a broker that was away leaves
/// hundreds of errors, and what comes when it is back is behind them. Answers the last error that passes by itself.
fn attend(consumer: &Group) -> Result<Option<KafkaError>, Ended> {
    let mut passing = None;
    loop {
        let Some(event) = consumer.poll(Duration::ZERO) else {
            if consumer.context().called.swap(false, Ordering::Relaxed) {
                continue;
            }
            return Ok(passing);
        };
        match event {
            Ok(message) => {
                let place = format!("{}-{}", message.topic(), message.partition());
                let wrong = format!("{place}: a record came by the wrong queue");
                consumer.context().fail(&wrong);
            }
            Err(error @ KafkaError::MessageConsumptionFatal(_)) => {
                consumer.context().fail(&error.to_string());
                return Err(Ended);
            }
            // Topics that are not there yet: of these it is told elsewhere.
            Err(error) if is_not_there(&error) => {}
            // The client goes on by itself when its brokers are there again.
            Err(error) => passing = Some(error),
        }
    }
}

fn commit(consumer: &Arc<Group>, shared: &Shared) {
    let done = std::mem::take(&mut *shared.done.lock());
    if done.is_empty() {
        return;
    }
    let mut offsets = TopicPartitionList::new();
    for (source, offset) in done {
        let name = consumer.context().settings.topic(&source.name);
        // An offset is never negative: nothing can go wrong.
        let _ = offsets.add_partition_offset(&name, source.partition, Offset::Offset(offset));
    }
    if let Err(error) = consumer.commit(&offsets, CommitMode::Async) {
        tracing::debug!(%error, "offsets were not committed: tools will show too much lag");
    }
}

impl KafkaSource {
    fn stop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        // Whoever waits for an answer gets none.
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {}
        self.shared.wake();
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl PartitionedSource for KafkaSource {
    async fn next(&mut self) -> Result<Delivery, SourceError> {
        match self.deliveries.recv().await {
            Some(delivery) => delivery,
            None => Err(SourceError("the consumer has ended".to_owned())),
        }
    }

    fn commit(&mut self, source: &Source, next_offset: i64) {
        self.shared.done.lock().insert(source.clone(), next_offset);
    }

    async fn close(mut self: Box<Self>) {
        self.stop();
        if let Some(left) = self.left.take() {
            // An error means that the thread is gone already; without an answer the group finds out by itself.
            let _ = timeout(LEAVE_WITHIN, left).await;
        }
    }
}
