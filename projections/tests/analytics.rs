//! Each event in the files once, whatever dies at whatever moment and whoever else writes.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, with its place"
)]

use std::{
    collections::BTreeMap,
    future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use socialhub_domain::{Clock, IdGenerator, Timestamp};
use socialhub_projections::{
    Source,
    analytics::{
        CommitLog, Created, FormatError, Limits, MemoryObjects, Object, Objects, ObjectsError,
        PartitionState, PartitionWriter, Ports, Row, RowFormat, WriteError,
        commit::{Commit, STATE_EVERY},
    },
};
use tokio::{select, sync::Notify, task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A moment long after everything in [`MemoryObjects`] was written.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// Between two looks of a reader; by the clock, so that writers who wait for it come to their turn.
const LOOK: Duration = Duration::from_millis(1);

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        NOW
    }
}

#[derive(Default)]
struct Counting(AtomicU64);

impl IdGenerator for Counting {
    fn next_id(&self) -> Uuid {
        Uuid::from_u128(self.0.fetch_add(1, Ordering::Relaxed).into())
    }
}

/// Keeps the rows and hands out the number under which they are kept.
#[derive(Default)]
struct Kept(Mutex<Vec<Vec<Row>>>);

impl RowFormat for Kept {
    fn ending(&self) -> &'static str {
        "kept"
    }

    fn encode(&self, rows: &[Row]) -> Result<Bytes, FormatError> {
        let mut kept = self.0.lock();
        kept.push(rows.to_vec());
        Ok((kept.len() - 1).to_string().into())
    }

    fn decode(&self, bytes: Bytes) -> Result<Vec<Row>, FormatError> {
        let number: usize = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
        Ok(self.0.lock()[number].clone())
    }
}

/// Objects whose calls can be held up, answered with an error, or never answered.
struct Troubled {
    inner: Arc<MemoryObjects>,
    trouble: Mutex<Trouble>,
    calls: AtomicUsize,
    died: Notify,
}

enum Trouble {
    /// The process dies at this call: before it has an effect, or after.
    Death { at: usize, effect: bool },
    /// Each call takes a while, and some answers get lost, by a row of numbers that only looks random.
    Weather(u64),
}

/// What becomes of a call.
enum Fate {
    Done,
    Lost,
    Refused,
    DeadBefore,
    DeadAfter,
}

impl Troubled {
    fn new(inner: Arc<MemoryObjects>, trouble: Trouble) -> Arc<Self> {
        Arc::new(Self {
            inner,
            trouble: Mutex::new(trouble),
            calls: AtomicUsize::new(0),
            died: Notify::new(),
        })
    }

