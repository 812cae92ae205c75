//! The example consumers, on a real broker: what the relay writes, and what goes wrong on a topic.

use std::{collections::HashMap, path::Path};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
};
use serde_json::{Value, json};
use socialhub_domain::{StreamId, Timestamp, Topic, schema};
use socialhub_event_log::{Metadata, RecordedEvent, WireRecord};
use socialhub_tests::support::{Profile, Server, server::PATIENCE, servers::kafka_brokers};
use uuid::Uuid;

use super::{assert_installed, files, folder};

const PARTITIONS: i32 = 2;

/// Topics of a test's own, written to as the relay does.
struct Topics {
    prefix: String,
    producer: FutureProducer,
    position: u64,
    /// The last position of each partition.
    ends: HashMap<(Topic, i32), u64>,
}

impl Topics {
    async fn make() -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka_brokers());
        let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
        let prefix = format!("contract-{}", Uuid::from_u128(rand::random()));
        config.set("transactional.id", &prefix);
        let topics = Self {
            prefix,
            producer: config.create().unwrap(),
            position: 0,
            ends: HashMap::new(),
        };
        let names = Topic::ALL.map(|topic| topics.name(topic));
        let new = names
            .each_ref()
            .map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)));
        for made in admin
            .create_topics(&new, &AdminOptions::new())
            .await
            .unwrap()
        {
            made.unwrap();
        }
        topics.producer.init_transactions(PATIENCE).unwrap();
        topics.producer.begin_transaction().unwrap();
        topics
    }

    /// What was sent may be read now.
    fn commit(&self) {
        self.producer.commit_transaction(PATIENCE).unwrap();
        self.producer.begin_transaction().unwrap();
    }

    /// What was sent may never be read.
    fn abort(&self) {
        self.producer.abort_transaction(PATIENCE).unwrap();
        self.producer.begin_transaction().unwrap();
    }

    fn name(&self, topic: Topic) -> String {
        format!("{}-{}", self.prefix, topic.name())
    }

    fn names(&self) -> String {
        Topic::ALL.map(|topic| self.name(topic)).join(",")
    }

    /// The record of the next event of the log; it is nowhere yet.
    fn event(&mut self, event_type: &str, version: u32, payload: &str) -> WireRecord {
        self.position += 1;
        let recorded = RecordedEvent {
            position: self.position,
            event_id: Uuid::from_u128(self.position.into()),
            stream: StreamId::new("post", "1"),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version: version,
            payload: payload.to_owned(),
            metadata: Metadata {
                occurred_at: Timestamp(1_700_000_000_000),
                ..Metadata::default()
            },
            damage: None,
        };
        WireRecord::of(&recorded, 0).unwrap()
    }

    /// Makes a record the next of a partition.
    fn place(&mut self, record: &mut WireRecord, partition: i32) {
        let end = self.ends.entry((record.topic, partition)).or_default();
        record.headers.previous = *end;
        *end = record.headers.position;
    }

    async fn publish(&mut self, record: &mut WireRecord, partition: i32) {
        self.place(record, partition);
        self.send(record, partition).await;
    }

    async fn send(&self, record: &WireRecord, partition: i32) {
        let pairs = record.headers.pairs();
        let headers = pairs
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        self.send_raw(record.topic, partition, &record.key, &record.value, headers)
            .await;
    }

    async fn send_raw(
        &self,
        topic: Topic,
        partition: i32,
        key: &str,
        value: &str,
        headers: OwnedHeaders,
    ) {
        let name = self.name(topic);
        let record = FutureRecord::to(&name)
            .partition(partition)
            .key(key)
            .payload(value)
            .headers(headers);
        self.producer.send(record, PATIENCE).await.unwrap();
    }
}

/// What a consumer is to say of a record.
fn line(record: &WireRecord) -> Value {
    let value: Value = serde_json::from_str(&record.value).unwrap();
    json!({
        "position": record.headers.position,
        "id": record.headers.event_id,
        "type": record.headers.event_type,
        "version": record.headers.version,
        "key": record.key,
        "data": value["data"],
    })
}

