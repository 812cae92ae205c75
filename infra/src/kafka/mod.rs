//! Kafka adapters: the transactional publisher of the relay and the consumer of the projectors.
//!
//! librdkafka blocks: publisher and consumer each have a thread of their own, and the async side talks to it.

mod consumer;
mod publisher;
mod tails;
mod topics;

use std::time::Duration;

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::Headers,
};
use socialhub_domain::topic::Topic;
use socialhub_event_log::{WireHeaders, wire::Foreign};
use socialhub_projections::runtime::SourceError;

pub use consumer::{KafkaSource, KafkaSources};
pub use publisher::KafkaPublisher;

/// Where the topics are, and how patient the clients are with them.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// The brokers to ask first, as `host:port`, separated by commas.
    pub brokers: String,
    /// What every topic's name on the broker begins with; usually nothing.
    pub topic_prefix: String,
    /// How many partitions a topic gets that is not there yet.
    pub partitions: i32,
    /// How many copies of it there are; -1 leaves it to the broker.
    pub replication: i32,
    /// How long a record is kept in the topics. They hold clear text: an erasure is complete there when this has passed.
    pub retention: Duration,
    /// The name under which relays shut each other out.
    pub transactional_id: String,
    /// How long a record may take to be delivered before its transaction is given up.
    pub message_timeout: Duration,
    /// How long the broker keeps a transaction open whose relay is silent.
    pub transaction_timeout: Duration,
    /// How long a broker may take to answer.
    pub request_timeout: Duration,
    /// How long a projector may be silent before its partitions go to others.
    pub session_timeout: Duration,
    /// How long a projector may wait for its partitions while the brokers answer, before it joins the group anew.
    pub join_within: Duration,
}

/// How long records are kept, unless told otherwise: 7 days.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long a segment is written to, at most: a day.
const SEGMENT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl KafkaSettings {
    /// The usual settings for brokers at an address.
    pub fn new(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            topic_prefix: String::new(),
            partitions: 3,
            replication: -1,
            retention: RETENTION,
            transactional_id: "socialhub-relay".to_owned(),
            message_timeout: Duration::from_secs(20),
            transaction_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            session_timeout: Duration::from_secs(6),
            join_within: Duration::from_secs(60),
        }
    }

    /// How long a segment of a topic is written to at most: a record goes with its segment, so that it is kept this much
    /// longer than `retention` in the worst case.
    pub fn segment(&self) -> Duration {
        self.retention.min(SEGMENT_MAX)
    }

    /// A topic's name on the broker.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// The topic behind a name on the broker.
    fn logical(&self, name: &str) -> Option<Topic> {
        let name = name.strip_prefix(&self.topic_prefix)?;
        Topic::ALL.into_iter().find(|topic| topic.name() == name)
    }

    fn client(&self, name: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", name)
            .set("socket.timeout.ms", millis(self.request_timeout))
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        config
    }
}

/// Looks whether a broker answers. Blocks for as long as `patience`.
///
/// # Errors
/// [`SourceError`].
pub fn look(settings: &KafkaSettings, patience: Duration) -> Result<(), SourceError> {
    let told = |error: KafkaError| SourceError(error.to_string());
    let consumer = looking(settings).map_err(told)?;
    // Of one topic, whether it is there or not: of all would be more than is wanted.
    let topic = settings.topic(Topic::ALL[0].name());
    let answer = consumer.fetch_metadata(Some(&topic), patience);
    answer.map(|_| ()).map_err(told)
}

fn looking(settings: &KafkaSettings) -> KafkaResult<BaseConsumer<Silent>> {
    settings
        .client("socialhub-look")
        .create_with_context(Silent)
}

/// Whether a broker answers that has these topics. Blocks for as long as a request may take for each.
fn topics_are_there(settings: &KafkaSettings, names: &[String]) -> bool {
    let Ok(consumer) = looking(settings) else {
        return false;
    };
    let mut names = names.iter();
    names.all(|name| partitions_of(settings, &consumer, name).is_some())
}

/// Into how many partitions a topic is divided, if the broker says. Blocks for as long as a request may take.
fn partitions_of<C: ConsumerContext>(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<C>,
    name: &str,
) -> Option<i32> {
    let metadata = consumer.fetch_metadata(Some(name), settings.request_timeout);
    let metadata = metadata.ok()?;
    let topic = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == name)?;
    i32::try_from(topic.partitions().len())
        .ok()
        .filter(|count| *count > 0)
}

/// Whoever looks is answered.
struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Silent {}

/// What librdkafka reports by itself, beside the answers to calls.
fn complain(error: &KafkaError, reason: &str) {
    if is_not_there(error) {
        tracing::warn!(
            reason,
            "topics are not there (yet): the relay makes them when it begins"
        );
        return;
    }
    tracing::warn!(%error, reason, "the brokers do not answer as they should: see KAFKA_BROKERS");
}

/// Whether it is only that a topic is not there (yet).
fn is_not_there(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)
    )
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// What a record's headers say, if the relay wrote them.
fn headers<H: Headers>(headers: Option<&H>) -> Result<WireHeaders, Foreign> {
    let pairs = headers.into_iter().flat_map(Headers::iter);
    WireHeaders::parse(pairs.filter_map(|header| Some((header.key, header.value?))))
}
