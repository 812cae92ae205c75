//! Topics and a consumer group in memory, under the test's thumb.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::topic::Topic;
use socialhub_event_log::{
    EventLog, Frontier, MemoryEventLog, MemoryRelayStore, TailRecord, WireRecord,
};
use socialhub_projections::{
    GenerationId, Source,
    runtime::{
        Answer, Delivered, Delivery, PartitionedSource, Permit, Records, SourceError, Sources,
        Start,
    },
};
use tokio::{sync::mpsc, time::sleep};

pub const PARTITIONS: i32 = 4;

/// One topic, its partitions, and the relay that fills it.
pub struct Topics {
    pub log: Arc<MemoryEventLog>,
    pub relay: Arc<MemoryRelayStore>,
    /// Each record with its offset; the first ones may be gone.
    records: Mutex<BTreeMap<Source, Vec<Delivered>>>,
}

pub fn partitions() -> impl Iterator<Item = Source> {
    (0..PARTITIONS).map(|partition| Source::partition(Topic::User.name(), partition))
}

impl Topics {
    pub fn new(log: Arc<MemoryEventLog>) -> Arc<Self> {
        let relay = Arc::new(MemoryRelayStore::new(Duration::from_secs(5)));
        let count = (Topic::User.name().to_owned(), PARTITIONS);
        relay.restore(Frontier {
            partitions: BTreeMap::from([count]),
            ..Frontier::default()
        });
        Arc::new(Self {
            log,
            relay,
            records: Mutex::default(),
        })
    }

    /// Publishes the next events, at most so many.
    pub async fn publish(&self, limit: usize) {
        let mut frontier = self.relay.saved();
        let events = self.log.read_all(frontier.position, limit).await.unwrap();
        for event in events {
            let mut record = WireRecord::of(&event, 0).unwrap();
            let source = Source::partition(record.topic.name(), record.partition(PARTITIONS));
            let known = frontier.end(&source.name, source.partition);
            let offset = known.map_or(0, |end| end.offset + 2);
            record.headers.previous = known.map_or(0, |end| end.position);
            let end = TailRecord {
                offset,
                position: event.position,
                event_id: event.event_id,
            };
            frontier.advance(&source.name, source.partition, &end);
            let delivered = Delivered {
                record,
                next_offset: offset + 1,
            };
            self.records
                .lock()
                .entry(source)
                .or_default()
                .push(delivered);
        }
        self.relay.restore(frontier);
    }

    /// Removes old records.
    pub fn truncate(&self, source: &Source, count: usize) {
        if let Some(records) = self.records.lock().get_mut(source) {
            records.drain(..count.min(records.len()));
        }
    }

    fn after(&self, source: &Source, offset: i64, limit: usize) -> Vec<Delivered> {
        let records = self.records.lock();
        let records = records.get(source).map_or(&[][..], Vec::as_slice);
        let rest = records.iter().filter(|found| found.next_offset > offset);
        rest.take(limit).cloned().collect()
    }
}

/// One member of the group. The test says what it gets.
pub struct Member {
    topics: Arc<Topics>,
    /// To the source that is open now.
    open: Mutex<Option<mpsc::UnboundedSender<Delivery>>>,
    /// The partitions it believes to have, and the offset that comes next.
    cursors: Mutex<BTreeMap<Source, i64>>,
}

type Starts = Receiver<Vec<(Source, Start)>>;

impl Member {
    pub fn new(topics: &Arc<Topics>) -> Arc<Self> {
        Arc::new(Self {
            topics: Arc::clone(topics),
            open: Mutex::default(),
            cursors: Mutex::default(),
        })
    }

    fn send(&self, delivery: Delivery) {
        if let Some(open) = &*self.open.lock() {
            let _ = open.send(delivery);
        }
    }

    /// Whether a source is open that has not been given partitions.
    pub fn is_idle(&self) -> bool {
        self.open.lock().is_some() && self.cursors.lock().is_empty()
    }

    /// Takes everything away and waits until it is let go of.
    pub async fn revoke(&self) {
        let sources: Vec<Source> = std::mem::take(&mut *self.cursors.lock())
            .into_keys()
            .collect();
        let (sender, answer) = sync_channel(1);
        self.send(Delivery::Revoked(sources, Answer::new(sender)));
        for _ in 0..10_000 {
            if !matches!(answer.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Gives it partitions and waits until it says from where it reads them.
    pub async fn assign(&self, sources: Vec<Source>) {
        let (sender, answer): (_, Starts) = sync_channel(1);
        self.send(Delivery::Assigned(sources, Answer::new(sender)));
        for _ in 0..10_000 {
            match answer.try_recv() {
                Ok(starts) => {
                    let starts = starts.into_iter().map(|(source, start)| match start {
                        Start::Beginning => (source, 0),
                        Start::At(offset) => (source, offset),
                    });
                    self.cursors.lock().extend(starts);
                    return;
                }
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                Err(std::sync::mpsc::TryRecvError::Empty) => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Brings the next records of each of its partitions.
    pub fn deliver(&self, limit: usize) {
        let mut all = Vec::new();
        for (source, cursor) in &mut *self.cursors.lock() {
            let delivered = self.topics.after(source, *cursor, limit);
            if let Some(last) = delivered.last() {
                *cursor = last.next_offset;
                all.push(Records {
                    source: source.clone(),
                    delivered,
                    permit: Permit::default(),
                });
            }
        }
        for records in all {
            self.send(Delivery::Records(records));
        }
    }

    /// Moves the next offset of each partition: back to bring records again, on to lose some.
    pub fn shift(&self, by: i64) {
        for cursor in self.cursors.lock().values_mut() {
            *cursor = (*cursor + by).max(0);
        }
    }
}

struct MemorySource(mpsc::UnboundedReceiver<Delivery>);

#[async_trait]
impl PartitionedSource for MemorySource {
    async fn next(&mut self) -> Result<Delivery, SourceError> {
        self.0
            .recv()
            .await
            .ok_or_else(|| SourceError("closed".to_owned()))
    }

    fn commit(&mut self, _: &Source, _: i64) {}

    async fn close(self: Box<Self>) {}
}

/// The sources of one member.
pub struct Joins(pub Arc<Member>);

impl Sources for Joins {
    fn open(&self, _: GenerationId) -> Result<Box<dyn PartitionedSource>, SourceError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.0.open.lock() = Some(sender);
        // A new member of a group has nothing.
        self.0.cursors.lock().clear();
        Ok(Box::new(MemorySource(receiver)))
    }
}