/// The two programs: name, folder, program and script.
fn programs() -> [(&'static str, tokio::process::Command); 2] {
    let (python, javascript) = (
        folder("examples/consumers/python"),
        folder("examples/consumers/javascript"),
    );
    let venv = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt";
    assert_installed(&python, ".venv/bin/python", venv);
    assert_installed(&javascript, "node_modules/kafkajs", "npm ci");
    let mut snake = tokio::process::Command::new(python.join(".venv/bin/python"));
    snake.arg(python.join("consume.py"));
    let mut node = tokio::process::Command::new("node");
    node.arg(javascript.join("consume.js"));
    node.env("KAFKAJS_NO_PARTITIONER_WARNING", "1");
    [("python", snake), ("javascript", node)]
}

/// Runs a consumer until it has said so much; what it said, by position, and what it complained of.
async fn consume(
    (name, mut program): (&str, tokio::process::Command),
    topics: &str,
    states: &Path,
    count: usize,
) -> (Vec<Value>, String) {
    program
        .args(["--brokers", &kafka_brokers(), "--topics", topics])
        .args(["--count", &count.to_string()])
        .arg("--state")
        .arg(states.join(name))
        .kill_on_drop(true);
    if name == "javascript" {
        program.args(["--group", topics]);
    }
    let output = tokio::time::timeout(PATIENCE, program.output())
        .await
        .unwrap_or_else(|_| panic!("{name} did not say {count} lines"))
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {complaints}");
    let said = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.sort_by_key(|line| line["position"].as_u64());
    (lines, complaints)
}

/// Every event in every version, as old programs and today's publish them.
async fn publish_all(topics: &mut Topics) -> Vec<WireRecord> {
    let fixtures = files(&folder("domain/fixtures"));
    let mut published = Vec::new();
    for one in schema::all().unwrap() {
        let fixture = &fixtures[&one.file_name()];
        let mut record = topics.event(one.event_type, one.version, fixture);
        if !one.current {
            let data: Value = serde_json::from_str(fixture).unwrap();
            record.value = json!({ "eventType": one.event_type, "data": data }).to_string();
            record.headers.version = one.version;
        }
        let partition = record.partition(PARTITIONS);
        topics.publish(&mut record, partition).await;
        published.push(record);
    }
    published
}

/// Everything that is not to be said, in one partition: a repeat, what the publisher could not read, what breaks its
/// schema, what nobody knows, and what is not ours.
async fn publish_bad(topics: &mut Topics, partition: i32, repeat: &WireRecord) {
    topics.send(repeat, partition).await;
    let unreadable = topics.event("post.created", 9, "{}");
    let mut malformed = topics.event("post.deleted", 1, "{}");
    malformed.headers.undecodable = None;
    malformed.value =
        r#"{"eventType":"post.deleted","data":{"postId":"nobody","timestamp":1}}"#.to_owned();
    let mut unknown = topics.event("post.eaten", 1, "{}");
    unknown.headers.undecodable = None;
    for mut record in [unreadable, malformed, unknown] {
        topics.publish(&mut record, partition).await;
    }
    topics
        .send_raw(repeat.topic, partition, "x", "hello", OwnedHeaders::new())
        .await;
}

#[tokio::test]
async fn the_example_consumers_read_the_topics_by_the_contract_alone() {
    let mut topics = Topics::make().await;
    let states = tempfile::tempdir().unwrap();
    let mut wanted = publish_all(&mut topics).await;
    topics.commit();
    // The last of the posts' events closes its partition, so that all that is bad is met before the end.
    let liked = files(&folder("domain/fixtures"))["post.liked.v1.json"].clone();
    let repeat = wanted
        .iter()
        .rfind(|record| record.headers.event_type == "post.liked");
    let repeat = repeat.unwrap().clone();
    let partition = repeat.partition(PARTITIONS);
    // The relay was cut off in the middle of a batch.
    let mut ghost = repeat.clone();
    ghost.headers.position += 1_000;
    ghost.headers.event_id = Uuid::from_u128(1_000);
    topics.send(&ghost, partition).await;
    topics.abort();
    publish_bad(&mut topics, partition, &repeat).await;
    let mut closing = topics.event("post.liked", 1, &liked);
    topics.publish(&mut closing, partition).await;
    topics.commit();
    wanted.push(closing);
    let wanted: Vec<_> = wanted.iter().map(line).collect();
    for program in programs() {
        let name = program.0;
        let (said, complaints) =
            consume(program, &topics.names(), states.path(), wanted.len()).await;
        assert_eq!(said, wanted, "{name}: {complaints}");
        for complaint in [
            "the publisher could not read it: `post.created` has no version 9",
            "post.deleted version 1",
            "no schema of post.eaten version 1",
            "not a record of SocialHub",
        ] {
            assert!(
                complaints.contains(complaint),
                "{name}: {complaint}: {complaints}"
            );
        }
    }

    // They go on from where they were. What comes again is not said again: neither an old record, as after `replay
    // republish`, nor an event that changed its partition. A version beyond the files is read by the newest they have.
    topics.send(&repeat, partition).await;
    topics.send(&repeat, 1 - partition).await;
    let mut newer = topics.event("post.liked", 1, &liked);
    newer.headers.version = 7;
    topics.publish(&mut newer, partition).await;
    let mut lost = topics.event("post.liked", 1, &liked);
    topics.place(&mut lost, partition);
    let mut last = topics.event("post.liked", 1, &liked);
    topics.publish(&mut last, partition).await;
    // The last of its partition, too, so that the repeat before it is met.
    let mut elsewhere = topics.event("post.liked", 1, &liked);
    topics.publish(&mut elsewhere, 1 - partition).await;
    topics.commit();
    let gap = format!(
        "between positions {} and {} are no longer on the topic",
        newer.headers.position, last.headers.position
    );
    let wanted = [&newer, &last, &elsewhere].map(line);
    for program in programs() {
        let name = program.0;
        let (said, complaints) =
            consume(program, &topics.names(), states.path(), wanted.len()).await;
        assert_eq!(said, wanted, "{name}: {complaints}");
        assert!(complaints.contains(&gap), "{name}: {complaints}");
    }
}

/// An event of `replay tail` as a consumer is to say it, but for its key.
fn logged(event: &Value) -> Value {
    json!({
        "position": event["position"],
        "id": event["eventId"],
        "type": event["eventType"],
        "version": event["eventVersion"],
        "data": event["data"],
    })
}

#[tokio::test]
async fn the_example_consumers_read_what_a_relay_writes() {
    let environment = Profile::Distributed.environment().await;
    let server = Server::start_in(&["--rate-limits", "off"], environment).await;
    let (me, fan) = (
        server.client().sign_up("read").await,
        server.client().sign_up("reader").await,
    );
    let post = me
        .write_post("for whoever reads the topics", "public")
        .await;
    let comment = json!({ "comment": "read" });
    for (path, body) in [
        (format!("/users/follow/{}", me.id), Value::Null),
        (format!("/posts/{post}/like"), Value::Null),
        (format!("/posts/{post}/comment"), comment),
    ] {
        let answer = fan.post(&path, body).await;
        assert!(answer.status < 300, "{path}: {answer:?}");
    }
    server.caught_up().await;
    let tail = server.succeed(&["replay", "tail", "--json"]).await;
    let events = tail
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let wanted: Vec<Value> = events.map(|event| logged(&event)).collect();
    let (namespace, states) = (server.setting("NAMESPACE"), tempfile::tempdir().unwrap());
    let topics = Topic::ALL.map(|topic| format!("{namespace}.{}", topic.name()));
    let topics = topics.join(",");
    for program in programs() {
        let name = program.0;
        let consumed = consume(program, &topics, states.path(), wanted.len());
        let (mut said, complaints) = consumed.await;
        for line in &mut said {
            let key = line.as_object_mut().unwrap().remove("key");
            assert!(key.is_some_and(|key| key.is_string()), "{name}: {line}");
        }
        assert_eq!(said, wanted, "{name}: {complaints}");
        assert_eq!(complaints, "", "{name}");
    }
}
