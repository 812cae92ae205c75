//! Reading topics as somebody else would.

use std::{collections::BTreeMap, process::Command};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
};
use serde_json::Value;
use socialhub_domain::topic::Topic;
use socialhub_event_log::{Position, WireHeaders};
use socialhub_infra::kafka::KafkaSettings;
use socialhub_tests::support::server::PATIENCE;

use super::World;

/// Divides every topic into so many partitions; `prefix` is what their names begin with.
pub async fn divide(brokers: &str, prefix: &str, partitions: usize) {
    let names = Topic::ALL.map(|topic| format!("{prefix}{}", topic.name()));
    let divisions = names
        .each_ref()
        .map(|name| NewPartitions::new(name, partitions));
    // It answers for as long as it lives.
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let divided = admin.create_partitions(&divisions, &AdminOptions::new());
    for outcome in divided.await.unwrap() {
        outcome.unwrap();
    }
}

/// The committed records of every partition, as their headers.
pub fn read(settings: &KafkaSettings) -> BTreeMap<(String, i32), Vec<WireHeaders>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("group.id", "test-reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "20")
        .create()
        .unwrap();
    let mut found = BTreeMap::new();
    for topic in Topic::ALL {
        let name = settings.topic(topic.name());
        for partition in 0..settings.partitions {
            let mut assignment = TopicPartitionList::new();
            assignment
                .add_partition_offset(&name, partition, Offset::Beginning)
                .unwrap();
            consumer.assign(&assignment).unwrap();
            let mut records = Vec::new();
            loop {
                let message = match consumer.poll(PATIENCE) {
                    Some(Ok(message)) => message,
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    // A broker that has just come back.
                    Some(Err(_)) => continue,
                    None => panic!("{name}/{partition} has no end"),
                };
                let pairs = message.headers().unwrap().iter();
                let pairs = pairs.map(|header| (header.key, header.value.unwrap()));
                records.extend(WireHeaders::parse(pairs));
            }
            found.insert((topic.name().to_owned(), partition), records);
        }
    }
    found
}

impl World {
    /// Every event once, in order in its partition, each knowing the one before it.
    #[track_caller]
    pub fn assert_published_once(&self) {
        let mut positions = Vec::new();
        for (place, records) in read(&self.settings) {
            let mut before: Position = 0;
            for headers in records {
                assert!(
                    headers.position > before,
                    "{place:?}: {headers:?} after {before}"
                );
                assert_eq!(headers.previous, before, "{place:?}: {headers:?}");
                before = headers.position;
                positions.push(before);
            }
        }
        positions.sort_unstable();
        let all: Vec<Position> = self
            .log
            .events()
            .iter()
            .map(|event| event.position)
            .collect();
        assert_eq!(positions, all);
    }
}

/// A topic as kcat shows it, one JSON object a record.
pub fn kcat(settings: &KafkaSettings, topic: Topic) -> Vec<Value> {
    let output = Command::new("kcat")
        .args(["-b", &settings.brokers, "-t", &settings.topic(topic.name())])
        .args([
            "-C",
            "-e",
            "-J",
            "-q",
            "-X",
            "isolation.level=read_committed",
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Writes a line to a partition, as whoever may write to the topic could.
pub fn produce(
    settings: &KafkaSettings,
    topic: Topic,
    partition: i32,
    key: &str,
    line: &str,
    headers: &[String],
) {
    let mut command = Command::new("kcat");
    command
        .args(["-b", &settings.brokers, "-t", &settings.topic(topic.name())])
        .args(["-P", "-p", &partition.to_string(), "-k", key]);
    for header in headers {
        command.args(["-H", header]);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), line).unwrap();
    let output = command.arg(file.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
