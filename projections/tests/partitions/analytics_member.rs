//! The analytics consumer as a member of its group: what it says of itself.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use socialhub_domain::IdGenerator;
use socialhub_projections::analytics::{
    AnalyticsConsumer, AnalyticsLag, AnalyticsStatus, AnalyticsTask, CommitLog, FormatError,
    Limits, MemoryObjects, Ports, Row, RowFormat,
};

use super::*;

/// Names that nobody else chooses; while it is told to, it takes down who asks for one.
#[derive(Default)]
struct Breaking {
    next: AtomicU64,
    breaks: AtomicBool,
}

impl IdGenerator for Breaking {
    fn next_id(&self) -> Uuid {
        assert!(!self.breaks.load(Ordering::Relaxed), "told to break");
        Uuid::from_u128(self.next.fetch_add(1, Ordering::Relaxed).into())
    }
}

/// Files that nobody reads.
struct Unread;

impl RowFormat for Unread {
    fn ending(&self) -> &'static str {
        "unread"
    }

    fn encode(&self, rows: &[Row]) -> Result<Bytes, FormatError> {
        Ok(rows.len().to_string().into())
    }

    fn decode(&self, _: Bytes) -> Result<Vec<Row>, FormatError> {
        Err(FormatError("nobody reads it".to_owned()))
    }
}

struct Group {
    world: World,
    member: Arc<Member>,
    ids: Arc<Breaking>,
    objects: Arc<MemoryObjects>,
    consumer: AnalyticsTask,
}

impl Group {
    fn new() -> Self {
        let world = World::new(0);
        let member = Member::new(&world.topics);
        let (ids, objects) = (Arc::<Breaking>::default(), Arc::<MemoryObjects>::default());
        let ports = Ports {
            objects: objects.clone(),
            format: Arc::new(Unread),
            clock: Arc::new(FixedClock),
            ids: ids.clone(),
        };
        let consumer = AnalyticsConsumer::new(
            ports,
            Limits::default(),
            Arc::new(Joins(Arc::clone(&member))),
            world.log(),
            world.frontier(),
        );
        Self {
            consumer: consumer.spawn(CancellationToken::new()),
            world,
            member,
            ids,
            objects,
        }
    }

    fn status(&self) -> &AnalyticsStatus {
        &self.consumer.status
    }

    async fn joins(&self) {
        while !self.member.is_idle() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn publish(&self, count: usize) {
        self.world.append(count).await;
        self.world.topics.publish(count).await;
    }

    /// How many rows are in files, when it is as many as wanted.
    async fn written(&self, wanted: u64) -> u64 {
        let all = async {
            loop {
                let mut rows = 0;
                for source in partitions() {
                    let state = CommitLog::new(source).load(&*self.objects).await.unwrap();
                    rows += state.files.values().map(|file| file.rows).sum::<u64>();
                }
                if rows >= wanted {
                    break rows;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(PATIENCE, all).await.unwrap()
    }

    /// Waits until something is wrong with it.
    async fn trouble(&self) -> String {
        let trouble = async {
            loop {
                if let Some(trouble) = self.status().trouble() {
                    break trouble;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(PATIENCE, trouble).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_not_been_dealt_partitions_yet_does_not_say_that_everything_is_written() {
    let group = Group::new();
    group.publish(20).await;
    group.joins().await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(group.status().trouble().as_deref(), Some("is starting"));
    assert_eq!(group.status().lag(), AnalyticsLag::default());
    // Others have them all.
    group.member.assign(Vec::new()).await;
    assert_eq!(group.status().trouble(), None);
    group.member.assign(partitions().collect()).await;
    group.member.deliver(usize::MAX);
    assert_eq!(group.written(20).await, 20);
    assert!(group.status().rate() > 0.0);
    sleep(Duration::from_secs(2)).await;
    let lag = group.status().lag();
    assert_eq!((lag.position, lag.events), (20, 0));
    // They become somebody else's: what comes then is not this one's to write.
    group.member.revoke().await;
    group.member.assign(Vec::new()).await;
    group.publish(5).await;
    sleep(Duration::from_secs(2)).await;
    let lag = group.status().lag();
    assert_eq!((lag.position, lag.events), (25, 0));
    sleep(Duration::from_secs(900)).await;
    assert!(group.status().rate() < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_task_breaks_is_told_and_read_again() {
    let group = Group::new();
    group.joins().await;
    group.member.assign(partitions().collect()).await;
    group.publish(20).await;
    group.ids.breaks.store(true, Ordering::Relaxed);
    group.member.deliver(usize::MAX);
    let trouble = group.trouble().await;
    assert!(trouble.contains("was not followed"), "{trouble}");
    assert_eq!(group.written(0).await, 0);

    group.ids.breaks.store(false, Ordering::Relaxed);
    group.joins().await;
    assert!(
        group.status().trouble().is_some(),
        "nothing is dealt out yet"
    );
    group.member.assign(partitions().collect()).await;
    group.member.deliver(usize::MAX);
    assert_eq!(group.written(20).await, 20);
    assert_eq!(group.status().trouble(), None);
}
