//! The relay against a broker in memory that fails at every step.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;
use socialhub_domain::{
    Event, StreamId, Timestamp, UserId,
    event::{NotificationAllRead, UserFollowed, UserProfileUpdated},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::{
    Append, Frontier, MemoryEventLog, MemoryRelayStore, Metadata, NewEvent, PartitionEnd, Position,
};

const LEASE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(600);

fn settings() -> RelaySettings {
    RelaySettings {
        batch: 5,
        ..RelaySettings::default()
    }
}

/// The topics, and who may write to them.
#[derive(Default)]
struct Broker {
    epoch: AtomicU64,
    partitions: Mutex<BTreeMap<(String, i32), Vec<Outgoing>>>,
    /// How many records of each partition were removed.
    removed: Mutex<BTreeMap<(String, i32), i64>>,
    faults: Mutex<Vec<Fault>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The batch is not there.
    Before,
    /// The batch is there, but nobody says so.
    After,
    /// No answer at all until the process ends.
    Hang,
    /// The same, but the batch is there.
    HangAfter,
}

impl Broker {
    fn counts() -> BTreeMap<String, i32> {
        [
            ("POST_TOPIC", 3),
            ("USER_TOPIC", 3),
            ("NOTIFICATION_TOPIC", 1),
        ]
        .map(|(topic, count)| (topic.to_owned(), count))
        .into()
    }

    fn producer(self: &Arc<Self>) -> Arc<Producer> {
        Arc::new(Producer {
            broker: Arc::clone(self),
            epoch: AtomicU64::new(0),
            asleep: Mutex::new(None),
        })
    }

    fn removed(&self, place: &(String, i32)) -> i64 {
        self.removed.lock().get(place).copied().unwrap_or(0)
    }

    fn records(&self) -> Vec<Outgoing> {
        self.partitions.lock().values().flatten().cloned().collect()
    }

    /// Every event once, in order in its partition, each knowing the one before it.
    #[track_caller]
    fn assert_holds_all_once(&self, log: &MemoryEventLog) {
        let mut positions = Vec::new();
        for records in self.partitions.lock().values() {
            let mut before = 0;
            for outgoing in records {
                let headers = &outgoing.record.headers;
                assert!(headers.position > before, "out of order");
                assert_eq!(headers.previous, before);
                before = headers.position;
                positions.push(before);
            }
        }
        positions.sort_unstable();
        let all: Vec<Position> = log.events().iter().map(|event| event.position).collect();
        assert_eq!(positions, all);
    }
}

/// One producer of the broker; the last to begin is the only one that may publish.
struct Producer {
    broker: Arc<Broker>,
    epoch: AtomicU64,
    /// Set: a batch waits here until it is woken, whatever becomes of its relay.
    asleep: Mutex<Option<Arc<Notify>>>,
}

impl Producer {
    fn write(
        broker: &Broker,
        epoch: u64,
        records: Vec<Outgoing>,
    ) -> Result<Vec<i64>, PublishError> {
        let mut partitions = broker.partitions.lock();
        if epoch != broker.epoch.load(Ordering::SeqCst) {
            return Err(PublishError::Fenced);
        }
        let mut offsets = Vec::new();
        for outgoing in records {
            let place = (outgoing.record.topic.name().to_owned(), outgoing.partition);
            let removed = broker.removed(&place);
            let partition = partitions.entry(place).or_default();
            offsets.push(removed + partition.len() as i64);
            partition.push(outgoing);
        }
        Ok(offsets)
    }
}

#[async_trait]
impl Publisher for Producer {
    async fn topics(&self) -> Result<BTreeMap<String, i32>, PublishError> {
        Ok(Broker::counts())
    }

    async fn begin(&self) -> Result<(), PublishError> {
        let epoch = self.broker.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        self.epoch.store(epoch, Ordering::SeqCst);
        Ok(())
    }

    async fn tails(
        &self,
        counts: &BTreeMap<String, i32>,
    ) -> Result<Vec<PartitionTail>, PublishError> {
        let partitions = self.broker.partitions.lock();
        let mut tails = Vec::new();
        for (topic, count) in counts {
            for partition in 0..*count {
                let place = (topic.clone(), partition);
                let removed = self.broker.removed(&place);
                let records = partitions.get(&place);
                let records = records.map_or(&[][..], Vec::as_slice);
                tails.push(PartitionTail {
                    topic: topic.clone(),
                    partition,
                    earliest: removed,
                    next: removed + records.len() as i64,
                    last: records.last().map(|last| TailRecord {
                        offset: removed + records.len() as i64 - 1,
                        position: last.record.headers.position,
                        event_id: last.record.headers.event_id,
                    }),
                });
            }
        }
        Ok(tails)
    }

    async fn clear(&self, _: &BTreeMap<String, i32>) -> Result<(), PublishError> {
        let mut removed = self.broker.removed.lock();
        for (place, records) in &mut *self.broker.partitions.lock() {
            *removed.entry(place.clone()).or_default() += records.len() as i64;
            records.clear();
        }
        Ok(())
    }

    async fn publish(&self, records: Vec<Outgoing>) -> Result<Vec<i64>, PublishError> {
        let (broker, epoch) = (Arc::clone(&self.broker), self.epoch.load(Ordering::SeqCst));
        let asleep = self.asleep.lock().take();
        if let Some(woken) = asleep {
            // Like a thread of the client: it goes on when the relay's own task is gone.
            let late = tokio::spawn(async move {
                woken.notified().await;
                let outcome = Self::write(&broker, epoch, records);
                woken.notify_one();
                outcome
            });
            return late.await.unwrap();
        }
        let fault = broker.faults.lock().pop();
        if fault == Some(Fault::Hang) {
            std::future::pending::<()>().await;
        }
        if fault == Some(Fault::Before) {
            return Err(PublishError::Failed("not written".to_owned()));
        }
        let offsets = Self::write(&broker, epoch, records)?;
        match fault {
            Some(Fault::After) => Err(PublishError::Failed("no answer".to_owned())),
            Some(Fault::HangAfter) => std::future::pending().await,
            _ => Ok(offsets),
        }
    }
}

struct World {
    log: Arc<MemoryEventLog>,
    store: Arc<MemoryRelayStore>,
    broker: Arc<Broker>,
}

impl World {
    fn new() -> Self {
        Self {
            log: Arc::new(MemoryEventLog::new()),
            store: Arc::new(MemoryRelayStore::new(LEASE)),
            broker: Arc::default(),
        }
    }

    fn relay(&self, owner: &str, producer: Arc<Producer>) -> (RelayTask, CancellationToken) {
        let stop = CancellationToken::new();
        let relay = Relay::new(
            Arc::clone(&self.log) as Arc<dyn EventLog>,
            Arc::clone(&self.store) as Arc<dyn RelayStore>,
            producer,
            owner.to_owned(),
            settings(),
        );
        (relay.spawn(stop.clone()), stop)
    }

    async fn append(&self, count: u64) {
        for _ in 0..count {
            let nth = self.log.events().len() as u128 + 1;
            let user = UserId(Uuid::from_u128(nth % 7));
            let timestamp = Timestamp(nth as i64);
            let event = match nth % 3 {
                0 => UserProfileUpdated {
                    user_id: user,
                    name: Some(format!("{nth}")),
                    bio: None,
                    avatar: None,
                    timestamp,
                }
                .into(),
                1 => NotificationAllRead {
                    user_id: user,
                    up_to: 1,
                    timestamp,
                }
                .into(),
                _ => Event::from(UserFollowed {
                    follower_id: user,
                    following_id: UserId(Uuid::from_u128(nth % 5)),
                    follower_username: "ann".to_owned(),
                    notify: false,
                    timestamp,
                }),
            };
            let append = Append {
                command_id: Uuid::from_u128(nth),
                stream: StreamId::new("test", nth),
                expected_version: 0,
                events: vec![NewEvent {
                    event_id: Uuid::from_u128(nth),
                    event,
                    payload: None,
                }],
                metadata: Metadata::default(),
                side: Vec::new(),
            };
            self.log.append(append).await.unwrap();
        }
    }

    /// Whoever led, and whatever they saved: the frontier is as if one relay had published each event by itself.
    fn assert_frontier_tells_of_every_event(&self) {
        let mut wanted = Frontier::default();
        for event in self.log.events() {
            let (topic, partition) = align::home_of(&event, &Broker::counts());
            let next = TailRecord {
                offset: 0,
                position: event.position,
                event_id: event.event_id,
            };
            wanted.advance(topic.name(), partition, &next);
        }
        let saved = self.store.saved();
        for end in &wanted.ends {
            let found = saved.end(&end.topic, end.partition).unwrap();
            let offset = end.offset;
            assert_eq!(
                PartitionEnd {
                    offset,
                    ..found.clone()
                },
                *end
            );
        }
        assert_eq!(saved.ends.len(), wanted.ends.len());
    }

    async fn published(&self) {
        let wanted = self.log.head().await.unwrap();
        self.until("everything is published", || {
            self.store.saved().position == wanted
        })
        .await;
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let look = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, look).await;
        assert!(came.is_ok(), "never came true: {what}");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_published_once_and_in_order() {
    let world = World::new();
    world.append(23).await;
    let (task, stop) = world.relay("a", world.broker.producer());
    world.published().await;
    world.append(11).await;
    world.published().await;
    assert_eq!(task.status.report().state, RelayState::Leading);
    world.broker.assert_holds_all_once(&world.log);
    stop.cancel();
    task.task.await.unwrap();
    assert!(
        world.store.holder().await.unwrap().is_none(),
        "the lease is given back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_late_is_shut_out() {
    let world = World::new();
    world.append(9).await;
    let (sleeper, woken) = (world.broker.producer(), Arc::new(Notify::new()));
    *sleeper.asleep.lock() = Some(Arc::clone(&woken));
    let (first, _) = world.relay("a", Arc::clone(&sleeper));
    world
        .until("the first one is about to publish", || {
            sleeper.asleep.lock().is_none()
        })
        .await;
    // As if the process were stopped: its task does nothing more, what it has handed over is still under way.
    first.task.abort();
    let (second, stop) = world.relay("b", world.broker.producer());
    world.published().await;
    woken.notify_one();
    tokio::task::yield_now().await;
    woken.notified().await;
    world.append(4).await;
    world.published().await;
    world.broker.assert_holds_all_once(&world.log);
    stop.cancel();
    second.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sleeper_that_shuts_out_the_leader_finds_that_it_does_not_lead() {
    let world = World::new();
    let (task, _stop) = world.relay("a", world.broker.producer());
    world.append(3).await;
    world.published().await;
    // Took its lease long ago, slept, and begins only now.
    world.broker.producer().begin().await.unwrap();
    world.append(20).await;
    world.published().await;
    world.broker.assert_holds_all_once(&world.log);
    assert_eq!(task.status.report().state, RelayState::Leading);
}

#[tokio::test(start_paused = true)]
async fn it_refuses_a_log_that_went_back_in_time() {
    let world = World::new();
    world.append(9).await;
    let (task, stop) = world.relay("a", world.broker.producer());
    world.published().await;
    stop.cancel();
    task.task.await.unwrap();
    let younger = World {
        log: Arc::new(MemoryEventLog::new()),
        store: Arc::clone(&world.store),
        broker: Arc::clone(&world.broker),
    };
    younger.append(4).await;
    let before = younger.broker.records().len();
    let (task, stop) = younger.relay("a", younger.broker.producer());
    let refused = || task.status.report().state == RelayState::Refusing;
    younger.until("it refuses", refused).await;
    let error = task.status.report().last_error.unwrap();
    assert!(error.contains("socialhub replay republish"), "{error}");
    assert_eq!(younger.broker.records().len(), before);
    // Rewound, it publishes what the log has.
    stop.cancel();
    task.task.await.unwrap();
    let log = Arc::clone(&younger.log) as Arc<dyn EventLog>;
    let producer = younger.broker.producer();
    let rewound = rewind(&log, &*younger.store, &*producer, "operator", 2);
    let rewound = rewound.await.unwrap();
    assert_eq!((rewound.frontier.position, rewound.emptied), (2, true));
    let (task, _stop) = younger.relay("a", younger.broker.producer());
    younger.published().await;
    let records = younger.broker.records();
    assert_eq!(records.len(), 2, "what the log does not hold is gone");
    assert_eq!(task.status.report().state, RelayState::Leading);
}

#[tokio::test(start_paused = true)]
async fn a_rewind_keeps_records_that_the_log_holds_and_refuses_beside_a_leader() {
    let world = World::new();
    world.append(9).await;
    let (task, stop) = world.relay("a", world.broker.producer());
    world.published().await;
    let log = Arc::clone(&world.log) as Arc<dyn EventLog>;
    let producer = world.broker.producer();
    let beside = rewind(&log, &*world.store, &*producer, "operator", 0).await;
    assert!(matches!(beside, Err(RewindError::Running(_))), "{beside:?}");
    let beyond = rewind(&log, &*world.store, &*producer, "operator", 10).await;
    assert!(
        matches!(beyond, Err(RewindError::Beyond { to: 10, head: 9 })),
        "{beyond:?}"
    );
    stop.cancel();
    task.task.await.unwrap();
    let rewound = rewind(&log, &*world.store, &*producer, "operator", 4).await;
    assert!(!rewound.unwrap().emptied);
    let (task, stop) = world.relay("a", world.broker.producer());
    world.published().await;
    assert_eq!(world.broker.records().len(), 9 + 5);
    stop.cancel();
    task.task.await.unwrap();
    let rewound = rewind(&log, &*world.store, &*producer, "operator", 0).await;
    assert!(rewound.unwrap().emptied);
    let (_task, _stop) = world.relay("a", world.broker.producer());
    world.published().await;
    world.broker.assert_holds_all_once(&world.log);
}

#[tokio::test(start_paused = true)]
async fn what_hides_the_end_of_a_partition_from_a_new_leader_makes_no_hole() {
    hide_ends(false).await;
    hide_ends(true).await;
}

async fn hide_ends(all: bool) {
    let world = World::new();
    world.append(9).await;
    let (first, _) = world.relay("a", world.broker.producer());
    world.published().await;
    world.broker.faults.lock().push(Fault::HangAfter);
    world.append(9).await;
    world
        .until("a batch is published that nobody saves", || {
            world.broker.records().len() > 9
        })
        .await;
    first.task.abort();
    let unsaved = world.broker.records().len() as Position;
    // Somebody repeats the first record of every partition, or of every one but that with the last event of the batch.
    for records in world.broker.partitions.lock().values_mut() {
        let last = records.last().unwrap().record.headers.position;
        if all || last != unsaved {
            records.push(records[0].clone());
        }
    }
    let (_second, _) = world.relay("b", world.broker.producer());
    world.published().await;
    world.assert_frontier_tells_of_every_event();
    let mut last = BTreeMap::new();
    let records = world.broker.records();
    for event in world.log.events() {
        let home = align::home_of(&event, &Broker::counts());
        let before = last.insert((home.0.name(), home.1), event.position);
        let mut copies = records.iter().map(|found| &found.record.headers);
        let copy = copies.find(|headers| headers.position == event.position);
        assert_eq!(copy.unwrap().previous, before.unwrap_or(0), "{event:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Broker(Fault),
    SaveFails,
    /// The relay is killed and another begins at once.
    Kill,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        Just(Fault::Before),
        Just(Fault::After),
        Just(Fault::Hang),
        Just(Fault::HangAfter)
    ];
    prop_oneof![
        4 => (1..12_u64).prop_map(Step::Append),
        3 => fault.prop_map(Step::Broker),
        2 => Just(Step::SaveFails),
        2 => Just(Step::Kill),
        1 => Just(Step::Settle),
    ]
}

async fn play(steps: Vec<Step>) {
    let world = World::new();
    let mut owner = 0;
    let (mut task, _) = world.relay("0", world.broker.producer());
    for step in steps {
        match step {
            Step::Append(count) => world.append(count).await,
            Step::Broker(fault) => world.broker.faults.lock().push(fault),
            Step::SaveFails => world.store.fail_next_save("no disk"),
            Step::Kill => {
                owner += 1;
                task.task.abort();
                task = world.relay(&owner.to_string(), world.broker.producer()).0;
            }
            Step::Settle => tokio::time::sleep(Duration::from_millis(30)).await,
        }
        tokio::task::yield_now().await;
    }
    // One that hangs on the broker for ever is killed by whoever watches over it.
    while world
        .broker
        .faults
        .lock()
        .iter()
        .any(|fault| matches!(fault, Fault::Hang | Fault::HangAfter))
    {
        world.append(1).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        owner += 1;
        task.task.abort();
        task = world.relay(&owner.to_string(), world.broker.producer()).0;
        tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    }
    owner += 1;
    task.task.abort();
    let (_task, _) = world.relay(&owner.to_string(), world.broker.producer());
    world.append(1).await;
    world.published().await;
    world.broker.assert_holds_all_once(&world.log);
    world.assert_frontier_tells_of_every_event();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_fault_doubles_loses_or_reorders(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(steps));
    }
}

/// How long the relay gathers in the end while so many events come each second.
fn settled_pause(events_a_second: f64) -> Duration {
    let gather = RelaySettings::default().gather;
    let next = |pause: Duration, _| gather.after((pause.as_secs_f64() * events_a_second) as usize);
    (0..20).fold(gather.least, next)
}

#[test]
fn it_gathers_long_only_while_much_is_written() {
    let gather = RelaySettings::default().gather;
    assert_eq!(settled_pause(0.0), gather.least);
    assert_eq!(settled_pause(150.0), gather.least);
    assert_eq!(settled_pause(500.0), gather.most);
    // And back again.
    assert_eq!(gather.after(15), Duration::from_millis(75));
    assert_eq!(gather.after(usize::MAX), gather.most);
}