    async fn fate(&self) -> Fate {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed);
        let (rest, fate) = match &mut *self.trouble.lock() {
            Trouble::Death { at, .. } if nth < *at => (0, Fate::Done),
            Trouble::Death { at, effect } if nth == *at && *effect => (0, Fate::DeadAfter),
            Trouble::Death { .. } => (0, Fate::DeadBefore),
            Trouble::Weather(state) => {
                let number = random(state);
                let fate = match number % 20 {
                    0 => Fate::Lost,
                    1 => Fate::Refused,
                    _ => Fate::Done,
                };
                (number / 20 % 5, fate)
            }
        };
        for _ in 0..rest {
            yield_now().await;
        }
        if matches!(fate, Fate::DeadBefore) {
            self.died.notify_one();
            future::pending::<()>().await;
        }
        fate
    }

    async fn after<T>(
        &self,
        fate: Fate,
        outcome: Result<T, ObjectsError>,
    ) -> Result<T, ObjectsError> {
        match fate {
            Fate::Lost => Err(ObjectsError("the answer got lost".to_owned())),
            Fate::DeadAfter => {
                self.died.notify_one();
                future::pending().await
            }
            _ => outcome,
        }
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

macro_rules! pass_on {
    ($self:ident, $call:expr) => {{
        let fate = $self.fate().await;
        if matches!(fate, Fate::Refused) {
            return Err(ObjectsError("not now".to_owned()));
        }
        let outcome = $call.await;
        $self.after(fate, outcome).await
    }};
}

#[async_trait]
impl Objects for Troubled {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectsError> {
        pass_on!(self, self.inner.put(name, bytes))
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, ObjectsError> {
        pass_on!(self, self.inner.create(name, bytes))
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, ObjectsError> {
        pass_on!(self, self.inner.get(name))
    }

    async fn list(&self, folder: &str) -> Result<Vec<Object>, ObjectsError> {
        pass_on!(self, self.inner.list(folder))
    }

    async fn remove(&self, names: &[String]) -> Result<(), ObjectsError> {
        pass_on!(self, self.inner.remove(names))
    }

    fn address(&self, name: &str) -> String {
        self.inner.address(name)
    }
}

/// What all writers of a test share.
#[derive(Clone)]
struct World {
    inner: Arc<MemoryObjects>,
    format: Arc<Kept>,
    ids: Arc<Counting>,
    limits: Limits,
}

impl World {
    fn new(grace: Duration) -> Self {
        Self {
            inner: Arc::default(),
            format: Arc::default(),
            ids: Arc::default(),
            limits: Limits {
                merge_from: 3,
                merged_rows: 40,
                grace,
                ..Limits::default()
            },
        }
    }

    async fn writer(&self, objects: Arc<dyn Objects>) -> Result<PartitionWriter, ObjectsError> {
        let ports = Ports {
            objects,
            format: self.format.clone(),
            clock: Arc::new(Fixed),
            ids: self.ids.clone(),
        };
        PartitionWriter::open(ports, source(), self.limits).await
    }

    async fn state(&self) -> PartitionState {
        CommitLog::new(source()).load(&*self.inner).await.unwrap()
    }

    /// The positions in the files that count, with how often each is there.
    async fn positions(&self, state: &PartitionState) -> BTreeMap<u64, usize> {
        let mut found = BTreeMap::new();
        for file in state.files.values() {
            let bytes = self.inner.get(&file.name).await.unwrap();
            let bytes = bytes.unwrap_or_else(|| panic!("{} is gone", file.name));
            for row in self.format.decode(bytes).unwrap() {
                *found.entry(row.position).or_default() += 1;
            }
        }
        found
    }

    async fn assert_exact(&self, state: &PartitionState) {
        let upto = state.position();
        let wanted: BTreeMap<u64, usize> = (1..=upto)
            .filter(|it| is_ours(*it))
            .map(|it| (it, 1))
            .collect();
        assert_eq!(self.positions(state).await, wanted);
    }
}

fn source() -> Source {
    Source::partition("POST_TOPIC", 1)
}

/// Every other event of the log is of another partition.
fn is_ours(position: u64) -> bool {
    position.is_multiple_of(2)
}

fn row(position: u64) -> Row {
    Row {
        position,
        event_id: Uuid::from_u128(position.into()),
        event_type: ["post.liked", "post.created"][usize::from(position.is_multiple_of(6))]
            .to_owned(),
        version: 1,
        topic: "POST_TOPIC".to_owned(),
        partition: 1,
        offset: Some((position / 2).cast_signed()),
        key: String::new(),
        occurred_at: Some(Timestamp(NOW.0 + position.cast_signed() * 3_600_000)),
        actor_id: None,
        target_id: None,
        post_id: None,
        comment_id: None,
        payload: None,
    }
}

/// Takes the next rows of the topic after what the writer has.
fn read_on(writer: &mut PartitionWriter, count: u64, upto: u64) {
    let from = writer.position() + 1;
    for position in (from..=upto).filter(|it| is_ours(*it)).take(count as usize) {
        assert!(writer.push(row(position)));
        assert!(!writer.push(row(position)));
    }
}

/// Reads, writes, merges and sweeps until everything up to a position is committed.
async fn work(mut writer: PartitionWriter, upto: u64) -> Result<(), WriteError> {
    let stop = CancellationToken::new();
    while writer.state().position() < upto {
        read_on(&mut writer, 3, upto);
        writer.flush(&stop).await?;
        writer.compact(&stop).await?;
        writer.sweep(&stop).await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_it_dies_at_any_call() {
    let upto = 60;
    let mut deaths = 0;
    for effect in [false, true] {
        for at in 0.. {
            let world = World::new(Duration::ZERO);
            let dying = Troubled::new(world.inner.clone(), Trouble::Death { at, effect });
            let run = async {
                let writer = world.writer(dying.clone()).await.unwrap();
                work(writer, upto).await.unwrap();
            };
            let died = select! {
                () = run => false,
                () = dying.died.notified() => true,
            };
            world.assert_exact(&world.state().await).await;
            let writer = world.writer(world.inner.clone()).await.unwrap();
            work(writer, upto).await.unwrap();
            let state = world.state().await;
            assert_eq!(state.position(), upto);
            world.assert_exact(&state).await;
            // Nor does anything stay behind that no commit names.
            let mut writer = world.writer(world.inner.clone()).await.unwrap();
            writer.sweep(&CancellationToken::new()).await.unwrap();
            let listed = world.inner.list("events").await.unwrap();
            let files: Vec<String> = listed.into_iter().map(|object| object.name).collect();
            assert_eq!(
                files,
                writer.state().files.keys().cloned().collect::<Vec<_>>()
            );
            if !died {
                break;
            }
            deaths += 1;
        }
    }
    assert!(deaths > 100, "{deaths}");
}

/// One of several writers that all believe the partition is theirs.
async fn rival(world: World, mut seed: u64, upto: u64) {
    let stop = CancellationToken::new();
    let objects = Troubled::new(world.inner.clone(), Trouble::Weather(seed));
    let mut writer = open(&world, &objects).await;
    while writer.state().position() < upto {
        match random(&mut seed) % 8 {
            0..=3 => read_on(&mut writer, 1 + random(&mut seed) % 4, upto),
            4 | 5 => drop(writer.flush(&stop).await.unwrap()),
            // A store that does not answer is no reason for anything to be wrong.
            6 => drop(writer.compact(&stop).await),
            _ if random(&mut seed).is_multiple_of(4) => writer = open(&world, &objects).await,
            _ => {
                drop(writer.take_unmerged());
                drop(writer.sweep(&stop).await);
            }
        }
        yield_now().await;
    }
}

async fn open(world: &World, objects: &Arc<Troubled>) -> PartitionWriter {
    loop {
        if let Ok(writer) = world.writer(objects.clone()).await {
            return writer;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_who_write_the_same_partition_write_each_event_once() {
    let upto = 1000;
    for seed in 1..12 {
        let world = World::new(Duration::ZERO);
        let rivals = (0..3).map(|nth| rival(world.clone(), seed * 100 + nth, upto));
        futures::future::join_all(rivals).await;
        let state = world.state().await;
        assert_eq!(state.position(), upto, "seed {seed}");
        world.assert_exact(&state).await;
        assert!(
            state.number > 2 * STATE_EVERY,
            "commits were forgotten, too"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_meanwhile_sees_a_beginning_of_the_truth_and_never_misses_a_file() {
    let upto = 400;
    for seed in 1..10 {
        let world = World::new(Duration::from_secs(3600));
        let done = CancellationToken::new();
        let reader = async {
            let (mut looks, mut last) = (0, 0);
            while !done.is_cancelled() {
                let state = world.state().await;
                assert!(state.position() >= last);
                last = state.position();
                sleep(LOOK).await;
                world.assert_exact(&state).await;
                looks += 1;
                sleep(LOOK).await;
            }
            assert!(looks > 100, "{looks}");
        };
        let rivals = (0..2).map(|nth| rival(world.clone(), seed * 100 + nth, upto));
        let writers = async {
            futures::future::join_all(rivals).await;
            done.cancel();
        };
        tokio::join!(reader, writers);
    }
}

#[tokio::test]
async fn a_writer_that_slept_through_everything_finds_out() {
    let world = World::new(Duration::ZERO);
    let stop = CancellationToken::new();
    let mut sleeper = world.writer(world.inner.clone()).await.unwrap();
    read_on(&mut sleeper, 2, 1000);
    sleeper.flush(&stop).await.unwrap();
    read_on(&mut sleeper, 5, 1000);
    // Others write so much that the commit after the sleeper's last is deleted.
    let mut other = world.writer(world.inner.clone()).await.unwrap();
    while other.state().number < 3 * STATE_EVERY {
        read_on(&mut other, 1, 1000);
        other.flush(&stop).await.unwrap();
    }
    assert!(
        !world
            .inner
            .names()
            .iter()
            .any(|name| name.ends_with("00002.json"))
    );
    sleeper.flush(&stop).await.unwrap();
    assert_eq!(sleeper.position(), other.position());
    read_on(&mut sleeper, 3, 1000);
    sleeper.flush(&stop).await.unwrap();
    let state = world.state().await;
    assert_eq!(state.position(), other.position() + 6);
    world.assert_exact(&state).await;
}

fn files_of(writer: &PartitionWriter, event_type: &str) -> Vec<String> {
    let files = writer.state().files.values();
    files
        .filter(|file| file.event_type == event_type)
        .map(|file| file.name.clone())
        .collect()
}

#[tokio::test]
async fn a_file_that_is_gone_keeps_nothing_else_from_being_merged_and_swept() {
    let world = World::new(Duration::ZERO);
    let stop = CancellationToken::new();
    let mut writer = world.writer(world.inner.clone()).await.unwrap();
    // All of one day: each time two likes and a post.
    for _ in 0..4 {
        read_on(&mut writer, 3, 24);
        writer.flush(&stop).await.unwrap();
    }
    let gone = files_of(&writer, "post.created").remove(0);
    let bytes = world.inner.get(&gone).await.unwrap().unwrap();
    let only = std::slice::from_ref(&gone);
    world.inner.remove(only).await.unwrap();

    while writer.compact(&stop).await.unwrap() {}
    let counts = ["post.created", "post.liked"].map(|of| files_of(&writer, of).len());
    assert_eq!(counts, [4, 1]);
    assert_eq!(writer.sweep(&stop).await.unwrap(), 4);
    let unmerged = writer.take_unmerged();
    assert_eq!(unmerged.len(), 1, "{unmerged:?}");
    let (folder, error) = unmerged.first_key_value().unwrap();
    assert!(gone.starts_with(folder), "{folder}");
    assert!(error.to_string().contains(&gone), "{error}");

    world.inner.put(&gone, bytes).await.unwrap();
    while writer.compact(&stop).await.unwrap() {}
    assert_eq!(files_of(&writer, "post.created").len(), 1);
    assert!(writer.take_unmerged().is_empty());
    world.assert_exact(&world.state().await).await;
}

#[tokio::test]
async fn a_file_in_hand_that_is_swept_is_not_added() {
    let world = World::new(Duration::ZERO);
    let stop = CancellationToken::new();
    let log = CommitLog::new(source());
    let mut state = PartitionState::default();
    let mut swept = state.clone();
    let sweep = Commit {
        id: Uuid::from_u128(1),
        swept: vec!["events/a".to_owned()],
        ..Commit::default()
    };
    log.commit(&*world.inner, &mut swept, sweep, &stop)
        .await
        .unwrap();
    let add: Commit = serde_json::from_value(serde_json::json!({
        "id": Uuid::from_u128(2), "at": 1,
        "added": [{"name": "events/a", "date": "2026-01-01", "type": "a", "rows": 1, "bytes": 1, "first": 1, "last": 1}],
    }))
    .unwrap();
    let outcome = log.commit(&*world.inner, &mut state, add, &stop).await;
    assert!(
        matches!(outcome, Err(WriteError::Conflict(_))),
        "{outcome:?}"
    );
    assert!(world.state().await.files.is_empty());
}

/// Makes commits, each so many milliseconds after [`NOW`].
async fn commit_all(world: &World, commits: impl IntoIterator<Item = (i64, Commit)>) {
    let log = CommitLog::new(source());
    let mut state = world.state().await;
    for (at, commit) in commits {
        let commit = Commit {
            id: world.ids.next_id(),
            at: Timestamp(NOW.0 + at),
            ..commit
        };
        log.commit(&*world.inner, &mut state, commit, &CancellationToken::new())
            .await
            .unwrap();
    }
}

/// A commit of so many new rows, or one that merges as many.
fn of_rows(rows: u64, new: bool) -> Commit {
    let reached = serde_json::json!({"position": 1, "eventId": Uuid::nil(), "nextOffset": 1});
    let commit = serde_json::json!({
        "id": Uuid::nil(), "at": 0, "reached": new.then_some(reached),
        "added": [{"name": "events/a", "date": "2026-01-01", "type": "a", "rows": rows, "bytes": 1, "first": 1, "last": 1}],
    });
    serde_json::from_value(commit).unwrap()
}

#[tokio::test]
async fn rows_are_counted_since_a_moment_and_merged_ones_not_again() {
    let world = World::new(Duration::ZERO);
    let since = Timestamp(NOW.0 + 10);
    let written = async || {
        let written = CommitLog::new(source()).written(&*world.inner, since).await;
        let written = written.unwrap();
        (written.rows, written.since.0 - NOW.0)
    };
    assert_eq!(written().await, (0, 10));
    commit_all(&world, [(9, of_rows(5, true))]).await;
    assert_eq!(written().await, (0, 10));
    let more = [(10, true), (11, false), (12, true)];
    commit_all(&world, more.map(|(at, new)| (at, of_rows(7, new)))).await;
    assert_eq!(written().await, (14, 10));
}

#[tokio::test]
async fn of_many_commits_the_last_count_and_the_time_they_took() {
    let world = World::new(Duration::ZERO);
    let every = STATE_EVERY.cast_signed();
    // After each number, also when the ones before have just been deleted.
    for last in every + 1..5 * every {
        commit_all(&world, [(last, of_rows(3, true))]).await;
        let log = CommitLog::new(source());
        let written = log.written(&*world.inner, NOW).await.unwrap();
        let (counted, since) = match last - every {
            all if all <= every + 1 => (all, 0),
            // The one before them tells since when.
            _ => (every, last - every),
        };
        assert_eq!(
            (written.rows, written.since.0 - NOW.0),
            (3 * counted.cast_unsigned(), since),
            "{last}"
        );
    }
}
