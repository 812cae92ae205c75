//! Relay and projectors on a real Kafka.

mod broker_away;
pub(crate) mod own_servers;
mod projector;
mod relay;
#[expect(dead_code, reason = "the test of the projections uses more of it")]
#[path = "../../projections/tests/partitions/store.rs"]
mod store;
pub(crate) mod topic;

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socialhub_domain::{Clock, StreamId, Timestamp, UserId, event::UserProfileUpdated};
use socialhub_event_log::{
    Append, EventLog, FrontierReader, MemoryEventLog, MemoryRelayStore, Metadata, NewEvent,
    Publisher, Relay, RelaySettings, RelayStore, RelayTask,
};
use socialhub_infra::kafka::{KafkaPublisher, KafkaSettings, KafkaSources};
use socialhub_projections::{
    Projection,
    runtime::{Generations, LeftOutTally, PartitionProjector, ProjectorTask},
};
use socialhub_tests::support::{eventually, servers};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::store::{Model, Toy};

/// Short, so that a takeover does not take long.
const LEASE: Duration = Duration::from_secs(2);

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(1)
    }
}

fn left_out() -> LeftOutTally {
    LeftOutTally::new("projection toy".to_owned(), Arc::new(FixedClock))
}

/// A log, and topics that no other test uses.
struct World {
    log: Arc<MemoryEventLog>,
    store: Arc<MemoryRelayStore>,
    settings: KafkaSettings,
    appended: AtomicUsize,
    /// What the projectors leave out.
    left_out: Arc<LeftOutTally>,
}

impl World {
    fn new() -> Self {
        Self::on(&servers::kafka_brokers())
    }

    fn on(brokers: &str) -> Self {
        let name = format!("test-{:016x}-", rand::random::<u64>());
        Self {
            log: Arc::new(MemoryEventLog::new()),
            store: Arc::new(MemoryRelayStore::new(LEASE)),
            settings: KafkaSettings {
                transactional_id: format!("{name}relay"),
                topic_prefix: name,
                replication: 1,
                session_timeout: Duration::from_secs(6),
                ..KafkaSettings::new(brokers)
            },
            appended: AtomicUsize::new(0),
            left_out: Arc::new(left_out()),
        }
    }

    fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log) as Arc<dyn EventLog>
    }

    fn publisher(&self) -> Arc<KafkaPublisher> {
        Arc::new(KafkaPublisher::new(self.settings.clone()).unwrap())
    }

    fn relay(&self, owner: &str) -> (RelayTask, CancellationToken) {
        self.relay_through(owner, self.publisher())
    }

    fn relay_through(
        &self,
        owner: &str,
        publisher: Arc<dyn Publisher>,
    ) -> (RelayTask, CancellationToken) {
        let settings = RelaySettings {
            lease: LEASE,
            renew_every: LEASE / 5,
            retry_every: Duration::from_millis(100),
            ..RelaySettings::default()
        };
        let store = Arc::clone(&self.store) as Arc<dyn RelayStore>;
        let relay = Relay::new(self.log(), store, publisher, owner.to_owned(), settings);
        let stop = CancellationToken::new();
        (relay.spawn(stop.clone()), stop)
    }

    fn projector(&self, model: &Arc<Model>, group: &str) -> (ProjectorTask, CancellationToken) {
        let group = format!("{}{group}", self.settings.topic_prefix);
        let projector = PartitionProjector::new(
            model.seen_by(Arc::default()) as Arc<dyn Generations<Toy>>,
            Arc::new(KafkaSources::new(
                self.settings.clone(),
                &group,
                Toy::TOPICS,
                Arc::clone(&self.left_out),
            )),
            self.log(),
            Arc::clone(&self.store) as Arc<dyn FrontierReader>,
            Arc::new(FixedClock),
        );
        let stop = CancellationToken::new();
        (projector.spawn(stop.clone()), stop)
    }

    /// Events of 50 people in turn.
    async fn append(&self, count: usize) {
        for _ in 0..count {
            let nth = self.appended.fetch_add(1, Ordering::Relaxed) + 1;
            let id = Uuid::from_u128(nth as u128);
            let event = UserProfileUpdated {
                user_id: UserId(Uuid::from_u128((nth % 50) as u128)),
                name: Some(format!("number {nth}")),
                bio: None,
                avatar: None,
                timestamp: Timestamp(nth as i64),
            };
            let append = Append {
                command_id: id,
                stream: StreamId::new("user", nth),
                expected_version: 0,
                events: vec![NewEvent {
                    event_id: id,
                    event: event.into(),
                    payload: None,
                }],
                metadata: Metadata {
                    occurred_at: Timestamp(nth as i64),
                    traceparent: Some(
                        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
                    ),
                    ..Metadata::default()
                },
                side: Vec::new(),
            };
            self.log.append(append).await.unwrap();
        }
    }

    /// Waits until everything is published and saved.
    async fn published(&self) {
        let head = self.log.head().await.unwrap();
        until("everything is published", || {
            self.store.saved().position == head
        })
        .await;
    }

    /// Waits until a model holds every event once, in the order of its sequence.
    async fn projected(&self, model: &Arc<Model>) {
        let mut wanted = std::collections::BTreeMap::<String, Vec<u64>>::new();
        for event in self.log.events() {
            if let Ok(decoded) = event.decode() {
                let key = decoded.key().to_string();
                wanted.entry(key).or_default().push(event.position);
            }
        }
        let count: usize = wanted.values().map(Vec::len).sum();
        until("everything is projected", || {
            model.rows().values().map(Vec::len).sum::<usize>() >= count
        })
        .await;
        assert_eq!(model.rows(), wanted);
    }
}

/// Waits for a condition that nobody has to be asked about.
async fn until(what: &str, condition: impl Fn() -> bool) {
    eventually(what, || ready(condition().then_some(()))).await;
}
