//! What the relay promises, seen on the topics.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
};
use serde_json::{Value, json};
use socialhub_domain::topic::Topic;
use socialhub_event_log::{Outgoing, PartitionTail, PublishError, Publisher, RelayState, rewind};
use socialhub_infra::kafka::{KafkaPublisher, KafkaSettings};
use tokio::sync::{Notify, oneshot};

use super::{World, topic, until};

#[tokio::test(flavor = "multi_thread")]
async fn kcat_sees_the_seeds_json() {
    let world = World::new();
    world.append(7).await;
    let (_task, stop) = world.relay("a");
    world.published().await;
    stop.cancel();
    let mut records = topic::kcat(&world.settings, Topic::User);
    assert_eq!(records.len(), 7);
    records.sort_by_key(|record| record["payload"].as_str().map(str::to_owned));
    let record = &records[0];
    assert_eq!(record["key"], "00000000-0000-0000-0000-000000000001");
    let value: Value = serde_json::from_str(record["payload"].as_str().unwrap()).unwrap();
    assert_eq!(
        value,
        json!({
            "eventType": "user.profile_updated",
            "data": {
                "userId": "00000000-0000-0000-0000-000000000001",
                "name": "number 1",
                "timestamp": 1,
            },
        })
    );
    let pairs: Vec<&str> = record["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    let headers: BTreeMap<&str, &str> = pairs.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    let wanted = BTreeMap::from([
        ("ce_specversion", "1.0"),
        ("ce_id", "00000000-0000-0000-0000-000000000001"),
        ("ce_type", "user.profile_updated"),
        ("ce_source", "/socialhub"),
        ("ce_time", "1970-01-01T00:00:00.001Z"),
        ("content-type", "application/json"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("socialhub-position", "1"),
        ("socialhub-prev", "0"),
        ("socialhub-version", "1"),
    ]);
    assert_eq!(headers, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_between_commit_and_save_doubles_nothing() {
    let world = World::new();
    world.append(20).await;
    let (mut leader, _) = world.relay("a");
    world.published().await;
    for owner in ["b", "c", "d"] {
        let saved = world.store.saved();
        for _ in 0..10_000 {
            world.store.fail_next_save("no disk");
        }
        world.append(30).await;
        let (settings, before) = (world.settings.clone(), saved.position);
        until("the batch is on the topics", move || {
            let all = topic::read(&settings);
            let last = all.values().flatten().map(|headers| headers.position).max();
            last > Some(before)
        })
        .await;
        assert_eq!(world.store.saved(), saved, "published but not saved");
        leader.task.abort();
        world.store.heal();
        // It waits until the lease has run out.
        leader = world.relay(owner).0;
        world.append(5).await;
        world.published().await;
        world.assert_published_once();
    }
}

type Outcome = Result<Vec<i64>, PublishError>;

/// A publisher whose thread goes on when its relay has long been given up.
struct Sleeper {
    inner: Arc<KafkaPublisher>,
    asleep: Mutex<Option<(Arc<Notify>, oneshot::Sender<Outcome>)>>,
}

#[async_trait]
impl Publisher for Sleeper {
    async fn topics(&self) -> Result<BTreeMap<String, i32>, PublishError> {
        self.inner.topics().await
    }

    async fn begin(&self) -> Result<(), PublishError> {
        self.inner.begin().await
    }

    async fn tails(
        &self,
        partitions: &BTreeMap<String, i32>,
    ) -> Result<Vec<PartitionTail>, PublishError> {
        self.inner.tails(partitions).await
    }

    async fn clear(&self, partitions: &BTreeMap<String, i32>) -> Result<(), PublishError> {
        self.inner.clear(partitions).await
    }

    async fn publish(&self, records: Vec<Outgoing>) -> Result<Vec<i64>, PublishError> {
        let asleep = self.asleep.lock().take();
        let Some((woken, outcome)) = asleep else {
            return self.inner.publish(records).await;
        };
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            woken.notified().await;
            let _ = outcome.send(inner.publish(records).await);
        });
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hung_is_shut_out_when_it_wakes() {
    let world = World::new();
    let woken = Arc::new(Notify::new());
    let (sender, outcome) = oneshot::channel();
    let sleeper = Arc::new(Sleeper {
        inner: world.publisher(),
        asleep: Mutex::new(Some((Arc::clone(&woken), sender))),
    });
    world.append(40).await;
    let (hung, _) = world.relay_through("a", Arc::clone(&sleeper) as Arc<dyn Publisher>);
    until("the first is about to publish", || {
        sleeper.asleep.lock().is_none()
    })
    .await;
    // As if it were stopped: it renews nothing, and what it was about to do is still to come.
    hung.task.abort();
    let began = tokio::time::Instant::now();
    let (task, _stop) = world.relay("b");
    world.published().await;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "a takeover takes seconds"
    );
    woken.notify_one();
    let outcome = outcome.await.unwrap();
    assert!(matches!(outcome, Err(PublishError::Fenced)), "{outcome:?}");
    world.append(10).await;
    world.published().await;
    world.assert_published_once();
    assert_eq!(task.status.report().state, RelayState::Leading);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_partition_count_is_refused_and_a_rewind_accepts_it() {
    let world = World::new();
    world.append(10).await;
    let (task, stop) = world.relay("a");
    world.published().await;
    stop.cancel();
    task.task.await.unwrap();
    let mut saved = world.store.saved();
    saved.partitions.values_mut().for_each(|count| *count += 1);
    world.store.restore(saved);
    let (task, stop) = world.relay("a");
    until("it refuses", || {
        task.status.report().state == RelayState::Refusing
    })
    .await;
    let error = task.status.report().last_error.unwrap();
    assert!(error.contains("has 3 partitions but had 4"), "{error}");
    stop.cancel();
    task.task.await.unwrap();
    let publisher = world.publisher();
    let rewound = rewind(&world.log(), &*world.store, &*publisher, "operator", 4)
        .await
        .unwrap();
    assert_eq!((rewound.frontier.position, rewound.emptied), (4, true));
    let (_task, _stop) = world.relay("a");
    world.published().await;
    let records = topic::read(&world.settings);
    assert_eq!(records.values().map(Vec::len).sum::<usize>(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_topics_under_the_same_name_are_refused() {
    let world = World::new();
    world.append(10).await;
    let (task, stop) = world.relay("a");
    world.published().await;
    stop.cancel();
    task.task.await.unwrap();
    // The same names elsewhere, empty.
    let elsewhere = World {
        settings: KafkaSettings {
            topic_prefix: format!("{}other-", world.settings.topic_prefix),
            ..world.settings.clone()
        },
        ..world
    };
    let (task, _stop) = elsewhere.relay("a");
    until("it refuses", || {
        task.status.report().state == RelayState::Refusing
    })
    .await;
    let error = task.status.report().last_error.unwrap();
    assert!(error.contains("socialhub replay republish"), "{error}");
}

/// Topics hold clear text: how long they do is part of the promise to those who are erased.
#[tokio::test(flavor = "multi_thread")]
async fn topics_keep_records_only_as_long_as_they_are_told() {
    let mut world = World::new();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &world.settings.brokers)
        .create()
        .unwrap();
    let names = Topic::ALL.map(|topic| world.settings.topic(topic.name()));
    // One is there already, made by somebody who had something else in mind.
    let made = NewTopic::new(&names[0], 3, TopicReplication::Fixed(1))
        .set("retention.ms", "-1")
        .set("max.message.bytes", "2000000");
    let made = admin.create_topics([&made], &AdminOptions::new()).await;
    assert!(made.unwrap()[0].is_ok());
    // The others are there with what was asked for before.
    world.publisher().topics().await.unwrap();
    world.settings.retention = Duration::from_secs(2);
    world.publisher().topics().await.unwrap();
    let asked: Vec<_> = names
        .iter()
        .map(|name| ResourceSpecifier::Topic(name))
        .collect();
    let told = admin
        .describe_configs(&asked, &AdminOptions::new())
        .await
        .unwrap();
    assert_eq!(told.len(), names.len());
    let told: Vec<_> = told.into_iter().map(Result::unwrap).collect();
    let by_hand = told[0].get("max.message.bytes").unwrap();
    assert_eq!(by_hand.value.as_deref(), Some("2000000"), "it stays");
    for topic in told {
        for setting in ["retention.ms", "segment.ms"] {
            let value = topic.get(setting).and_then(|entry| entry.value.as_deref());
            assert_eq!(value, Some("2000"), "{setting}");
        }
    }
    let usual = KafkaSettings::new(&world.settings.brokers);
    assert_eq!(usual.retention, Duration::from_secs(7 * 86_400));
    assert_eq!(usual.segment(), Duration::from_secs(86_400));
}
