//! The relay's publisher: a transactional producer that shuts out every other of its name.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    config::FromClientConfigAndContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use socialhub_domain::topic::Topic;
use socialhub_event_log::{Outgoing, PartitionTail, PublishError, Publisher};
use tokio::sync::oneshot;

use crate::kafka::{
    KafkaSettings, complain, millis, tails,
    topics::{self, TopicsError},
};

/// How long giving up a transaction may take; whoever begins next ends it anyway.
const ABORT_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait before looking again for delivery reports.
const REPORT_PAUSE: Duration = Duration::from_millis(1);
/// How long to wait for the client's queue when it is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Publishes in transactions of one name.
pub struct KafkaPublisher {
    settings: KafkaSettings,
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// What lives on the publisher's thread.
struct Worker {
    settings: KafkaSettings,
    producer: Option<BaseProducer<Reports>>,
    reports: Arc<Mutex<Delivered>>,
}

/// What became of the records of one transaction.
#[derive(Default)]
struct Delivered {
    offsets: Vec<Option<i64>>,
    error: Option<KafkaError>,
}

/// Takes the delivery reports of one producer.
struct Reports(Arc<Mutex<Delivered>>);

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        complain(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, nth: usize) {
        let mut delivered = self.0.lock();
        match result {
            Ok(message) => {
                if let Some(offset) = delivered.offsets.get_mut(nth) {
                    *offset = Some(message.offset());
                }
            }
            Err((error, _)) => delivered.error = Some(error.clone()),
        }
    }
}

impl KafkaPublisher {
    /// A publisher; nothing is asked of the brokers yet.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn new(settings: KafkaSettings) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let mut worker = Worker {
            settings: settings.clone(),
            producer: None,
            reports: Arc::default(),
        };
        thread::Builder::new()
            .name("kafka-publish".to_owned())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    job(&mut worker);
                }
            })?;
        Ok(Self { settings, jobs })
    }

    /// Runs blocking work on the publisher's thread. What is not waited for any more is carried out all the same.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T, PublishError> + Send + 'static,
    ) -> Result<T, PublishError> {
        let gone = || PublishError::Failed("the publisher has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Box::new(move |worker| {
                // The asker may have gone away.
                let _ = reply.send(work(worker));
            }))
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn failed(error: &KafkaError) -> PublishError {
    let code = error.rdkafka_error_code();
    match code {
        Some(
            RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch,
        ) => PublishError::Fenced,
        _ => PublishError::Failed(error.to_string()),
    }
}

impl Worker {
    fn begin(&mut self) -> Result<(), PublishError> {
        // Ended before the next one begins; what it had under way is thrown away.
        self.producer = None;
        let settings = &self.settings;
        let mut config = settings.client("socialhub-relay");
        config
            .set("transactional.id", &settings.transactional_id)
            .set(
                "transaction.timeout.ms",
                millis(settings.transaction_timeout),
            )
            .set("message.timeout.ms", millis(settings.message_timeout))
            // The records of a transaction come together; whoever reads them waits.
            .set("linger.ms", "1")
            .set("queue.buffering.max.messages", "100000");
        self.reports = Arc::default();
        let reports = Reports(Arc::clone(&self.reports));
        let producer = BaseProducer::from_config_and_context(&config, reports)
            .map_err(|error| PublishError::Refused(error.to_string()))?;
        producer
            .init_transactions(settings.message_timeout)
            .map_err(|error| failed(&error))?;
        self.producer = Some(producer);
        Ok(())
    }

    fn publish(&mut self, records: &[Outgoing]) -> Result<Vec<i64>, PublishError> {
        let Some(producer) = self.producer.take() else {
            return Err(PublishError::Failed("it has not begun".to_owned()));
        };
        *self.reports.lock() = Delivered {
            offsets: vec![None; records.len()],
            error: None,
        };
        match self.transact(&producer, records) {
            Ok(offsets) => {
                self.producer = Some(producer);
                Ok(offsets)
            }
            // The producer is not used again, whatever the error was.
            Err(error) => {
                // Shut out, it throws away what waits and says that of the records.
                let fatal = producer.client().fatal_error();
                let fatal = fatal.map(|(code, _)| failed(&KafkaError::Global(code)));
                let error = fatal.unwrap_or_else(|| failed(&error));
                if !matches!(error, PublishError::Fenced)
                    && let Err(error) = producer.abort_transaction(ABORT_WITHIN)
                {
                    tracing::debug!(%error, "a transaction was not given up; whoever begins next ends it");
                }
                Err(error)
            }
        }
    }

    fn transact(
        &self,
        producer: &BaseProducer<Reports>,
        records: &[Outgoing],
    ) -> KafkaResult<Vec<i64>> {
        producer.begin_transaction()?;
        let deadline = Instant::now() + self.settings.message_timeout;
        let mut topics = BTreeMap::new();
        for (nth, outgoing) in records.iter().enumerate() {
            let topic: &String = topics
                .entry(outgoing.record.topic)
                .or_insert_with(|| self.settings.topic(outgoing.record.topic.name()));
            send(producer, topic, outgoing, nth, deadline)?;
        }
        self.await_deliveries(producer)?;
        let offsets = {
            let mut delivered = self.reports.lock();
            if let Some(error) = delivered.error.take() {
                return Err(error);
            }
            let offsets: Option<Vec<i64>> = delivered.offsets.iter().copied().collect();
            offsets.ok_or(KafkaError::MessageProduction(
                RDKafkaErrorCode::MessageTimedOut,
            ))?
        };
        producer.commit_transaction(self.settings.transaction_timeout)?;
        Ok(offsets)
    }

    /// Takes reports until there is one for each record.
    ///
    /// Neither by the producer's `flush`, which takes 100 ms at least, nor by a `poll` with a time limit: that does not
    /// return before its time is up, and spends the last millisecond of it turning in a circle.
    fn await_deliveries(&self, producer: &BaseProducer<Reports>) -> KafkaResult<()> {
        // A little longer than a record may take: its end is then known.
        let deadline = Instant::now() + self.settings.message_timeout + Duration::from_secs(1);
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::ZERO);
            if producer.in_flight_count() > 0 {
                thread::sleep(REPORT_PAUSE);
            }
            if Instant::now() >= deadline {
                let late = RDKafkaErrorCode::MessageTimedOut;
                return Err(KafkaError::MessageProduction(late));
            }
        }
        Ok(())
    }

    /// How many partitions the topics have.
    fn counts(
        &self,
        admin: &AdminClient<DefaultClientContext>,
    ) -> Result<BTreeMap<String, i32>, PublishError> {
        let deadline = Instant::now() + self.settings.message_timeout;
        let mut counts = BTreeMap::new();
        for topic in Topic::ALL {
            let name = self.settings.topic(topic.name());
            // A topic that was just made is not known everywhere at once.
            let count = loop {
                let metadata = admin
                    .inner()
                    .fetch_metadata(Some(&name), self.settings.request_timeout)
                    .map_err(|error| failed(&error))?;
                let found = metadata.topics().iter().find(|found| found.name() == name);
                let partitions = found.map_or(&[][..], |found| found.partitions());
                let led = partitions.iter().all(|partition| partition.leader() >= 0);
                if !partitions.is_empty() && led {
                    break partitions.len();
                }
                if Instant::now() >= deadline {
                    return Err(PublishError::Failed(format!("{name} is not there")));
                }
                thread::sleep(QUEUE_PAUSE);
            };
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            counts.insert(topic.name().to_owned(), count);
        }
        Ok(counts)
    }
}

fn send(
    producer: &BaseProducer<Reports>,
    topic: &str,
    outgoing: &Outgoing,
    nth: usize,
    deadline: Instant,
) -> KafkaResult<()> {
    let pairs = outgoing.record.headers.pairs();
    let headers = OwnedHeaders::new_with_capacity(pairs.len());
    let headers = pairs.iter().fold(headers, |headers, (key, value)| {
        headers.insert(Header {
            key,
            value: Some(value),
        })
    });
    let mut record = BaseRecord::with_opaque_to(topic, nth)
        .partition(outgoing.partition)
        .key(&outgoing.record.key)
        .payload(&outgoing.record.value)
        .headers(headers);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                if Instant::now() < deadline =>
            {
                record = back;
                producer.poll(QUEUE_PAUSE);
            }
            Err((error, _)) => return Err(error),
        }
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    async fn topics(&self) -> Result<BTreeMap<String, i32>, PublishError> {
        let settings = &self.settings;
        let admin: AdminClient<DefaultClientContext> = settings
            .client("socialhub-relay-topics")
            .create()
            .map_err(|error| PublishError::Refused(error.to_string()))?;
        topics::prepare(&admin, settings)
            .await
            .map_err(|error| match error {
                TopicsError::Kafka(error) => failed(&error),
                not_made @ TopicsError::NotMade(..) => PublishError::Failed(not_made.to_string()),
            })?;
        // Its end waits for a thread: not here.
        self.run(move |worker| worker.counts(&admin)).await
    }

    async fn begin(&self) -> Result<(), PublishError> {
        self.run(Worker::begin).await
    }

    async fn tails(
        &self,
        partitions: &BTreeMap<String, i32>,
    ) -> Result<Vec<PartitionTail>, PublishError> {
        let partitions = partitions.clone();
        self.run(move |worker| tails::read(&worker.settings, &partitions))
            .await
    }

    async fn clear(&self, partitions: &BTreeMap<String, i32>) -> Result<(), PublishError> {
        let settings = &self.settings;
        let admin: AdminClient<DefaultClientContext> = settings
            .client("socialhub-relay-topics")
            .create()
            .map_err(|error| PublishError::Refused(error.to_string()))?;
        let mut upto = TopicPartitionList::new();
        for (name, count) in partitions {
            for partition in 0..*count {
                upto.add_partition_offset(&settings.topic(name), partition, Offset::End)
                    .map_err(|error| failed(&error))?;
            }
        }
        let options = AdminOptions::new()
            .request_timeout(Some(settings.request_timeout))
            .operation_timeout(Some(settings.request_timeout));
        let done = admin.delete_records(&upto, &options).await;
        let done = done.map_err(|error| failed(&error))?;
        // Its end waits for a thread: not here.
        self.run(move |_| {
            drop(admin);
            Ok(())
        })
        .await?;
        for element in done.elements() {
            element.error().map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    async fn publish(&self, records: Vec<Outgoing>) -> Result<Vec<i64>, PublishError> {
        self.run(move |worker| worker.publish(&records)).await
    }
}
